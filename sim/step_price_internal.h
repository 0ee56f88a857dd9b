// sim/step_price_internal.h - what step_price.c and step_rows.c share. Not a public header.
#pragma once

#include "sim/predict_term.h"
#include "sim/step_price.h"

enum feature {
    FEATURE_ROWS,
    FEATURE_TOKENS,          // that the row sees
    FEATURE_WINDOW,          // of those, at most the window
    FEATURE_BUDGET,          // at most the budget of selected tokens
    FEATURE_UNITS,           // units that hold them
    FEATURE_BUDGET_UNITS,    // at most the budget
    FEATURE_BROKEN,          // rows whose unit was begun before them
    FEATURE_COUNT
};

enum { MAX_TERMS = 256 };

struct term {
    enum stage stage;
    int32_t layer;              // the kind's first; -1 outside layers
    double n_layers;
    bool splits;                // priced by itself for prompts and for rows that decode
    struct predict_term predicted, other;     // the latter where no row sees more than it may select, or in cool steps
    struct predict_term waits, other_waits;   // of a selection: what its layer waits in a step that decodes
    // Of terms that add up over sequences: the cost of one decode row, per feature. Most are 0, `used` names the
    // others.
    double bytes[FEATURE_COUNT], flops[FEATURE_COUNT];
    int32_t n_used;
    enum feature used[FEATURE_COUNT];
};

// What the terms that are functions of the rows cost for one pair of counts, and take in one situation.
struct rows_entry {
    int64_t new_rows, logit_rows;
    double bytes, bandwidth, seconds;
    int32_t n_seqs;
    bool logits_chunked, cool;
    struct stage_cost *cost;    // [n_rows_terms] borrowed from cache_costs
};

struct step_price {
    struct device device;
    struct plan plan;
    struct stage_timer timer;
    double overhead_s;
    bool waits;                        // selections do
    double since_s;                    // since the last step with prompts ended; INFINITY: none
    double heat_s;                     // that those have left
    enum provenance provenance;
    int32_t n_terms, n_rows_terms;
    struct term terms[MAX_TERMS];      // functions of rows first
    int64_t window_tokens, budget_tokens, budget_of_units;    // INT64_MAX where no context reaches one
    int32_t unit;
    struct rows_entry *cache;          // [CACHE_ENTRIES]
    struct stage_cost *cache_costs;    // [CACHE_ENTRIES][n_rows_terms]
    struct predict_memory *memory;     // owned
    struct stage_cost extra[MAX_TERMS];    // additive terms of the rows that do not decode, in the step being summed
    int32_t max_seqs;
};

// What a step holds, counted.
struct batch {
    double features[FEATURE_COUNT];    // of the rows that decode
    int64_t new_rows, logit_rows;
    double seen_tokens;                // by the rows that do not decode, summed over them
    int32_t n_seqs;
    bool logits_chunked;               // some sequence has more than one row that leaves logits
    struct predict_state state;
};

// Sums over rows that decode, as whole numbers: all stay far below 2^53, so that no order of adding changes them.
struct feature_sums {
    int64_t rows, tokens, window, budget, units, budget_units, broken;
};

static inline void count_features(struct feature_sums *sums, const struct step_price *price, int32_t context_tokens)
{
    int64_t tokens = (int64_t)context_tokens + 1, units = tokens;
    if (price->unit > 1) {
        units = context_tokens / price->unit + 1;
        sums->broken += context_tokens % price->unit != 0;
    }
    sums->rows++;
    sums->tokens += tokens;
    sums->window += tokens < price->window_tokens ? tokens : price->window_tokens;
    sums->budget += tokens < price->budget_tokens ? tokens : price->budget_tokens;
    sums->units += units;
    sums->budget_units += units < price->budget_of_units ? units : price->budget_of_units;
}

static inline void add_sums(struct feature_sums *sums, const struct feature_sums *more, int64_t sign)
{
    sums->rows += sign * more->rows;
    sums->tokens += sign * more->tokens;
    sums->window += sign * more->window;
    sums->budget += sign * more->budget;
    sums->units += sign * more->units;
    sums->budget_units += sign * more->budget_units;
    sums->broken += sign * more->broken;
}

static inline void add_features(double *features, const struct feature_sums *sums)
{
    features[FEATURE_ROWS] += (double)sums->rows;
    features[FEATURE_TOKENS] += (double)sums->tokens;
    features[FEATURE_WINDOW] += (double)sums->window;
    features[FEATURE_BUDGET] += (double)sums->budget;
    features[FEATURE_UNITS] += (double)sums->units;
    features[FEATURE_BUDGET_UNITS] += (double)sums->budget_units;
    features[FEATURE_BROKEN] += (double)sums->broken;
}

// Seconds of a step with rows that decode, which are counted in `sums`, and others [n_others], which may decode too.
double step_price_sums(struct step_price *price, struct feature_sums sums, const struct work *others, int32_t n_others);
