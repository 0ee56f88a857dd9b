// tests/bench/bench_overhead.c - what collecting costs a decoding GPU, and whether it sees everything.
//
// One engine decodes one batch; the collector is exchanged between runs of steps, in turns, so that all modes see the
// same clocks. Each mode feeds a trace file, as `clsa profile` does. A row overhead.<mode> is by how many percent the
// mean step is longer than with nobody looking: the median over the turns, with their spread. Contexts grow from turn
// to turn, and steps with them: a turn is held against what the turns of nobody before and behind it say of its place
// between them. With kernels it also counts: kernels that no stage owns, records lost, and how far stages, gaps and
// overlap are from the step's own time. A row step_sum.<mode> is by how many percent stages + gaps - overlap on the
// device are more than the device's own events say of the same steps; its spread is the worst step's. With
// --stage-every 1 each step tells its stages, and what that costs it is printed, not kept as a row. A machine without a
// usable GPU is told so and nothing is measured.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/measure.h"
#include "cupti/collector.h"
#include "cupti/counters.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "traces/trace.h"
#include "tests/bench/results.h"

enum { MODES = 5, OFF_MODE = 0, STAGE_MODE = 1, KERNEL_MODE = 2, GRAPH_MODE = 3, COUNTERS_MODE = 4 };
enum { MAX_TURNS = 64, WARM_STEPS = 20, MAX_BATCHES = 8, NAMES = 32, MAX_SLICES = 1 << 16 };

static const struct {
    const char *name;
    enum collector_source source;
} modes[MODES] = {
    {"off", COLLECTOR_STEPS},       {"stage", COLLECTOR_CPU_CLOCK},    {"kernel", COLLECTOR_KERNELS},
    {"graph", COLLECTOR_GRAPHS},    {"counters", COLLECTOR_CPU_CLOCK},
};

struct slice {
    int64_t begin_ns, end_ns;
};

// What the samples of one mode say.
struct seen {
    int64_t kernels, attributed, outside, copies, launches, dropped, invalid, steps, stages, gauges;
    double overhead_us;
    char names[NAMES][128];           // of kernels without a stage
    int32_t n_names;
    struct slice slices[MAX_SLICES];  // of the stages of the step to come
    int32_t n_slices;
    double worst_sum,
        worst_cover;    // |stages + gaps - overlap - step| and step not covered, of a decode step, as shares
    double sum, gaps, overlap, step_ns;
    int64_t device_begin_ns, device_end_ns;      // of the stages on the device of the step to come; end 0: none yet
    double by_events_ns, by_stages_ns, worst_off;    // decode steps that the device timed too; worst: a share
};

struct bench {
    const char *model, *methods, *prompt, *batch_list, *mode_list;
    struct results results;
    bool chosen[MODES];
    int32_t context, steps, turns, stage_every, device;
    int32_t batches[MAX_BATCHES], n_batches, batch;    // batch: the one that runs
    int32_t *text, n_text;
    char device_name[SOURCE_NAME_BYTES];
    struct engine *engine;
    struct observer observer;         // what the engine sees: the observer of the collector that is on
    struct sample_source source;
    struct seen seen[MODES];
    double step_ms[MODES][MAX_TURNS + 1];    // off: one turn more than the others
};

// ---------------------------------------------------------------------------------------------------------------------
// What was seen

static int compare_slices(const void *left, const void *right)
{
    const struct slice *a = left, *b = right;
    return (a->begin_ns > b->begin_ns) - (a->begin_ns < b->begin_ns);
}

