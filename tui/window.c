// tui/window.c - rows of steps, sums and percentiles.
#include "tui/window.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sort.h"

static int by_begin(const void *left, const void *right)
{
    const struct window_call *a = left, *b = right;
    return (a->begin_ns > b->begin_ns) - (a->begin_ns < b->begin_ns);
}

double window_percentile(const double *values, int32_t n, double part)
{
    double sorted[STATE_CALLS];
    if (n <= 0) {
        return NAN;
    }
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    sort_doubles(sorted, n);
    int32_t rank = (int32_t)ceil(part * n);
    return sorted[rank < 1 ? 0 : rank - 1];
}

// Gaps: the step's time in no stage. Overlap: stage time that counts more than once, or lies outside the step.
static void set_gaps(struct window_step *row, const struct step_sample *step, const struct window_call *calls,
                     int64_t n)
{
    int64_t begin = step->begin_ns, end = begin + step->duration_ns, covered = 0, sum = 0;
    for (int64_t i = 0, reached = begin; i < n; i++) {
        int64_t from = calls[i].begin_ns > reached ? calls[i].begin_ns : reached;
        int64_t to = calls[i].begin_ns + calls[i].duration_ns;
        to = to < end ? to : end;
        if (to > from) {
            covered += to - from;
            reached = to;
        }
        sum += calls[i].duration_ns;
    }
    row->staged = n > 0;
    row->gaps_ns = n > 0 ? step->duration_ns - covered : 0;
    row->overlap_ns = sum - covered;
}

void window_add(struct phase_window *window, const struct step_sample *step, struct window_call *calls, int64_t n,
                const struct device *device, enum dtype dtype)
{
    if (n > 0) {
        qsort(calls, (size_t)n, sizeof *calls, by_begin);
    }
    struct window_step *row = &window->steps[window->n_steps++ % STATE_STEPS];
    *row = (struct window_step){.begin_ns = step->begin_ns, .duration_ns = step->duration_ns, .n_seqs = step->n_seqs,
                                .n_tokens = step->n_tokens, .context_tokens = step->context_tokens};
    set_gaps(row, step, calls, n);
    double step_bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        step_bytes += calls[i].bytes;
    }
    // Between two uses of a weight or a key lies a whole step: its bytes are the working set that a cache would hold.
    double bytes_per_ns = device ? device_bandwidth(device, step_bytes) * 1e-9 : NAN;
    double flops_per_ns = device ? device->flops_per_s[dtype].value * 1e-9 : 0;
    for (int64_t i = 0; i < n; i++) {
        const struct window_call *call = &calls[i];
        struct window_stage *stage = &row->stages[call->stage];
        double memory_ns = call->bytes / bytes_per_ns;
        double compute_ns = flops_per_ns > 0 ? call->flops / flops_per_ns : 0;
        stage->duration_ns += call->duration_ns;
        stage->calls++;
        stage->bytes += call->bytes;
        stage->flops += call->flops;
        stage->memory_ns += memory_ns;
        stage->compute_ns += compute_ns;
        stage->floor_ns += memory_ns > compute_ns ? memory_ns : compute_ns;
        window->calls_ns[call->stage][window->n_calls[call->stage]++ % STATE_CALLS] = call->duration_ns;
    }
}

void window_reprice(struct phase_window *window, const struct device *device, enum dtype dtype)
{
    int64_t n = !window ? 0 : window->n_steps < STATE_STEPS ? window->n_steps : STATE_STEPS;
    double flops_per_ns = device->flops_per_s[dtype].value * 1e-9;
    for (int64_t i = 0; i < n; i++) {
        struct window_stage *stages = window->steps[i].stages;
        double step_bytes = 0;
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            step_bytes += stages[stage].bytes;
        }
        double bytes_per_ns = device_bandwidth(device, step_bytes) * 1e-9;
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            struct window_stage *at = &stages[stage];
            at->memory_ns = at->bytes / bytes_per_ns;
            at->compute_ns = flops_per_ns > 0 ? at->flops / flops_per_ns : 0;
            at->floor_ns = at->memory_ns > at->compute_ns ? at->memory_ns : at->compute_ns;
        }
    }
    if (window) {
        window->summary_steps = -1;
    }
}

const struct window_step *window_last(const struct phase_window *window)
{
    return &window->steps[(window->n_steps - 1) % STATE_STEPS];
}

