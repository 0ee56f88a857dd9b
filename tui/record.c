// tui/record.c - the tee.
#include "tui/record.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"
#include "traces/trace_ring.h"

enum { SOURCES = 64 };    // the recent ones: of older ones no samples come any more

// What a dump holds: long enough to reach from a glance at the screen back to what was seen.
#define KEEP_NS INT64_C(30000000000)
enum { KEEP_BYTES = 64 << 20 };

struct recorder {
    struct sample_sink to, file, kept;    // file: of the writer; kept: of the ring
    struct trace_ring *ring;              // of the last seconds
    struct trace_writer *writer;       // NULL: not recording
    bool writing, stopping;            // writing: since the first step ended
    bool whole;                        // the last sample ended a step
    struct sample_source sources[SOURCES];
    int64_t n_sources;
    int error;                         // of a file that ended by itself
};

int recorder_open(struct recorder **out, const struct sample_sink *to)
{
    *out = calloc(1, sizeof **out);
    if (!*out) {
        return status_fail(-ENOMEM, "out of memory for a recorder");
    }
    struct trace_ring_options options = {.keep_ns = KEEP_NS, .max_bytes = KEEP_BYTES};
    int error = trace_ring_open(&(*out)->ring, &options);
    if (error) {
        free(*out);
        *out = NULL;
        return error;
    }
    (*out)->kept = trace_ring_sink((*out)->ring);
    (*out)->to = *to;
    (*out)->whole = true;
    return 0;
}

static int end_file(struct recorder *recorder)
{
    int error = trace_writer_close(recorder->writer);
    recorder->writer = NULL;
    recorder->writing = recorder->stopping = false;
    return error;
}

int recorder_close(struct recorder *recorder)
{
    int error = recorder ? end_file(recorder) : 0;
    if (recorder && recorder->error) {
        error = recorder->error;
    }
    if (recorder) {
        trace_ring_close(recorder->ring);    // what it lacks by then, nobody asks for
    }
    free(recorder);
    return error;
}

static void begin_writing(struct recorder *recorder)
{
    int64_t first = recorder->n_sources > SOURCES ? recorder->n_sources - SOURCES : 0;
    for (int64_t i = first; i < recorder->n_sources; i++) {
        recorder->file.source(recorder->file.user, &recorder->sources[i % SOURCES]);
    }
    recorder->writing = true;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct recorder *recorder = user;
    recorder->sources[recorder->n_sources++ % SOURCES] = *source;
    recorder->kept.source(recorder->kept.user, source);
    if (recorder->writing) {
        recorder->file.source(recorder->file.user, source);
    }
    recorder->to.source(recorder->to.user, source);
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct recorder *recorder = user;
    recorder->whole = true;
    recorder->kept.step(recorder->kept.user, sample);
    if (recorder->writing) {
        recorder->file.step(recorder->file.user, sample);
    } else if (recorder->writer) {
        begin_writing(recorder);
    }
    if (recorder->stopping) {
        recorder->error = end_file(recorder);
    }
    recorder->to.step(recorder->to.user, sample);
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct recorder *recorder = user;
    recorder->whole = false;
    recorder->kept.stage(recorder->kept.user, sample);
    if (recorder->writing) {
        recorder->file.stage(recorder->file.user, sample);
    }
    recorder->to.stage(recorder->to.user, sample);
}

static void on_request(void *user, const struct request_sample *sample)
{
    struct recorder *recorder = user;
    recorder->kept.request(recorder->kept.user, sample);
    if (recorder->writing) {
        recorder->file.request(recorder->file.user, sample);
    }
    recorder->to.request(recorder->to.user, sample);
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    struct recorder *recorder = user;
    recorder->kept.counter(recorder->kept.user, sample);
    if (recorder->writing) {
        recorder->file.counter(recorder->file.user, sample);
    }
    recorder->to.counter(recorder->to.user, sample);
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct recorder *recorder = user;
    recorder->kept.kernel(recorder->kept.user, sample);
    if (recorder->writing) {
        recorder->file.kernel(recorder->file.user, sample);
    }
    if (recorder->to.kernel) {
        recorder->to.kernel(recorder->to.user, sample);
    }
}

static void on_launch(void *user, const struct launch_sample *sample)
{
    struct recorder *recorder = user;
    recorder->kept.launch(recorder->kept.user, sample);
    if (recorder->writing) {
        recorder->file.launch(recorder->file.user, sample);
    }
    if (recorder->to.launch) {
        recorder->to.launch(recorder->to.user, sample);
    }
}

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    struct recorder *recorder = user;
    recorder->kept.gauge(recorder->kept.user, sample);
    if (recorder->writing) {
        recorder->file.gauge(recorder->file.user, sample);
    }
    if (recorder->to.gauge) {
        recorder->to.gauge(recorder->to.user, sample);
    }
}

static void on_loss(void *user, const struct loss_sample *sample)
{
    struct recorder *recorder = user;
    recorder->kept.loss(recorder->kept.user, sample);
    if (recorder->writing) {
        recorder->file.loss(recorder->file.user, sample);
    }
    if (recorder->to.loss) {
        recorder->to.loss(recorder->to.user, sample);
    }
}

struct sample_sink recorder_sink(struct recorder *recorder)
{
    return (struct sample_sink){
        .user = recorder, .source = on_source, .stage = on_stage, .step = on_step, .request = on_request,
        .counter = on_counter, .kernel = on_kernel, .launch = on_launch, .gauge = on_gauge, .loss = on_loss,
    };
}

int recorder_start(struct recorder *recorder, const char *path)
{
    if (recorder->writer) {
        return status_fail(-EBUSY, "a recording is under way");
    }
    struct trace_writer_options options = {.path = path, .command = "clsa top"};
    int error = trace_writer_open(&recorder->writer, &options);
    if (error) {
        return error;
    }
    recorder->file = trace_writer_sink(recorder->writer);
    if (recorder->whole) {
        begin_writing(recorder);
    }
    return 0;
}

int recorder_stop(struct recorder *recorder)
{
    if (recorder->writer && (recorder->whole || !recorder->writing)) {
        return end_file(recorder);
    }
    recorder->stopping = recorder->writer != NULL;
    return 0;
}

bool recorder_active(const struct recorder *recorder)
{
    return recorder->writer != NULL;
}

int recorder_dump(struct recorder *recorder, const char *path)
{
    return trace_ring_dump(recorder->ring, &(struct trace_writer_options){.path = path, .command = "clsa top"});
}
