// sim/predict.h - what a stage, a step, a request should take on a device: roofline over the engine's own cost model.
//
// time(stage of a layer) = max(bytes / bandwidth, flops / rate) + launch; stages follow each other. The bandwidth is
// that of the step's whole working set, the rate that of the operands' type: the weights' for projections, the cache's
// for attention, the index keys' for scores; a type without a rate of its own takes the next wider one's, as an engine
// would convert. Where the device has a calibration (device->calibration), a stage takes its floor + roofline time over
// the efficiency measured, and a step adds its time outside stages as STAGE_HOST. Efficiencies that another device
// reached (with this one's launches, and at most 1) are EXTRAPOLATED; stages that the calibration lacks stay ROOFLINE.
// A group of devices (device->ranks, plan of one of them: sim/parallel.h) adds up its partial sums twice per layer,
// after the output projection and after the FFN, and once for the embedding, and gathers the logits: a collective takes
// link_s + 2 (n - 1) / n bytes / link_bytes_per_s, gathering half of that, as STAGE_COMMUNICATE, of which the bytes are
// those on the link. Pure functions: the same inputs give the same bits. Not modelled: overlap, activations in memory;
// without a calibration, what share of its peaks a kernel reaches.
#pragma once

#include <stdbool.h>

#include "engine/cost.h"
#include "sim/device.h"

enum bound { BOUND_BANDWIDTH, BOUND_COMPUTE, BOUND_LATENCY };
const char *bound_name(enum bound bound);    // "bandwidth", "compute", "latency"

// An error bar: 95% of what calibrations left out lay within so many seconds, up or down. Layers of a stage miss alike,
// so theirs add up; stages do by their squares. NaN: unknown, as a bare roofline's.
struct stage_prediction {
    double seconds, off_s;
    enum bound bound;               // of a sum: under which most of its seconds pass
    struct stage_cost cost;
    enum provenance provenance;     // of a sum: the weakest of the figures used
};

struct step_prediction {
    double seconds, off_s;
    struct stage_prediction stages[STAGE_COUNT];    // summed over layers; add up to `seconds`
    enum provenance provenance;                     // the weakest of the figures used
};

// `layer` is -1 for stages outside layers. A stage without cost takes no time. -EINVAL for a plan or a layer that is
// none, or a device without a rate for f32 where f32 is multiplied.
int predict_stage(struct stage_prediction *out, const struct device *device, const struct plan *plan, enum stage stage,
                  int32_t layer, const struct work *work, int32_t n_seqs);
int predict_step(struct step_prediction *out, const struct device *device, const struct plan *plan,
                 const struct work *work, int32_t n_seqs);
// The same where steps with prompts before it have left heat (struct calibration_heat); by itself a step begins with
// none.
int predict_step_heated(struct step_prediction *out, const struct device *device, const struct plan *plan,
                        const struct work *work, int32_t n_seqs, double heat_s);

// What an engine takes beside weights and cache whose steps have at most `rows` rows, its sequences at most `tokens`; 0
// where that was never measured.
int64_t predict_other_bytes(const struct device *device, const struct plan *plan, int32_t rows, int64_t tokens);
// How many sequences of `tokens` each the memory holds beside that and the weights; -1 where its size is not known.
int64_t predict_max_seqs(const struct device *device, const struct plan *plan, int64_t tokens, int32_t rows);

// A fixed batch: n_seqs sequences, each with a prompt of context_tokens, chunked by chunk_tokens (0: whole), then
// output_tokens decoded together. The first output token comes from the prompt's last step, so that there are
// output_tokens - 1 decode steps; without any, decode figures are 0.
struct request_prediction {
    struct step_prediction prefill;              // of one sequence's prompt, its chunks added up
    struct step_prediction first_decode;         // of the batch, at the prompt's length
    double prefill_s;                            // prefill.seconds
    double ttft_s;                               // mean over the batch, prompts one after the other
    double first_decode_step_s, last_decode_step_s;
    double decode_s;                             // all output tokens but the first; within 0.1% of the sum over steps
    double end_to_end_s;                         // n_seqs prompts, then decode
    double decode_tokens_per_s;                  // of the whole batch, mean over the output
    double throughput_tokens_per_s;              // output tokens over end to end, prompts one after the other
    int64_t weight_bytes;
    int64_t kv_bytes_per_seq;                    // at the end, in whole pages
    int64_t other_bytes;                         // what else an engine takes, for such chunks; 0 where not measured
    int64_t kv_bytes, total_bytes;               // of n_seqs sequences; with the weights and the rest
    int64_t max_seqs;                            // how many such sequences memory holds; 0: not even one; -1: unknown
    enum provenance provenance;
};
int predict_request(struct request_prediction *out, const struct device *device, const struct plan *plan,
                    int32_t n_seqs, int32_t context_tokens, int32_t output_tokens, int32_t chunk_tokens);
