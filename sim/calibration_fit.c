// sim/calibration_fit.c - collects samples for a calibration.
//
// Samples of one stage of one layer in one step are put together (a stage may run in tiles or in parts), and wait for
// their step, whose bytes are the working set that the roofline's bandwidth is for. What cannot be used is counted.
#include "sim/calibration_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/plan.h"
#include "engine/status.h"

enum { MAX_TRACES = 4096 };

// The array with room for element n, grown by doubling; NULL where memory is out, the old one then still stands.
static void *reserve(void *array, int64_t n, int64_t *capacity, size_t bytes)
{
    if (n < *capacity) {
        return array;
    }
    int64_t grown_capacity = *capacity ? 2 * *capacity : 1024;
    void *grown = realloc(array, (size_t)grown_capacity * bytes);
    if (grown) {
        *capacity = grown_capacity;
    }
    return grown;
}

int calibration_fit_open(struct calibration_fit **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : status_fail(-ENOMEM, "no memory for a calibration");
}

void calibration_fit_close(struct calibration_fit *fit)
{
    if (fit) {
        free(fit->traces);
        free(fit->profiles);
        free(fit->sources);
        free(fit->samples);
        free(fit->steps);
        free(fit);
    }
}

// Forgets what waits for a step that will not end.
static void drop_pending(struct calibration_fit *fit)
{
    fit->dropped += fit->n_pending;
    fit->n_pending = 0;
    fit->pending_stage_ns = 0;
    fit->pending_stages = 0;
    memset(fit->slots, 0, sizeof fit->slots);
}

void calibration_fit_by(struct calibration_fit *fit, enum calibration_by by)
{
    fit->by = by;
}

void calibration_fit_newer(struct calibration_fit *fit, calibration_renews *renews)
{
    fit->renews = renews;
}

int calibration_fit_trace(struct calibration_fit *fit, const char *name)
{
    if (fit->n_traces == MAX_TRACES || strlen(name) >= CALIBRATION_TEXT_BYTES) {
        return status_fail(-EINVAL, "%.64s: expected at most %d traces, with paths shorter than %d bytes", name,
                           MAX_TRACES, CALIBRATION_TEXT_BYTES);
    }
    char(*grown)[CALIBRATION_TEXT_BYTES] = realloc(fit->traces, ((size_t)fit->n_traces + 1) * sizeof *grown);
    if (!grown) {
        return status_fail(-ENOMEM, "no memory for the names of traces");
    }
    fit->traces = grown;
    strcpy(grown[fit->n_traces++], name);
    fit->n_sources = 0;    // their numbers are unique within one trace only
    drop_pending(fit);
    return 0;
}

// Adds "bench-100m clsa" to a profile's models if it is not there; what does not fit is left out whole.
static void note_model(struct fit_profile *profile, const struct sample_source *source)
{
    char entry[2 * SOURCE_NAME_BYTES + 2];
    size_t length = strlen(profile->models);
    int n = snprintf(entry, sizeof entry, "%s %s", source->model, source->method);
    for (const char *at = profile->models; (at = strstr(at, entry)) != NULL; at++) {
        bool begins = at == profile->models || at[-1] == ' ';
        if (begins && (at[n] == 0 || at[n] == ',')) {
            return;
        }
    }
    if (length + (size_t)n + 3 <= sizeof profile->models) {
        snprintf(profile->models + length, sizeof profile->models - length, "%s%s", length ? ", " : "", entry);
    }
}

// A GPU is the same device however many threads its host has.
static bool same_device(const struct sample_source *a, const struct sample_source *b)
{
    return strcmp(a->device, b->device) == 0 && strcmp(a->backend, b->backend) == 0 &&
           (a->threads == b->threads || (a->graph && b->graph));
}

static int32_t profile_of(struct calibration_fit *fit, const struct sample_source *source)
{
    int32_t p = 0;
    while (p < fit->n_profiles && !same_device(&fit->profiles[p].source, source)) {
        p++;
    }
    if (p == fit->n_profiles) {
        struct fit_profile *grown =
            p < CALIBRATION_MAX_PROFILES ? realloc(fit->profiles, ((size_t)p + 1) * sizeof *grown) : NULL;
        if (!grown) {
            fit->error = p < CALIBRATION_MAX_PROFILES ? -ENOMEM : -EINVAL;
            return -1;
        }
        fit->profiles = grown;
        grown[fit->n_profiles++] = (struct fit_profile){.source = *source};
    }
    note_model(&fit->profiles[p], source);
    return p;
}

