// tests/test_calibration_steps.c - calibration from a device that replays steps: what marks add is found and taken off.
// Prompts that attend over a selection are told apart by what their rows see, which their work does not tell.
#include <unistd.h>

#include "sim/calibration.h"
#include "sim/predict.h"
#include "tests/check.h"

enum { N_LAYERS = 6, REPEATS = 9, EVERY = 4 };
static const double BYTES_PER_S = 2e12, LAUNCH_S = 3e-6;

static double true_s(int64_t bytes)
{
    return LAUNCH_S + (double)bytes / BYTES_PER_S;
}

static double per_seq_s;    // outside of stages, for each sequence
static enum stage reading = STAGE_ATTENTION;    // that grows with contexts
static double wait_s;       // for each layer of a replayed step of four sequences and more with 8192 tokens

// Steps of a batch, one in EVERY with marks that add mark_s to each stage; `beside_s` passes outside of stages.
static void tell_batch(const struct sample_sink *sink, int64_t *step, int32_t n_seqs, int32_t context, double mark_s,
                       double beside_s, bool all_marked)
{
    for (int32_t r = 0; r < REPEATS * EVERY; r++, (*step)++) {
        bool marked = all_marked || r % EVERY == 0;
        double whole_s = beside_s + n_seqs * per_seq_s;
        whole_s += !marked && n_seqs >= 4 && context == 8192 ? N_LAYERS * wait_s : 0;
        for (int32_t layer = 0; layer < N_LAYERS; layer++) {
            int64_t bytes[2] = {100000 * (int64_t)n_seqs * context, 200000000};
            for (int part = 0; part < 2; part++) {
                double seconds = true_s(bytes[part]);
                whole_s += seconds + (marked ? mark_s : 0);
                struct stage_sample stage = {
                    .step = *step,
                    .phase = PHASE_DECODE,
                    .stage = part ? STAGE_FFN : reading,
                    .layer = layer,
                    .n_seqs = n_seqs,
                    .n_tokens = n_seqs,
                    .context_tokens = context,
                    .bytes = bytes[part],
                    .flops = 1000,
                    .duration_ns = (int64_t)(1e9 * (seconds + mark_s) * (1 + 0.002 * (check_uniform() - 0.5))),
                };
                if (marked) {
                    sink->stage(sink->user, &stage);
                }
            }
        }
        sink->step(sink->user, &(struct step_sample){
                                   .step = *step, .phase = PHASE_DECODE, .n_seqs = n_seqs, .n_tokens = n_seqs,
                                   .context_tokens = context, .duration_ns = (int64_t)(1e9 * whole_s)});
    }
}

static const struct calibration_curve *find_curve(const struct calibration_profile *profile, enum stage stage)
{
    for (int32_t c = 0; c < profile->n_curves; c++) {
        if (profile->curves[c].stage == stage) {
            return &profile->curves[c];
        }
    }
    return NULL;
}

static struct calibration *calibrate(double mark_s, double beside_s, bool all_marked, bool graph)
{
    struct calibration_fit *fit = NULL;
    struct calibration *calibration = NULL;
    struct device rates = {.name = "gpu", .bytes_per_s = {BYTES_PER_S, PROVENANCE_MEASURED, "made up"}};
    rates.flops_per_s[DTYPE_F32] = (struct device_figure){1e15, PROVENANCE_MEASURED, "made up"};
    struct sample_source source = {.graph = graph, .threads = 1, .n_layers = N_LAYERS, .device = "gpu", .model = "m",
                                   .method = "dense"};
    strcpy(source.backend, "cuda");
    CHECK(calibration_fit_open(&fit) == 0);
    struct sample_sink sink = calibration_fit_sink(fit);
    sink.source(sink.user, &source);
    int64_t step = 0;
    for (int32_t n_seqs = 1; n_seqs <= 8; n_seqs *= 2) {
        for (int32_t context = 512; context <= 8192; context *= 4) {
            tell_batch(&sink, &step, n_seqs, context, mark_s, beside_s, all_marked);
        }
    }
    CHECK(calibration_fit_dropped(fit) == 0 || !graph);
    CHECK(calibration_fit_finish(&calibration, fit, &rates, "2026-01-01", "test") == 0);
    calibration_fit_close(fit);
    return calibration;
}

