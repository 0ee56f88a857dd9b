// traces/summary_kernels.h - where the time of a stream's kernels, copies and fills went: by stage, then by name.
//
// A sink beside summary.h's. Kernels come in no order and after their steps, so that each counts for itself: a row's
// total may exceed its stage's time where kernels overlap. Medians and percentiles are exact. No I/O, no clock.
#pragma once

#include "engine/sample.h"

struct kernel_summary;

struct summary_kernel {
    int32_t source;
    enum device_work work;
    bool in_step;               // else outside steps; the phase then says nothing
    enum phase phase;
    enum stage stage;           // STAGE_COUNT: attributed to none
    const char *name;           // as in the samples; owned by the summary
    int64_t count, total_ns, median_ns, p95_ns;
    int64_t bytes;              // of copies and fills
    // The launch of the first; 0 changes from one sample to the next: all were alike.
    int32_t grid[3], block[3], registers, static_shared_bytes, dynamic_shared_bytes;
    int64_t shape_changes;
};

int kernel_summary_open(struct kernel_summary **out);    // *out is NULL on failure
void kernel_summary_close(struct kernel_summary *summary);    // NULL-safe
struct sample_sink kernel_summary_sink(struct kernel_summary *summary);

// Makes the rows of all that came so far. Returns the first failure since open (-ENOMEM).
int kernel_summary_update(struct kernel_summary *summary);

// Rows as of the last update, valid until the next; by source as the numbers go, steps before what is outside them,
// then phase, stage, and the longest total first.
const struct summary_kernel *kernel_summary_rows(const struct kernel_summary *summary, int32_t *n);

// Durations of one row [*n], in no order; borrowed until more samples come.
const int64_t *kernel_summary_durations(const struct kernel_summary *summary, int32_t row, int64_t *n);
