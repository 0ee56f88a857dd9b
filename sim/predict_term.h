// sim/predict_term.h - the time of one stage of one layer whose cost is known, for predict.c and for step_price.c,
// which asks millions of times.
//
// What stays the same from step to step is a term, what the stages of one step have in common a pass. Not a public
// header of the room.
#pragma once

#include "sim/calibration.h"
#include "sim/predict.h"

struct predict_pass {
    const struct device *device;     // borrowed
    const struct plan *plan;         // borrowed
    double bandwidth;                // for the step's whole working set
    int64_t new_rows, logit_rows;
    double seen_tokens;              // by a row of prompts, in the mean; 0: there are none
    bool chunked, logits_chunked;    // some sequence has more than one such row
};
double predict_seen_tokens(const struct work *work);    // by the new rows of one sequence, summed over them

// Whether steps of the plan that decode take longer than their stages for what selects (curves of HOST).
bool predict_waits(const struct device *device, const struct plan *plan);
bool predict_foreign(const struct device *device);    // whether its calibration was made on another device

struct predict_term {
    enum stage stage;
    int32_t layer;                       // -1 outside layers
    bool few;                            // only rows that leave logits have a part in it
    bool foreign;                        // the calibration was made on another device
    const struct device_figure *rate;    // of its multiply-adds, of the device; NULL: none is known
    enum dtype rate_dtype;
    struct calibration_query query;      // but for its phase, rows and work
    int32_t number;                      // the owner's, 0 here
};
// What it has to do with the step that it is in (calibration.h): no row sees more than it may select; clocks have not
// fallen.
struct predict_state {
    bool taking, cool;
};
// `device` is borrowed as long as the term is used.
struct predict_term predict_term_of(const struct device *device, const struct plan *plan, enum stage stage,
                                    int32_t layer, struct predict_state state);
// Attention is two kernels in a step that has both prompts and rows that decode: each part is priced by itself, with a
// pass that has its rows only (chunked for prompts), and this says which stages are. Rows of one token that leave
// logits decode.
bool predict_splits(const struct predict_term *term);
// A stage without cost takes no time. -EINVAL without a rate for the operands' type.
int predict_cost(struct stage_prediction *out, const struct predict_pass *pass, const struct predict_term *term,
                 const struct stage_cost *cost);

// The seconds of that alone, without a rate NaN. What a calibration said is kept: around one place the logarithm of an
// efficiency is a straight line. All terms of one memory are of one device, and are numbered from 0 to n_terms - 1.
struct predict_memory;
struct predict_memory *predict_memory_open(int32_t n_terms);    // owned by the caller; NULL: no memory
void predict_memory_close(struct predict_memory *memory);       // NULL-safe
double predict_seconds(struct predict_memory *memory, const struct predict_pass *pass, const struct predict_term *term,
                       const struct stage_cost *cost);

// What a step takes outside its stages; 0 without a calibration.
double predict_overhead_s(const struct predict_pass *pass);
// What the devices of a group tell each other in it; 0 for one device.
double predict_communicate_s(const struct predict_pass *pass);
