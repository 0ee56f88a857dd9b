// tests/test_nvml.c - readings of NVML, from a library that stands in for it: units, absence, what cannot be read.
#include <dlfcn.h>
#include <errno.h>

#include "cupti/nvml.h"
#include "engine/status.h"
#include "tests/check.h"
#include "tests/mock/counters.h"

static void reads_with_units(struct mock_counters *mock)
{
    struct nvml *nvml;
    struct nvml_reading r;
    *mock = (struct mock_counters){
        .sm_clock = (uint32_t)check_range(200, 2000),
        .memory_clock = (uint32_t)check_range(1000, 3000),
        .milliwatt = (uint32_t)check_range(50000, 700000),
        .celsius = (uint32_t)check_range(20, 90),
        .memory_used = check_random() >> 24,
        .millijoule = check_random() >> 24,
    };
    CHECK(nvml_open(&nvml, 1, COUNTERS_MOCK, COUNTERS_MOCK) == 0);
    CHECK_MESSAGE(strcmp(mock->bus_id, "0000:0B:00.0") == 0, "asked for %s", mock->bus_id);
    nvml_read(nvml, &r);
    CHECK(r.sm_clock_mhz == mock->sm_clock && r.memory_clock_mhz == mock->memory_clock);
    CHECK(fabs(r.power_w - mock->milliwatt * 1e-3) < 1e-6);
    CHECK(fabs(r.energy_j - (double)mock->millijoule * 1e-3) <= 1e-3);
    CHECK(r.temperature_c == mock->celsius && r.memory_bytes == (double)mock->memory_used);
    CHECK(mock->nvml_open == 1);
    nvml_close(nvml);
    CHECK(mock->nvml_open == 0);
}

static void tells_why_clocks_are_low(struct mock_counters *mock)
{
    static const struct {
        uint64_t mask;
        double power, heat, other;
    } cases[] = {
        {0, 0, 0, 0},    {0x1, 0, 0, 0},  {0x4, 1, 0, 0}, {0x80, 1, 0, 0},
        {0x20, 0, 1, 0}, {0x40, 0, 1, 0}, {0x8, 0, 0, 1}, {0x4 | 0x40 | 0x200, 1, 1, 1},
    };
    struct nvml *nvml;
    struct nvml_reading r;
    *mock = (struct mock_counters){0};
    CHECK(nvml_open(&nvml, 0, COUNTERS_MOCK, COUNTERS_MOCK) == 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mock->reasons = cases[i].mask;
        nvml_read(nvml, &r);
        CHECK_MESSAGE(r.slowed_by_power == cases[i].power && r.slowed_by_heat == cases[i].heat &&
                          r.slowed_otherwise == cases[i].other,
                      "reasons %#llx: %g %g %g", (unsigned long long)cases[i].mask, r.slowed_by_power, r.slowed_by_heat,
                      r.slowed_otherwise);
    }
    nvml_close(nvml);
}

static void unknown_is_not_zero(struct mock_counters *mock)
{
    struct nvml *nvml;
    struct nvml_reading r = {0};
    *mock = (struct mock_counters){.sm_clock = 1000, .nvml_fails = 3};
    CHECK(nvml_open(&nvml, 0, COUNTERS_MOCK, COUNTERS_MOCK) == 0);
    nvml_read(nvml, &r);
    const double *values = &r.sm_clock_mhz;
    for (size_t i = 0; i < sizeof r / sizeof *values; i++) {
        CHECK_MESSAGE(isnan(values[i]), "value %zu is %g", i, values[i]);
    }
    nvml_close(nvml);
}

static void absence_has_a_reason(struct mock_counters *mock)
{
    struct nvml *nvml = (struct nvml *)mock;
    *mock = (struct mock_counters){0};
    CHECK(nvml_open(&nvml, 0, "/nowhere/libnvidia-ml.so.1", COUNTERS_MOCK) == -ENOTSUP && !nvml);
    CHECK_MESSAGE(strstr(status_text(), "NVML"), "%s", status_text());
    CHECK(nvml_open(&nvml, 0, COUNTERS_MOCK, "/nowhere/libcuda.so.1") == -ENOTSUP && !nvml);
    CHECK_MESSAGE(strstr(status_text(), "driver"), "%s", status_text());
    CHECK(nvml_open(&nvml, 5, COUNTERS_MOCK, COUNTERS_MOCK) == -ENOTSUP && !nvml);
    CHECK_MESSAGE(strstr(status_text(), "device 5"), "%s", status_text());
    CHECK(mock->nvml_open == 0);
    nvml_close(NULL);
}

int main(void)
{
    check_begin();
    void *library = dlopen(COUNTERS_MOCK, RTLD_NOW);
    struct mock_counters *mock = library ? dlsym(library, "mock_counters") : NULL;
    CHECK_MESSAGE(mock, "%s: %s", COUNTERS_MOCK, dlerror());
    if (mock) {
        reads_with_units(mock);
        tells_why_clocks_are_low(mock);
        unknown_is_not_zero(mock);
        absence_has_a_reason(mock);
    }
    return check_end();
}
