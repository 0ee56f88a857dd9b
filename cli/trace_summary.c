// cli/trace_summary.c - clsa trace summary: where a recording's time went, by stages and by kernels.
//
// A recording that was cut is shown as far as it goes; the error follows and decides the exit status.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/stages.h"
#include "cli/trace_rates.h"
#include "cli/trace_verbs.h"
#include "cupti/collector.h"
#include "engine/status.h"
#include "traces/kernel_name.h"
#include "traces/summary_kernels.h"
#include "traces/trace.h"

enum { KERNEL_NAME_BYTES = 256 };

struct summarise {
    const char *path, *method, *sort;
    bool json, kernels, whole_names;
    struct trace_rates_options rates_options;
    struct trace_rates *rates;
    struct trace_summary *summary;
    struct kernel_summary *kernel_summary;    // NULL: not asked for
};

static const struct table_column kernel_columns[] = {
    {"method", "method", -1},
    {"source", "source", 0},
    {"phase", "phase", -1},
    {"stage", "stage", -1},
    {"kernel", "kernel", -1},
    {"count", "count", 0},
    {"total_ms", "total ms", 3},
    {"share_percent", "% of stage", 1},
    {"median_us", "median us", 2},
    {"p95_us", "P95 us", 2},
    {"gb_per_s", "GB/s", 1},
    {"blocks", "blocks", -1},
    {"threads", "threads", -1},
    {"registers", "registers", 0},
    {"shared_bytes", "shared B", 0},
};

static const struct table_column rate_columns[] = {
    {"device", "device", -1},
    {"rates_of", "roofline at the rates of", -1},
    {"gb_per_s", "GB/s", 0},
    {"tflop_per_s", "TFLOP/s of weights", 1},
    {"provenance", "figures", -1},
};

static const struct table_column clock_columns[] = {
    {"method", "method", -1},
    {"source", "source", 0},
    {"phase", "phase", -1},
    {"steps", "steps", 0},
    {"events_ms", "by the device's events, ms", 3},
    {"stages_ms", "stages + gaps - overlap, ms", 3},
    {"off_percent", "off, %", 2},
};

static const struct table_column loss_columns[] = {
    {"dropped", "dropped", 0},
    {"invalid", "invalid", 0},
    {"stages_without_step", "stages without step", 0},
};

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))

// "128x4x1", with a '+' where later launches were of other shapes.
static void dimensions(char *out, size_t bytes, const int32_t *size, bool varies)
{
    snprintf(out, bytes, "%dx%dx%d%s", size[0], size[1], size[2], varies ? "+" : "");
}

static void add_kernel(struct table *table, const struct summarise *summarise, const struct sample_source *source,
                       const struct summary_kernel *row, int64_t group_ns)
{
    char name[KERNEL_NAME_BYTES], text[48];
    kernel_short_name(name, sizeof name, row->name);
    table_row(table);
    table_text(table, "method", source->method);
    table_number(table, "source", source->id);
    table_text(table, "phase", row->in_step ? phase_name(row->phase) : "none");
    table_text(table, "stage", row->stage < STAGE_COUNT ? stage_name(row->stage) : "none");
    table_text(table, "kernel", summarise->whole_names ? row->name : name);
    table_number(table, "count", (double)row->count);
    table_number(table, "total_ms", 1e-6 * (double)row->total_ns);
    table_number(table, "share_percent", group_ns > 0 ? 100 * (double)row->total_ns / (double)group_ns : NAN);
    table_number(table, "median_us", 1e-3 * (double)row->median_ns);
    table_number(table, "p95_us", 1e-3 * (double)row->p95_ns);
    if (row->work != WORK_KERNEL) {
        table_number(table, "gb_per_s", row->total_ns > 0 ? (double)row->bytes / (double)row->total_ns : NAN);
        return;
    }
    dimensions(text, sizeof text, row->grid, row->shape_changes > 0);
    table_text(table, "blocks", text);
    dimensions(text, sizeof text, row->block, row->shape_changes > 0);
    table_text(table, "threads", text);
    table_number(table, "registers", row->registers);
    table_number(table, "shared_bytes", row->static_shared_bytes + row->dynamic_shared_bytes);
}

