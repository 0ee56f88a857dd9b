// cli/models.c - lists, item by item.
#include "cli/models.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/shipped.h"
#include "engine/status.h"

int methods_choose(const struct method_info **out, int32_t *n, int32_t max, const char *methods)
{
    char list[512];
    *n = 0;
    if (snprintf(list, sizeof list, "%s", methods) >= (int)sizeof list) {
        return status_fail(-EINVAL, "--methods: longer than %zu characters", sizeof list);
    }
    if (strcmp(list, "all") == 0) {
        for (int32_t i = 0; i < plan_method_count() && i < max; i++) {
            out[(*n)++] = plan_method(i);
        }
        return 0;
    }
    for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        const struct method_info *method = plan_find_method(name);
        if (!method) {
            char names[256];
            command_method_names(names, sizeof names);
            return status_fail(-EINVAL, "--methods: %s is not a method (%s)", name, names);
        }
        for (int32_t i = 0; i < *n; i++) {
            if (out[i] == method) {
                return status_fail(-EINVAL, "--methods: %s is named twice", name);
            }
        }
        if (*n == max) {
            return status_fail(-EINVAL, "--methods: more than %d", max);
        }
        out[(*n)++] = method;
    }
    return *n ? 0 : status_fail(-EINVAL, "--methods: none named");
}

int models_open(struct model_file **files, const char *models, const struct plan_flags *flags, uint64_t seed)
{
    char list[2048];
    if (snprintf(list, sizeof list, "%s", models) >= (int)sizeof list) {
        return status_fail(-EINVAL, "--model: longer than %zu characters", sizeof list);
    }
    for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        if (plan_find_model(name) || shipped_is_pair(name)) {
            for (int32_t b = 0; b < BACKBONE_COUNT; b++) {
                const char *any = b == BACKBONE_YOCO ? "yoco" : "dense";
                int error = files[b] ? 0 : command_model_open(&files[b], name, any, flags, seed);
                if (error) {
                    return error;
                }
            }
            continue;
        }
        struct model_file *file;
        int error = command_model_open(&file, name, NULL, flags, 0);
        if (error) {
            return error;
        }
        enum backbone backbone = model_file_config(file)->native.shape.backbone;
        model_file_close(files[backbone]);
        files[backbone] = file;
    }
    return 0;
}

int models_plan(struct plan *out, struct model_file *const *files, const struct method_info *method,
                const struct plan_flags *flags, const char *list)
{
    struct model_file *file = files[method->backbone];
    if (!file) {
        return status_fail(-EINVAL, "--methods: %s needs a model with the %s backbone; --model %s has none",
                           method->name, method->backbone == BACKBONE_YOCO ? "yoco" : "transformer", list);
    }
    return command_plan_build(out, file, method->name, flags);
}

void methods_keep_served(const struct method_info **methods, int32_t *n, struct model_file *const *files,
                         const struct plan_flags *flags, const char *list, const char *models)
{
    if (strcmp(list, "all") != 0 || plan_find_model(models)) {
        return;
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < *n; i++) {
        struct model_file *file = files[methods[i]->backbone];
        struct model_weights weights;
        struct plan plan;
        if (file && command_plan_build(&plan, file, methods[i]->name, flags) == 0 &&
            model_file_weights(file, &plan, &weights) == 0) {
            methods[kept++] = methods[i];
        }
    }
    *n = kept;
}
