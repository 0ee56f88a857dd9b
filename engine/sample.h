// engine/sample.h - what any part of clsa knows of a timing, and the stream in which timings flow.
//
// Collectors fill a sink; a trace file is a recorded sink; calibration, summaries and the dashboard are sinks. The same
// stream comes from a running engine and from a file. Times are nanoseconds on the collector's clock (CLOCK_BOOTTIME).
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/dtype.h"
#include "engine/stage.h"

enum { SOURCE_NAME_BYTES = 96 };

// Where samples come from: one engine under one plan. Announced before its first sample; changes announce a new one.
struct sample_source {
    int32_t id;                              // names this source in the samples; unique within a stream
    char device[SOURCE_NAME_BYTES];          // "AMD EPYC 9575F, 2 threads"
    char backend[SOURCE_NAME_BYTES];         // "reference", "cpu/avx512", "cuda"
    char model[SOURCE_NAME_BYTES];
    char method[SOURCE_NAME_BYTES];
    int32_t n_layers;
    int32_t top_k, unit_tokens, index_sets;  // 0 where the plan selects nothing
    int32_t window_tokens;
    int32_t page_tokens;
    enum dtype weight_dtype, kv_dtype, index_dtype;
    int32_t threads;
    bool graph;                              // launched as a CUDA graph
};

// One stage of one layer in one step. Stages of a step never overlap on a CPU; on a GPU they may.
struct stage_sample {
    int32_t source;
    int64_t step;
    enum phase phase;
    enum stage stage;
    int32_t layer;              // -1: outside layers
    int32_t n_seqs, n_tokens;   // sequences and rows that the stage worked on
    int32_t context_tokens;     // the longest context among them, new rows included
    int64_t bytes, flops;       // by engine/cost.h
    int64_t begin_ns, duration_ns;
};

// One step as a whole. Sum of its stages' durations + gaps - overlap = duration_ns.
struct step_sample {
    int32_t source;
    int64_t step;
    enum phase phase;
    int32_t n_seqs, n_tokens;
    int32_t context_tokens;
    int64_t begin_ns, duration_ns;
};

enum request_state { REQUEST_SUBMITTED, REQUEST_RUNNING, REQUEST_FIRST_TOKEN, REQUEST_FINISHED };

// A request changed its state. Queueing lasts from SUBMITTED to RUNNING, prefill to FIRST_TOKEN, decode to FINISHED.
struct request_sample {
    int32_t source;
    int64_t request;
    enum request_state state;
    int32_t prompt_tokens, output_tokens;
    int64_t step;               // the step in which it happened, -1 before any
    int64_t time_ns;
};

enum counter { COUNTER_TOKENS_PER_S, COUNTER_KV_BYTES, COUNTER_BATCH, COUNTER_QUEUE, COUNTER_COUNT };
const char *counter_name(enum counter counter);    // "tokens/s", "KV bytes", "batch", "queue"
const char *counter_unit(enum counter counter);    // "1/s", "B", "sequences", "requests"

struct counter_sample {
    int32_t source;
    enum counter counter;
    double value;
    int64_t time_ns;
};

// A consumer of the stream. Any slot may be NULL. Pointers are valid during the call only. Slots are called from one
// thread at a time. They return nothing: a consumer that fails remembers it and tells its owner when it is closed.
struct sample_sink {
    void *user;
    void (*source)(void *user, const struct sample_source *source);
    void (*stage)(void *user, const struct stage_sample *sample);
    void (*step)(void *user, const struct step_sample *sample);
    void (*request)(void *user, const struct request_sample *sample);
    void (*counter)(void *user, const struct counter_sample *sample);
};
