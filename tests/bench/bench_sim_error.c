// tests/bench/bench_sim_error.c - how far predictions are from measured stages and steps, for shapes not calibrated
// with.
//
// Runs contexts and batches of two kinds in turns: those of the grid go into a calibration, those between are held out
// and predicted. Turns, and lower quartiles over rounds, because the machine may be shared and its speed drifts. A
// held-out datum is one decode batch at one context, or the last chunk of a prompt: whole chunks are those of
// calibrated prompts, too. Its step is measured twice: as the median of whole steps, and undisturbed, as the sum of the
// lower quartiles of every stage of every layer and of what is outside stages: on a busy machine nearly every step
// loses a time slice to somebody else, or memory bandwidth for some seconds; few stages do in most of their steps.
// Calibrated is with lower quartiles (clsa calibrate --undisturbed), too. Stages are summed over layers in the same
// manner. Errors are |predicted / measured - 1|, of the bare roofline and calibrated; where a processor settles after
// prompts, of what steps take so long after them. Beside them stands how far two measurements are apart, of odd and of
// even rounds: less cannot be asked of a prediction. Steps with rows of both phases and batches that are no longer
// whole are left out: their shapes are not in the samples.
// Appends to tests/bench/results.tsv (--results); run from the top of the checkout. Some minutes.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/calibrated.h"
#include "cli/command.h"
#include "cli/measure.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "sim/predict.h"
#include "tests/bench/results.h"

enum { MAX_STEPS = 1 << 14, MAX_DATA = 1 << 12, MAX_LAYERS = 32, OUTPUT_TOKENS = 16, TEXT_TOKENS = 1 << 13 };

