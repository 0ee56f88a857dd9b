// cupti/counters_api.c - finds CUPTI and the driver, and says in words what stands in the way.
#include "cupti/counters_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/status.h"

// Function pointers and object pointers have the same form wherever dlsym exists (POSIX); ISO C does not say so.
#define SYMBOL(library, slot, name)                                                                                    \
    {                                                                                                                  \
        library, offsetof(struct counters_api, slot), name                                                             \
    }

enum { OF_CUPTI, OF_DRIVER };

static const struct symbol {
    int library;
    size_t offset;
    const char *name;
} symbols[] = {
    SYMBOL(OF_CUPTI, profiler_initialize, "cuptiProfilerInitialize"),
    SYMBOL(OF_CUPTI, device_chip, "cuptiDeviceGetChipName"),
    SYMBOL(OF_CUPTI, result_string, "cuptiGetResultString"),
    SYMBOL(OF_CUPTI, host_open, "cuptiProfilerHostInitialize"),
    SYMBOL(OF_CUPTI, host_close, "cuptiProfilerHostDeinitialize"),
    SYMBOL(OF_CUPTI, host_add_metrics, "cuptiProfilerHostConfigAddMetrics"),
    SYMBOL(OF_CUPTI, host_config_size, "cuptiProfilerHostGetConfigImageSize"),
    SYMBOL(OF_CUPTI, host_config, "cuptiProfilerHostGetConfigImage"),
    SYMBOL(OF_CUPTI, host_passes, "cuptiProfilerHostGetNumOfPasses"),
    SYMBOL(OF_CUPTI, host_evaluate, "cuptiProfilerHostEvaluateToGpuValues"),
    SYMBOL(OF_CUPTI, pm_availability, "cuptiPmSamplingGetCounterAvailability"),
    SYMBOL(OF_CUPTI, pm_enable, "cuptiPmSamplingEnable"),
    SYMBOL(OF_CUPTI, pm_disable, "cuptiPmSamplingDisable"),
    SYMBOL(OF_CUPTI, pm_configure, "cuptiPmSamplingSetConfig"),
    SYMBOL(OF_CUPTI, pm_start, "cuptiPmSamplingStart"),
    SYMBOL(OF_CUPTI, pm_stop, "cuptiPmSamplingStop"),
    SYMBOL(OF_CUPTI, pm_image_size, "cuptiPmSamplingGetCounterDataSize"),
    SYMBOL(OF_CUPTI, pm_image_init, "cuptiPmSamplingCounterDataImageInitialize"),
    SYMBOL(OF_CUPTI, pm_decode, "cuptiPmSamplingDecodeData"),
    SYMBOL(OF_CUPTI, pm_info, "cuptiPmSamplingGetCounterDataInfo"),
    SYMBOL(OF_CUPTI, pm_sample, "cuptiPmSamplingCounterDataGetSampleInfo"),
    SYMBOL(OF_CUPTI, range_availability, "cuptiProfilerGetCounterAvailability"),
    SYMBOL(OF_CUPTI, range_enable, "cuptiRangeProfilerEnable"),
    SYMBOL(OF_CUPTI, range_disable, "cuptiRangeProfilerDisable"),
    SYMBOL(OF_CUPTI, range_configure, "cuptiRangeProfilerSetConfig"),
    SYMBOL(OF_CUPTI, range_start, "cuptiRangeProfilerStart"),
    SYMBOL(OF_CUPTI, range_stop, "cuptiRangeProfilerStop"),
    SYMBOL(OF_CUPTI, range_push, "cuptiRangeProfilerPushRange"),
    SYMBOL(OF_CUPTI, range_pop, "cuptiRangeProfilerPopRange"),
    SYMBOL(OF_CUPTI, range_decode, "cuptiRangeProfilerDecodeData"),
    SYMBOL(OF_CUPTI, range_image_size, "cuptiRangeProfilerGetCounterDataSize"),
    SYMBOL(OF_CUPTI, range_image_init, "cuptiRangeProfilerCounterDataImageInitialize"),
    SYMBOL(OF_CUPTI, range_info, "cuptiRangeProfilerGetCounterDataInfo"),
    SYMBOL(OF_CUPTI, range_name, "cuptiRangeProfilerCounterDataGetRangeInfo"),
    SYMBOL(OF_DRIVER, init, "cuInit"),
    SYMBOL(OF_DRIVER, device_get, "cuDeviceGet"),
    SYMBOL(OF_DRIVER, device_bus_id, "cuDeviceGetPCIBusId"),
    SYMBOL(OF_DRIVER, context_current, "cuCtxGetCurrent"),
    SYMBOL(OF_DRIVER, context_synchronize, "cuCtxSynchronize"),
};

