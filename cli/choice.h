// cli/choice.h - models, methods and devices by name, for commands that price and do not run.
#pragma once

#include "cli/command.h"
#include "engine/model_config.h"
#include "sim/calibration.h"

// A named size, "demo" (the trained models' size) among them; NULL: not a name.
const struct model_shape *choice_size(const char *model);
// A named size (then only out->native.shape is filled in), a model's folder, or any config.json, as `flag` names it.
int choice_model(struct model_config *out, const char *flag, const char *model);

// The plan of `method` for a model chosen above; "native" takes what its config declares.
int choice_plan(struct plan *out, const struct model_config *config, const char *model, const char *method,
                const struct plan_options *knobs);

// From `table` [n], or measured ("host"), or as calibrated; a device that the calibration lacks borrows the nearest
// one's curves. calibration may be NULL, and must outlive the device.
int choice_device(struct device *out, const struct device *table, int32_t n, const struct calibration *calibration,
                  const char *name, int32_t threads);
