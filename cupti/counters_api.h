// cupti/counters_api.h - what of CUPTI and of the CUDA driver reading hardware counters needs, found at run time.
//
// Our own declarations of the profiler interface (CUDA 12.8 and later), so that everything compiles without a toolkit;
// tests/test_counters_layout.c compares them field by field with NVIDIA's headers where those exist. Both libraries are
// loaded at first need and stay loaded: CUPTI does not survive being unloaded. Every structure begins with its own size
// up to and including its last field, padding excluded, and a private pointer that is NULL.
#pragma once

#include <stddef.h>
#include <stdint.h>

// The size that a structure must announce: up to the end of its last field.
#define COUNTERS_SIZE(type, last) (offsetof(type, last) + sizeof(((type *)NULL)->last))
#define COUNTERS_PARAMS(type, last, ...)                                                                               \
    {                                                                                                                  \
        .size = COUNTERS_SIZE(struct type, last), __VA_ARGS__                                                          \
    }

enum counters_kind { COUNTERS_RANGE_PROFILER, COUNTERS_PM_SAMPLING };    // profiler types of the host's part
enum { COUNTERS_USER_RANGE = 2, COUNTERS_USER_REPLAY = 3 };              // ranges and replays of the caller's making
enum { COUNTERS_TIME_INTERVAL = 1 };                                     // samples at a fixed interval in nanoseconds
enum { COUNTERS_KEEP_OLDEST = 0 };                                       // a full hardware buffer says so
enum { COUNTERS_IMAGE_FULL = 1 };                                        // why decoding stopped: there may be more

struct cupti_nothing {
    size_t size;
    void *priv;
};
struct cupti_chip_name {
    size_t size;
    void *priv;
    size_t device;
    const char *name;
};

// The host's part: from names of metrics to a configuration, from raw counters to values.
struct cupti_host_open {
    size_t size;
    void *priv;
    int32_t kind;
    const char *chip;
    const uint8_t *availability;
    void *host;
};
struct cupti_host_close {
    size_t size;
    void *priv;
    void *host;
};
struct cupti_host_metrics {
    size_t size;
    void *priv;
    void *host;
    const char **names;
    size_t n;
};
struct cupti_host_config_size {
    size_t size;
    void *priv;
    void *host;
    size_t bytes;
};
struct cupti_host_config {
    size_t size;
    void *priv;
    void *host;
    size_t bytes;
    uint8_t *config;
};
struct cupti_host_passes {
    size_t size;
    void *priv;
    size_t bytes;
    uint8_t *config;
    size_t passes;
};
struct cupti_host_evaluate {
    size_t size;
    void *priv;
    void *host;
    const uint8_t *image;
    size_t image_bytes, index;
    const char **names;
    size_t n;
    double *values;
};

// Samples at a fixed interval, of the whole device.
struct cupti_pm_availability {
    size_t size;
    void *priv;
    size_t device, bytes;
    uint8_t *image;
};
struct cupti_pm_enable {
    size_t size;
    void *priv;
    size_t device;
    void *object;
};
struct cupti_pm_object {
    size_t size;
    void *priv;
    void *object;
};    // disable, start, stop
struct cupti_pm_config {
    size_t size;
    void *priv;
    void *object;
    size_t config_bytes;
    const uint8_t *config;
    size_t buffer_bytes;
    uint64_t interval;
    int32_t trigger, append;
};
struct cupti_pm_image_size {
    size_t size;
    void *priv;
    void *object;
    const char **names;
    size_t n;
    uint32_t max_samples;
    size_t bytes;
};
struct cupti_image_init {
    size_t size;
    void *priv;
    void *object;
    size_t bytes;
    uint8_t *image;
};
struct cupti_pm_decode {
    size_t size;
    void *priv;
    void *object;
    uint8_t *image;
    size_t image_bytes;
    int32_t stop_reason;
    uint8_t overflow;
};
struct cupti_pm_info {
    size_t size;
    void *priv;
    const uint8_t *image;
    size_t image_bytes, total, populated, completed;
};
struct cupti_pm_sample {
    size_t size;
    void *priv;
    void *object;
    const uint8_t *image;
    size_t image_bytes, index;
    uint64_t begin, end;
};

// Exact counts of ranges that the caller delimits, in one context.
struct cupti_range_availability {
    size_t size;
    void *priv;
    void *context;
    size_t bytes;
    uint8_t *image;
};
struct cupti_range_enable {
    size_t size;
    void *priv;
    void *context;
    void *object;
};
struct cupti_range_object {
    size_t size;
    void *priv;
    void *object;
};    // disable, start, pop
struct cupti_range_config {
    size_t size;
    void *priv;
    void *object;
    size_t config_bytes;
    const uint8_t *config;
    size_t image_bytes;
    uint8_t *image;
    int32_t range, replay;
    size_t max_ranges;
    uint16_t n_levels, min_level;
    size_t pass;
    uint16_t target_level;
};
struct cupti_range_stop {
    size_t size;
    void *priv;
    void *object;
    size_t pass, target_level;
    uint8_t all_submitted;
};
struct cupti_range_push {
    size_t size;
    void *priv;
    void *object;
    const char *name;
};
struct cupti_range_decode {
    size_t size;
    void *priv;
    void *object;
    size_t dropped;
};
struct cupti_range_image_size {
    size_t size;
    void *priv;
    void *object;
    const char **names;
    size_t n, max_ranges;
    uint32_t max_nodes;
    size_t bytes;
};
struct cupti_range_info {
    size_t size;
    void *priv;
    const uint8_t *image;
    size_t image_bytes, n;
};
struct cupti_range_name {
    size_t size;
    void *priv;
    const uint8_t *image;
    size_t image_bytes, index;
    const char *delimiter, *name;
};

