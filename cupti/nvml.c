// cupti/nvml.c - the few functions of NVML that we use, by our own declarations.
//
// NVML's structures and enumerations are part of its binary interface, which has been stable since it exists: functions
// that changed have got a suffix (_v2).
#include "cupti/nvml.h"

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "cupti/counters_api.h"
#include "engine/status.h"

enum { NVML_CLOCK_SM = 1, NVML_CLOCK_MEM = 2, NVML_TEMPERATURE_GPU = 0, BUS_ID_BYTES = 32 };

// Reasons for which clocks are below their highest. Idleness and clocks that an application asked for are none.
static const uint64_t power_reasons = 0x4 | 0x80;                     // software power cap, hardware power brake
static const uint64_t heat_reasons = 0x20 | 0x40;                     // software and hardware thermal slowdown
static const uint64_t harmless_reasons = 0x1 | 0x2 | 0x10 | 0x100;    // idle, chosen clocks, sync boost, display

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml {
    void *library;    // stays loaded
    void *device;     // NVML's
    int (*init)(void);
    int (*shutdown)(void);
    const char *(*error_string)(int result);
    int (*device_by_bus_id)(const char *bus_id, void **device);
    int (*clock)(void *device, int type, unsigned *mhz);
    int (*power)(void *device, unsigned *milliwatt);
    int (*energy)(void *device, unsigned long long *millijoule);
    int (*temperature)(void *device, int sensor, unsigned *celsius);
    int (*memory)(void *device, struct nvml_memory *memory);
    int (*reasons)(void *device, unsigned long long *mask);
};

static const struct symbol {
    size_t offset;
    const char *name;
} symbols[] = {
    {offsetof(struct nvml, init), "nvmlInit_v2"},
    {offsetof(struct nvml, shutdown), "nvmlShutdown"},
    {offsetof(struct nvml, error_string), "nvmlErrorString"},
    {offsetof(struct nvml, device_by_bus_id), "nvmlDeviceGetHandleByPciBusId_v2"},
    {offsetof(struct nvml, clock), "nvmlDeviceGetClockInfo"},
    {offsetof(struct nvml, power), "nvmlDeviceGetPowerUsage"},
    {offsetof(struct nvml, energy), "nvmlDeviceGetTotalEnergyConsumption"},
    {offsetof(struct nvml, temperature), "nvmlDeviceGetTemperature"},
    {offsetof(struct nvml, memory), "nvmlDeviceGetMemoryInfo"},
    {offsetof(struct nvml, reasons), "nvmlDeviceGetCurrentClocksThrottleReasons"},
};

static int load(struct nvml *nvml, const char *path)
{
    nvml->library = dlopen(path ? path : "libnvidia-ml.so.1", RTLD_NOW | RTLD_NODELETE);
    if (!nvml->library) {
        return status_fail(-ENOTSUP, "NVML (libnvidia-ml.so.1, part of the NVIDIA driver) was not found");
    }
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        void *symbol = dlsym(nvml->library, symbols[i].name);
        if (!symbol) {
            return status_fail(-ENOTSUP, "NVML lacks %s: update the NVIDIA driver", symbols[i].name);
        }
        *(void **)((char *)nvml + symbols[i].offset) = symbol;
    }
    return 0;
}

int nvml_open(struct nvml **out, int32_t device, const char *nvml_library, const char *driver_library)
{
    char bus_id[BUS_ID_BYTES];
    *out = NULL;
    struct nvml *nvml = calloc(1, sizeof *nvml);
    if (!nvml) {
        return status_fail(-ENOMEM, "no memory for NVML");
    }
    int error = load(nvml, nvml_library);
    error = error ? error : counters_bus_id(bus_id, sizeof bus_id, device, driver_library);
    int result = error ? 0 : nvml->init();
    if (error || result) {
        error = error ? error : status_fail(-ENOTSUP, "NVML does not start: %s", nvml->error_string(result));
        free(nvml);
        return error;
    }
    result = nvml->device_by_bus_id(bus_id, &nvml->device);
    if (result) {
        error = status_fail(-ENOTSUP, "NVML does not know the GPU at %s: %s", bus_id, nvml->error_string(result));
        nvml_close(nvml);
        return error;
    }
    *out = nvml;
    return 0;
}

void nvml_close(struct nvml *nvml)
{
    if (nvml) {
        nvml->shutdown();
        free(nvml);
    }
}

void nvml_read(struct nvml *nvml, struct nvml_reading *out)
{
    unsigned value = 0;
    unsigned long long wide = 0;
    struct nvml_memory memory = {0};
    out->sm_clock_mhz = nvml->clock(nvml->device, NVML_CLOCK_SM, &value) == 0 ? (double)value : NAN;
    out->memory_clock_mhz = nvml->clock(nvml->device, NVML_CLOCK_MEM, &value) == 0 ? (double)value : NAN;
    out->power_w = nvml->power(nvml->device, &value) == 0 ? (double)value * 1e-3 : NAN;
    out->energy_j = nvml->energy(nvml->device, &wide) == 0 ? (double)wide * 1e-3 : NAN;
    out->temperature_c = nvml->temperature(nvml->device, NVML_TEMPERATURE_GPU, &value) == 0 ? (double)value : NAN;
    out->memory_bytes = nvml->memory(nvml->device, &memory) == 0 ? (double)memory.used : NAN;
    bool known = nvml->reasons(nvml->device, &wide) == 0;
    uint64_t other = ~(power_reasons | heat_reasons | harmless_reasons);
    out->slowed_by_power = known ? (wide & power_reasons) != 0 : NAN;
    out->slowed_by_heat = known ? (wide & heat_reasons) != 0 : NAN;
    out->slowed_otherwise = known ? (wide & other) != 0 : NAN;
}
