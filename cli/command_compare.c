// cli/command_compare.c - the same work under several methods: measured, floor, predicted, agreement with the dense
// form, right bytes.
//
// Every method processes the same text. Where the text goes on behind the prompt, all methods decode along it, whatever
// they draw: how often a method's greedy draw is the text's next token is its accuracy, how often it is the dense
// form's draw its agreement. Where the text ends with the prompt, the dense form of a backbone runs first and its
// greedy answer is then forced on the methods that approximate it. Floors and predictions come from the cost model and
// the machine's measured rates. --paper runs another experiment, cli/paper.c.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/calibrated.h"
#include "cli/gpu_rates.h"
#include "cli/html.h"
#include "cli/measure.h"
#include "cli/models.h"
#include "cli/paper.h"
#include "cli/stages.h"
#include "cli/table.h"
#include "engine/cost.h"
#include "engine/status.h"
#include "engine/tokenizer.h"
#include "sim/predict.h"
#include "traces/summary.h"
#include "traces/trace.h"

enum { MAX_METHODS = 32 };

struct compare {
    // From the command line.
    const char *models, *methods, *prompt, *text, *device, *sim_device, *calibration_file, *trace, *html;
    int32_t context, output, batch, chunk, threads;
    int64_t seed;
    bool json, paper;
    struct plan_flags flags;
    struct collect_flags collect;
    // Of the run.
    struct model_file *files[2];    // by backbone
    int32_t *tokens, n_tokens;
    struct trace_writer *writer;
    struct device rates;            // what floors are made from: a GPU's as measured here and now
    struct device predicts;         // what predictions are made from, calibrated where it can be
    bool rates_known;
    struct calibration *calibration;    // NULL: bare roofline
    int32_t n_methods;
    struct entry {
        const struct method_info *method;
        struct plan plan;
        struct measurement measured;
        double agreement, right;    // shares of the draws; NaN: unknown
        bool done;
    } entries[MAX_METHODS];
};

static int build_plans(struct compare *compare)
{
    const struct method_info *methods[MAX_METHODS];
    int error = methods_choose(methods, &compare->n_methods, MAX_METHODS, compare->methods);
    error = error ? error : models_open(compare->files, compare->models, &compare->flags, (uint64_t)compare->seed);
    if (!error) {
        methods_keep_served(methods, &compare->n_methods, compare->files, &compare->flags, compare->methods,
                            compare->models);
    }
    for (int32_t i = 0; i < compare->n_methods && !error; i++) {
        struct entry *entry = &compare->entries[i];
        entry->method = methods[i];
        entry->agreement = entry->right = NAN;
        error = models_plan(&entry->plan, compare->files, methods[i], &compare->flags, compare->models);
    }
    return error;
}

static const struct entry *dense_entry(const struct compare *compare, const struct entry *of)
{
    for (int32_t i = 0; i < compare->n_methods; i++) {
        const struct entry *entry = &compare->entries[i];
        if (entry->done && strcmp(entry->method->name, of->method->dense_form) == 0) {
            return entry;
        }
    }
    return NULL;
}

// The text behind the prompt [output]; NULL where it is shorter.
static const int32_t *text_behind(const struct compare *compare)
{
    bool enough = compare->n_tokens - compare->output >= compare->context;
    return enough ? compare->tokens + compare->context : NULL;
}

// The share of a method's draws that are `tokens`; NaN without any.
static double equal_share(const struct measurement *measured, const int32_t *tokens)
{
    int32_t equal = 0;
    for (int32_t t = 0; t < measured->n_tokens; t++) {
        equal += measured->tokens[t] == tokens[t];
    }
    return measured->n_tokens > 0 ? (double)equal / measured->n_tokens : NAN;
}

