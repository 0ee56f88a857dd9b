// cli/recording.c - a trace writer or a ring, with rates for floors and a line for what happens on the way.
#include "cli/recording.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace_rates.h"
#include "engine/status.h"
#include "traces/trace_ring.h"

struct recording {
    const char *command;
    struct recording_flags flags;
    struct trace_writer_options options;
    struct trace_writer *writer;     // of one of two kinds: this
    struct trace_ring *ring;         // or this
    struct trace_rates *rates;
    struct device host;
    bool host_known;
    int32_t n_dumps;
    int error;                       // of a dump
    bool told;
};

static bool ceilings_of(void *user, const struct sample_source *source, struct trace_ceilings *out)
{
    struct recording *recording = user;
    bool gpu = strncmp(source->backend, "cuda", 4) == 0;
    const struct device *device = gpu ? trace_rates_find(recording->rates, source)
                                  : recording->host_known ? &recording->host : NULL;
    if (!device) {
        return false;
    }
    out->bytes_per_s = device->bytes_per_s.value;
    for (int32_t i = 0; i < DTYPE_COUNT; i++) {
        const struct device_figure *rate = device_rate(device, (enum dtype)i);
        out->flops_per_s[i] = rate ? rate->value : 0;
    }
    return true;
}

static void on_failure(void *user, const char *why)
{
    struct recording *recording = user;
    recording->told = true;
    fprintf(stderr, "clsa %s: %s; the trace ends here, the run goes on\n", recording->command, why);
}

// "some.pftrace" becomes "some-slow2.pftrace".
static void slow_path(char *out, size_t bytes, const char *path, int32_t number)
{
    const char *slash = strrchr(path, '/'), *dot = strchr(slash ? slash : path, '.');
    size_t stem = dot ? (size_t)(dot - path) : strlen(path);
    snprintf(out, bytes, "%.*s-slow%d%s", (int)stem, path, number, dot ? dot : ".pftrace");
}

static void on_slow(void *user, struct trace_ring *ring, const struct step_sample *step)
{
    struct recording *recording = user;
    char path[4096];
    struct trace_writer_options options = recording->options;
    slow_path(path, sizeof path, options.path, ++recording->n_dumps);
    options.path = path;
    options.failed = NULL;    // a dump that fails is told here
    int error = trace_ring_dump(ring, &options);
    double took_ms = (double)step->duration_ns * 1e-6;
    if (error) {
        recording->error = recording->error ? recording->error : error;
        fprintf(stderr, "clsa %s: step %lld took %.2f ms, but %s\n", recording->command, (long long)step->step, took_ms,
                status_text());
    } else {
        fprintf(stderr, "clsa %s: step %lld took %.2f ms: see %s\n", recording->command, (long long)step->step, took_ms,
                path);
    }
}

static int open_sink(struct recording *recording)
{
    const struct recording_flags *flags = &recording->flags;
    if (flags->ring_s > 0) {
        struct trace_ring_options options = {
            .keep_ns = (int64_t)(flags->ring_s * 1e9),
            .slow_step_ns = (int64_t)(flags->slow_step_ms * 1e6),
            .slow = on_slow,
            .user = recording,
        };
        return trace_ring_open(&recording->ring, &options);
    }
    return trace_writer_open(&recording->writer, &recording->options);
}

int recording_open(struct recording **out, const struct recording_flags *flags, const char *command, const char *device,
                   int32_t threads)
{
    *out = NULL;
    if (flags->ring_s > 0 && flags->live) {
        return status_fail(-EINVAL, "--live and --ring exclude each other: a ring is written at its end");
    }
    if (flags->slow_step_ms > 0 && !(flags->ring_s > 0)) {
        return status_fail(-EINVAL, "--slow-step writes what --ring SECONDS keeps: give both");
    }
    struct recording *recording = calloc(1, sizeof *recording);
    if (!recording) {
        return status_fail(-ENOMEM, "out of memory for a recording");
    }
    char *name = NULL;
    recording->command = command;
    recording->flags = *flags;
    recording->options = (struct trace_writer_options){
        .path = flags->out, .in_place = flags->live, .gzip = flags->gzip, .ceilings = ceilings_of, .failed = on_failure,
        .user = recording,
    };
    if (asprintf(&name, "clsa %s", command) < 0) {
        free(recording);
        return status_fail(-ENOMEM, "out of memory for a recording");
    }
    recording->options.command = name;
    int error = trace_rates_open(&recording->rates, &(struct trace_rates_options){0});
    if (!error && strncmp(device, "cuda", 4) != 0) {
        error = device_measure_host(&recording->host, threads);
        recording->host_known = !error;
    }
    error = error ? error : open_sink(recording);
    if (error) {
        recording_close(recording, NULL);
        return error;
    }
    *out = recording;
    return 0;
}

struct sample_sink recording_sink(struct recording *recording)
{
    return recording->ring ? trace_ring_sink(recording->ring) : trace_writer_sink(recording->writer);
}

int recording_close(struct recording *recording, bool *told)
{
    if (!recording) {
        return 0;
    }
    int error = 0;
    char why[512] = "";
    if (recording->ring) {
        recording->options.failed = NULL;    // nothing goes on behind this
        error = trace_ring_dump(recording->ring, &recording->options);
        snprintf(why, sizeof why, "%s", error ? status_text() : "");
    }
    int closed = recording->ring ? trace_ring_close(recording->ring) : trace_writer_close(recording->writer);
    error = error ? status_fail(error, "%s", why) : closed;    // closing may have dumped once more, and failed too
    if (told) {
        *told = recording->told || (!error && recording->error);
    }
    error = error ? error : recording->error;
    trace_rates_close(recording->rates);
    free((char *)(uintptr_t)recording->options.command);
    free(recording);
    return error;
}