// The step's stages against the step: their sum, the time that none covers, the time that several do.
static void see_step(void *user, const struct step_sample *step)
{
    struct seen *seen = user;
    int64_t sum = 0, covered = 0, until = step->begin_ns, end = step->begin_ns + step->duration_ns;
    qsort(seen->slices, (size_t)seen->n_slices, sizeof *seen->slices, compare_slices);
    for (int32_t i = 0; i < seen->n_slices; i++) {
        struct slice s = seen->slices[i];
        int64_t from = s.begin_ns > until ? s.begin_ns : until, to = s.end_ns < end ? s.end_ns : end;
        sum += s.end_ns - s.begin_ns;
        covered += to > from ? to - from : 0;
        until = to > until ? to : until;
    }
    if (seen->n_slices > 1 && step->phase == PHASE_DECODE) {    // one alone is the host's: a step that told no stages
        double gaps = (double)(step->duration_ns - covered), overlap = (double)(sum - covered);
        double error = fabs((double)sum + gaps - overlap - (double)step->duration_ns) / (double)step->duration_ns;
        seen->worst_sum = error > seen->worst_sum ? error : seen->worst_sum;
        double cover = gaps / (double)step->duration_ns;
        seen->worst_cover = cover > seen->worst_cover ? cover : seen->worst_cover;
        seen->sum += (double)sum;
        seen->gaps += gaps;
        seen->overlap += overlap;
        seen->step_ns += (double)step->duration_ns;
    }
    if (step->device_ns > 0 && seen->device_end_ns > 0 && step->phase == PHASE_DECODE) {
        double by_stages_ns = (double)(seen->device_end_ns - seen->device_begin_ns);
        double off = fabs(by_stages_ns / (double)step->device_ns - 1);
        seen->by_events_ns += (double)step->device_ns;
        seen->by_stages_ns += by_stages_ns;
        seen->worst_off = off > seen->worst_off ? off : seen->worst_off;
    }
    seen->steps++;
    seen->n_slices = 0;
    seen->device_begin_ns = seen->device_end_ns = 0;
}

static void see_stage(void *user, const struct stage_sample *stage)
{
    struct seen *seen = user;
    int64_t end_ns = stage->begin_ns + stage->duration_ns;
    seen->stages++;
    if (stage->stage != STAGE_HOST) {
        bool first = seen->device_end_ns == 0 || stage->begin_ns < seen->device_begin_ns;
        seen->device_begin_ns = first ? stage->begin_ns : seen->device_begin_ns;
        seen->device_end_ns = end_ns > seen->device_end_ns ? end_ns : seen->device_end_ns;
    }
    if (seen->n_slices < MAX_SLICES) {
        seen->slices[seen->n_slices++] = (struct slice){stage->begin_ns, end_ns};
    }
}

static void see_kernel(void *user, const struct kernel_sample *kernel)
{
    struct seen *seen = user;
    int32_t n = 0;
    seen->copies += kernel->work != WORK_KERNEL;
    seen->outside += kernel->step < 0;
    if (kernel->work != WORK_KERNEL || kernel->step < 0) {
        return;
    }
    seen->kernels++;
    seen->attributed += kernel->stage != STAGE_COUNT;
    if (kernel->stage == STAGE_COUNT) {
        while (n < seen->n_names && strncmp(seen->names[n], kernel->name, sizeof seen->names[n] - 1) != 0) {
            n++;
        }
        if (n == seen->n_names && n < NAMES) {
            snprintf(seen->names[seen->n_names++], sizeof seen->names[n], "%s", kernel->name);
        }
    }
}

static void see_launch(void *user, const struct launch_sample *launch)
{
    (void)launch;
    ((struct seen *)user)->launches++;
}

static void see_gauge(void *user, const struct gauge_sample *gauge)
{
    struct seen *seen = user;
    seen->gauges++;
    seen->overhead_us += strcmp(gauge->name, "CUPTI overhead") == 0 ? gauge->value : 0;
}

static void see_loss(void *user, const struct loss_sample *loss)
{
    struct seen *seen = user;
    seen->dropped = loss->dropped;
    seen->invalid = loss->invalid;
}

// ---------------------------------------------------------------------------------------------------------------------
// Running

static int decode(struct bench *bench, int32_t n)
{
    const struct engine_output *outputs;
    int tokens = 0;
    for (int32_t i = 0; i < n && tokens >= 0; i++) {
        tokens = engine_step(bench->engine, &outputs);
    }
    return tokens < 0 ? tokens : 0;
}

