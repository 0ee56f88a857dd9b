// sim/serve_metrics.h - what became of requests, reduced to the figures that a service is judged by.
//
// The same reduction for a simulation and for a replay through the engine, so that the two can be laid side by side.
// Percentiles are over all requests that finished, by nearest rank. Definitions: queue = from arrival to the begin of
// the first step that works on the request; TTFT = from arrival to its first token; TPOT = (end to end - TTFT) /
// (output tokens - 1), of requests with two tokens or more; end to end = from arrival to the last token.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct request_record {
    double arrival_s, started_s, first_token_s, finished_s;    // on one clock; NaN until it happened
    int32_t prompt_tokens, output_tokens;
    int32_t preemptions;
    int32_t reused_tokens;      // of the prompt, found in the cache when it first started
    bool rejected;              // can never fit
};

struct percentiles {
    double mean, p50, p90, p95, p99, max;
};

enum saturation {
    SATURATION_STABLE,        // requests wait for less than one of them at a time, on average
    SATURATION_BACKLOGGED,    // they wait, but the queue does not grow from the first half of arrivals to the second
    SATURATION_OVERLOADED     // it does: by more than half
};
const char *saturation_name(enum saturation saturation);    // "STABLE", ...

struct serve_metrics {
    int64_t requests, finished, rejected, preemptions;
    double span_s;                       // from the first arrival to the last token
    double prompt_tokens, output_tokens; // of the finished
    double reused_tokens;                // of those prompts' tokens, found in the cache
    double requests_per_s, output_tokens_per_s, total_tokens_per_s;
    struct percentiles queue_s, ttft_s, tpot_s, end_to_end_s;
    double slo_share, goodput_per_s;     // finished requests within both limits, and per second
    double queue_first_half, queue_second_half;    // requests waiting on average while requests arrived
    enum saturation saturation;
};

enum measure { MEASURE_QUEUE, MEASURE_TTFT, MEASURE_TPOT, MEASURE_END_TO_END };
double request_measure(const struct request_record *record, enum measure measure);    // NaN: it did not happen
double request_tpot(const struct request_record *record);    // NaN: less than two tokens

// Limits of 0 are not checked. closed_loop: users wait for answers, a queue cannot outgrow them: never OVERLOADED.
int serve_reduce(struct serve_metrics *out, const struct request_record *records, int64_t n, double slo_ttft_s,
                 double slo_tpot_s, bool closed_loop);    // -ENOMEM

// One percentile over the requests that finished, by nearest rank; NaN if none did. -ENOMEM.
int serve_percentile(double *out, const struct request_record *records, int64_t n, enum measure measure,
                     double percent);
