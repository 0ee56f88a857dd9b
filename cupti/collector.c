// cupti/collector.c - the CPU clock: two readings around each stage.
//
// Stages of an asynchronous device come with times of its own clock, once their pass has ended. They are placed so that
// the last of them ends now: what the host was late to notice that end is the error, some microseconds, and it is the
// same for all stages of a step.
//
// CLOCK_BOOTTIME is read through the vDSO on Linux 5.3 and later, no system call. What happens inside a step is kept in a
// buffer that only grows, so that a stage costs two clock readings and one copy; the sink sees it after the step's end.
// Tokens per second are counted here: what steps draw, over windows of a second or more.
#include "cupti/collector.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "engine/status.h"

enum { FIRST_CAPACITY = 1024 };    // stages of a step of a 100-layer model, so that most never grow

static const int64_t rate_window_ns = 1000000000;

// Sources count up over all collectors of the process: one sink may hear several, one after the other.
static _Atomic int32_t next_source;

// What a step has told so far, in order.
struct record {
    enum { RECORD_STAGE, RECORD_REQUEST, RECORD_COUNTER } kind;
    union {
        struct stage_sample stage;
        struct request_sample request;
        struct counter_sample counter;
    } as;
};

struct collector {
    struct observer observer;
    struct sample_sink sink;
    int32_t source;                  // the id of the one observed now
    struct record *records;          // [n_records], owned
    int64_t n_records, capacity;
    bool in_step, in_stage;
    struct observed_step step;
    int64_t step_begin_ns, stage_begin_ns;
    int64_t window_begin_ns, window_tokens;    // window_begin_ns 0: no window is open
};

int64_t collector_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void hand_over(struct collector *collector, const struct record *record)
{
    const struct sample_sink *sink = &collector->sink;
    if (record->kind == RECORD_STAGE && sink->stage) {
        sink->stage(sink->user, &record->as.stage);
    } else if (record->kind == RECORD_REQUEST && sink->request) {
        sink->request(sink->user, &record->as.request);
    } else if (record->kind == RECORD_COUNTER && sink->counter) {
        sink->counter(sink->user, &record->as.counter);
    }
}

static void hand_over_all(struct collector *collector)
{
    for (int64_t i = 0; i < collector->n_records; i++) {
        hand_over(collector, &collector->records[i]);
    }
    collector->n_records = 0;
}

// Keeps a record until the step ends. Where memory does not suffice for a whole step, its first part goes out early.
static void keep(struct collector *collector, const struct record *record)
{
    if (collector->n_records == collector->capacity) {
        struct record *grown = realloc(collector->records, 2 * (size_t)collector->capacity * sizeof *grown);
        if (grown) {
            collector->records = grown;
            collector->capacity *= 2;
        } else {
            hand_over_all(collector);
        }
    }
    collector->records[collector->n_records++] = *record;
}

static void tell(struct collector *collector, const struct record *record)
{
    if (collector->in_step) {
        keep(collector, record);
    } else {
        hand_over(collector, record);
    }
}

// Tells the rate of the window that ends now and opens the next.
static void close_window(struct collector *collector, int64_t now_ns)
{
    int64_t elapsed_ns = now_ns - collector->window_begin_ns;
    if (collector->window_begin_ns && collector->window_tokens > 0 && elapsed_ns > 0) {
        struct record record = {
            .kind = RECORD_COUNTER,
            .as.counter = {
                .source = collector->source,
                .counter = COUNTER_TOKENS_PER_S,
                .value = (double)collector->window_tokens * 1e9 / (double)elapsed_ns,
                .time_ns = now_ns,
            },
        };
        hand_over(collector, &record);
    }
    collector->window_begin_ns = now_ns;
    collector->window_tokens = 0;
}

static void on_step_begin(void *user, const struct observed_step *step)
{
    struct collector *collector = user;
    assert(!collector->in_step);
    collector->in_step = true;
    collector->step = *step;
    collector->step_begin_ns = collector_now_ns();
    if (!collector->window_begin_ns) {
        collector->window_begin_ns = collector->step_begin_ns;
    }
}

