// tests/bench/serving_report.c - see serving_report.h.
#include "tests/bench/serving_report.h"

#include <math.h>
#include <stdio.h>

#include "engine/sort.h"

static const struct {
    const char *name, *unit;
} rows[REPORT_ROWS] = {{"output_tokens_per_s", "tokens/s"}, {"ttft_mean", "ms"}, {"ttft_p95", "ms"},
                       {"tpot_mean", "ms"},
                       {"tpot_p95", "ms"}, {"preemptions", "times"}, {"peak_sequences", "sequences"},
                       {"peak_kv", "MB"}};
static const char *const mode_names[MODES] = {"measured", "roofline", "calibrated"};

const char *step_kind_name(enum step_kind kind)
{
    static const char *const names[KINDS] = {"decode", "mixed", "prefill"};
    return names[kind];
}

static void append_spread(const struct report *report, const char *quantity, double value, double spread,
                          const char *unit)
{
    results_add(report->results, &(struct result){.device = report->device,
                                                  .command = report->command,
                                                  .model = report->model,
                                                  .method = report->method,
                                                  .sequences = report->max_seqs,
                                                  .quantity = quantity,
                                                  .median = value,
                                                  .spread = spread,
                                                  .floor = NAN,
                                                  .unit = unit});
}

static void append(const struct report *report, const char *quantity, double value, const char *unit)
{
    append_spread(report, quantity, value, NAN, unit);
}

struct report_values report_values_of(const struct serve_metrics *metrics, int32_t peak_running, int64_t peak_kv_bytes)
{
    return (struct report_values){
        .rows = {metrics->output_tokens_per_s, 1e3 * metrics->ttft_s.mean, 1e3 * metrics->ttft_s.p95,
                 1e3 * metrics->tpot_s.mean, 1e3 * metrics->tpot_s.p95, (double)metrics->preemptions, peak_running,
                 1e-6 * (double)peak_kv_bytes},
        .verdict = metrics->saturation};
}

struct report_values report_median(const struct report_values *runs, int32_t n)
{
    struct report_values out = {.verdict = runs[0].verdict};
    for (int row = 0; row < REPORT_ROWS; row++) {
        double values[n];
        for (int32_t r = 0; r < n; r++) {
            values[r] = runs[r].rows[row];
        }
        sort_doubles(values, n);
        out.rows[row] = 0.5 * (values[(n - 1) / 2] + values[n / 2]);
        out.spreads[row] = n > 1 ? values[n - 1] - values[0] : NAN;
    }
    return out;
}

// "-" where there is nothing to be off from.
static const char *error_text(char text[static 24], double value, double measured)
{
    snprintf(text, 24, measured > 0 ? "%+.1f%%" : "-", 100 * (value / measured - 1));
    return text;
}

void report_side_by_side(const struct report *report, const struct report_values values[static MODES])
{
    printf("%-10s %-10s %20s %12s %10s %12s %9s %12s %9s\n", report->method, report->name, "", "measured", "spread",
           "roofline", "error", "calibrated", "error");
    for (int r = 0; r < REPORT_ROWS; r++) {
        double measured = values[MEASURED].rows[r];
        double spread = values[MEASURED].spreads[r];
        char quantity[96], roofline[24], calibrated[24], apart[24] = "-";
        if (isfinite(spread)) {
            snprintf(apart, sizeof apart, "%.3g", spread);
        }
        printf("%-10s %-10s %20s %12.4g %10s %12.4g %9s %12.4g %9s\n", "", "", rows[r].name, measured, apart,
               values[ROOFLINE].rows[r], error_text(roofline, values[ROOFLINE].rows[r], measured),
               values[CALIBRATED].rows[r], error_text(calibrated, values[CALIBRATED].rows[r], measured));
        snprintf(quantity, sizeof quantity, "serving.%s.%s", report->name, rows[r].name);
        append_spread(report, quantity, measured, spread, rows[r].unit);
        for (int m = ROOFLINE; m < MODES && measured > 0; m++) {
            snprintf(quantity, sizeof quantity, "sim_error.serving.%s.%s.%s", report->name, rows[r].name,
                     mode_names[m]);
            append(report, quantity, 100 * (values[m].rows[r] / measured - 1), "%");
        }
    }
    printf("%-10s %-10s %20s %12s %10s %12s %9s %12s\n", "", "", "verdict", saturation_name(values[MEASURED].verdict),
           "", saturation_name(values[ROOFLINE].verdict), "", saturation_name(values[CALIBRATED].verdict));
}

void report_memory(const struct report *report, const struct serving_result *measured,
                   const struct serve_result *simulated)
{
    double predicted = (double)(simulated->weight_bytes + simulated->kv_bytes + simulated->other_bytes);
    double off = 100 * (predicted / (double)measured->device_bytes - 1);
    char quantity[96];
    if (measured->device_bytes <= 0) {
        return;
    }
    printf("device memory: %.1f MB in use, weights %.1f, KV cache %.1f, other %.1f; predicted %.1f MB, %+.2f%%\n",
           1e-6 * (double)measured->device_bytes, 1e-6 * (double)measured->weight_bytes,
           1e-6 * (double)measured->kv_bytes,
           1e-6 * (double)(measured->device_bytes - measured->weight_bytes - measured->kv_bytes), 1e-6 * predicted,
           off);
    snprintf(quantity, sizeof quantity, "serving.%s.device_memory", report->name);
    append(report, quantity, 1e-6 * (double)measured->device_bytes, "MB");
    snprintf(quantity, sizeof quantity, "sim_error.serving.%s.device_memory", report->name);
    append(report, quantity, off, "%");
}

void report_energy(const struct report *report, double joules, double span_s, double tokens_per_s)
{
    double power_w = joules / span_s;
    char quantity[96];
    if (!(span_s >= 2) || !isfinite(power_w)) {
        return;
    }
    printf("energy: %.1f W over %.1f s, %.4g J per output token\n", power_w, span_s, power_w / tokens_per_s);
    snprintf(quantity, sizeof quantity, "serving.%s.power", report->name);
    append(report, quantity, power_w, "W");
    snprintf(quantity, sizeof quantity, "serving.%s.energy", report->name);
    append(report, quantity, power_w / tokens_per_s, "J/token");
}

void report_steps(const struct report *report, struct report_steps *steps)
{
    for (int k = 0; k < KINDS; k++) {
        double *errors = steps->errors[k];
        int64_t n = steps->n[k];
        const char *kind = step_kind_name((enum step_kind)k);
        if (n == 0) {
            continue;
        }
        sort_doubles(errors, n);
        double median = 100 * errors[n / 2], p95 = 100 * errors[(int64_t)ceil(0.95 * (double)n) - 1];
        char quantity[96];
        printf("  %-8s %7lld steps, %8.3f s; predicted %+6.1f%% in all, each off by %5.1f%% (median), %5.1f%% (P95)\n",
               kind, (long long)n, steps->measured_s[k], 100 * (steps->priced_s[k] / steps->measured_s[k] - 1), median,
               p95);
        snprintf(quantity, sizeof quantity, "sim_error.serving.%s.step.%s", report->name, kind);
        append(report, quantity, median, "%");
        snprintf(quantity, sizeof quantity, "sim_error.serving.%s.step.%s.p95", report->name, kind);
        append(report, quantity, p95, "%");
    }
    printf("  between steps %.3f s\n", steps->pause_s);
}