static const struct {
    int32_t context, batch;
    bool held_out;
} shapes[] = {
    // Last chunks of 512 rows and of few; of about the same behind other contexts. A product's time goes in steps of
    // its tiles' rows, so that the grid is a quarter of an octave wide; attention of few rows depends on how many keys
    // they see.
    {96, 1, false},   {128, 1, false},  {144, 1, true},   {160, 1, false},  {192, 1, true},   {224, 1, false},
    {256, 1, false},  {288, 1, true},   {320, 1, false},  {384, 1, true},   {420, 1, true},   {448, 1, false},
    {512, 1, false},  {540, 1, false},  {560, 1, true},   {600, 1, false},  {700, 1, true},   {800, 1, true},
    {860, 1, false},  {940, 1, true},   {1024, 1, false}, {1100, 1, false}, {1150, 1, true},  {1280, 1, false},
    {1450, 1, true},  {1640, 1, true},  {1700, 1, false}, {1740, 1, false}, {1900, 1, true},  {2048, 1, false},
    {2300, 1, true},  {2460, 1, false}, {2900, 1, true},  {3328, 1, false}, {200, 2, false},  {350, 2, true},
    {512, 2, false},  {768, 2, true},   {1024, 2, false}, {400, 3, true},   {768, 3, true},   {200, 4, false},
    {512, 4, false},  {650, 4, true},   {1024, 4, false}, {300, 6, true},   {200, 8, false},  {512, 8, false},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

struct bench {
    const char *model, *methods, *device;
    struct results results;
    int32_t rounds, threads, chunk;
    double seconds;
    bool each;
    struct plan_flags flags;
    struct calibration_fit *fit;
    struct sample_source source;
};

// One step of a held-out run: its stages in seconds.
struct held_step {
    int32_t method, shape, round;
    enum phase phase;
    int32_t n_tokens, context_tokens;
    double since_s;    // after the run's last step with prompts
    double seconds, overhead_s, layers[STAGE_COUNT][MAX_LAYERS + 1];    // layer -1 first; parts of one added up
};

static struct held_step held[MAX_STEPS];
static int32_t n_held;
static struct held_step current;    // of the step that is running
static int64_t prompt_end_ns;

static void on_stage(void *user, const struct stage_sample *sample)
{
    (void)user;
    double seconds = 1e-9 * (double)sample->duration_ns;
    if (sample->stage != STAGE_HOST && sample->layer < MAX_LAYERS) {
        current.layers[sample->stage][sample->layer + 1] += seconds;
        current.overhead_s -= seconds;
    }
}

static void on_step(void *user, const struct step_sample *sample)
{
    const struct held_step *run = user;
    bool whole = sample->phase == PHASE_DECODE && sample->n_seqs == shapes[run->shape].batch;
    bool chunk = sample->phase == PHASE_PREFILL && sample->n_seqs == 1 &&
                 sample->context_tokens == shapes[run->shape].context;
    if ((whole || chunk) && n_held < MAX_STEPS) {
        current.method = run->method;
        current.shape = run->shape;
        current.round = run->round;
        current.since_s = sample->phase == PHASE_DECODE ? 1e-9 * (double)(sample->begin_ns - prompt_end_ns) : 0;
        current.phase = sample->phase;
        current.n_tokens = sample->n_tokens;
        current.context_tokens = sample->context_tokens;
        current.seconds = 1e-9 * (double)sample->duration_ns;
        current.overhead_s += current.seconds;
        held[n_held++] = current;
    }
    current = (struct held_step){0};
    prompt_end_ns = sample->phase == PHASE_DECODE ? prompt_end_ns : sample->begin_ns + sample->duration_ns;
}

static int run_shape(struct bench *bench, const struct plan *plan, struct model_file *model, int32_t method,
                     int32_t shape, int32_t round)
{
    static int32_t text[TEXT_TOKENS];
    struct held_step run = {.method = method, .shape = shape, .round = round};
    struct sample_sink sink = calibration_fit_sink(bench->fit);
    if (shapes[shape].held_out) {
        sink = (struct sample_sink){.user = &run, .stage = on_stage, .step = on_step};
    }
    for (int32_t i = 0; i < TEXT_TOKENS; i++) {
        text[i] = 'a' + i * 7 % 26;
    }
    struct measurement measured = {0};
    struct measure_options options = {
        .plan = plan, .model = model, .device = bench->device, .threads = bench->threads,
        .batch = shapes[shape].batch, .chunk_tokens = bench->chunk, .text = text, .n_text = TEXT_TOKENS,
        .context_tokens = shapes[shape].context, .output_tokens = OUTPUT_TOKENS, .sinks = &sink, .n_sinks = 1,
    };
    int error = calibration_fit_trace(bench->fit, "bench_sim_error");
    error = error ? error : measure(&measured, &options);
    bench->source = measured.source;
    measurement_free(&measured);
    return error;
}

static double median_of(double *values, int32_t n)
{
    sort_doubles(values, n);
    return n > 0 ? 0.5 * (values[(n - 1) / 2] + values[n / 2]) : NAN;
}

static double p95_of(double *values, int32_t n)
{
    sort_doubles(values, n);
    return n > 0 ? values[(int32_t)ceil(0.95 * n) - 1] : NAN;
}

struct errors {
    double values[MAX_DATA];
    int32_t n;
};

// Of what: the bare roofline, the calibrated prediction, the other half of the rounds as if it were one.
enum mode { ROOFLINE, CALIBRATED, AGAIN, MODES };
static const char *const mode_names[MODES] = {"roofline", "calibrated", "again"};
static struct errors step_errors[MODES], undisturbed_errors[MODES], stage_errors[MODES], large_errors[MODES],
    phase_errors[PHASE_COUNT][MODES];

static void note(struct errors *errors, double predicted, double measured)
{
    if (errors->n < MAX_DATA && measured > 0 && predicted > 0) {
        errors->values[errors->n++] = fabs(predicted / measured - 1);
    }
}

// Same datum: the same batch in decode, whatever the few tokens that it has grown; the same chunk in prefill.
static bool same(const struct held_step *a, const struct held_step *b)
{
    return a->method == b->method && a->shape == b->shape && a->phase == b->phase &&
           (a->phase == PHASE_DECODE || (a->n_tokens == b->n_tokens && a->context_tokens == b->context_tokens));
}

// The steps of one datum.
struct datum {
    const struct held_step *steps[MAX_STEPS];
    int32_t n;
};

enum { ALL = -1 };    // or half 0, 1: even rounds, odd rounds

static void collect(struct datum *out, const struct held_step *first, int32_t half)
{
    out->n = 0;
    for (int32_t i = 0; i < n_held; i++) {
        if (same(&held[i], first) && (half == ALL || held[i].round % 2 == half)) {
            out->steps[out->n++] = &held[i];
        }
    }
}

// What can be measured of a step: how long after prompts it began, all of it (the median), what is outside stages, or
// one stage of one layer (the lower quartile, as is calibrated from: undisturbed).
enum { SINCE = -3, WHOLE = -2, OVERHEAD = -1 };

static double center_s(const struct datum *datum, int stage, int32_t layer)
{
    static double values[MAX_STEPS];
    for (int32_t i = 0; i < datum->n; i++) {
        const struct held_step *step = datum->steps[i];
        values[i] = stage == SINCE      ? step->since_s
                    : stage == WHOLE    ? step->seconds
                    : stage == OVERHEAD ? step->overhead_s
                                        : step->layers[stage][layer + 1];
    }
    if (stage == WHOLE || stage == SINCE) {
        return median_of(values, datum->n);
    }
    sort_doubles(values, datum->n);
    return values[(datum->n - 1) / 4];
}

// What was measured of a datum.
struct measured {
    double whole_s, undisturbed_s, since_s, stages_s[STAGE_HOST];
};

static void reduce(struct measured *out, const struct held_step *first, int32_t half)
{
    static struct datum datum;
    collect(&datum, first, half);
    *out = (struct measured){.whole_s = center_s(&datum, WHOLE, 0),
                             .undisturbed_s = center_s(&datum, OVERHEAD, 0),
                             .since_s = center_s(&datum, SINCE, 0)};
    for (int s = 0; s < STAGE_HOST; s++) {
        for (int32_t layer = -1; layer < MAX_LAYERS; layer++) {
            out->stages_s[s] += first->layers[s][layer + 1] > 0 ? center_s(&datum, s, layer) : 0;
        }
        out->undisturbed_s += out->stages_s[s];
    }
}

static bool is_large(const struct measured *measured, int stage)
{
    return measured->stages_s[stage] >= 0.01 * measured->undisturbed_s;
}

static int predict(struct step_prediction *out, const struct held_step *first, const struct measured *measured,
                   const struct plan *plan, const struct device *device)
{
    struct work work[16];
    bool decode = first->phase == PHASE_DECODE;
    int32_t batch = decode ? shapes[first->shape].batch : 1, context = shapes[first->shape].context;
    for (int32_t i = 0; i < batch; i++) {
        work[i] = decode ? (struct work){context + OUTPUT_TOKENS / 2, 1, 1}
                         : (struct work){first->context_tokens - first->n_tokens, first->n_tokens,
                                         first->context_tokens == context};
    }
    int error = predict_step(out, device, plan, work, batch);
    if (!error && decode && device->calibration) {
        // All stages are slower alike.
        double bytes = (double)step_cost(plan, work, batch).bytes;
        double more = calibration_settling_s(device->calibration, bytes, batch, measured->since_s) / out->seconds;
        out->seconds *= 1 + more;
        for (int s = 0; s < STAGE_HOST; s++) {
            out->stages[s].seconds *= 1 + more;
        }
    }
    return error;
}

static int judge(const struct held_step *first, const struct plan *plan, const struct device *device, enum mode mode,
                 bool each)
{
    struct measured measured;
    struct step_prediction step;
    reduce(&measured, first, ALL);
    int error = predict(&step, first, &measured, plan, device);
    if (error) {
        return error;
    }
    note(&step_errors[mode], step.seconds, measured.whole_s);
    note(&undisturbed_errors[mode], step.seconds, measured.undisturbed_s);
    note(&phase_errors[first->phase][mode], step.seconds, measured.undisturbed_s);
    if (each) {
        bool decode = first->phase == PHASE_DECODE;
        printf("%-8s %-8s %d x %4d tokens, to context %5d: measured %8.3f ms, undisturbed %8.3f ms, %s %8.3f ms, "
               "%+6.1f%%\n",
               plan->method, phase_name(first->phase), decode ? shapes[first->shape].batch : 1,
               decode ? 1 : first->n_tokens, first->context_tokens, 1e3 * measured.whole_s,
               1e3 * measured.undisturbed_s, mode_names[mode],
               1e3 * step.seconds, 100 * (step.seconds / measured.undisturbed_s - 1));
    }
    for (int s = 0; s < STAGE_HOST; s++) {
        double seconds = step.stages[s].seconds;
        if (!(seconds > 0) || !(measured.stages_s[s] > 0)) {
            continue;
        }
        note(&stage_errors[mode], seconds, measured.stages_s[s]);
        if (is_large(&measured, s)) {
            note(&large_errors[mode], seconds, measured.stages_s[s]);
        }
        if (each && mode == CALIBRATED && is_large(&measured, s)) {
            printf("    %-16s measured %10.1f us, predicted %10.1f us, %+6.1f%%\n", stage_name((enum stage)s),
                   1e6 * measured.stages_s[s], 1e6 * seconds, 100 * (seconds / measured.stages_s[s] - 1));
        }
    }
    return 0;
}

// Odd rounds held against even ones.
static void judge_again(const struct held_step *first)
{
    struct measured halves[2];
    for (int h = 0; h < 2; h++) {
        reduce(&halves[h], first, h);
    }
    note(&step_errors[AGAIN], halves[1].whole_s, halves[0].whole_s);
    note(&undisturbed_errors[AGAIN], halves[1].undisturbed_s, halves[0].undisturbed_s);
    note(&phase_errors[first->phase][AGAIN], halves[1].undisturbed_s, halves[0].undisturbed_s);
    for (int s = 0; s < STAGE_HOST; s++) {
        note(&stage_errors[AGAIN], halves[1].stages_s[s], halves[0].stages_s[s]);
        if (is_large(&halves[0], s)) {
            note(&large_errors[AGAIN], halves[1].stages_s[s], halves[0].stages_s[s]);
        }
    }
}

static void report(struct bench *bench, const char *level, struct errors *errors, enum mode mode)
{
    const char *mode_name = mode_names[mode];
    double median = 100 * median_of(errors->values, errors->n), p95 = 100 * p95_of(errors->values, errors->n);
    printf("%-24s %-10s  %4d data  median %6.1f%%  P95 %6.1f%%\n", level, mode_name, errors->n, median, p95);
    char command[128], quantity[64];
    snprintf(command, sizeof command, "bench_sim_error --methods %s --rounds %d", bench->methods, bench->rounds);
    for (int i = 0; i < 2; i++) {
        snprintf(quantity, sizeof quantity, "sim_error.%s.%s%s", level, mode_name, i ? ".p95" : "");
        results_add(&bench->results, &(struct result){.device = bench->source.device,
                                                      .command = command,
                                                      .model = bench->model,
                                                      .method = bench->methods,
                                                      .contexts = "144-2900",
                                                      .batches = "1-6",
                                                      .quantity = quantity,
                                                      .median = i ? p95 : median,
                                                      .spread = NAN,
                                                      .floor = NAN,
                                                      .unit = "%"});
    }
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int run_all(struct bench *bench, struct plan *plans, int32_t *n_methods)
{
    char list[256], *rest = NULL;
    struct model_file *models[8] = {NULL};
    snprintf(list, sizeof list, "%s", bench->methods);
    int error = 0;
    for (char *name = strtok_r(list, ",", &rest); name && !error; name = strtok_r(NULL, ",", &rest)) {
        int32_t m = (*n_methods)++;
        error = m < 8 ? command_model_open(&models[m], bench->model, name, &bench->flags, 1)
                      : status_fail(-EINVAL, "--methods: more than 8");
        error = error ? error : command_plan_build(&plans[m], models[m], name, &bench->flags);
    }
    double begin_s = now_s();
    for (int32_t r = 0; r < bench->rounds && !error; r++) {
        if (r > 0 && bench->seconds > 0 && (now_s() - begin_s) * (r + 1) / r > bench->seconds) {
            bench->rounds = r;
            break;
        }
        for (int32_t s = 0; s < N_SHAPES && !error; s++) {
            for (int32_t m = 0; m < *n_methods && !error; m++) {
                error = run_shape(bench, &plans[m], models[m], m, s, r);
            }
        }
    }
    for (int32_t m = 0; m < *n_methods && m < 8; m++) {
        model_file_close(models[m]);
    }
    return error;
}

static int judge_all(struct bench *bench, const struct plan *plans, struct calibration **calibration)
{
    static struct device rates[64], bare, calibrated;
    char host[DEVICE_NAME_BYTES];
    calibrated_host_name(host, sizeof host);
    for (int32_t p = 0; p < calibration_fit_profiles(bench->fit) && p < 64; p++) {
        int error = device_find(&rates[p], "host", calibration_fit_source(bench->fit, p)->threads);
        if (error) {
            return error;
        }
        snprintf(rates[p].name, sizeof rates[p].name, "%s", host);
    }
    calibration_fit_by(bench->fit, CALIBRATION_BY_LOWER_QUARTILE);
    int error = calibration_fit_finish(calibration, bench->fit, rates, "", "bench_sim_error");
    for (int32_t i = 0; i < n_held && !error; i++) {
        bool seen = false;
        for (int32_t before = 0; before < i && !seen; before++) {
            seen = same(&held[before], &held[i]);
        }
        bare = (*calibration)->profiles[0].rates;
        calibrated = bare;
        calibrated.calibration = &(*calibration)->profiles[0];
        if (!seen) {
            error = judge(&held[i], &plans[held[i].method], &bare, ROOFLINE, bench->each);
            error = error ? error : judge(&held[i], &plans[held[i].method], &calibrated, CALIBRATED, bench->each);
            judge_again(&held[i]);
        }
    }
    return error;
}

int main(int argc, char **argv)
{
    static struct plan plans[8];
    struct bench bench = {.model = "bench-100m", .methods = "clsa,dense", .device = "cpu", .rounds = 4, .chunk = 512,
                          .flags = plan_flags_default()};
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &bench.model, 0, 0, "NAME", "a size (random weights)"},
        {"methods", OPTION_TEXT, &bench.methods, 0, 0, "M[,M...]", "methods, at most 8"},
        {"device", OPTION_TEXT, &bench.device, 0, 0, "cpu|reference", "backend"},
        {"rounds", OPTION_INT, &bench.rounds, 1, 100, "rounds", "medians are over them"},
        {"seconds", OPTION_REAL, &bench.seconds, 0, 1e6, "s", "no round begins that would end later; 0: all"},
        {"chunk", OPTION_INT, &bench.chunk, 1, 1 << 20, "tokens", "rows of one prefill step"},
        {"threads", OPTION_INT, &bench.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        {"each", OPTION_FLAG, &bench.each, 0, 0, NULL, "print every held-out step"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_sim_error", "Prediction errors on shapes not calibrated with.", NULL, 0,
                                         0, options};
    int32_t n_positional, n_methods = 0;
    struct calibration *calibration = NULL;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : plan_flags_resolve(&bench.flags);
    error = error ? error : results_open(&bench.results);
    error = error ? error : calibration_fit_open(&bench.fit);
    error = error ? error : run_all(&bench, plans, &n_methods);
    error = error ? error : judge_all(&bench, plans, &calibration);
    for (int m = 0; m < MODES - (bench.rounds == 1) && !error; m++) {    // one round has no halves
        enum mode mode = (enum mode)m;
        report(&bench, "step", &step_errors[m], mode);
        report(&bench, "step_undisturbed", &undisturbed_errors[m], mode);
        report(&bench, "step_undisturbed.decode", &phase_errors[PHASE_DECODE][m], mode);
        report(&bench, "step_undisturbed.prefill", &phase_errors[PHASE_PREFILL][m], mode);
        report(&bench, "stage", &stage_errors[m], mode);
        report(&bench, "stage_over_1_percent", &large_errors[m], mode);
    }
    calibration_free(calibration);
    calibration_fit_close(bench.fit);
    return bench_end("bench_sim_error", results_close(&bench.results, error));
}