// Results of the profiler's functions that have a meaning and a remedy of their own.
enum counters_result {
    COUNTERS_SUCCESS = 0,
    COUNTERS_BUFFER_FULL = 8,
    COUNTERS_BAD_METRIC = 17,
    COUNTERS_BUSY = 26,
    COUNTERS_NOT_SUPPORTED = 27,
    COUNTERS_VIRTUALIZED = 33,
    COUNTERS_PRIVILEGES = 35,
    COUNTERS_OTHER_TOOL = 39,
    COUNTERS_VIRTUALIZED_PRIVILEGES = 40,
    COUNTERS_CONFIDENTIAL = 41,
    COUNTERS_MINING = 42,
    COUNTERS_MIG = 43,
    COUNTERS_SLI = 44,
    COUNTERS_WSL = 45,
};

struct counters_api {
    void *cupti, *driver;    // libraries
    // CUPTI. 0: success.
    int (*profiler_initialize)(struct cupti_nothing *);
    int (*device_chip)(struct cupti_chip_name *);
    int (*result_string)(int result, const char **text);
    int (*host_open)(struct cupti_host_open *);
    int (*host_close)(struct cupti_host_close *);
    int (*host_add_metrics)(struct cupti_host_metrics *);
    int (*host_config_size)(struct cupti_host_config_size *);
    int (*host_config)(struct cupti_host_config *);
    int (*host_passes)(struct cupti_host_passes *);
    int (*host_evaluate)(struct cupti_host_evaluate *);
    int (*pm_availability)(struct cupti_pm_availability *);
    int (*pm_enable)(struct cupti_pm_enable *);
    int (*pm_disable)(struct cupti_pm_object *);
    int (*pm_configure)(struct cupti_pm_config *);
    int (*pm_start)(struct cupti_pm_object *);
    int (*pm_stop)(struct cupti_pm_object *);
    int (*pm_image_size)(struct cupti_pm_image_size *);
    int (*pm_image_init)(struct cupti_image_init *);
    int (*pm_decode)(struct cupti_pm_decode *);
    int (*pm_info)(struct cupti_pm_info *);
    int (*pm_sample)(struct cupti_pm_sample *);
    int (*range_availability)(struct cupti_range_availability *);
    int (*range_enable)(struct cupti_range_enable *);
    int (*range_disable)(struct cupti_range_object *);
    int (*range_configure)(struct cupti_range_config *);
    int (*range_start)(struct cupti_range_object *);
    int (*range_stop)(struct cupti_range_stop *);
    int (*range_push)(struct cupti_range_push *);
    int (*range_pop)(struct cupti_range_object *);
    int (*range_decode)(struct cupti_range_decode *);
    int (*range_image_size)(struct cupti_range_image_size *);
    int (*range_image_init)(struct cupti_image_init *);
    int (*range_info)(struct cupti_range_info *);
    int (*range_name)(struct cupti_range_name *);
    // The driver. 0: success.
    int (*init)(unsigned flags);
    int (*device_get)(int32_t *device, int ordinal);
    int (*device_bus_id)(char *out, int bytes, int32_t device);
    int (*context_current)(void **context);
    int (*context_synchronize)(void);
};

// Libraries to load instead of those that the loader knows by name. NULL: search.
struct counters_libraries {
    const char *cupti, *driver;
};

// Fills *out. -ENOTSUP with a text that names what is missing and what to do.
int counters_api_load(struct counters_api *out, const struct counters_libraries *libraries);

// Turns a result of CUPTI into an errno and a text with the remedy; 0 for success. `what` was being done.
int counters_api_status(const struct counters_api *api, int result, const char *what);

// The driver's part alone, for what needs no CUPTI: the bus address of a device as CUDA counts them. -ENOTSUP.
int counters_bus_id(char *out, int32_t bytes, int32_t device, const char *driver_library);

// The configuration of `metrics` [n] on the host, whose object *host is the caller's to close, for one pass over the
// work. Metrics beyond the first n_required are left out where the chip does not know them or they would need a second
// pass; kept names move to the front of `metrics`, *n is their number. *config is owned by the caller, free.
int counters_configure(const struct counters_api *api, enum counters_kind kind, const char *chip,
                       const uint8_t *availability, const char **metrics, int32_t *n, int32_t n_required, void **host,
                       uint8_t **config, size_t *config_bytes);
