// cli/models.h - lists of methods and of models, for commands that compare methods.
#pragma once

#include "cli/command.h"

// The methods of a comma-separated list, or "all", in its order: out [max]. -EINVAL for unknown, repeated or too many.
int methods_choose(const struct method_info **out, int32_t *n, int32_t max, const char *list);

// One model per backbone out of a comma-separated list of names and folders: a named size and "demo" serve both
// backbones, other models one each. files [BACKBONE_COUNT] are NULL before, and the caller's to close, also after a
// failure.
int models_open(struct model_file **files, const char *list, const struct plan_flags *flags, uint64_t seed);

// The method's plan over the model of its backbone. -EINVAL if `files` has none; `list` is what was asked for.
int models_plan(struct plan *out, struct model_file *const *files, const struct method_info *method,
                const struct plan_flags *flags, const char *list);

// Where the list of methods was "all": leaves those that the models hold weights for. A random model makes what is
// asked of it and serves all.
void methods_keep_served(const struct method_info **methods, int32_t *n, struct model_file *const *files,
                         const struct plan_flags *flags, const char *list, const char *models);
