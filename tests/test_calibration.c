// tests/test_calibration.c - calibrations: a known law is found again, residuals are those of an independent
// computation, curves behave between and beyond their points. Their files: test_calibration_file.c.
#include <errno.h>

#include "engine/sort.h"
#include "engine/status.h"
#include "sim/predict.h"
#include "tests/calibration_law.h"

static bool ask(struct calibration_answer *out, const struct calibration *calibration, enum stage stage, int32_t rows,
                double work)
{
    struct calibration_query query = {stage, PHASE_DECODE, 0, rows, DTYPE_BF16, work, LAYER_ANY};
    return calibration_ask(out, &calibration->profiles[0], &query);
}

static void check_law(void)
{
    struct calibration *calibration = make_law(1, 0.03);
    const struct calibration_curve *curve = &calibration->profiles[0].curves[0];
    CHECK(calibration->n_profiles == 1 && calibration->profiles[0].n_curves == 1 && curve->n_points == 29);
    CHECK(curve->points[0].samples == 21 && curve->stage == STAGE_FFN && curve->phase == PHASE_DECODE);
    CHECK(fabs(calibration->profiles[0].overhead_s[PHASE_DECODE] - 5e-6) < 1e-9);
    CHECK(calibration->profiles[0].n_steps[PHASE_DECODE] == 29 * 21 &&
          calibration->profiles[0].n_steps[PHASE_PREFILL] == 0);
    CHECK(curve->floor_s > 0 && curve->floor_s < 22e-6);
    for (int i = 0; i < 200; i++) {    // also at places that were not measured
        double bytes = exp2(12 + 14 * check_uniform());
        struct calibration_answer answer;
        CHECK(ask(&answer, calibration, STAGE_FFN, 1, bytes));
        double predicted_s = answer.floor_s + bytes / BYTES_PER_S / answer.efficiency;
        CHECK_MESSAGE(fabs(predicted_s / law_s(bytes) - 1) < 0.05, "%g bytes: %g s, not %g", bytes, predicted_s,
                      law_s(bytes));
        CHECK(answer.provenance == PROVENANCE_MEASURED || answer.provenance == PROVENANCE_INTERPOLATED);
    }
    CHECK(curve->calibrated.n == 29 && curve->calibrated.median < 0.03 && curve->calibrated.p95 < 0.15);
    CHECK(curve->roofline.n == 29 && curve->roofline.median > 0.5);
    calibration_free(calibration);
}

// Leave-one-out over one number of rows, written anew: neighbours on both sides, or the nearest at an end.
static void check_residuals(void)
{
    struct calibration *calibration = make_law(4, 0.3);
    const struct calibration_curve *curve = &calibration->profiles[0].curves[0];
    int32_t n = curve->n_points;
    double errors[64], roofline[64];
    CHECK(n == 29);
    for (int32_t i = 0; i < n; i++) {
        const struct calibration_point *p = curve->points;
        double roof_s = p[i].work / BYTES_PER_S, time_s = curve->floor_s + roof_s / p[i].efficiency, efficiency;
        if (i == 0 || i == n - 1) {
            efficiency = p[i == 0 ? 1 : n - 2].efficiency;
        } else {
            double share = log(p[i].work / p[i - 1].work) / log(p[i + 1].work / p[i - 1].work);
            efficiency = exp((1 - share) * log(p[i - 1].efficiency) + share * log(p[i + 1].efficiency));
        }
        errors[i] = fabs((curve->floor_s + roof_s / efficiency) / time_s - 1);
        roofline[i] = fabs((roof_s + 1e-6) / time_s - 1);
    }
    sort_doubles(errors, n);
    sort_doubles(roofline, n);
    CHECK(fabs(curve->calibrated.median - errors[14]) < 1e-9 && fabs(curve->calibrated.p95 - errors[27]) < 1e-9);
    CHECK(fabs(curve->roofline.median - roofline[14]) < 1e-9 && fabs(curve->roofline.p95 - roofline[27]) < 1e-9);
    calibration_free(calibration);
}