// One turn of one mode: the mean step in ms.
static int turn(struct bench *bench, int mode, double *step_ms)
{
    struct collector *collector = NULL;
    struct trace_writer *writer = NULL;
    struct seen *seen = &bench->seen[mode];
    char path[64];
    snprintf(path, sizeof path, "/tmp/clsa-overhead-%d.pftrace", (int)getpid());
    struct trace_writer_options trace = {.path = path, .command = "bench_overhead"};
    int error = trace_writer_open(&writer, &trace);
    if (error) {
        return error;
    }
    struct sample_fanout fanout = {
        .sinks = {trace_writer_sink(writer),
                  {.user = seen, .step = see_step, .stage = see_stage, .kernel = see_kernel, .launch = see_launch,
                   .gauge = see_gauge, .loss = see_loss}},
        .n = 2};
    struct sample_sink sink = sample_fanout_sink(&fanout);
    struct counters *counters = NULL;
    if (mode == COUNTERS_MODE) {
        struct counters_options options = {.gpu = true, .device = bench->device, .sink = sink};
        error = counters_open(&counters, &options);
    }
    if (counters) {
        fanout.sinks[fanout.n++] = counters_sink(counters);
    }
    error = error ? error : collector_open(&collector, modes[mode].source, &sink);
    if (!error) {
        struct timespec begin, end;
        collector_set_source(collector, &bench->source);
        bench->observer = *collector_observer(collector);
        error = decode(bench, WARM_STEPS);
        clock_gettime(CLOCK_MONOTONIC, &begin);
        error = error ? error : decode(bench, bench->steps);
        clock_gettime(CLOCK_MONOTONIC, &end);
        *step_ms =
            ((double)(end.tv_sec - begin.tv_sec) * 1e3 + (double)(end.tv_nsec - begin.tv_nsec) * 1e-6) / bench->steps;
        bench->observer = (struct observer){0};
        collector_close(collector);
    }
    for (int32_t i = 0; counters && counters_note(counters, i); i++) {
        printf("not counted: %s\n", counters_note(counters, i));
    }
    counters_close(counters);
    int closed = trace_writer_close(writer);
    unlink(path);
    return error ? error : closed;
}

static void row(const struct bench *bench, const char *method, int mode, const char *quantity, double median,
                double spread)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", quantity, modes[mode].name);
    results_add(&bench->results, &(struct result){.device = bench->device_name,
                                                  .command = "bench_overhead",
                                                  .model = bench->model,
                                                  .method = method,
                                                  .context = bench->context,
                                                  .sequences = bench->batch,
                                                  .quantity = name,
                                                  .median = median,
                                                  .spread = spread,
                                                  .floor = NAN,
                                                  .unit = "percent"});
}

// A step that nobody looks at, where a mode's turn t stands: turns follow each other in the order of the modes, and all
// add as many tokens.
static double undisturbed_ms(const struct bench *bench, int mode, int32_t t)
{
    int place = 0, round = 0;
    for (int m = 0; m < MODES; m++) {
        place += bench->chosen[m] && m < mode;
        round += bench->chosen[m];
    }
    const double *off = &bench->step_ms[OFF_MODE][t];
    return off[0] + (off[1] - off[0]) * place / round;
}

static void report(struct bench *bench, const char *method, int mode)
{
    const struct seen *seen = &bench->seen[mode];
    double percent[MAX_TURNS], ms[MAX_TURNS];
    for (int32_t t = 0; t < bench->turns; t++) {
        percent[t] = 100 * (bench->step_ms[mode][t] / undisturbed_ms(bench, mode, t) - 1);
        ms[t] = bench->step_ms[mode][t];
    }
    sort_doubles(percent, bench->turns);
    sort_doubles(ms, bench->turns);
    double median = percent[bench->turns / 2], spread = percent[bench->turns * 3 / 4] - percent[bench->turns / 4];
    printf("%-6s %7d %3d %-6s %8.4f ms %+6.2f %% (spread %.2f)  steps %lld stages %lld kernels %lld, of a stage %lld; "
           "copies "
           "%lld outside %lld launches %lld dropped %lld invalid %lld CUPTI %.0f us gauges %lld\n",
           method, bench->context, bench->batch, modes[mode].name, ms[bench->turns / 2], median, spread,
           (long long)seen->steps, (long long)seen->stages, (long long)seen->kernels, (long long)seen->attributed,
           (long long)seen->copies, (long long)seen->outside, (long long)seen->launches, (long long)seen->dropped,
           (long long)seen->invalid, seen->overhead_us, (long long)seen->gauges);
    if (seen->step_ns > 0) {
        printf("       stages %.2f %% of the step, gaps %.2f %%, overlap %.2f %%; worst sum off by %.2f %%, worst gaps "
               "%.2f "
               "%%\n",
               100 * seen->sum / seen->step_ns, 100 * seen->gaps / seen->step_ns, 100 * seen->overlap / seen->step_ns,
               100 * seen->worst_sum, 100 * seen->worst_cover);
    }
    double off = seen->by_events_ns > 0 ? 100 * (seen->by_stages_ns / seen->by_events_ns - 1) : NAN;
    if (seen->by_events_ns > 0) {
        printf("       from first stage to last %+.3f %% off the device's own events; worst step %.3f %%\n", off,
               100 * seen->worst_off);
    }
    for (int32_t n = 0; n < seen->n_names; n++) {
        printf("       no stage: %s\n", seen->names[n]);
    }
    fflush(stdout);
    if (mode != OFF_MODE && bench->stage_every == 0) {    // rows are of what is shipped
        row(bench, method, mode, "overhead", median, spread);
        if (seen->by_events_ns > 0) {
            row(bench, method, mode, "step_sum", off, 100 * seen->worst_off);
        }
    }
}

