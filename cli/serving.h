// cli/serving.h - a workload through the live engine: what the simulator predicts, measured.
//
// Requests are handed to the engine when their arrival has passed, exactly as sim/serve.c does. On the virtual clock a
// step advances time by what it took and waiting takes none; in real time the replay sleeps until the next arrival.
// Prompts are made up: those that the workload says begin alike begin with the same tokens, nothing
// else is shared. Where it says so of any, the engine reuses prefixes. The engine is warmed before the first arrival.
#pragma once

#include "engine/engine.h"
#include "sim/serve_metrics.h"
#include "workloads/workload.h"

struct serving_options {
    const struct plan *plan;
    struct model_file *model;           // borrowed
    const char *backend;
    int32_t device, threads;
    int32_t max_seqs, max_step_tokens;  // 0: the engine's
    int64_t cache_tokens;               // 0: all that could run at once
    bool no_reuse;                      // every prompt is computed whole, also where prompts begin alike
    int32_t snapshots;                  // 0: the engine's
    bool virtual_clock;
    bool cold;                          // the first requests pay for what is loaded and recorded at first use
    uint64_t seed;                      // of the prompts' tokens
    double slo_ttft_s, slo_tpot_s;
    const struct observer *observer;    // also hears; its request slot is called too. May be NULL
    void (*opened)(void *user, const struct sample_source *source);    // warmed, before the first arrival; may be NULL
    void *opened_user;
    void (*stepped)(void *user, double begin_s, double end_s);    // after steps, on the replay's clock; may be NULL
    void *stepped_user;
    void (*progress)(void *user, int64_t finished, int64_t total);    // after steps; may be NULL
    void *progress_user;
};

struct serving_result {
    struct serve_metrics metrics;       // preemptions as the engine counted them
    struct request_record *records;     // [n_records], owned; their own preemptions are unknown and 0
    int64_t n_records;
    int64_t steps, peak_kv_bytes, kv_bytes, weight_bytes;
    int64_t device_bytes;               // in use on the device at the end, as its driver says; 0: no such memory
    int32_t peak_running;
    double warm_s;                      // that warming took, before the clock began
    int64_t reused_tokens;              // by all starts, also those after a preemption
    double busy_s;                      // in steps
    struct sample_source source;
};

int serving_run(struct serving_result *out, const struct workload *workload, const struct serving_options *options);
void serving_close(struct serving_result *result);    // NULL-safe