// n_steps in the window, of which n_staged, of total_ns together, told their stages.
static void summarise_stage(struct stage_summary *out, const struct phase_window *window, int stage, int32_t n_steps,
                            int32_t n_staged, double total_ns, const struct device *device)
{
    struct window_stage sum = {0};
    for (int32_t i = 0; i < n_steps; i++) {
        const struct window_stage *row = &window->steps[i].stages[stage];
        sum.duration_ns += row->duration_ns;
        sum.calls += row->calls;
        sum.bytes += row->bytes;
        sum.flops += row->flops;
        sum.memory_ns += row->memory_ns;
        sum.compute_ns += row->compute_ns;
        sum.floor_ns += row->floor_ns;
    }
    double values[STATE_CALLS], duration_ns = (double)sum.duration_ns;
    int32_t n_values = window->n_calls[stage] < STATE_CALLS ? (int32_t)window->n_calls[stage] : STATE_CALLS;
    for (int32_t i = 0; i < n_values; i++) {
        values[i] = (double)window->calls_ns[stage][i];
    }
    double launch_ns = device ? device->launch_s.value * 1e9 * (double)sum.calls : 0;
    *out = (struct stage_summary){
        .calls = window->n_calls[stage],
        .window_calls = sum.calls,
        .mean_ns = duration_ns / n_staged,
        .share = total_ns > 0 ? duration_ns / total_ns : NAN,
        .median_ns = window_percentile(values, n_values, 0.5),
        .p95_ns = window_percentile(values, n_values, 0.95),
        .bytes_per_s = sum.duration_ns > 0 ? sum.bytes / duration_ns * 1e9 : NAN,
        .flops_per_s = sum.duration_ns > 0 ? sum.flops / duration_ns * 1e9 : NAN,
        .floor_ns = device ? sum.floor_ns / n_staged : NAN,
        .floor_part = sum.floor_ns > 0 && sum.duration_ns > 0 ? sum.floor_ns / duration_ns : NAN,
        .bound = launch_ns > sum.floor_ns ? BOUND_LATENCY
                 : sum.memory_ns >= sum.compute_ns ? BOUND_BANDWIDTH : BOUND_COMPUTE,
    };
}

static void unknown(struct phase_summary *out)
{
    *out = (struct phase_summary){.mean_ns = NAN, .median_ns = NAN, .gaps_ns = NAN, .overlap_ns = NAN, .floor_ns = NAN,
                                  .floor_part = NAN, .tokens_per_s = NAN};
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        out->stages[stage] = (struct stage_summary){.mean_ns = NAN, .share = NAN, .median_ns = NAN, .p95_ns = NAN,
                                                    .bytes_per_s = NAN, .flops_per_s = NAN, .floor_ns = NAN,
                                                    .floor_part = NAN};
    }
}

static void summarise(struct phase_summary *out, const struct phase_window *window, const struct device *device)
{
    int32_t n = window->n_steps < STATE_STEPS ? (int32_t)window->n_steps : STATE_STEPS;
    int32_t n_staged = 0;
    double durations[STATE_STEPS], total_ns = 0, staged_ns = 0, gaps_ns = 0, overlap_ns = 0, tokens = 0, floor_ns = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct window_step *row = &window->steps[i];
        durations[i] = (double)row->duration_ns;
        total_ns += durations[i];
        n_staged += row->staged;
        staged_ns += row->staged ? durations[i] : 0;
        gaps_ns += (double)row->gaps_ns;
        overlap_ns += (double)row->overlap_ns;
        tokens += row->n_tokens;
    }
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        summarise_stage(&out->stages[stage], window, stage, n, n_staged, staged_ns, device);
        floor_ns += out->stages[stage].floor_ns;
    }
    const struct window_step *last = window_last(window);
    out->steps = window->n_steps;
    out->window_steps = n;
    out->mean_ns = total_ns / n;
    out->median_ns = window_percentile(durations, n, 0.5);
    out->gaps_ns = gaps_ns / n_staged;
    out->overlap_ns = overlap_ns / n_staged;
    out->floor_ns = floor_ns;
    out->floor_part = total_ns > 0 && floor_ns > 0 ? floor_ns * n / total_ns : NAN;
    out->tokens_per_s = total_ns > 0 ? tokens / total_ns * 1e9 : NAN;
    out->n_seqs = last->n_seqs;
    out->context_tokens = last->context_tokens;
}

bool window_summary(struct phase_window *window, const struct device *device, struct phase_summary *out)
{
    if (!window || window->n_steps == 0) {
        unknown(out);
        return false;
    }
    if (window->summary_steps != window->n_steps) {
        summarise(&window->summary, window, device);
        window->summary_steps = window->n_steps;
    }
    *out = window->summary;
    return true;
}

int32_t window_history(const struct phase_window *window, double *duration_ns, int32_t n)
{
    if (!window) {
        return 0;
    }
    int64_t kept = window->n_steps < STATE_STEPS ? window->n_steps : STATE_STEPS;
    int32_t count = kept < n ? (int32_t)kept : n;
    for (int32_t i = 0; i < count; i++) {
        duration_ns[i] = (double)window->steps[(window->n_steps - count + i) % STATE_STEPS].duration_ns;
    }
    return count;
}
