// cli/sim_charts.h - tables behind the charts of `clsa sim --html`: throughput against speed, and the roofline.
#pragma once

#include "cli/html.h"
#include "cli/table.h"
#include "engine/plan.h"
#include "sim/predict.h"

enum { SIM_CHART_TABLES = 2 };

// Adds one plan on one device (a group's share of both: sim/parallel.h), whose prompts have context_tokens, in steps of
// chunk_tokens: what each user
// and each device get from batches of 1, 2, 4, ... up to what memory holds, and what keys and values they take; and
// where the stages of `prefill` and `decode` stand under the device's ceilings.
int sim_charts_open(struct table **tables);    // [SIM_CHART_TABLES], owned by the caller, NULL where not made. -ENOMEM
int sim_charts_add(struct table *const *tables, const struct plan *plan, const struct device *device,
                   int32_t context_tokens, int32_t chunk_tokens, const struct step_prediction *prefill,
                   const struct step_prediction *decode);
// Ceilings of a device, once; after the stages.
void sim_charts_ceilings(struct table *const *tables, const struct device *device);
void sim_charts_draw(struct html *html, struct table *const *tables);
