// traces/summary.c - statistics per source, phase and stage.
#include "traces/summary.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"

// Durations of one row; sorted when rows are made, as nothing depends on their order.
struct bag {
    int64_t *durations_ns;    // [n], owned
    int64_t n, capacity;
    int64_t total_ns, bytes, flops;
};

struct source_bags {
    struct bag stages[PHASE_COUNT][STAGE_COUNT];
    struct bag steps[PHASE_COUNT];
    int64_t staged_count[PHASE_COUNT], staged_ns[PHASE_COUNT], gaps_ns[PHASE_COUNT], overlap_ns[PHASE_COUNT], n_tokens[PHASE_COUNT];
};

struct trace_summary {
    int error;
    struct sample_source *sources;    // [n_sources], owned
    struct source_bags *bags;         // [n_sources], owned
    int32_t n_sources;
    struct stage_sample *pending;     // [n_pending] stages whose step has not come yet, owned
    int64_t n_pending, pending_capacity, orphans;
    struct summary_stage *stage_rows; // [n_stage_rows] of the last update, owned
    struct summary_step *step_rows;
    int32_t n_stage_rows, n_step_rows;
};

int trace_summary_open(struct trace_summary **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : status_fail(-ENOMEM, "out of memory for a summary");
}

void trace_summary_close(struct trace_summary *summary)
{
    if (!summary) {
        return;
    }
    for (int32_t i = 0; i < summary->n_sources; i++) {
        for (int32_t phase = 0; phase < PHASE_COUNT; phase++) {
            free(summary->bags[i].steps[phase].durations_ns);
            for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
                free(summary->bags[i].stages[phase][stage].durations_ns);
            }
        }
    }
    free(summary->sources);
    free(summary->bags);
    free(summary->pending);
    free(summary->stage_rows);
    free(summary->step_rows);
    free(summary);
}

static int32_t find_source(const struct trace_summary *summary, int32_t id)
{
    int32_t index = summary->n_sources - 1;
    while (index >= 0 && summary->sources[index].id != id) {
        index--;
    }
    return index;
}

// The index of a source, made where it is new. -1: out of memory, remembered.
static int32_t need_source(struct trace_summary *summary, int32_t id)
{
    int32_t index = find_source(summary, id);
    if (index >= 0) {
        return index;
    }
    size_t n = (size_t)summary->n_sources + 1;
    struct sample_source *sources = realloc(summary->sources, n * sizeof *sources);
    summary->sources = sources ? sources : summary->sources;
    struct source_bags *bags = realloc(summary->bags, n * sizeof *bags);
    summary->bags = bags ? bags : summary->bags;
    if (!sources || !bags) {
        summary->error = -ENOMEM;
        return -1;
    }
    sources[n - 1] = (struct sample_source){.id = id};
    bags[n - 1] = (struct source_bags){0};
    return summary->n_sources++;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct trace_summary *summary = user;
    int32_t index = summary->error ? -1 : need_source(summary, source->id);
    if (index >= 0) {
        summary->sources[index] = *source;
    }
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct trace_summary *summary = user;
    if (summary->n_pending > 0 &&
        (summary->pending[0].source != sample->source || summary->pending[0].step != sample->step)) {
        summary->orphans += summary->n_pending;
        summary->n_pending = 0;
    }
    if (summary->n_pending == summary->pending_capacity) {
        int64_t capacity = summary->pending_capacity ? 2 * summary->pending_capacity : 256;
        struct stage_sample *grown = realloc(summary->pending, (size_t)capacity * sizeof *grown);
        if (!grown) {
            summary->error = -ENOMEM;
            return;
        }
        summary->pending = grown;
        summary->pending_capacity = capacity;
    }
    summary->pending[summary->n_pending++] = *sample;
}

// A damaged file can say any size: sums stop at the ends of their range.
static int64_t plus(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (a < 0 ? INT64_MIN : INT64_MAX) : sum;
}

static int bag_add(struct bag *bag, int64_t duration_ns)
{
    if (bag->n == bag->capacity) {
        int64_t capacity = bag->capacity ? 2 * bag->capacity : 64;
        int64_t *grown = realloc(bag->durations_ns, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return -ENOMEM;
        }
        bag->durations_ns = grown;
        bag->capacity = capacity;
    }
    bag->durations_ns[bag->n++] = duration_ns;
    bag->total_ns = plus(bag->total_ns, duration_ns);
    return 0;
}

static int by_begin(const void *left, const void *right)
{
    int64_t a = ((const struct stage_sample *)left)->begin_ns, b = ((const struct stage_sample *)right)->begin_ns;
    return (a > b) - (a < b);
}

// Time inside the step that at least one of its stages covers. Sorts the stages by begin.
static int64_t covered_ns(struct stage_sample *stages, int64_t n, const struct step_sample *step)
{
    int64_t step_end_ns = step->begin_ns + step->duration_ns, covered = 0, reached_ns = step->begin_ns;
    qsort(stages, (size_t)n, sizeof *stages, by_begin);
    for (int64_t i = 0; i < n; i++) {
        int64_t begin_ns = stages[i].begin_ns > reached_ns ? stages[i].begin_ns : reached_ns;
        int64_t end_ns = stages[i].begin_ns + stages[i].duration_ns;
        end_ns = end_ns < step_end_ns ? end_ns : step_end_ns;
        if (end_ns > begin_ns) {
            covered += end_ns - begin_ns;
            reached_ns = end_ns;
        }
    }
    return covered;
}

