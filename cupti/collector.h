// cupti/collector.h - turns what an engine tells of itself into samples, with a clock.
//
// A collector is an observer on the engine's side and feeds a sink on the other. Several sources exist behind this one
// interface. Times are CLOCK_BOOTTIME nanoseconds. The sink is called after each step, never inside a stage: what a
// sink costs shows as time between steps, not in a stage. It is called from the engine's thread or, where kernels are
// collected, from a thread of the collector's, from one at a time; after close from none.
#pragma once

#include "engine/observer.h"
#include "engine/sample.h"

struct collector;

enum collector_source {
    COLLECTOR_CPU_CLOCK,    // stages by two readings of the clock; on a GPU by marks between them (stage_every)
    COLLECTOR_STEPS,        // steps, requests and counters only: what a run is like that nobody looks at
    COLLECTOR_KERNELS,      // each kernel of a GPU, by CUPTI; stages are made of them, in every step
    COLLECTOR_GRAPHS,       // as COLLECTOR_CPU_CLOCK, and by CUPTI each recorded step whole and each kernel of others
};

// The last two: open from before the engine is until it is closed, one at a time per process (CUPTI 13.0 ends a process
// that launches a graph which was recorded while it looked otherwise). -ENODEV: no CUPTI here; -EBUSY: another tool has
// it; -ENOTSUP: it refuses. status_text says who or why; one of the others is then as good as can be had.
int collector_open(struct collector **out, enum collector_source source, const struct sample_sink *sink);
void collector_close(struct collector *collector);    // NULL-safe; hands over what is pending

const struct observer *collector_observer(struct collector *collector);    // borrowed until close

// Announces the engine that is observed from now on; its id is set by the collector and returned.
int32_t collector_set_source(struct collector *collector, const struct sample_source *source);

// Nanoseconds of the samples' clock.
int64_t collector_now_ns(void);

// A sink that hands everything on to several others, in order. Copies `sinks` [n]; n <= 8.
struct sample_fanout { struct sample_sink sinks[8]; int32_t n; };
struct sample_sink sample_fanout_sink(struct sample_fanout *fanout);
