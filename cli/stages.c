// cli/stages.c - stage statistics as tables.
#include "cli/stages.h"

#include <math.h>
#include <string.h>

static const struct table_column columns[] = {
    {"method", "method", -1},
    {"phase", "phase", -1},
    {"stage", "stage", -1},
    {"count", "count", 0},
    {"total_ms", "total ms", 2},
    {"share_percent", "share %", 1},
    {"median_us", "median us", 1},
    {"p95_us", "P95 us", 1},
    {"gb_per_s", "GB/s", 2},
    {"gflop_per_s", "GFLOP/s", 2},
};

static const char *method_of(const struct trace_summary *summary, int32_t source)
{
    int32_t n;
    const struct sample_source *sources = trace_summary_sources(summary, &n);
    for (int32_t i = 0; i < n; i++) {
        if (sources[i].id == source) {
            return sources[i].method;
        }
    }
    return "?";
}

static void add_row(struct table *table, const char *method, enum phase phase, const char *name, int64_t count,
                    int64_t total_ns, int64_t step_ns)
{
    table_row(table);
    table_text(table, "method", method);
    table_text(table, "phase", phase_name(phase));
    table_text(table, "stage", name);
    if (count >= 0) {
        table_number(table, "count", (double)count);
    }
    table_number(table, "total_ms", (double)total_ns * 1e-6);
    table_number(table, "share_percent", step_ns > 0 ? 100.0 * (double)total_ns / (double)step_ns : NAN);
}

static void add_spread(struct table *table, int64_t median_ns, int64_t p95_ns)
{
    table_number(table, "median_us", (double)median_ns * 1e-3);
    table_number(table, "p95_us", (double)p95_ns * 1e-3);
}

struct table *stages_of_all(const char *name, const struct trace_summary *summary)
{
    struct table *table = table_open(name, columns, sizeof columns / sizeof columns[0]);
    int32_t n_stages, n_steps;
    const struct summary_stage *stages = trace_summary_stages(summary, &n_stages);
    const struct summary_step *steps = trace_summary_steps(summary, &n_steps);
    for (int32_t i = 0; table && i < n_steps; i++) {
        const struct summary_step *step = &steps[i];
        const char *method = method_of(summary, step->source);
        for (int32_t j = 0; j < n_stages; j++) {
            const struct summary_stage *stage = &stages[j];
            if (stage->source != step->source || stage->phase != step->phase) {
                continue;
            }
            add_row(table, method, step->phase, stage_name(stage->stage), stage->count, stage->total_ns, step->staged_ns);
            add_spread(table, stage->median_ns, stage->p95_ns);
            if (stage->total_ns > 0) {    // bytes per ns are GB/s
                table_number(table, "gb_per_s", (double)stage->bytes / (double)stage->total_ns);
                table_number(table, "gflop_per_s", (double)stage->flops / (double)stage->total_ns);
            }
        }
        add_row(table, method, step->phase, "gaps", -1, step->gaps_ns, step->staged_ns);
        add_row(table, method, step->phase, "overlap", -1, step->overlap_ns, step->staged_ns);
        add_row(table, method, step->phase, "step", step->count, step->total_ns, step->total_ns);
        add_spread(table, step->median_ns, step->p95_ns);
    }
    return table;
}

static const struct summary_step *find_step(const struct trace_summary *summary, int32_t source, enum phase phase)
{
    int32_t n;
    const struct summary_step *steps = trace_summary_steps(summary, &n);
    for (int32_t i = 0; i < n; i++) {
        if (steps[i].source == source && steps[i].phase == phase) {
            return &steps[i];
        }
    }
    return NULL;
}

static int64_t stage_total_ns(const struct trace_summary *summary, int32_t source, enum phase phase, enum stage stage)
{
    int32_t n;
    const struct summary_stage *stages = trace_summary_stages(summary, &n);
    for (int32_t i = 0; i < n; i++) {
        if (stages[i].source == source && stages[i].phase == phase && stages[i].stage == stage) {
            return stages[i].total_ns;
        }
    }
    return -1;
}

// What one unit of the table is in ns: us of one of the `count` steps in decode, ms of the whole in prefill.
static double scale(enum phase phase, int64_t count)
{
    return phase == PHASE_DECODE ? 1e-3 / (double)count : 1e-6;
}

struct table *stages_by_method(const char *name, const struct trace_summary *summary, enum phase phase,
                               const char *const *names, const int32_t *sources, int32_t n)
{
    enum { MAX_COLUMNS = 33 };
    struct table_column by_method[MAX_COLUMNS] = {{"stage", "stage", -1}};
    n = n < MAX_COLUMNS - 1 ? n : MAX_COLUMNS - 1;
    for (int32_t i = 0; i < n; i++) {
        by_method[i + 1] = (struct table_column){names[i], names[i], phase == PHASE_DECODE ? 1 : 2};
    }
    struct table *table = table_open(name, by_method, n + 1);
    for (int32_t stage = 0; table && stage < STAGE_COUNT; stage++) {
        bool begun = false;
        for (int32_t i = 0; i < n; i++) {
            const struct summary_step *step = find_step(summary, sources[i], phase);
            int64_t total_ns = stage_total_ns(summary, sources[i], phase, (enum stage)stage);
            if (!step || total_ns < 0) {
                continue;
            }
            if (!begun) {
                table_row(table);
                table_text(table, "stage", stage_name((enum stage)stage));
                begun = true;
            }
            table_number(table, names[i], (double)total_ns * scale(phase, step->staged_count));
        }
    }
    static const char *const ends[] = {"gaps", "overlap", "step"};
    for (int row = 0; table && row < 3; row++) {
        table_row(table);
        table_text(table, "stage", ends[row]);
        for (int32_t i = 0; i < n; i++) {
            const struct summary_step *step = find_step(summary, sources[i], phase);
            if (step && (row == 2 || step->staged_count > 0)) {
                int64_t total_ns = row == 0 ? step->gaps_ns : row == 1 ? step->overlap_ns : step->total_ns;
                table_number(table, names[i], (double)total_ns * scale(phase, row == 2 ? step->count : step->staged_count));
            }
        }
    }
    return table;
}
