// cupti/collector.c - what is common to all sources: steps, requests, counters, and stages by the CPU clock.
//
// Stages of an asynchronous device come with times of its own clock, once their pass has ended. They are placed so that
// the last of them ends now: what the host was late to notice that end is the error, some microseconds, and it is the
// same for all stages of a step.
//
// CLOCK_BOOTTIME is read through the vDSO on Linux 5.3 and later, no system call. What happens inside a step is kept
// (collector_told.h), so that a stage costs two clock readings and one copy; the sink sees it after the step's end, or,
// with kernels, when those are known. Tokens per second are counted here: what steps draw, over windows of a second or
// more.
#include "cupti/collector.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "cupti/collector_kernels.h"
#include "cupti/collector_told.h"
#include "cupti/nvtx.h"
#include "engine/status.h"

static const int64_t rate_window_ns = 1000000000;

// Sources count up over all collectors of the process: one sink may hear several, one after the other.
static _Atomic int32_t next_source;

struct collector {
    struct observer observer;
    struct sample_sink sink;
    struct kernel_collector *kernels;    // NULL: none are collected
    bool nvtx;                           // a tool hears ranges
    int32_t source;                      // the id of the one observed now
    struct told *told;                   // owned: of this step; with kernels also since the last
    bool in_step, in_layer, in_stage, in_enqueue;    // in_enqueue: and not of a recording that is replayed
    int64_t stage_begin_ns, lost;
    int64_t window_begin_ns, window_tokens;    // window_begin_ns 0: no window is open
};

int64_t collector_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// Records that found no memory are told as lost.
static void tell_losses(struct collector *collector)
{
    if (collector->told->lost > 0 && collector->sink.loss) {
        collector->lost += collector->told->lost;
        struct loss_sample loss = {
            .source = collector->source, .dropped = collector->lost, .time_ns = collector_now_ns()};
        collector->sink.loss(collector->sink.user, &loss);
    }
}

// The step, if there is one, and what was told with it.
static void hand_over_told(struct collector *collector)
{
    struct told *told = collector->told;
    if (collector->kernels) {
        struct told *empty = kernel_collector_submit(collector->kernels, told);
        if (empty) {
            collector->told = empty;
        } else {
            told_reset(told);    // lost, and so little memory is left that nobody can be told
        }
        return;
    }
    for (int64_t i = 0; i < told->n_records; i++) {
        told_hand_over_record(&told->records[i], &collector->sink);
    }
    tell_losses(collector);
    if (told->has_step && collector->sink.step) {
        collector->sink.step(collector->sink.user, &told->step);
    }
    told_reset(told);
}

static void tell(struct collector *collector, const struct told_record *record)
{
    if (collector->in_step || collector->kernels) {
        told_add(collector->told, record);
    } else {
        told_hand_over_record(record, &collector->sink);
    }
}

// Tells the rate of the window that ends now and opens the next.
static void close_window(struct collector *collector, int64_t now_ns)
{
    int64_t elapsed_ns = now_ns - collector->window_begin_ns;
    if (collector->window_begin_ns && collector->window_tokens > 0 && elapsed_ns > 0) {
        struct told_record record = {
            .kind = TOLD_COUNTER,
            .as.counter = {
                .source = collector->source,
                .counter = COUNTER_TOKENS_PER_S,
                .value = (double)collector->window_tokens * 1e9 / (double)elapsed_ns,
                .time_ns = now_ns,
            },
        };
        tell(collector, &record);
    }
    collector->window_begin_ns = now_ns;
    collector->window_tokens = 0;
}

static void on_step_begin(void *user, const struct observed_step *step)
{
    struct collector *collector = user;
    assert(!collector->in_step);
    collector->in_step = true;
    collector->told->has_step = true;
    collector->told->step = (struct step_sample){
        .source = collector->source,
        .step = step->step,
        .phase = step->phase,
        .n_seqs = step->n_seqs,
        .n_tokens = step->n_tokens,
        .context_tokens = step->context_tokens,
        .begin_ns = collector_now_ns(),
    };
    if (!collector->window_begin_ns) {
        collector->window_begin_ns = collector->told->step.begin_ns;
    }
    if (collector->nvtx) {
        nvtx_step_begin(step);
    }
    if (collector->kernels) {
        collector->told->serial = kernel_collector_step_begin(collector->kernels);
    }
}

