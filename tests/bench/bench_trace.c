// tests/bench/bench_trace.c - how fast traces are written and read, and how large they are.
//
// An event is one begin or end of a slice; stages carry all their annotations. A step of 39 stages is that of a 4-layer
// model; with kernels, 300 of them were launched at once, as a decode step of 32 layers does.
// Writing is timed from the first sample to the closed and renamed file, on a file system in memory where /dev/shm is
// one. Appends to tests/bench/results.tsv; run from the top of the checkout.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/sort.h"
#include "engine/status.h"
#include "traces/trace.h"
#include "tests/bench/results.h"

enum { ROUNDS = 7, STAGES = 39, KERNELS = 300, EVENTS = 1000000 };

// Two kinds of traces: stages alone, and with kernels and launches beside them.
struct variant {
    const char *name;       // behind the quantity's
    const char *suffix;     // of the file
    bool kernels;
};
static const struct variant variants[] = {
    {"", ".pftrace", false},
    {"_gzip", ".pftrace.gz", false},
    {"_kernels", ".pftrace", true},
};

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

static void send_kernels(const struct sample_sink *sink, int64_t step, int64_t begin_ns)
{
    static const char *const names[] = {"_ZN4clsa12index_scoresILi128EEvPKfS1_Pf",
                                        "_ZN4clsa9attentionILi128ELi64EEvPKvPv"};
    struct launch_sample launch = {0, (uint32_t)step + 1, "cudaGraphLaunch", step, 4711, begin_ns, 5000};
    sink->launch(sink->user, &launch);
    for (int32_t i = 0; i < KERNELS; i++) {
        struct kernel_sample kernel = {
            .step = step,
            .phase = PHASE_DECODE,
            .stage = (enum stage)(i % STAGE_COUNT),
            .layer = i / 10,
            .name = names[i % 2],
            .context = 1,
            .stream = 7,
            .launch = launch.launch,
            .grid = {132, 8, 1},
            .block = {256, 1, 1},
            .registers = 96,
            .static_shared_bytes = 4096,
            .begin_ns = begin_ns + 3000 * i,
            .duration_ns = 2900,
        };
        sink->kernel(sink->user, &kernel);
    }
}

static void send_step(const struct sample_sink *sink, int64_t step, int64_t begin_ns)
{
    int32_t context = (int32_t)(32768 + step);
    for (int32_t i = 0; i < STAGES; i++) {
        struct stage_sample stage = {
            .step = step, .phase = PHASE_DECODE, .stage = (enum stage)(i % STAGE_COUNT), .layer = i / 10, .n_seqs = 8,
            .n_tokens = 8, .context_tokens = context, .bytes = 123456789 + i, .flops = 9876543210 + i,
            .begin_ns = begin_ns + 25100 * i, .duration_ns = 25000,
        };
        sink->stage(sink->user, &stage);
    }
    struct step_sample sample = {
        .step = step,
        .phase = PHASE_DECODE,
        .n_seqs = 8,
        .n_tokens = 8,
        .context_tokens = context,
        .begin_ns = begin_ns,
        .duration_ns = 25100 * STAGES,
    };
    sink->step(sink->user, &sample);
}

static int write_trace(const struct variant *variant, const char *path, double *bytes)
{
    struct trace_writer *writer;
    struct trace_writer_options options = {.path = path, .command = "bench_trace", .ceilings = ceilings_of};
    int error = trace_writer_open(&writer, &options);
    if (error) {
        return error;
    }
    struct sample_sink sink = trace_writer_sink(writer);
    struct sample_source source = {.id = 0, .method = "clsa", .model = "bench", .device = "host", .n_layers = 32};
    sink.source(sink.user, &source);
    int64_t at_ns = 1700000000000000;    // of the size that a machine up for weeks has
    int64_t events_per_step = 2 * (STAGES + 1 + (variant->kernels ? KERNELS + 1 : 0));
    for (int64_t s = 0; s < EVENTS / events_per_step; s++) {
        send_step(&sink, s, at_ns);
        if (variant->kernels) {
            send_kernels(&sink, s, at_ns);
        }
        at_ns += 1000000;
    }
    error = trace_writer_close(writer);
    struct stat info;
    if (!error && stat(path, &info) == 0) {
        *bytes = (double)info.st_size / EVENTS;
    }
    return error;
}

static void report(struct results *results, const char *quantity, double *values, int n, const char *unit)
{
    char device[128];
    first_line(device, sizeof device, "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null");
    sort_doubles(values, n);
    double median = values[n / 2], spread = values[n - 1] - values[0];
    printf("%-20s %12.4g %s, slowest to fastest %.0f, %d rounds of %d events\n", quantity, median, unit, spread, n,
           EVENTS);
    results_add(results, &(struct result){.device = device,
                                          .command = "bench_trace",
                                          .quantity = quantity,
                                          .median = median,
                                          .spread = spread,
                                          .floor = NAN,
                                          .unit = unit});
}

static int measure(struct results *results, const struct variant *variant)
{
    char path[96], quantity[64];
    snprintf(path, sizeof path, "%s/bench_trace-%ld%s", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
             (long)getpid(), variant->suffix);
    double writes[ROUNDS], reads[ROUNDS], size = 0;
    int error = write_trace(variant, path, &size);    // not counted: warms up
    for (int i = 0; i < ROUNDS && !error; i++) {
        double begin_s = now_s();
        error = write_trace(variant, path, &size);
        writes[i] = EVENTS / (now_s() - begin_s);
        begin_s = now_s();
        error = error ? error : trace_read(path, NULL, NULL);
        reads[i] = EVENTS / (now_s() - begin_s);
    }
    unlink(path);
    if (error) {
        return error;
    }
    snprintf(quantity, sizeof quantity, "trace_write%s", variant->name);
    report(results, quantity, writes, ROUNDS, "events/s");
    snprintf(quantity, sizeof quantity, "trace_read%s", variant->name);
    report(results, quantity, reads, ROUNDS, "events/s");
    snprintf(quantity, sizeof quantity, "trace_bytes%s", variant->name);
    report(results, quantity, &size, 1, "B/event");
    return 0;
}

int main(int argc, char **argv)
{
    struct results results = RESULTS_DEFAULT;
    const struct option_spec specs[] = {RESULTS_OPTIONS(results), {NULL, OPTION_END, NULL, 0, 0, NULL, NULL}};
    const struct command_spec command = {
        .name = "bench_trace", .summary = "Writing and reading traces of a million events.", .options = specs};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : results_open(&results);
    for (size_t i = 0; i < sizeof variants / sizeof *variants && !error; i++) {
        error = measure(&results, &variants[i]);
    }
    return bench_end("bench_trace", results_close(&results, error));
}
