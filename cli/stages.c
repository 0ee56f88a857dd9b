// cli/stages.c - stage statistics as tables.
#include "cli/stages.h"

#include <math.h>
#include <string.h>

#include "sim/predict.h"

static const struct table_column columns[] = {
    {"method", "method", -1},
    {"source", "source", 0},
    {"phase", "phase", -1},
    {"stage", "stage", -1},
    {"count", "count", 0},
    {"total_ms", "total ms", 3},
    {"share_percent", "% of step", 1},
    {"median_us", "median us", 1},
    {"p95_us", "P95 us", 1},
    {"gb_per_s", "GB/s", 1},
    {"tflop_per_s", "TFLOP/s", 3},
    {"roofline_percent", "% of roofline", 1},
    {"bound", "bound by", -1},
    {"counted_percent", "counted/model %", 1},
};

const char *const stages_definitions =
    "% of roofline: the least time for a stage's bytes and operations, over the time it took. counted/model: bytes\n"
    "to and from device memory as hardware counted them, over those that an ideal kernel moves (the GB/s).\n";

// One row; what is NAN is unknown.
struct figures {
    const char *stage;
    double count, total_ns, median_ns, p95_ns, bytes, flops, priced_ns, floor_ns;
    double measured_bytes, modelled_bytes;
    enum bound bound;
    double of_ns;    // what its share is of; 0: unknown
};

static void add_row(struct table *table, const struct sample_source *source, const struct summary_step *step,
                    const struct figures *row)
{
    // A stage without bytes and operations was not priced: that is unknown, not none.
    bool rates = row->total_ns > 0 && (row->bytes > 0 || row->flops > 0);
    table_row(table);
    table_text(table, "method", source->method);
    table_number(table, "source", source->id);
    table_text(table, "phase", phase_name(step->phase));
    table_text(table, "stage", row->stage);
    table_number(table, "count", row->count);
    table_number(table, "total_ms", row->total_ns * 1e-6);
    table_number(table, "share_percent", row->of_ns > 0 ? 100 * row->total_ns / row->of_ns : NAN);
    table_number(table, "median_us", row->median_ns * 1e-3);
    table_number(table, "p95_us", row->p95_ns * 1e-3);
    table_number(table, "gb_per_s", rates ? row->bytes / row->total_ns : NAN);    // bytes per ns are 10^9 bytes per s
    table_number(table, "tflop_per_s", rates ? 1e-3 * row->flops / row->total_ns : NAN);
    if (row->priced_ns > 0) {
        table_number(table, "roofline_percent", 100 * row->floor_ns / row->priced_ns);
        table_text(table, "bound", bound_name(row->bound));
    }
    if (row->modelled_bytes > 0) {
        table_number(table, "counted_percent", 100 * row->measured_bytes / row->modelled_bytes);
    }
}

static struct figures of_stage(const struct summary_stage *stage)
{
    static const enum bound bounds[SUMMARY_BOUNDS] = {
        [SUMMARY_BANDWIDTH] = BOUND_BANDWIDTH, [SUMMARY_COMPUTE] = BOUND_COMPUTE, [SUMMARY_LATENCY] = BOUND_LATENCY,
    };
    return (struct figures){
        .stage = stage_name(stage->stage), .count = (double)stage->count, .total_ns = (double)stage->total_ns,
        .median_ns = (double)stage->median_ns, .p95_ns = (double)stage->p95_ns, .bytes = (double)stage->bytes,
        .flops = (double)stage->flops, .priced_ns = stage->priced_ns, .floor_ns = stage->floor_ns,
        .measured_bytes = (double)stage->measured_bytes, .modelled_bytes = (double)stage->modelled_bytes,
        .bound = bounds[stage->bound],
    };
}

// How much a stage's row matters in that order; larger first. By roofline: what could be won there.
static double weight(const struct summary_stage *stage, enum stages_sort sort)
{
    switch (sort) {
    case STAGES_BY_TIME: return (double)stage->total_ns;
    case STAGES_BY_COUNT: return (double)stage->count;
    case STAGES_BY_MEDIAN: return (double)stage->median_ns;
    case STAGES_BY_ROOFLINE: return stage->priced_ns - stage->floor_ns;
    case STAGES_BY_ORDER: break;
    }
    return -(double)stage->stage;
}

// The stages of one (source, phase), then gaps, overlap and the step itself.
static void add_phase(struct table *table, const struct trace_summary *summary, const struct sample_source *source,
                      const struct summary_step *step, enum stages_sort sort)
{
    const struct summary_stage *chosen[STAGE_COUNT];
    int32_t n, n_chosen = 0;
    const struct summary_stage *stages = trace_summary_stages(summary, &n);
    for (int32_t i = 0; i < n; i++) {
        if (stages[i].source == step->source && stages[i].phase == step->phase && n_chosen < STAGE_COUNT) {
            int32_t at = n_chosen++;
            for (; at > 0 && weight(chosen[at - 1], sort) < weight(&stages[i], sort); at--) {
                chosen[at] = chosen[at - 1];
            }
            chosen[at] = &stages[i];
        }
    }
    double bytes = 0, flops = 0;
    for (int32_t i = 0; i < n_chosen; i++) {
        struct figures row = of_stage(chosen[i]);
        row.of_ns = (double)step->staged_ns;
        add_row(table, source, step, &row);
        bytes += row.bytes;
        flops += row.flops;
    }
    struct figures gaps = {"gaps", .count = NAN, .total_ns = (double)step->gaps_ns, .median_ns = NAN, .p95_ns = NAN,
                           .bytes = NAN, .flops = NAN, .of_ns = (double)step->staged_ns};
    struct figures overlap = gaps, whole = gaps;
    overlap.stage = "overlap";
    overlap.total_ns = (double)step->overlap_ns;
    whole = (struct figures){"step", .count = (double)step->count, .total_ns = (double)step->total_ns,
                             .median_ns = (double)step->median_ns, .p95_ns = (double)step->p95_ns,
                             .bytes = step->staged_count == step->count ? bytes : NAN,
                             .flops = step->staged_count == step->count ? flops : NAN,
                             .of_ns = (double)step->total_ns};
    if (step->staged_count > 0) {
        add_row(table, source, step, &gaps);
        add_row(table, source, step, &overlap);
    }
    add_row(table, source, step, &whole);
}

struct table *stages_of_all(const char *name, const struct trace_summary *summary, const char *method,
                            enum stages_sort sort)
{
    struct table *table = table_open(name, columns, sizeof columns / sizeof columns[0]);
    int32_t n_sources, n_steps;
    const struct sample_source *sources = trace_summary_sources(summary, &n_sources);
    const struct summary_step *steps = trace_summary_steps(summary, &n_steps);
    for (int32_t i = 0; table && i < n_sources; i++) {
        for (int32_t s = 0; s < n_steps; s++) {
            if (steps[s].source == sources[i].id && (!method || strcmp(sources[i].method, method) == 0)) {
                add_phase(table, summary, &sources[i], &steps[s], sort);
            }
        }
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
                table_number(table, names[i],
                             (double)total_ns * scale(phase, row == 2 ? step->count : step->staged_count));
            }
        }
    }
    return table;
}
