// cli/trace_import.c - clsa trace import: a recording of another engine becomes a trace like ours.
//
// Nothing is dropped in silence: what was not of use is counted, kernels that no rule fits are in the trace without a
// stage and are listed by the time they took.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/choice.h"
#include "cli/command.h"
#include "cli/table.h"
#include "cli/trace_verbs.h"
#include "cupti/collector.h"
#include "engine/status.h"
#include "traces/import.h"
#include "traces/kernel_name.h"
#include "traces/summary_kernels.h"
#include "traces/trace.h"

enum { KERNEL_NAME_BYTES = 256 };

struct import {
    const char *out, *rules_file, *config, *phase;
    int32_t list;
    double gap_us;
    bool json;
    struct import_options options;
    struct import_rules *rules;
    struct kernel_summary *kernels;
    struct import_report report;
};

static const struct table_column import_columns[] = {
    {"file", "file", -1},
    {"events", "events", 0},
    {"ignored", "of no use", 0},
    {"invalid", "invalid", 0},
    {"devices", "GPUs", 0},
    {"kernels", "kernels", 0},
    {"copies", "copies", 0},
    {"launches", "launches", 0},
    {"steps", "steps", 0},
    {"steps_by", "found by", -1},
    {"priced_steps", "priced", 0},
    {"outside_percent", "% outside steps", 1},
    {"unmatched_percent", "% without stage", 1},
};

static const struct table_column unmatched_columns[] = {
    {"kernel", "kernel without a stage", -1},
    {"count", "count", 0},
    {"total_ms", "total ms", 3},
    {"share_percent", "% of all", 2},
    {"name", "as recorded", -1},
};

// A kernel that no rule fits, in all phases together.
struct unmatched {
    const char *name;
    int64_t count, total_ns;
};

static int by_name(const void *left, const void *right)
{
    return strcmp(((const struct unmatched *)left)->name, ((const struct unmatched *)right)->name);
}

static int by_time(const void *left, const void *right)
{
    const struct unmatched *a = left, *b = right;
    return a->total_ns != b->total_ns ? (a->total_ns < b->total_ns ? 1 : -1) : strcmp(a->name, b->name);
}

// Longest first, at most import->list of them.
static int add_unmatched(struct table *table, const struct import *import)
{
    int32_t n, n_found = 0, n_names = 0;
    const struct summary_kernel *rows = kernel_summary_rows(import->kernels, &n);
    struct unmatched *found = malloc(((size_t)n + 1) * sizeof *found);
    if (!found) {
        return status_fail(-ENOMEM, "out of memory for a table");
    }
    for (int32_t i = 0; i < n; i++) {
        if (rows[i].stage == STAGE_COUNT) {
            found[n_found++] = (struct unmatched){rows[i].name, rows[i].count, rows[i].total_ns};
        }
    }
    qsort(found, (size_t)n_found, sizeof *found, by_name);
    for (int32_t i = 0; i < n_found; i++) {
        if (n_names > 0 && strcmp(found[n_names - 1].name, found[i].name) == 0) {
            found[n_names - 1].count += found[i].count;
            found[n_names - 1].total_ns += found[i].total_ns;
        } else {
            found[n_names++] = found[i];
        }
    }
    qsort(found, (size_t)n_names, sizeof *found, by_time);
    for (int32_t i = 0; i < n_names && i < import->list; i++) {
        char name[KERNEL_NAME_BYTES];
        kernel_short_name(name, sizeof name, found[i].name);
        table_row(table);
        table_text(table, "kernel", name);
        table_number(table, "count", (double)found[i].count);
        table_number(table, "total_ms", 1e-6 * (double)found[i].total_ns);
        table_number(table, "share_percent", 100 * (double)found[i].total_ns / (double)import->report.kernel_ns);
        table_text(table, "name", found[i].name);
    }
    free(found);
    return 0;
}

static int print(const struct import *import, const char *path)
{
    const struct import_report *report = &import->report;
    struct table *table = table_open("import", import_columns, sizeof import_columns / sizeof *import_columns);
    struct table *unmatched =
        table_open("unmatched", unmatched_columns, sizeof unmatched_columns / sizeof *unmatched_columns);
    int error =
        table && unmatched ? add_unmatched(unmatched, import) : status_fail(-ENOMEM, "out of memory for a table");
    if (!error) {
        table_row(table);
        table_text(table, "file", path);
        table_number(table, "events", (double)report->n_events);
        table_number(table, "ignored", (double)report->n_other);
        table_number(table, "invalid", (double)report->n_invalid);
        table_number(table, "devices", report->n_devices);
        table_number(table, "kernels", (double)report->n_kernels);
        table_number(table, "copies", (double)report->n_copies);
        table_number(table, "launches", (double)report->n_launches);
        table_number(table, "steps", (double)report->n_steps);
        table_text(table, "steps_by", report->by_gaps ? "gaps" : "annotations");
        table_number(table, "priced_steps", (double)report->n_priced_steps);
        if (report->kernel_ns > 0) {
            table_number(table, "outside_percent", 100 * (double)report->outside_ns / (double)report->kernel_ns);
            table_number(table, "unmatched_percent", 100 * (double)report->unmatched_ns / (double)report->kernel_ns);
        }
        const struct table *tables[2] = {table, unmatched};
        if (import->json) {
            tables_print_json(tables, 2, stdout);
        } else {
            table_print(table, stdout);
            if (table_rows(unmatched) > 0) {
                putchar('\n');
                table_print(unmatched, stdout);
            }
        }
    }
    table_close(table);
    table_close(unmatched);
    return error;
}