static struct fit_source *find_source(struct calibration_fit *fit, int32_t id)
{
    for (int32_t i = fit->n_sources - 1; i >= 0; i--) {
        if (fit->sources[i].source.id == id) {
            return &fit->sources[i];
        }
    }
    return NULL;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct calibration_fit *fit = user;
    int32_t profile = profile_of(fit, source);
    struct fit_source *place = find_source(fit, source->id);
    if (profile < 0) {
        return;
    }
    if (!place) {
        struct fit_source *grown = realloc(fit->sources, ((size_t)fit->n_sources + 1) * sizeof *grown);
        if (!grown) {
            fit->error = -ENOMEM;
            return;
        }
        fit->sources = grown;
        place = &grown[fit->n_sources++];
    }
    *place = (struct fit_source){*source, profile, fit->sources_seen++, INT64_MIN, {0, 0}};
}

// No sum over a step comes near an overflow: a trace may hold anything.
static const int64_t MAX_SUM = INT64_C(1) << 60;

static bool usable(const struct stage_sample *sample)
{
    return sample->layer >= -1 && sample->layer < PLAN_MAX_LAYERS && sample->n_tokens > 0 &&
           sample->n_tokens < 1 << 29 && sample->n_seqs > 0 && sample->bytes >= 0 && sample->flops >= 0 &&
           sample->duration_ns >= 0 && sample->bytes < MAX_SUM && sample->flops < MAX_SUM &&
           sample->duration_ns < MAX_SUM;
}

static bool full(const struct fit_sample *sum)
{
    return sum->bytes >= MAX_SUM || sum->flops >= MAX_SUM || sum->duration_ns >= MAX_SUM || sum->rows >= 1 << 29;
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct calibration_fit *fit = user;
    const struct fit_source *from = find_source(fit, sample->source);
    if (fit->error || sample->stage == STAGE_HOST) {
        return;    // what is not in stages is a step's overhead
    }
    if (fit->n_pending > 0 && (sample->source != fit->pending_source || sample->step != fit->pending_step)) {
        drop_pending(fit);
    }
    if (!from || !usable(sample) || fit->pending_stage_ns >= MAX_SUM) {
        fit->dropped++;
        return;
    }
    struct fit_sample *samples =
        reserve(fit->samples, fit->n_samples + fit->n_pending, &fit->capacity, sizeof *samples);
    if (!samples) {
        fit->error = -ENOMEM;
        return;
    }
    fit->samples = samples;
    fit->pending_source = sample->source;
    fit->pending_step = sample->step;
    fit->pending_stage_ns += sample->duration_ns;
    fit->pending_stages++;
    int64_t *slot = &fit->slots[sample->stage][sample->layer + 1];
    if (*slot == 0) {
        const struct sample_source *source = &from->source;
        *slot = ++fit->n_pending;
        fit->samples[fit->n_samples + *slot - 1] = (struct fit_sample){
            .profile = from->profile, .source = from->number, .layer = sample->layer, .stage = sample->stage,
            .phase = PHASE_DECODE, .unit_tokens = calibration_depends_on_unit(sample->stage) ? source->unit_tokens : 0,
            .lightning = source->index_dtype == DTYPE_FP8,
            .dtype = calibration_dtype(sample->stage, source->weight_dtype, source->kv_dtype, source->index_dtype),
        };
    }
    struct fit_sample *sum = &fit->samples[fit->n_samples + *slot - 1];
    if (full(sum)) {
        fit->dropped++;
        return;
    }
    // Tiles share out the rows; parts run over the same ones, or over fewer.
    bool tiles = sample->stage == STAGE_INDEX_SCORE || sample->stage == STAGE_INDEX_SELECT;
    sum->rows = tiles ? sum->rows + sample->n_tokens : sum->rows > sample->n_tokens ? sum->rows : sample->n_tokens;
    sum->phase = sample->n_tokens > sample->n_seqs ? PHASE_PREFILL : sum->phase;
    // Of several sequences the longest context is told: they count as equal.
    double rows = sample->n_tokens, seen = sample->context_tokens - 0.5 * (rows / sample->n_seqs - 1);
    sum->row_tokens += rows;
    sum->seen_tokens += rows * (seen > 1 ? seen : 1);
    sum->parts++;
    sum->taking = sample->context_tokens <= from->source.top_k && (sum->taking || sum->parts == 1);
    sum->bytes += sample->bytes;
    sum->flops += sample->flops;
    sum->duration_ns += sample->duration_ns;
}

// Where layers of one step attend with more work than others, those with more attend in full, whatever the others
// select.
static void find_full(struct fit_sample *pending, int64_t n)
{
    int64_t least = INT64_MAX;
    for (int64_t i = 0; i < n; i++) {
        least = pending[i].stage == STAGE_ATTENTION && pending[i].flops < least ? pending[i].flops : least;
    }
    for (int64_t i = 0; i < n; i++) {
        bool full = pending[i].stage == STAGE_ATTENTION && pending[i].flops > least;
        pending[i].unit_tokens = full ? 0 : pending[i].unit_tokens;
    }
}

