// tui/sweep.c - plans priced point by point; crossings by interpolation between two of them.
#include "tui/sweep.h"

#include <math.h>
#include <string.h>

#include "tui/forecast.h"

enum { FIRST_CONTEXT = 1 << 8, FIRST_BATCH = 1, BATCH_POINTS = 17, MOST_BATCH = 256 };

static double rate_at(const struct device *device, const struct plan *plan, int32_t context, int32_t batch)
{
    struct work work[MOST_BATCH];
    struct step_prediction step;
    for (int32_t i = 0; i < batch; i++) {
        work[i] = (struct work){.context_tokens = context, .new_tokens = 1, .logit_rows = 1};
    }
    return predict_step(&step, device, plan, work, batch) == 0 && step.seconds > 0 ? batch / step.seconds : NAN;
}

// Which methods these are: one may take another's place.
static int64_t sources_of(const struct state *state)
{
    uint64_t hash = 0xcbf29ce484222325u;    // FNV-1a
    for (int32_t i = 0; i < state_method_count(state); i++) {
        struct method_summary told;
        state_method(state, i, &told);
        const struct sample_source *source = &told.source;
        const int32_t knobs[] = {source->top_k, source->unit_tokens, source->index_sets, source->window_tokens,
                                 source->page_tokens, source->n_layers, (int32_t)source->weight_dtype,
                                 (int32_t)source->kv_dtype, (int32_t)source->index_dtype};
        for (const char *name = source->method; *name; name++) {
            hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
        }
        for (const char *name = source->model; *name; name++) {
            hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
        }
        for (size_t k = 0; k < sizeof knobs / sizeof knobs[0]; k++) {
            hash = (hash ^ (uint32_t)knobs[k]) * 0x100000001b3u;
        }
    }
    return (int64_t)hash;
}

static void make_curve(struct sweep *sweep, const struct state *state, int32_t method)
{
    struct method_summary told;
    struct plan plan;
    state_method(state, method, &told);
    bool known = forecast_plan(&plan, &told.source) == 0;
    for (int32_t i = 0; i < sweep->n_points; i++) {
        int32_t x = (int32_t)sweep->x[i];
        sweep->tokens_per_s[method][i] = !known ? NAN
                                         : sweep->over == SWEEP_CONTEXT
                                             ? rate_at(state_device(state), &plan, x, sweep->fixed)
                                             : rate_at(state_device(state), &plan, sweep->fixed, x);
    }
}

static void add_crossing(struct sweep *sweep, const struct sweep_crossing *crossing)
{
    int32_t at = sweep->n_crossings;
    if (at == SWEEP_CROSSINGS) {
        return;    // more would not be told apart
    }
    for (; at > 0 && sweep->crossings[at - 1].x > crossing->x; at--) {
        sweep->crossings[at] = sweep->crossings[at - 1];
    }
    sweep->crossings[at] = *crossing;
    sweep->n_crossings++;
}

// Where two curves swap places between neighbouring points, by straight lines between the logarithms.
static void find_crossings(struct sweep *sweep, int32_t a, int32_t b)
{
    for (int32_t i = 1; i < sweep->n_points; i++) {
        double left = log(sweep->tokens_per_s[a][i - 1] / sweep->tokens_per_s[b][i - 1]);
        double right = log(sweep->tokens_per_s[a][i] / sweep->tokens_per_s[b][i]);
        if ((left < 0 && right > 0) || (left > 0 && right < 0)) {
            double part = left / (left - right);
            add_crossing(sweep, &(struct sweep_crossing){
                .faster = right > 0 ? a : b, .slower = right > 0 ? b : a,
                .x = sweep->x[i - 1] * pow(sweep->x[i] / sweep->x[i - 1], part),
                .tokens_per_s = sweep->tokens_per_s[a][i - 1] *
                                pow(sweep->tokens_per_s[a][i] / sweep->tokens_per_s[a][i - 1], part)});
        }
    }
}

bool sweep_update(struct sweep *sweep, const struct state *state, enum sweep_over over, int32_t method)
{
    struct phase_summary decode;
    const struct device *device = state_device(state);
    int32_t n = state_method_count(state);
    if (!device || method < 0 || over == SWEEP_NONE) {
        return false;
    }
    bool measured = state_phase(state, method, PHASE_DECODE, &decode);
    int32_t batch = measured && decode.n_seqs > 0 ? decode.n_seqs : 1;
    int32_t context = measured ? decode.context_tokens : 4096;
    // A context that grows with each step does not ask for new curves with each step.
    int32_t fixed = over == SWEEP_CONTEXT ? batch : (context + 1023) / 1024 * 1024;
    fixed = fixed < 1 ? 1 : over == SWEEP_CONTEXT && fixed > MOST_BATCH ? MOST_BATCH : fixed;
    int64_t key[5] = {over, fixed, n, 0, sources_of(state)};
    memcpy(&key[3], &device->bytes_per_s.value, sizeof key[3]);
    if (memcmp(key, sweep->made_for, sizeof key) == 0) {
        return true;
    }
    *sweep = (struct sweep){.over = over, .fixed = fixed, .n_methods = n,
                            .n_points = over == SWEEP_CONTEXT ? SWEEP_POINTS : BATCH_POINTS};
    memcpy(sweep->made_for, key, sizeof key);
    for (int32_t i = 0; i < sweep->n_points; i++) {
        sweep->x[i] = floor((over == SWEEP_CONTEXT ? FIRST_CONTEXT : FIRST_BATCH) * pow(2, i / 2.0));
    }
    for (int32_t i = 0; i < n; i++) {
        make_curve(sweep, state, i);
    }
    for (int32_t a = 0; a < n; a++) {
        for (int32_t b = a + 1; b < n; b++) {
            find_crossings(sweep, a, b);
        }
    }
    return true;
}
