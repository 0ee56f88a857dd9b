// tests/bench/bench_trace.c - how fast traces are written and read, and how large they are.
//
// An event is one begin or end of a slice; stages carry all their annotations. 40 stages a step, as in a 4-layer model.
// Writing is timed from the first sample to the closed and renamed file, on a file system in memory where /dev/shm is one.
// Appends to tests/bench/results.tsv; run from the top of the checkout.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/status.h"
#include "traces/trace.h"

enum { ROUNDS = 7, STEPS = 12500, STAGES = 39, EVENTS = STEPS * (STAGES + 1) * 2 };

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static bool ceilings_of(void *user, const struct sample_source *source, struct trace_ceilings *out)
{
    (void)user, (void)source;
    *out = (struct trace_ceilings){.bytes_per_s = 3e12};
    for (int32_t i = 0; i < DTYPE_COUNT; i++) {
        out->flops_per_s[i] = 6e14;
    }
    return true;
}

static int write_trace(const char *path, int64_t *bytes)
{
    struct trace_writer *writer;
    struct trace_writer_options options = {.path = path, .command = "bench_trace", .ceilings = ceilings_of};
    int error = trace_writer_open(&writer, &options);
    if (error) {
        return error;
    }
    struct sample_sink sink = trace_writer_sink(writer);
    struct sample_source source = {.id = 0, .method = "clsa", .model = "bench", .device = "host", .n_layers = 4};
    sink.source(sink.user, &source);
    int64_t at_ns = 1700000000000000;    // of the size that a machine up for weeks has
    for (int64_t s = 0; s < STEPS; s++) {
        int64_t begin_ns = at_ns;
        for (int32_t i = 0; i < STAGES; i++) {
            struct stage_sample stage = {
                .step = s, .phase = PHASE_DECODE, .stage = (enum stage)(i % STAGE_COUNT), .layer = i / 10, .n_seqs = 8,
                .n_tokens = 8, .context_tokens = (int32_t)(32768 + s), .bytes = 123456789 + i, .flops = 9876543210 + i,
                .begin_ns = at_ns, .duration_ns = 25000,
            };
            sink.stage(sink.user, &stage);
            at_ns += 25100;
        }
        struct step_sample step = {
            .step = s, .phase = PHASE_DECODE, .n_seqs = 8, .n_tokens = 8, .context_tokens = (int32_t)(32768 + s),
            .begin_ns = begin_ns, .duration_ns = at_ns - begin_ns,
        };
        sink.step(sink.user, &step);
        at_ns += 500;
    }
    error = trace_writer_flush(writer);
    *bytes = trace_writer_bytes(writer);
    int closed = trace_writer_close(writer);
    return error ? error : closed;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void first_line(char *out, int bytes, const char *command)
{
    FILE *pipe = popen(command, "r");
    if (!pipe || !fgets(out, bytes, pipe)) {
        snprintf(out, (size_t)bytes, "unknown");
    }
    out[strcspn(out, "\n\t")] = 0;
    if (pipe) {
        pclose(pipe);
    }
}

static void report(const char *quantity, double *values, int n, const char *unit)
{
    char device[128], commit[64], date[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &utc));
    first_line(device, sizeof device, "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null");
    first_line(commit, sizeof commit, "git rev-parse --short HEAD 2>/dev/null");
    qsort(values, (size_t)n, sizeof *values, compare);
    double median = values[n / 2], spread = values[n - 1] - values[0];
    printf("%-12s %12.0f %s, slowest to fastest %.0f, %d rounds of %d events\n", quantity, median, unit, spread, n, EVENTS);
    FILE *results = fopen("tests/bench/results.tsv", "ae");
    if (!results) {
        fprintf(stderr, "bench_trace: tests/bench/results.tsv cannot be written; run from the top of the checkout\n");
        return;
    }
    fprintf(results, "%s\t%s\t%s\t-\tbench_trace\t-\t-\t-\t-\t%s\t%.6g\t%.3g\t-\t%s\n", date, commit, device, quantity, median,
            spread, unit);
    fclose(results);
}

int main(void)
{
    char path[64];
    snprintf(path, sizeof path, "%s/bench_trace-%ld.pftrace", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
             (long)getpid());
    double writes[ROUNDS], reads[ROUNDS], size;
    int64_t bytes = 0;
    int error = write_trace(path, &bytes);    // not counted: warms up
    for (int i = 0; i < ROUNDS && !error; i++) {
        double begin_s = now_s();
        error = write_trace(path, &bytes);
        writes[i] = EVENTS / (now_s() - begin_s);
        begin_s = now_s();
        error = error ? error : trace_read(path, NULL, NULL);
        reads[i] = EVENTS / (now_s() - begin_s);
    }
    unlink(path);
    if (error) {
        fprintf(stderr, "bench_trace: %s\n", status_text());
        return 1;
    }
    size = (double)bytes / EVENTS;
    report("trace_write", writes, ROUNDS, "events/s");
    report("trace_read", reads, ROUNDS, "events/s");
    report("trace_bytes", &size, 1, "B/event");
    return 0;
}
