// tests/bench/bench_dashboard.c - what the dashboard costs, how soon it answers, and what it costs the engine beside
// it.
//
// `clsa top` runs on pseudo-terminals whose output is read at once and not interpreted (tests/bench/pty.h). Parts:
//   open        a trace of --events begins and ends of slices, as `clsa profile` writes them: until its first frame,
//               and until all of it is shown (--speed max); then zooming and panning over it, key by key
//   idle        CPU time of the dashboard when nothing happens, at 10 frames/s; from a key to the end of its frame
//   live        with an engine in the process: CPU time of the dashboard's thread in each view, frames per second, and
//               from a key to the end of its frame
//   attached    an engine in this process that listens, as `clsa run --listen` does: decode rate while `clsa top
//               --attach` looks on against the turns before and after, in which nobody does; and what the looker uses
// Prints each figure beside its target (TARGETS), appends rows to tests/bench/results.tsv; run from the top of the
// checkout.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/measure.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "tests/bench/pty.h"
#include "traces/trace.h"
#include "tui/listen.h"
#include "tests/bench/results.h"

enum { MAX_VALUES = 4096, MAX_TURNS = 64, STAGES = 39, VIEWS = 8, ANSWER_TOKENS = 1 << 15, LAST_TOKENS = 1 << 11 };
static const double patience_s = 60;

// Targets of the figures that have one; all are upper limits but for the frames.
#define TARGETS                                                                                                        \
    "dashboard: 10 frames/s at <= 2% of one core when idle, <= 5% live; key to redraw <= 30 ms;"                       \
    " 1 M events open in <= 2 s; engine within 1%"

// What is drawn only by a frame of that view: its tab, whose look changes when it is chosen.
static const char *const view_tabs[VIEWS] = {"Overview", "Compare", "Stages", "Timeline",
                                             "Roofline", "What-if", "Requests", "Routing"};

struct values {
    double value[MAX_VALUES];
    int32_t n;
};

struct bench {
    const char *clsa, *parts, *model, *methods, *device;
    struct results results;
    int32_t context, batch, threads, turns, rows, cols;
    int64_t events;
    double seconds;
    char device_name[SOURCE_NAME_BYTES], trace_path[64], socket_path[64];
    bool failed;
};

// ---------------------------------------------------------------------------------------------------------------------
// Figures

static void add(struct values *values, double value)
{
    if (values->n < MAX_VALUES) {
        values->value[values->n++] = value;
    }
}

// A row: the median, and as spread the range. `worst` is printed too.
static void report(struct bench *bench, const char *quantity, struct values *values, const char *unit,
                   const char *target)
{
    if (values->n == 0) {
        return;
    }
    sort_doubles(values->value, values->n);
    double median = values->value[values->n / 2], least = values->value[0], most = values->value[values->n - 1];
    printf("%-28s %9.4g %-8s least %.4g, most %.4g, of %d%s%s\n", quantity, median, unit, least, most, values->n,
           *target ? "; target " : "", target);
    fflush(stdout);
    char name[64];
    snprintf(name, sizeof name, "dashboard.%s", quantity);
    results_add(&bench->results, &(struct result){.device = bench->device_name,
                                                  .command = "bench_dashboard",
                                                  .model = bench->model,
                                                  .method = bench->methods,
                                                  .context = bench->context,
                                                  .sequences = bench->batch,
                                                  .quantity = name,
                                                  .median = median,
                                                  .spread = most - least,
                                                  .floor = NAN,
                                                  .unit = unit});
}

static void fail(struct bench *bench, const char *what)
{
    printf("FAILED: %s\n", what);
    bench->failed = true;
}

