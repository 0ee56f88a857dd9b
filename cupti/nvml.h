// cupti/nvml.h - clocks, power, energy, temperature and memory of an NVIDIA GPU, through NVML, found at run time.
//
// A reading costs the driver some hundreds of microseconds: ten a second are plenty. What a device does not tell is
// NAN. Nothing here has a thread; one thread at a time may use a handle.
#pragma once

#include <stdint.h>

struct nvml;

struct nvml_reading {
    double sm_clock_mhz, memory_clock_mhz;
    double power_w;
    double energy_j;    // since the driver was loaded; ascends
    double temperature_c;
    double memory_bytes;                                         // in use, by all processes
    double slowed_by_power, slowed_by_heat, slowed_otherwise;    // 1: clocks are held down for this reason now; 0: not
};

// The device is the `device`-th of CUDA; its place on the bus is asked of the driver, because NVML counts otherwise.
// NULL libraries: the system's. -ENOTSUP with the reason.
int nvml_open(struct nvml **out, int32_t device, const char *nvml_library, const char *driver_library);
void nvml_close(struct nvml *nvml);    // NULL-safe

void nvml_read(struct nvml *nvml, struct nvml_reading *out);