static int run_entry(struct compare *compare, struct entry *entry, struct trace_summary *summary)
{
    const struct entry *dense = dense_entry(compare, entry);
    const int32_t *behind = text_behind(compare);
    struct sample_sink sinks[2] = {trace_summary_sink(summary)};
    int32_t n_sinks = 1;
    if (compare->writer) {
        sinks[n_sinks++] = trace_writer_sink(compare->writer);
    }
    struct measure_options options = {
        .plan = &entry->plan, .model = compare->files[entry->method->backbone], .device = compare->device,
        .threads = compare->threads, .batch = compare->batch, .chunk_tokens = compare->chunk, .text = compare->tokens,
        .n_text = compare->n_tokens, .context_tokens = compare->context, .output_tokens = compare->output,
        .forced = behind ? behind : dense ? dense->measured.tokens : NULL, .sinks = sinks, .n_sinks = n_sinks,
        .collect = compare->collect.mode, .stage_every = compare->collect.every,
    };
    int error = measure(&entry->measured, &options);
    if (error) {
        return status_prefix(error, "%s: ", entry->method->name);
    }
    entry->done = true;
    bool is_dense = strcmp(entry->method->name, entry->method->dense_form) == 0;
    entry->agreement = is_dense ? 1 : dense ? equal_share(&entry->measured, dense->measured.tokens) : NAN;
    entry->right = behind ? equal_share(&entry->measured, behind) : NAN;
    return 0;
}

// Dense forms first: the others are held against them.
static int run_all(struct compare *compare, struct trace_summary *summary)
{
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < compare->n_methods; i++) {
            struct entry *entry = &compare->entries[i];
            bool is_dense = strcmp(entry->method->name, entry->method->dense_form) == 0;
            if (is_dense == (pass == 0)) {
                int error = run_entry(compare, entry, summary);
                if (error) {
                    return error;
                }
            }
        }
    }
    return 0;
}

static const struct table_column columns[] = {
    {"method", "method", -1},
    {"prefill_s", "prefill s", 3},
    {"prefill_predicted_s", "predicted s", 3},
    {"decode_step_ms", "step ms", 3},
    {"decode_step_predicted_ms", "predicted ms", 3},
    {"decode_step_error_percent", "error %", 0},
    {"decode_step_roofline_error_percent", "roofline %", 0},
    {"decode_step_floor_ms", "floor ms", 3},
    {"floor_percent", "% of floor", 0},
    {"decode_tokens_per_s", "decode tok/s", 1},
    {"speedup", "vs dense", 2},
    {"kv_mib", "KV MiB", 2},
    {"agreement_percent", "agreement %", 1},
    {"right_percent", "right %", 1},
};

// What decode should take half-way through the answer, and prefill in chunks, one sequence after the other.
static void predict_entry(const struct compare *compare, const struct entry *entry, struct table *table)
{
    struct work work[1024];
    int32_t batch = compare->batch < 1024 ? compare->batch : 1024;
    for (int32_t i = 0; i < batch; i++) {
        work[i] = (struct work){compare->context + compare->output / 2, 1, 1};
    }
    struct step_prediction step, floor, bare;
    struct request_prediction request;
    struct device ideal = compare->rates, roofline = compare->predicts;
    ideal.launch_s.value = 0;
    ideal.calibration = roofline.calibration = NULL;
    if (predict_step(&step, &compare->predicts, &entry->plan, work, batch) ||
        predict_step(&bare, &roofline, &entry->plan, work, batch) ||
        predict_step(&floor, &ideal, &entry->plan, work, batch) ||
        predict_request(&request, &compare->predicts, &entry->plan, compare->batch, compare->context, compare->output,
                        compare->chunk)) {
        return;
    }
    double measured_s = entry->measured.decode_step_s;
    table_number(table, "prefill_predicted_s", request.prefill_s * compare->batch);
    table_number(table, "decode_step_predicted_ms", step.seconds * 1e3);
    table_number(table, "decode_step_floor_ms", floor.seconds * 1e3);
    if (measured_s > 0) {
        table_number(table, "decode_step_error_percent", 100 * (step.seconds / measured_s - 1));
        table_number(table, "decode_step_roofline_error_percent", 100 * (bare.seconds / measured_s - 1));
        table_number(table, "floor_percent", 100 * floor.seconds / measured_s);
    }
}