static const struct sample_source *find_source(const struct sample_source *sources, int32_t n, int32_t id)
{
    const struct sample_source *found = NULL;
    for (int32_t i = 0; i < n; i++) {
        found = sources[i].id == id ? &sources[i] : found;
    }
    return found;
}

static bool wanted(const struct summarise *summarise, const struct sample_source *source)
{
    return !summarise->method || strcmp(source->method, summarise->method) == 0;
}

static bool same_group(const struct summary_kernel *a, const struct summary_kernel *b)
{
    return a->source == b->source && a->in_step == b->in_step && a->phase == b->phase && a->stage == b->stage;
}

static void add_kernels(struct table *table, const struct summarise *summarise)
{
    int32_t n, n_sources;
    const struct summary_kernel *rows = kernel_summary_rows(summarise->kernel_summary, &n);
    const struct sample_source *sources = trace_summary_sources(summarise->summary, &n_sources);
    int64_t group_ns = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct sample_source *source = find_source(sources, n_sources, rows[i].source);
        if (i == 0 || !same_group(&rows[i - 1], &rows[i])) {
            group_ns = 0;
            for (int32_t j = i; j < n && same_group(&rows[i], &rows[j]); j++) {
                group_ns += rows[j].total_ns;
            }
        }
        if (source && wanted(summarise, source)) {
            add_kernel(table, summarise, source, &rows[i], group_ns);
        }
    }
}

// Steps that the device timed as a whole, beside their stages on the device.
static void add_clocks(struct table *table, const struct summarise *summarise)
{
    int32_t n, n_sources;
    const struct summary_step *steps = trace_summary_steps(summarise->summary, &n);
    const struct sample_source *sources = trace_summary_sources(summarise->summary, &n_sources);
    for (int32_t i = 0; i < n; i++) {
        const struct sample_source *source = find_source(sources, n_sources, steps[i].source);
        if (steps[i].clocked_count == 0 || !source || !wanted(summarise, source)) {
            continue;
        }
        table_row(table);
        table_text(table, "method", source->method);
        table_number(table, "source", source->id);
        table_text(table, "phase", phase_name(steps[i].phase));
        table_number(table, "steps", (double)steps[i].clocked_count);
        table_number(table, "events_ms", 1e-6 * (double)steps[i].clocked_ns);
        table_number(table, "stages_ms", 1e-6 * (double)steps[i].clocked_stages_ns);
        table_number(table, "off_percent",
                     100 * ((double)steps[i].clocked_stages_ns / (double)steps[i].clocked_ns - 1));
    }
}

static void add_losses(struct table *table, const struct trace_summary *summary)
{
    struct summary_loss loss = trace_summary_loss(summary);
    table_row(table);
    table_number(table, "dropped", (double)loss.dropped);
    table_number(table, "invalid", (double)loss.invalid);
    table_number(table, "stages_without_step", (double)trace_summary_orphans(summary));
}

static int check_method(const struct summarise *summarise)
{
    char names[256] = "";
    int32_t n;
    const struct sample_source *sources = trace_summary_sources(summarise->summary, &n);
    for (int32_t i = 0; i < n; i++) {
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "", sources[i].method);
        if (wanted(summarise, &sources[i])) {
            return 0;
        }
    }
    return !summarise->method ? 0
                              : status_fail(-EINVAL, "--method %s: not in %s, which has: %s", summarise->method,
                                            summarise->path, n ? names : "no source");
}