// The engine, with one prompt in it.
static int fill(struct bench *bench, const struct plan *plan, struct model_file *file, int64_t *id)
{
    int32_t turns = MODES * (bench->turns + 1) * bench->n_batches, answer = turns * (bench->steps + WARM_STEPS) + 64;
    const struct engine_output *outputs;
    struct engine_options options = {.plan = plan, .model = file, .backend = "cuda", .device = bench->device,
                                     .max_seqs = bench->batches[bench->n_batches - 1],
                                     .max_context = bench->context + answer, .max_step_tokens = measure_chunk("cuda"),
                                     .stage_every = bench->stage_every, .observer = &bench->observer};
    int32_t *prompt = calloc((size_t)bench->context, sizeof *prompt);
    struct engine_request request = {.prompt = prompt, .n_prompt = bench->context, .max_output_tokens = answer};
    for (int32_t t = 0; prompt && t < bench->context; t++) {
        prompt[t] = bench->text[t % bench->n_text];
    }
    int n = 0, error = prompt ? engine_open(&bench->engine, &options) : status_fail(-ENOMEM, "out of memory");
    error = error ? error : engine_submit(bench->engine, &request, id);
    while (!error && n == 0) {
        n = engine_step(bench->engine, &outputs);
        error = n < 0 ? n : 0;
    }
    free(prompt);
    return error;
}

// As many sequences as asked for, forked from the first; then the modes in turns. The turn before them records the
// graphs: kernels first, so that their nodes' stages are known, and before all that look away, because CUPTI 13.0 does
// not bear the launch of a graph that was made while it did not look.
static int run_batch(struct bench *bench, int64_t id, const char *method)
{
    const int first[MODES] = {KERNEL_MODE, GRAPH_MODE, OFF_MODE, STAGE_MODE, COUNTERS_MODE};
    double ignored;
    int error = 0;
    while (engine_stats(bench->engine).running < bench->batch && !error) {
        int64_t other;
        error = engine_fork(bench->engine, id, &other);
    }
    for (int m = 0; m < MODES && !error; m++) {
        error = bench->chosen[first[m]] ? turn(bench, first[m], &ignored) : 0;
    }
    memset(bench->seen, 0, sizeof bench->seen);
    for (int32_t t = 0; t < bench->turns && !error; t++) {
        for (int mode = 0; mode < MODES && !error; mode++) {
            error = bench->chosen[mode] ? turn(bench, mode, &bench->step_ms[mode][t]) : 0;
        }
    }
    error = error ? error : turn(bench, OFF_MODE, &bench->step_ms[OFF_MODE][bench->turns]);
    for (int mode = 0; mode < MODES && !error; mode++) {
        if (bench->chosen[mode]) {
            report(bench, method, mode);
        }
    }
    return error;
}

static int run_method(struct bench *bench, const char *method)
{
    const struct plan_flags flags = plan_flags_default();
    const struct sample_sink nobody = {0};
    struct collector *collector = NULL;
    struct model_file *file = NULL;
    struct plan plan;
    int64_t id = 0;
    int error = command_model_open(&file, bench->model, method, &flags, 1);
    error = error ? error : command_plan_build(&plan, file, method, &flags);
    if (!error && (bench->chosen[KERNEL_MODE] || bench->chosen[GRAPH_MODE])) {    // CUPTI wants to be there first
        error =
            collector_open(&collector, modes[bench->chosen[KERNEL_MODE] ? KERNEL_MODE : GRAPH_MODE].source, &nobody);
    }
    struct counters *counters = NULL;
    const struct counters_options counters_options = {.gpu = true, .device = bench->device};
    if (!error && bench->chosen[COUNTERS_MODE]) {    // likewise
        error = counters_open(&counters, &counters_options);
        counters_close(counters);
    }
    error = error ? error : fill(bench, &plan, file, &id);
    collector_close(collector);
    if (!error) {
        engine_source(bench->engine, &bench->source);
        snprintf(bench->device_name, sizeof bench->device_name, "%s", bench->source.device);
    }
    for (int32_t b = 0; b < bench->n_batches && !error; b++) {
        bench->batch = bench->batches[b];
        error = run_batch(bench, id, method);
    }
    engine_close(bench->engine);
    bench->engine = NULL;
    model_file_close(file);
    return error;
}

