// tests/mock/counters.h - what a test says to the library that stands in for CUPTI, the driver and NVML.
//
// The library (tests/mock/counters_mock.c) exports one of these as `mock_counters`. A test loads it by its path, like
// the code under test, and so has the same one.
#pragma once

#include <stdint.h>

struct mock_counters {
    // A function of CUPTI that fails, by its name, and how. NULL: none.
    const char *fails;
    int result;
    // The device: bytes that its memory has moved so far. The test adds to them as work of its own.
    int64_t read_bytes, written_bytes;
    int32_t synchronized;    // calls of cuCtxSynchronize
    int32_t no_context;      // 1: the thread has none
    // Samples: n_ready more have been recorded since the last decoding. Sample i has 100 * (i + 1) + metric as its
    // values and lasts from first_ns + i * interval, on the real-time clock.
    _Atomic int32_t n_ready;    // a thread of the code under test decodes
    int32_t overflow;           // 1: the buffer was full, until the device is enabled anew
    int32_t decoded;            // samples so far
    int64_t first_ns, interval_ns;
    int32_t started, enabled, hosts;    // objects that are in use now
    // Ranges: how many sessions there were, and how many ranges CUPTI should say that it dropped.
    int32_t sessions, dropped, more_passes;
    // NVML. failing [function]: in the order of the slots of cupti/nvml.c, from the clock on.
    uint32_t sm_clock, memory_clock, milliwatt, celsius;
    uint64_t millijoule, memory_used, reasons;
    int32_t nvml_fails, nvml_open;
    char bus_id[32];    // what the handle was asked for
};
