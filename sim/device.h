// sim/device.h - what a device can do at most: rates, capacity, links, launch cost, price; each figure with its source.
//
// Figures come from the shipped table (sim/devices.json), from a file of the same form, or, for this machine ("host"),
// from measuring it. An unknown figure is 0 and stays unknown: nothing is guessed. Rates are what the source calls the
// peak; what share of it a stage reaches is not said here.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/dtype.h"

enum { DEVICE_NAME_BYTES = 64, DEVICE_SOURCE_BYTES = 160, DEVICE_CURVE_POINTS = 8 };

// How a figure came about; printed beside every number that depends on it. Published figures are DATASHEET; a constant
// carried over from elsewhere, or an estimate, is EXTRAPOLATED. ROOFLINE marks a prediction that had to take a device's
// peaks although a calibration was given, because it knows nothing of the stage; no figure of a device is that.
enum provenance {
    PROVENANCE_DATASHEET,
    PROVENANCE_MEASURED,
    PROVENANCE_INTERPOLATED,
    PROVENANCE_EXTRAPOLATED,
    PROVENANCE_ROOFLINE
};
const char *provenance_name(enum provenance provenance);

// The one that says less about what will be measured: peaks that nobody reaches (ROOFLINE, DATASHEET) say least, then
// EXTRAPOLATED, INTERPOLATED, MEASURED.
enum provenance provenance_weaker(enum provenance a, enum provenance b);

struct device_figure {
    double value;               // 0: unknown
    enum provenance provenance;
    char source[DEVICE_SOURCE_BYTES];
};

struct calibration_profile;

struct device {
    char name[DEVICE_NAME_BYTES];
    char driver_name[DEVICE_NAME_BYTES];              // as its driver calls it, and so samples; "": not known
    struct device_figure bytes_per_s;                 // reading memory
    // Caches, where measured: reading a working set of at most curve_bytes[i] reaches curve_bytes_per_s[i]; beyond the
    // last: bytes_per_s. Sizes ascend, rates do not; n_curve may be 0.
    int32_t n_curve;
    double curve_bytes[DEVICE_CURVE_POINTS], curve_bytes_per_s[DEVICE_CURVE_POINTS];
    struct device_figure flops_per_s[DTYPE_COUNT];    // dense multiply-adds, counted as 2
    struct device_figure memory_bytes;
    struct device_figure memory_overhead_bytes;       // of driver, libraries, kernels and recordings, before any weight
    struct device_figure link_bytes_per_s;            // to a neighbour, one way
    struct device_figure link_s;                      // until what is sent arrives, whatever its size
    struct device_figure launch_s;                    // cost of one kernel or operator
    struct device_figure price_per_hour;              // dollars
    struct device_figure serving_power_w;             // drawn while step follows step
    int32_t ranks;                                    // so many devices share every layer (sim/parallel.h); 0: as 1
    int32_t threads;                                  // host: as measured with; 0 elsewhere
    // What share of these rates kernels reach (sim/calibration.h), for predictions; borrowed. NULL: all of them.
    const struct calibration_profile *calibration;
};

// The shipped table (sim/devices.json, compiled in) or a file of the same form. Owned by the caller, free with free().
int device_table_load(struct device **out, int32_t *n, const char *path);    // path NULL: the shipped table
// The same from text [length]; `where` names it in errors. -EINVAL with the device, the key and what was expected.
int device_table_parse(struct device **out, int32_t *n, const char *text, size_t length, const char *where);
// One of table [n] by name, case-insensitive: whole ("h100-sxm"), or up to a '-' where only one begins so ("H100").
// -EINVAL lists the names.
int device_table_find(struct device *out, const struct device *table, int32_t n, const char *name);
// The one that samples mean by the name of their device; false: none of table [n] says that its driver calls it so.
bool device_table_find_driver(struct device *out, const struct device *table, int32_t n, const char *driver_name);
// By name in the shipped table; "host" is measured on the spot.
int device_find(struct device *out, const char *name, int32_t threads);
// This machine: read bandwidth over working sets from cache to memory, multiply-add rate per dtype. About a second,
// once per process and number of threads. threads 0: all that the process may use.
int device_measure_host(struct device *out, int32_t threads);
// What the measurement ran on: "AMD EPYC 9575F, avx512_bf16".
void device_describe_host(char *out, size_t bytes);

// The rate of multiply-adds in a type: its own or the next wider one's, as an engine would convert. NULL if none is
// known.
const struct device_figure *device_rate(const struct device *device, enum dtype dtype);

// Bandwidth for a working set of that size.
double device_bandwidth(const struct device *device, double working_set_bytes);
