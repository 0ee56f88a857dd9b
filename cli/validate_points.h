// cli/validate_points.h - published speed-ups and slopes, predicted: the part of validate.h that knows what they mean.
#pragma once

#include "cli/validate.h"
#include "engine/plan.h"

extern const char validate_points_head[];

// The native plan of CONFIGS/NAME.json.
int validate_config(struct plan *out, const char *configs, const char *name);

struct table *validate_points_table(void);    // NULL: no memory
// Adds every point of the file; those of which nothing is modelled are listed without a prediction.
int validate_points(struct table *table, const struct csv *csv, const struct validate_options *options,
                    const struct device *devices, int32_t n_devices);
