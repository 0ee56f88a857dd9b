// tui/forecast.h - what the simulator predicts for a method that is known only by its source.
//
// Rebuilds the plan from the names and sizes in a sample_source. Pure.
#pragma once

#include "engine/sample.h"
#include "sim/predict.h"

// -EINVAL if the model is none of the known sizes or the rebuilt plan differs from the source.
int forecast_plan(struct plan *out, const struct sample_source *source);

// Prefill of one prompt and decode of a batch on `device`. False, with both NaN, where the plan is unknown.
bool forecast(double *prefill_s, double *decode_tokens_per_s, const struct device *device,
              const struct sample_source *source, int32_t n_seqs, int32_t context_tokens, int32_t output_tokens);