static void on_step_end(void *user, const struct observed_step *step)
{
    struct collector *collector = user;
    int64_t now_ns = collector_now_ns();
    assert(collector->in_step && !collector->in_stage && step->step == collector->step.step);
    collector->in_step = false;
    hand_over_all(collector);
    struct step_sample sample = {
        .source = collector->source,
        .step = step->step,
        .phase = step->phase,
        .n_seqs = step->n_seqs,
        .n_tokens = step->n_tokens,
        .context_tokens = step->context_tokens,
        .begin_ns = collector->step_begin_ns,
        .duration_ns = now_ns - collector->step_begin_ns,
    };
    if (collector->sink.step) {
        collector->sink.step(collector->sink.user, &sample);
    }
    collector->window_tokens += step->n_outputs;
    if (now_ns - collector->window_begin_ns >= rate_window_ns) {
        close_window(collector, now_ns);
    }
}

static void on_layer(void *user, int32_t layer)
{
    (void)user;
    (void)layer;    // each stage says its layer
}

static void on_stage_begin(void *user, const struct observed_stage *stage)
{
    struct collector *collector = user;
    (void)stage;
    assert(collector->in_step && !collector->in_stage);
    collector->in_stage = true;
    collector->stage_begin_ns = collector_now_ns();
}

static void keep_stage(struct collector *collector, const struct observed_stage *stage, int64_t begin_ns, int64_t end_ns)
{
    struct record record = {
        .kind = RECORD_STAGE,
        .as.stage = {
            .source = collector->source,
            .step = collector->step.step,
            .phase = collector->step.phase,
            .stage = stage->stage,
            .layer = stage->layer,
            .n_seqs = stage->n_seqs,
            .n_tokens = stage->n_tokens,
            .context_tokens = stage->context_tokens,
            .bytes = stage->bytes,
            .flops = stage->flops,
            .begin_ns = begin_ns,
            .duration_ns = end_ns - begin_ns,
        },
    };
    keep(collector, &record);
}

static void on_stage_end(void *user, const struct observed_stage *stage)
{
    struct collector *collector = user;
    int64_t now_ns = collector_now_ns();
    assert(collector->in_stage);
    collector->in_stage = false;
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

static void on_request(void *user, const struct request_sample *request)
{
    struct collector *collector = user;
    struct record record = {.kind = RECORD_REQUEST, .as.request = *request};
    record.as.request.source = collector->source;
    record.as.request.time_ns = collector_now_ns();
    tell(collector, &record);
}

static void on_counter(void *user, enum counter counter, double value)
{
    struct collector *collector = user;
    struct record record = {
        .kind = RECORD_COUNTER,
        .as.counter = {.source = collector->source, .counter = counter, .value = value, .time_ns = collector_now_ns()},
    };
    tell(collector, &record);
}

int collector_open(struct collector **out, enum collector_source source, const struct sample_sink *sink)
{
    *out = NULL;
    if (source != COLLECTOR_CPU_CLOCK) {
        return status_fail(-ENOTSUP, "collector %d is not built in", (int)source);
    }
    struct collector *collector = calloc(1, sizeof *collector);
    struct record *records = malloc(FIRST_CAPACITY * sizeof *records);
    if (!collector || !records) {
        free(collector);
        free(records);
        return status_fail(-ENOMEM, "out of memory for a collector");
    }
    *collector = (struct collector){
        .observer = {
            .user = collector,
            .step_begin = on_step_begin,
            .step_end = on_step_end,
            .layer_begin = on_layer,
            .layer_end = on_layer,
            .stage_begin = on_stage_begin,
            .stage_end = on_stage_end,
            .device_stages = on_device_stages,
            .request = on_request,
            .counter = on_counter,
        },
        .sink = *sink,
        .source = -1,
        .records = records,
        .capacity = FIRST_CAPACITY,
    };
    *out = collector;
    return 0;
}

// Ends what the current source has pending: a step that failed half-way leaves its stages, and no step.
static void finish_source(struct collector *collector)
{
    hand_over_all(collector);
    collector->in_step = collector->in_stage = false;
    if (collector->window_begin_ns) {
        close_window(collector, collector_now_ns());
        collector->window_begin_ns = 0;
    }
}

void collector_close(struct collector *collector)
{
    if (!collector) {
        return;
    }
    finish_source(collector);
    free(collector->records);
    free(collector);
}

const struct observer *collector_observer(struct collector *collector)
{
    return &collector->observer;
}

int32_t collector_set_source(struct collector *collector, const struct sample_source *source)
{
    finish_source(collector);
    collector->source = atomic_fetch_add(&next_source, 1);
    struct sample_source announced = *source;
    announced.id = collector->source;
    if (collector->sink.source) {
        collector->sink.source(collector->sink.user, &announced);
    }
    return announced.id;
}
