// cupti/stage_counts.h - how many bytes each stage of each step moved to and from device memory, counted by the GPU
// itself.
//
// A pass of its own: an eager engine (engine_options.eager) runs the same steps as the run that is measured, each stage
// fenced off from its neighbours and counted (cupti/range_profiler.h). What it finds is then written into the stage
// samples of the measured run, beside the bytes that an ideal kernel moves. Times of this pass mean nothing.
#pragma once

#include "cupti/counters_api.h"
#include "engine/observer.h"

struct stage_counts;

// What one stage of one step moved.
struct stage_count {
    enum phase phase;
    struct observed_stage stage;    // its `bytes`: by the cost model
    int64_t read_bytes, written_bytes;
};

int stage_counts_open(struct stage_counts **out);
void stage_counts_close(struct stage_counts *counts);    // NULL-safe

// For the eager engine; borrowed until close. Counts nothing before stage_counts_start.
const struct observer *stage_counts_observer(struct stage_counts *counts);

// After the engine is open, from the thread that will run it; stop before it is closed. start: see range_profiler_open.
// stop: the first failure since then.
int stage_counts_start(struct stage_counts *counts, int32_t device, const struct counters_libraries *libraries);
int stage_counts_stop(struct stage_counts *counts);

const struct stage_count *stage_counts_all(const struct stage_counts *counts,
                                           int64_t *n);    // borrowed, in order until find

// Bytes read and written by the stage that `sample` is of: the same phase, stage, layer, rows, context and cost. 0: not
// counted. The mean where it was counted several times.
int64_t stage_counts_find(struct stage_counts *counts, const struct stage_sample *sample);

// A sink that fills in measured_bytes and hands everything on to `to` (copied).
struct sample_sink stage_counts_sink(struct stage_counts *counts, const struct sample_sink *to);
