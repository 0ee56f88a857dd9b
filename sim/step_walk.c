// sim/step_walk.c - the price of steps that only decode, each from the one before.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/step_price_internal.h"

// Steps that only decode. Their features go straight ahead, save at stairs of units, until the segment ends.
struct step_walk {
    struct step_price *price;          // borrowed
    int32_t *contexts;                 // [n_seqs] at the segment's begin
    int32_t n_seqs, at, length;        // steps since then, and of the segment; at < 0: before the first
    double features[FEATURE_COUNT];    // of the last step
    double slope[FEATURE_COUNT];
    int32_t *units_at, *budget_at;     // [unit] sequences by context modulo unit: all, and those below the budget
};

// Sums the batch anew and finds for how many steps its features go straight.
static void begin_segment(struct step_walk *walk)
{
    const struct step_price *price = walk->price;
    struct feature_sums sums = {0};
    int64_t length = INT32_MAX, below_window = 0, below_budget = 0;
    memset(walk->features, 0, sizeof walk->features);
    memset(walk->slope, 0, sizeof walk->slope);
    memset(walk->units_at, 0, (size_t)price->unit * sizeof *walk->units_at);
    memset(walk->budget_at, 0, (size_t)price->unit * sizeof *walk->budget_at);
    for (int32_t i = 0; i < walk->n_seqs; i++) {
        int32_t context = walk->contexts[i];
        int64_t to_window = price->window_tokens - context - 1, to_budget = price->budget_tokens - context - 1;
        count_features(&sums, price, context);
        below_window += to_window > 0;
        below_budget += to_budget > 0;
        length = to_window > 0 && to_window < length ? to_window : length;
        length = to_budget > 0 && to_budget < length ? to_budget : length;
    }
    for (int32_t i = 0; i < walk->n_seqs && price->unit > 1; i++) {
        int32_t context = walk->contexts[i];
        walk->units_at[context % price->unit]++;
        if (context / price->unit + 1 < price->budget_of_units) {
            walk->budget_at[context % price->unit]++;
            int64_t left = price->budget_of_units * price->unit - context;
            length = left < length ? left : length;
        }
    }
    add_features(walk->features, &sums);
    walk->slope[FEATURE_WINDOW] = (double)below_window;
    walk->slope[FEATURE_BUDGET] = (double)below_budget;
    walk->slope[FEATURE_TOKENS] = walk->n_seqs;
    if (price->unit == 1) {
        walk->slope[FEATURE_UNITS] = walk->n_seqs;
        walk->slope[FEATURE_BUDGET_UNITS] = walk->slope[FEATURE_BUDGET];
    }
    walk->at = 0;
    walk->length = (int32_t)length;
}

static void advance(struct step_walk *walk)
{
    const struct step_price *price = walk->price;
    walk->at++;
    for (int f = 0; f < FEATURE_COUNT; f++) {
        walk->features[f] += walk->slope[f];
    }
    if (price->unit > 1) {
        // Those whose context reaches a multiple of the unit begin another one.
        int32_t begun = walk->units_at[(price->unit - walk->at % price->unit) % price->unit];
        walk->features[FEATURE_UNITS] += begun;
        walk->features[FEATURE_BUDGET_UNITS] += walk->budget_at[(price->unit - walk->at % price->unit) % price->unit];
        walk->features[FEATURE_BROKEN] = walk->n_seqs - begun;
    }
}

void step_walk_begin(struct step_walk *walk, const struct work *work, int32_t n_seqs)
{
    walk->n_seqs = n_seqs;
    walk->at = -1;
    for (int32_t i = 0; i < n_seqs; i++) {
        walk->contexts[i] = work[i].context_tokens;
    }
}

double step_walk_next(struct step_walk *walk)
{
    if (walk->at < 0) {
        begin_segment(walk);
    } else if (walk->at + 1 < walk->length) {
        advance(walk);
    } else {
        for (int32_t i = 0; i < walk->n_seqs; i++) {
            walk->contexts[i] += walk->at + 1;
        }
        begin_segment(walk);
    }
    struct batch batch = {.new_rows = walk->n_seqs, .logit_rows = walk->n_seqs, .n_seqs = walk->n_seqs};
    memcpy(batch.features, walk->features, sizeof batch.features);
    return step_price_of(walk->price, &batch);
}

int step_walk_open(struct step_walk **out, struct step_price *price)
{
    struct step_walk *walk = *out = calloc(1, sizeof *walk);
    if (walk) {
        walk->price = price;
        walk->contexts = calloc((size_t)price->max_seqs, sizeof *walk->contexts);
        walk->units_at = calloc((size_t)price->unit, sizeof *walk->units_at);
        walk->budget_at = calloc((size_t)price->unit, sizeof *walk->budget_at);
    }
    if (!walk || !walk->contexts || !walk->units_at || !walk->budget_at) {
        step_walk_close(walk);
        *out = NULL;
        return status_fail(-ENOMEM, "no memory to price steps of %d sequences", price->max_seqs);
    }
    return 0;
}

void step_walk_close(struct step_walk *walk)
{
    if (walk) {
        free(walk->contexts);
        free(walk->units_at);
        free(walk->budget_at);
        free(walk);
    }
}
