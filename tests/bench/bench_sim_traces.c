// tests/bench/bench_sim_traces.c - how far predictions are from recorded steps of shapes that were not calibrated with.
//
// bench_sim_error for devices that are elsewhere: --fit names the traces to calibrate from, --held those to judge by
// (both as bench_record writes them), and the device's rates come from the table. A datum is one decode batch at one
// context, or one chunk of a prompt; one that was calibrated with, too, is not judged, and how many that were is
// printed. Its stages are medians over the steps that told them, summed over layers; its step is the median of the
// steps that told none, if there are any, else of all, less their marks (sim/calibration_steps.c), which are taken off
// the measured stages too. Where a shape was run only with its stages told, and of prompts the first run may also have
// chosen kernels: its step is also taken "undisturbed", each stage as many times its median as it has layers and parts
// of that size, and what was outside of stages. Errors are |predicted / measured - 1|, of the bare roofline and
// calibrated. With --borrowed another device's calibration takes the place of --fit: how far its curves carry. Appends
// to --results.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/command.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "sim/calibration.h"
#include "sim/predict.h"
#include "traces/trace.h"
#include "tests/bench/results.h"

enum { MAX_DATA = 4096, MAX_STEPS = 64, MAX_PLANS = 32, MAX_SEQS = 1024, MAX_SAMPLES = 4096 };

struct datum {
    int32_t plan;
    enum phase phase;
    int32_t n_seqs, n_tokens, context_tokens;
    bool fitted, held;                       // calibrated with, to be judged by; both: not held out
    bool ends;                               // a prompt's last chunk: its row leaves logits
    int32_t n_whole, n_staged;
    double whole_s[MAX_STEPS], staged_s[MAX_STEPS], stages_s[STAGE_COUNT][MAX_STEPS];
    double beside_s[MAX_STEPS];              // of a step that tells stages, what is outside of them
    int32_t parts[STAGE_COUNT];              // samples of a stage in one step
};

struct bench {
    struct option_list fit_paths, held_paths;
    const char *device_name, *save, *borrowed;
    struct results results;
    bool each, fitting;                      // fitting: the traces that are read are those to calibrate from
    struct plan plans[MAX_PLANS];
    int32_t n_plans, of_source;              // the plan of the source that is told; -1: none
    struct sample_source source;
    struct datum *data;                      // [n_data], owned
    int32_t n_data;
    struct stage_sample *pending;            // [n_pending] of the step that is told, owned
    int32_t n_pending;
    double marks_s[MAX_PLANS][PHASE_COUNT];  // of the trace that told the plan
    double mark_s[PHASE_COUNT];              // of the trace that is read
};