// What a calibration says that a stage of so many bytes takes.
static double predicted_s(const struct calibration *calibration, enum stage stage, int32_t rows, int64_t bytes)
{
    struct calibration_answer answer = {0};
    struct calibration_query query = {
        .stage = stage, .phase = PHASE_DECODE, .rows = rows, .work = (double)bytes + 1000};
    CHECK(calibration_ask(&answer, &calibration->profiles[0], &query));
    return answer.floor_s + (double)bytes / BYTES_PER_S / answer.efficiency;
}

static void test_marks(void)
{
    double mark_s = 1e-6 * (1 + 4 * check_uniform());
    per_seq_s = 1e-6 * (1 + check_uniform());
    struct calibration *calibration = calibrate(mark_s, 0, false, true);
    const struct calibration_profile *profile = &calibration->profiles[0];
    CHECK_MESSAGE(fabs(profile->mark_s[PHASE_DECODE] / mark_s - 1) <= 0.05, "a mark: %g us, truly %g",
                  1e6 * profile->mark_s[PHASE_DECODE], 1e6 * mark_s);
    CHECK(fabs(profile->overhead_s[PHASE_DECODE]) <= 1e-6 && profile->n_steps[PHASE_DECODE] > 0);
    CHECK_MESSAGE(fabs(profile->overhead_per_seq_s / per_seq_s - 1) <= 0.25, "per sequence: %g us, truly %g",
                  1e6 * profile->overhead_per_seq_s, 1e6 * per_seq_s);
    per_seq_s = 0;
    // A file keeps it to the last bit.
    struct calibration *again = NULL;
    char path[] = "/tmp/test_calibration_steps_XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && close(fd) == 0 && calibration_save(calibration, path) == 0 && calibration_load(&again, path) == 0);
    CHECK(again && again->profiles[0].overhead_per_seq_s >= profile->overhead_per_seq_s &&
          again->profiles[0].overhead_per_seq_s <= profile->overhead_per_seq_s);
    calibration_free(again);
    unlink(path);
    CHECK(find_curve(profile, STAGE_ATTENTION)->calibrated.median <= 0.05);
    for (int32_t n_seqs = 1; n_seqs <= 8; n_seqs *= 2) {
        int64_t bytes = 100000 * (int64_t)n_seqs * 2048;
        double seconds = predicted_s(calibration, STAGE_ATTENTION, n_seqs, bytes);
        CHECK_MESSAGE(fabs(seconds / true_s(bytes) - 1) <= 0.03, "%d sequences: %g us, truly %g", n_seqs, 1e6 * seconds,
                      1e6 * true_s(bytes));
    }
    calibration_free(calibration);
}

// Without marks nothing is taken off; what is outside of stages is overhead, on a CPU and where kernels are recorded.
static void test_overhead(void)
{
    for (int graph = 0; graph < 2; graph++) {
        struct calibration *calibration = calibrate(0, 50e-6, true, graph);
        const struct calibration_profile *profile = &calibration->profiles[0];
        CHECK(profile->mark_s[PHASE_DECODE] <= 0);
        CHECK_MESSAGE(fabs(profile->overhead_s[PHASE_DECODE] - 50e-6) <= 3e-6, "overhead %g us",
                      1e6 * profile->overhead_s[PHASE_DECODE]);
        calibration_free(calibration);
    }
    // A device that waits between steps longer than marks cost: stages stay, the rest is overhead.
    struct calibration *calibration = calibrate(0, 40e-6, false, true);
    CHECK(calibration->profiles[0].mark_s[PHASE_DECODE] <= 0);
    CHECK(fabs(calibration->profiles[0].overhead_s[PHASE_DECODE] - 40e-6) <= 3e-6);
    calibration_free(calibration);
}

