// tui/beside.h - other recordings, drawn under the first one on the timeline, and how their times are aligned with its.
//
// Each is read whole. Clocks of two runs have nothing to do with each other: a step of one is laid on a step of the
// other, the first on the first to begin with. No curses, no clock.
#pragma once

#include "tui/timeline.h"

enum { BESIDE_MAX = 4, BESIDE_NAME_BYTES = 32 };

struct beside_file {
    struct timeline *timeline;         // owned
    char name[BESIDE_NAME_BYTES];      // of the file, without its folder
    int64_t offset_ns;                 // added to its times: times of the first recording
    int64_t step;                      // of its timeline, that was aligned
};

struct beside {
    struct beside_file files[BESIDE_MAX];
    int32_t n;
    int64_t step;                      // of the first recording, that they are aligned with; -1: not yet
};

// Adds a trace; one that is cut off is shown as far as it goes. -EINVAL: no trace, no step in it, or one too many.
int beside_add(struct beside *beside, const char *path);
void beside_close(struct beside *beside);    // harmless on a zeroed struct

// Lays each file's step of the same number (its own first step where it has none) on `step` of `timeline`.
void beside_align(struct beside *beside, const struct timeline *timeline, int64_t step);
