// cli/measure.h - one method at work: a batch of prompts through an engine, watched by a collector.
#pragma once

#include "cli/collect.h"
#include "cli/command.h"
#include "cli/counting.h"
#include "engine/sample.h"

struct measure_options {
    const struct plan *plan;
    struct model_file *model;
    const char *device;              // "cpu", "reference", "cuda", "cuda:1"
    int32_t threads, batch;
    int32_t chunk_tokens;            // 0: measure_chunk
    const int32_t *text;             // [n_text] tokens; sequence i begins at i * n_text / batch and wraps around
    int32_t n_text;
    int32_t context_tokens;          // prompt length of each sequence
    int32_t output_tokens;
    double temperature, top_p;
    uint64_t seed;
    const int32_t *forced;           // [output_tokens] follow the first sequence's draws; NULL: its own
    const struct sample_sink *sinks; // [n_sinks] see everything; at most 6
    int32_t n_sinks;
    enum collect collect;            // how they see it
    int32_t stage_every;             // of engine_options; 0: as there, but four times at least in a run
    void (*token)(void *user, int32_t token);    // each token of the first sequence as it comes; may be NULL
    void *token_user;
};

struct measurement {
    struct sample_source source;
    double prefill_s;                // steps with prompt rows
    double decode_s;                 // pure decode steps
    double decode_step_s;            // their median
    int64_t decode_steps, decode_tokens;
    int64_t kv_bytes, weight_bytes;  // in use at the end of the answers
    int32_t *tokens;                 // [n_tokens] the first sequence's draws; owned, measurement_free
    int32_t n_tokens;
    struct counting counting;        // with COLLECT_COUNTERS; owned, likewise
};

// SIGINT and SIGTERM end it after the current step with -EINTR (cli/interrupt.h).
int measure(struct measurement *out, const struct measure_options *options);
void measurement_free(struct measurement *measurement);

// Splits "cuda:1" into the backend's name and the device's number.
int measure_device(char *backend, size_t bytes, int32_t *number, const char *device);

// Rows of a prefill step where none are asked for: a GPU wants more of them at once.
int32_t measure_chunk(const char *device);

// Reads a prompt file as tokens; *tokens is owned by the caller. -EINVAL with the file and the fix.
int measure_read_prompt(int32_t **tokens, int32_t *n, const char *path);
