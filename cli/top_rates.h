// cli/top_rates.h - the device whose rates make the dashboard's floors, and when it is known.
//
// Where the user names one, that one. Else the device that runs the engine: a GPU as its backend measures it, this
// machine's processor as sim/device.h measures it, which takes a second. Of samples that come from elsewhere: a GPU by
// the table's figures; this machine's processor is measured beside the screen, so that a trace need not wait for it,
// and not at all beside another process's engine, which that would slow down.
#pragma once

#include <stdbool.h>

#include "engine/sample.h"
#include "sim/device.h"

struct top_rates;

// `named`: a device of the table, "host", or NULL. -EINVAL: no such device.
int top_rates_open(struct top_rates **out, const char *named, int32_t threads);
void top_rates_close(struct top_rates *rates);    // waits for a measurement that is under way; NULL-safe

// Of an engine that is about to run here on `device` ("cpu", "cuda:1"): measured now.
int top_rates_of_engine(struct top_rates *rates, const char *device);

// Of what a source says. `measure`: this processor may be measured; `wait`: here and now, not beside the screen.
void top_rates_of_source(struct top_rates *rates, const struct sample_source *source, bool measure, bool wait);

// The engine has moved to another device: of this machine's processor the figures are kept, of others to be found
// again. A device that the user named stays.
void top_rates_forget(struct top_rates *rates);

// NULL: not known, or not yet. Valid until close.
const struct device *top_rates_known(struct top_rates *rates);
