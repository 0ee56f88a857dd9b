// sim/serve.h - a service under load: requests arrive, wait, are prefilled in chunks, decode in a batch, and finish.
//
// Discrete events over the engine's own scheduler and page accounting: each decision is the one that the engine would
// take. Time comes from sim/step_price.h: roofline, or calibrated where the device is. Where all that happens for many
// steps is that everyone draws one more token, only the clock moves: the same decisions in the same order as step by
// step, and the same times to the bit. A pure function of its inputs: no clock, no chance (that is the workload's).
//
// Where the workload says that prompts begin alike, their pages are found again as the engine finds them; what copying
// window snapshots takes is their bytes over the device's bandwidth. One replica; several behind a router are
// sim/fleet.h. Not modelled: time between steps beyond step_overhead_s.
#pragma once

#include "sim/serve_metrics.h"
#include "sim/step_price.h"
#include "workloads/workload.h"

struct serve_options {
    const struct plan *plan;
    const struct device *device;
    const struct stage_timer *timer;    // NULL: as sim/predict.h, calibrated if the device is
    double step_overhead_s;
    int32_t max_seqs;                   // 0: 256
    int32_t max_step_tokens;            // 0: 2048
    int64_t cache_tokens;               // 0: what the device's memory leaves, memory_share of it used in all
    bool no_reuse;                      // every prompt is computed whole
    bool received;                      // prompts were computed elsewhere, but for their last token
    int32_t snapshots;                  // of windows, where prefixes are reused. 0: PREFIX_SNAPSHOTS
    double memory_share;                // 0: 0.9
    double slo_ttft_s, slo_tpot_s;      // 0: no limit
    bool every_step;                    // take every step by itself: what jumping is compared with
    // With every_step, what decides how long each step takes: seconds from now_s on, given what it was priced at. So a
    // service that was measured is simulated with its own times: the same decisions, and the error of each step.
    double (*clock)(void *user, double now_s, const struct work *work, int32_t n_seqs, double priced_s);
    void *clock_user;                   // NULL: steps take what they are priced at
    void (*progress)(void *user, int64_t finished, int64_t total);    // now and then; may be NULL
    void *progress_user;
    const _Atomic bool *stop;           // becomes true: end early with what has finished; NULL: never
};

// The state of the service at a moment, and what it put out since the point before.
struct serve_point {
    double time_s;
    int32_t running, waiting, kv_pages;
    double output_tokens_per_s;
};

enum { SERVE_MAX_POINTS = 512 };

// What those who wait wait for, as the scheduler meets it: pages of the KV cache, a slot of max_seqs, rows of a step.
enum blocked { BLOCKED_MEMORY, BLOCKED_SEQUENCES, BLOCKED_ROWS, BLOCKED_COUNT };
const char *blocked_name(enum blocked blocked);    // "KV memory", "sequences", "rows"

struct serve_result {
    struct serve_metrics metrics;
    struct request_record *records;     // [n_records] in the order of the workload; owned
    int64_t n_records;
    int64_t n_requests;                 // that came to this replica
    struct serve_point points[SERVE_MAX_POINTS];    // evenly spaced in time
    int32_t n_points;
    int64_t steps, jumped_steps;        // all, and those that were not taken by themselves
    int64_t n_pages, peak_pages;
    int64_t other_bytes;                // of memory beside weights and cache; 0: not measured
    int64_t weight_bytes, kv_bytes, peak_kv_bytes;    // kv: of the whole cache, rings of all sequences included
    int32_t max_seqs, max_step_tokens, peak_running;
    int64_t reused_tokens;              // found in the cache at all starts, also those after a preemption
    double busy_s;                      // in steps
    double prefill_s;                   // of those, in steps with rows of a prompt
    double sequence_s, context_token_s; // sequences of a step, and tokens that they hold, times its seconds
    double blocked_s[BLOCKED_COUNT];    // busy while somebody waited for that
    bool stopped;
    enum provenance provenance;         // the weakest of the device's figures used
    double off_share;                   // error bar of the mean step that decodes (sim/predict.h), over its time
    uint64_t decisions;                 // a hash of who ran, was preempted and finished, in which order
    char first_rejection[256];
};

// -EINVAL if nothing fits: the text says what would. serve_close frees what *out holds; *out is empty on failure.
int serve_run(struct serve_result *out, const struct workload *workload, const struct serve_options *options);
void serve_close(struct serve_result *result);    // NULL-safe
