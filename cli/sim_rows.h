// cli/sim_rows.h - the tables of `clsa sim`: one row per method and device, and one per stage.
#pragma once

#include "cli/table.h"
#include "sim/predict.h"

// What is asked for: so many prompts, divided among replicas.
struct sim_batch {
    int32_t sequences, replicas, output_tokens;
};
int32_t sim_batch_per_replica(const struct sim_batch *batch);    // of the fullest, where they do not divide

struct table *sim_request_table(void);    // NULL: no memory
struct table *sim_stage_table(void);
// `request` is of one replica's batch. No throughput is said of a batch that memory does not hold.
void sim_add_request(struct table *table, const struct sim_batch *batch, const struct plan *plan,
                     const struct device *device, const struct request_prediction *request);
void sim_add_stages(struct table *table, const struct plan *plan, const struct device *device, enum phase phase,
                    const struct step_prediction *step);
