// tui/sweep.h - what the methods seen so far should do at other contexts or batches, and where one overtakes another.
//
// By the simulator (sim/predict.h), on the device of the state: decode rate of a batch over the context, or over the
// number of sequences. Pure but for the state that it reads; a sweep takes a few milliseconds, so that it is kept and
// made anew only when something it depends on has changed. Unknown is NaN.
#pragma once

#include "tui/state.h"

enum sweep_over { SWEEP_NONE, SWEEP_CONTEXT, SWEEP_BATCH, SWEEP_COUNT };

enum {
    SWEEP_POINTS = 27,         // half octaves
    SWEEP_CROSSINGS = 12
};

struct sweep_crossing {
    int32_t faster, slower;    // methods: beyond x the first one is ahead
    double x, tokens_per_s;
};

struct sweep {
    enum sweep_over over;
    int32_t fixed;             // the batch of a sweep over the context, and the other way round
    int32_t n_points, n_methods, n_crossings;
    double x[SWEEP_POINTS];
    double tokens_per_s[STATE_METHODS][SWEEP_POINTS];
    struct sweep_crossing crossings[SWEEP_CROSSINGS];    // ascending x
    int64_t made_for[5];       // what it depends on
};

// Brings `sweep` up to date for `over` around what `method` (-1: nothing) does now. False: no rates or no method is
// known.
bool sweep_update(struct sweep *sweep, const struct state *state, enum sweep_over over, int32_t method);