static bool any_layer(const int64_t slots[PLAN_MAX_LAYERS + 1])
{
    bool any = false;
    for (int32_t i = 0; i <= PLAN_MAX_LAYERS; i++) {
        any = any || slots[i] != 0;
    }
    return any;
}

// windows, scores: whether any layer of its step has them; cool: whether the step is.
static enum calibration_layer kind_of(const struct calibration_fit *fit, const struct fit_sample *sample, bool windows,
                                      bool scores, bool cool)
{
    bool prompts = sample->phase == PHASE_PREFILL;
    int32_t layer = sample->layer + 1;
    bool keys = fit->slots[STAGE_INDEX_PROJECT][layer] != 0;
    struct calibration_beside beside = {.window = fit->slots[STAGE_WINDOW_ATTENTION][layer] != 0,
                                        .keys = keys,
                                        .bounds = !keys && fit->slots[STAGE_INDEX_SCORE][layer] != 0,
                                        .taking = sample->taking,
                                        .whole = prompts && sample->unit_tokens == 0,
                                        .lightning = prompts && sample->unit_tokens > 0 && sample->lightning,
                                        .cool = prompts && cool,
                                        .windows = windows,
                                        .indexers = scores};
    return calibration_layer_of(sample->stage, &beside);
}

// What a step that is replayed takes longer than its stages is told by steps that tell none, later: the place for it.
// Beside windows few layers select, and what they wait is less than what steps differ by.
static void add_waiting(struct calibration_fit *fit, const struct step_sample *step, int32_t bin)
{
    int64_t n = fit->n_samples + fit->n_pending;
    struct fit_sample *samples = reserve(fit->samples, n, &fit->capacity, sizeof *samples);
    if (!samples) {
        fit->error = -ENOMEM;
        return;
    }
    fit->samples = samples;
    struct fit_sample sum = {.parts = 0}, *pending = samples + fit->n_samples;
    for (int64_t i = 0; i < fit->n_pending; i++) {
        if (pending[i].stage == STAGE_INDEX_SELECT && pending[i].bytes > 0) {
            int32_t parts = sum.parts + 1;
            int64_t bytes = sum.bytes + pending[i].bytes, flops = sum.flops + pending[i].flops;
            sum = pending[i];
            sum.parts = parts;
            sum.bytes = bytes;
            sum.flops = flops;
        }
    }
    if (sum.parts > 0) {
        sum.stage = STAGE_HOST;
        sum.rows = step->n_seqs;
        sum.bytes /= sum.parts;
        sum.flops /= sum.parts;
        sum.duration_ns = 0;
        sum.bin = bin;
        sum.marked = false;
        samples[n] = sum;
        fit->n_pending++;
    }
}

// The samples of a step that has ended are complete: its bytes are the working set.
static void complete(struct calibration_fit *fit, const struct step_sample *step, bool graph, enum phase phase,
                     bool cool)
{
    struct fit_step *whole = &fit->steps[fit->n_steps - 1];
    struct fit_sample *pending = fit->samples + fit->n_samples;
    int64_t step_bytes = 0, kept = 0, sums = 0;
    bool windows = any_layer(fit->slots[STAGE_WINDOW_ATTENTION]), scores = any_layer(fit->slots[STAGE_INDEX_SCORE]);
    find_full(pending, fit->n_pending);
    for (int64_t i = 0; i < fit->n_pending; i++) {
        step_bytes = pending[i].bytes > INT64_MAX - step_bytes ? INT64_MAX : step_bytes + pending[i].bytes;
    }
    whole->bytes = step_bytes;
    if (graph && phase == PHASE_DECODE && !windows) {
        add_waiting(fit, step, whole->bin);
        pending = fit->samples + fit->n_samples;
    }
    for (int64_t i = 0; i < fit->n_pending; i++) {
        pending[i].step_bytes = step_bytes;
        pending[i].step = fit->n_steps - 1;
        pending[i].marked = graph && pending[i].stage != STAGE_HOST;
        pending[i].kind = kind_of(fit, &pending[i], windows, scores, cool);
        pending[i].step_phase = phase;
        // Few rows take longer in a step with prompts: those have filled the caches, and where steps that decode are
        // replayed they run kernel by kernel.
        pending[i].phase = phase != PHASE_DECODE && pending[i].phase == PHASE_DECODE ? PHASE_MIXED : pending[i].phase;
        bool by_context = calibration_by_context(pending[i].stage, pending[i].phase, pending[i].unit_tokens);
        if (by_context) {
            pending[i].rows = (int32_t)(pending[i].seen_tokens / pending[i].row_tokens);
        }
        // Attention of a step that mixes them is two kernels: one sum says nothing of either. Nor does it tell what
        // rows saw.
        bool sum = step->phase == PHASE_MIXED && pending[i].phase == PHASE_PREFILL &&
                   (by_context || pending[i].stage == STAGE_WINDOW_ATTENTION || pending[i].stage == STAGE_ATTENTION);
        bool waiting = pending[i].stage == STAGE_HOST;
        pending[i].newer = fit->renews != NULL;
        sum = sum || (fit->renews && !fit->renews(pending[i].stage, pending[i].phase, pending[i].unit_tokens));
        if ((pending[i].duration_ns > 0 || waiting) && pending[i].bytes > 0 && !sum) {
            pending[kept++] = pending[i];
        }
        sums += sum;
    }
    fit->dropped += fit->n_pending - kept - sums;
    fit->n_samples += kept;
    fit->n_pending = 0;
    drop_pending(fit);
}

