// cli/sim_positions.h - clsa sim --positions: what a token costs where it stands, and where methods cross.
#pragma once

#include "cli/table.h"
#include "engine/plan.h"
#include "sim/device.h"

enum { SIM_POSITION_TABLES = 3 };    // costs by position, indexer against attention, method against method

struct sim_positions_options {
    const struct plan *plans;        // [n_plans]
    int32_t n_plans;
    const struct device *devices;    // [n_devices]
    int32_t n_devices;
    int32_t batch, max_context, chunk_tokens;
};

// tables [SIM_POSITION_TABLES] are owned by the caller, NULL where not made; also after a failure.
int sim_positions(struct table **tables, const struct sim_positions_options *options);
extern const char *const sim_positions_definitions;
