// sim/calibration_internal.h - what the files of the calibration share: a fit while it collects, and a place on a
// curve.
#pragma once

#include "engine/plan.h"
#include "sim/calibration.h"

enum { CALIBRATION_MAX_PROFILES = 64 };

// Heat at which an H200's clocks fall: in runs of prompts products took their first time below 0.03 s, and from 0.06 on
// the longer one.
#define CALIBRATION_WARM_S 0.04

// One stage of one layer in one step.
struct fit_sample {
    int32_t profile, source, rows, unit_tokens, layer;    // source: counted over all traces
    enum calibration_layer kind;     // of kv_write: its layer has window attention or an indexer in the same step
    enum stage stage;
    enum phase phase;
    enum dtype dtype;
    int64_t bytes, flops, step_bytes, duration_ns;
    double row_tokens, seen_tokens;  // its rows, and what they see, summed over its parts
    int32_t parts;                   // samples that were put together
    bool taking, lightning;          // no row sees more than it may select; index keys are fp8
    bool newer;                      // calibration_fit_newer
    bool marked;                     // on a GPU, where most steps of its kind have no marks between their stages
    enum phase step_phase;           // of its step: DECODE, or PREFILL for all others
    int64_t step;                    // of the fit's, as they came
    // Known once the rates are; before, of HOST: of its step's context.
    int32_t bin;
    double roof_s, launch_s;
};

// A step: with the sums of its stages, or, on a GPU, whole, without any.
struct fit_step {
    int32_t profile, source;         // source: counted over all traces
    enum phase phase;
    int32_t n_seqs, n_tokens, bin;   // bin: of its context, eighths of an octave
    int64_t duration_ns, stages_ns, bytes;
    int64_t since_ns;                // its begin after the end of the last step with prompts; -1: none was seen
    int32_t n_stages;                // 0: it told none, and on a GPU has no marks
    bool newer;                      // calibration_fit_newer: its marks count, no more
    bool graph;
};

struct fit_profile {
    struct sample_source source;
    char models[CALIBRATION_TEXT_BYTES];
};

struct fit_source {
    struct sample_source source;
    int32_t profile, number;         // number: counted over all traces
    int64_t prompt_end_ns;           // of its last step with prompts; INT64_MIN: none yet
    struct calibration_heat heat;
};

struct calibration_fit {
    char (*traces)[CALIBRATION_TEXT_BYTES];
    int32_t n_traces;
    struct fit_profile *profiles;
    int32_t n_profiles;
    struct fit_source *sources;      // of the current trace
    int32_t n_sources, sources_seen;
    struct fit_sample *samples;      // [n_samples] complete, then [n_pending] of the step that is running
    int64_t n_samples, n_pending, capacity, dropped;
    int64_t pending_step, pending_stage_ns;
    int32_t pending_source, pending_stages;
    int64_t slots[STAGE_COUNT][PLAN_MAX_LAYERS + 1];    // 1 + number among the pending; 0: none
    struct fit_step *steps;
    int64_t n_steps, step_capacity;
    enum calibration_by by;
    calibration_renews *renews;      // calibration_fit_newer; NULL: not yet
    int error;                       // the first failure of a sink's slot; -ENOMEM or -EINVAL
};

// The efficiency of a curve, as if point `skip` (-1: none) were not there. `linear`: between points efficiencies go
// straight, not their logarithms. False: no point is left.
bool calibration_curve_at(const struct calibration_curve *curve, int32_t rows, double work, int32_t skip, bool linear,
                          double *efficiency, enum provenance *provenance);

// Of values [n], n > 0, which it sorts. Of an even number the mean of the two in the middle.
double calibration_median(double *values, int64_t n);
double calibration_mean(const double *values, int64_t n);
double calibration_center(double *values, int64_t n, enum calibration_by by);    // sorts values

// Finds how steps that decode settle after prompts (settle_s_per_byte, settle_s of profiles [of the fit]), and takes it
// off their samples. Steps are still as they came. -ENOMEM
int calibration_settle(struct calibration_profile *profiles, struct calibration_fit *fit);

// Fills in what profiles [of the fit] know of whole steps: overhead_s, n_steps, and mark_s, which is taken off the
// samples. `scratch` [twice the steps].
void calibration_take_steps(struct calibration_profile *profiles, struct calibration_fit *fit, double *scratch);

// Numbers of rows that share a level: exact up to 16, then a thirty-second of an octave wide, named by the smallest.
// Tiles of 128 or 256 rows make steps that wider ones would average over. A power of two ends one: there kernels fill
// their tiles, one row more takes another turn, and prompts are cut into chunks as long.
int32_t calibration_level_rows(int32_t rows);

// Calibrations that are compiled in (see sim.cmake); ends with a NULL path.
struct shipped_calibration {
    const char *path;
    const unsigned char *text;    // [*bytes]
    const size_t *bytes;
};
extern const struct shipped_calibration shipped_calibrations[];