// How long before a step the last one with prompts of its source ended, also if that was of no other use. Clocks of a
// damaged trace may do anything. *cool: whether prompts had not heated it yet.
static int64_t since_prompts(struct fit_source *from, const struct step_sample *step, bool *cool)
{
    bool sane = step->begin_ns >= 0 && step->begin_ns < MAX_SUM && step->duration_ns >= 0 &&
                step->duration_ns < MAX_SUM;
    int64_t since_ns = sane && from->prompt_end_ns >= 0 ? step->begin_ns - from->prompt_end_ns : -1;
    struct calibration_profile warm = {.warm_s = from->source.graph ? CALIBRATION_WARM_S : 0};
    double begin_s = sane ? 1e-9 * (double)step->begin_ns : 0;
    *cool = calibration_cool(&warm, calibration_heat_at(&from->heat, begin_s), step->n_tokens);
    if (step->phase != PHASE_DECODE) {
        calibration_heat_step(&from->heat, begin_s, sane ? 1e-9 * (double)step->duration_ns : 0, step->n_tokens);
        from->prompt_end_ns = sane ? step->begin_ns + step->duration_ns : INT64_MIN;
    }
    return since_ns >= 0 ? since_ns : -1;
}

static void on_step(void *user, const struct step_sample *step)
{
    struct calibration_fit *fit = user;
    struct fit_source *from = find_source(fit, step->source);
    bool mine = fit->n_pending > 0 && step->source == fit->pending_source && step->step == fit->pending_step;
    // A GPU's steps may tell no stages, and then run without marks. On other devices such a step has lost them.
    bool whole = fit->n_pending == 0 && from && from->source.graph;
    enum phase phase = step->phase == PHASE_DECODE ? PHASE_DECODE : PHASE_PREFILL;
    if (fit->error) {
        return;
    }
    bool cool = false;
    int64_t since_ns = from ? since_prompts(from, step, &cool) : -1;
    if (!from || (!mine && !whole) || step->duration_ns < 0 || step->duration_ns >= MAX_SUM) {
        fit->dropped++;
        drop_pending(fit);
        return;
    }
    struct fit_step *steps = reserve(fit->steps, fit->n_steps, &fit->step_capacity, sizeof *steps);
    if (!steps) {
        fit->error = -ENOMEM;
        return;
    }
    fit->steps = steps;
    int32_t context = step->context_tokens > 0 ? step->context_tokens : 1;
    fit->steps[fit->n_steps++] = (struct fit_step){
        .profile = from->profile, .source = from->number, .graph = from->source.graph,
        .phase = phase, .n_seqs = step->n_seqs, .n_tokens = step->n_tokens, .bin = (int32_t)floor(8 * log2(context)),
        .duration_ns = step->duration_ns, .stages_ns = fit->pending_stage_ns, .n_stages = fit->pending_stages,
        .since_ns = since_ns, .newer = fit->renews != NULL,
    };
    complete(fit, step, from->source.graph, phase, cool);
}

struct sample_sink calibration_fit_sink(struct calibration_fit *fit)
{
    return (struct sample_sink){.user = fit, .source = on_source, .stage = on_stage, .step = on_step};
}

int32_t calibration_fit_profiles(const struct calibration_fit *fit)
{
    return fit->n_profiles;
}

const struct sample_source *calibration_fit_source(const struct calibration_fit *fit, int32_t profile)
{
    return &fit->profiles[profile].source;
}

int64_t calibration_fit_dropped(const struct calibration_fit *fit)
{
    return fit->dropped + fit->n_pending;
}
