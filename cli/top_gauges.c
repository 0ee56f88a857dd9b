// cli/top_gauges.c - NVML's readings as gauges, under the names that a collection of counters gives them.
#include "cli/top_gauges.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/measure.h"
#include "cupti/collector.h"
#include "cupti/nvml.h"

static const int64_t PERIOD_NS = 500000000;

struct top_gauges {
    struct nvml *nvml;
    int64_t last_ns;
};

struct top_gauges *top_gauges_open(const char *device)
{
    char backend[32];
    int32_t number;
    if (measure_device(backend, sizeof backend, &number, device) != 0 || strcmp(backend, "cuda") != 0) {
        return NULL;
    }
    struct top_gauges *gauges = calloc(1, sizeof *gauges);
    if (gauges && nvml_open(&gauges->nvml, number, NULL, NULL) != 0) {
        free(gauges);
        return NULL;
    }
    return gauges;
}

void top_gauges_close(struct top_gauges *gauges)
{
    if (gauges) {
        nvml_close(gauges->nvml);
        free(gauges);
    }
}

static void tell(const struct sample_sink *to, int32_t source, const char *name, const char *unit, double value)
{
    struct gauge_sample sample = {.source = source, .name = name, .unit = unit, .value = value,
                                  .time_ns = collector_now_ns()};
    if (isfinite(value) && to->gauge) {
        to->gauge(to->user, &sample);
    }
}

void top_gauges_read(struct top_gauges *gauges, int64_t now_ns, int32_t source, const struct sample_sink *to)
{
    if (!gauges || now_ns - gauges->last_ns < PERIOD_NS) {
        return;
    }
    struct nvml_reading reading;
    gauges->last_ns = now_ns;
    nvml_read(gauges->nvml, &reading);
    tell(to, source, "SM clock", "MHz", reading.sm_clock_mhz);
    tell(to, source, "memory clock", "MHz", reading.memory_clock_mhz);
    tell(to, source, "power", "W", reading.power_w);
    tell(to, source, "temperature", "C", reading.temperature_c);
    tell(to, source, "slowed by power", "0/1", reading.slowed_by_power);
    tell(to, source, "slowed by heat", "0/1", reading.slowed_by_heat);
    tell(to, source, "slowed otherwise", "0/1", reading.slowed_otherwise);
}
