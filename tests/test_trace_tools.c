// tests/test_trace_tools.c - what recordings are read for: priced summaries, kernels by name, differences of two.
#include "tests/check.h"
#include "traces/diff.h"
#include "traces/kernel_name.h"
#include "traces/summary.h"
#include "traces/summary_kernels.h"

// ---------------------------------------------------------------------------------------------------------------------
// Floors and counted bytes

static bool price(void *user, struct summary_floor *out, const struct sample_source *source,
                  const struct stage_sample *sample, int64_t step_bytes)
{
    int64_t *seen_step_bytes = user;
    *seen_step_bytes = step_bytes;
    *out = (struct summary_floor){.bytes_ns = 0.25 * (double)sample->bytes, .flops_ns = 0.125 * (double)sample->flops,
                                  .launch_ns = 100};
    return strcmp(source->device, "known") == 0;
}

static void test_prices(void)
{
    struct trace_summary *summary;
    int64_t step_bytes = 0;
    int32_t n;
    CHECK(trace_summary_open(&summary) == 0);
    trace_summary_price(summary, &(struct summary_pricer){&step_bytes, price});
    struct sample_sink sink = trace_summary_sink(summary);
    for (int32_t id = 0; id < 2; id++) {
        struct sample_source source = {.id = id};
        strcpy(source.device, id == 0 ? "known" : "unknown");
        sink.source(sink.user, &source);
        struct stage_sample stage = {.source = id, .phase = PHASE_DECODE, .stage = STAGE_FFN, .n_seqs = 1,
                                     .n_tokens = 1, .bytes = 4000, .flops = 800, .duration_ns = 3000,
                                     .measured_bytes = 5000};
        sink.stage(sink.user, &stage);
        stage.flops = 80000;
        stage.measured_bytes = 0;
        stage.duration_ns = 12000;
        sink.stage(sink.user, &stage);
        sink.step(sink.user, &(struct step_sample){.source = id, .phase = PHASE_DECODE, .duration_ns = 15000});
        sink.loss(sink.user, &(struct loss_sample){.source = id, .dropped = 3 + id, .invalid = id});
        sink.loss(sink.user, &(struct loss_sample){.source = id, .dropped = 7 + id, .invalid = id});
    }
    CHECK(trace_summary_update(summary) == 0 && step_bytes == 8000);
    const struct summary_stage *rows = trace_summary_stages(summary, &n);
    CHECK(n == 2);
    // 4000 bytes: 1000 ns; 80000 operations: 10000 ns.
    CHECK_MESSAGE(fabs(rows[0].floor_ns - 11000) <= 1e-9 && fabs(rows[0].priced_ns - 15000) <= 1e-9 &&
                      rows[0].bound == SUMMARY_COMPUTE,
                  "floor %g of %g, bound %d", rows[0].floor_ns, rows[0].priced_ns, (int)rows[0].bound);
    CHECK(rows[0].measured_count == 1 && rows[0].measured_bytes == 5000 && rows[0].modelled_bytes == 4000);
    CHECK(rows[1].priced_ns == 0 && rows[1].floor_ns == 0);
    struct summary_loss loss = trace_summary_loss(summary);
    CHECK(loss.dropped == 7 + 8 && loss.invalid == 1);
    trace_summary_close(summary);
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels

enum { N_NAMES = 300, N_KERNELS = 5000 };

static int by_value(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void test_kernels(void)
{
    static struct kernel_sample samples[N_KERNELS];
    static char names[N_NAMES][16];
    struct kernel_summary *summary;
    CHECK(kernel_summary_open(&summary) == 0);
    struct sample_sink sink = kernel_summary_sink(summary);
    for (int i = 0; i < N_NAMES; i++) {
        snprintf(names[i], sizeof names[i], "kernel_%d", i);
    }
    for (int i = 0; i < N_KERNELS; i++) {
        samples[i] = (struct kernel_sample){
            .source = check_range(0, 1), .work = check_range(0, 9) ? WORK_KERNEL : WORK_COPY,
            .step = check_range(-1, 3), .phase = (enum phase)check_range(0, PHASE_COUNT - 1),
            .stage = (enum stage)check_range(0, STAGE_COUNT),
            .name = names[check_range(0, N_NAMES - 1)], .grid = {check_range(1, 2), 1, 1}, .block = {128, 1, 1},
            .bytes = check_range(0, 100), .duration_ns = check_range(1, 1000000),
        };
        sink.kernel(sink.user, &samples[i]);
    }
    int32_t n;
    int64_t counted = 0;
    CHECK(kernel_summary_update(summary) == 0 && kernel_summary_update(summary) == 0);    // rows may be asked for again
    const struct summary_kernel *rows = kernel_summary_rows(summary, &n);
    for (int32_t r = 0; r < n; r++) {
        static int64_t ns[N_KERNELS];
        int64_t count = 0, total = 0, bytes = 0;
        for (int i = 0; i < N_KERNELS; i++) {
            const struct kernel_sample *sample = &samples[i];
            bool in_step = sample->step >= 0;
            if (sample->source == rows[r].source && sample->work == rows[r].work && in_step == rows[r].in_step &&
                (!in_step || sample->phase == rows[r].phase) && sample->stage == rows[r].stage &&
                strcmp(sample->name, rows[r].name) == 0) {
                ns[count++] = sample->duration_ns;
                total += sample->duration_ns;
                bytes += sample->bytes;
            }
        }
        qsort(ns, (size_t)count, sizeof *ns, by_value);
        CHECK(count > 0 && rows[r].count == count && rows[r].total_ns == total && rows[r].bytes == bytes);
        CHECK(rows[r].median_ns == ns[(count - 1) / 2] + (ns[count / 2] - ns[(count - 1) / 2]) / 2);
        CHECK(rows[r].p95_ns == ns[(count * 95 + 99) / 100 - 1]);
        counted += count;
    }
    CHECK(counted == N_KERNELS);
    kernel_summary_close(summary);
}

static void test_names(void)
{
    static const char *const cases[][2] = {
        {"_ZN4clsa6scoresILi128EEvPKf", "scores"},
        {"void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64>, false>(flash::Flash_fwd_params)",
         "flash_fwd_splitkv_kernel"},
        {"void at::native::(anonymous namespace)::topk<float, (int)2>(int)", "topk"},
        {"Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD (Pinned -> Device)"},
        {"nvjet_tst_64x8_64x16_4x1_v_bz_TNT", "nvjet_tst_64x8_64x16_4x1_v_bz_TNT"},
        {"void cutlass::device_kernel<a::b<c>>(c::Params)", "device_kernel"},
        {"", ""},
        {"void ", "void "},
        {"<<>", "<<>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[64], cut[4];
        kernel_short_name(out, sizeof out, cases[i][0]);
        CHECK_MESSAGE(strcmp(out, cases[i][1]) == 0, "%s became %s", cases[i][0], out);
        kernel_short_name(cut, sizeof cut, cases[i][0]);
        CHECK(strlen(cut) < sizeof cut);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Differences

enum { N_STEPS = 60, N_LAYERS = 3 };

// A run of `method`: its context grows from `context`; attention grows with it, the FFN is `ffn` times as slow as
// usual.
static void tell_run(const struct sample_sink *sink, int32_t id, const char *method, int32_t steps, int32_t context,
                     double ffn)
{
    struct sample_source source = {.id = id};
    snprintf(source.method, sizeof source.method, "%s", method);
    sink->source(sink->user, &source);
    for (int32_t s = 0; s < steps; s++) {
        int64_t at_ns = 1000000 * (int64_t)s;
        for (int32_t layer = 0; layer < N_LAYERS; layer++) {
            double noise[2] = {exp(0.03 * (double)check_normal()), exp(0.03 * (double)check_normal())};
            struct stage_sample stage = {.source = id, .step = s, .phase = PHASE_DECODE, .stage = STAGE_ATTENTION,
                                         .layer = layer, .n_seqs = 1, .n_tokens = 1, .begin_ns = at_ns,
                                         .duration_ns = (int64_t)(1000 * (context + 40 * s) * noise[0])};
            sink->stage(sink->user, &stage);
            at_ns += stage.duration_ns;
            stage.stage = STAGE_FFN;
            stage.begin_ns = at_ns;
            stage.duration_ns = (int64_t)(50000 * ffn * noise[1]);
            sink->stage(sink->user, &stage);
            at_ns += stage.duration_ns + 1000;
            struct kernel_sample kernel = {.source = id, .step = s, .phase = PHASE_DECODE, .stage = STAGE_FFN,
                                           .layer = layer, .name = "gemm", .duration_ns = stage.duration_ns};
            if (sink->kernel) {
                sink->kernel(sink->user, &kernel);
            }
        }
        sink->step(sink->user, &(struct step_sample){.source = id, .step = s, .phase = PHASE_DECODE, .n_seqs = 1,
                                                     .n_tokens = 1, .context_tokens = context + s,
                                                     .begin_ns = 1000000 * (int64_t)s,
                                                     .duration_ns = at_ns - 1000000 * (int64_t)s});
    }
}

static const struct diff_row *find_row(const struct diff_row *rows, int32_t n, const char *method, int32_t part,
                                       bool kernel)
{
    static const struct diff_row none = {.verdict = (enum diff_verdict)99};
    for (int32_t i = 0; i < n; i++) {
        if (strcmp(rows[i].method, method) == 0 && rows[i].part == part && (rows[i].kernel != NULL) == kernel) {
            return &rows[i];
        }
    }
    return &none;
}

static void test_diff(void)
{
    struct diff_side *a = NULL, *b = NULL;
    struct diff_row *rows;
    int32_t n;
    CHECK(diff_side_open(&a, true) == 0 && diff_side_open(&b, true) == 0);
    struct sample_sink to_a = diff_side_sink(a), to_b = diff_side_sink(b);
    tell_run(&to_a, 0, "clsa", N_STEPS, 20, 1);
    tell_run(&to_a, 1, "dense", N_STEPS, 20, 1);
    tell_run(&to_a, 2, "token", N_STEPS, 20, 1);
    tell_run(&to_a, 3, "quest", 3, 20, 1);
    tell_run(&to_a, 8, "block", N_STEPS, 20, 4);
    tell_run(&to_b, 7, "quest", N_STEPS, 20, 1);
    tell_run(&to_b, 4, "dense", N_STEPS, 20, 0.8);
    tell_run(&to_b, 5, "yoco", N_STEPS, 20, 1);
    tell_run(&to_b, 9, "block", N_STEPS, 20, 1);
    tell_run(&to_b, 6, "clsa", N_STEPS - 10, 20, 1.25);
    CHECK(diff_compare(&rows, &n, a, b) == 0);
    const struct diff_row *row = find_row(rows, n, "dense", STAGE_FFN, false);
    CHECK_MESSAGE(row->verdict == DIFF_FASTER && row->paired && fabs(row->test.ratio - 0.8) <= 0.03 &&
                      row->n_a == N_STEPS,
                  "dense ffn: %s, %g", diff_verdict_name(row->verdict), row->test.ratio);
    CHECK(row->median_a_ns > 140000 && row->median_a_ns < 160000);    // three layers together
    row = find_row(rows, n, "clsa", STAGE_FFN, false);
    CHECK_MESSAGE(row->verdict == DIFF_SLOWER && !row->paired && fabs(row->test.ratio - 1.25) <= 0.05,
                  "clsa ffn: %s, %g", diff_verdict_name(row->verdict), row->test.ratio);
    CHECK(find_row(rows, n, "clsa", STAGE_FFN, true)->verdict == DIFF_SLOWER);
    CHECK(find_row(rows, n, "dense", STAGE_FFN, true)->n_a == N_STEPS * N_LAYERS);
    // Attention grows a hundredfold within a run: only pairs can tell that it did not change.
    row = find_row(rows, n, "dense", STAGE_ATTENTION, false);
    CHECK_MESSAGE(row->paired && row->test.high - row->test.low <= 0.08 && fabs(row->test.ratio - 1) <= 0.05,
                  "dense attention: %g to %g", row->test.low, row->test.high);
    // Attention's chance hides in some runs what the faster stage does to the step; it never makes it slower.
    row = find_row(rows, n, "dense", DIFF_STEP, false);
    CHECK_MESSAGE(row->paired && row->verdict != DIFF_SLOWER && row->test.low < 1, "dense step: %s, %g to %g",
                  diff_verdict_name(row->verdict), row->test.low, row->test.high);
    CHECK(find_row(rows, n, "block", DIFF_STEP, false)->verdict == DIFF_FASTER);    // a share that chance cannot hide
    CHECK(find_row(rows, n, "dense", DIFF_GAPS, false)->median_a_ns == 1000 * N_LAYERS);
    CHECK(find_row(rows, n, "token", STAGE_FFN, false)->verdict == DIFF_ONLY_A);
    CHECK(find_row(rows, n, "yoco", STAGE_FFN, false)->verdict == DIFF_ONLY_B);
    CHECK(find_row(rows, n, "yoco", STAGE_FFN, true)->verdict == DIFF_ONLY_B);
    CHECK(find_row(rows, n, "quest", STAGE_FFN, false)->verdict == DIFF_FEW);
    free(rows);
    diff_side_close(a);
    diff_side_close(b);
}

int main(void)
{
    check_begin();
    test_prices();
    test_kernels();
    test_names();
    test_diff();
    return check_end();
}