// After each prompt a CPU's steps read slower and slower less so: `share` more at first, for settle_s. Some prompts
// lost their stages: they are of no use, but they ended when they did.
static struct calibration *calibrate_settling(double share, double settle_s)
{
    struct calibration_fit *fit = NULL;
    struct calibration *calibration = NULL;
    struct device rates = {.name = "cpu", .bytes_per_s = {BYTES_PER_S, PROVENANCE_MEASURED, "made up"}};
    rates.flops_per_s[DTYPE_F32] = (struct device_figure){1e15, PROVENANCE_MEASURED, "made up"};
    struct sample_source source = {
        .threads = 1, .n_layers = 1, .device = "cpu", .backend = "cpu", .model = "m", .method = "dense"};
    CHECK(calibration_fit_open(&fit) == 0);
    struct sample_sink sink = calibration_fit_sink(fit);
    sink.source(sink.user, &source);
    double now_s = 1;
    int64_t number = 0;
    for (int32_t run = 0; run < 60; run++) {
        int32_t n_seqs = run % 3 + 1;
        double prompt_end_s = now_s;
        for (int32_t i = 0; i < 20; i++, number++) {    // 80 ms: too few to settle
            bool prompt = i == 0;
            int64_t bytes = 8000000000 + 100000000 * (int64_t)n_seqs;    // 4 ms
            double more = prompt ? 0 : share * exp(-(now_s - prompt_end_s) / settle_s);
            double seconds =
                (prompt ? 10 : 1) * (double)bytes / BYTES_PER_S * (1 + more) * (1 + 0.01 * (check_uniform() - 0.5));
            seconds *= check_range(0, 50) ? 1 : 3;    // a hiccup
            int64_t ns = (int64_t)(1e9 * seconds);
            enum phase phase = prompt ? PHASE_PREFILL : PHASE_DECODE;
            if (!prompt || run % 4 != 1) {
                sink.stage(sink.user, &(struct stage_sample){.step = number, .phase = phase, .stage = STAGE_FFN,
                                                             .n_seqs = prompt ? 1 : n_seqs,
                                                             .n_tokens = prompt ? 64 : n_seqs, .context_tokens = 64,
                                                             .bytes = bytes, .flops = 1000, .duration_ns = ns});
            }
            sink.step(sink.user, &(struct step_sample){.step = number, .phase = phase, .n_seqs = prompt ? 1 : n_seqs,
                                                       .n_tokens = prompt ? 64 : n_seqs, .context_tokens = 64,
                                                       .begin_ns = (int64_t)(1e9 * now_s), .duration_ns = ns});
            now_s += seconds;
            prompt_end_s = prompt ? now_s : prompt_end_s;
        }
    }
    CHECK(calibration_fit_finish(&calibration, fit, &rates, "2026-01-01", "test") == 0);
    calibration_fit_close(fit);
    return calibration;
}

static void test_settling(void)
{
    double share = 0.3 + 0.3 * check_uniform(), settle_s = 0.03 + 0.02 * check_uniform();
    struct calibration *calibration = calibrate_settling(share, settle_s), *again = NULL;
    const struct calibration_profile *profile = &calibration->profiles[0];
    CHECK_MESSAGE(fabs(profile->settle_s_per_byte * BYTES_PER_S / share - 1) <= 0.15 &&
                      fabs(profile->settle_s / settle_s - 1) <= 0.2,
                  "%g more at first, truly %g; for %g s, truly %g", profile->settle_s_per_byte * BYTES_PER_S, share,
                  profile->settle_s, settle_s);
    // Curves are of what is settled.
    double seconds = predicted_s(calibration, STAGE_FFN, 1, 8100000000);
    CHECK_MESSAGE(fabs(seconds / 4.05e-3 - 1) <= 0.02, "%g s", seconds);
    // A file keeps it to the last bit.
    char path[] = "/tmp/test_calibration_steps_XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && close(fd) == 0 && calibration_save(calibration, path) == 0 && calibration_load(&again, path) == 0);
    CHECK(again && memcmp(&again->profiles[0].settle_s, &profile->settle_s, sizeof(double)) == 0 &&
          memcmp(&again->profiles[0].settle_s_per_byte, &profile->settle_s_per_byte, sizeof(double)) == 0);
    unlink(path);
    calibration_free(again);
    calibration_free(calibration);
    // One that takes far longer than runs last: in their middle steps are right, and nothing is said of what is behind.
    calibration = calibrate_settling(share, 1);
    profile = &calibration->profiles[0];
    double middle_s = predicted_s(calibration, STAGE_FFN, 1, 8100000000);
    middle_s += calibration_settling_s(profile, 8100000000, 1, 0.05);
    CHECK_MESSAGE(profile->settle_s < 0.13, "%g s", profile->settle_s);
    CHECK_MESSAGE(fabs(middle_s / (4.05e-3 * (1 + share * exp(-0.05))) - 1) <= 0.03, "%g s, share %g", middle_s, share);
    calibration_free(calibration);
    // A machine that does not: nothing is made up.
    calibration = calibrate_settling(0, 1);
    CHECK(calibration->profiles[0].settle_s <= 0 && calibration->profiles[0].settle_s_per_byte <= 0);
    calibration_free(calibration);
}

