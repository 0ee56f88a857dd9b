// cupti/collector_kernels.h - the part of a collector that knows what a GPU ran: joins steps with their kernels.
//
// The engine's thread hands over what each step told and goes on at once; a thread of CUPTI's (cupti_activity.h) gets
// the step's kernels when a buffer of them is full, a tenth of a second to some seconds later, and calls the sink: per
// step its stages, what the engine told, its kernels and launches, then the step. The sink is thus called from that
// thread, and from the engine's only in kernel_collector_source.
#pragma once

#include "cupti/collector_told.h"

struct kernel_collector;

// graphs_whole: one record per replayed step instead of one per kernel; stages are then not made from kernels. Errors
// as activity_open's. The sink is copied.
int kernel_collector_open(struct kernel_collector **out, const struct sample_sink *sink, bool graphs_whole);
void kernel_collector_close(struct kernel_collector *kernels);    // NULL-safe; hands over what is left

// Hands over all that was submitted, then announces a source.
void kernel_collector_source(struct kernel_collector *kernels, const struct sample_source *source);

// Takes what a step told (or, without a step, what was told since); `ended` is the collector's from now on. Returns an
// empty one in its place, or NULL: no memory, and `ended` is still the caller's.
struct told *kernel_collector_submit(struct kernel_collector *kernels, struct told *ended);

// Around a step and around what each stage enqueues, by the engine's thread. Serials ascend from 1 over a process.
uint64_t kernel_collector_step_begin(struct kernel_collector *kernels);
void kernel_collector_step_end(struct kernel_collector *kernels);
void kernel_collector_enqueue_begin(struct kernel_collector *kernels, uint64_t serial, int32_t ordinal);
void kernel_collector_enqueue_end(struct kernel_collector *kernels);
