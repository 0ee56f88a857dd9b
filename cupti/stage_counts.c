// cupti/stage_counts.c - stages as ranges of the range profiler.
#include "cupti/stage_counts.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "cupti/range_profiler.h"
#include "engine/status.h"

enum { METRIC_READ, METRIC_WRITTEN, METRICS };
static const char *const metrics[METRICS] = {"dram__bytes_read.sum", "dram__bytes_write.sum"};

struct stage_counts {
    struct observer observer;
    struct range_profiler *ranges;    // owned; NULL: not started
    struct stage_count *counts;       // [n] owned
    int64_t n, capacity, n_collected;
    enum phase phase;    // of the step in progress
    bool sorted, in_range;
    int failed;    // the first failure
    char failure[256];
    struct sample_sink to;
};

static void fail(struct stage_counts *counts, int error)
{
    if (error < 0 && !counts->failed) {
        counts->failed = error;
        snprintf(counts->failure, sizeof counts->failure, "%s", status_text());
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Counting

static void on_step_begin(void *user, const struct observed_step *step)
{
    struct stage_counts *counts = user;
    counts->phase = step->phase;
}

static int grow(struct stage_counts *counts)
{
    int64_t capacity = counts->capacity ? 2 * counts->capacity : 1024;
    struct stage_count *grown = realloc(counts->counts, (size_t)capacity * sizeof *grown);
    if (!grown) {
        return status_fail(-ENOMEM, "no memory for the counts of %lld stages", (long long)capacity);
    }
    counts->counts = grown;
    counts->capacity = capacity;
    return 0;
}

static void on_enqueue_begin(void *user, const struct observed_stage *stage, bool replayed)
{
    struct stage_counts *counts = user;
    counts->in_range = counts->ranges && !counts->failed && !replayed;
    if (!counts->in_range) {
        return;
    }
    if (counts->n == counts->capacity) {
        fail(counts, grow(counts));
        counts->in_range = !counts->failed;
    }
    if (counts->in_range) {
        counts->counts[counts->n++] = (struct stage_count){.phase = counts->phase, .stage = *stage};
        range_profiler_push(counts->ranges);
    }
}

static void on_enqueue_end(void *user, const struct observed_stage *stage, bool replayed)
{
    struct stage_counts *counts = user;
    (void)stage;
    (void)replayed;
    if (counts->in_range) {
        range_profiler_pop(counts->ranges);
    }
    counts->in_range = false;
}

// Reads what the step's ranges have counted.
static void on_step_end(void *user, const struct observed_step *step)
{
    struct stage_counts *counts = user;
    const double *values;
    (void)step;
    if (!counts->ranges || counts->failed || counts->n == counts->n_collected) {
        return;
    }
    int n = range_profiler_collect(counts->ranges, &values);
    if (n >= 0 && n != counts->n - counts->n_collected) {
        n = status_fail(-EIO, "%d of %lld stages were counted", n, (long long)(counts->n - counts->n_collected));
    }
    fail(counts, n);
    for (int i = 0; i < n; i++) {
        struct stage_count *count = &counts->counts[counts->n_collected++];
        count->read_bytes = (int64_t)values[i * METRICS + METRIC_READ];
        count->written_bytes = (int64_t)values[i * METRICS + METRIC_WRITTEN];
        counts->sorted = false;
    }
}

int stage_counts_start(struct stage_counts *counts, int32_t device, const struct counters_libraries *libraries)
{
    struct range_options options = {
        .device = device, .metrics = metrics, .n_metrics = METRICS, .libraries = *libraries};
    return range_profiler_open(&counts->ranges, &options);
}

int stage_counts_stop(struct stage_counts *counts)
{
    range_profiler_close(counts->ranges);
    counts->ranges = NULL;
    counts->n = counts->n_collected;    // a step that failed half-way leaves nothing
    return counts->failed ? status_fail(counts->failed, "%s", counts->failure) : 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Finding

#define ORDER(a, b)                                                                                                    \
    if ((a) != (b)) {                                                                                                  \
        return (a) < (b) ? -1 : 1;                                                                                     \
    }

static int compare(const void *left, const void *right)
{
    const struct stage_count *a = left, *b = right;
    ORDER(a->phase, b->phase)
    ORDER(a->stage.stage, b->stage.stage)
    ORDER(a->stage.layer, b->stage.layer)
    ORDER(a->stage.n_seqs, b->stage.n_seqs)
    ORDER(a->stage.n_tokens, b->stage.n_tokens)
    ORDER(a->stage.context_tokens, b->stage.context_tokens)
    ORDER(a->stage.bytes, b->stage.bytes)
    return 0;
}

int64_t stage_counts_find(struct stage_counts *counts, const struct stage_sample *sample)
{
    const struct stage_count key = {
        .phase = sample->phase,
        .stage = {.stage = sample->stage,
                  .layer = sample->layer,
                  .n_seqs = sample->n_seqs,
                  .n_tokens = sample->n_tokens,
                  .context_tokens = sample->context_tokens,
                  .bytes = sample->bytes},
    };
    int64_t low = 0, high = counts->n_collected, n = 0, bytes = 0;
    if (!counts->sorted && high > 0) {
        qsort(counts->counts, (size_t)high, sizeof *counts->counts, compare);
        counts->sorted = true;
    }
    while (low < high) {    // the first that is not before the key
        int64_t middle = low + (high - low) / 2;
        bool before = compare(&counts->counts[middle], &key) < 0;
        low = before ? middle + 1 : low;
        high = before ? high : middle;
    }
    for (; low < counts->n_collected && compare(&counts->counts[low], &key) == 0; low++) {
        bytes += counts->counts[low].read_bytes + counts->counts[low].written_bytes;
        n++;
    }
    return n > 0 ? bytes / n : 0;
}

const struct stage_count *stage_counts_all(const struct stage_counts *counts, int64_t *n)
{
    *n = counts->n_collected;
    return counts->counts;
}

// ---------------------------------------------------------------------------------------------------------------------
// The sink

#define HAND_ON(slot, type)                                                                                            \
    static void on_##slot(void *user, const struct type *sample)                                                       \
    {                                                                                                                  \
        const struct sample_sink *to = &((const struct stage_counts *)user)->to;                                       \
        if (to->slot) {                                                                                                \
            to->slot(to->user, sample);                                                                                \
        }                                                                                                              \
    }

HAND_ON(source, sample_source)
HAND_ON(step, step_sample)
HAND_ON(request, request_sample)
HAND_ON(counter, counter_sample)
HAND_ON(kernel, kernel_sample)
HAND_ON(launch, launch_sample)
HAND_ON(gauge, gauge_sample)
HAND_ON(loss, loss_sample)

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct stage_counts *counts = user;
    struct stage_sample filled = *sample;
    filled.measured_bytes = stage_counts_find(counts, sample);
    if (counts->to.stage) {
        counts->to.stage(counts->to.user, &filled);
    }
}

struct sample_sink stage_counts_sink(struct stage_counts *counts, const struct sample_sink *to)
{
    counts->to = *to;
    return (struct sample_sink){
        .user = counts,
        .source = on_source,
        .stage = on_stage,
        .step = on_step,
        .request = on_request,
        .counter = on_counter,
        .kernel = on_kernel,
        .launch = on_launch,
        .gauge = on_gauge,
        .loss = on_loss,
    };
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

int stage_counts_open(struct stage_counts **out)
{
    *out = NULL;
    struct stage_counts *counts = calloc(1, sizeof *counts);
    if (!counts) {
        return status_fail(-ENOMEM, "no memory for counts");
    }
    counts->observer = (struct observer){
        .user = counts,
        .step_begin = on_step_begin,
        .step_end = on_step_end,
        .enqueue_begin = on_enqueue_begin,
        .enqueue_end = on_enqueue_end,
    };
    *out = counts;
    return 0;
}

void stage_counts_close(struct stage_counts *counts)
{
    if (counts) {
        range_profiler_close(counts->ranges);
        free(counts->counts);
        free(counts);
    }
}

const struct observer *stage_counts_observer(struct stage_counts *counts)
{
    return &counts->observer;
}