// Attention over k tokens of `rows` rows, the last of which sees `context` tokens, takes as long as what they see.
// Points are an eighth of an octave wide, hence the tolerances below.
static double seen_s(int32_t context, int32_t rows)
{
    return 1e-6 * rows * (context - 0.5 * (rows - 1));
}

static void test_seen(void)
{
    struct plan plan;
    CHECK(plan_build(&plan, plan_find_model("tiny"), "token", NULL) == 0);
    struct device device = {.name = "gpu", .bytes_per_s = {BYTES_PER_S, PROVENANCE_MEASURED, "made up"}};
    device.flops_per_s[DTYPE_F32] = device.flops_per_s[DTYPE_BF16] =
        (struct device_figure){1e15, PROVENANCE_MEASURED, "made up"};
    struct calibration_fit *fit = NULL;
    struct calibration *calibration = NULL;
    CHECK(calibration_fit_open(&fit) == 0 && calibration_fit_trace(fit, "made up") == 0);
    struct sample_sink sink = calibration_fit_sink(fit);
    struct sample_source source = sample_source_of(&plan);
    sink.source(sink.user, &source);
    for (int32_t context = 64, step = 0; context <= 4096; context *= 2) {
        for (int32_t rows = 16; rows <= 64; rows *= 2, step++) {
            struct work work = {context - rows, rows, 0};
            struct stage_cost cost;
            CHECK(stage_cost(&cost, &plan, STAGE_ATTENTION, 1, &work, 1) == 0);
            struct stage_sample sample = {.source = source.id,
                                          .step = step,
                                          .phase = PHASE_PREFILL,
                                          .stage = STAGE_ATTENTION,
                                          .layer = 1,
                                          .n_seqs = 1,
                                          .n_tokens = rows,
                                          .context_tokens = context,
                                          .bytes = cost.bytes,
                                          .flops = cost.flops,
                                          .duration_ns = llround(1e9 * seen_s(context, rows))};
            struct stage_sample full = sample;    // of a layer that attends in full, as Quest's first ones
            full.layer = 0;
            full.flops *= 10;
            full.duration_ns = 1000;
            sink.stage(sink.user, &full);
            struct stage_sample select = sample;    // whose rows take the longer, for their work too, the more they see
            CHECK(stage_cost(&cost, &plan, STAGE_INDEX_SELECT, 1, &work, 1) == 0);
            select.stage = STAGE_INDEX_SELECT;
            select.bytes = cost.bytes;
            select.flops = cost.flops;
            select.duration_ns = llround(1e6 * seen_s(context, rows) * context);
            sink.stage(sink.user, &select);
            sink.stage(sink.user, &sample);
            sink.step(sink.user, &(struct step_sample){.source = source.id,
                                                       .step = step,
                                                       .phase = PHASE_PREFILL,
                                                       .n_seqs = 1,
                                                       .n_tokens = rows,
                                                       .context_tokens = context,
                                                       .duration_ns = sample.duration_ns});
        }
    }
    CHECK(calibration_fit_finish(&calibration, fit, &device, "2026-01-02", "test") == 0);
    calibration_fit_close(fit);
    device.calibration = &calibration->profiles[0];
    const struct calibration_curve *full_curve = &calibration->profiles[0].curves[1];
    CHECK(calibration->profiles[0].n_curves == 3 && full_curve->stage == STAGE_ATTENTION &&
          full_curve->unit_tokens == 0);
    for (int32_t context = 900; context <= 4000; context += 310) {
        struct work both[2] = {{context - 32, 32, 0}, {300, 1, 1}};
        struct stage_prediction alone;
        CHECK(predict_stage(&alone, &device, &plan, STAGE_ATTENTION, 1, both, 1) == 0);
        CHECK_MESSAGE(fabs(alone.seconds / seen_s(context, 32) - 1) < 0.1, "context %d: %g s, not %g", context,
                      alone.seconds, seen_s(context, 32));
        // Two prompts go by the mean of what their rows see; a row that decodes beside them is priced by itself.
        struct work two[2] = {{context - 32, 32, 0}, {context - 32, 32, 0}};
        struct stage_prediction pair, mixed;
        CHECK(predict_stage(&pair, &device, &plan, STAGE_ATTENTION, 1, two, 2) == 0);
        CHECK(predict_stage(&mixed, &device, &plan, STAGE_ATTENTION, 1, both, 2) == 0);
        CHECK(fabs(pair.seconds / (2 * alone.seconds) - 1) < 0.1);
        CHECK(mixed.seconds > alone.seconds && mixed.seconds < 1.05 * alone.seconds);
        // Selecting is one kernel for all: it goes by what rows of prompts see, however many decode beside them.
        struct work many[65] = {{context - 32, 32, 0}};
        for (int i = 1; i < 65; i++) {
            many[i] = (struct work){context, 1, 1};
        }
        CHECK(predict_stage(&alone, &device, &plan, STAGE_INDEX_SELECT, 1, many, 1) == 0);
        CHECK(predict_stage(&mixed, &device, &plan, STAGE_INDEX_SELECT, 1, many, 65) == 0);
        double more = (double)mixed.cost.bytes / (double)alone.cost.bytes;
        CHECK_MESSAGE(fabs(mixed.seconds / (more * alone.seconds) - 1) < 0.1, "context %d: %g s, not %g times %g",
                      context, mixed.seconds, more, alone.seconds);
    }
    calibration_free(calibration);
}