// Between two points an efficiency lies between theirs and moves one way; beyond the last it is held; and the tags.
static void check_between(void)
{
    struct calibration_fit *fit = open_fit();
    double low = 0.1 + 0.4 * check_uniform(), high = low + 0.3;
    feed(fit, STAGE_WINDOW_ATTENTION, 1, 1, 1000000, 0, 1e6 / BYTES_PER_S / low, 0);
    feed(fit, STAGE_WINDOW_ATTENTION, 1, 1, 64000000, 0, 64e6 / BYTES_PER_S / high, 0);
    feed(fit, STAGE_WINDOW_ATTENTION, 4, 4, 4000000, 0, 4e6 / BYTES_PER_S / (low / 2), 0);    // as much for each row
    struct calibration *calibration = finish(fit);
    struct calibration_answer answer, before = {0};
    for (double work = 1e6; work <= 64e6; work *= 1.1) {
        CHECK(ask(&answer, calibration, STAGE_WINDOW_ATTENTION, 1, work));
        CHECK(answer.efficiency >= low - 1e-3 && answer.efficiency <= high + 1e-3 &&
              answer.efficiency >= before.efficiency);
        before = answer;
    }
    CHECK(ask(&answer, calibration, STAGE_WINDOW_ATTENTION, 1, 8e6) && answer.provenance == PROVENANCE_INTERPOLATED);
    CHECK(fabs(answer.efficiency - sqrt(low * high)) < 1e-3);
    CHECK(ask(&answer, calibration, STAGE_WINDOW_ATTENTION, 1, 1.01e6) && answer.provenance == PROVENANCE_MEASURED);
    CHECK(ask(&answer, calibration, STAGE_WINDOW_ATTENTION, 1, 1e9) && answer.provenance == PROVENANCE_EXTRAPOLATED);
    CHECK(fabs(answer.efficiency - high) < 1e-3);
    CHECK(ask(&answer, calibration, STAGE_WINDOW_ATTENTION, 1, 1e3) && answer.provenance == PROVENANCE_EXTRAPOLATED);
    CHECK(fabs(answer.efficiency - low) < 1e-3);
    CHECK(ask(&answer, calibration, STAGE_WINDOW_ATTENTION, 2, 2e6) && answer.provenance == PROVENANCE_INTERPOLATED);
    CHECK(fabs(answer.efficiency - sqrt(low * low / 2)) < 1e-3);    // half-way between 1 and 4 rows
    CHECK(ask(&answer, calibration, STAGE_WINDOW_ATTENTION, 64, 1e6) && answer.provenance == PROVENANCE_EXTRAPOLATED);
    // What asks on and on hears the same.
    for (int i = 0; i < 200; i++) {
        struct calibration_query query = {STAGE_WINDOW_ATTENTION, PHASE_DECODE, 0, check_range(1, 6), DTYPE_BF16,
                                          1e5 * exp2(12 * check_uniform()), LAYER_ANY};
        struct calibration_stretch stretch;
        CHECK(calibration_stretch(&stretch, &calibration->profiles[0], &query));
        CHECK(query.work >= stretch.from_work * (1 - 1e-12) && query.work <= stretch.to_work * (1 + 1e-12));
        for (int k = 0; k < 3; k++) {
            CHECK(calibration_ask(&answer, &calibration->profiles[0], &query));
            double efficiency = exp(stretch.log_efficiency + stretch.slope * log(query.work));
            CHECK_MESSAGE(fabs(efficiency / answer.efficiency - 1) < 1e-9 && stretch.floor_s == answer.floor_s,
                          "%d rows, work %g: %g, kept %g", query.rows, query.work, answer.efficiency, efficiency);
            query.work = stretch.from_work + (stretch.to_work - stretch.from_work) * (0.01 + 0.98 * check_uniform());
        }
    }
    CHECK(!ask(&answer, calibration, STAGE_HEAD, 1, 1e6));
    struct calibration_query other = {STAGE_WINDOW_ATTENTION, PHASE_DECODE, 0, 1, DTYPE_F32, 1e6, LAYER_ANY};
    CHECK(calibration_ask(&answer, &calibration->profiles[0], &other) && answer.provenance == PROVENANCE_EXTRAPOLATED);
    other = (struct calibration_query){STAGE_WINDOW_ATTENTION, PHASE_PREFILL, 0, 1, DTYPE_BF16, 1e6, LAYER_ANY};
    CHECK(!calibration_ask(&answer, &calibration->profiles[0], &other));
    calibration_free(calibration);
}

