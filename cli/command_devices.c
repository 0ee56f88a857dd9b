// cli/command_devices.c - what is here and what is known: this machine's rates, the backends, the table of devices.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/table.h"
#include "cupti/cupti_activity.h"
#include "cupti/nvml.h"
#include "cupti/nvtx.h"
#include "cupti/perf_events.h"
#include "cupti/pm_sampling.h"
#include "engine/status.h"
#include "sim/device.h"

static const struct table_column host_columns[] = {
    {"quantity", "this machine", -1},
    {"value", "value", 2},
    {"unit", "unit", -1},
    {"source", "measured as", -1},
};

static const struct table_column backend_columns[] = {
    {"backend", "backend", -1},
    {"available", "available", -1},
    {"why", "", -1},
};

static const struct table_column collector_columns[] = {
    {"collects", "collects", -1},
    {"state", "", -1},
};

static const struct table_column device_columns[] = {
    {"device", "device", -1},
    {"gb_per_s", "GB/s", 0},
    {"f32_tflops", "f32 Tflop/s", 1},
    {"bf16_tflops", "bf16", 1},
    {"fp8_tflops", "fp8", 1},
    {"memory_gb", "GB", 1},
    {"memory_overhead_gb", "taken GB", 1},
    {"link_gb_per_s", "link GB/s", 0},
    {"link_us", "link us", 1},
    {"launch_us", "launch us", 1},
    {"price_per_hour", "$/h", 2},
    {"serving_w", "serving W", 0},
    {"provenance", "rates", -1},
};

static const struct table_column source_columns[] = {
    {"device", "device", -1}, {"figure", "figure", -1},        {"value", "value", 6},
    {"unit", "unit", -1},     {"provenance", "figure is", -1}, {"source", "source", -1},
};

// The figures of a device in the order in which they are printed, in units for people.
struct figure {
    const char *name, *unit;
    const struct device_figure *figure;
    double scale;
};

enum { N_FIGURES = 11 };

static void list_figures(struct figure *out, const struct device *device)
{
    const struct figure figures[N_FIGURES] = {
        {"gb_per_s", "GB/s", &device->bytes_per_s, 1e-9},
        {"f32_tflops", "Tflop/s", &device->flops_per_s[DTYPE_F32], 1e-12},
        {"bf16_tflops", "Tflop/s", &device->flops_per_s[DTYPE_BF16], 1e-12},
        {"fp8_tflops", "Tflop/s", &device->flops_per_s[DTYPE_FP8], 1e-12},
        {"memory_gb", "GB", &device->memory_bytes, 1e-9},
        {"memory_overhead_gb", "GB", &device->memory_overhead_bytes, 1e-9},
        {"link_gb_per_s", "GB/s", &device->link_bytes_per_s, 1e-9},
        {"link_us", "us", &device->link_s, 1e6},
        {"launch_us", "us", &device->launch_s, 1e6},
        {"price_per_hour", "$/h", &device->price_per_hour, 1},
        {"serving_w", "W", &device->serving_power_w, 1},
    };
    memcpy(out, figures, sizeof figures);
}

static void add_host_row(struct table *table, const char *quantity, double value, const char *unit, const char *source)
{
    table_row(table);
    table_text(table, "quantity", quantity);
    table_number(table, "value", value);
    table_text(table, "unit", unit);
    table_text(table, "source", source);
}

static void add_host(struct table *table, const struct device *host)
{
    char name[96];
    device_describe_host(name, sizeof name);
    table_row(table);
    table_text(table, "quantity", "processor");
    table_text(table, "value", name);
    table_text(table, "unit", "");
    table_text(table, "source", "");
    add_host_row(table, "threads", host->threads, "threads", "");
    for (int32_t i = 0; i < host->n_curve; i++) {
        char quantity[64];
        snprintf(quantity, sizeof quantity, "read, working set up to %.1f MB", 1e-6 * host->curve_bytes[i]);
        add_host_row(table, quantity, 1e-9 * host->curve_bytes_per_s[i], "GB/s", "");
    }
    add_host_row(table, "read, memory", 1e-9 * host->bytes_per_s.value, "GB/s", host->bytes_per_s.source);
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const struct device_figure *rate = &host->flops_per_s[i];
        char quantity[32];
        snprintf(quantity, sizeof quantity, "multiply-adds, %s", dtype_name((enum dtype)i));
        if (rate->value > 0) {
            add_host_row(table, quantity, 1e-9 * rate->value, "Gflop/s", rate->source);
        }
    }
    add_host_row(table, "start and join of all threads", 1e6 * host->launch_s.value, "us", host->launch_s.source);
    add_host_row(table, "memory", 1e-9 * host->memory_bytes.value, "GB", host->memory_bytes.source);
}

static void add_backends(struct table *table)
{
    static const char *const names[] = {"reference", "cpu", "cuda"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct backend *backend;
        int error = backend_find(&backend, names[i]);
        table_row(table);
        table_text(table, "backend", names[i]);
        table_text(table, "available", error ? "no" : "yes");
        table_text(table, "why", error ? status_text() : "");
    }
}

