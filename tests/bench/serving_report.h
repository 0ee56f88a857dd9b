// tests/bench/serving_report.h - what bench_serving found of a case, printed and added to results.tsv.
#pragma once

#include "cli/serving.h"
#include "sim/serve.h"
#include "tests/bench/results.h"

enum { MEASURED, ROOFLINE, CALIBRATED, MODES };

// Steps by what is in them.
enum step_kind { DECODE, MIXED, PROMPT, KINDS };
const char *step_kind_name(enum step_kind kind);

// What a run comes to, measured or simulated: output_tokens_per_s, TTFT and TPOT, preemptions, peaks.
enum { REPORT_ROWS = 8 };
struct report_values {
    double rows[REPORT_ROWS];
    double spreads[REPORT_ROWS];    // from the least run to the greatest; NAN: one run
    enum saturation verdict;
};
struct report_values report_values_of(const struct serve_metrics *metrics, int32_t peak_running, int64_t peak_kv_bytes);
// Row by row, n > 0, with their spreads; the verdict is the first's.
struct report_values report_median(const struct report_values *runs, int32_t n);

// Whose figures they are; all texts are borrowed.
struct report {
    struct results *results;
    const char *device, *command, *model, *method, *name;    // name: the case
    int32_t max_seqs;
};

void report_side_by_side(const struct report *report, const struct report_values values[static MODES]);
// What the driver says is in use beside what is predicted. Nothing where no device tells.
void report_memory(const struct report *report, const struct serving_result *measured,
                   const struct serve_result *simulated);
// Watts over span_s while requests came, and what an output token took of them. Nothing below 2 s.
void report_energy(const struct report *report, double joules, double span_s, double tokens_per_s);

// Steps held against their prices.
struct report_steps {
    int64_t n[KINDS];
    double measured_s[KINDS], priced_s[KINDS], pause_s;    // pause: between steps that follow each other
    double *errors[KINDS];                                 // [n] |priced / measured - 1|; sorted here, the caller's
};
void report_steps(const struct report *report, struct report_steps *steps);
