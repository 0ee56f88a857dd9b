// tests/mock/counters_mock.c - a CUPTI profiler, a driver and an NVML that count what a test tells them.
//
// As exact as the real ones where it matters to a caller: objects must be used in order, images be initialised, sizes
// be those of the structures; ranges come back in no order of their own; of samples an image holds only as many as it
// was made for. Metrics whose name contains "unknown" do not exist, with one that contains "pair" two passes are
// needed.
#include "tests/mock/counters.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cupti/counters_api.h"

enum { BAD_PARAMETER = 1, BAD_OPERATION = 7, MOCK_RANGES = 512, MOCK_METRICS = 16 };
enum { MAGIC_SAMPLES = 0x5a3b1e5, MAGIC_RANGES = 0x4a46e5 };

__attribute__((visibility("default"))) struct mock_counters mock_counters;

// What an image holds.
struct image {
    int32_t magic, capacity, n, first;    // first: of samples, the number of the first
    struct {
        int64_t read, written;
        char name[16];
    } range[MOCK_RANGES];
};

static int32_t n_sampled_at_once;
static struct image *current;    // of the range session
static bool session, in_range;
static int64_t read_before, written_before;

#define ENTER(function, parameters, last)                                                                              \
    do {                                                                                                               \
        if ((parameters)->size != offsetof(__typeof__(*(parameters)), last) + sizeof((parameters)->last) ||            \
            (parameters)->priv) {                                                                                      \
            return BAD_PARAMETER;                                                                                      \
        }                                                                                                              \
        if (mock_counters.fails && strcmp(mock_counters.fails, #function) == 0) {                                      \
            return mock_counters.result;                                                                               \
        }                                                                                                              \
    } while (0)

#define EXPORT __attribute__((visibility("default")))

EXPORT int cuptiProfilerInitialize(struct cupti_nothing *p);
EXPORT int cuptiProfilerInitialize(struct cupti_nothing *p)
{
    ENTER(cuptiProfilerInitialize, p, priv);
    return 0;
}

EXPORT int cuptiDeviceGetChipName(struct cupti_chip_name *p);
EXPORT int cuptiDeviceGetChipName(struct cupti_chip_name *p)
{
    ENTER(cuptiDeviceGetChipName, p, name);
    p->name = "MOCK100";
    return 0;
}

EXPORT int cuptiGetResultString(int result, const char **text);
EXPORT int cuptiGetResultString(int result, const char **text)
{
    *text = result == BAD_OPERATION ? "MOCK_ERROR_BAD_OPERATION" : NULL;
    return *text ? 0 : BAD_PARAMETER;
}

// ---------------------------------------------------------------------------------------------------------------------
// Host

struct host {
    int32_t n;
    bool pair;
};

EXPORT int cuptiProfilerHostInitialize(struct cupti_host_open *p);
EXPORT int cuptiProfilerHostInitialize(struct cupti_host_open *p)
{
    ENTER(cuptiProfilerHostInitialize, p, host);
    if (strcmp(p->chip, "MOCK100") != 0 || !p->availability || p->availability[0] != 0xab) {
        return BAD_PARAMETER;
    }
    p->host = calloc(1, sizeof(struct host));
    mock_counters.hosts++;
    return 0;
}

EXPORT int cuptiProfilerHostDeinitialize(struct cupti_host_close *p);
EXPORT int cuptiProfilerHostDeinitialize(struct cupti_host_close *p)
{
    ENTER(cuptiProfilerHostDeinitialize, p, host);
    free(p->host);
    mock_counters.hosts--;
    return 0;
}

EXPORT int cuptiProfilerHostConfigAddMetrics(struct cupti_host_metrics *p);
EXPORT int cuptiProfilerHostConfigAddMetrics(struct cupti_host_metrics *p)
{
    ENTER(cuptiProfilerHostConfigAddMetrics, p, n);
    struct host *host = p->host;
    for (size_t i = 0; i < p->n; i++) {
        if (strstr(p->names[i], "unknown")) {
            return COUNTERS_BAD_METRIC;
        }
        host->pair = host->pair || strstr(p->names[i], "pair");
    }
    host->n = (int32_t)p->n;
    return 0;
}

EXPORT int cuptiProfilerHostGetConfigImageSize(struct cupti_host_config_size *p);
EXPORT int cuptiProfilerHostGetConfigImageSize(struct cupti_host_config_size *p)
{
    ENTER(cuptiProfilerHostGetConfigImageSize, p, bytes);
    p->bytes = sizeof(struct host);
    return 0;
}

EXPORT int cuptiProfilerHostGetConfigImage(struct cupti_host_config *p);
EXPORT int cuptiProfilerHostGetConfigImage(struct cupti_host_config *p)
{
    ENTER(cuptiProfilerHostGetConfigImage, p, config);
    if (p->bytes != sizeof(struct host)) {
        return BAD_PARAMETER;
    }
    memcpy(p->config, p->host, sizeof(struct host));
    return 0;
}

EXPORT int cuptiProfilerHostGetNumOfPasses(struct cupti_host_passes *p);
EXPORT int cuptiProfilerHostGetNumOfPasses(struct cupti_host_passes *p)
{
    ENTER(cuptiProfilerHostGetNumOfPasses, p, passes);
    const struct host *host = (const void *)p->config;
    p->passes = host->pair ? 2 : 1;
    return 0;
}

EXPORT int cuptiProfilerHostEvaluateToGpuValues(struct cupti_host_evaluate *p);
EXPORT int cuptiProfilerHostEvaluateToGpuValues(struct cupti_host_evaluate *p)
{
    ENTER(cuptiProfilerHostEvaluateToGpuValues, p, values);
    const struct image *image = (const void *)p->image;
    const struct host *host = p->host;
    if ((size_t)host->n != p->n || p->index >= (size_t)image->n) {
        return BAD_PARAMETER;
    }
    for (size_t m = 0; m < p->n; m++) {
        p->values[m] = image->magic == MAGIC_SAMPLES
                           ? 100.0 * (double)(image->first + (int32_t)p->index + 1) + (double)m
                       : m == 0 ? (double)image->range[p->index].read
                                : (double)image->range[p->index].written;
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Samples

EXPORT int cuptiPmSamplingGetCounterAvailability(struct cupti_pm_availability *p);
EXPORT int cuptiPmSamplingGetCounterAvailability(struct cupti_pm_availability *p)
{
    ENTER(cuptiPmSamplingGetCounterAvailability, p, image);
    p->bytes = 8;
    if (p->image) {
        memset(p->image, 0xab, 8);
    }
    return 0;
}

EXPORT int cuptiPmSamplingEnable(struct cupti_pm_enable *p);
EXPORT int cuptiPmSamplingEnable(struct cupti_pm_enable *p)
{
    ENTER(cuptiPmSamplingEnable, p, object);
    if (mock_counters.enabled) {
        return BAD_OPERATION;
    }
    mock_counters.enabled = 1;
    mock_counters.overflow = 0;
    p->object = &mock_counters;
    return 0;
}

EXPORT int cuptiPmSamplingDisable(struct cupti_pm_object *p);
EXPORT int cuptiPmSamplingDisable(struct cupti_pm_object *p)
{
    ENTER(cuptiPmSamplingDisable, p, object);
    mock_counters.enabled = mock_counters.started = 0;
    return 0;
}

EXPORT int cuptiPmSamplingSetConfig(struct cupti_pm_config *p);
EXPORT int cuptiPmSamplingSetConfig(struct cupti_pm_config *p)
{
    ENTER(cuptiPmSamplingSetConfig, p, append);
    mock_counters.interval_ns = (int64_t)p->interval;
    return p->trigger == COUNTERS_TIME_INTERVAL && p->config && p->buffer_bytes > 0 ? 0 : BAD_PARAMETER;
}

EXPORT int cuptiPmSamplingStart(struct cupti_pm_object *p);
EXPORT int cuptiPmSamplingStart(struct cupti_pm_object *p)
{
    ENTER(cuptiPmSamplingStart, p, object);
    if (!mock_counters.enabled || mock_counters.started) {
        return BAD_OPERATION;
    }
    mock_counters.started = 1;
    return 0;
}

EXPORT int cuptiPmSamplingStop(struct cupti_pm_object *p);
EXPORT int cuptiPmSamplingStop(struct cupti_pm_object *p)
{
    ENTER(cuptiPmSamplingStop, p, object);
    if (!mock_counters.started) {
        return BAD_OPERATION;
    }
    mock_counters.started = 0;
    return 0;
}

EXPORT int cuptiPmSamplingGetCounterDataSize(struct cupti_pm_image_size *p);
EXPORT int cuptiPmSamplingGetCounterDataSize(struct cupti_pm_image_size *p)
{
    ENTER(cuptiPmSamplingGetCounterDataSize, p, bytes);
    p->bytes = sizeof(struct image);
    n_sampled_at_once = (int32_t)p->max_samples;
    return 0;
}

EXPORT int cuptiPmSamplingCounterDataImageInitialize(struct cupti_image_init *p);
EXPORT int cuptiPmSamplingCounterDataImageInitialize(struct cupti_image_init *p)
{
    ENTER(cuptiPmSamplingCounterDataImageInitialize, p, image);
    struct image *image = (void *)p->image;
    if (p->bytes != sizeof *image) {
        return BAD_PARAMETER;
    }
    *image = (struct image){.magic = MAGIC_SAMPLES, .capacity = n_sampled_at_once};
    return 0;
}

EXPORT int cuptiPmSamplingDecodeData(struct cupti_pm_decode *p);
EXPORT int cuptiPmSamplingDecodeData(struct cupti_pm_decode *p)
{
    ENTER(cuptiPmSamplingDecodeData, p, overflow);
    struct image *image = (void *)p->image;
    if (image->magic != MAGIC_SAMPLES || image->n > 0) {
        return BAD_OPERATION;    // a new one, or one that was reset
    }
    p->overflow = (uint8_t)mock_counters.overflow;
    if (p->overflow) {
        return COUNTERS_BUFFER_FULL;
    }
    image->first = mock_counters.decoded;
    image->n = mock_counters.n_ready < image->capacity ? mock_counters.n_ready : image->capacity;
    mock_counters.n_ready -= image->n;
    mock_counters.decoded += image->n;
    p->stop_reason = mock_counters.n_ready > 0 ? COUNTERS_IMAGE_FULL : mock_counters.started ? 0 : 2;
    return 0;
}

EXPORT int cuptiPmSamplingGetCounterDataInfo(struct cupti_pm_info *p);
EXPORT int cuptiPmSamplingGetCounterDataInfo(struct cupti_pm_info *p)
{
    ENTER(cuptiPmSamplingGetCounterDataInfo, p, completed);
    const struct image *image = (const void *)p->image;
    p->total = (size_t)image->capacity;
    p->populated = p->completed = (size_t)image->n;
    return 0;
}

EXPORT int cuptiPmSamplingCounterDataGetSampleInfo(struct cupti_pm_sample *p);
EXPORT int cuptiPmSamplingCounterDataGetSampleInfo(struct cupti_pm_sample *p)
{
    ENTER(cuptiPmSamplingCounterDataGetSampleInfo, p, end);
    const struct image *image = (const void *)p->image;
    p->begin = (uint64_t)(mock_counters.first_ns + (image->first + (int64_t)p->index) * mock_counters.interval_ns);
    p->end = p->begin + (uint64_t)mock_counters.interval_ns;
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Ranges

EXPORT int cuptiProfilerGetCounterAvailability(struct cupti_range_availability *p);
EXPORT int cuptiProfilerGetCounterAvailability(struct cupti_range_availability *p)
{
    ENTER(cuptiProfilerGetCounterAvailability, p, image);
    p->bytes = 8;
    if (p->image) {
        memset(p->image, 0xab, 8);
    }
    return 0;
}

EXPORT int cuptiRangeProfilerEnable(struct cupti_range_enable *p);
EXPORT int cuptiRangeProfilerEnable(struct cupti_range_enable *p)
{
    ENTER(cuptiRangeProfilerEnable, p, object);
    p->object = &mock_counters;
    mock_counters.enabled = 1;
    return 0;
}

EXPORT int cuptiRangeProfilerDisable(struct cupti_range_object *p);
EXPORT int cuptiRangeProfilerDisable(struct cupti_range_object *p)
{
    ENTER(cuptiRangeProfilerDisable, p, object);
    bool busy = session;
    mock_counters.enabled = session = in_range = false;
    return busy ? BAD_OPERATION : 0;
}

EXPORT int cuptiRangeProfilerSetConfig(struct cupti_range_config *p);
EXPORT int cuptiRangeProfilerSetConfig(struct cupti_range_config *p)
{
    ENTER(cuptiRangeProfilerSetConfig, p, target_level);
    current = (void *)p->image;
    return p->range == COUNTERS_USER_RANGE && p->replay == COUNTERS_USER_REPLAY && p->n_levels == 1 &&
                   p->min_level == 1 && p->target_level == 1 && p->pass == 0 && p->max_ranges <= MOCK_RANGES && !session
               ? 0
               : BAD_PARAMETER;
}

EXPORT int cuptiRangeProfilerStart(struct cupti_range_object *p);
EXPORT int cuptiRangeProfilerStart(struct cupti_range_object *p)
{
    ENTER(cuptiRangeProfilerStart, p, object);
    if (session || !current || current->magic != MAGIC_RANGES || current->n > 0) {
        return BAD_OPERATION;
    }
    session = true;
    mock_counters.sessions++;
    return 0;
}

EXPORT int cuptiRangeProfilerPushRange(struct cupti_range_push *p);
EXPORT int cuptiRangeProfilerPushRange(struct cupti_range_push *p)
{
    ENTER(cuptiRangeProfilerPushRange, p, name);
    if (!session || in_range || current->n == MOCK_RANGES) {
        return BAD_OPERATION;
    }
    // From the last place to the first: whoever reads them must go by their names.
    in_range = true;
    snprintf(current->range[MOCK_RANGES - 1 - current->n].name, sizeof current->range[0].name, "%s", p->name);
    read_before = mock_counters.read_bytes;
    written_before = mock_counters.written_bytes;
    return 0;
}

EXPORT int cuptiRangeProfilerPopRange(struct cupti_range_object *p);
EXPORT int cuptiRangeProfilerPopRange(struct cupti_range_object *p)
{
    ENTER(cuptiRangeProfilerPopRange, p, object);
    if (!in_range) {
        return BAD_OPERATION;
    }
    int32_t at = MOCK_RANGES - 1 - current->n++;
    current->range[at].read = mock_counters.read_bytes - read_before;
    current->range[at].written = mock_counters.written_bytes - written_before;
    in_range = false;
    return 0;
}

EXPORT int cuptiRangeProfilerStop(struct cupti_range_stop *p);
EXPORT int cuptiRangeProfilerStop(struct cupti_range_stop *p)
{
    ENTER(cuptiRangeProfilerStop, p, all_submitted);
    if (!session || in_range) {
        return BAD_OPERATION;
    }
    session = false;
    p->all_submitted = !mock_counters.more_passes;
    return 0;
}

EXPORT int cuptiRangeProfilerDecodeData(struct cupti_range_decode *p);
EXPORT int cuptiRangeProfilerDecodeData(struct cupti_range_decode *p)
{
    ENTER(cuptiRangeProfilerDecodeData, p, dropped);
    memmove(current->range, &current->range[MOCK_RANGES - current->n], (size_t)current->n * sizeof current->range[0]);
    p->dropped = (size_t)mock_counters.dropped;
    return 0;
}

EXPORT int cuptiRangeProfilerGetCounterDataSize(struct cupti_range_image_size *p);
EXPORT int cuptiRangeProfilerGetCounterDataSize(struct cupti_range_image_size *p)
{
    ENTER(cuptiRangeProfilerGetCounterDataSize, p, bytes);
    p->bytes = sizeof(struct image);
    return p->max_ranges <= MOCK_RANGES && p->max_nodes >= p->max_ranges ? 0 : BAD_PARAMETER;
}

EXPORT int cuptiRangeProfilerCounterDataImageInitialize(struct cupti_image_init *p);
EXPORT int cuptiRangeProfilerCounterDataImageInitialize(struct cupti_image_init *p)
{
    ENTER(cuptiRangeProfilerCounterDataImageInitialize, p, image);
    struct image *image = (void *)p->image;
    *image = (struct image){.magic = MAGIC_RANGES, .capacity = MOCK_RANGES};
    return p->bytes == sizeof *image ? 0 : BAD_PARAMETER;
}

EXPORT int cuptiRangeProfilerGetCounterDataInfo(struct cupti_range_info *p);
EXPORT int cuptiRangeProfilerGetCounterDataInfo(struct cupti_range_info *p)
{
    ENTER(cuptiRangeProfilerGetCounterDataInfo, p, n);
    p->n = (size_t)((const struct image *)(const void *)p->image)->n;
    return 0;
}

EXPORT int cuptiRangeProfilerCounterDataGetRangeInfo(struct cupti_range_name *p);
EXPORT int cuptiRangeProfilerCounterDataGetRangeInfo(struct cupti_range_name *p)
{
    ENTER(cuptiRangeProfilerCounterDataGetRangeInfo, p, name);
    p->name = ((const struct image *)(const void *)p->image)->range[p->index].name;
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// The driver

EXPORT int cuInit(unsigned flags);
EXPORT int cuInit(unsigned flags)
{
    return (int)flags;
}

EXPORT int cuDeviceGet(int32_t *device, int ordinal);
EXPORT int cuDeviceGet(int32_t *device, int ordinal)
{
    *device = ordinal;
    return ordinal < 2 ? 0 : BAD_PARAMETER;
}

EXPORT int cuDeviceGetPCIBusId(char *out, int bytes, int32_t device);
EXPORT int cuDeviceGetPCIBusId(char *out, int bytes, int32_t device)
{
    snprintf(out, (size_t)bytes, "0000:%02X:00.0", 10 + device);
    return 0;
}

EXPORT int cuCtxGetCurrent(void **context);
EXPORT int cuCtxGetCurrent(void **context)
{
    *context = mock_counters.no_context ? NULL : &mock_counters;
    return 0;
}

EXPORT int cuCtxSynchronize(void);
EXPORT int cuCtxSynchronize(void)
{
    mock_counters.synchronized++;
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// NVML

EXPORT int nvmlInit_v2(void);
EXPORT int nvmlInit_v2(void)
{
    mock_counters.nvml_open++;
    return 0;
}

EXPORT int nvmlShutdown(void);
EXPORT int nvmlShutdown(void)
{
    mock_counters.nvml_open--;
    return 0;
}

EXPORT const char *nvmlErrorString(int result);
EXPORT const char *nvmlErrorString(int result)
{
    return result ? "mock failure" : "success";
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device);
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device)
{
    snprintf(mock_counters.bus_id, sizeof mock_counters.bus_id, "%s", bus_id);
    *device = &mock_counters;
    return strncmp(bus_id, "0000:", 5) != 0;
}

EXPORT int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz);
EXPORT int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz)
{
    (void)device;
    *mhz = type == 1 ? mock_counters.sm_clock : type == 2 ? mock_counters.memory_clock : 0;
    return mock_counters.nvml_fails;
}

EXPORT int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatt);
EXPORT int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatt)
{
    (void)device;
    *milliwatt = mock_counters.milliwatt;
    return mock_counters.nvml_fails;
}

// A joule more at each reading.
EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoule);
EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoule)
{
    (void)device;
    *millijoule = mock_counters.millijoule += 1000;
    return mock_counters.nvml_fails;
}

EXPORT int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius);
EXPORT int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius)
{
    (void)device;
    *celsius = mock_counters.celsius;
    return sensor ? BAD_PARAMETER : mock_counters.nvml_fails;
}

EXPORT int nvmlDeviceGetMemoryInfo(void *device, void *memory);
EXPORT int nvmlDeviceGetMemoryInfo(void *device, void *memory)
{
    (void)device;
    memcpy((char *)memory + 16, &mock_counters.memory_used, 8);    // behind total and free
    return mock_counters.nvml_fails;
}

EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *mask);
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *mask)
{
    (void)device;
    *mask = mock_counters.reasons;
    return mock_counters.nvml_fails;
}