// Of a product weights are read once whatever the rows: another number of rows of the same one does less than
// proportionally less, and is not taken for one of a smaller matrix.
static void check_products(void)
{
    struct calibration_fit *fit = open_fit();
    double efficiency[2] = {0.1 + 0.1 * check_uniform(), 0.4 + 0.1 * check_uniform()};
    const int64_t weights[2] = {1000000, 1200000};
    for (int32_t rows = 2; rows <= 4; rows += 2) {
        for (int i = 0; i < 2; i++) {
            double seconds = 2 * (double)weights[i] / BYTES_PER_S / efficiency[i];
            feed(fit, STAGE_INDEX_PROJECT, rows, rows, 2 * weights[i], 2 * rows * weights[i], seconds, 0);
        }
    }
    struct calibration *calibration = finish(fit);
    for (int i = 0; i < 2; i++) {
        struct calibration_answer answer;
        CHECK(ask(&answer, calibration, STAGE_INDEX_PROJECT, 3, (double)weights[i] * (2 + 2 * 3)));
        double predicted_s = answer.floor_s + 2 * (double)weights[i] / BYTES_PER_S / answer.efficiency;
        double true_s = 2 * (double)weights[i] / BYTES_PER_S / efficiency[i];
        CHECK_MESSAGE(fabs(predicted_s / true_s - 1) < 0.02, "matrix %d: %g s, truly %g", i, predicted_s, true_s);
        CHECK(answer.provenance == PROVENANCE_INTERPOLATED);
    }
    calibration_free(calibration);
}

// What selecting takes goes by the scores: one slow layer raises the mean of its step's, and its neighbours' share it.
static void check_pooled(void)
{
    struct calibration_fit *fit = open_fit();
    const int32_t rows[3] = {1, 2, 64};    // the last is no neighbour
    const double each_s[3][2] = {{10e-6, 70e-6}, {12e-6, 12e-6}, {14e-6, 14e-6}};
    for (int i = 0; i < 3; i++) {
        for (int repeat = 0; repeat < 2; repeat++) {
            feed(fit, STAGE_INDEX_SELECT, rows[i], rows[i], 100000 * (int64_t)rows[i], 0, each_s[i][repeat], 0);
        }
    }
    struct calibration *calibration = finish(fit);
    const struct calibration_curve *curve = &calibration->profiles[0].curves[0];
    CHECK(curve->n_points == 3);
    const double true_s[3] = {sqrt(40e-6 * 12e-6), sqrt(40e-6 * 12e-6), 14e-6};
    for (int i = 0; i < 3 && i < curve->n_points; i++) {
        double seconds = curve->floor_s + curve->points[i].work / BYTES_PER_S / curve->points[i].efficiency;
        CHECK_MESSAGE(fabs(seconds / true_s[i] - 1) < 1e-3, "%d rows: %g s, not %g", rows[i], seconds, true_s[i]);
    }
    calibration_free(calibration);
}

// A pooled point is predicted from what was measured of the others alone, and held against what was measured of it.
static void check_pooled_error(void)
{
    struct calibration_fit *fit = open_fit();
    for (int32_t rows = 1; rows <= 1 << 14; rows *= 2) {
        feed(fit, STAGE_INDEX_SELECT, rows, rows, 100 * (int64_t)rows, 0, rows == 128 ? 40e-6 : 10e-6, 0);
    }
    struct calibration *calibration = finish(fit);
    const struct calibration_curve *curve = &calibration->profiles[0].curves[0];
    CHECK(curve->n_points == 15);
    CHECK_MESSAGE(fabs(curve->calibrated.p95 - 0.75) < 0.05, "40 us where others take 10: off by %g",
                  curve->calibrated.p95);
    CHECK_MESSAGE(curve->calibrated.median < 0.05, "the others: off by %g", curve->calibrated.median);
    calibration_free(calibration);
}

// A step of layers with these stages each, of which every one takes a time of its own.
static void feed_layers(struct calibration_fit *fit, const enum stage (*stages)[2], int32_t n_layers)
{
    struct sample_sink sink = calibration_fit_sink(fit);
    struct step_sample step = {.source = 3, .step = ++step_number, .phase = PHASE_DECODE, .n_seqs = 1, .n_tokens = 1};
    for (int32_t i = 0; i < 2 * n_layers; i++) {
        struct stage_sample sample = {.source = 3,
                                      .step = step_number,
                                      .phase = PHASE_DECODE,
                                      .stage = stages[i / 2][i % 2],
                                      .layer = i / 2,
                                      .n_seqs = 1,
                                      .n_tokens = 1,
                                      .context_tokens = 100,
                                      .bytes = 1000,
                                      .flops = 1000,
                                      .duration_ns = 10000 * (i + 1)};
        sink.stage(sink.user, &sample);
        step.duration_ns += sample.duration_ns;
    }
    sink.step(sink.user, &step);
}

