// engine/sampler.h - the next token from logits. Defines what op_sample means on every backend.
#pragma once

#include "engine/backend.h"

// logits [vocab]. temperature 0: the lowest token among the greatest logits. Otherwise softmax(logits / temperature)
// cut to the smallest set of most likely tokens with mass >= top_p (the lower token first among equals), drawn with a
// number that depends on (seed, request, position) only. Returns the token, or -EDOM if a logit is NaN.
int32_t sampler_draw(const float *logits, int32_t vocab, const struct sampling *sampling, int32_t position);