static int choose_modes(struct bench *bench)
{
    char list[128];
    snprintf(list, sizeof list, "%s", bench->mode_list);
    bench->chosen[OFF_MODE] = true;
    for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        int mode = 0;
        while (mode < MODES && strcmp(modes[mode].name, name) != 0) {
            mode++;
        }
        if (mode == MODES) {
            return status_fail(-EINVAL, "--modes: %s: expected stage, kernel, graph, counters", name);
        }
        bench->chosen[mode] = true;
    }
    if (bench->chosen[KERNEL_MODE] && bench->chosen[GRAPH_MODE]) {    // CUPTI 13.0 ends in the driver's launch
        return status_fail(-EINVAL,
                           "--modes: kernel and graph each want graphs that were recorded under them; run one of them");
    }
    return 0;
}

// "1,32": ascending, because sequences are only added.
static int read_batches(struct bench *bench, const char *text)
{
    char *end = NULL;
    for (const char *at = text; bench->n_batches < MAX_BATCHES; at = end + 1) {
        long batch = strtol(at, &end, 10);
        int32_t before = bench->n_batches ? bench->batches[bench->n_batches - 1] : 0;
        if (end == at || batch <= before || batch > 1024) {
            break;
        }
        bench->batches[bench->n_batches++] = (int32_t)batch;
        if (*end != ',') {
            break;
        }
    }
    return bench->n_batches > 0 && *end == 0
               ? 0
               : status_fail(-EINVAL, "--batch %s: numbers that ascend, up to 1024", text);
}

static int run(struct bench *bench)
{
    char list[512];
    int error = read_batches(bench, bench->batch_list);
    error = error ? error : choose_modes(bench);
    error = error ? error : measure_read_prompt(&bench->text, &bench->n_text, bench->prompt);
    error = error ? error : results_open(&bench->results);
    snprintf(list, sizeof list, "%s", bench->methods);
    for (char *name = strtok(list, ","); name && !error; name = strtok(NULL, ",")) {
        error = run_method(bench, name);
    }
    free(bench->text);
    return results_close(&bench->results, error);
}

int main(int argc, char **argv)
{
    static struct bench bench = {.model = "paper-4b",
                                 .methods = "clsa,dense",
                                 .prompt = "workloads/texts/constitution.txt",
                                 .results = RESULTS_DEFAULT,
                                 .context = 16384,
                                 .batch_list = "1,32",
                                 .mode_list = "stage,kernel",
                                 .steps = 160,
                                 .turns = 5};
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &bench.model, 0, 0, "NAME", "a size; weights are random"},
        {"methods", OPTION_TEXT, &bench.methods, 0, 0, "M,M,...", "methods"},
        {"prompt", OPTION_TEXT, &bench.prompt, 0, 0, "FILE", "text, repeated"},
        {"modes", OPTION_TEXT, &bench.mode_list, 0, 0, "M,M,...", "against off: stage, kernel, graph, counters"},
        {"context", OPTION_INT, &bench.context, 16, 1 << 24, "tokens", "of each sequence"},
        {"batch", OPTION_TEXT, &bench.batch_list, 0, 0, "N,N,...", "sequences decoded together"},
        {"steps", OPTION_INT, &bench.steps, 16, 1 << 20, "steps", "of one turn of one mode"},
        {"turns", OPTION_INT, &bench.turns, 1, MAX_TURNS, "turns", "of each mode"},
        {"stage-every", OPTION_INT, &bench.stage_every, 1, 1 << 20, "steps", "one of which tells its stages"},
        {"device", OPTION_INT, &bench.device, 0, 1023, "N", "GPU"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_overhead", "What collecting costs on a GPU.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&bench);
    return bench_end("bench_overhead", error);
}