static double kind_s(const struct calibration *calibration, enum stage stage, enum calibration_layer layer)
{
    struct calibration_query query = {stage, PHASE_DECODE, 0, 1, DTYPE_BF16, 2000, layer};
    struct calibration_answer answer;
    CHECK(calibration_ask(&answer, &calibration->profiles[0], &query));
    CHECK_MESSAGE(answer.provenance == PROVENANCE_MEASURED, "%s, layer %d: %s", stage_name(stage), (int)layer,
                  provenance_name(answer.provenance));
    return answer.floor_s + 1000 / BYTES_PER_S / answer.efficiency;
}

// What a kind of layer takes to write and to project is told apart; where it was not, the coarser kind's counts.
static void check_kinds(void)
{
    static const enum stage shared[][2] = {{STAGE_WINDOW_ATTENTION, STAGE_KV_WRITE},
                                           {STAGE_INDEX_PROJECT, STAGE_KV_WRITE}};
    static const enum stage own[][2] = {{STAGE_INDEX_PROJECT, STAGE_KV_WRITE}, {STAGE_INDEX_SCORE, STAGE_ATTENTION},
                                        {STAGE_OUTPUT, STAGE_KV_WRITE}};
    static const enum stage whole[][2] = {{STAGE_OUTPUT, STAGE_KV_WRITE}};
    struct calibration_fit *fit = open_fit();
    feed_layers(fit, shared, 2);
    feed_layers(fit, own, 3);
    feed_layers(fit, whole, 1);
    struct calibration *calibration = finish(fit);
    static const struct {
        enum stage stage;
        enum calibration_layer layer;
        double us;
    } truths[] = {
        {STAGE_KV_WRITE, LAYER_WINDOW, 20},  {STAGE_INDEX_PROJECT, LAYER_MEMORY, 30},
        {STAGE_KV_WRITE, LAYER_MEMORY, 40},  {STAGE_INDEX_PROJECT, LAYER_ANY, 10},
        {STAGE_KV_WRITE, LAYER_INDEXED, 20}, {STAGE_KV_WRITE, LAYER_SELECTING, 60},
        {STAGE_KV_WRITE, LAYER_ANY, 20},     {STAGE_OUTPUT, LAYER_SELECTING, 50},
        {STAGE_OUTPUT, LAYER_ANY, 10},
    };
    for (size_t i = 0; i < sizeof truths / sizeof *truths; i++) {
        double us = 1e6 * kind_s(calibration, truths[i].stage, truths[i].layer);
        CHECK_MESSAGE(fabs(us / truths[i].us - 1) < 1e-3, "%s, layer %d: %g us, not %g", stage_name(truths[i].stage),
                      (int)truths[i].layer, us, truths[i].us);
    }
    calibration_free(calibration);

    fit = open_fit();
    feed_layers(fit, own, 1);
    feed_layers(fit, whole, 1);
    calibration = finish(fit);
    CHECK(fabs(1e6 * kind_s(calibration, STAGE_KV_WRITE, LAYER_MEMORY) / 20 - 1) < 1e-3);
    CHECK(fabs(1e6 * kind_s(calibration, STAGE_INDEX_PROJECT, LAYER_MEMORY) / 10 - 1) < 1e-3);
    CHECK(fabs(1e6 * kind_s(calibration, STAGE_KV_WRITE, LAYER_SELECTING) / 20 - 1) < 1e-3);
    CHECK(fabs(1e6 * kind_s(calibration, STAGE_OUTPUT, LAYER_SELECTING) / 10 - 1) < 1e-3);
    calibration_free(calibration);
}

