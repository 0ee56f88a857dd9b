// tests/bench/serving_trace.h - a replay's steps and stages as a trace, to calibrate from what a service is like:
// clocks, caches and pauses are then those that its steps meet.
#pragma once

#include "engine/observer.h"
#include "engine/sample.h"

struct serving_trace;

int serving_trace_open(struct serving_trace **out, const char *path);
const struct observer *serving_trace_observer(struct serving_trace *trace);    // borrowed until close; NULL: NULL
// serving_options.opened: nothing is kept before, as long as the engine is warmed.
void serving_trace_begin(void *trace, const struct sample_source *source);
// NULL-safe. Returns `error`; if that is 0, what writing the file came to.
int serving_trace_close(struct serving_trace *trace, int error);