static int choose(struct import *import)
{
    static struct plan plan;
    static struct model_config config;
    const struct plan_flags flags = plan_flags_default();
    const char *method = import->options.method;
    if (!import->out) {
        return status_fail(-EINVAL, "--out FILE is missing: the trace to write");
    }
    if (strcmp(import->phase, "prefill") != 0 && strcmp(import->phase, "decode") != 0) {
        return status_fail(-EINVAL, "--phase %s: expected prefill or decode", import->phase);
    }
    import->options.phase = strcmp(import->phase, "prefill") == 0 ? PHASE_PREFILL : PHASE_DECODE;
    import->options.gap_ns = (int64_t)(1e3 * import->gap_us);
    if (import->config) {
        int error = choice_model(&config, "--config", import->config);
        error = error ? error : choice_plan(&plan, &config, import->config, method ? method : "native", &flags.options);
        if (error) {
            return error;
        }
        import->options.plan = &plan;
        import->options.model = import->options.model ? import->options.model : plan.shape.name;
        import->options.method = plan.method;
    }
    int error = import_rules_load(&import->rules, import->rules_file);
    import->options.rules = import->rules;
    return error ? error : kernel_summary_open(&import->kernels);
}

static int run(struct import *import, const char *path)
{
    struct trace_writer *writer = NULL;
    int error = choose(import);
    struct trace_writer_options options = {.path = import->out, .command = "clsa trace import"};
    error = error ? error : trace_writer_open(&writer, &options);
    if (error) {
        return error;
    }
    struct sample_fanout fanout = {.n = 2, .sinks = {trace_writer_sink(writer), kernel_summary_sink(import->kernels)}};
    struct sample_sink sink = sample_fanout_sink(&fanout);
    error = import_read(&import->report, path, &import->options, &sink);
    if (error) {
        trace_writer_abandon(writer);
        return error;
    }
    error = trace_writer_close(writer);
    error = error ? error : kernel_summary_update(import->kernels);
    return error ? error : print(import, path);
}

int trace_import(int argc, char **argv)
{
    struct import import = {.phase = "decode", .gap_us = 1e-3 * IMPORT_GAP_NS, .list = 20};
    struct import_options *options = &import.options;
    const struct option_spec specs[] = {
        {"out", OPTION_OUTPUT, &import.out, 0, 0, "FILE", "the trace to write"},
        {"rules", OPTION_TEXT, &import.rules_file, 0, 0, "FILE",
         "rules from kernels' names to stages (default: those for vLLM and SGLang; form: traces/import_rules.h)"},
        {"list", OPTION_INT, &import.list, 0, 1 << 20, "kernels", "without a stage to list"},
        {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "What the trace says of itself"},
        {"engine", OPTION_TEXT, &options->backend, 0, 0, "NAME", "backend (default: kineto)"},
        {"model", OPTION_TEXT, &options->model, 0, 0, "NAME", "model (default: that of --config, or unknown)"},
        {"method", OPTION_TEXT, &options->method, 0, 0, "NAME",
         "attention method (default: that of --config, or unknown)"},
        {"device", OPTION_TEXT, &options->device, 0, 0, "NAME", "GPU (default: as the file says)"},
        {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "Steps"},
        {"gap-us", OPTION_REAL, &import.gap_us, 1, 1e9, "us", "idle time between steps, where no annotation says them"},
        {"phase", OPTION_TEXT, &import.phase, 0, 0, "prefill|decode", "of steps that were found by gaps"},
        {"config", OPTION_TEXT, &import.config, 0, 0, "FILE|NAME",
         "the model's config.json: stages get bytes and operations, for roofline and calibration"},
        {"context", OPTION_INT, &options->context_tokens, 0, 1 << 27, "tokens",
         "of each sequence at the first decode step, where annotations do not say it; 0: unknown"},
        {"json", OPTION_FLAG, &import.json, 0, 0, NULL, "print JSON"},
        {.kind = OPTION_END},
    };
    const struct command_spec command = {
        "trace import", "A recording of PyTorch's profiler (Chrome JSON, plain or .gz) as a trace with our stages.",
        "FILE",
        1, 1, specs,
    };
    int32_t n;
    int error = options_parse(&command, argc, argv, &n);
    if (error) {
        return error > 0 ? EXIT_DONE : command_fail("trace import", error);
    }
    error = run(&import, argv[1]);
    import_rules_free(import.rules);
    kernel_summary_close(import.kernels);
    return error ? command_fail("trace import", error) : EXIT_DONE;
}
