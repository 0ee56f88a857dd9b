// cli/calibrated.c - which profile of a calibration serves which device.
#include "cli/calibrated.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/status.h"

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

void calibrated_nearest(struct device *device, const struct calibration *calibration, const char *name)
{
    const struct calibration_profile *nearest = calibration_nearest(calibration, device);
    bool processor = strncmp(nearest->backend, "cuda", strlen("cuda")) != 0;
    device->calibration = processor || strcasecmp(name, "host") != 0 ? nearest : NULL;
}

int calibrated_open(struct calibration **out, const char **file, const char *devices, const char *devices_file)
{
    *out = NULL;
    if (*file) {
        return strcmp(*file, "none") == 0 ? 0 : calibration_load(out, *file);
    }
    if (devices_file) {
        return 0;
    }
    bool others = !devices;
    for (const char *name = devices; name && !others; name = strchr(name, ',') ? strchr(name, ',') + 1 : NULL) {
        others = strcasecmp(name, "host") != 0 && strncasecmp(name, "host,", strlen("host,")) != 0;
    }
    return others ? calibration_load_shipped(out, file) : 0;
}
