// traces/import_internal.h - what the parts of an import share. Private to this room.
#pragma once

#include "traces/import.h"
#include "traces/import_events.h"

// A forward pass.
struct import_step {
    int64_t begin_ns, end_ns;          // of the annotation; of the work itself where there is none
    enum phase phase;
    int64_t fields[IMPORT_FIELDS];     // 0: not said
};

// One piece of a device's work and what became of it.
struct import_place {
    const struct import_work *work;
    const struct import_launch *launch;    // NULL: not in the file
    int32_t step;                          // index into steps, -1: in none
    enum stage stage;                      // STAGE_COUNT: attributed to none
    int32_t layer;
};

struct import_join {
    const struct import_events *events;
    const struct import_options *options;
    struct import_step *steps;         // [n_steps], owned; by begin
    int32_t n_steps;
    struct import_place *places;       // [events->n_works], owned; by device, step, begin
    int8_t *fits;                      // [names][kernel rules], owned: 1, 0, or -1: not asked yet
    bool by_gaps;
};

// Finds the steps and puts every piece of work into its place. -ENOMEM.
int import_find_steps(struct import_join *join);

// Gives the places [n] of one step and device their stages and layers. -ENOMEM.
int import_find_stages(struct import_join *join, struct import_place *places, int64_t n);
