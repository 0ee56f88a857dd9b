// cupti/nvtx.h - ranges for NVIDIA's tools (nsys, ncu): request > phase > step > layer > stage, in the domain `clsa`.
//
// Called by the thread that runs the engine, in the observer's order. Stages, phases and layers have registered names,
// so that `nsys profile -c nvtx -p decode@clsa` finds them; steps and stages carry a payload with their sizes. Where
// the program was built without NVTX's headers, or no tool listens, nvtx_listens says so and nothing else need be
// called. Needs no library: the headers load the tool that NVTX_INJECTION64_PATH names.
#pragma once

#include "engine/observer.h"

bool nvtx_listens(void);                 // decides at the first call; the tool must be there by then
const char *nvtx_state(void);            // for people: what of this is here

// The method that runs from now on; it and the budget go into payloads.
void nvtx_source(const struct sample_source *source);

void nvtx_step_begin(const struct observed_step *step);
void nvtx_step_end(void);
void nvtx_layer_begin(int32_t layer);
void nvtx_layer_end(void);
void nvtx_stage_begin(int64_t step, const struct observed_stage *stage);
void nvtx_stage_end(void);

// Ranges of requests begin when they run and end when they finish; they overlap. A phase lasts from the first step of a
// kind to the first of another. nvtx_finish ends both where an engine goes.
void nvtx_request(const struct request_sample *request);
void nvtx_finish(void);