// A step of one stage, whose longest context is `context_tokens`.
static void feed_at(struct calibration_fit *fit, enum phase phase, enum stage stage, int32_t rows,
                    int32_t context_tokens, int64_t begin_ns, int64_t duration_ns)
{
    struct sample_sink sink = calibration_fit_sink(fit);
    struct stage_sample sample = {.source = 3, .step = ++step_number, .phase = phase, .stage = stage, .layer = 1,
                                  .n_seqs = 1, .n_tokens = rows, .context_tokens = context_tokens, .bytes = 1000,
                                  .flops = 1000, .duration_ns = duration_ns};
    struct step_sample step = {.source = 3, .step = step_number, .phase = phase, .n_seqs = 1, .n_tokens = rows,
                               .context_tokens = context_tokens, .begin_ns = begin_ns, .duration_ns = duration_ns};
    sink.stage(sink.user, &sample);
    sink.step(sink.user, &step);
}

static double prompt_s(const struct calibration *calibration, enum calibration_layer layer)
{
    struct calibration_query query = {STAGE_FFN, PHASE_PREFILL, 0, 1000, DTYPE_BF16, 2000, layer};
    struct calibration_answer answer;
    CHECK(calibration_ask(&answer, &calibration->profiles[0], &query));
    return answer.floor_s + 1000 / BYTES_PER_S / answer.efficiency;
}

// Selections that take all are told from those that choose; prompts before a GPU's clocks fall from those behind, and a
// pause cools it. Few rows do not heat.
static void check_states(void)
{
    struct sample_source selects = source;
    struct calibration_fit *fit = open_fit();
    struct sample_sink sink = calibration_fit_sink(fit);
    selects.top_k = 64;
    selects.unit_tokens = 0;
    sink.source(sink.user, &selects);
    feed_at(fit, PHASE_DECODE, STAGE_INDEX_SELECT, 1, 64, 0, 10000);
    feed_at(fit, PHASE_DECODE, STAGE_INDEX_SELECT, 1, 65, 0, 50000);
    struct calibration *calibration = finish(fit);
    CHECK(fabs(1e6 * kind_s(calibration, STAGE_INDEX_SELECT, LAYER_TAKING) / 10 - 1) < 1e-3);
    CHECK(fabs(1e6 * kind_s(calibration, STAGE_INDEX_SELECT, LAYER_ANY) / 50 - 1) < 1e-3);
    CHECK(calibration->profiles[0].warm_s == 0);    // no GPU
    calibration_free(calibration);

    static const struct {
        int32_t rows;
        int64_t begin_ms, ms;
        enum calibration_layer layer;
    } steps[] = {{1000, 0, 39, LAYER_SELECTING},   {1000, 39, 45, LAYER_SELECTING}, {1000, 84, 45, LAYER_ANY},
                 {1000, 200, 39, LAYER_SELECTING}, {100, 300, 45, LAYER_SELECTING}, {1000, 345, 39, LAYER_SELECTING}};
    CHECK(calibration_fit_open(&fit) == 0);
    CHECK(calibration_fit_trace(fit, "made-up.pftrace") == 0);
    sink = calibration_fit_sink(fit);
    selects.graph = true;
    sink.source(sink.user, &selects);
    struct calibration_heat heat = {0, 0};
    struct calibration_profile profile = {.warm_s = 0.04};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        double begin_s = 1e-3 * (double)steps[i].begin_ms;
        bool cool = calibration_cool(&profile, calibration_heat_at(&heat, begin_s), steps[i].rows);
        CHECK_MESSAGE(cool == (steps[i].layer == LAYER_SELECTING), "step %zu", i);
        calibration_heat_step(&heat, begin_s, 1e-3 * (double)steps[i].ms, steps[i].rows);
        feed_at(fit, PHASE_PREFILL, STAGE_FFN, steps[i].rows, steps[i].rows, 1000000 * steps[i].begin_ms,
                1000000 * steps[i].ms);
    }
    calibration = finish(fit);
    CHECK(calibration->profiles[0].warm_s > 0);
    CHECK(fabs(1e3 * prompt_s(calibration, LAYER_SELECTING) / 39 - 1) < 1e-3);
    CHECK(fabs(1e3 * prompt_s(calibration, LAYER_ANY) / 45 - 1) < 1e-3);
    calibration_free(calibration);
}

