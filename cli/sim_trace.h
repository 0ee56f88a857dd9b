// cli/sim_trace.h - simulated timelines as samples, so that they open wherever measured ones do.
//
// The source's backend is "simulated". Times begin at 0.
#pragma once

#include "engine/sample.h"
#include "sim/device.h"
#include "sim/serve.h"

// One prompt in chunks, then `n_steps` decode steps of the batch, stage by stage and layer by layer. *now_ns is where
// it begins, and afterwards where it ended.
int sim_trace_batch(const struct sample_sink *sink, int64_t *now_ns, int32_t source, const struct device *device,
                    const struct plan *plan, const struct work *batch, int32_t n_seqs, int32_t chunk_tokens,
                    int32_t n_steps);

// A service: its requests and what it counts over time. -ENOMEM.
int sim_trace_service(const struct sample_sink *sink, int32_t source, const struct device *device,
                      const struct plan *plan, const struct serve_result *result);
