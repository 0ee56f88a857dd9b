// cli/command_trace.c - clsa trace: the verbs; what is in a trace, and whether it keeps the rules.
#include "cli/command.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/table.h"
#include "cli/trace_verbs.h"
#include "engine/status.h"
#include "traces/trace.h"

// What one source of a trace holds.
struct source_count {
    struct sample_source source;
    int64_t steps, stages, requests, counters, kernels, gauges;
    int64_t begin_ns, end_ns;    // end_ns < begin_ns: nothing yet
};

struct info {
    struct source_count *sources;    // [n], owned
    int32_t n;
    bool out_of_memory;
};

static struct source_count *find_source(struct info *info, int32_t id)
{
    for (int32_t i = info->n - 1; i >= 0; i--) {
        if (info->sources[i].source.id == id) {
            return &info->sources[i];
        }
    }
    return NULL;
}

static void cover(struct source_count *source, int64_t begin_ns, int64_t end_ns)
{
    bool first = source->end_ns < source->begin_ns;
    source->begin_ns = first || begin_ns < source->begin_ns ? begin_ns : source->begin_ns;
    source->end_ns = first || end_ns > source->end_ns ? end_ns : source->end_ns;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct info *info = user;
    struct source_count *grown = realloc(info->sources, ((size_t)info->n + 1) * sizeof *grown);
    if (!grown) {
        info->out_of_memory = true;
        return;
    }
    info->sources = grown;
    grown[info->n++] = (struct source_count){.source = *source, .begin_ns = 1};
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct source_count *source = find_source(user, sample->source);
    if (source) {
        source->stages++;
        cover(source, sample->begin_ns, sample->begin_ns + sample->duration_ns);
    }
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct source_count *source = find_source(user, sample->source);
    if (source) {
        source->steps++;
        cover(source, sample->begin_ns, sample->begin_ns + sample->duration_ns);
    }
}

static void on_request(void *user, const struct request_sample *sample)
{
    struct source_count *source = find_source(user, sample->source);
    if (source) {
        source->requests += sample->state == REQUEST_SUBMITTED;
        cover(source, sample->time_ns, sample->time_ns);
    }
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    struct source_count *source = find_source(user, sample->source);
    if (source) {
        source->counters++;
        cover(source, sample->time_ns, sample->time_ns);
    }
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct source_count *source = find_source(user, sample->source);
    if (source) {
        source->kernels++;
        cover(source, sample->begin_ns, sample->begin_ns + sample->duration_ns);
    }
}

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    struct source_count *source = find_source(user, sample->source);
    if (source) {
        source->gauges++;
        cover(source, sample->time_ns, sample->time_ns);
    }
}

static const struct table_column file_columns[] = {
    {"file", "file", -1},
    {"command", "command", -1},
    {"bytes", "bytes", 0},
    {"packets", "packets", 0},
    {"unknown_packets", "unknown packets", 0},
    {"span_s", "span s", 3},
    {"dropped", "dropped", 0},
    {"invalid", "invalid", 0},
    {"truncated", "truncated", -1},
};

static const struct table_column source_columns[] = {
    {"source", "source", 0},
    {"method", "method", -1},
    {"model", "model", -1},
    {"backend", "backend", -1},
    {"device", "device", -1},
    {"threads", "threads", 0},
    {"n_layers", "layers", 0},
    {"top_k", "top-k", 0},
    {"weight_dtype", "weights", -1},
    {"kv_dtype", "KV", -1},
    {"steps", "steps", 0},
    {"stages", "stages", 0},
    {"requests", "requests", 0},
    {"counters", "counters", 0},
    {"kernels", "kernels", 0},
    {"gauges", "gauges", 0},
    {"span_s", "span s", 3},
};

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))

static void add_file(struct table *table, const char *path, const struct trace_stats *stats)
{
    table_row(table);
    table_text(table, "file", path);
    if (stats->command[0]) {
        table_text(table, "command", stats->command);
    }
    table_number(table, "bytes", (double)stats->bytes);
    table_number(table, "packets", (double)stats->packets);
    table_number(table, "unknown_packets", (double)stats->unknown_packets);
    table_number(table, "span_s", (double)(stats->end_ns - stats->begin_ns) * 1e-9);
    table_number(table, "dropped", (double)stats->dropped);    // records that collecting lost
    table_number(table, "invalid", (double)stats->invalid);
    table_text(table, "truncated", stats->truncated ? "yes" : "no");
}

static void add_source(struct table *table, const struct source_count *count)
{
    const struct sample_source *source = &count->source;
    table_row(table);
    table_number(table, "source", source->id);
    table_text(table, "method", source->method);
    table_text(table, "model", source->model);
    table_text(table, "backend", source->backend);
    table_text(table, "device", source->device);
    table_number(table, "threads", source->threads);
    table_number(table, "n_layers", source->n_layers);
    table_number(table, "top_k",
                 source->top_k ? (double)source->top_k : (double)NAN);    // 0: the method selects nothing
    table_text(table, "weight_dtype", dtype_name(source->weight_dtype));
    table_text(table, "kv_dtype", dtype_name(source->kv_dtype));
    table_number(table, "steps", (double)count->steps);
    table_number(table, "stages", (double)count->stages);
    table_number(table, "requests", (double)count->requests);
    table_number(table, "counters", (double)count->counters);
    table_number(table, "kernels", (double)count->kernels);
    table_number(table, "gauges", (double)count->gauges);
    table_number(table, "span_s",
                 count->end_ns >= count->begin_ns ? (double)(count->end_ns - count->begin_ns) * 1e-9 : NAN);
}

