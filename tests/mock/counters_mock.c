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

static int32_t decoded;    // samples ever
static int32_t n_sampled_at_once;
static struct image *current;    // of the range session
static bool session, in_range;
static int64_t read_before, written_before;

#define ENTER(function, parameters, last)                                                                              \
    if ((parameters)->size != offsetof(__typeof__(*(parameters)), last) + sizeof((parameters)->last) ||                \
        (parameters)->priv) {                                                                                          \
        return BAD_PARAMETER;                                                                                          \
    }                                                                                                                  \
    if (mock_counters.fails && strcmp(mock_counters.fails, #function) == 0) {                                          \
        return mock_counters.result;                                                                                   \
    }

#define EXPORT __attribute__((visibility("default")))
#define FUNCTION(name, type, p, last)                                                                                  \
    EXPORT int name(struct type *p);                                                                                   \
    EXPORT int name(struct type *p)                                                                                    \
    {                                                                                                                  \
        ENTER(name, p, last)

FUNCTION(cuptiProfilerInitialize, cupti_nothing, p, priv)
return 0;
}

FUNCTION(cuptiDeviceGetChipName, cupti_chip_name, p, name)
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

FUNCTION(cuptiProfilerHostInitialize, cupti_host_open, p, host)
if (strcmp(p->chip, "MOCK100") != 0 || !p->availability || p->availability[0] != 0xab) {
    return BAD_PARAMETER;
}
p->host = calloc(1, sizeof(struct host));
mock_counters.hosts++;
return 0;
}

FUNCTION(cuptiProfilerHostDeinitialize, cupti_host_close, p, host)
free(p->host);
mock_counters.hosts--;
return 0;
}

FUNCTION(cuptiProfilerHostConfigAddMetrics, cupti_host_metrics, p, n)
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

FUNCTION(cuptiProfilerHostGetConfigImageSize, cupti_host_config_size, p, bytes)
p->bytes = sizeof(struct host);
return 0;
}

FUNCTION(cuptiProfilerHostGetConfigImage, cupti_host_config, p, config)
if (p->bytes != sizeof(struct host)) {
    return BAD_PARAMETER;
}
memcpy(p->config, p->host, sizeof(struct host));
return 0;
}

FUNCTION(cuptiProfilerHostGetNumOfPasses, cupti_host_passes, p, passes)
const struct host *host = (const void *)p->config;
p->passes = host->pair ? 2 : 1;
return 0;
}

FUNCTION(cuptiProfilerHostEvaluateToGpuValues, cupti_host_evaluate, p, values)
const struct image *image = (const void *)p->image;
const struct host *host = p->host;
if ((size_t)host->n != p->n || p->index >= (size_t)image->n) {
    return BAD_PARAMETER;
}
for (size_t m = 0; m < p->n; m++) {
    p->values[m] = image->magic == MAGIC_SAMPLES ? 100.0 * (double)(image->first + (int32_t)p->index + 1) + (double)m
                   : m == 0                      ? (double)image->range[p->index].read
                                                 : (double)image->range[p->index].written;
}
return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Samples

FUNCTION(cuptiPmSamplingGetCounterAvailability, cupti_pm_availability, p, image)
p->bytes = 8;
if (p->image) {
    memset(p->image, 0xab, 8);
}
return 0;
}

FUNCTION(cuptiPmSamplingEnable, cupti_pm_enable, p, object)
if (mock_counters.enabled) {
    return BAD_OPERATION;
}
mock_counters.enabled = 1;
decoded = 0;
p->object = &mock_counters;
return 0;
}

FUNCTION(cuptiPmSamplingDisable, cupti_pm_object, p, object)
mock_counters.enabled = mock_counters.started = 0;
return 0;
}

FUNCTION(cuptiPmSamplingSetConfig, cupti_pm_config, p, append)
mock_counters.interval_ns = (int64_t)p->interval;
return p->trigger == COUNTERS_TIME_INTERVAL && p->config && p->buffer_bytes > 0 ? 0 : BAD_PARAMETER;
}

FUNCTION(cuptiPmSamplingStart, cupti_pm_object, p, object)
if (!mock_counters.enabled || mock_counters.started) {
    return BAD_OPERATION;
}
mock_counters.started = 1;
mock_counters.overflow = 0;
return 0;
}

FUNCTION(cuptiPmSamplingStop, cupti_pm_object, p, object)
if (!mock_counters.started) {
    return BAD_OPERATION;
}
mock_counters.started = 0;
return 0;
}

FUNCTION(cuptiPmSamplingGetCounterDataSize, cupti_pm_image_size, p, bytes)
p->bytes = sizeof(struct image);
n_sampled_at_once = (int32_t)p->max_samples;
return 0;
}

