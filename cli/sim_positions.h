// cli/sim_positions.h - clsa sim --positions: what a token costs where it stands, and where methods cross.
#pragma once

#include "cli/table.h"
#include "engine/plan.h"
#include "sim/device.h"

// Costs by position; what fits and comes out at each; indexer against attention; method against method; index sharing.
enum { SIM_POSITION_TABLES = 5 };

struct sim_positions_options {
    const struct plan *plans;        // [n_plans]
    int32_t n_plans;
    const struct device *devices;    // [n_devices]
    int32_t n_devices;
    int32_t batch, max_context, chunk_tokens;
    // The plan of a method whose indexers serve so many layers each; -EINVAL where it has none. May be NULL.
    int (*sharing)(void *user, struct plan *out, const char *method, int32_t index_every);
    void *user;
};

// tables [SIM_POSITION_TABLES] are owned by the caller, NULL where not made; also after a failure.
int sim_positions(struct table **tables, const struct sim_positions_options *options);
extern const char *const sim_positions_definitions;