// What comes with the program can be read, and knows the devices that it is for.
static void test_shipped(void)
{
    struct calibration *calibration;
    const char *paths = NULL;
    CHECK(calibration_load_shipped(&calibration, &paths) == 0 && calibration && paths);
    CHECK(calibration_find(calibration, "H100-SXM", "cuda") && strstr(paths, "sim/calibrations/h100-sxm.json"));
    CHECK(!calibration_find(calibration, "no such device", NULL));
    for (int32_t p = 0; p < calibration->n_profiles; p++) {
        const struct calibration_profile *profile = &calibration->profiles[p];
        CHECK(calibration_find(calibration, profile->rates.name, NULL) == profile);
        CHECK(profile->n_curves > 10 && profile->n_steps[PHASE_DECODE] > 1000);
    }
    calibration_free(calibration);
}

// What steps that are replayed take longer than their stages is told of layers that select, and of no stage.
static void test_waiting(void)
{
    reading = STAGE_INDEX_SELECT;
    wait_s = 5e-6;
    struct calibration *calibration = calibrate(2e-6, 0, false, true);
    const struct calibration_profile *profile = &calibration->profiles[0];
    int64_t bytes = 100000 * 8 * (int64_t)8192;
    CHECK(calibration_waits(profile));
    CHECK_MESSAGE(fabs(1e6 * profile->mark_s[PHASE_DECODE] - 2) <= 0.2, "a mark: %g us",
                  1e6 * profile->mark_s[PHASE_DECODE]);
    double waits_s = predicted_s(calibration, STAGE_HOST, 8, bytes),
           stage_s = predicted_s(calibration, reading, 8, bytes);
    CHECK_MESSAGE(fabs(1e6 * waits_s - 5) <= 1.5, "waits %g us", 1e6 * waits_s);
    CHECK_MESSAGE(fabs(stage_s / true_s(bytes) - 1) <= 0.03, "%g us, truly %g", 1e6 * stage_s, 1e6 * true_s(bytes));
    waits_s = predicted_s(calibration, STAGE_HOST, 2, bytes / 4);
    CHECK_MESSAGE(waits_s < 1.5e-6, "two sequences: waits %g us", 1e6 * waits_s);
    calibration_free(calibration);
    reading = STAGE_ATTENTION;
    wait_s = 0;
    calibration = calibrate(2e-6, 0, false, true);
    CHECK(!calibration_waits(&calibration->profiles[0]));
    calibration_free(calibration);
}

int main(void)
{
    check_begin();
    test_shipped();
    test_marks();
    test_waiting();
    test_overhead();
    test_settling();
    test_seen();
    return check_end();
}
