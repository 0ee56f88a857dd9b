// traces/summary.c - statistics per source, phase and stage.
#include "traces/summary.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"
#include "traces/durations.h"
#include "traces/step_stages.h"

// What one row is made of.
struct bag {
    struct durations durations;
    int64_t bytes, flops;
    double priced_ns, floor_ns[SUMMARY_BOUNDS];
    int64_t measured_count, measured_bytes, modelled_bytes;
};

struct source_bags {
    struct bag stages[PHASE_COUNT][STAGE_COUNT];
    struct durations steps[PHASE_COUNT];
    int64_t staged_count[PHASE_COUNT], staged_ns[PHASE_COUNT], gaps_ns[PHASE_COUNT], overlap_ns[PHASE_COUNT];
    int64_t n_tokens[PHASE_COUNT];
    int64_t clocked_count[PHASE_COUNT], clocked_ns[PHASE_COUNT], clocked_stages_ns[PHASE_COUNT];
    struct summary_loss loss;
};

struct trace_summary {
    int error;
    struct summary_pricer pricer;     // .price NULL: nobody prices
    struct sample_source *sources;    // [n_sources], owned
    struct source_bags *bags;         // [n_sources], owned
    int32_t n_sources;
    struct step_stages waiting;
    struct summary_stage *stage_rows; // [n_stage_rows] of the last update, owned
    struct summary_step *step_rows;
    int32_t n_stage_rows, n_step_rows;
};

int trace_summary_open(struct trace_summary **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : status_fail(-ENOMEM, "out of memory for a summary");
}

void trace_summary_price(struct trace_summary *summary, const struct summary_pricer *pricer)
{
    summary->pricer = *pricer;
}

void trace_summary_close(struct trace_summary *summary)
{
    if (!summary) {
        return;
    }
    for (int32_t i = 0; i < summary->n_sources; i++) {
        for (int32_t phase = 0; phase < PHASE_COUNT; phase++) {
            durations_free(&summary->bags[i].steps[phase]);
            for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
                durations_free(&summary->bags[i].stages[phase][stage].durations);
            }
        }
    }
    free(summary->sources);
    free(summary->bags);
    step_stages_free(&summary->waiting);
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
    if (!summary->error) {
        summary->error = step_stages_add(&summary->waiting, sample);
    }
}

// Adds what a stage could take at best.
static void price(struct bag *bag, const struct trace_summary *summary, const struct sample_source *source,
                  const struct stage_sample *sample, int64_t step_bytes)
{
    const struct summary_pricer *pricer = &summary->pricer;
    struct summary_floor floor;
    if (!pricer->price || (sample->bytes <= 0 && sample->flops <= 0) ||
        !pricer->price(pricer->user, &floor, source, sample, step_bytes)) {
        return;
    }
    double least_ns = floor.bytes_ns > floor.flops_ns ? floor.bytes_ns : floor.flops_ns;
    enum summary_bound bound = floor.launch_ns >= least_ns          ? SUMMARY_LATENCY
                               : floor.flops_ns > floor.bytes_ns ? SUMMARY_COMPUTE
                                                                 : SUMMARY_BANDWIDTH;
    bag->priced_ns += (double)sample->duration_ns;
    bag->floor_ns[bound] += least_ns;
}

static int add_stage(struct bag *bag, const struct trace_summary *summary, const struct sample_source *source,
                     const struct stage_sample *sample, int64_t step_bytes)
{
    int error = durations_add(&bag->durations, sample->duration_ns);
    bag->bytes = saturating_sum(bag->bytes, sample->bytes);
    bag->flops = saturating_sum(bag->flops, sample->flops);
    if (sample->measured_bytes > 0) {
        bag->measured_count++;
        bag->measured_bytes = saturating_sum(bag->measured_bytes, sample->measured_bytes);
        bag->modelled_bytes = saturating_sum(bag->modelled_bytes, sample->bytes);
    }
    price(bag, summary, source, sample, step_bytes);
    return error;
}

