// sim/parallel.h - one model on several devices that share every layer (tensor parallelism).
//
// Heads, FFN columns and the vocabulary are divided; every device holds its share of weights, keys and values, so that
// a group is priced as one device with one device's plan plus what they tell each other (predict.h: STAGE_COMMUNICATE).
// Replicated: an indexer whose one set all heads follow (its keys and scores are every device's), latent keys (MLA),
// and KV heads where there are fewer than devices. An indexer with a set per KV group or head is divided with them. Odd
// vocabularies and FFNs are rounded up, as padding would.
#pragma once

#include "engine/plan.h"
#include "sim/device.h"

enum { PARALLEL_MAX_RANKS = 1024 };

// The plan of one of `ranks` devices, and the device as a group of so many (device->ranks, price); ranks 1 copies both.
// -EINVAL where the heads do not divide (the text lists what would) or the device's link is unknown.
int parallel_split(struct plan *plan_out, struct device *device_out, const struct plan *plan,
                   const struct device *device, int32_t ranks);
