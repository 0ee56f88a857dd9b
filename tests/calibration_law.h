// tests/calibration_law.h - calibrations of a device whose speed is known: samples that follow a law, with noise.
#pragma once

#include "engine/status.h"
#include "sim/calibration.h"
#include "tests/check.h"

static const double BYTES_PER_S = 1e11, FLOPS_PER_S = 1e12;

static inline struct device make_rates(const char *name)
{
    struct device device = {.bytes_per_s = {BYTES_PER_S, PROVENANCE_MEASURED, "test"}, .threads = 2};
    snprintf(device.name, sizeof device.name, "%s", name);
    device.flops_per_s[DTYPE_F32] = (struct device_figure){FLOPS_PER_S / 2, PROVENANCE_MEASURED, "test"};
    device.flops_per_s[DTYPE_BF16] = (struct device_figure){FLOPS_PER_S, PROVENANCE_MEASURED, "test"};
    device.launch_s = (struct device_figure){1e-6, PROVENANCE_MEASURED, "test"};
    return device;
}

static const struct sample_source source = {
    .id = 3, .device = "Some CPU, 2 threads", .backend = "cpu/test", .model = "tiny", .method = "clsa", .n_layers = 4,
    .top_k = 16, .unit_tokens = 1, .weight_dtype = DTYPE_BF16, .kv_dtype = DTYPE_BF16, .index_dtype = DTYPE_BF16,
    .threads = 2,
};

static int64_t step_number;

// One step of one stage, then the step as a whole, `outside_ns` longer.
static inline void feed(struct calibration_fit *fit, enum stage stage, int32_t rows, int32_t seqs, int64_t bytes,
                        int64_t flops, double seconds, int64_t outside_ns)
{
    struct sample_sink sink = calibration_fit_sink(fit);
    int64_t duration_ns = llround(1e9 * seconds);
    struct stage_sample sample = {.source = 3, .step = step_number, .phase = PHASE_DECODE, .stage = stage, .layer = 0,
                                  .n_seqs = seqs, .n_tokens = rows, .context_tokens = 100, .bytes = bytes,
                                  .flops = flops, .duration_ns = duration_ns};
    sink.stage(sink.user, &sample);
    struct step_sample step = {.source = 3, .step = step_number++, .phase = PHASE_DECODE, .n_seqs = seqs,
                               .n_tokens = rows, .duration_ns = duration_ns + outside_ns};
    sink.step(sink.user, &step);
}

static inline struct calibration_fit *open_fit(void)
{
    struct calibration_fit *fit;
    CHECK(calibration_fit_open(&fit) == 0);
    CHECK(calibration_fit_trace(fit, "some.pftrace") == 0);
    struct sample_sink sink = calibration_fit_sink(fit);
    sink.source(sink.user, &source);
    return fit;
}

static inline struct calibration *finish(struct calibration_fit *fit)
{
    struct device rates = make_rates("Some CPU");
    struct calibration *calibration = NULL;
    CHECK_MESSAGE(calibration_fit_finish(&calibration, fit, &rates, "2026-01-02", "test") == 0, "%s", status_text());
    calibration_fit_close(fit);
    return calibration;
}

// The law: a floor, and an efficiency that grows with the logarithm of the bytes.
static inline double law_s(double bytes)
{
    double efficiency = 0.2 + 0.03 * (log2(bytes) - 12);
    return 20e-6 + bytes / BYTES_PER_S / efficiency;
}

// Works of half an octave each with 3% of noise, and a tenth of samples ten times slower, which medians ignore.
static inline struct calibration *make_law(int32_t rows, double noise)
{
    struct calibration_fit *fit = open_fit();
    for (int i = 0; i <= 28; i++) {
        int64_t bytes = llround(exp2(12 + 0.5 * i));
        for (int repeat = 0; repeat < 21; repeat++) {
            double seconds = law_s((double)bytes) * (1 + noise * (2 * check_uniform() - 1));
            feed(fit, STAGE_FFN, rows, rows, bytes, 0, repeat % 10 == 9 ? 10 * seconds : seconds, 5000);
        }
    }
    return finish(fit);
}