static void print_tables(struct table *first, struct table *second, bool json)
{
    const struct table *both[] = {first, second};
    if (json) {
        tables_print_json(both, 2, stdout);
        return;
    }
    table_print(first, stdout);
    putchar('\n');
    table_print(second, stdout);
}

// A trace that was cut is shown as far as it goes; the error follows, and decides the exit status.
static int trace_info(int argc, char **argv)
{
    bool json = false;
    const struct option_spec options[] = {
        {"json", OPTION_FLAG, &json, 0, 0, NULL, "print JSON"},
        {.kind = OPTION_END},
    };
    const struct command_spec spec = {"trace info", "What a trace holds: sources, spans, counts.", "FILE", 1, 1,
                                      options};
    int32_t n;
    int error = options_parse(&spec, argc, argv, &n);
    if (error) {
        return error > 0 ? EXIT_DONE : command_fail("trace info", error);
    }
    struct info info = {0};
    struct sample_sink sink = {
        .user = &info,
        .source = on_source,
        .stage = on_stage,
        .step = on_step,
        .request = on_request,
        .counter = on_counter,
        .kernel = on_kernel,
        .gauge = on_gauge,
    };
    struct trace_stats stats;
    struct table *file = table_open("trace", file_columns, COUNT(file_columns));
    struct table *sources = table_open("sources", source_columns, COUNT(source_columns));
    error = trace_read(argv[1], &sink, &stats);
    if (info.out_of_memory || !file || !sources) {
        error = status_fail(-ENOMEM, "%s: out of memory", argv[1]);
    } else if (!error || stats.truncated) {
        add_file(file, argv[1], &stats);
        for (int32_t i = 0; i < info.n; i++) {
            add_source(sources, &info.sources[i]);
        }
        print_tables(file, sources, json);
    }
    table_close(file);
    table_close(sources);
    free(info.sources);
    return error ? command_fail("trace info", error) : EXIT_DONE;
}

static const struct table_column check_columns[] = {
    {"finding", "finding", -1},
};

static void on_finding(void *user, const char *finding)
{
    table_row(user);
    table_text(user, "finding", finding);
}

static int trace_verify(int argc, char **argv)
{
    bool json = false;
    const struct option_spec options[] = {
        {"json", OPTION_FLAG, &json, 0, 0, NULL, "print JSON"},
        {.kind = OPTION_END},
    };
    const struct command_spec spec = {
        "trace check",
        "Whether a trace keeps Perfetto's rules and its steps add up. Exit 0: it does, 2: it does not.",
        "FILE", 1, 1, options,
    };
    int32_t n;
    int error = options_parse(&spec, argc, argv, &n);
    if (error) {
        return error > 0 ? EXIT_DONE : command_fail("trace check", error);
    }
    struct table *table = table_open("findings", check_columns, COUNT(check_columns));
    if (!table) {
        return command_fail("trace check", status_fail(-ENOMEM, "out of memory for a table"));
    }
    int found = trace_check(argv[1], on_finding, table);
    if (found >= 0 && json) {
        table_print_json(table, stdout);
    } else if (found > 0) {
        table_print(table, stdout);
    } else if (found == 0) {
        printf("%s: no findings\n", argv[1]);
    }
    table_close(table);
    if (found > 0) {
        fprintf(stderr, "clsa trace check: %s: findings: %d\n", argv[1], found);
    }
    return found < 0 ? command_fail("trace check", found) : found > 0 ? EXIT_WRONG_INPUT : EXIT_DONE;
}

static const struct {
    const char *name, *what;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"info", "what a trace holds: sources, spans, counts", trace_info},
    {"summary", "where its time went: per method, phase and stage, and by kernels", trace_summarise},
    {"diff", "which stage got slower from one trace to another, and whether that is more than chance", trace_diff},
    {"import", "a recording of PyTorch's profiler (vLLM, SGLang) as a trace", trace_import},
    {"check", "whether it keeps Perfetto's rules and its steps add up", trace_verify},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static void usage(FILE *out)
{
    fputs("usage: clsa trace VERB [options] FILE...\n\n", out);
    for (int i = 0; i < N_VERBS; i++) {
        fprintf(out, "  %-8s %s\n", verbs[i].name, verbs[i].what);
    }
    fputs("\nclsa trace VERB --help lists the options of each.\n", out);
}

int command_trace(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    char names[64] = "";
    for (int i = 0; i < N_VERBS; i++) {
        if (strcmp(verb, verbs[i].name) == 0) {
            return verbs[i].run(argc - 1, argv + 1);
        }
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "", verbs[i].name);
    }
    if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
        usage(stdout);
        return EXIT_DONE;
    }
    if (!verb[0]) {
        usage(stderr);
        return EXIT_WRONG_INPUT;
    }
    return command_fail("trace", status_fail(-EINVAL, "%s: no such verb; expected one of %s", verb, names));
}