static struct table *make_table(const struct compare *compare)
{
    struct table *table = table_open("compare", columns, sizeof columns / sizeof columns[0]);
    if (!table) {
        return NULL;
    }
    double dense_s = 0;
    for (int32_t i = 0; i < compare->n_methods; i++) {
        if (strcmp(compare->entries[i].method->name, "dense") == 0) {
            dense_s = compare->entries[i].measured.decode_step_s;
        }
    }
    for (int32_t i = 0; i < compare->n_methods; i++) {
        const struct entry *entry = &compare->entries[i];
        const struct measurement *measured = &entry->measured;
        table_row(table);
        table_text(table, "method", entry->method->name);
        table_number(table, "prefill_s", measured->prefill_s);
        if (measured->decode_step_s > 0) {
            table_number(table, "decode_step_ms", measured->decode_step_s * 1e3);
            table_number(table, "decode_tokens_per_s", (double)measured->decode_tokens / measured->decode_s);
            table_number(table, "speedup", dense_s > 0 ? dense_s / measured->decode_step_s : NAN);
        }
        table_number(table, "kv_mib", (double)measured->kv_bytes / 1048576);
        table_number(table, "agreement_percent", 100 * entry->agreement);
        table_number(table, "right_percent", 100 * entry->right);
        if (compare->rates_known) {
            predict_entry(compare, entry, table);
        }
    }
    return table;
}

static const struct table_column point_columns[] = {
    {"method", "method", -1}, {"stage", "stage", -1}, {"mode", "predicted by", -1},
    {"measured_us", "measured us", 2}, {"predicted_us", "predicted us", 2}, {"error_percent", "error %", 1},
};

// The stages of one method's mean decode step, as measured (`stages` has a column for each method) and predicted.
static void add_points(struct table *points, const struct compare *compare, const struct entry *entry,
                       const struct table *stages)
{
    for (int mode = 0; mode < 2; mode++) {
        static struct work work[1024];
        struct device device = compare->predicts;
        struct step_prediction step;
        device.calibration = mode ? NULL : device.calibration;
        for (int32_t i = 0; i < compare->batch; i++) {
            work[i] = (struct work){compare->context + compare->output / 2, 1, 1};
        }
        if ((mode == 1 && !compare->predicts.calibration) ||
            predict_step(&step, &device, &entry->plan, work, compare->batch)) {
            continue;
        }
        for (int32_t row = 0; row < table_rows(stages); row++) {
            for (int s = 0; s < STAGE_HOST; s++) {
                double measured_us = table_cell_number(stages, row, entry->method->name);
                double predicted_us = 1e6 * step.stages[s].seconds;
                const char *name = table_cell_text(stages, row, "stage");
                if (name && strcmp(name, stage_name((enum stage)s)) == 0 && measured_us > 0 && predicted_us > 0) {
                    table_row(points);
                    table_text(points, "method", entry->method->name);
                    table_text(points, "stage", name);
                    table_text(points, "mode", device.calibration ? "calibration" : "roofline");
                    table_number(points, "measured_us", measured_us);
                    table_number(points, "predicted_us", predicted_us);
                    table_number(points, "error_percent", 100 * (predicted_us / measured_us - 1));
                }
            }
        }
    }
}

static void print_head(const void *user, FILE *out)
{
    const struct compare *compare = user;
    const struct sample_source *source = &compare->entries[0].measured.source;
    fprintf(out, "%s on %s (%s): context %d, output %d, batch %d\n", source->model, source->device, source->backend,
            compare->context, compare->output, compare->batch);
}

static void print_notes(const void *user, FILE *out)
{
    const struct compare *compare = user;
    bool calibrated = compare->predicts.calibration != NULL;
    fprintf(out,
            "floor: bytes and operations over this machine's measured rates; predicted: %s%s, roofline %%: the\n"
            "error of the bare roofline; agreement: equal greedy tokens with the dense form of the same weights\n"
            "(dense | yoco), on %s\n",
            calibrated ? "calibrated by " : "roofline with launches", calibrated ? compare->calibration_file : "",
            text_behind(compare) ? "the text behind the prompt; right: equal tokens with that text" : "its text");
}