static void on_step_end(void *user, const struct observed_step *step)
{
    struct collector *collector = user;
    struct step_sample *sample = &collector->told->step;
    int64_t now_ns = collector_now_ns();
    assert(collector->in_step && !collector->in_stage && step->step == sample->step);
    sample->duration_ns = now_ns - sample->begin_ns;
    sample->device_ns = step->device_ns;
    if (collector->kernels) {
        kernel_collector_step_end(collector->kernels);
    }
    if (collector->nvtx) {
        nvtx_step_end();
    }
    hand_over_told(collector);
    collector->in_step = false;
    collector->window_tokens += step->n_outputs;
    if (now_ns - collector->window_begin_ns >= rate_window_ns) {
        close_window(collector, now_ns);
    }
}

// Each stage says its layer; only tools want them by themselves.
static void on_layer_begin(void *user, int32_t layer)
{
    struct collector *collector = user;
    collector->in_layer = true;
    if (collector->nvtx) {
        nvtx_layer_begin(layer);
    }
}

static void on_layer_end(void *user, int32_t layer)
{
    struct collector *collector = user;
    (void)layer;
    collector->in_layer = false;
    if (collector->nvtx) {
        nvtx_layer_end();
    }
}

static void on_stage_begin(void *user, const struct observed_stage *stage)
{
    struct collector *collector = user;
    assert(collector->in_step && !collector->in_stage);
    if (collector->nvtx) {
        nvtx_stage_begin(collector->told->step.step, stage);
    }
    collector->in_stage = true;
    collector->stage_begin_ns = collector_now_ns();
}

static void keep_stage(struct collector *collector, const struct observed_stage *stage, int64_t begin_ns,
                       int64_t end_ns)
{
    struct told_record record = {.kind = TOLD_STAGE,
                                 .as.stage = told_stage(collector->told, stage, begin_ns, end_ns - begin_ns)};
    told_add(collector->told, &record);
}

static void on_stage_end(void *user, const struct observed_stage *stage)
{
    struct collector *collector = user;
    int64_t now_ns = collector_now_ns();
    assert(collector->in_stage);
    collector->in_stage = false;
    if (collector->nvtx) {
        nvtx_stage_end();
    }
    keep_stage(collector, stage, collector->stage_begin_ns, now_ns);
}

static void on_device_stages(void *user, const struct device_stage *stages, int32_t n)
{
    struct collector *collector = user;
    int64_t zero_ns = collector_now_ns() - (n > 0 ? stages[n - 1].end_ns : 0);
    assert(collector->in_step && !collector->in_stage);
    for (int32_t i = 0; i < n; i++) {
        keep_stage(collector, &stages[i].stage, zero_ns + stages[i].begin_ns, zero_ns + stages[i].end_ns);
    }
}

static void on_enqueue_begin(void *user, const struct observed_stage *stage, bool replayed)
{
    struct collector *collector = user;
    collector->in_enqueue = !replayed;
    if (collector->nvtx && !replayed) {
        nvtx_stage_begin(collector->told->step.step, stage);
    }
    if (collector->kernels) {
        int32_t ordinal = told_add_enqueued(collector->told, stage);
        if (!replayed) {
            kernel_collector_enqueue_begin(collector->kernels, collector->told->serial, ordinal);
        }
    }
}

static void on_enqueue_end(void *user, const struct observed_stage *stage, bool replayed)
{
    struct collector *collector = user;
    (void)stage;
    if (replayed) {
        return;
    }
    collector->in_enqueue = false;
    if (collector->kernels) {
        kernel_collector_enqueue_end(collector->kernels);
    }
    if (collector->nvtx) {
        nvtx_stage_end();
    }
}

static void on_request(void *user, const struct request_sample *request)
{
    struct collector *collector = user;
    struct told_record record = {.kind = TOLD_REQUEST, .as.request = *request};
    record.as.request.source = collector->source;
    record.as.request.time_ns = collector_now_ns();
    if (collector->nvtx) {
        nvtx_request(request);
    }
    tell(collector, &record);
}

