// cli/calibrated.c - which profile of a calibration serves which device.
#include "cli/calibrated.h"

#include <string.h>
#include <strings.h>

void calibrated_host_name(char *out, size_t bytes)
{
    device_describe_host(out, bytes);
    char *comma = strrchr(out, ',');
    if (comma) {
        *comma = 0;
    }
}

bool calibrated_known(struct device *device, const struct calibration *calibration, const char *name,
                      const char *backend)
{
    char host[DEVICE_NAME_BYTES];
    if (strcasecmp(name, "host") == 0) {
        calibrated_host_name(host, sizeof host);
        name = host;
    }
    const struct calibration_profile *profile = calibration_find(calibration, name, backend);
    if (!profile) {
        return false;
    }
    *device = profile->rates;
    device->calibration = profile;
    return true;
}

void calibrated_nearest(struct device *device, const struct calibration *calibration)
{
    device->calibration = calibration_nearest(calibration, device);
}
