// cli/trace_rates.h - at what rates the devices of a recording could have run at best, for floors.
//
// By order of preference: a device that the user names, a calibration that knows the device, the table's device that
// its driver calls as the samples do. A processor is measured only when "host" is named: a recording may be old or
// foreign.
#pragma once

#include "engine/sample.h"
#include "sim/calibration.h"
#include "traces/summary.h"

struct trace_rates;

struct trace_rates_options {
    const char *device;              // a name of the table, or "host"; NULL: by what the samples say
    const char *devices_file;        // NULL: the shipped table
    const char *calibration_file;    // NULL: none
};

// *out is NULL on failure. -EINVAL for names and files that are wrong.
int trace_rates_open(struct trace_rates **out, const struct trace_rates_options *options);
void trace_rates_close(struct trace_rates *rates);    // NULL-safe

// NULL: nothing is known of that source's device. Valid until close.
const struct device *trace_rates_find(struct trace_rates *rates, const struct sample_source *source);

// Prices stages by bytes over bandwidth, operations over the operands' rate, and the device's launch.
struct summary_pricer trace_rates_pricer(struct trace_rates *rates);