// Tiles of a stage are one sample of all their rows; parts keep theirs. Useless samples are counted, not used.
static void check_grouping(void)
{
    struct calibration_fit *fit = open_fit();
    struct sample_sink sink = calibration_fit_sink(fit);
    int64_t before = calibration_fit_dropped(fit);
    struct stage_sample tile = {.source = 3,
                                .step = ++step_number,
                                .phase = PHASE_PREFILL,
                                .stage = STAGE_INDEX_SCORE,
                                .layer = 2,
                                .n_seqs = 1,
                                .n_tokens = 4,
                                .context_tokens = 14,
                                .bytes = 500,
                                .flops = 500,
                                .duration_ns = 1000};
    sink.stage(sink.user, &tile);
    tile.n_tokens = 1;
    tile.context_tokens = 15;    // so that its rows see 11, 12, 13, 14 and 15
    sink.stage(sink.user, &tile);
    struct stage_sample part = tile;
    part.stage = STAGE_QKV;
    part.n_tokens = 3;
    sink.stage(sink.user, &part);
    sink.stage(sink.user, &part);
    struct step_sample step = {.source = 3, .step = step_number, .phase = PHASE_PREFILL, .n_seqs = 1, .n_tokens = 5,
                               .duration_ns = 4700};
    sink.step(sink.user, &step);
    CHECK(calibration_fit_dropped(fit) == before);
    part.layer = 4000;
    sink.stage(sink.user, &part);
    part.layer = 1;
    part.bytes = -1;
    sink.stage(sink.user, &part);
    part.bytes = 1;
    part.source = 99;
    sink.stage(sink.user, &part);
    CHECK(calibration_fit_dropped(fit) == before + 3);
    part.source = 3;
    part.step++;
    sink.stage(sink.user, &part);    // its step never ends
    step.step += 5;
    sink.step(sink.user, &step);
    CHECK(calibration_fit_dropped(fit) == before + 5);
    struct calibration *calibration = finish(fit);
    const struct calibration_profile *profile = &calibration->profiles[0];
    CHECK(profile->n_curves == 2 && fabs(profile->overhead_s[PHASE_PREFILL] - 700e-9) < 1e-15);
    for (int32_t c = 0; c < profile->n_curves; c++) {
        const struct calibration_curve *curve = &profile->curves[c];
        bool tiles = curve->stage == STAGE_INDEX_SCORE;
        CHECK(curve->phase == PHASE_PREFILL && curve->n_points == 1 && curve->points[0].rows == (tiles ? 13 : 3));
        CHECK(curve->points[0].work == 2000 && curve->unit_tokens == (tiles ? 1 : 0));
        CHECK(curve->calibrated.n == 0 && curve->roofline.n == 1);
    }
    calibration_free(calibration);

    fit = open_fit();
    struct device rates = make_rates("Some CPU");
    CHECK(calibration_fit_finish(&calibration, fit, &rates, "", "") == -EINVAL && calibration == NULL);
    feed(fit, STAGE_FFN, 1, 1, 1000, 1000, 1e-6, 0);
    rates.flops_per_s[DTYPE_F32].value = rates.flops_per_s[DTYPE_BF16].value = 0;
    CHECK(calibration_fit_finish(&calibration, fit, &rates, "", "") == -EINVAL && strstr(status_text(), "bf16"));
    calibration_fit_close(fit);
}

static bool renews_scores(enum stage stage, enum phase phase, int32_t unit_tokens)
{
    return stage == STAGE_INDEX_SCORE && phase == PHASE_DECODE && unit_tokens == 1;
}

static double time_s(const struct calibration *calibration, enum stage stage, int32_t rows, double work)
{
    struct calibration_query query = {stage, PHASE_DECODE, stage == STAGE_FFN ? 0 : 1, rows, DTYPE_BF16, work,
                                      LAYER_ANY};
    struct calibration_answer answer;
    CHECK(calibration_ask(&answer, &calibration->profiles[0], &query));
    return answer.floor_s + work / BYTES_PER_S / answer.efficiency;
}

