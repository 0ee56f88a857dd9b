// engine/sample.h - what any part of clsa knows of a timing, and the stream in which timings flow.
//
// Collectors fill a sink; a trace file is a recorded sink; calibration, summaries and the dashboard are sinks. The same
// stream comes from a running engine and from a file. Times are nanoseconds on the collector's clock (CLOCK_BOOTTIME).
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/plan.h"
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

// What a plan says of a source; id, device, backend, threads and graph are 0 or empty.
struct sample_source sample_source_of(const struct plan *plan);

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
    int64_t measured_bytes;     // to and from device memory, by hardware counters; 0: not measured
};

// One step as a whole. Sum of its stages' durations + gaps - overlap = duration_ns.
struct step_sample {
    int32_t source;
    int64_t step;
    enum phase phase;
    int32_t n_seqs, n_tokens;
    int32_t context_tokens;
    int64_t begin_ns, duration_ns;
    int64_t device_ns;          // what its work on the device took, by two of the device's own events; 0: not measured
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

// One piece of work as a GPU ran it. Told in no order, some time after its step has ended.
enum device_work { WORK_KERNEL, WORK_COPY, WORK_FILL };
struct kernel_sample {
    int32_t source;
    enum device_work work;
    int64_t step;               // -1: outside steps
    enum phase phase;
    enum stage stage;           // STAGE_COUNT: attributed to none
    int32_t layer;              // -1: outside layers
    const char *name;           // of a kernel as the compiler mangled it
    int32_t device, context, stream;    // the driver's numbers
    uint32_t launch;            // the launch_sample that enqueued it; 0: not known
    int32_t grid[3], block[3];  // blocks, threads; 0 where it is no kernel
    int32_t registers, static_shared_bytes, dynamic_shared_bytes;    // registers per thread
    int64_t bytes;              // moved by a copy or a fill
    int64_t begin_ns, duration_ns;
};

// A call by which the host enqueued work: a kernel, a copy, or a whole graph.
struct launch_sample {
    int32_t source;
    uint32_t launch;            // not 0; unique within a source while its work is under way
    const char *name;           // "cudaGraphLaunch"
    int64_t step;               // -1: outside steps
    int32_t thread;             // the system's number
    int64_t begin_ns, duration_ns;
};

// A reading of something that exists beside the engine: clocks, power, temperature, hardware counters.
struct gauge_sample {
    int32_t source;
    const char *name;           // the vendor's name where there is one: "dram__bytes_read.sum"
    const char *unit;           // "MHz", "W", "B/s", "%"
    double value;
    int64_t time_ns;
};

// What collecting has lost of a source so far; told when it grows.
struct loss_sample {
    int32_t source;
    int64_t dropped;            // records that had no room
    int64_t invalid;            // records without times, or that end before they begin
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
    void (*kernel)(void *user, const struct kernel_sample *sample);
    void (*launch)(void *user, const struct launch_sample *sample);
    void (*gauge)(void *user, const struct gauge_sample *sample);
    void (*loss)(void *user, const struct loss_sample *sample);
};
