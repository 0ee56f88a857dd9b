// cli/plan_grid.h - what `clsa plan` computes, case by case: axes with their values, and what one case of them means.
//
// Cases are numbered: the last axis runs fastest. Values are texts as a user writes them; whole numbers with a suffix
// are written out ("8K" is 8192).
#pragma once

#include "engine/plan.h"
#include "sim/fleet.h"

enum { PLAN_MAX_AXES = 12, PLAN_MAX_VALUES = 256, PLAN_MAX_CASES = 1 << 20, PLAN_VALUE_BYTES = 64 };

struct plan_axis {
    char name[32];                         // "top-k"
    int32_t n;
    char (*values)[PLAN_VALUE_BYTES];      // [n], owned
};

struct plan_grid {
    int32_t n_axes;
    struct plan_axis axes[PLAN_MAX_AXES];
};

struct plan_case {
    const char *device, *method, *router;  // borrowed
    const char *index_dtype, *kv_dtype, *weight_dtype;    // NULL: the preset's; borrowed
    struct plan_options knobs;             // without these
    int32_t max_seqs, chunk, ranks;
    double rate_per_s;                     // 0: as the workload comes
    double slo_ttft_s, slo_tpot_ms;
};

// "NAME=VALUES": one value after the other ("H100,B200"), or a range that doubles ("512..8192") or counts
// ("10..50+10"). An axis that is there takes the new values. -EINVAL for a name that is no axis (the text lists them),
// no values, values out of range, too many.
int plan_grid_sweep(struct plan_grid *grid, const char *text);
int plan_grid_set(struct plan_grid *grid, const char *name, const char *values);
void plan_grid_close(struct plan_grid *grid);

int64_t plan_grid_cases(const struct plan_grid *grid);    // more than PLAN_MAX_CASES: -EINVAL
const char *plan_grid_value(const struct plan_grid *grid, int64_t index, int32_t axis);
// Overwrites in `io` what the axes say. Values were checked when they were set.
void plan_grid_case(struct plan_case *io, const struct plan_grid *grid, int64_t index);
