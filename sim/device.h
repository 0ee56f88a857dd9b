// sim/device.h - what a device can do at most: rates, capacity, links, launch cost, price; each figure with its source.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/dtype.h"

enum { DEVICE_NAME_BYTES = 64, DEVICE_SOURCE_BYTES = 160, DEVICE_CURVE_POINTS = 8 };

// How a figure came about; printed beside every number that depends on it.
enum provenance { PROVENANCE_DATASHEET, PROVENANCE_MEASURED, PROVENANCE_INTERPOLATED, PROVENANCE_EXTRAPOLATED };
const char *provenance_name(enum provenance provenance);

struct device_figure {
    double value;               // 0: unknown
    enum provenance provenance;
    char source[DEVICE_SOURCE_BYTES];
};

struct device {
    char name[DEVICE_NAME_BYTES];
    struct device_figure bytes_per_s;                 // reading memory
    // Caches, where measured: reading a working set of at most curve_bytes[i] reaches curve_bytes_per_s[i]; beyond the
    // last: bytes_per_s. Ascending; n_curve may be 0.
    int32_t n_curve;
    double curve_bytes[DEVICE_CURVE_POINTS], curve_bytes_per_s[DEVICE_CURVE_POINTS];
    struct device_figure flops_per_s[DTYPE_COUNT];    // dense multiply-adds, counted as 2
    struct device_figure memory_bytes;
    struct device_figure link_bytes_per_s;            // to a neighbour, one way
    struct device_figure launch_s;                    // cost of one kernel or operator
    struct device_figure price_per_hour;              // dollars
    int32_t threads;                                  // host: as measured with; 0 elsewhere
};

// The shipped table (sim/devices.json, compiled in) or a file of the same form. Owned by the caller, free with free().
int device_table_load(struct device **out, int32_t *n, const char *path);    // path NULL: the shipped table
// By name, case-insensitive ("H100", "h100-sxm"); "host" is measured on the spot. -EINVAL lists the names.
int device_find(struct device *out, const char *name, int32_t threads);
// This machine: read bandwidth over working sets from cache to memory, multiply-add rate per dtype. About a second.
int device_measure_host(struct device *out, int32_t threads);

// Bandwidth for a working set of that size.
double device_bandwidth(const struct device *device, double working_set_bytes);