// Newer kernels take half as long. Older samples near theirs go, those farther away, of other rows and of other stages
// stay; of newer ones nothing else counts, nor what their steps take outside of stages.
static void check_newer(void)
{
    struct calibration_fit *fit = open_fit();
    for (int i = 0; i < 5; i++) {    // each as much work for a row
        feed(fit, STAGE_INDEX_SCORE, 1, 1, 1000000, 0, 100e-6, 5000);
        feed(fit, STAGE_INDEX_SCORE, 1, 1, 1350000, 0, 135e-6, 5000);
        feed(fit, STAGE_INDEX_SCORE, 1, 1, 4000000, 0, 400e-6, 5000);
        feed(fit, STAGE_INDEX_SCORE, 8, 8, 8000000, 0, 800e-6, 5000);
        feed(fit, STAGE_FFN, 1, 1, 1000000, 0, 100e-6, 5000);
    }
    calibration_fit_newer(fit, renews_scores);
    feed(fit, STAGE_INDEX_SCORE, 1, 1, 1000000, 0, 50e-6, 90000);
    feed(fit, STAGE_FFN, 1, 1, 1000000, 0, 50e-6, 90000);
    feed(fit, STAGE_FFN, 1, 1, 9000000, 0, 50e-6, 90000);
    struct calibration *calibration = finish(fit);
    const struct calibration_profile *profile = &calibration->profiles[0];
    CHECK(profile->n_curves == 2 && profile->curves[0].n_points + profile->curves[1].n_points == 4);
    CHECK(fabs(time_s(calibration, STAGE_INDEX_SCORE, 1, 1e6) - 50e-6) < 1e-9);
    CHECK(fabs(time_s(calibration, STAGE_INDEX_SCORE, 1, 4e6) - 400e-6) < 1e-9);
    CHECK(fabs(time_s(calibration, STAGE_INDEX_SCORE, 8, 8e6) - 800e-6) < 1e-9);
    CHECK(fabs(time_s(calibration, STAGE_FFN, 1, 1e6) - 100e-6) < 1e-9);
    CHECK(fabs(profile->overhead_s[PHASE_DECODE] - 5e-6) < 1e-9 && profile->n_steps[PHASE_DECODE] == 25);
    calibration_free(calibration);
}

// A whole model's stages at an efficiency of a half: a step then takes twice its roofline, plus the overhead.
static void check_prediction(void)
{
    struct plan plan;
    CHECK(plan_build(&plan, plan_find_model("tiny"), "clsa", NULL) == 0);
    struct device device = make_rates("Some CPU"), other = make_rates("Other");
    struct work work[2] = {{100, 1, 1}, {50, 1, 1}};
    struct calibration_fit *fit = open_fit();
    struct sample_sink sink = calibration_fit_sink(fit);
    struct sample_source plain = source;
    plain.kv_dtype = plan.kv_dtype;
    plain.weight_dtype = plan.weight_dtype;
    plain.index_dtype = plan.index.key_dtype;
    plain.unit_tokens = plan.index.unit_tokens;
    sink.source(sink.user, &plain);
    device.launch_s.value = other.launch_s.value = 0;
    struct step_prediction bare, calibrated, foreign;
    CHECK(predict_step(&bare, &device, &plan, work, 2) == 0);
    int64_t sum_ns = 0;
    double exact_s = 0;
    for (int s = 0; s < STAGE_HOST; s++) {
        bool outside = s == STAGE_EMBED || s >= STAGE_HEAD;
        for (int32_t layer = outside ? -1 : 0; layer < (outside ? 0 : plan.shape.n_layers); layer++) {
            struct stage_prediction one;
            CHECK(predict_stage(&one, &device, &plan, (enum stage)s, layer, work, 2) == 0);
            if (!(one.seconds > 0)) {
                continue;
            }
            // Nanoseconds are whole: the roofline is made a million times slower, so that rounding does not show.
            struct stage_sample sample = {.source = 3, .step = 1 << 20, .phase = PHASE_DECODE, .stage = (enum stage)s,
                                          .layer = layer, .n_seqs = 2, .n_tokens = 2, .context_tokens = 101,
                                          .bytes = one.cost.bytes,
                                          .flops = one.cost.flops, .duration_ns = llround(2e15 * one.seconds)};
            sink.stage(sink.user, &sample);
            sum_ns += sample.duration_ns;
            exact_s += one.seconds;
        }
    }
    struct step_sample step = {.source = 3, .step = 1 << 20, .phase = PHASE_DECODE, .n_seqs = 2, .n_tokens = 2,
                               .duration_ns = sum_ns + 3000};
    sink.step(sink.user, &step);
    struct device slow = device;
    slow.bytes_per_s.value /= 1e6;
    slow.flops_per_s[DTYPE_F32].value /= 1e6;
    slow.flops_per_s[DTYPE_BF16].value /= 1e6;
    struct calibration *calibration = NULL;
    CHECK(calibration_fit_finish(&calibration, fit, &slow, "", "") == 0);
    calibration_fit_close(fit);
    slow.calibration = &calibration->profiles[0];
    CHECK(predict_step(&calibrated, &slow, &plan, work, 2) == 0);
    CHECK_MESSAGE(fabs(calibrated.seconds / (2e6 * exact_s + 3e-6) - 1) < 1e-6, "%.9g, not %.9g", calibrated.seconds,
                  2e6 * exact_s + 3e-6);
    CHECK(fabs(calibrated.stages[STAGE_HOST].seconds - 3e-6) < 1e-12);
    // What is outside of stages is interpolated, but so little that it does not say where the time comes from.
    CHECK(calibrated.stages[STAGE_HOST].provenance == PROVENANCE_INTERPOLATED);
    CHECK(calibrated.provenance == PROVENANCE_MEASURED);
    CHECK(fabs(exact_s / bare.seconds - 1) < 1e-9);

    other.calibration = slow.calibration;
    CHECK(predict_step(&foreign, &other, &plan, work, 2) == 0 && foreign.provenance == PROVENANCE_EXTRAPOLATED);
    CHECK(fabs(foreign.stages[STAGE_FFN].seconds / (2 * bare.stages[STAGE_FFN].seconds) - 1) < 1e-6);
    struct work prompt = {0, 64, 1};    // nothing like it was measured
    struct request_prediction request;
    CHECK(predict_step(&foreign, &slow, &plan, &prompt, 1) == 0 && foreign.provenance == PROVENANCE_ROOFLINE);
    CHECK(foreign.stages[STAGE_FFN].provenance == PROVENANCE_ROOFLINE &&
          strcmp(provenance_name(PROVENANCE_ROOFLINE), "roofline") == 0);
    CHECK(predict_request(&request, &slow, &plan, 2, 60, 20, 16) == 0 && request.provenance == PROVENANCE_ROOFLINE);
    CHECK(request.first_decode.seconds > calibrated.seconds / 3 && request.decode_s > 0);
    calibration_free(calibration);
}