static void add_device(struct table *devices, struct table *sources, const struct device *device)
{
    struct figure figures[N_FIGURES];
    list_figures(figures, device);
    table_row(devices);
    table_text(devices, "device", device->name);
    table_text(devices, "provenance", provenance_name(device->bytes_per_s.provenance));
    for (int i = 0; i < N_FIGURES; i++) {
        if (!(figures[i].figure->value > 0)) {
            continue;    // unknown: stays "-"
        }
        double value = figures[i].figure->value * figures[i].scale;
        table_number(devices, figures[i].name, value);
        table_row(sources);
        table_text(sources, "device", device->name);
        table_text(sources, "figure", figures[i].name);
        table_number(sources, "value", value);
        table_text(sources, "unit", figures[i].unit);
        table_text(sources, "provenance", provenance_name(figures[i].figure->provenance));
        table_text(sources, "source", figures[i].figure->source);
    }
}

static void add_collector(struct table *table, const char *collects, const char *state)
{
    table_row(table);
    table_text(table, "collects", collects);
    table_text(table, "state", state);
}

// What sees into a run here, beside the clock.
static void add_collectors(struct table *table)
{
    char cupti[640];
    add_collector(table, "kernels (CUPTI)", activity_describe(cupti, sizeof cupti) == 0 ? cupti : status_text());
    add_collector(table, "ranges for nsys, ncu (NVTX)", nvtx_state());
    struct pm_sampler *sampler;
    struct nvml *nvml;
    struct perf_events *events;
    const struct pm_options options = {0};
    bool refused = pm_sampler_open(&sampler, &options) != 0;
    add_collector(table, "hardware counters (CUPTI)", refused ? status_text() : "permitted");
    pm_sampler_close(sampler);
    add_collector(table, "clocks, power, energy (NVML)", nvml_open(&nvml, 0, NULL, NULL) ? status_text() : "here");
    nvml_close(nvml);
    add_collector(table, "CPU counters", perf_events_open(&events) ? status_text() : "permitted");
    perf_events_close(events);
}

struct devices {
    const char *file;
    int32_t threads;
    bool json, sources;
};

enum { HOST, BACKENDS, COLLECTORS, DEVICES, SOURCES, N_TABLES };

static void print_tables(struct table *const *tables, const struct devices *options)
{
    int n = options->sources ? N_TABLES : SOURCES;
    if (options->json) {
        const struct table *all[N_TABLES] = {tables[HOST], tables[BACKENDS], tables[COLLECTORS], tables[DEVICES],
                                            tables[SOURCES]};
        tables_print_json(all, n, stdout);
        return;
    }
    for (int i = 0; i < n; i++) {
        if (i) {
            putchar('\n');
        }
        table_print(tables[i], stdout);
    }
    printf("\nRates of this machine are the best of short passes with all threads at once; those of other devices are "
           "their\n"
           "peaks for dense matrices. Unknown figures stay unknown (-). --sources says where each figure is from.\n");
}

static int run(const struct devices *options)
{
    struct device *known = NULL, host;
    int32_t n_known = 0;
    struct table *tables[N_TABLES] = {
        table_open("host", host_columns, sizeof host_columns / sizeof host_columns[0]),
        table_open("backends", backend_columns, sizeof backend_columns / sizeof backend_columns[0]),
        table_open("collectors", collector_columns, sizeof collector_columns / sizeof collector_columns[0]),
        table_open("devices", device_columns, sizeof device_columns / sizeof device_columns[0]),
        table_open("sources", source_columns, sizeof source_columns / sizeof source_columns[0]),
    };
    int error = 0;
    for (int i = 0; i < N_TABLES; i++) {
        error = tables[i] ? error : status_fail(-ENOMEM, "no memory for a table");
    }
    error = error ? error : device_table_load(&known, &n_known, options->file);
    error = error ? error : device_measure_host(&host, options->threads);
    if (!error) {
        add_host(tables[HOST], &host);
        add_backends(tables[BACKENDS]);
        add_collectors(tables[COLLECTORS]);
        for (int32_t i = 0; i < n_known; i++) {
            add_device(tables[DEVICES], tables[SOURCES], &known[i]);
        }
        print_tables(tables, options);
    }
    for (int i = 0; i < N_TABLES; i++) {
        table_close(tables[i]);
    }
    free(known);
    return error;
}

int command_devices(int argc, char **argv)
{
    struct devices devices = {0};
    const struct option_spec options[] = {
        {"devices", OPTION_TEXT, &devices.file, 0, 0, "FILE", "a table of your own, in the form of sim/devices.json"},
        {"threads", OPTION_INT, &devices.threads, 0, 1024, "threads", "to measure this machine with; 0: all"},
        {"sources", OPTION_FLAG, &devices.sources, 0, 0, NULL, "where each figure of the table is from"},
        {"json", OPTION_FLAG, &devices.json, 0, 0, NULL, "print JSON"},
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {
        "devices", "What is here (measured in about a second) and what is known.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 0) {
        error = run(&devices);
    }
    return error >= 0 ? EXIT_DONE : command_fail("devices", error);
}
