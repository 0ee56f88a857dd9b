// tests/fuzz/fuzz_calibration.c - any bytes as a calibration: parsed whole or refused, never a crash or a leak; and
// what was parsed answers with numbers.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "sim/calibration.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct calibration *calibration;
    if (calibration_parse(&calibration, (const char *)data, size, "fuzz") != 0) {
        return 0;
    }
    for (int32_t p = 0; p < calibration->n_profiles; p++) {
        const struct calibration_profile *profile = &calibration->profiles[p];
        for (int32_t c = 0; c < profile->n_curves; c++) {
            const struct calibration_curve *curve = &profile->curves[c];
            struct calibration_query query = {curve->stage, curve->phase, curve->unit_tokens, 3, curve->dtype, 12345};
            struct calibration_answer answer;
            if (!calibration_ask(&answer, profile, &query) || !(answer.efficiency > 0) ||
                !isfinite(answer.efficiency)) {
                abort();
            }
        }
    }
    if (!calibration_nearest(calibration, &calibration->profiles[0].rates)) {
        abort();
    }
    calibration_free(calibration);
    return 0;
}
