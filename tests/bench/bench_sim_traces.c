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
// calibrated; where a shape is in several of the traces to judge by, "again" is how far its last reading is from its
// first, which no model can be expected to tell. All of it for all methods together and for each. With --borrowed
// another device's calibration takes the place of --fit: how far its curves carry. --newer are traces of newer kernels,
// half of whose contexts calibrate what had changed, by the rule in split.sh; the others may judge. Appends to
// --results.
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

enum { MAX_DATA = 4096, MAX_STEPS = 64, MAX_PLANS = 32, MAX_SEQS = 1024, MAX_SAMPLES = 4096, MAX_PLACES = 256 };

struct datum {
    int32_t plan;
    enum phase phase;
    int32_t n_seqs, n_tokens, context_tokens;
    bool fitted, held;                       // calibrated with, to be judged by; both: not held out
    bool ends;                               // a prompt's last chunk: its row leaves logits
    int32_t n_whole, n_staged;
    double whole_s[MAX_STEPS];               // [n_whole] of steps that tell no stages
    double staged_s[MAX_STEPS], stages_s[STAGE_COUNT][MAX_STEPS];    // [n_staged] of those that do, less their marks
    double beside_s[MAX_STEPS];              // [n_staged] what is outside of the stages
    int32_t whole_of[MAX_STEPS], staged_of[MAX_STEPS];    // the trace that told it
    double heat_s[2 * MAX_STEPS];            // [n_heat] that steps with prompts had left before (sim/calibration.h)
    int32_t n_heat;
};

// A shape as it was measured: of all traces, or of one.
struct measured {
    bool staged;                             // whether stages were told
    double step_s, undisturbed_s, stages_s[STAGE_HOST];
};

struct bench {
    struct option_list fit_paths, newer_paths, held_paths;
    const char *device_name, *save, *borrowed, *shapes;
    struct results results;
    bool each, fitting;                      // fitting: the traces that are read are those to calibrate from
    struct plan plans[MAX_PLANS];
    int32_t n_plans, of_source;              // the plan of the source that is told; -1: none
    struct sample_source source;
    struct datum *data;                      // [n_data], owned
    int32_t n_data;
    struct stage_sample *pending;            // [n_pending] of the step that is told, owned
    int32_t n_pending;
    int32_t reading;                         // the how manieth trace is read
    int64_t dropped;                         // steps for which there was no room
    double mark_s[PHASE_COUNT];              // of the trace that is read
    struct calibration_heat heat;            // of it
};

// ---------------------------------------------------------------------------------------------------------------------
// Reading what is held out