FUNCTION(cuptiPmSamplingCounterDataImageInitialize, cupti_image_init, p, image)
struct image *image = (void *)p->image;
if (p->bytes != sizeof *image) {
    return BAD_PARAMETER;
}
*image = (struct image){.magic = MAGIC_SAMPLES, .capacity = n_sampled_at_once};
return 0;
}

FUNCTION(cuptiPmSamplingDecodeData, cupti_pm_decode, p, overflow)
struct image *image = (void *)p->image;
if (image->magic != MAGIC_SAMPLES || image->n > 0) {
    return BAD_OPERATION;    // a new one, or one that was reset
}
p->overflow = (uint8_t)mock_counters.overflow;
if (p->overflow) {
    return COUNTERS_BUFFER_FULL;
}
image->first = decoded;
image->n = mock_counters.n_ready < image->capacity ? mock_counters.n_ready : image->capacity;
mock_counters.n_ready -= image->n;
decoded += image->n;
p->stop_reason = mock_counters.n_ready > 0 ? COUNTERS_IMAGE_FULL : mock_counters.started ? 0 : 2;
return 0;
}

FUNCTION(cuptiPmSamplingGetCounterDataInfo, cupti_pm_info, p, completed)
const struct image *image = (const void *)p->image;
p->total = (size_t)image->capacity;
p->populated = p->completed = (size_t)image->n;
return 0;
}

FUNCTION(cuptiPmSamplingCounterDataGetSampleInfo, cupti_pm_sample, p, end)
const struct image *image = (const void *)p->image;
p->begin = (uint64_t)(mock_counters.first_ns + (image->first + (int64_t)p->index) * mock_counters.interval_ns);
p->end = p->begin + (uint64_t)mock_counters.interval_ns;
return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Ranges

FUNCTION(cuptiProfilerGetCounterAvailability, cupti_range_availability, p, image)
p->bytes = 8;
if (p->image) {
    memset(p->image, 0xab, 8);
}
return 0;
}

FUNCTION(cuptiRangeProfilerEnable, cupti_range_enable, p, object)
p->object = &mock_counters;
mock_counters.enabled = 1;
return 0;
}

FUNCTION(cuptiRangeProfilerDisable, cupti_range_object, p, object)
bool busy = session;
mock_counters.enabled = session = in_range = false;
return busy ? BAD_OPERATION : 0;
}

FUNCTION(cuptiRangeProfilerSetConfig, cupti_range_config, p, target_level)
current = (void *)p->image;
return p->range == COUNTERS_USER_RANGE && p->replay == COUNTERS_USER_REPLAY && p->n_levels == 1 && p->min_level == 1 &&
               p->target_level == 1 && p->pass == 0 && p->max_ranges <= MOCK_RANGES && !session
           ? 0
           : BAD_PARAMETER;
}

FUNCTION(cuptiRangeProfilerStart, cupti_range_object, p, object)
if (session || !current || current->magic != MAGIC_RANGES || current->n > 0) {
    return BAD_OPERATION;
}
session = true;
mock_counters.sessions++;
return 0;
}

FUNCTION(cuptiRangeProfilerPushRange, cupti_range_push, p, name)
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

FUNCTION(cuptiRangeProfilerPopRange, cupti_range_object, p, object)
if (!in_range) {
    return BAD_OPERATION;
}
int32_t at = MOCK_RANGES - 1 - current->n++;
current->range[at].read = mock_counters.read_bytes - read_before;
current->range[at].written = mock_counters.written_bytes - written_before;
in_range = false;
return 0;
}

FUNCTION(cuptiRangeProfilerStop, cupti_range_stop, p, all_submitted)
if (!session || in_range) {
    return BAD_OPERATION;
}
session = false;
p->all_submitted = !mock_counters.more_passes;
return 0;
}

FUNCTION(cuptiRangeProfilerDecodeData, cupti_range_decode, p, dropped)
memmove(current->range, &current->range[MOCK_RANGES - current->n], (size_t)current->n * sizeof current->range[0]);
p->dropped = (size_t)mock_counters.dropped;
return 0;
}

FUNCTION(cuptiRangeProfilerGetCounterDataSize, cupti_range_image_size, p, bytes)
p->bytes = sizeof(struct image);
return p->max_ranges <= MOCK_RANGES && p->max_nodes >= p->max_ranges ? 0 : BAD_PARAMETER;
}

FUNCTION(cuptiRangeProfilerCounterDataImageInitialize, cupti_image_init, p, image)
struct image *image = (void *)p->image;
*image = (struct image){.magic = MAGIC_RANGES, .capacity = MOCK_RANGES};
return p->bytes == sizeof *image ? 0 : BAD_PARAMETER;
}

FUNCTION(cuptiRangeProfilerGetCounterDataInfo, cupti_range_info, p, n)
p->n = (size_t)((const struct image *)(const void *)p->image)->n;
return 0;
}

FUNCTION(cuptiRangeProfilerCounterDataGetRangeInfo, cupti_range_name, p, name)
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