// What floors are made of: one row per device of the recording.
static void add_rates(struct table *table, const struct summarise *summarise)
{
    int32_t n;
    const struct sample_source *sources = trace_summary_sources(summarise->summary, &n);
    for (int32_t i = 0; i < n; i++) {
        bool told = false;
        for (int32_t j = 0; j < i; j++) {
            told = told || strcmp(sources[j].device, sources[i].device) == 0;
        }
        if (told) {
            continue;
        }
        const struct device *device = trace_rates_find(summarise->rates, &sources[i]);
        table_row(table);
        table_text(table, "device", sources[i].device);
        if (device) {
            const struct device_figure *rate = device_rate(device, sources[i].weight_dtype);
            table_text(table, "rates_of", device->name);
            table_number(table, "gb_per_s", 1e-9 * device->bytes_per_s.value);
            table_number(table, "tflop_per_s", rate ? 1e-12 * rate->value : NAN);
            table_text(table, "provenance", provenance_name(device->bytes_per_s.provenance));
        } else {
            table_text(table, "rates_of",
                       "unknown: name them with --device (\"host\": this machine's) or --calibration");
        }
    }
}

// Why a recording names no kernel, as a line.
static const char *no_kernels(const struct summarise *summarise)
{
    int32_t n;
    const struct sample_source *sources = trace_summary_sources(summarise->summary, &n);
    bool gpu = false;
    for (int32_t i = 0; i < n; i++) {
        gpu = gpu || (wanted(summarise, &sources[i]) && strncmp(sources[i].backend, "cuda", strlen("cuda")) == 0);
    }
    return gpu ? "no kernels: this recording is of whole stages; clsa profile --collect kernel records each kernel"
               : "no kernels: only a GPU launches them, and these steps ran on none";
}

static void print_text(const struct summarise *summarise, const struct table *stages, const struct table *kernels,
                       const struct table *clocks, const struct table *rates)
{
    struct summary_loss loss = trace_summary_loss(summarise->summary);
    int64_t orphans = trace_summary_orphans(summarise->summary);
    table_print(stages, stdout);
    if (summarise->kernel_summary && table_rows(kernels) == 0) {
        printf("\n%s\n", no_kernels(summarise));
    } else if (summarise->kernel_summary) {
        putchar('\n');
        table_print(kernels, stdout);
    }
    if (table_rows(clocks) > 0) {
        putchar('\n');
        table_print(clocks, stdout);
    }
    putchar('\n');
    table_print(rates, stdout);
    if (loss.dropped > 0 || loss.invalid > 0 || orphans > 0) {
        printf("\nlost: records dropped %lld, invalid %lld; stages without their step %lld\n", (long long)loss.dropped,
               (long long)loss.invalid, (long long)orphans);
    }
    printf("\n%s", stages_definitions);
}

static int print(const struct summarise *summarise, enum stages_sort sort)
{
    struct table *stages = stages_of_all("stages", summarise->summary, summarise->method, sort);
    struct table *kernels = table_open("kernels", kernel_columns, COUNT(kernel_columns));
    struct table *losses = table_open("losses", loss_columns, COUNT(loss_columns));
    struct table *rates = table_open("rates", rate_columns, COUNT(rate_columns));
    struct table *clocks = table_open("clocks", clock_columns, COUNT(clock_columns));
    bool asked = summarise->kernel_summary != NULL, all = stages && kernels && losses && rates && clocks;
    int error = all ? 0 : status_fail(-ENOMEM, "out of memory for a table");
    if (!error) {
        const struct table *tables[5] = {stages, rates, losses, clocks, kernels};
        add_losses(losses, summarise->summary);
        add_rates(rates, summarise);
        add_clocks(clocks, summarise);
        if (asked) {
            add_kernels(kernels, summarise);
        }
        if (summarise->json) {
            tables_print_json(tables, asked ? 5 : 4, stdout);
        } else {
            print_text(summarise, stages, kernels, clocks, rates);
        }
    }
    table_close(stages);
    table_close(clocks);
    table_close(kernels);
    table_close(losses);
    table_close(rates);
    return error;
}