static void on_step(void *user, const struct step_sample *step)
{
    struct trace_summary *summary = user;
    int32_t index = summary->error ? -1 : need_source(summary, step->source);
    if (index < 0) {
        return;
    }
    struct source_bags *bags = &summary->bags[index];
    int64_t n = step_stages_take(&summary->waiting, step), sum_ns = 0, step_bytes = 0;
    struct stage_sample *stages = summary->waiting.stages;
    int error = durations_add(&bags->steps[step->phase], step->duration_ns);
    for (int64_t i = 0; i < n; i++) {
        step_bytes = saturating_sum(step_bytes, stages[i].bytes);
    }
    for (int64_t i = 0; i < n && !error; i++) {
        error = add_stage(&bags->stages[step->phase][stages[i].stage], summary, &summary->sources[index], &stages[i],
                          step_bytes);
        sum_ns = saturating_sum(sum_ns, stages[i].duration_ns);
    }
    if (n > 0) {
        int64_t covered = step_stages_covered_ns(stages, n, step);
        bags->staged_count[step->phase]++;
        bags->staged_ns[step->phase] = saturating_sum(bags->staged_ns[step->phase], step->duration_ns);
        bags->gaps_ns[step->phase] = saturating_sum(bags->gaps_ns[step->phase], step->duration_ns - covered);
        bags->overlap_ns[step->phase] = saturating_sum(bags->overlap_ns[step->phase], sum_ns - covered);
    }
    if (step->device_ns > 0 && n > 0) {
        int64_t *by_events = &bags->clocked_ns[step->phase], *by_stages = &bags->clocked_stages_ns[step->phase];
        bags->clocked_count[step->phase]++;
        *by_events = saturating_sum(*by_events, step->device_ns);
        *by_stages = saturating_sum(*by_stages, step_stages_device_ns(stages, n));
    }
    bags->n_tokens[step->phase] = saturating_sum(bags->n_tokens[step->phase], step->n_tokens);
    summary->error = error;
}

static void on_loss(void *user, const struct loss_sample *sample)
{
    struct trace_summary *summary = user;
    int32_t index = summary->error ? -1 : need_source(summary, sample->source);
    if (index >= 0) {
        summary->bags[index].loss = (struct summary_loss){sample->dropped, sample->invalid};
    }
}

struct sample_sink trace_summary_sink(struct trace_summary *summary)
{
    return (struct sample_sink){
        .user = summary, .source = on_source, .stage = on_stage, .step = on_step, .loss = on_loss,
    };
}

static void add_rows(struct trace_summary *summary, int32_t index, enum phase phase)
{
    struct source_bags *bags = &summary->bags[index];
    int32_t id = summary->sources[index].id;
    for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
        struct bag *bag = &bags->stages[phase][stage];
        if (bag->durations.n > 0) {
            struct summary_stage *row = &summary->stage_rows[summary->n_stage_rows++];
            *row = (struct summary_stage){
                .source = id, .phase = phase, .stage = (enum stage)stage, .count = bag->durations.n,
                .total_ns = bag->durations.total_ns,
                .bytes = bag->bytes, .flops = bag->flops, .priced_ns = bag->priced_ns,
                .measured_count = bag->measured_count, .measured_bytes = bag->measured_bytes,
                .modelled_bytes = bag->modelled_bytes,
            };
            for (int bound = 0; bound < SUMMARY_BOUNDS; bound++) {
                row->floor_ns += bag->floor_ns[bound];
                row->bound = bag->floor_ns[bound] > bag->floor_ns[row->bound] ? (enum summary_bound)bound : row->bound;
            }
            durations_quantiles(&bag->durations, &row->median_ns, &row->p95_ns);
        }
    }
    struct durations *steps = &bags->steps[phase];
    if (steps->n > 0) {
        struct summary_step *row = &summary->step_rows[summary->n_step_rows++];
        *row = (struct summary_step){
            .source = id, .phase = phase, .count = steps->n, .total_ns = steps->total_ns,
            .staged_count = bags->staged_count[phase], .staged_ns = bags->staged_ns[phase],
            .gaps_ns = bags->gaps_ns[phase], .overlap_ns = bags->overlap_ns[phase], .n_tokens = bags->n_tokens[phase],
            .clocked_count = bags->clocked_count[phase], .clocked_ns = bags->clocked_ns[phase],
            .clocked_stages_ns = bags->clocked_stages_ns[phase],
        };
        durations_quantiles(steps, &row->median_ns, &row->p95_ns);
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
    return summary->waiting.orphans + summary->waiting.n;
}

struct summary_loss trace_summary_loss(const struct trace_summary *summary)
{
    struct summary_loss sum = {0};
    for (int32_t i = 0; i < summary->n_sources; i++) {
        sum.dropped = saturating_sum(sum.dropped, summary->bags[i].loss.dropped);
        sum.invalid = saturating_sum(sum.invalid, summary->bags[i].loss.invalid);
    }
    return sum;
}
