// cli/counting.c - hardware counters of a run, for people and for machines.
#include "cli/counting.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/status.h"

static const struct table_column counted_columns[] = {
    {"method", "method", -1},        {"phase", "phase", -1},        {"stage", "stage", -1},
    {"count", "count", 0},           {"model_mb", "model MB", 2},   {"read_mb", "read MB", 2},
    {"written_mb", "written MB", 2}, {"ratio", "moved / model", 3},
};

// The metrics that a table shows, by the names of those who count them.
struct shown {
    const char *metric;
    double scale;
    struct table_column column;
};

static const struct shown gpu_metrics[] = {
    {"dram__bytes_read.sum", 1e-9, {"dram_read_gb_per_s", "read GB/s", 1}},
    {"dram__bytes_write.sum", 1e-9, {"dram_write_gb_per_s", "written GB/s", 1}},
    {"gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", 1, {"dram_percent", "DRAM %", 1}},
    {"sm__cycles_active.avg.pct_of_peak_sustained_elapsed", 1, {"sm_active_percent", "SM active %", 1}},
    {"sm__warps_active.avg.pct_of_peak_sustained_active", 1, {"warps_percent", "warps %", 1}},
    {"sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed", 1, {"tensor_percent", "tensor %", 1}},
    {"LTS.TriageCompute.lts__average_t_sector_hit_rate_realtime.pct", 1, {"l2_hit_percent", "L2 hit %", 1}},
    {"gpc__cycles_elapsed.avg.per_second", 1e-6, {"clock_mhz", "clock MHz", 0}},
};

static const struct shown cpu_metrics[] = {
    {"cycles", 1e-9, {"g_cycles_per_s", "G cycles/s", 2}},
    {"instructions", 1e-9, {"g_instructions_per_s", "G instr./s", 2}},
    {"LLC misses", 1e-6, {"m_misses_per_s", "M LLC misses/s", 2}},
};

enum {
    GPU_METRICS = sizeof gpu_metrics / sizeof gpu_metrics[0],
    CPU_METRICS = sizeof cpu_metrics / sizeof cpu_metrics[0],
    FIRST_METRIC = 4    // columns before the metrics
};

// ---------------------------------------------------------------------------------------------------------------------
// A run

int counting_open(struct counting *out, bool gpu, int32_t device, const struct sample_sink *sink)
{
    struct counters_options options = {.gpu = gpu, .device = device, .sink = *sink};
    int error = counters_open(&out->counters, &options);
    for (int32_t i = 0; !error && counters_note(out->counters, i); i++) {
        fprintf(stderr, "not counted: %s\n", counters_note(out->counters, i));
    }
    return error;
}

void counting_stop(struct counting *counting)
{
    if (counting->counters) {
        int32_t told = 0;
        while (counters_note(counting->counters, told)) {
            told++;
        }
        counters_stop(counting->counters);
        for (; counters_note(counting->counters, told); told++) {
            fprintf(stderr, "counting ended early: %s\n", counters_note(counting->counters, told));
        }
    }
}

void counting_close(struct counting *counting)
{
    counters_close(counting->counters);
    stage_counts_close(counting->counts);
    *counting = (struct counting){0};
}

// ---------------------------------------------------------------------------------------------------------------------
// Tables

int counting_tables_open(struct table **tables, bool gpu)
{
    const struct shown *metrics = gpu ? gpu_metrics : cpu_metrics;
    int32_t n = gpu ? GPU_METRICS : CPU_METRICS;
    struct table_column columns[FIRST_METRIC + GPU_METRICS] = {
        {"method", "method", -1}, {"phase", "phase", -1}, {"stage", "stage", -1}, {"count", "count", 0}};
    for (int32_t i = 0; i < n; i++) {
        columns[FIRST_METRIC + i] = metrics[i].column;
    }
    tables[COUNTING_COUNTED] =
        table_open("counted", counted_columns, sizeof counted_columns / sizeof counted_columns[0]);
    tables[COUNTING_SAMPLED] = table_open("sampled", columns, FIRST_METRIC + n);
    return tables[COUNTING_COUNTED] && tables[COUNTING_SAMPLED] ? 0 : status_fail(-ENOMEM, "out of memory for tables");
}

static void begin_row(struct table *table, const char *method, enum phase phase, enum stage stage, int64_t count)
{
    table_row(table);
    table_text(table, "method", method);
    table_text(table, "phase", phase_name(phase));
    table_text(table, "stage", stage_name(stage));
    table_number(table, "count", (double)count);
}

static void add_counted(struct table *table, const char *method, const struct stage_counts *counts)
{
    struct {
        int64_t count, model, read, written;
    } sums[PHASE_COUNT][STAGE_COUNT] = {0};
    int64_t n;
    const struct stage_count *all = stage_counts_all(counts, &n);
    for (int64_t i = 0; i < n; i++) {
        sums[all[i].phase][all[i].stage.stage].count++;
        sums[all[i].phase][all[i].stage.stage].model += all[i].stage.bytes;
        sums[all[i].phase][all[i].stage.stage].read += all[i].read_bytes;
        sums[all[i].phase][all[i].stage.stage].written += all[i].written_bytes;
    }
    for (int phase = 0; phase < PHASE_COUNT; phase++) {
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            int64_t moved = sums[phase][stage].read + sums[phase][stage].written, model = sums[phase][stage].model;
            if (sums[phase][stage].count == 0) {
                continue;
            }
            begin_row(table, method, (enum phase)phase, (enum stage)stage, sums[phase][stage].count);
            table_number(table, "model_mb", (double)model * 1e-6);
            table_number(table, "read_mb", (double)sums[phase][stage].read * 1e-6);
            table_number(table, "written_mb", (double)sums[phase][stage].written * 1e-6);
            table_number(table, "ratio", model > 0 ? (double)moved / (double)model : NAN);
        }
    }
}

static const struct shown *find_shown(const char *metric)
{
    for (int32_t i = 0; i < GPU_METRICS + CPU_METRICS; i++) {
        const struct shown *shown = i < GPU_METRICS ? &gpu_metrics[i] : &cpu_metrics[i - GPU_METRICS];
        if (strcmp(shown->metric, metric) == 0) {
            return shown;
        }
    }
    return NULL;
}

static void add_sampled(struct table *table, const char *method, const struct counters *counters)
{
    struct counters_average average;
    for (int32_t i = 0; counters_average(counters, i, &average); i++) {
        begin_row(table, method, average.phase, average.stage, average.n);
        for (int32_t m = 0; m < counters_metrics(counters); m++) {
            const char *unit;
            const struct shown *shown = find_shown(counters_metric(counters, m, &unit));
            if (shown) {
                table_number(table, shown->column.key, average.value[m] * shown->scale);
            }
        }
    }
}

void counting_tables_add(struct table *const *tables, const char *method, const struct counting *counting)
{
    if (counting->counts) {
        add_counted(tables[COUNTING_COUNTED], method, counting->counts);
    }
    if (counting->counters) {
        add_sampled(tables[COUNTING_SAMPLED], method, counting->counters);
    }
}
