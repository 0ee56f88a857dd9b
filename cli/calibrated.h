// cli/calibrated.h - devices for predictions, with the calibration that a user names.
#pragma once

#include "sim/calibration.h"

// Gives `device` the profile that was measured on it, with the rates of then, or else the nearest device's curves. A
// host that was calibrated (name "host") is not measured again. `backend`: as in calibration_find. The calibration must
// outlive the device. False: the device is not in the calibration; *device is then unchanged.
bool calibrated_known(struct device *device, const struct calibration *calibration, const char *name,
                      const char *backend);
// The nearest device's curves on this one's own peaks; for this machine's processor (name "host") only a processor's.
void calibrated_nearest(struct device *device, const struct calibration *calibration, const char *name);

// What --calibration FILE means for a command that predicts for `devices` (names, comma-separated; NULL: any): that
// file; "none": the bare roofline, *out is NULL; without the option (*file NULL) those that come with the program, of
// which a device takes its own or the nearest one's curves; this machine alone, or a table of the user's own
// (devices_file), has none. *file then names them. *out is owned by the caller.
int calibrated_open(struct calibration **out, const char **file, const char *devices, const char *devices_file);

// "AMD EPYC": this machine's processor, without what it can do.
void calibrated_host_name(char *out, size_t bytes);