static int choose_sort(enum stages_sort *out, const char *name)
{
    static const char *const names[] = {"order", "time", "count", "median", "roofline"};
    for (int i = 0; i < COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum stages_sort)i;
            return 0;
        }
    }
    return status_fail(-EINVAL, "--sort %s: expected order, time, count, median or roofline", name);
}

static int run(struct summarise *summarise)
{
    enum stages_sort sort = STAGES_BY_ORDER;
    struct trace_stats stats = {0};
    int error = choose_sort(&sort, summarise->sort);
    error = error ? error : trace_rates_open(&summarise->rates, &summarise->rates_options);
    error = error ? error : trace_summary_open(&summarise->summary);
    error = error || !summarise->kernels ? error : kernel_summary_open(&summarise->kernel_summary);
    if (error) {
        return error;
    }
    struct summary_pricer pricer = trace_rates_pricer(summarise->rates);
    trace_summary_price(summarise->summary, &pricer);
    struct sample_fanout fanout = {.n = 1, .sinks = {trace_summary_sink(summarise->summary)}};
    if (summarise->kernel_summary) {
        fanout.sinks[fanout.n++] = kernel_summary_sink(summarise->kernel_summary);
    }
    struct sample_sink sink = sample_fanout_sink(&fanout);
    error = trace_read(summarise->path, &sink, &stats);
    if (error && !stats.truncated) {
        return error;
    }
    int cut = error;
    char why[512];
    snprintf(why, sizeof why, "%s", status_text());
    error = trace_summary_update(summarise->summary);
    error = error || !summarise->kernel_summary ? error : kernel_summary_update(summarise->kernel_summary);
    error = error ? error : check_method(summarise);
    error = error ? error : print(summarise, sort);
    return error ? error : cut ? status_fail(cut, "%s", why) : 0;
}

int trace_summarise(int argc, char **argv)
{
    struct summarise summarise = {.sort = "order"};
    const struct option_spec options[] = {
        {"method", OPTION_TEXT, &summarise.method, 0, 0, "NAME", "only sources with this method"},
        {"kernels", OPTION_FLAG, &summarise.kernels, 0, 0, NULL, "also each stage's kernels, copies and fills"},
        {"whole-names", OPTION_FLAG, &summarise.whole_names, 0, 0, NULL, "kernels' names as recorded, not shortened"},
        {"sort", OPTION_TEXT, &summarise.sort, 0, 0, "order|time|count|median|roofline",
         "of stages; roofline: by what could be won"},
        {"device", OPTION_TEXT, &summarise.rates_options.device, 0, 0, "NAME",
         "rates for the roofline (clsa devices, or \"host\": measured now); default: the recording's device"},
        {"devices", OPTION_TEXT, &summarise.rates_options.devices_file, 0, 0, "FILE",
         "a table of your own, in the form of sim/devices.json"},
        {"calibration", OPTION_TEXT, &summarise.rates_options.calibration_file, 0, 0, "FILE",
         "rates of the devices that it was made from"},
        {"json", OPTION_FLAG, &summarise.json, 0, 0, NULL, "print JSON"},
        {.kind = OPTION_END},
    };
    const struct command_spec spec = {
        "trace summary", "Where a trace's time went: per method, phase and stage; stages + gaps - overlap = step.",
        "FILE", 1, 1, options,
    };
    int32_t n;
    int error = options_parse(&spec, argc, argv, &n);
    if (error) {
        return error > 0 ? EXIT_DONE : command_fail("trace summary", error);
    }
    summarise.path = argv[1];
    error = run(&summarise);
    trace_rates_close(summarise.rates);
    trace_summary_close(summarise.summary);
    kernel_summary_close(summarise.kernel_summary);
    return error ? command_fail("trace summary", error) : EXIT_DONE;
}
