// cli/top_gauges.h - clocks, power and temperature of the GPU that the dashboard's engine runs on, by NVML.
//
// Read in the screen's thread, twice a second: a reading takes some hundred microseconds.
#pragma once

#include "engine/sample.h"

struct top_gauges;

// NULL where there is nothing to read: no GPU, no NVML.
struct top_gauges *top_gauges_open(const char *device);    // "cuda:1"
void top_gauges_close(struct top_gauges *gauges);          // NULL-safe
// Tells `to` a reading if one is due at `now_ns`, as of that source. NULL-safe.
void top_gauges_read(struct top_gauges *gauges, int64_t now_ns, int32_t source, const struct sample_sink *to);