// Measured against simulated, stage by stage; the diagonal is where they agree.
static int report(const struct compare *compare, struct table *const *tables)
{
    const struct html_lines lines = {.caption = "Measured against simulated: the stages of a decode step",
                                     .x = "measured_us",
                                     .x_title = "measured, us",
                                     .y = "predicted_us",
                                     .y_title = "predicted, us",
                                     .by = {"mode", "method"},
                                     .n_by = 2,
                                     .log_x = true,
                                     .log_y = true,
                                     .joined = "equal"};
    struct table *points = table_open("points", point_columns, sizeof point_columns / sizeof point_columns[0]);
    struct html *html;
    int error =
        points ? html_open(&html, compare->html, "clsa compare") : status_fail(-ENOMEM, "no memory for a table");
    if (error) {
        table_close(points);
        return status_prefix(error, "--html ");
    }
    for (int32_t i = 0; i < compare->n_methods && compare->rates_known; i++) {
        add_points(points, compare, &compare->entries[i], tables[1]);
    }
    for (double us = 0.1; us < 1e7; us *= 10) {
        table_row(points);
        table_text(points, "method", "");
        table_text(points, "stage", "");
        table_text(points, "mode", "equal");
        table_number(points, "measured_us", us);
        table_number(points, "predicted_us", us);
    }
    html_print(html, print_head, compare);
    html_table(html, "Methods", tables[0]);
    html_print(html, print_notes, compare);
    html_lines(html, points, &lines);
    html_table(html, "Decode, us per step (mean)", tables[1]);
    html_table(html, "Prefill, ms in all", tables[2]);
    html_table(html, "Stages of a decode step, measured and predicted", points);
    table_close(points);
    return html_close(html);
}

static int print_all(const struct compare *compare, struct trace_summary *summary)
{
    int error = trace_summary_update(summary);
    if (error) {
        return error;
    }
    const char *names[MAX_METHODS];
    int32_t sources[MAX_METHODS];
    for (int32_t i = 0; i < compare->n_methods; i++) {
        names[i] = compare->entries[i].method->name;
        sources[i] = compare->entries[i].measured.source.id;
    }
    struct table *tables[3] = {
        make_table(compare),
        stages_by_method("decode_stages_us", summary, PHASE_DECODE, names, sources, compare->n_methods),
        stages_by_method("prefill_stages_ms", summary, PHASE_PREFILL, names, sources, compare->n_methods),
    };
    error = tables[0] && tables[1] && tables[2] ? 0 : status_fail(-ENOMEM, "out of memory for the tables");
    error = error || !compare->html ? error : report(compare, tables);
    if (error) {
        // Told by the caller.
    } else if (compare->json) {
        tables_print_json((const struct table *const *)tables, 3, stdout);
    } else {
        print_head(compare, stdout);
        putchar('\n');
        table_print(tables[0], stdout);
        putchar('\n');
        print_notes(compare, stdout);
        printf("\ndecode, us per step (mean)\n");
        table_print(tables[1], stdout);
        printf("\nprefill, ms in all\n");
        table_print(tables[2], stdout);
    }
    for (int i = 0; i < 3; i++) {
        table_close(tables[i]);
    }
    return error;
}

// What floors and predictions are made from: a host that was calibrated has its rates in the calibration.
static int find_rates(struct compare *compare)
{
    char backend[32] = "";
    int32_t number;
    const char *name = compare->sim_device ? compare->sim_device : "host";
    int error = measure_device(backend, sizeof backend, &number, compare->device);
    bool gpu = strcmp(backend, "cuda") == 0 && !compare->sim_device;
    if (!error && gpu) {
        error = gpu_rates(&compare->rates, number);
        name = compare->rates.name;
    }
    error = error ? error : calibrated_open(&compare->calibration, &compare->calibration_file, name, NULL);
    bool known = !error && compare->calibration &&
                 calibrated_known(&compare->predicts, compare->calibration, name, compare->sim_device ? NULL : backend);
    if (!error && !gpu && known) {
        compare->rates = compare->predicts;
    } else if (!error && !gpu) {
        error = device_find(&compare->rates, name, compare->threads);
    }
    if (!error && !known) {
        compare->predicts = compare->rates;
        if (compare->calibration) {
            calibrated_nearest(&compare->predicts, compare->calibration, name);
        }
    }
    compare->rates_known = !error;
    return error;
}

