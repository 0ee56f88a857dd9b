// tests/bench/serving_trace.c - see serving_trace.h.
#include "tests/bench/serving_trace.h"

#include <errno.h>
#include <stdlib.h>

#include "cupti/collector.h"
#include "engine/status.h"
#include "traces/trace.h"

struct serving_trace {
    struct trace_writer *writer;
    struct collector *collector;
    struct sample_sink out;    // the writer's
    bool keep;
};

static void on_source(void *user, const struct sample_source *source)
{
    struct serving_trace *trace = user;
    trace->out.source(trace->out.user, source);
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct serving_trace *trace = user;
    if (trace->keep) {
        trace->out.stage(trace->out.user, sample);
    }
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct serving_trace *trace = user;
    if (trace->keep) {
        trace->out.step(trace->out.user, sample);
    }
}

int serving_trace_open(struct serving_trace **out, const char *path)
{
    struct serving_trace *trace = *out = calloc(1, sizeof *trace);
    if (!trace) {
        return status_fail(-ENOMEM, "no memory for a trace");
    }
    const struct trace_writer_options options = {.path = path, .command = "bench_serving"};
    const struct sample_sink sink = {.user = trace, .source = on_source, .stage = on_stage, .step = on_step};
    int error = trace_writer_open(&trace->writer, &options);
    if (!error) {
        trace->out = trace_writer_sink(trace->writer);
        error = collector_open(&trace->collector, COLLECTOR_CPU_CLOCK, &sink);
    }
    if (error) {
        serving_trace_close(trace, error);
        *out = NULL;
    }
    return error;
}

const struct observer *serving_trace_observer(struct serving_trace *trace)
{
    return trace ? collector_observer(trace->collector) : NULL;
}

void serving_trace_begin(void *user, const struct sample_source *source)
{
    struct serving_trace *trace = user;
    collector_set_source(trace->collector, source);
    trace->keep = true;
}

int serving_trace_close(struct serving_trace *trace, int error)
{
    if (trace) {
        collector_close(trace->collector);
        int close_error = trace_writer_close(trace->writer);
        error = error ? error : close_error;
        free(trace);
    }
    return error;
}