static void on_counter(void *user, enum counter counter, double value)
{
    struct collector *collector = user;
    struct told_record record = {
        .kind = TOLD_COUNTER,
        .as.counter = {.source = collector->source, .counter = counter, .value = value, .time_ns = collector_now_ns()},
    };
    tell(collector, &record);
}

static bool records_kernels(enum collector_source source)
{
    return source == COLLECTOR_KERNELS || source == COLLECTOR_GRAPHS;
}

// The slots that a source listens to.
static struct observer observer_of(struct collector *collector, enum collector_source source)
{
    bool stages = source != COLLECTOR_STEPS, enqueued = records_kernels(source) || collector->nvtx;
    return (struct observer){
        .user = collector,
        .step_begin = on_step_begin,
        .step_end = on_step_end,
        .layer_begin = on_layer_begin,
        .layer_end = on_layer_end,
        .stage_begin = stages ? on_stage_begin : NULL,
        .stage_end = stages ? on_stage_end : NULL,
        .device_stages = stages && source != COLLECTOR_KERNELS ? on_device_stages : NULL,
        .enqueue_begin = enqueued ? on_enqueue_begin : NULL,
        .enqueue_end = enqueued ? on_enqueue_end : NULL,
        .in_pieces = source == COLLECTOR_KERNELS,
        .request = on_request,
        .counter = on_counter,
    };
}

int collector_open(struct collector **out, enum collector_source source, const struct sample_sink *sink)
{
    *out = NULL;
    if (source < COLLECTOR_CPU_CLOCK || source > COLLECTOR_GRAPHS) {
        return status_fail(-ENOTSUP, "collector %d is not built in", (int)source);
    }
    struct collector *collector = calloc(1, sizeof *collector);
    struct told *told = told_open();
    if (!collector || !told) {
        free(collector);
        told_close(told);
        return status_fail(-ENOMEM, "out of memory for a collector");
    }
    *collector = (struct collector){.sink = *sink, .source = -1, .told = told, .nvtx = nvtx_listens()};
    collector->observer = observer_of(collector, source);
    int error = 0;
    if (records_kernels(source)) {
        error = kernel_collector_open(&collector->kernels, sink, source == COLLECTOR_GRAPHS);
    }
    if (error) {
        collector_close(collector);
        return error;
    }
    *out = collector;
    return 0;
}

// What is open when an engine goes in the midst of a step would be around all that comes.
static void leave_step(struct collector *collector)
{
    if (collector->kernels && collector->in_enqueue) {
        kernel_collector_enqueue_end(collector->kernels);
    }
    if (collector->nvtx && (collector->in_stage || collector->in_enqueue)) {
        nvtx_stage_end();
    }
    if (collector->nvtx && collector->in_layer) {
        nvtx_layer_end();
    }
    if (collector->kernels && collector->in_step) {
        kernel_collector_step_end(collector->kernels);
    }
    if (collector->nvtx && collector->in_step) {
        nvtx_step_end();
    }
    collector->in_step = collector->in_layer = collector->in_stage = collector->in_enqueue = false;
}

// Ends what the current source has pending: a step that was left half-way leaves its stages, and no step.
static void finish_source(struct collector *collector)
{
    leave_step(collector);
    if (collector->nvtx) {
        nvtx_finish();
    }
    collector->told->has_step = false;
    hand_over_told(collector);
    if (collector->window_begin_ns) {
        close_window(collector, collector_now_ns());
        collector->window_begin_ns = 0;
        hand_over_told(collector);
    }
}

void collector_close(struct collector *collector)
{
    if (!collector) {
        return;
    }
    finish_source(collector);
    kernel_collector_close(collector->kernels);
    told_close(collector->told);
    free(collector);
}

const struct observer *collector_observer(struct collector *collector)
{
    return &collector->observer;
}

int32_t collector_set_source(struct collector *collector, const struct sample_source *source)
{
    finish_source(collector);
    collector->lost = 0;
    collector->source = atomic_fetch_add(&next_source, 1);
    struct sample_source announced = *source;
    announced.id = collector->source;
    if (collector->nvtx) {
        nvtx_source(source);
    }
    if (collector->kernels) {
        kernel_collector_source(collector->kernels, &announced);
    } else if (collector->sink.source) {
        collector->sink.source(collector->sink.user, &announced);
    }
    return announced.id;
}