// The paper's experiment: other defaults, for what was not said.
static void choose_paper(struct compare *compare)
{
    compare->models = compare->models ? compare->models : "paper-4b";
    compare->methods = compare->methods ? compare->methods : "dense,yoco,clsa,token,indexcache,block";
    compare->device = compare->device ? compare->device : "cuda";
    compare->output = compare->output ? compare->output : 10000;
    compare->batch = compare->batch ? compare->batch : 1024;
    compare->context = compare->context ? compare->context : 131072;
}

static void choose_defaults(struct compare *compare)
{
    if (compare->paper) {
        choose_paper(compare);
    }
    compare->models = compare->models ? compare->models : "demo-8m";
    compare->methods = compare->methods ? compare->methods : "all";
    compare->device = compare->device ? compare->device : "cpu";
    compare->output = compare->output ? compare->output : 64;
    compare->batch = compare->batch ? compare->batch : 1;
    compare->chunk = compare->chunk ? compare->chunk : measure_chunk(compare->device);
}

static int print_paper(struct table *const *tables, const struct compare *compare)
{
    if (compare->json) {
        tables_print_json((const struct table *const *)tables, PAPER_TABLES, stdout);
        return 0;
    }
    printf("%s on %s; floors: bytes and operations over %.0f GB/s and %.0f TFLOP/s, measured here. End to end: %d\n"
           "output tokens a request, prompts one after the other, then all decode together\n\n",
        compare->models, compare->rates.name, compare->rates.bytes_per_s.value * 1e-9,
        compare->rates.flops_per_s[DTYPE_BF16].value * 1e-12, compare->output);
    table_print(tables[PAPER_MEASURED], stdout);
    printf("\nwith selection as slow as the paper's implies (2.56 ms a step for 32 sequences of 131072 tokens, per\n"
           "indexer)\n");
    table_print(tables[PAPER_SLOW_SELECTION], stdout);
    printf("\nthe paper's own figures (arXiv 2606.06467, NVIDIA B200, vLLM; batch not stated), not measured here\n");
    table_print(tables[PAPER_PUBLISHED], stdout);
    return 0;
}

static int run_paper(struct compare *compare)
{
    struct paper_options options = {
        .n_methods = compare->n_methods, .threads = compare->threads, .chunk_tokens = compare->chunk,
        .contexts = {compare->context / 16, compare->context / 4, compare->context}, .output_tokens = compare->output,
        .max_batch = compare->batch, .text = compare->tokens, .n_text = compare->n_tokens, .rates = &compare->rates,
    };
    struct table *tables[PAPER_TABLES] = {NULL};
    char backend[32];
    int error =
        compare->context < 16
            ? status_fail(-EINVAL, "--context %d: the paper's experiment also runs a sixteenth of it", compare->context)
            : 0;
    error = error ? error : measure_device(backend, sizeof backend, &options.device, compare->device);
    options.backend = backend;
    for (int32_t i = 0; i < compare->n_methods; i++) {
        const struct entry *entry = &compare->entries[i];
        options.methods[i] = (struct paper_method){&entry->plan, compare->files[entry->method->backbone]};
    }
    error = error ? error : paper_run(tables, &options);
    error = error ? error : print_paper(tables, compare);
    for (int i = 0; i < PAPER_TABLES; i++) {
        table_close(tables[i]);
    }
    return error;
}

static int prepare(struct compare *compare)
{
    choose_defaults(compare);
    int error = plan_flags_resolve(&compare->flags);
    error = error ? error : collect_resolve(&compare->collect, compare->device);
    error = error ? error : build_plans(compare);
    error =
        error ? error
              : command_prompt(&compare->tokens, &compare->n_tokens, &compare->context, compare->prompt, compare->text);
    if (error) {
        return error;
    }
    error = find_rates(compare);
    if (!error && compare->trace) {
        struct trace_writer_options options = {.path = compare->trace, .command = "clsa compare"};
        error = trace_writer_open(&compare->writer, &options);
    }
    return error;
}