// The toolkit's usual places follow the loader's own. A version that is loaded already is found by the first of them.
static void *open_cupti(const char *path)
{
    static const char *const names[] = {
        "libcupti.so.13",
        "libcupti.so.12",
        "libcupti.so",
        "/usr/local/cuda/lib64/libcupti.so",
        "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so",
    };
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_NODELETE) : NULL;
    for (size_t i = 0; !path && !library && i < sizeof names / sizeof names[0]; i++) {
        library = dlopen(names[i], RTLD_NOW | RTLD_NODELETE);
    }
    return library;
}

static void *open_driver(const char *path)
{
    return dlopen(path ? path : "libcuda.so.1", RTLD_NOW | RTLD_NODELETE);
}

int counters_api_load(struct counters_api *out, const struct counters_libraries *libraries)
{
    struct counters_api api = {.cupti = open_cupti(libraries->cupti), .driver = open_driver(libraries->driver)};
    *out = (struct counters_api){0};
    if (!api.driver) {
        return status_fail(-ENOTSUP, "no NVIDIA driver (libcuda.so.1)");
    }
    if (!api.cupti) {
        return status_fail(-ENOTSUP, "libcupti was not found: install the CUDA toolkit's CUPTI, or put its folder "
                                     "(extras/CUPTI/lib64) into LD_LIBRARY_PATH");
    }
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        void *symbol = dlsym(symbols[i].library == OF_CUPTI ? api.cupti : api.driver, symbols[i].name);
        if (!symbol) {
            return status_fail(-ENOTSUP, "%s is missing in %s: hardware counters need CUDA 12.8 or later",
                               symbols[i].name, symbols[i].library == OF_CUPTI ? "libcupti" : "libcuda");
        }
        *(void **)((char *)&api + symbols[i].offset) = symbol;
    }
    *out = api;
    return 0;
}

// Reasons that a user can do something about, or must know.
static const struct remedy {
    int result, error;
    const char *text;
} remedies[] = {
    {COUNTERS_PRIVILEGES, -EACCES,
     "the driver keeps counters for administrators: run as root, or load it with "
     "NVreg_RestrictProfilingToAdminUsers=0"},
    {COUNTERS_VIRTUALIZED_PRIVILEGES, -EACCES,
     "the hypervisor does not let this virtual GPU be profiled: enable it there"},
    {COUNTERS_BUSY, -EBUSY, "another tool holds the counters: stop it (DCGM: dcgmi profile --pause)"},
    {COUNTERS_OTHER_TOOL, -EBUSY, "another CUPTI tool (nsys, ncu, a debugger) watches this process: run without it"},
    {COUNTERS_VIRTUALIZED, -ENOTSUP, "this virtual GPU has no counters"},
    {COUNTERS_MIG, -ENOTSUP, "a MIG slice has no counters of its own: use the whole GPU"},
    {COUNTERS_CONFIDENTIAL, -ENOTSUP, "confidential computing forbids counters"},
    {COUNTERS_MINING, -ENOTSUP, "mining processors have no counters"},
    {COUNTERS_SLI, -ENOTSUP, "GPUs joined by SLI have no counters: separate them"},
    {COUNTERS_WSL, -ENOTSUP, "Windows' subsystem for Linux has no counters: use Linux"},
    {COUNTERS_NOT_SUPPORTED, -ENOTSUP, "this GPU or driver does not support it"},
};

int counters_api_status(const struct counters_api *api, int result, const char *what)
{
    const char *text = NULL;
    if (result == COUNTERS_SUCCESS) {
        return 0;
    }
    for (size_t i = 0; i < sizeof remedies / sizeof remedies[0]; i++) {
        if (remedies[i].result == result) {
            return status_fail(remedies[i].error, "%s: %s", what, remedies[i].text);
        }
    }
    if (api->result_string(result, &text) != 0 || !text) {
        text = "unknown";
    }
    return status_fail(-EIO, "%s: CUPTI error %d (%s)", what, result, text);
}

