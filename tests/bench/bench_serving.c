// tests/bench/bench_serving.c - the live engine under load, and the simulation of the same, side by side.
//
// For each method three workloads are made to measure: `steady` arrives at --load times what the simulator says that
// the service can do, `saturated` at twice of it, and `preemption` likewise with a KV cache so small that requests lose
// their pages. The engine replays them in real time and warmed; the simulator gets the same requests, cache and limits,
// as a bare roofline and calibrated. Both reduce with the same code. Printed and appended (--results): throughput, mean
// and P95 of TTFT and TPOT as measured, the simulator's errors with their sign, preemptions, and the most sequences
// that ran.
//
// Then the simulator is run once more with the time that each step took, so that it takes the very same decisions, and
// each step's price is held against that time: --steps writes all of them, one line a step. --measured takes such a
// file in place of the engine: what another calibration would have said of a run on another machine.
// --runs replays each case several times; measured is then the median of each figure, beside how far the runs are
// apart: a burst of what else a machine does is in one run only. --dry only tells what arrives and how small the cache
// is, as options by which later replays, or a judgement with another calibration, have the same. --trace records a
// replay, of other requests than those to be judged (--seed, --prompt), as something to calibrate from.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/calibrated.h"
#include "cli/choice.h"
#include "cli/command.h"
#include "cli/measure.h"
#include "cli/serving.h"
#include "cupti/nvml.h"
#include "engine/status.h"
#include "sim/serve.h"
#include "tests/bench/serving_report.h"
#include "tests/bench/serving_trace.h"

enum { CASES = 3, MAX_RUNS = 16 };
enum { STEADY, SATURATED, PREEMPTION };
static const char *const case_names[CASES] = {"steady", "saturated", "preemption"};

struct step {
    double begin_s, end_s;               // since the run began
};

// A GPU's energy, read by NVML after a replay's first step and then once a second: between the first reading and the
// last.
struct meter {
    struct nvml *nvml;                   // NULL: nothing to read
    double begin_s, begin_j, end_s, end_j;
};

struct bench {
    const char *model, *methods, *device, *device_name, *calibration_file, *cases, *steps_file, *measured_file,
        *trace_file;
    struct results results;
    int32_t requests, prompt, output, max_seqs, chunk, threads, runs;
    int64_t seed, preemption_cache;
    double load, capacity;
    bool virtual_clock, cold, dry;
    struct plan_flags flags;
    struct model_config config;
    struct calibration *calibration;
    struct device bare, calibrated;
    FILE *steps_out;
    struct sample_source source;
    struct step *steps;                  // [n_steps] of the replay, owned
    int64_t n_steps, step_capacity, next_step;
    struct meter meter;
};

// ---------------------------------------------------------------------------------------------------------------------
// What is served

// Requests whose prompts and outputs spread by a factor of four both ways around their medians. rate 0: all at once.
static int make_workload(struct workload *out, const struct bench *bench, double rate_per_s)
{
    char text[1024];
    int n = snprintf(text, sizeof text,
                     "{\"name\": \"bench\", \"source\": \"made up\", \"seed\": %lld, \"requests\": %d, "
                     "\"arrivals\": {\"law\": \"poisson\", \"rate_per_s\": %.9g}, "
                     "\"classes\": [{\"name\": \"all\", "
                     "\"prompt\": {\"law\": \"quantiles\", \"at\": [0, 0.5, 1], \"tokens\": [%d, %d, %d]}, "
                     "\"output\": {\"law\": \"quantiles\", \"at\": [0, 0.5, 1], \"tokens\": [%d, %d, %d]}}]}",
                     (long long)bench->seed, bench->requests, rate_per_s > 0 ? rate_per_s : 1e6, bench->prompt / 4,
                     bench->prompt, 4 * bench->prompt, bench->output / 4, bench->output, 4 * bench->output);
    return workload_parse(out, text, (size_t)n, "bench", NULL);
}

static int64_t longest_request(const struct workload *workload)
{
    int64_t most = 0;
    for (int64_t i = 0; i < workload->n; i++) {
        int64_t tokens = (int64_t)workload->requests[i].prompt_tokens + workload->requests[i].output_tokens;
        most = tokens > most ? tokens : most;
    }
    return most;
}

struct setup {
    const struct plan *plan;
    struct workload workload;
    int64_t cache_tokens;
};

