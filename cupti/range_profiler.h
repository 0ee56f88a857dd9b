// cupti/range_profiler.h - exact hardware counts of pieces of work that the caller delimits.
//
// Between range_profiler_push and range_profiler_pop the GPU runs only what was enqueued between them: both wait until
// it is idle, so that a count is of that work alone. Times are therefore not those of an undisturbed run: this is for a
// pass of its own. Metrics must fit into one pass together: nothing is replayed. Belongs to the thread and the CUDA
// context that opened it.
#pragma once

#include <stdint.h>

#include "cupti/counters_api.h"

struct range_profiler;

struct range_options {
    int32_t device;                // as CUDA counts
    const char *const *metrics;    // [n_metrics] borrowed until close
    int32_t n_metrics;
    struct counters_libraries libraries;
};

// The calling thread must have a CUDA context (an engine on the device is open). -ENOTSUP, -EACCES, -EBUSY or -EIO with
// the reason and the remedy.
int range_profiler_open(struct range_profiler **out, const struct range_options *options);
void range_profiler_close(struct range_profiler *profiler);    // NULL-safe

// A range begins, ends; ranges do not nest. The first failure is remembered and told by range_profiler_collect.
void range_profiler_push(struct range_profiler *profiler);
void range_profiler_pop(struct range_profiler *profiler);

// The counts of all ranges since the last call, in order: *values [n][n_metrics], borrowed until the next push. Returns
// n, or a negative errno.
int range_profiler_collect(struct range_profiler *profiler, const double **values);
