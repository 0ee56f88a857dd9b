// sim/step_price.h - the time of a step from a few sums over its batch, so that a long simulation need not price every
// sequence in every stage of every layer.
//
// Layers that cost the same are priced once. Stages that multiply by weights depend on counts of rows only; those that
// read the cache add up over sequences, and for a row that decodes their cost is linear in a handful of functions of
// its context (tokens, tokens within the window, within the budget, units ...). The coefficients are read off
// engine/cost.h when the price is opened and checked against it there: the formulas stand in one place. Equal to
// predict_step up to rounding. Not thread-safe: one price, with all batches over it, per thread.
#pragma once

#include "engine/cost.h"
#include "sim/device.h"

struct step_price;

// Replaces roofline, calibration and communication: seconds that one layer's `stage` takes, given its cost and the
// bandwidth that predict.h would use for this step. `layer` stands for all layers of its kind.
struct stage_timer {
    const void *user;    // borrowed until the price is closed
    double (*seconds)(const void *user, enum stage stage, int32_t layer, const struct stage_cost *cost,
                      double bandwidth, int32_t n_seqs, int32_t n_tokens);
};

struct step_price_options {
    const struct device *device;       // copied; its calibration is borrowed until close
    const struct plan *plan;           // copied
    const struct stage_timer *timer;   // copied; NULL: as predict.h, calibrated if the device is
    double step_overhead_s;            // added to every step
    int32_t max_seqs;                  // of a step
};

// -EINVAL where predict_step would refuse too. *out is NULL on failure.
int step_price_open(struct step_price **out, const struct step_price_options *options);
enum provenance step_price_provenance(const struct step_price *price);    // the weakest of the figures used
void step_price_close(struct step_price *price);    // NULL-safe

// Says how long ago the last step with prompts ended, for the steps that are priced from now on: some processors are
// slower for a while (calibration.h). At first: INFINITY.
void step_price_since(struct step_price *price, double seconds);
// Says what heat the steps with prompts before them have left (struct calibration_heat). At first: none.
void step_price_heat(struct step_price *price, double heat_s);

// Seconds of one step over work [n_seqs].
double step_price_seconds(struct step_price *price, const struct work *work, int32_t n_seqs);

// The rows that decode, followed from step to step: the same bits as step_price_seconds, at a cost that does not depend
// on how many they are. Contexts are shorter than `longest_tokens`, also after the last step; the price is borrowed
// until close. *out is NULL on failure.
struct step_rows;
int step_rows_open(struct step_rows **out, struct step_price *price, int64_t longest_tokens);
void step_rows_close(struct step_rows *rows);    // NULL-safe
void step_rows_clear(struct step_rows *rows);
void step_rows_add(struct step_rows *rows, int32_t context_tokens);       // as many as the row finds in the cache
void step_rows_remove(struct step_rows *rows, int32_t context_tokens);    // of a row that is there, as it stands now
void step_rows_advance(struct step_rows *rows);                           // a step was taken: each is one token longer
int32_t step_rows_count(const struct step_rows *rows);
int64_t step_rows_contexts(const struct step_rows *rows);                 // added up
// Seconds of a step with these rows and others [n_others].
double step_rows_seconds(struct step_rows *rows, const struct work *others, int32_t n_others);
