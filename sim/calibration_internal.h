// sim/calibration_internal.h - what the files of the calibration share: a fit while it collects, and a place on a curve.
#pragma once

#include "engine/plan.h"
#include "sim/calibration.h"

enum { CALIBRATION_MAX_PROFILES = 64 };

// One stage of one layer in one step.
struct fit_sample {
    int32_t profile, rows, unit_tokens;
    enum stage stage;
    enum phase phase;
    enum dtype dtype;
    int64_t bytes, flops, step_bytes, duration_ns;
    // Known once the rates are:
    int32_t bin;
    double roof_s, launch_s;
};

struct fit_step {
    int32_t profile;
    enum phase phase;
    int64_t overhead_ns;
};

struct fit_profile {
    struct sample_source source;
    char models[CALIBRATION_TEXT_BYTES];
};

struct fit_source {
    struct sample_source source;
    int32_t profile;
};

struct calibration_fit {
    char (*traces)[CALIBRATION_TEXT_BYTES];
    int32_t n_traces;
    struct fit_profile *profiles;
    int32_t n_profiles;
    struct fit_source *sources;      // of the current trace
    int32_t n_sources;
    struct fit_sample *samples;      // [n_samples] complete, then [n_pending] of the step that is running
    int64_t n_samples, n_pending, capacity, dropped;
    int64_t pending_step, pending_stage_ns;
    int32_t pending_source;
    int64_t slots[STAGE_COUNT][PLAN_MAX_LAYERS + 1];    // 1 + number among the pending; 0: none
    struct fit_step *steps;
    int64_t n_steps, step_capacity;
    int error;                       // the first failure of a sink's slot; -ENOMEM or -EINVAL
};

// The efficiency of a curve, as if point `skip` (-1: none) were not there. False: no point is left.
bool calibration_curve_at(const struct calibration_curve *curve, int32_t rows, double work, int32_t skip,
                          double *efficiency, enum provenance *provenance);

// Numbers of rows that share a level: exact up to 16, then an eighth of an octave wide, named by the smallest.
int32_t calibration_level_rows(int32_t rows);
