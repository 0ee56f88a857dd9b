// cupti/collector.h - turns what an engine tells of itself into samples, with a clock.
//
// A collector is an observer on the engine's side and feeds a sink on the other. Three sources exist behind this one
// interface: the CPU clock (here), CUDA events and CUPTI (where the library is found at run time). Times are
// CLOCK_BOOTTIME nanoseconds. The sink is called from the engine's thread, after each step, never inside a stage: what a
// sink costs shows as time between steps, not in a stage.
#pragma once

#include "engine/observer.h"
#include "engine/sample.h"

struct collector;

enum collector_source { COLLECTOR_CPU_CLOCK };

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