// One step in ten is disturbed: a median does not see it, a mean has its share of it, in stages and outside of them. Of
// seven in ten a lower quartile sees nothing, either.
static void check_by(void)
{
    static const struct {
        enum calibration_by by;
        int disturbed;    // of ten steps
        double stage_s, outside_s;
    } cases[] = {{CALIBRATION_BY_MEDIAN, 1, 100e-6, 10e-6},
                 {CALIBRATION_BY_MEAN, 1, 130e-6, 14e-6},
                 {CALIBRATION_BY_MEDIAN, 7, 400e-6, 50e-6},
                 {CALIBRATION_BY_LOWER_QUARTILE, 7, 100e-6, 10e-6}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct calibration_fit *fit = open_fit();
        for (int i = 0; i < 20; i++) {
            bool disturbed = i % 10 < cases[c].disturbed;
            feed(fit, STAGE_FFN, 1, 1, 1 << 20, 1 << 20, disturbed ? 400e-6 : 100e-6, disturbed ? 50000 : 10000);
        }
        calibration_fit_by(fit, cases[c].by);
        struct calibration *calibration = finish(fit);
        const struct calibration_profile *profile = &calibration->profiles[0];
        const struct calibration_query query = {
            .stage = STAGE_FFN, .phase = PHASE_DECODE, .rows = 1, .dtype = DTYPE_BF16, .work = 1 << 21};
        struct calibration_answer answer;
        CHECK(calibration_ask(&answer, profile, &query));
        double roof_s = (1 << 20) / BYTES_PER_S, stage_s = answer.floor_s + roof_s / answer.efficiency;
        CHECK_MESSAGE(fabs(stage_s / cases[c].stage_s - 1) < 1e-9, "%g", stage_s);
        CHECK(fabs(profile->overhead_s[PHASE_DECODE] / cases[c].outside_s - 1) < 1e-9);
        calibration_free(calibration);
    }
}

int main(void)
{
    check_begin();
    check_law();
    check_residuals();
    check_between();
    check_products();
    check_pooled();
    check_pooled_error();
    check_by();
    check_kinds();
    check_states();
    check_grouping();
    check_newer();
    check_prediction();
    return check_end();
}
