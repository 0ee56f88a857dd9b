// cli/choice.c - see choice.h.
#include "cli/choice.h"

#include <string.h>
#include <strings.h>

#include "cli/calibrated.h"
#include "engine/model_file.h"
#include "engine/status.h"

int choice_model(struct model_config *out, const char *model)
{
    const struct model_shape *known = plan_find_model(model);
    if (known) {
        out->native.shape = *known;
        return 0;
    }
    int error = model_file_load_config(out, model);
    return error ? status_prefix(error, "--model: ") : 0;
}

int choice_plan(struct plan *out, const struct model_config *config, const char *model, const char *method,
                const struct plan_options *knobs)
{
    if (strcmp(method, "native") == 0 && !plan_find_model(model)) {
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