static double median_of(const double *values, int32_t n)
{
    double sorted[MAX_STEPS];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    sort_doubles(sorted, n);
    return n > 0 ? 0.5 * (sorted[(n - 1) / 2] + sorted[n / 2]) : NAN;
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading what is held out

static void on_source(void *user, const struct sample_source *source)
{
    struct bench *bench = user;
    const struct model_shape *named = plan_find_model(source->model);
    const struct method_info *method = plan_find_method(source->method);
    bench->source = *source;
    bench->of_source = -1;
    if (named && method && bench->n_plans < MAX_PLANS) {
        struct model_shape shape = *named;
        shape.backbone = method->backbone;
        struct plan_options knobs = plan_flags_default().options;
        if (plan_build(&bench->plans[bench->n_plans], &shape, source->method, &knobs) == 0) {
            memcpy(bench->marks_s[bench->n_plans], bench->mark_s, sizeof bench->mark_s);
            bench->of_source = bench->n_plans++;
        }
    }
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct bench *bench = user;
    if (bench->n_pending < MAX_SAMPLES) {
        bench->pending[bench->n_pending++] = *sample;
    }
}

static int by_size(const void *left, const void *right)
{
    const struct stage_sample *a = left, *b = right;
    const int64_t x[] = {a->stage, a->n_tokens, a->bytes, a->flops, a->duration_ns};
    const int64_t y[] = {b->stage, b->n_tokens, b->bytes, b->flops, b->duration_ns};
    for (int i = 0; i < 5; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    return 0;
}

// Sums of the step's stages; of a prompt undisturbed.
static void sum_stages(struct bench *bench, struct datum *datum)
{
    int32_t at = datum->n_staged, n = bench->n_pending;
    struct stage_sample *samples = bench->pending;
    memset(datum->parts, 0, sizeof datum->parts);
    qsort(samples, (size_t)n, sizeof *samples, by_size);
    for (int32_t begin = 0, end; begin < n; begin = end) {
        const struct stage_sample *first = &samples[begin];
        double sum_s = 0;
        for (end = begin; end < n && samples[end].stage == first->stage && samples[end].n_tokens == first->n_tokens &&
                          samples[end].bytes == first->bytes && samples[end].flops == first->flops;
             end++) {
            sum_s += 1e-9 * (double)samples[end].duration_ns;
        }
        int64_t below_ns = samples[(begin + end - 1) / 2].duration_ns, above_ns = samples[(begin + end) / 2].duration_ns;
        double middle_s = 0.5e-9 * (double)(below_ns + above_ns);
        datum->stages_s[first->stage][at] += datum->phase == PHASE_DECODE ? sum_s : (end - begin) * middle_s;
        datum->parts[first->stage] += end - begin;
        datum->ends = datum->ends || first->stage == STAGE_HEAD;
    }
}

// A context that grows by some tokens is the same one.
static bool near(int32_t a, int32_t b, enum phase phase)
{
    return phase == PHASE_DECODE ? fabs(log((double)a / b)) < 0.1 : a == b;
}

static struct datum *find_datum(struct bench *bench, const struct step_sample *sample)
{
    for (int32_t i = bench->n_data - 1; i >= 0; i--) {
        struct datum *datum = &bench->data[i];
        if (strcmp(bench->plans[datum->plan].method, bench->plans[bench->of_source].method) == 0 && datum->phase == sample->phase && datum->n_seqs == sample->n_seqs &&
            datum->n_tokens == sample->n_tokens && near(datum->context_tokens, sample->context_tokens, sample->phase)) {
            return datum;
        }
    }
    if (bench->n_data == MAX_DATA) {
        return NULL;
    }
    struct datum *datum = &bench->data[bench->n_data++];
    *datum = (struct datum){.plan = bench->of_source, .phase = sample->phase, .n_seqs = sample->n_seqs,
                            .n_tokens = sample->n_tokens, .context_tokens = sample->context_tokens};
    return datum;
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct bench *bench = user;
    bool usable = bench->of_source >= 0 && sample->phase != PHASE_MIXED && sample->n_seqs > 0 &&
                  sample->n_seqs <= MAX_SEQS;
    struct datum *datum = usable ? find_datum(bench, sample) : NULL;
    double seconds = 1e-9 * (double)sample->duration_ns;
    if (datum) {
        datum->fitted = datum->fitted || bench->fitting;
        datum->held = datum->held || !bench->fitting;
        datum = datum->fitted ? NULL : datum;
    }
    if (datum && bench->n_pending == 0 && datum->n_whole < MAX_STEPS) {
        datum->whole_s[datum->n_whole++] = seconds;
    } else if (datum && bench->n_pending > 0 && datum->n_staged < MAX_STEPS) {
        sum_stages(bench, datum);
        datum->beside_s[datum->n_staged] = seconds;
        for (int32_t i = 0; i < bench->n_pending; i++) {
            double stage_s = 1e-9 * (double)bench->pending[i].duration_ns;
            datum->beside_s[datum->n_staged] -= bench->pending[i].stage != STAGE_HOST ? stage_s : 0;
        }
        datum->staged_s[datum->n_staged++] = seconds;
    }
    bench->n_pending = 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Judging

struct errors {
    double values[MAX_DATA * STAGE_COUNT];
    int32_t n;
};

enum { STEP_DECODE, STEP_PREFILL, STEP_UNDISTURBED, STEP_ALL, STAGE_ALL, STAGE_LARGE, LEVELS };
static const char *const level_names[LEVELS] = {"step.decode", "step.prefill", "step.prefill_undisturbed",
                                                "step_undisturbed", "stage", "stage_over_1_percent"};
static struct errors errors[LEVELS][2];    // [roofline, calibrated]

static void note(int level, int mode, double predicted, double measured)
{
    struct errors *to = &errors[level][mode];
    if (measured > 0) {
        to->values[to->n++] = fabs(predicted / measured - 1);
    }
}

static int judge(const struct bench *bench, const struct datum *datum, const struct device *device, int mode)
{
    static struct work work[MAX_SEQS];
    const struct plan *plan = &bench->plans[datum->plan];
    int32_t rows = datum->n_tokens / datum->n_seqs;
    for (int32_t i = 0; i < datum->n_seqs; i++) {
        work[i] = (struct work){datum->context_tokens - rows, rows, datum->phase == PHASE_DECODE || datum->ends};
    }
    struct step_prediction step;
    int error = predict_step(&step, device, plan, work, datum->n_seqs);
    if (error) {
        return error;
    }
    bool decode = datum->phase == PHASE_DECODE;
    double staged_s = 0, mark_s = bench->marks_s[datum->plan][decode ? PHASE_DECODE : PHASE_PREFILL], marks_s = 0;
    for (int s = 0; s < STAGE_HOST; s++) {
        marks_s += mark_s * datum->parts[s];
    }
    double whole_s = datum->n_whole > 0 ? median_of(datum->whole_s, datum->n_whole)
                                        : median_of(datum->staged_s, datum->n_staged) - marks_s;
    for (int s = 0; s < STAGE_HOST && datum->n_staged > 0; s++) {
        double measured_s = median_of(datum->stages_s[s], datum->n_staged), predicted_s = step.stages[s].seconds;
        measured_s -= mark_s * datum->parts[s];
        staged_s += measured_s;
        if (predicted_s > 0 && measured_s > 0) {
            note(STAGE_ALL, mode, predicted_s, measured_s);
            if (measured_s >= 0.01 * whole_s) {
                note(STAGE_LARGE, mode, predicted_s, measured_s);
            }
            if (bench->each && mode == 1) {
                printf("    %-16s measured %10.1f us, predicted %10.1f us, %+6.1f%%\n", stage_name((enum stage)s),
                       1e6 * measured_s, 1e6 * predicted_s, 100 * (predicted_s / measured_s - 1));
            }
        }
    }
    double beside_s = datum->n_staged > 0 ? median_of(datum->beside_s, datum->n_staged) : 0;
    double undisturbed_s = datum->n_whole > 0 ? whole_s : staged_s + (beside_s > 0 ? beside_s : 0);
    note(decode ? STEP_DECODE : STEP_PREFILL, mode, step.seconds, whole_s);
    note(STEP_ALL, mode, step.seconds, undisturbed_s);
    if (!decode) {
        note(STEP_UNDISTURBED, mode, step.seconds, undisturbed_s);
    }
    if (bench->each) {
        printf("%-10s %-8s %3d x %4d rows, context %6d: step %9.3f ms (its stages %9.3f), %-10s %9.3f ms, %+6.1f%%\n",
               plan->method, phase_name(datum->phase), datum->n_seqs, rows, datum->context_tokens, 1e3 * whole_s,
               1e3 * staged_s, mode ? "calibrated" : "roofline", 1e3 * step.seconds,
               100 * (step.seconds / undisturbed_s - 1));
    }
    return 0;
}

// Which shapes were calibrated with, and which are judged.
static void report_split(const struct bench *bench)
{
    int32_t fitted[PHASE_COUNT] = {0}, held[PHASE_COUNT] = {0}, both[PHASE_COUNT] = {0};
    for (int32_t i = 0; i < bench->n_data; i++) {
        const struct datum *datum = &bench->data[i];
        fitted[datum->phase] += datum->fitted;
        held[datum->phase] += datum->held && !datum->fitted;
        both[datum->phase] += datum->held && datum->fitted;
    }
    for (int p = 0; p < PHASE_MIXED; p++) {
        printf("%s: %d shapes calibrated with, %d held out; %d more of the traces to judge by were calibrated with, too\n",
               phase_name((enum phase)p), fitted[p], held[p], both[p]);
    }
}

static void report(struct bench *bench, int level, int mode)
{
    struct errors *of = &errors[level][mode];
    if (of->n == 0) {
        return;
    }
    sort_doubles(of->values, of->n);
    double median = 50 * (of->values[(of->n - 1) / 2] + of->values[of->n / 2]);
    double p95 = 100 * of->values[(int32_t)ceil(0.95 * of->n) - 1];
    const char *mode_name = mode == 0 ? "roofline" : bench->borrowed ? "borrowed" : "calibrated";
    printf("%-26s %-10s  %5d data  median %6.1f%%  P95 %6.1f%%\n", level_names[level], mode_name, of->n, median, p95);
    char methods[128] = "", quantity[64];
    for (int32_t i = 0; i < bench->n_data; i++) {
        const char *method = bench->plans[bench->data[i].plan].method, *last = strrchr(methods, ',');
        bool held = bench->data[i].held && !bench->data[i].fitted;
        if (held && strcmp(last ? last + 1 : methods, method) != 0) {    // a trace has one method, and the next another
            size_t length = strlen(methods);
            snprintf(methods + length, sizeof methods - length, "%s%s", length ? "," : "", method);
        }
    }
    for (int i = 0; i < 2; i++) {
        snprintf(quantity, sizeof quantity, "sim_error.%s.%s%s", level_names[level], mode_name, i ? ".p95" : "");
        results_add(&bench->results, &(struct result){.device = bench->source.device,
                                                      .command = "bench_sim_traces",
                                                      .model = bench->source.model,
                                                      .method = methods,
                                                      .quantity = quantity,
                                                      .median = i ? p95 : median,
                                                      .spread = NAN,
                                                      .floor = NAN,
                                                      .unit = "%"});
    }
}

// ---------------------------------------------------------------------------------------------------------------------

static int fit(struct calibration **out, const struct bench *bench, const struct device *device,
               const struct option_list *paths)
{
    static struct device rates[64];
    struct calibration_fit *fit;
    char date[CALIBRATION_DATE_BYTES];
    time_t now = time(NULL);
    struct tm utc;
    char command[128];
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &utc));
    snprintf(command, sizeof command, "bench_sim_traces, traces of %.64s", bench->results.commit);
    int error = calibration_fit_open(&fit);
    for (int32_t i = 0; i < paths->n && !error; i++) {
        struct sample_sink sink = calibration_fit_sink(fit);
        const char *slash = strrchr(paths->items[i], '/');
        error = calibration_fit_trace(fit, slash ? slash + 1 : paths->items[i]);
        error = error ? error : trace_read(paths->items[i], &sink, NULL);
    }
    for (int32_t p = 0; p < 64; p++) {
        rates[p] = *device;
    }
    error = error ? error : calibration_fit_finish(out, fit, rates, date, command);
    calibration_fit_close(fit);
    return error;
}

// Of a trace to judge by: what marks added to its stages is its own.
static int read_held(struct bench *bench, const struct device *device, const char *path, const struct sample_sink *sink)
{
    struct option_list one = {.n = 1, .items = {path}};
    struct calibration *own = NULL;
    int error = fit(&own, bench, device, &one);
    if (!error) {
        memcpy(bench->mark_s, own->profiles[0].mark_s, sizeof bench->mark_s);
        error = trace_read(path, sink, NULL);
    }
    calibration_free(own);
    return error;
}

static int run(struct bench *bench)
{
    struct device device, calibrated;
    struct calibration *calibration = NULL;
    struct sample_sink sink = {.user = bench, .source = on_source, .stage = on_stage, .step = on_step};
    bench->data = calloc(MAX_DATA, sizeof *bench->data);
    bench->pending = calloc(MAX_SAMPLES, sizeof *bench->pending);
    int error = bench->data && bench->pending ? 0 : status_fail(-ENOMEM, "no memory for the data");
    if (!error && ((bench->fit_paths.n == 0 && !bench->borrowed) || bench->held_paths.n == 0 || !bench->device_name)) {
        error = status_fail(-EINVAL, "expected --fit TRACE, --held TRACE (each may come several times) and --device-name");
    }
    error = error ? error : device_find(&device, bench->device_name, 0);
    if (!error) {
        error = bench->borrowed ? calibration_load(&calibration, bench->borrowed) : fit(&calibration, bench, &device, &bench->fit_paths);
    }
    bench->fitting = true;
    for (int32_t i = 0; i < bench->fit_paths.n && !error; i++) {
        error = trace_read(bench->fit_paths.items[i], &sink, NULL);
    }
    bench->fitting = false;
    for (int32_t i = 0; i < bench->held_paths.n && !error; i++) {
        error = read_held(bench, &device, bench->held_paths.items[i], &sink);
    }
    if (!error) {
        calibrated = device;
        calibrated.calibration = &calibration->profiles[0];
    }
    for (int32_t i = 0; i < bench->n_data && !error; i++) {
        if (bench->data[i].held && !bench->data[i].fitted) {
            error = judge(bench, &bench->data[i], &device, 0);
            error = error ? error : judge(bench, &bench->data[i], &calibrated, 1);
        }
    }
    if (!error) {
        report_split(bench);
    }
    error = error ? error : results_open(&bench->results);
    for (int level = 0; level < LEVELS && !error; level++) {
        report(bench, level, 0);
        report(bench, level, 1);
    }
    error = results_close(&bench->results, error);
    error = error || !bench->save ? error : calibration_save(calibration, bench->save);
    calibration_free(calibration);
    free(bench->data);
    free(bench->pending);
    return error;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.results = {.commit = "-"}};
    const struct option_spec options[] = {
        {"fit", OPTION_LIST, &bench.fit_paths, 0, 0, "TRACE", "to calibrate from"},
        {"held", OPTION_LIST, &bench.held_paths, 0, 0, "TRACE", "to judge by"},
        {"device-name", OPTION_TEXT, &bench.device_name, 0, 0, "NAME", "whose rates (clsa devices)"},
        {"borrowed", OPTION_TEXT, &bench.borrowed, 0, 0, "FILE", "a calibration of another device, instead of --fit"},
        {"save", OPTION_OUTPUT, &bench.save, 0, 0, "FILE", "the calibration"},
        {"each", OPTION_FLAG, &bench.each, 0, 0, NULL, "print every datum"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_sim_traces", "Prediction errors on recorded shapes not calibrated with.",
                                         NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&bench);
    return bench_end("bench_sim_traces", error);
}
