// cli/choice.c - see choice.h.
#include "cli/choice.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "cli/calibrated.h"
#include "engine/model_file.h"
#include "engine/status.h"

const struct model_shape *choice_size(const char *model)
{
    return plan_find_model(strcmp(model, "demo") == 0 ? "demo-8m" : model);
}

int choice_model(struct model_config *out, const char *flag, const char *model)
{
    const struct model_shape *known = choice_size(model);
    if (known) {
        out->native.shape = *known;
        return 0;
    }
    if (access(model, F_OK) != 0) {
        char names[256] = "";
        for (int32_t i = 0; i < plan_model_count(); i++) {
            strcat(strcat(names, plan_model(i)->name), ", ");
        }
        return status_fail(-EINVAL, "%s %s: neither a known size (%sdemo) nor a folder or config.json", flag, model,
                           names);
    }
    int error = model_file_load_config(out, model);
    return error ? status_prefix(error, "%s ", flag) : 0;
}

int choice_plan(struct plan *out, const struct model_config *config, const char *model, const char *method,
                const struct plan_options *knobs)
{
    if (strcmp(method, "native") == 0 && !choice_size(model)) {
        *out = config->native;
        return 0;
    }
    int error = plan_build(out, &config->native.shape, method, knobs);
    return error ? status_prefix(error, "--method %s: ", method) : 0;
}

int choice_device(struct device *out, const struct device *table, int32_t n, const struct calibration *calibration,
                  const char *name, int32_t threads)
{
    if (calibration && calibrated_known(out, calibration, name, NULL)) {
        return 0;
    }
    int error =
        strcasecmp(name, "host") == 0 ? device_measure_host(out, threads) : device_table_find(out, table, n, name);
    if (!error && calibration) {
        calibrated_nearest(out, calibration, name);
    }
    return error ? status_prefix(error, "--device ") : 0;
}