static void on_step(void *user, const struct step_sample *step)
{
    struct trace_summary *summary = user;
    int32_t index = summary->error ? -1 : need_source(summary, step->source);
    if (index < 0) {
        return;
    }
    struct source_bags *bags = &summary->bags[index];
    int64_t n = summary->n_pending, sum_ns = 0;
    summary->n_pending = 0;
    if (n > 0 && (summary->pending[0].source != step->source || summary->pending[0].step != step->step)) {
        summary->orphans += n;
        n = 0;
    }
    int error = bag_add(&bags->steps[step->phase], step->duration_ns);
    for (int64_t i = 0; i < n && !error; i++) {
        const struct stage_sample *sample = &summary->pending[i];
        struct bag *bag = &bags->stages[step->phase][sample->stage];
        error = bag_add(bag, sample->duration_ns);
        bag->bytes = plus(bag->bytes, sample->bytes);
        bag->flops = plus(bag->flops, sample->flops);
        sum_ns = plus(sum_ns, sample->duration_ns);
    }
    if (n > 0) {
        int64_t covered = covered_ns(summary->pending, n, step);
        bags->staged_count[step->phase]++;
        bags->staged_ns[step->phase] = plus(bags->staged_ns[step->phase], step->duration_ns);
        bags->gaps_ns[step->phase] = plus(bags->gaps_ns[step->phase], step->duration_ns - covered);
        bags->overlap_ns[step->phase] = plus(bags->overlap_ns[step->phase], sum_ns - covered);
    }
    bags->n_tokens[step->phase] = plus(bags->n_tokens[step->phase], step->n_tokens);
    summary->error = error;
}

struct sample_sink trace_summary_sink(struct trace_summary *summary)
{
    return (struct sample_sink){.user = summary, .source = on_source, .stage = on_stage, .step = on_step};
}

static int compare_int64(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

// The middle one, or the mean of the middle two; and the smallest that 95% do not exceed. The bag is not empty.
static void quantiles(struct bag *bag, int64_t *median_ns, int64_t *p95_ns)
{
    qsort(bag->durations_ns, (size_t)bag->n, sizeof *bag->durations_ns, compare_int64);
    int64_t low = bag->durations_ns[(bag->n - 1) / 2], high = bag->durations_ns[bag->n / 2];
    *median_ns = low + (high - low) / 2;
    *p95_ns = bag->durations_ns[(bag->n * 95 + 99) / 100 - 1];
}

static void add_rows(struct trace_summary *summary, int32_t index, enum phase phase)
{
    struct source_bags *bags = &summary->bags[index];
    int32_t id = summary->sources[index].id;
    for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
        struct bag *bag = &bags->stages[phase][stage];
        if (bag->n > 0) {
            struct summary_stage *row = &summary->stage_rows[summary->n_stage_rows++];
            *row = (struct summary_stage){
                .source = id, .phase = phase, .stage = (enum stage)stage, .count = bag->n, .total_ns = bag->total_ns,
                .bytes = bag->bytes, .flops = bag->flops,
            };
            quantiles(bag, &row->median_ns, &row->p95_ns);
        }
    }
    struct bag *steps = &bags->steps[phase];
    if (steps->n > 0) {
        struct summary_step *row = &summary->step_rows[summary->n_step_rows++];
        *row = (struct summary_step){
            .source = id, .phase = phase, .count = steps->n, .total_ns = steps->total_ns,
            .staged_count = bags->staged_count[phase], .staged_ns = bags->staged_ns[phase], .gaps_ns = bags->gaps_ns[phase], .overlap_ns = bags->overlap_ns[phase], .n_tokens = bags->n_tokens[phase],
        };
        quantiles(steps, &row->median_ns, &row->p95_ns);
    }
}

int trace_summary_update(struct trace_summary *summary)
{
    size_t n = (size_t)summary->n_sources * PHASE_COUNT;
    summary->n_stage_rows = summary->n_step_rows = 0;
    if (!summary->error && n > 0) {
        struct summary_stage *stages = realloc(summary->stage_rows, n * STAGE_COUNT * sizeof *stages);
        summary->stage_rows = stages ? stages : summary->stage_rows;
        struct summary_step *steps = realloc(summary->step_rows, n * sizeof *steps);
        summary->step_rows = steps ? steps : summary->step_rows;
        summary->error = stages && steps ? 0 : -ENOMEM;
    }
    if (summary->error) {
        return status_fail(summary->error, "out of memory for the samples of a summary");
    }
    for (int32_t i = 0; i < summary->n_sources; i++) {
        for (int32_t phase = 0; phase < PHASE_COUNT; phase++) {
            add_rows(summary, i, (enum phase)phase);
        }
    }
    return 0;
}

const struct summary_stage *trace_summary_stages(const struct trace_summary *summary, int32_t *n)
{
    *n = summary->n_stage_rows;
    return summary->stage_rows;
}

const struct summary_step *trace_summary_steps(const struct trace_summary *summary, int32_t *n)
{
    *n = summary->n_step_rows;
    return summary->step_rows;
}

const struct sample_source *trace_summary_sources(const struct trace_summary *summary, int32_t *n)
{
    *n = summary->n_sources;
    return summary->sources;
}

int64_t trace_summary_orphans(const struct trace_summary *summary)
{
    return summary->orphans + summary->n_pending;
}