static void on_source(void *user, const struct sample_source *source)
{
    struct bench *bench = user;
    const struct model_shape *named = plan_find_model(source->model);
    const struct method_info *method = plan_find_method(source->method);
    bench->source = *source;
    bench->of_source = -1;
    for (int32_t i = 0; i < bench->n_plans; i++) {
        if (strcmp(bench->plans[i].method, source->method) == 0) {    // the model is the same one, too
            bench->of_source = i;
            return;
        }
    }
    if (named && method && bench->n_plans < MAX_PLANS) {
        struct model_shape shape = *named;
        shape.backbone = method->backbone;
        struct plan_options knobs = plan_flags_default().options;
        if (plan_build(&bench->plans[bench->n_plans], &shape, source->method, &knobs) == 0) {
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

// Sums of the step's stages, of a prompt undisturbed, and of the step; less what marks added to them.
static void sum_stages(struct bench *bench, struct datum *datum, double step_s)
{
    int32_t at = datum->n_staged, n = bench->n_pending;
    double mark_s = bench->mark_s[datum->phase == PHASE_DECODE ? PHASE_DECODE : PHASE_PREFILL];
    struct stage_sample *samples = bench->pending;
    datum->staged_s[at] = datum->beside_s[at] = step_s;
    qsort(samples, (size_t)n, sizeof *samples, by_size);
    for (int32_t begin = 0, end; begin < n; begin = end) {
        const struct stage_sample *first = &samples[begin];
        double sum_s = 0;
        for (end = begin; end < n && samples[end].stage == first->stage && samples[end].n_tokens == first->n_tokens &&
                          samples[end].bytes == first->bytes && samples[end].flops == first->flops;
             end++) {
            sum_s += 1e-9 * (double)samples[end].duration_ns;
        }
        int64_t below_ns = samples[(begin + end - 1) / 2].duration_ns;
        int64_t above_ns = samples[(begin + end) / 2].duration_ns;
        double middle_s = 0.5e-9 * (double)(below_ns + above_ns);
        if (first->stage != STAGE_HOST) {
            double undisturbed_s = datum->phase == PHASE_DECODE ? sum_s : (end - begin) * middle_s;
            datum->stages_s[first->stage][at] += undisturbed_s - mark_s * (end - begin);
            datum->staged_s[at] -= mark_s * (end - begin);
            datum->beside_s[at] -= sum_s;
        }
        datum->ends = datum->ends || first->stage == STAGE_HEAD;
    }
}

// A context that grows by some tokens is the same one.
static bool near(int32_t a, int32_t b, enum phase phase)
{
    return phase == PHASE_DECODE ? fabs(log((double)a / b)) < 0.05 : a == b;
}

static struct datum *find_datum(struct bench *bench, const struct step_sample *sample)
{
    for (int32_t i = bench->n_data - 1; i >= 0; i--) {
        struct datum *datum = &bench->data[i];
        if (datum->plan == bench->of_source && datum->phase == sample->phase && datum->n_seqs == sample->n_seqs &&
            datum->n_tokens == sample->n_tokens && near(datum->context_tokens, sample->context_tokens, sample->phase)) {
            return datum;
        }
    }
    if (bench->n_data == MAX_DATA) {
        bench->dropped++;
        return NULL;
    }
    struct datum *datum = &bench->data[bench->n_data++];
    *datum = (struct datum){.plan = bench->of_source, .phase = sample->phase, .n_seqs = sample->n_seqs,
                            .n_tokens = sample->n_tokens, .context_tokens = sample->context_tokens};
    return datum;
}

// The heat before a step; it adds its own.
static double heat_up(struct bench *bench, const struct step_sample *sample)
{
    double begin_s = 1e-9 * (double)sample->begin_ns, before_s = calibration_heat_at(&bench->heat, begin_s);
    if (sample->phase != PHASE_DECODE) {
        calibration_heat_step(&bench->heat, begin_s, 1e-9 * (double)sample->duration_ns, sample->n_tokens);
    }
    return before_s;
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct bench *bench = user;
    double heat_s = heat_up(bench, sample);
    bool usable = bench->of_source >= 0 && sample->phase != PHASE_MIXED && sample->n_seqs > 0 &&
                  sample->n_seqs <= MAX_SEQS;
    struct datum *datum = usable ? find_datum(bench, sample) : NULL;
    double seconds = 1e-9 * (double)sample->duration_ns;
    if (datum) {
        datum->fitted = datum->fitted || bench->fitting;
        datum->held = datum->held || !bench->fitting;
        datum = datum->fitted ? NULL : datum;
    }
    if (datum && datum->n_heat < 2 * MAX_STEPS) {
        datum->heat_s[datum->n_heat++] = heat_s;
    }
    if (datum && bench->n_pending == 0 && datum->n_whole < MAX_STEPS) {
        datum->whole_of[datum->n_whole] = bench->reading;
        datum->whole_s[datum->n_whole++] = seconds;
    } else if (datum && bench->n_pending > 0 && datum->n_staged < MAX_STEPS) {
        datum->staged_of[datum->n_staged] = bench->reading;
        sum_stages(bench, datum, seconds);
        datum->n_staged++;
    } else if (datum) {
        bench->dropped++;
    }
    bench->n_pending = 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Judging

enum { ROOFLINE, CALIBRATED, AGAIN, MODES };
enum { STEP_DECODE, STEP_PREFILL, STEP_UNDISTURBED, STEP_ALL, STAGE_ALL, STAGE_LARGE, LEVELS };
static const char *const level_names[LEVELS] = {"step.decode", "step.prefill", "step.prefill_undisturbed",
                                                "step_undisturbed", "stage", "stage_over_1_percent"};
struct errors {
    double values[MAX_DATA * STAGE_COUNT];
    int32_t plans[MAX_DATA * STAGE_COUNT];
    int32_t n;
};
static struct errors errors[LEVELS][MODES];

static void note(const struct datum *datum, int level, int mode, double predicted, double measured)
{
    struct errors *to = &errors[level][mode];
    if (measured > 0) {
        to->plans[to->n] = datum->plan;
        to->values[to->n++] = fabs(predicted / measured - 1);
    }
}

// The median of those [n] that trace `reading` told, -1: all of them; NAN where there are none.
static double median_of(const double *values, const int32_t *of, int32_t n, int32_t reading)
{
    double chosen[2 * MAX_STEPS];
    int32_t n_chosen = 0;
    for (int32_t i = 0; i < n; i++) {
        if (reading < 0 || of[i] == reading) {
            chosen[n_chosen++] = values[i];
        }
    }
    sort_doubles(chosen, n_chosen);
    return n_chosen > 0 ? 0.5 * (chosen[(n_chosen - 1) / 2] + chosen[n_chosen / 2]) : NAN;
}

// False where that trace did not tell the shape.
static bool measure(struct measured *out, const struct datum *datum, int32_t reading)
{
    const int32_t *of = datum->staged_of, n = datum->n_staged;
    double whole_s = median_of(datum->whole_s, datum->whole_of, datum->n_whole, reading);
    double staged_s = median_of(datum->staged_s, of, n, reading), beside_s = median_of(datum->beside_s, of, n, reading);
    double sum_s = beside_s > 0 ? beside_s : 0;
    out->staged = isfinite(staged_s);
    for (int s = 0; s < STAGE_HOST; s++) {
        out->stages_s[s] = median_of(datum->stages_s[s], of, n, reading);
        sum_s += out->stages_s[s];
    }
    out->step_s = isfinite(whole_s) ? whole_s : staged_s;
    out->undisturbed_s = isfinite(whole_s) ? whole_s : sum_s;
    return isfinite(out->step_s);
}

// How far `given` is from what was measured.
static void compare(const struct datum *datum, int mode, const struct measured *given, const struct measured *measured)
{
    bool decode = datum->phase == PHASE_DECODE;
    note(datum, decode ? STEP_DECODE : STEP_PREFILL, mode, given->step_s, measured->step_s);
    note(datum, STEP_ALL, mode, given->undisturbed_s, measured->undisturbed_s);
    if (!decode) {
        note(datum, STEP_UNDISTURBED, mode, given->undisturbed_s, measured->undisturbed_s);
    }
    for (int s = 0; s < STAGE_HOST && given->staged && measured->staged; s++) {
        if (given->stages_s[s] > 0 && measured->stages_s[s] > 0) {
            note(datum, STAGE_ALL, mode, given->stages_s[s], measured->stages_s[s]);
            if (measured->stages_s[s] >= 0.01 * measured->step_s) {
                note(datum, STAGE_LARGE, mode, given->stages_s[s], measured->stages_s[s]);
            }
        }
    }
}

static int predict(struct measured *out, const struct bench *bench, const struct datum *datum,
                   const struct device *device)
{
    static struct work work[MAX_SEQS];
    struct step_prediction step;
    int32_t rows = datum->n_tokens / datum->n_seqs;
    for (int32_t i = 0; i < datum->n_seqs; i++) {
        work[i] = (struct work){datum->context_tokens - rows, rows, datum->phase == PHASE_DECODE || datum->ends};
    }
    double heat_s = median_of(datum->heat_s, NULL, datum->n_heat, -1);
    int error = predict_step_heated(&step, device, &bench->plans[datum->plan], work, datum->n_seqs, heat_s);
    *out = (struct measured){.staged = true, .step_s = step.seconds, .undisturbed_s = step.seconds};
    for (int s = 0; s < STAGE_HOST && !error; s++) {
        out->stages_s[s] = step.stages[s].seconds;
    }
    return error;
}

static double off_percent(double predicted, double measured)
{
    return 100 * (predicted / measured - 1);
}

// again_s: of the last reading; NAN without one.
static void print_datum(const struct bench *bench, const struct datum *datum, const struct measured *measured,
                        const struct measured *roofline, const struct measured *calibrated, double first_s,
                        double again_s)
{
    for (int s = 0; s < STAGE_HOST && measured->staged; s++) {
        if (calibrated->stages_s[s] > 0 && measured->stages_s[s] > 0) {
            printf("    %-16s measured %10.1f us, predicted %10.1f us, %+6.1f%%\n", stage_name((enum stage)s),
                   1e6 * measured->stages_s[s], 1e6 * calibrated->stages_s[s],
                   off_percent(calibrated->stages_s[s], measured->stages_s[s]));
        }
    }
    printf("%-10s %-8s %3d x %4d rows, context %6d: step %9.3f ms, roofline %9.3f ms, %+6.1f%%, calibrated %9.3f ms, "
           "%+6.1f%%, again %+6.1f%%\n",
           bench->plans[datum->plan].method, phase_name(datum->phase), datum->n_seqs, datum->n_tokens / datum->n_seqs,
           datum->context_tokens, 1e3 * measured->undisturbed_s, 1e3 * roofline->step_s,
           off_percent(roofline->step_s, measured->undisturbed_s), 1e3 * calibrated->step_s,
           off_percent(calibrated->step_s, measured->undisturbed_s), off_percent(again_s, first_s));
}

static int judge(const struct bench *bench, const struct datum *datum, const struct device *bare,
                 const struct device *with_curves)
{
    struct measured measured, roofline, calibrated, first, last;
    int error = predict(&roofline, bench, datum, bare);
    error = error ? error : predict(&calibrated, bench, datum, with_curves);
    if (error || !measure(&measured, datum, -1)) {
        return error;
    }
    compare(datum, ROOFLINE, &roofline, &measured);
    compare(datum, CALIBRATED, &calibrated, &measured);
    int32_t begin = 0, end = bench->reading;
    while (begin < end && !measure(&first, datum, begin)) {
        begin++;
    }
    while (end > begin && !measure(&last, datum, end)) {
        end--;
    }
    if (begin < end) {
        compare(datum, AGAIN, &last, &first);
    }
    if (bench->each) {
        print_datum(bench, datum, &measured, &roofline, &calibrated, begin < end ? first.undisturbed_s : NAN,
                    begin < end ? last.undisturbed_s : NAN);
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
        printf("%s: %d shapes calibrated with, %d held out; %d more of the traces to judge by were calibrated with\n",
               phase_name((enum phase)p), fitted[p], held[p], both[p]);
    }
}

// Of one plan's data, -1: of all; `methods` names them.
static void report(const struct bench *bench, int level, int mode, int32_t plan, const char *methods)
{
    static double values[MAX_DATA * STAGE_COUNT];
    const struct errors *of = &errors[level][mode];
    const char *const mode_names[MODES] = {"roofline", bench->borrowed ? "borrowed" : "calibrated", "again"};
    int32_t n = 0;
    for (int32_t i = 0; i < of->n; i++) {
        if (plan < 0 || of->plans[i] == plan) {
            values[n++] = of->values[i];
        }
    }
    if (n == 0) {
        return;
    }
    sort_doubles(values, n);
    double figures[] = {50 * (values[(n - 1) / 2] + values[n / 2]), 100 * values[(int32_t)ceil(0.95 * n) - 1], n};
    const char *const ends[] = {"", ".p95", ".n"};
    printf("%-26s %-10s  %5d data  median %6.1f%%  P95 %6.1f%%  %s\n", level_names[level], mode_names[mode], n,
           figures[0], figures[1], methods);
    for (int i = 0; i < 3; i++) {
        char quantity[64];
        snprintf(quantity, sizeof quantity, "sim_error.%s.%s%s", level_names[level], mode_names[mode], ends[i]);
        results_add(&bench->results, &(struct result){.device = bench->source.device,
                                                      .command = "bench_sim_traces",
                                                      .model = bench->source.model,
                                                      .method = methods,
                                                      .contexts = bench->shapes,
                                                      .quantity = quantity,
                                                      .median = figures[i],
                                                      .spread = NAN,
                                                      .floor = NAN,
                                                      .unit = i == 2 ? "data" : "%"});
    }
}

static void report_all(const struct bench *bench)
{
    bool judged[MAX_PLANS] = {false};
    char methods[256] = "";
    int32_t n_judged = 0;
    for (int32_t i = 0; i < bench->n_data; i++) {
        int32_t plan = bench->data[i].plan;
        if (bench->data[i].held && !bench->data[i].fitted && !judged[plan]) {
            size_t length = strlen(methods);
            snprintf(methods + length, sizeof methods - length, "%s%s", length ? "," : "", bench->plans[plan].method);
            judged[plan] = true;
            n_judged++;
        }
    }
    for (int level = 0; level < LEVELS; level++) {
        for (int mode = 0; mode < MODES; mode++) {
            report(bench, level, mode, -1, methods);
        }
    }
    for (int32_t plan = 0; plan < bench->n_plans && n_judged > 1; plan++) {
        for (int level = 0; level < LEVELS && judged[plan]; level++) {
            for (int mode = 0; mode < MODES && level != STEP_UNDISTURBED && level != STAGE_ALL; mode++) {
                report(bench, level, mode, plan, bench->plans[plan].method);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------

// Which steps of traces of newer kernels calibrate: those that decode at every other context of their method, from the
// shortest. contexts: [n] of methods that were seen, ascending.
struct newer {
    struct sample_sink to;
    struct bench *bench;                 // whose plans tell methods apart
    struct { int32_t plan, context_tokens; } places[MAX_PLACES];
    int32_t n_places;
    struct stage_sample *stages;         // [n_stages] of the step that is told
    int32_t n_stages;
    bool telling;                        // else contexts are collected
};

static void newer_source(void *user, const struct sample_source *source)
{
    struct newer *newer = user;
    on_source(newer->bench, source);
    if (newer->telling) {
        newer->to.source(newer->to.user, source);
    }
}

static void newer_stage(void *user, const struct stage_sample *sample)
{
    struct newer *newer = user;
    if (newer->n_stages < MAX_SAMPLES) {
        newer->stages[newer->n_stages++] = *sample;
    }
}

static void newer_step(void *user, const struct step_sample *sample)
{
    struct newer *newer = user;
    int32_t plan = newer->bench->of_source, shorter = 0;
    bool seen = false;
    for (int32_t i = 0; i < newer->n_places && sample->phase == PHASE_DECODE; i++) {
        // From batch to batch it grows by a few tokens, of short ones by more than near() takes for the same.
        bool same = fabs(log((double)newer->places[i].context_tokens / sample->context_tokens)) < 0.1;
        seen = seen || (same && newer->places[i].plan == plan);
        shorter += !same && newer->places[i].plan == plan && newer->places[i].context_tokens < sample->context_tokens;
    }
    if (!newer->telling && !seen && sample->phase == PHASE_DECODE && newer->n_places < MAX_PLACES) {
        newer->places[newer->n_places].plan = plan;
        newer->places[newer->n_places++].context_tokens = sample->context_tokens;
    }
    if (newer->telling && seen && shorter % 2 == 0) {
        for (int32_t i = 0; i < newer->n_stages; i++) {
            newer->to.stage(newer->to.user, &newer->stages[i]);
        }
        newer->to.step(newer->to.user, sample);
    }
    newer->n_stages = 0;
}

// Tells the sink `to` those steps of the newer traces; `fit` (may be NULL) of which trace they are.
static int read_newer(struct bench *bench, const struct sample_sink *to, struct calibration_fit *fit)
{
    static struct newer newer;
    static struct stage_sample stages[MAX_SAMPLES];
    struct sample_sink sink = {.user = &newer, .source = newer_source, .stage = newer_stage, .step = newer_step};
    newer = (struct newer){.to = *to, .bench = bench, .stages = stages};
    int error = 0;
    for (int32_t i = 0; i < 2 * bench->newer_paths.n && !error; i++) {
        const char *path = bench->newer_paths.items[i % bench->newer_paths.n], *slash = strrchr(path, '/');
        newer.telling = i >= bench->newer_paths.n;
        error = newer.telling && fit ? calibration_fit_trace(fit, slash ? slash + 1 : path) : 0;
        error = error ? error : trace_read(path, &sink, NULL);
    }
    return error;
}

// What newer kernels had changed (split.sh).
static bool renews(enum stage stage, enum phase phase, int32_t unit_tokens)
{
    return phase == PHASE_DECODE && (stage == STAGE_INDEX_SCORE || stage == STAGE_INDEX_SELECT ||
                                     (stage == STAGE_ATTENTION && unit_tokens == 0));
}

static int fit(struct calibration **out, struct bench *bench, const struct device *device,
               const struct option_list *paths, bool newer)
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
    if (newer && !error) {
        struct sample_sink sink = calibration_fit_sink(fit);
        calibration_fit_newer(fit, renews);
        error = read_newer(bench, &sink, fit);
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
    int error = fit(&own, bench, device, &one, false);
    if (!error) {
        memcpy(bench->mark_s, own->profiles[0].mark_s, sizeof bench->mark_s);
        bench->heat = (struct calibration_heat){0, 0};
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
        error = status_fail(-EINVAL, "expected --fit TRACE, --held TRACE (each may come often) and --device-name");
    }
    error = error ? error : device_find(&device, bench->device_name, 0);
    if (!error) {
        error = bench->borrowed ? calibration_load(&calibration, bench->borrowed)
                                : fit(&calibration, bench, &device, &bench->fit_paths, true);
    }
    bench->fitting = true;
    for (int32_t i = 0; i < bench->fit_paths.n && !error; i++) {
        error = trace_read(bench->fit_paths.items[i], &sink, NULL);
    }
    error = error ? error : read_newer(bench, &sink, NULL);
    bench->fitting = false;
    for (int32_t i = 0; i < bench->held_paths.n && !error; i++) {
        bench->reading = i;
        error = read_held(bench, &device, bench->held_paths.items[i], &sink);
    }
    if (!error) {
        calibrated = device;
        calibrated.calibration = &calibration->profiles[0];
    }
    for (int32_t i = 0; i < bench->n_data && !error; i++) {
        if (bench->data[i].held && !bench->data[i].fitted) {
            error = judge(bench, &bench->data[i], &device, &calibrated);
        }
    }
    if (!error) {
        report_split(bench);
    }
    if (bench->dropped > 0) {
        printf("%lld steps had no room and are not counted\n", (long long)bench->dropped);
    }
    error = error ? error : results_open(&bench->results);
    if (!error) {
        report_all(bench);
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
        {"newer", OPTION_LIST, &bench.newer_paths, 0, 0, "TRACE",
         "of newer kernels: every other context calibrates them"},
        {"held", OPTION_LIST, &bench.held_paths, 0, 0, "TRACE", "to judge by"},
        {"device-name", OPTION_TEXT, &bench.device_name, 0, 0, "NAME", "whose rates (clsa devices)"},
        {"borrowed", OPTION_TEXT, &bench.borrowed, 0, 0, "FILE", "a calibration of another device, instead of --fit"},
        {"save", OPTION_OUTPUT, &bench.save, 0, 0, "FILE", "the calibration"},
        {"shapes", OPTION_TEXT, &bench.shapes, 0, 0, "NAME", "what rows call those to judge by, instead of a context"},
        {"each", OPTION_FLAG, &bench.each, 0, 0, NULL, "print every datum"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {
        "bench_sim_traces", "Prediction errors on recorded shapes not calibrated with.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&bench);
    return bench_end("bench_sim_traces", error);
}