int counters_bus_id(char *out, int32_t bytes, int32_t device, const char *driver_library)
{
    struct counters_api api = {.driver = open_driver(driver_library)};
    if (!api.driver) {
        return status_fail(-ENOTSUP, "no NVIDIA driver (libcuda.so.1)");
    }
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        if (symbols[i].library == OF_DRIVER) {
            *(void **)((char *)&api + symbols[i].offset) = dlsym(api.driver, symbols[i].name);
        }
    }
    int32_t handle = 0;
    int result = api.init && api.device_get && api.device_bus_id ? api.init(0) : -1;
    result = result ? result : api.device_get(&handle, device);
    result = result ? result : api.device_bus_id(out, bytes, handle);
    return result ? status_fail(-ENOTSUP, "the driver does not know device %d", device) : 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Configuration

// A host object with these metrics, and its configuration. A metric that the chip does not know is COUNTERS_BAD_METRIC.
static int try_metrics(const struct counters_api *api, struct cupti_host_open *open, const char **metrics, int32_t n,
                       uint8_t **config, size_t *bytes, size_t *passes)
{
    int result = api->host_open(open);
    if (result) {
        open->host = NULL;
        return result;
    }
    struct cupti_host_metrics add =
        COUNTERS_PARAMS(cupti_host_metrics, n, .host = open->host, .names = metrics, .n = (size_t)n);
    result = api->host_add_metrics(&add);
    struct cupti_host_config_size size = COUNTERS_PARAMS(cupti_host_config_size, bytes, .host = open->host);
    result = result ? result : api->host_config_size(&size);
    *config = result ? NULL : malloc(size.bytes);
    struct cupti_host_config get =
        COUNTERS_PARAMS(cupti_host_config, config, .host = open->host, .bytes = size.bytes, .config = *config);
    result = result || !*config ? result : api->host_config(&get);
    struct cupti_host_passes count = COUNTERS_PARAMS(cupti_host_passes, passes, .bytes = size.bytes, .config = *config);
    result = result || !*config ? result : api->host_passes(&count);
    *bytes = size.bytes;
    *passes = count.passes;
    return result;
}

static void drop(const struct counters_api *api, void **host, uint8_t **config)
{
    if (*host) {
        struct cupti_host_close close = COUNTERS_PARAMS(cupti_host_close, host, .host = *host);
        api->host_close(&close);
    }
    free(*config);
    *host = NULL;
    *config = NULL;
}

int counters_configure(const struct counters_api *api, enum counters_kind kind, const char *chip,
                       const uint8_t *availability, const char **metrics, int32_t *n, int32_t n_required, void **host,
                       uint8_t **config, size_t *config_bytes)
{
    int32_t wanted = *n, kept = 0;
    *host = NULL;
    *config = NULL;
    // Grows the list by one metric at a time: whether a set fits into one pass follows from no property of its members.
    for (int32_t i = 0; i < wanted; i++) {
        struct cupti_host_open open =
            COUNTERS_PARAMS(cupti_host_open, host, .kind = (int32_t)kind, .chip = chip, .availability = availability);
        size_t passes = 0, bytes = 0;
        uint8_t *made = NULL;
        metrics[kept] = metrics[i];
        int result = try_metrics(api, &open, metrics, kept + 1, &made, &bytes, &passes);
        bool fits = !result && made && passes == 1;
        if (fits) {
            drop(api, host, config);
            *host = open.host;
            *config = made;
            *config_bytes = bytes;
            kept++;
            continue;
        }
        bool no_memory = !result && !made;
        drop(api, &open.host, &made);
        if (no_memory || i < n_required) {
            drop(api, host, config);
            return no_memory ? status_fail(-ENOMEM, "no memory to configure counters")
                   : result  ? counters_api_status(api, result, metrics[kept])
                             : status_fail(-ENOTSUP, "%s: needs %zu passes on %s", metrics[kept], passes, chip);
        }
    }
    *n = kept;
    return kept > 0 ? 0 : status_fail(-ENOTSUP, "%s: none of the metrics fits into one pass", chip);
}