static void compare_free(struct compare *compare)
{
    for (int32_t i = 0; i < compare->n_methods; i++) {
        measurement_free(&compare->entries[i].measured);
    }
    model_file_close(compare->files[0]);
    model_file_close(compare->files[1]);
    calibration_free(compare->calibration);
    free(compare->tokens);
}

int command_compare(int argc, char **argv)
{
    struct compare compare = {
        .seed = 1, .flags = plan_flags_default(),
    };
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &compare.models, 0, 0, "NAME|FOLDER[,FOLDER]",
         "a size (random weights), demo (trained) or one folder per backbone (default: demo-8m)"},
        {"methods", OPTION_TEXT, &compare.methods, 0, 0, "M,M,...|all",
         "methods to compare (default: all that the model has weights for)"},
        {"prompt", OPTION_TEXT, &compare.prompt, 0, 0, "FILE", "text to process; repeated up to --context"},
        {"text", OPTION_TEXT, &compare.text, 0, 0, "TEXT", "the same, given here"},
        {"context", OPTION_INT, &compare.context, 1, 1 << 27, "tokens", "prompt length (default: the whole text)"},
        {"output", OPTION_INT, &compare.output, 1, 1 << 24, "tokens", "tokens to decode (default: 64)"},
        {"batch", OPTION_INT, &compare.batch, 1, 1024, "sequences", "sequences decoded together (default: 1)"},
        {"chunk", OPTION_INT, &compare.chunk, 1, 1 << 20, "tokens",
         "rows of one prefill step (default: 512, on a GPU 8192)"},
        {"device", OPTION_TEXT, &compare.device, 0, 0, "cpu|reference|cuda[:N]", "backend (default: cpu)"},
        {"threads", OPTION_INT, &compare.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        COLLECT_OPTIONS(compare.collect, "64, or of fewer than 256 a quarter"),
        {"sim-device", OPTION_TEXT, &compare.sim_device, 0, 0, "NAME",
         "device whose rates make floor and prediction (default: this host)"},
        {"calibration", OPTION_TEXT, &compare.calibration_file, 0, 0, "FILE",
         "of clsa calibrate; none: bare roofline (default: the one that comes with clsa, for any GPU)"},
        {"seed", OPTION_LONG, &compare.seed, 0, 9e18, "N", "of random weights"},
        {"trace", OPTION_OUTPUT, &compare.trace, 0, 0, "FILE", "also write a Perfetto trace of all methods"},
        {"html", OPTION_OUTPUT, &compare.html, 0, 0, "FILE",
         "also write a report, with charts, that needs nothing else"},
        {"paper", OPTION_FLAG, &compare.paper, 0, 0, NULL,
         "the experiment of arXiv 2606.06467: three contexts, four batches"},
        {"json", OPTION_FLAG, &compare.json, 0, 0, NULL, "print JSON"},
        PLAN_OPTIONS(compare.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"compare", "The same work under several methods.", NULL, 0, 0, options};
    int32_t n_positional;
    struct trace_summary *summary = NULL;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    if (!error && compare.paper && (compare.html || compare.trace)) {    // it writes neither
        error = status_fail(-EINVAL, "%s: not with --paper", compare.html ? "--html" : "--trace");
    }
    error = error ? error : prepare(&compare);
    if (compare.paper) {
        error = error ? error : run_paper(&compare);
        compare_free(&compare);
        return error ? command_fail("compare", error) : EXIT_DONE;
    }
    error = error ? error : trace_summary_open(&summary);
    error = error ? error : run_all(&compare, summary);
    // The writer is closed also after a failure: what was recorded until then is a whole trace.
    int close_error = trace_writer_close(compare.writer);
    error = error ? error : close_error;
    if (error == -EINTR && compare.trace && !close_error) {
        status_fail(error, "interrupted; %s holds what was recorded until then", compare.trace);
    }
    error = error ? error : print_all(&compare, summary);
    trace_summary_close(summary);
    compare_free(&compare);
    return error ? command_fail("compare", error) : EXIT_DONE;
}
