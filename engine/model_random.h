// engine/model_random.h - the numbers of a random model: any part of any tensor, in any order, always the same bits.
#pragma once

#include "engine/model_layout.h"

// Writes elements [first, first + n) of `tensor` to out [n] as `dtype`. A pure function of (seed, tensor's name, shape
// and fill, dtype): element i is drawn from its own counter, so a tensor may be made in pieces.
void model_random_fill(void *out, const struct model_tensor *tensor, enum dtype dtype, uint64_t seed, int64_t first,
                       int64_t n);
