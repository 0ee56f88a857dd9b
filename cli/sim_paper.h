// cli/sim_paper.h - the paper's experiment as the simulator sees it, beside the paper's figures.
#pragma once

#include <stdbool.h>

#include "engine/model_config.h"
#include "sim/device.h"

struct sim_paper_options {
    const struct model_config *config;
    const char *model;
    const struct plan_options *knobs;
    int32_t batch, output_tokens, chunk_tokens;
};

// Prints to stdout one row per method and context of the paper's tables, on `device`.
int sim_paper_print(const struct device *device, const struct sim_paper_options *options, bool json);
