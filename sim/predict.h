// sim/predict.h - what a stage, a step, a request should take on a device: roofline over the engine's own cost model.
//
// time(stage) = max(bytes / bandwidth, flops / rate) + launch. Pure functions: the same inputs give the same bits.
#pragma once

#include "engine/cost.h"
#include "sim/device.h"

enum bound { BOUND_BANDWIDTH, BOUND_COMPUTE, BOUND_LATENCY };
const char *bound_name(enum bound bound);

struct stage_prediction {
    double seconds;
    enum bound bound;
    struct stage_cost cost;
};

struct step_prediction {
    double seconds;
    struct stage_prediction stages[STAGE_COUNT];    // summed over layers
    enum provenance provenance;                     // the weakest of the figures used
};

int predict_stage(struct stage_prediction *out, const struct device *device, const struct plan *plan, enum stage stage,
                  int32_t layer, const struct work *work, int32_t n_seqs);
int predict_step(struct step_prediction *out, const struct device *device, const struct plan *plan,
                 const struct work *work, int32_t n_seqs);

// A fixed batch: n_seqs sequences, each with a prompt of context_tokens, chunked by chunk_tokens (0: whole), then
// output_tokens decoded together.
struct request_prediction {
    double prefill_s;              // of one sequence's prompt
    double first_decode_step_s, last_decode_step_s;
    double decode_s;               // all output tokens but the first
    double end_to_end_s;
    double decode_tokens_per_s;    // of the whole batch, mean over the output
    double throughput_tokens_per_s;    // output tokens over end to end, prompts one after the other
    int64_t weight_bytes, kv_bytes, total_bytes;
    int64_t max_seqs;              // how many such sequences memory holds; 0: not even one
    enum provenance provenance;
};
int predict_request(struct request_prediction *out, const struct device *device, const struct plan *plan,
                    int32_t n_seqs, int32_t context_tokens, int32_t output_tokens, int32_t chunk_tokens);
