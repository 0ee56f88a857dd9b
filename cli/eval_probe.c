// cli/eval_probe.c - the selections of one row: against dense attention, the byte before, and each other.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/eval.h"
#include "engine/selection_metrics.h"
#include "engine/status.h"

struct eval_probe {
    int32_t n_lists;    // indexers times sets, in the order of layers
    int32_t budget_units;
    int32_t *count;    // [n_lists]
    int32_t *units;    // [n_lists][budget_units]
};

void eval_probe_free(struct eval_probe *probe)
{
    if (probe) {
        free(probe->count);
        free(probe->units);
        free(probe);
    }
}

static void add(struct eval_mean *mean, double value)
{
    if (!isnan(value)) {
        mean->sum += value;
        mean->n++;
    }
}

double eval_mean(const struct eval_mean *mean)
{
    return mean->n > 0 ? mean->sum / (double)mean->n : NAN;
}

static int32_t count_lists(const struct plan *plan)
{
    int32_t n = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        n += plan_runs_indexer(plan, layer) ? plan->index.sets : 0;
    }
    return n;
}

// The row's selections, copied: what the engine hands out lives until the next question.
static struct eval_probe *take_lists(const struct engine *engine, int32_t row)
{
    const struct plan *plan = engine_plan(engine);
    struct eval_probe *probe = calloc(1, sizeof *probe);
    if (!probe) {
        return NULL;
    }
    probe->n_lists = count_lists(plan);
    probe->budget_units = plan_budget_units(plan);
    probe->count = calloc((size_t)probe->n_lists, sizeof *probe->count);
    probe->units = calloc((size_t)probe->n_lists * (size_t)probe->budget_units, sizeof *probe->units);
    if (!probe->count || !probe->units) {
        eval_probe_free(probe);
        return NULL;
    }
    int32_t list = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        for (int32_t set = 0; plan_runs_indexer(plan, layer) && set < plan->index.sets; set++, list++) {
            const int32_t *units;
            probe->count[list] = engine_selection(engine, layer, row, set, &units);
            memcpy(probe->units + (int64_t)list * probe->budget_units, units ? units : probe->units,
                   (size_t)probe->count[list] * sizeof *units);
        }
    }
    return probe;
}

static const int32_t *units_of(const struct eval_probe *probe, int32_t list)
{
    return probe->units + (int64_t)list * probe->budget_units;
}

// One set's selection against the tokens that dense attention would have chosen.
static int compare_exact(struct eval_routing *out, const struct engine *engine, const struct eval_probe *now,
                         int32_t list, int32_t layer, int32_t row, int32_t set, float *mass, int32_t *tokens,
                         int32_t *exact)
{
    int32_t n_tokens, unit_tokens = engine_plan(engine)->index.unit_tokens;
    int error = engine_dense_mass(engine, layer, row, set, mass, &n_tokens);
    if (error) {
        return error;
    }
    int32_t n = selection_tokens(tokens, units_of(now, list), now->count[list], unit_tokens, n_tokens);
    int32_t n_exact = selection_exact(exact, mass, n_tokens, n);
    if (n_exact < 0) {
        return n_exact;
    }
    add(&out->iou, selection_iou(tokens, n, exact, n_exact));
    add(&out->exact_coverage, selection_mass(mass, exact, n_exact));
    return 0;
}

static int compare_all_exact(struct eval_routing *out, const struct engine *engine, const struct eval_probe *now,
                             int32_t row, int32_t context_tokens)
{
    const struct plan *plan = engine_plan(engine);
    float *mass = malloc((size_t)context_tokens * sizeof *mass);
    int32_t *tokens = malloc(2 * (size_t)plan->index.budget_tokens * sizeof *tokens), list = 0;
    int error =
        mass && tokens ? 0 : status_fail(-ENOMEM, "no memory to compare selections of %d tokens", context_tokens);
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        for (int32_t set = 0; plan_runs_indexer(plan, layer) && set < plan->index.sets; set++, list++) {
            error = error ? error
                          : compare_exact(out, engine, now, list, layer, row, set, mass, tokens,
                                          tokens + plan->index.budget_tokens);
        }
    }
    free(mass);
    free(tokens);
    return error;
}

int eval_probe_row(struct eval_routing *out, struct eval_probe **before, struct engine *engine, int32_t row,
                   int32_t context_tokens, bool first_byte)
{
    const struct plan *plan = engine_plan(engine);
    struct eval_probe *now = take_lists(engine, row);
    if (!now) {
        return status_fail(-ENOMEM, "no memory for the selections of a row");
    }
    for (int32_t list = 0; list < now->n_lists && !first_byte && *before; list++) {
        add(&out->same_as_before,
            selection_share(units_of(now, list), now->count[list], units_of(*before, list), (*before)->count[list]));
    }
    for (int32_t list = plan->index.sets; list < now->n_lists && first_byte; list++) {
        int32_t lowest = list % plan->index.sets;
        add(&out->same_as_first,
            selection_share(units_of(now, list), now->count[list], units_of(now, lowest), now->count[lowest]));
    }
    for (int32_t layer = 0; layer < plan->shape.n_layers && first_byte; layer++) {
        add(&out->coverage, engine_coverage(engine, layer, row));
    }
    int error = first_byte ? compare_all_exact(out, engine, now, row, context_tokens) : 0;
    eval_probe_free(*before);
    *before = now;
    return error;
}