static int simulate(struct serve_result *out, const struct bench *bench, const struct setup *setup,
                    const struct device *device)
{
    struct serve_options options = {.plan = setup->plan, .device = device, .max_seqs = bench->max_seqs,
                                    .max_step_tokens = bench->chunk, .cache_tokens = setup->cache_tokens};
    return serve_run(out, &setup->workload, &options);
}

// Requests a second when all come at once.
static int capacity(double *out, const struct bench *bench, struct setup *setup)
{
    struct serve_result result;
    *out = bench->capacity;
    if (*out > 0) {
        return 0;
    }
    int error = make_workload(&setup->workload, bench, 0);
    setup->cache_tokens = error ? 0 : longest_request(&setup->workload) * bench->max_seqs;
    error = error ? error : simulate(&result, bench, setup, &bench->calibrated);
    workload_close(&setup->workload);
    if (!error) {
        *out = result.metrics.requests_per_s;
        serve_close(&result);
    }
    return error;
}

// Takes a quarter of the cache away until the simulator preempts one request in eight, or the longest one alone is left
// room.
static int shrink_cache(const struct bench *bench, struct setup *setup)
{
    int64_t longest = longest_request(&setup->workload);
    if (bench->preemption_cache > 0) {
        setup->cache_tokens = bench->preemption_cache;
        return longest <= setup->cache_tokens
                   ? 0
                   : status_fail(-EINVAL, "--cache %lld: expected room for a request of %lld tokens",
                                 (long long)setup->cache_tokens, (long long)longest);
    }
    for (;;) {
        struct serve_result result;
        int error = simulate(&result, bench, setup, &bench->calibrated);
        if (error) {
            return error;
        }
        bool enough = result.metrics.preemptions * 8 >= setup->workload.n;
        serve_close(&result);
        if (enough || setup->cache_tokens * 3 / 4 < longest) {
            return 0;
        }
        setup->cache_tokens = setup->cache_tokens * 3 / 4;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The engine

static void read_meter(struct meter *meter, double now_s, bool first)
{
    struct nvml_reading reading;
    if (!meter->nvml || (!first && now_s - meter->end_s < 1)) {
        return;
    }
    nvml_read(meter->nvml, &reading);
    meter->end_s = now_s;
    meter->end_j = reading.energy_j;
    if (first) {
        meter->begin_s = meter->end_s;
        meter->begin_j = meter->end_j;
    }
}

static void on_step(void *user, double begin_s, double end_s)
{
    struct bench *bench = user;
    read_meter(&bench->meter, end_s, bench->n_steps == 0);
    if (bench->n_steps == bench->step_capacity) {
        int64_t grown_capacity = bench->step_capacity ? 2 * bench->step_capacity : 1 << 16;
        struct step *grown = realloc(bench->steps, (size_t)grown_capacity * sizeof *grown);
        if (!grown) {
            return;    // told by the count of steps, which the simulator's then exceeds
        }
        bench->steps = grown;
        bench->step_capacity = grown_capacity;
    }
    bench->steps[bench->n_steps++] = (struct step){begin_s, end_s};
}

static int replay(struct serving_result *out, struct bench *bench, const struct setup *setup, struct model_file *file)
{
    char backend[32];
    int32_t number;
    int error = measure_device(backend, sizeof backend, &number, bench->device);
    struct serving_options options = {.plan = setup->plan, .model = file, .backend = backend, .device = number,
                                      .threads = bench->threads, .max_seqs = bench->max_seqs,
                                      .max_step_tokens = bench->chunk, .cache_tokens = setup->cache_tokens,
                                      .virtual_clock = bench->virtual_clock, .cold = bench->cold, .seed = 1,
                                      .stepped = on_step, .stepped_user = bench};
    struct serving_trace *trace = NULL;
    error = error || !bench->trace_file ? error : serving_trace_open(&trace, bench->trace_file);
    if (trace) {
        options.observer = serving_trace_observer(trace);
        options.opened = serving_trace_begin;
        options.opened_user = trace;
    }
    bench->n_steps = 0;
    bench->meter = (struct meter){0};
    if (!error && strcmp(backend, "cuda") == 0 && nvml_open(&bench->meter.nvml, number, NULL, NULL) != 0) {
        fprintf(stderr, "no energy: %s\n", status_text());
        bench->meter.nvml = NULL;
    }
    error = error ? error : serving_run(out, &setup->workload, &options);
    nvml_close(bench->meter.nvml);
    return serving_trace_close(trace, error);
}

// The steps of a case from --measured: how long each took and when it began.
static int read_steps(struct bench *bench, const char *method, const char *name)
{
    char line[512], of[64], by[64], kind[64];
    double took_us, begin_us;
    FILE *file = fopen(bench->measured_file, "re");
    if (!file) {
        return status_fail(-errno, "--measured %s: %s", bench->measured_file, strerror(errno));
    }
    bench->n_steps = 0;
    while (fgets(line, sizeof line, file)) {
        int n =
            sscanf(line, "%63s %63s %63s %*d %*d %*d %*d %*d %*d %lf %*f %*f %lf", of, by, kind, &took_us, &begin_us);
        if (n == 5 && strcmp(of, name) == 0 && strcmp(by, method) == 0) {
            on_step(bench, 1e-6 * begin_us, 1e-6 * (begin_us + took_us));
        }
    }
    fclose(file);
    return bench->n_steps > 0
               ? 0
               : status_fail(-EINVAL, "--measured %s: no steps of %s, %s", bench->measured_file, method, name);
}

// What lets a simulation whose clock shows now_s end a step when it ended.
static double took_until(const struct bench *bench, int64_t step, double now_s)
{
    return bench->steps[step].end_s - now_s;
}

static double take_measured(void *user, double now_s, const struct work *work, int32_t n_seqs, double priced_s)
{
    struct bench *bench = user;
    (void)work;
    (void)n_seqs;
    return bench->next_step < bench->n_steps ? took_until(bench, bench->next_step++, now_s) : priced_s;
}

// The run that --measured tells of: the simulator takes the same decisions, with its times.
static int rerun(struct serving_result *out, struct bench *bench, const struct setup *setup, const char *name)
{
    struct serve_options options = {.plan = setup->plan, .device = &bench->bare, .max_seqs = bench->max_seqs,
                                    .max_step_tokens = bench->chunk, .cache_tokens = setup->cache_tokens,
                                    .every_step = true, .clock = take_measured, .clock_user = bench};
    struct serve_result result;
    bench->next_step = 0;
    int error = read_steps(bench, setup->plan->method, name);
    error = error ? error : serve_run(&result, &setup->workload, &options);
    if (!error) {
        *out = (struct serving_result){.metrics = result.metrics,
                                       .records = result.records,
                                       .n_records = result.n_records,
                                       .steps = result.steps,
                                       .busy_s = result.busy_s,
                                       .peak_running = result.peak_running,
                                       .peak_kv_bytes = result.peak_kv_bytes};
        const struct calibration_profile *profile = bench->calibrated.calibration;
        snprintf(out->source.device, sizeof out->source.device, "%s", profile ? profile->device : bench->device_name);
        snprintf(out->source.backend, sizeof out->source.backend, "%s", profile ? profile->backend : "unknown");
    }
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Step by step

struct judge {
    struct bench *bench;
    const char *method, *name;
    int64_t next;
    struct report_steps steps;
};

static double on_clock(void *user, double now_s, const struct work *work, int32_t n_seqs, double priced_s)
{
    struct judge *judge = user;
    struct bench *bench = judge->bench;
    int64_t at = judge->next++, contexts = 0;
    int32_t rows = 0, logits = 0, deepest = 0, prompts = 0;
    if (at >= bench->n_steps) {
        return priced_s;
    }
    for (int32_t i = 0; i < n_seqs; i++) {
        rows += work[i].new_tokens;
        logits += work[i].logit_rows;
        contexts += work[i].context_tokens;
        deepest = work[i].context_tokens > deepest ? work[i].context_tokens : deepest;
        prompts += work[i].new_tokens > 1 || work[i].logit_rows == 0;
    }
    enum step_kind kind = prompts == 0 ? DECODE : prompts == n_seqs ? PROMPT : MIXED;
    const struct step *step = &bench->steps[at];
    double measured_s = step->end_s - step->begin_s, before_s = at > 0 ? step->begin_s - bench->steps[at - 1].end_s : 1;
    double pause_s = before_s < 1e-3 ? before_s : 0;
    struct report_steps *steps = &judge->steps;
    steps->measured_s[kind] += measured_s;
    steps->priced_s[kind] += priced_s;
    steps->pause_s += pause_s;
    steps->errors[kind][steps->n[kind]++] = fabs(priced_s / measured_s - 1);
    if (bench->steps_out) {
        fprintf(bench->steps_out, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%lld\t%d\t%.1f\t%.1f\t%.1f\t%.1f\n", judge->name,
                judge->method, step_kind_name(kind), n_seqs, rows, logits, prompts, (long long)contexts, deepest,
                1e6 * measured_s, 1e6 * priced_s, 1e6 * pause_s, 1e6 * step->begin_s);
    }
    return took_until(bench, at, now_s);
}

// Holds the steps of one run against their prices.
static int judge_run(struct judge *judge, const struct setup *setup)
{
    struct bench *bench = judge->bench;
    struct serve_options options = {.plan = setup->plan, .device = &bench->calibrated, .max_seqs = bench->max_seqs,
                                    .max_step_tokens = bench->chunk, .cache_tokens = setup->cache_tokens,
                                    .every_step = true, .clock = on_clock, .clock_user = judge};
    struct serve_result result = {0};
    const struct report_steps before = judge->steps;
    int error = 0;
    judge->next = 0;
    for (int k = 0; k < KINDS && !error; k++) {
        struct report_steps *steps = &judge->steps;
        double *grown = realloc(steps->errors[k], (size_t)(steps->n[k] + bench->n_steps) * sizeof *grown + 1);
        error = grown ? 0 : status_fail(-ENOMEM, "no memory for the errors of steps");
        steps->errors[k] = grown ? grown : steps->errors[k];
    }
    error = error ? error : serve_run(&result, &setup->workload, &options);
    if (!error && result.steps != bench->n_steps) {
        // An arrival fell to the other side of a step's end: from there on, steps of one are held against others.
        printf("  steps: the engine took %lld, the simulator with their times %lld; not judged\n",
               (long long)bench->n_steps, (long long)result.steps);
        memcpy(judge->steps.n, before.n, sizeof before.n);
        memcpy(judge->steps.measured_s, before.measured_s, sizeof before.measured_s);
        memcpy(judge->steps.priced_s, before.priced_s, sizeof before.priced_s);
        judge->steps.pause_s = before.pause_s;
    }
    serve_close(&result);
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Side by side

// One replay: its figures, and its steps held against their prices.
static int run_once(struct report_values *out, struct serving_result *measured, struct judge *judge,
                    const struct setup *setup, struct model_file *file)
{
    struct bench *bench = judge->bench;
    int error =
        bench->measured_file ? rerun(measured, bench, setup, judge->name) : replay(measured, bench, setup, file);
    if (!error) {
        *out = report_values_of(&measured->metrics, measured->peak_running, measured->peak_kv_bytes);
        bench->source = measured->source;
        printf("%s %s, %s of %s: %lld requests, cache of %lld tokens, warmed in %.2f s, ran %.1f s, %.0f%% in steps\n",
               bench->source.device, bench->source.backend, judge->name, judge->method, (long long)setup->workload.n,
               (long long)setup->cache_tokens, measured->warm_s, measured->metrics.span_s,
               100 * measured->busy_s / measured->metrics.span_s);
        fflush(stdout);
        error = judge_run(judge, setup);
    }
    return error;
}

static int run_case(struct bench *bench, struct setup *setup, struct model_file *file, double requests_per_s, int c)
{
    char name[32];
    struct serving_result measured[MAX_RUNS] = {{.steps = 0}};
    struct serve_result simulated[MODES] = {{.steps = 0}};    // MEASURED is none
    struct judge judge = {.bench = bench, .method = setup->plan->method, .name = name};
    struct report_values runs[MAX_RUNS], values[MODES];
    double rate = requests_per_s * (c == STEADY ? bench->load : 2);
    int error = make_workload(&setup->workload, bench, rate);
    if (error) {
        return error;
    }
    setup->cache_tokens = longest_request(&setup->workload) * bench->max_seqs;
    error = c == PREEMPTION ? shrink_cache(bench, setup) : 0;
    printf("\n");
    for (int32_t r = 0; r < bench->runs && !error; r++) {
        snprintf(name, sizeof name, r == 0 ? "%s" : "%s.%d", case_names[c], r + 1);
        error = run_once(&runs[r], &measured[r], &judge, setup, file);
    }
    error = error ? error : simulate(&simulated[ROOFLINE], bench, setup, &bench->bare);
    error = error ? error : simulate(&simulated[CALIBRATED], bench, setup, &bench->calibrated);
    if (!error) {
        values[MEASURED] = report_median(runs, bench->runs);
        for (int m = ROOFLINE; m < MODES; m++) {
            values[m] = report_values_of(&simulated[m].metrics, simulated[m].peak_running, simulated[m].peak_kv_bytes);
        }
        char command[160];
        snprintf(command, sizeof command, "bench_serving --prompt %d --output %d --requests %d --runs %d%s%s",
                 bench->prompt, bench->output, bench->requests, bench->runs, bench->measured_file ? " --measured" : "",
                 bench->cold ? " --cold" : "");
        const struct report report = {.results = &bench->results, .device = bench->source.device, .command = command,
                                      .model = bench->model, .method = setup->plan->method, .name = case_names[c],
                                      .max_seqs = bench->max_seqs};
        const struct meter *meter = &bench->meter;
        printf("%.9g requests/s, median of %d\n", rate, bench->runs);
        report_memory(&report, &measured[0], &simulated[CALIBRATED]);
        report_energy(&report, meter->end_j - meter->begin_j, meter->end_s - meter->begin_s, values[MEASURED].rows[0]);
        report_side_by_side(&report, values);
        report_steps(&report, &judge.steps);
        fflush(stdout);
    }
    for (int k = 0; k < KINDS; k++) {
        free(judge.steps.errors[k]);
    }
    for (int32_t r = 0; r < bench->runs; r++) {
        serving_close(&measured[r]);
    }
    serve_close(&simulated[ROOFLINE]);
    serve_close(&simulated[CALIBRATED]);
    workload_close(&setup->workload);
    return error;
}

// What `capacity` and `shrink_cache` find, to every bit.
static int tell_options(const struct bench *bench, struct setup *setup, double requests_per_s)
{
    int error = make_workload(&setup->workload, bench, 2 * requests_per_s);
    if (error) {
        return error;
    }
    setup->cache_tokens = longest_request(&setup->workload) * bench->max_seqs;
    error = shrink_cache(bench, setup);
    if (!error) {
        printf("%s --capacity %.17g --cache %lld\n", setup->plan->method, requests_per_s,
               (long long)setup->cache_tokens);
    }
    workload_close(&setup->workload);
    return error;
}

static int run_method(struct bench *bench, struct model_file **files, const char *name)
{
    static struct plan plan;
    struct setup setup = {.plan = &plan};
    double requests_per_s;
    const struct method_info *method = plan_find_method(name);
    if (!method) {
        return status_fail(-EINVAL, "--methods: %s is no method", name);
    }
    struct model_file **file = &files[method->backbone];
    int error = *file ? 0 : command_model_open(file, bench->model, name, &bench->flags, 1);
    error = error ? error : command_plan_build(&plan, *file, name, &bench->flags);
    error = error ? error : capacity(&requests_per_s, bench, &setup);
    error = error || !bench->dry ? error : tell_options(bench, &setup, requests_per_s);
    for (int c = 0; c < CASES && !error && !bench->dry; c++) {
        error = strstr(bench->cases, case_names[c]) ? run_case(bench, &setup, *file, requests_per_s, c) : 0;
    }
    return error ? status_prefix(error, "%s: ", name) : 0;
}

// Of --cases, each a name.
static int check_cases(const char *cases)
{
    for (size_t length; *cases; cases += length + (cases[length] == ',')) {
        bool known = false;
        length = strcspn(cases, ",");
        for (int c = 0; c < CASES; c++) {
            known = known || (strlen(case_names[c]) == length && strncmp(cases, case_names[c], length) == 0);
        }
        if (!known) {
            return status_fail(-EINVAL, "--cases %.*s: expected steady, saturated, preemption", (int)length, cases);
        }
    }
    return 0;
}

static int open_file(FILE **out, const char *path, const char *mode, const char *flag)
{
    *out = path ? fopen(path, mode) : NULL;
    return path && !*out ? status_fail(-EINVAL, "--%s %s: %s", flag, path, strerror(errno)) : 0;
}

static int run(struct bench *bench)
{
    struct device *table = NULL;
    struct model_file *files[BACKBONE_COUNT] = {NULL};
    int32_t n_table;
    char list[256], *rest = NULL;
    int error = check_cases(bench->cases);
    if (!error && bench->trace_file && (strchr(bench->methods, ',') || strchr(bench->cases, ',') || bench->runs > 1)) {
        error = status_fail(-EINVAL, "--trace: expected one method, one case and one run");
    }
    error = error ? error : plan_flags_resolve(&bench->flags);
    error = error ? error : device_table_load(&table, &n_table, NULL);
    error = error ? error : calibrated_open(&bench->calibration, &bench->calibration_file, bench->device_name, NULL);
    error = error ? error
                  : choice_device(&bench->calibrated, table, n_table, bench->calibration, bench->device_name,
                                  bench->threads);
    bench->bare = bench->calibrated;    // the same rates
    bench->bare.calibration = NULL;
    error = error ? error : open_file(&bench->steps_out, bench->steps_file, "we", "steps");
    error = error ? error : results_open(&bench->results);
    snprintf(list, sizeof list, "%s", bench->methods);
    for (char *name = strtok_r(list, ",", &rest); name && !error; name = strtok_r(NULL, ",", &rest)) {
        error = run_method(bench, files, name);
    }
    for (int b = 0; b < BACKBONE_COUNT; b++) {
        model_file_close(files[b]);
    }
    if (bench->steps_out && fclose(bench->steps_out) != 0 && !error) {
        error = status_fail(-EIO, "--steps %s: %s", bench->steps_file, strerror(errno));
    }
    error = results_close(&bench->results, error);
    free(bench->steps);
    free(table);
    calibration_free(bench->calibration);
    return error;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.model = "bench-100m",
                                 .methods = "clsa,dense",
                                 .device = "cpu",
                                 .device_name = "host",
                                 .cases = "steady,saturated,preemption",
                                 .results = {.commit = "-"},
                                 .requests = 100,
                                 .prompt = 512,
                                 .output = 64,
                                 .max_seqs = 8,
                                 .chunk = 512,
                                 .seed = 1,
                                 .load = 0.6,
                                 .runs = 1};
    bench.flags = plan_flags_default();
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &bench.model, 0, 0, "NAME", "a size (random weights)"},
        {"methods", OPTION_TEXT, &bench.methods, 0, 0, "M[,M...]", "methods"},
        {"device", OPTION_TEXT, &bench.device, 0, 0, "cpu|reference|cuda[:N]", "backend"},
        {"threads", OPTION_INT, &bench.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        {"device-name", OPTION_TEXT, &bench.device_name, 0, 0, "NAME", "what is simulated (clsa devices)"},
        {"calibration", OPTION_TEXT, &bench.calibration_file, 0, 0, "FILE", "none: bare roofline"},
        {"cases", OPTION_TEXT, &bench.cases, 0, 0, "C[,C...]", "steady, saturated, preemption"},
        {"requests", OPTION_INT, &bench.requests, 1, 1 << 20, "requests", "of each case"},
        {"prompt", OPTION_INT, &bench.prompt, 4, 1 << 20, "tokens", "median; from a quarter to four times of it"},
        {"output", OPTION_INT, &bench.output, 4, 1 << 20, "tokens", "likewise"},
        {"capacity", OPTION_REAL, &bench.capacity, 0, 1e9, "1/s", "requests that the service can do; 0: as simulated"},
        {"cache", OPTION_LONG, &bench.preemption_cache, 0, 1e15, "tokens",
         "in `preemption`; 0: until the simulator preempts"},
        {"load", OPTION_REAL, &bench.load, 0.01, 1, "share", "of the predicted capacity that arrives in `steady`"},
        {"max-seqs", OPTION_INT, &bench.max_seqs, 1, 1 << 16, "sequences", "that run at once"},
        {"chunk", OPTION_INT, &bench.chunk, 1, 1 << 20, "tokens", "rows of one step"},
        {"seed", OPTION_LONG, &bench.seed, 1, 9e18, "N", "of the requests"},
        {"runs", OPTION_INT, &bench.runs, 1, MAX_RUNS, "times", "that each case is replayed; its figures are medians"},
        {"virtual", OPTION_FLAG, &bench.virtual_clock, 0, 0, NULL, "do not wait for arrivals"},
        {"cold", OPTION_FLAG, &bench.cold, 0, 0, NULL, "the first requests pay for what is loaded at first use"},
        {"dry", OPTION_FLAG, &bench.dry, 0, 0, NULL, "run nothing: print --capacity and --cache as simulated"},
        {"measured", OPTION_TEXT, &bench.measured_file, 0, 0, "FILE", "of --steps: no engine runs"},
        {"steps", OPTION_TEXT, &bench.steps_file, 0, 0, "FILE", "write every step"},
        {"trace", OPTION_TEXT, &bench.trace_file, 0, 0, "FILE",
         "write the stages of the one replay, to calibrate from"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_serving", "The engine under load beside its simulation.", NULL, 0, 0,
                                         options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&bench);
    return bench_end("bench_serving", error);
}