static void sleep_s(double seconds)
{
    struct timespec time = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

// ---------------------------------------------------------------------------------------------------------------------
// A trace

static void send_step(const struct sample_sink *sink, int64_t step, int64_t begin_ns)
{
    int32_t context = (int32_t)(2048 + step % 8192);
    enum phase phase = step % 256 < 8 ? PHASE_PREFILL : PHASE_DECODE;
    for (int32_t i = 0; i < STAGES; i++) {
        struct stage_sample stage = {
            .step = step, .phase = phase, .stage = (enum stage)(i % STAGE_COUNT), .layer = i / 4 - 1, .n_seqs = 8,
            .n_tokens = 8, .context_tokens = context, .bytes = 123456789 + i, .flops = 9876543210 + i,
            .begin_ns = begin_ns + 25100 * i, .duration_ns = 20000 + (step * 7919 + i * 104729) % 5000,
        };
        sink->stage(sink->user, &stage);
    }
    struct step_sample sample = {.step = step, .phase = phase, .n_seqs = 8, .n_tokens = 8, .context_tokens = context,
                                 .begin_ns = begin_ns, .duration_ns = 25100 * STAGES};
    sink->step(sink->user, &sample);
}

// As the processor calls itself in traces: the dashboard then measures this machine's rates for floors.
static void processor_name(char *out, size_t bytes)
{
    char line[256];
    FILE *stream = fopen("/proc/cpuinfo", "re");
    snprintf(out, bytes, "CPU");
    while (stream && fgets(line, sizeof line, stream)) {
        char name[64];
        if (sscanf(line, "model name : %63[^\n]", name) == 1) {
            snprintf(out, bytes, "%s, %d threads", name, (int)sysconf(_SC_NPROCESSORS_ONLN));
            break;
        }
    }
    if (stream) {
        fclose(stream);
    }
}

static int write_trace(struct bench *bench)
{
    struct trace_writer *writer;
    struct trace_writer_options options = {.path = bench->trace_path, .command = "bench_dashboard"};
    int error = trace_writer_open(&writer, &options);
    if (error) {
        return error;
    }
    struct sample_sink sink = trace_writer_sink(writer);
    struct sample_source source = {.method = "clsa", .model = "bench-100m", .backend = "cpu", .n_layers = 10,
                                   .top_k = 256,
                                   .unit_tokens = 1, .index_sets = 1, .window_tokens = 128, .page_tokens = 16,
                                   .threads = (int32_t)sysconf(_SC_NPROCESSORS_ONLN)};
    processor_name(source.device, sizeof source.device);
    sink.source(sink.user, &source);
    int64_t at_ns = 1700000000000000, steps = bench->events / (2 * (STAGES + 1));
    struct request_sample request = {.prompt_tokens = 2048, .output_tokens = 0, .step = -1, .time_ns = at_ns};
    for (int64_t s = 0; s < steps; s++, at_ns += 1000000) {
        request.time_ns = at_ns;
        if (s % 256 == 0) {
            request = (struct request_sample){.request = s / 256, .state = REQUEST_SUBMITTED, .prompt_tokens = 2048,
                                              .step = -1, .time_ns = at_ns};
            sink.request(sink.user, &request);
            request.state = REQUEST_RUNNING;
            request.step = s;
            sink.request(sink.user, &request);
        } else if (s % 256 == 8 || s % 256 == 255) {
            request.state = s % 256 == 8 ? REQUEST_FIRST_TOKEN : REQUEST_FINISHED;
            request.output_tokens = (int32_t)(s % 256 - 7);
            request.step = s;
            sink.request(sink.user, &request);
        }
        send_step(&sink, s, at_ns);
    }
    return trace_writer_close(writer);
}

// ---------------------------------------------------------------------------------------------------------------------
// Keys

// From the key to the end of the frame that it led to, in ms; negative where none came.
static double answer_ms(struct pty *pty, const char *keys, const char *text)
{
    double begin_s = pty_now_s();
    pty_send(pty, keys);
    double end_s = pty_drawn(pty, text, 2);
    return end_s > 0 ? (end_s - begin_s) * 1e3 : -1;
}

static void press(struct bench *bench, struct pty *pty, const char *keys, const char *text, struct values *into)
{
    char what[128];
    double ms = answer_ms(pty, keys, text);
    snprintf(what, sizeof what, "no frame%s%s after a key", text ? " with " : "", text ? text : "");
    if (ms < 0) {
        fail(bench, what);
    } else {
        add(into, ms);
    }
}

static void press_views(struct bench *bench, struct pty *pty, int32_t rounds, struct values *into)
{
    for (int32_t i = 0; i < rounds * VIEWS; i++) {
        char key[2] = {(char)('1' + (i + 1) % VIEWS), 0};
        press(bench, pty, key, view_tabs[(i + 1) % VIEWS], into);
        sleep_s(0.037);    // somewhere else in the period of frames each time
    }
}

// Zooms in step by step; pans there and back at each zoom, where four pans have room. Keys come as fast as a keyboard
// repeats them.
static void pan(struct bench *bench, struct pty *pty)
{
    struct values pans = {0}, zooms = {0};
    press(bench, pty, "4", "Timeline", &zooms);
    zooms.n = 0;
    for (int32_t zoom = 0; zoom < 12; zoom++) {
        press(bench, pty, "+", NULL, &zooms);
        for (int32_t i = 0; i < (zoom >= 3 ? 16 : 0); i++) {
            press(bench, pty, i / 4 % 3 == 0 ? "<" : ">", NULL, &pans);    // 4 back, 8 forth, 4 back
            sleep_s(0.02);
        }
    }
    press(bench, pty, "w", NULL, &zooms);
    report(bench, "zoom", &zooms, "ms", "<= 30");
    report(bench, "pan", &pans, "ms", "<= 30");
}

// ---------------------------------------------------------------------------------------------------------------------
// The parts

static struct pty *replay(struct bench *bench, const char *speed)
{
    char *const argv[] = {(char *)bench->clsa, "top", "--replay", bench->trace_path, "--speed", (char *)speed, NULL};
    return pty_open(argv, bench->rows, bench->cols);
}

// Percent of a core over `seconds`, and the frames in them per second.
static double load(struct pty *pty, bool main_thread_only, double seconds, double *frames_per_s)
{
    int64_t frames = pty_frames(pty);
    double begin_s = pty_now_s(), cpu_s = pty_cpu_s(pty, main_thread_only);
    sleep_s(seconds);
    double passed_s = pty_now_s() - begin_s;
    *frames_per_s = (double)(pty_frames(pty) - frames) / passed_s;
    return 100 * (pty_cpu_s(pty, main_thread_only) - cpu_s) / passed_s;
}

static int part_open(struct bench *bench)
{
    struct values first = {0}, shown = {0};
    struct pty *pty = NULL;
    for (int32_t i = 0; i < 10; i++) {
        bool all = i % 2 == 1;
        double begin_s = pty_now_s();
        pty_close(pty);
        begin_s = pty_now_s();
        pty = replay(bench, all ? "max" : "1");
        double end_s = pty ? pty_drawn(pty, all ? "ended" : "Overview", patience_s) : -1;
        if (end_s < 0) {
            fail(bench, "the trace is not shown");
            break;
        }
        add(all ? &shown : &first, end_s - begin_s);
    }
    report(bench, "open_first_frame", &first, "s", "<= 2");
    report(bench, "open_all_shown", &shown, "s", "<= 2");
    if (pty && !bench->failed) {
        pan(bench, pty);
    }
    return pty_close(pty);
}

static int part_idle(struct bench *bench)
{
    struct values percent = {0}, keys = {0};
    double frames;
    struct pty *pty = replay(bench, "max");
    if (!pty || pty_drawn(pty, "ended", patience_s) < 0) {
        fail(bench, "the trace is not shown");
        return pty_close(pty);
    }
    sleep_s(4);    // the machine's rates are measured
    for (int view = 0; view < VIEWS; view++) {
        char key[2] = {(char)('1' + (view + 1) % VIEWS), 0};
        press(bench, pty, key, view_tabs[(view + 1) % VIEWS], &keys);
        add(&percent, load(pty, false, bench->seconds / 2, &frames));
    }
    keys.n = 0;
    press_views(bench, pty, 12, &keys);
    struct values knobs = {0};
    press(bench, pty, "6", "What-if", &knobs);
    knobs.n = 0;
    for (int32_t i = 0; i < 60; i++) {    // down the knobs, each changed there and back
        press(bench, pty, i % 3 == 0 ? "j" : i % 3 == 1 ? "+" : "-", NULL, &knobs);
    }
    report(bench, "key_whatif", &knobs, "ms", "<= 50");
    report(bench, "idle", &percent, "percent", "<= 2");
    report(bench, "key_idle", &keys, "ms", "<= 30");
    return pty_close(pty);
}

static int part_live(struct bench *bench)
{
    char context[16], batch[16], threads[16], quantity[64];
    struct values percent = {0}, rates = {0}, keys = {0};
    snprintf(context, sizeof context, "%d", bench->context);
    snprintf(batch, sizeof batch, "%d", bench->batch);
    snprintf(threads, sizeof threads, "%d", bench->threads);
    char *argv[] = {(char *)bench->clsa, "top", "--model", (char *)bench->model, "--method", (char *)bench->methods,
                    "--device", (char *)bench->device, "--context", context, "--batch", batch, "--output", "4096",
                    bench->threads ? "--threads" : NULL, threads, NULL};
    struct pty *pty = pty_open(argv, bench->rows, bench->cols);
    if (!pty || pty_drawn(pty, "decode", 2 * patience_s) < 0) {
        fail(bench, "the live dashboard shows no decode step");
        return pty_close(pty);
    }
    sleep_s(2);
    for (int view = 0; view < VIEWS; view++) {
        char key[2] = {(char)('1' + (view + 1) % VIEWS), 0};
        double frames;
        press(bench, pty, key, view_tabs[(view + 1) % VIEWS], &keys);
        struct values one = {0};
        add(&one, load(pty, true, bench->seconds, &frames));
        add(&percent, one.value[0]);
        add(&rates, frames);
        snprintf(quantity, sizeof quantity, "live.%s", view_tabs[(view + 1) % VIEWS]);
        report(bench, quantity, &one, "percent", "<= 5");
    }
    keys.n = 0;
    press_views(bench, pty, 12, &keys);
    report(bench, "live", &percent, "percent", "<= 5");
    report(bench, "live_frames", &rates, "1/s", "10, as drawn where something changed");
    report(bench, "key_live", &keys, "ms", "<= 30");
    return pty_close(pty);
}

// An engine, its listener, and a batch that decodes.
struct engine_beside {
    struct model_file *file;
    struct plan plan;
    struct collector *collector;
    struct listener *listener;
    struct engine *engine;
};

static int open_engine(struct engine_beside *beside, struct bench *bench, const char *method)
{
    const struct plan_flags flags = plan_flags_default();
    const struct engine_output *outputs;
    char backend[32];
    int32_t number = 0, *prompt = calloc((size_t)bench->context, sizeof *prompt), answer = ANSWER_TOKENS;
    int error = prompt ? 0 : status_fail(-ENOMEM, "out of memory");
    error = error ? error : command_model_open(&beside->file, bench->model, method, &flags, 1);
    error = error ? error : command_plan_build(&beside->plan, beside->file, method, &flags);
    error = error ? error : listener_open(&beside->listener, bench->socket_path);
    struct sample_sink sink = error ? (struct sample_sink){0} : listener_sink(beside->listener);
    error = error ? error : collect_open(&beside->collector, COLLECT_STAGE, &sink);
    error = error ? error : measure_device(backend, sizeof backend, &number, bench->device);
    struct engine_options options = {.plan = &beside->plan, .model = beside->file, .backend = backend, .device = number,
                                     .threads = bench->threads, .max_seqs = bench->batch,
                                     .max_context = bench->context + answer,
                                     .max_step_tokens = measure_chunk(bench->device)};
    options.observer = error ? NULL : collector_observer(beside->collector);
    error = error ? error : engine_open(&beside->engine, &options);
    for (int32_t t = 0; !error && t < bench->context; t++) {
        prompt[t] = 'a' + t * 7919 % 26;
    }
    struct sample_source source;
    if (!error) {
        engine_source(beside->engine, &source);
        collector_set_source(beside->collector, &source);
        snprintf(bench->device_name, sizeof bench->device_name, "%s", source.device);
    }
    for (int32_t i = 0; i < bench->batch && !error; i++) {
        struct engine_request request = {.prompt = prompt, .n_prompt = bench->context, .max_output_tokens = answer};
        int64_t id;
        error = engine_submit(beside->engine, &request, &id);
    }
    while (!error && engine_stats(beside->engine).output_tokens < bench->batch * 16) {
        int n = engine_step(beside->engine, &outputs);
        error = n < 0 ? n : 0;
    }
    free(prompt);
    return error;
}

static void close_engine(struct engine_beside *beside)
{
    engine_close(beside->engine);
    collector_close(beside->collector);
    listener_close(beside->listener);
    model_file_close(beside->file);
}

static double thread_s(void)
{
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec * 1e-9;
}

// Decodes for `seconds`; the mean step in ms, negative where the engine fails. *cpu_ms: what of it this thread worked,
// which a machine that others use disturbs less.
static double turn_ms(struct engine_beside *beside, double seconds, double *cpu_ms)
{
    const struct engine_output *outputs;
    double begin_s = pty_now_s(), end_s = begin_s, begin_cpu_s = thread_s();
    int64_t steps = 0;
    for (; end_s - begin_s < seconds; end_s = pty_now_s(), steps++) {
        if (engine_step(beside->engine, &outputs) < 0) {
            return -1;
        }
    }
    *cpu_ms = (thread_s() - begin_cpu_s) * 1e3 / (double)steps;
    return (end_s - begin_s) * 1e3 / (double)steps;
}

// Nobody, somebody, nobody, ...: each turn with a looker against the two without that stand around it.
static int part_attached(struct bench *bench, const char *method)
{
    struct engine_beside beside = {0};
    struct values percent = {0}, cpu_percent = {0}, looker = {0}, steps = {0};
    double ignored, alone_cpu_ms = 0, with_cpu_ms, after_cpu_ms;
    char *const argv[] = {(char *)bench->clsa, "top", "--attach", bench->socket_path, NULL};
    int error = open_engine(&beside, bench, method);
    double alone_ms = error ? -1 : turn_ms(&beside, bench->seconds, &alone_cpu_ms);
    for (int32_t turn = 0; turn < bench->turns && !error && alone_ms > 0; turn++) {
        struct pty *pty = pty_open(argv, bench->rows, bench->cols);
        turn_ms(&beside, 1, &ignored);    // it draws its first frames
        double cpu_s = pty ? pty_cpu_s(pty, false) : -1, begin_s = pty_now_s();
        int64_t frames = pty ? pty_frames(pty) : 0;
        double with_ms = turn_ms(&beside, bench->seconds, &with_cpu_ms);
        if (pty) {
            double passed_s = pty_now_s() - begin_s;
            add(&looker, 100 * (pty_cpu_s(pty, false) - cpu_s) / passed_s);
            if ((double)(pty_frames(pty) - frames) / passed_s < 5) {
                fail(bench, "the attached dashboard draws less than 5 frames/s");
            }
        }
        pty_close(pty);
        turn_ms(&beside, 0.5, &ignored);
        double after_ms = turn_ms(&beside, bench->seconds, &after_cpu_ms);
        if (cpu_s < 0 || with_ms < 0 || after_ms < 0) {
            fail(bench, "the engine or its looker ended");
            break;
        }
        add(&percent, 100 * (with_ms / ((alone_ms + after_ms) / 2) - 1));
        add(&cpu_percent, 100 * (with_cpu_ms / ((alone_cpu_ms + after_cpu_ms) / 2) - 1));
        add(&steps, after_ms);
        alone_ms = after_ms;
        alone_cpu_ms = after_cpu_ms;
        // A turn takes as many tokens as the ones before it: no answer may end within one.
        int64_t tokens = engine_stats(beside.engine).output_tokens / bench->batch;
        if (tokens + tokens / (turn + 1) > ANSWER_TOKENS - LAST_TOKENS) {
            break;
        }
    }
    if (!error) {
        const char *methods = bench->methods;
        bench->methods = method;
        report(bench, "decode_step_unattached", &steps, "ms", "");
        report(bench, "attached_slowdown", &percent, "percent", "<= 1");
        report(bench, "attached_engine_cpu", &cpu_percent, "percent", "");
        report(bench, "attached", &looker, "percent", "<= 5");
        bench->methods = methods;
    }
    close_engine(&beside);
    return error;
}

static int run(struct bench *bench)
{
    processor_name(bench->device_name, sizeof bench->device_name);
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(bench->trace_path, sizeof bench->trace_path, "%s/clsa-dashboard-%d.pftrace", folder, (int)getpid());
    snprintf(bench->socket_path, sizeof bench->socket_path, "/tmp/clsa-dashboard-%d.socket", (int)getpid());
    int error = results_open(&bench->results);
    if (error) {
        return error;
    }
    printf("%s; %s %s on %s, %d x %d cells, %s\n", TARGETS, bench->model, bench->methods, bench->device, bench->cols,
           bench->rows, bench->device_name);
    bool trace = strstr(bench->parts, "open") || strstr(bench->parts, "idle");
    error = trace ? write_trace(bench) : 0;
    if (!error && strstr(bench->parts, "open")) {
        part_open(bench);
    }
    if (!error && strstr(bench->parts, "idle")) {
        part_idle(bench);
    }
    if (!error && strstr(bench->parts, "live")) {
        part_live(bench);
    }
    if (!error && strstr(bench->parts, "attached")) {
        char list[256];
        snprintf(list, sizeof list, "%s", bench->methods);
        for (char *name = strtok(list, ","); name && !error; name = strtok(NULL, ",")) {
            error = part_attached(bench, name);
        }
    }
    unlink(bench->trace_path);
    error = results_close(&bench->results, error);
    return error ? error : bench->failed ? status_fail(-EIO, "some figures are missing; see above") : 0;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.clsa = "build/clsa",
                                 .parts = "open,idle,live,attached",
                                 .model = "demo-8m",
                                 .methods = "clsa,dense",
                                 .device = "cpu",
                                 .results = RESULTS_DEFAULT,
                                 .context = 2048,
                                 .batch = 1,
                                 .turns = 5,
                                 .rows = 40,
                                 .cols = 120,
                                 .events = 1000000,
                                 .seconds = 4};
    const struct option_spec options[] = {
        {"clsa", OPTION_TEXT, &bench.clsa, 0, 0, "FILE", "the program"},
        {"parts", OPTION_TEXT, &bench.parts, 0, 0, "P,P,...", "open, idle, live, attached"},
        {"model", OPTION_TEXT, &bench.model, 0, 0, "NAME", "of the engines"},
        {"methods", OPTION_TEXT, &bench.methods, 0, 0, "M,M,...", "live: in turn; attached: one after the other"},
        {"device", OPTION_TEXT, &bench.device, 0, 0, "cpu|cuda[:N]", "backend of the engines"},
        {"context", OPTION_INT, &bench.context, 16, 1 << 24, "tokens", "of each sequence"},
        {"batch", OPTION_INT, &bench.batch, 1, 1024, "sequences", "decoded together"},
        {"threads", OPTION_INT, &bench.threads, 0, 1024, "threads", "of the engines; 0: all"},
        {"rows", OPTION_INT, &bench.rows, 12, 500, "rows", "of the terminal"},
        {"cols", OPTION_INT, &bench.cols, 40, 1000, "columns", "of the terminal"},
        {"events", OPTION_LONG, &bench.events, 1000, 1e9, "events", "of the trace: begins and ends of slices"},
        {"seconds", OPTION_REAL, &bench.seconds, 0.5, 600, "s", "of each turn"},
        {"turns", OPTION_INT, &bench.turns, 1, MAX_TURNS, "turns", "with somebody attached"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_dashboard", "What the dashboard costs.", NULL, 0, 0, options};
    int32_t n_positional;
    setvbuf(stdout, NULL, _IOLBF, 0);    // what was measured is told even if the rest is cut off
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&bench);
    return bench_end("bench_dashboard", error);
}
