// traces/step_stages.h - stages wait for their step, which comes behind them.
//
// Private to this room. A zeroed struct is empty. Stages whose step never came (a run that was cut) are counted.
#pragma once

#include "engine/sample.h"

struct step_stages {
    struct stage_sample *stages;    // [n], owned; all of one step
    int64_t n, capacity;
    int64_t orphans;
};

int step_stages_add(struct step_stages *waiting, const struct stage_sample *sample);    // 0 or -ENOMEM

// How many of waiting->stages are the step's: all, or none. They stand there until the next is added.
int64_t step_stages_take(struct step_stages *waiting, const struct step_sample *step);

// Time inside the step that at least one of its stages [n] covers. Sorts them by begin.
int64_t step_stages_covered_ns(struct stage_sample *stages, int64_t n, const struct step_sample *step);

// From the beginning of the first of these stages [n] that is a device's to the end of the last: their time, what gaps
// they leave added, what they overlap taken off. 0: none is.
int64_t step_stages_device_ns(const struct stage_sample *stages, int64_t n);

void step_stages_free(struct step_stages *waiting);
