// tui/routing.h - what indexers select: from the engine's thread to the screen, reduced to densities and overlaps.
//
// A few times a second the engine's thread hands over the selections of two steps that follow each other: overlap with
// the step before needs both. The screen takes a copy whenever it draws. Neither waits for the other longer than a copy
// takes. Nothing here asks the engine for anything: its thread puts in what it has.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/sample.h"

enum { ROUTING_LAYERS = 64, ROUTING_BINS = 128, ROUTING_HISTORY = 48, ROUTING_BLOCK_UNITS = 64 };

struct routing_layer {
    int32_t layer, n_units;            // the layer that runs the indexer; units that it selected
    float density[ROUTING_BINS];       // share of the units of each part of the context that was selected, [0, 1]
    // Had as many units been chosen as whole blocks of ROUTING_BLOCK_UNITS, those that hold most of the selection:
    // which, and what share of the selection they hold. NaN where the selection is one of blocks, or smaller than one.
    float block_density[ROUTING_BINS], in_blocks;
    float same_as_before;              // share of the units selected in the step before; NaN: unknown
    float same_as_first;               // share of the units that the first indexer selected too
    float coverage;                    // of dense attention's mass, what the selected keys hold; NaN: not measured
};

struct routing_snapshot {
    char method[SOURCE_NAME_BYTES];    // "": nothing yet
    int64_t step;
    int32_t context_units, unit_tokens;
    int32_t n_layers;
    struct routing_layer layers[ROUTING_LAYERS];
    // The first layers' densities of earlier snapshots, the newest first.
    int32_t n_history;
    float history[ROUTING_HISTORY][ROUTING_BINS];
};

struct routing;

int routing_open(struct routing **out);        // -ENOMEM
void routing_close(struct routing *routing);   // NULL-safe

// The engine's end, after a step: whether its selections are wanted. If so: begin, one put per indexer in the order of
// layers, units [n] ascending, end. A new method forgets what was there.
bool routing_wanted(struct routing *routing, int64_t now_ns);
bool routing_completes(const struct routing *routing);    // the next step's selections are those that will be shown
void routing_begin(struct routing *routing, const char *method, int64_t step, int32_t context_tokens,
                   int32_t unit_tokens);
void routing_put(struct routing *routing, int32_t layer, const int32_t *units, int32_t n, double coverage);
void routing_end(struct routing *routing);

// The screen's end. True: another snapshot than at the last call.
bool routing_get(struct routing *routing, struct routing_snapshot *out);
