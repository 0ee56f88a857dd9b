// cli/command_sim.c - what a model and a method should take on a device: a fixed batch, priced by roofline or
// calibrated.
//
// The model is a named size, one of our folders, or any config.json that engine/model_config.h reads: more can be
// priced than run. One row per method and device; with --stages the breakdown of each. Nothing here runs a model.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/calibrated.h"
#include "cli/choice.h"
#include "cli/command.h"
#include "cli/html.h"
#include "cli/paper_figures.h"
#include "cli/sim_paper.h"
#include "cli/sim_charts.h"
#include "cli/sim_positions.h"
#include "cli/sim_rows.h"
#include "cli/sim_trace.h"
#include "cli/table.h"
#include "cli/validate.h"
#include "cli/workload.h"
#include "engine/model_config.h"
#include "engine/status.h"
#include "sim/parallel.h"
#include "sim/predict.h"
#include "traces/trace.h"

enum { MAX_PLANS = 32, MAX_DEVICES = 64 };
enum { MAX_CHUNKS = 1 << 16 };    // each is priced: this many take a second

struct sim {
    // From the command line.
    const char *model, *methods, *device_names, *devices_file, *calibration_file;
    int32_t batch, context, output, chunk, threads, ranks, replicas;
    const char *validate, *configs;
    const char *html, *trace;
    bool json, csv, stages, per_row, paper, positions;
    struct plan_flags flags;
    // What it names.
    struct model_config config;    // of a file; a named size fills config.native.shape only
    int32_t n_plans, n_devices;
    struct plan plans[MAX_PLANS];
    struct device devices[MAX_DEVICES];
    struct calibration *calibration;    // NULL: bare roofline
};

// Cuts `list` at its commas, in place. Returns the number of names, or -EINVAL.
static int split(char **names, int32_t max, char *list, const char *flag)
{
    int32_t n = 0;
    for (char *rest = list, *name; (name = strsep(&rest, ",")) != NULL;) {
        if (!*name || n == max) {
            return status_fail(-EINVAL, "--%s: expected 1 to %d names with commas between them", flag, max);
        }
        names[n++] = name;
    }
    return n;
}

// The model as its config declares it. Of the flags only the types of weights and cache apply: the rest belongs to
// methods.
static int add_native(struct sim *sim)
{
    struct plan_options knobs = sim->flags.options, none = plan_options_default();
    if (choice_size(sim->model)) {
        return status_fail(-EINVAL,
                           "--method native: %s is a size without a method of its own; name a config.json or a method",
                           sim->model);
    }
    knobs.weight_dtype = none.weight_dtype;
    knobs.kv_dtype = none.kv_dtype;
    if (memcmp(&knobs, &none, sizeof knobs) != 0 && strcmp(sim->methods, "native") == 0) {
        return status_fail(-EINVAL, "--method native: takes its index and window from the config; of the flags under "
                                    "\"Method\" only --weight-dtype and --kv-dtype apply");
    }
    struct plan *plan = &sim->plans[sim->n_plans++];
    *plan = sim->config.native;
    if (sim->flags.options.weight_dtype >= 0) {
        plan->weight_dtype = (enum dtype)sim->flags.options.weight_dtype;
    }
    if (sim->flags.options.kv_dtype >= 0) {
        plan->kv_dtype = (enum dtype)sim->flags.options.kv_dtype;
    }
    return 0;
}

static int add_method(struct sim *sim, const char *name)
{
    if (strcmp(name, "native") == 0) {
        return add_native(sim);
    }
    int error = plan_build(&sim->plans[sim->n_plans], &sim->config.native.shape, name, &sim->flags.options);
    if (error) {
        return status_prefix(error, "--method %s: ", name);
    }
    sim->n_plans++;
    return 0;
}

// A foreign model's own method and all presets that its sizes allow; why one is left out goes to stderr.
static int add_all(struct sim *sim)
{
    bool foreign = !choice_size(sim->model) && !sim->config.runnable;    // our own models declare one of the presets
    int error = foreign ? add_native(sim) : 0;
    for (int32_t i = 0; !error && i < plan_method_count() && sim->n_plans < MAX_PLANS; i++) {
        if (add_method(sim, plan_method(i)->name)) {
            fprintf(stderr, "clsa sim: left out: %s\n", status_text());
        }
    }
    return error || sim->n_plans ? error : -EINVAL;
}

static int choose_plans(struct sim *sim)
{
    if (!sim->methods) {
        sim->methods = !choice_size(sim->model) && !sim->config.runnable ? "native" : "all";
    }
    if (strcmp(sim->methods, "all") == 0) {
        return add_all(sim);
    }
    char *list = strdup(sim->methods), *names[MAX_PLANS];
    if (!list) {
        return status_fail(-ENOMEM, "no memory");
    }
    int n = split(names, MAX_PLANS, list, "method"), error = n < 0 ? n : 0;
    for (int32_t i = 0; !error && i < n; i++) {
        error = add_method(sim, names[i]);
    }
    free(list);
    return error;
}

static int choose_devices(struct sim *sim)
{
    struct device *table = NULL;
    int32_t n_table;
    char *list = strdup(sim->device_names), *names[MAX_DEVICES];
    if (!list) {
        return status_fail(-ENOMEM, "no memory");
    }
    int n = split(names, MAX_DEVICES, list, "device"), error = n < 0 ? n : 0;
    error = error ? error : device_table_load(&table, &n_table, sim->devices_file);
    for (int32_t i = 0; !error && i < n; i++) {
        struct device *device = &sim->devices[sim->n_devices++];
        if (sim->calibration && calibrated_known(device, sim->calibration, names[i], NULL)) {
            continue;
        }
        if (strcasecmp(names[i], "host") == 0) {
            error = device_measure_host(device, sim->threads);
        } else {
            error = device_table_find(device, table, n_table, names[i]);
            error = error ? status_prefix(error, "--device ") : 0;
        }
        if (!error && sim->calibration) {
            calibrated_nearest(device, sim->calibration, names[i]);
        }
    }
    free(table);
    free(list);
    return error;
}

// `charts` [SIM_CHART_TABLES], or NULL.
static int predict_all(struct sim *sim, struct table *requests, struct table *stages, struct table *const *charts)
{
    struct sim_batch batch = {sim->batch, sim->replicas, sim->output};
    int32_t sequences = sim_batch_per_replica(&batch);
    for (int32_t p = 0; p < sim->n_plans; p++) {
        for (int32_t d = 0; d < sim->n_devices; d++) {
            static struct plan part;    // large, as are all plans
            struct device group;
            const struct plan *plan = &part;
            const struct device *device = &group;
            struct request_prediction request;
            int error = parallel_split(&part, &group, &sim->plans[p], &sim->devices[d], sim->ranks);
            error = error ? error
                          : predict_request(&request, device, plan, sequences, sim->context, sim->output, sim->chunk);
            if (error) {
                return status_prefix(error, "%s on %s: ", sim->plans[p].method, sim->devices[d].name);
            }
            sim_add_request(requests, &batch, plan, device, &request);
            sim_add_stages(stages, plan, device, PHASE_PREFILL, &request.prefill);
            if (sim->output > 1) {
                sim_add_stages(stages, plan, device, PHASE_DECODE, &request.first_decode);
            }
            int32_t chunk = sim->chunk > 0 ? sim->chunk : sim->context;
            error = charts ? sim_charts_add(charts, plan, device, sim->context, chunk, &request.prefill,
                                            &request.first_decode)
                           : 0;
            if (error) {
                return error;
            }
        }
    }
    for (int32_t d = 0; charts && d < sim->n_devices; d++) {
        sim_charts_ceilings(charts, &sim->devices[d]);
    }
    return 0;
}

static void print_head(const void *user, FILE *out)
{
    const struct sim *sim = user;
    const struct model_shape *shape = &sim->config.native.shape;
    fprintf(out, "%s: %d x (%d prompt + %d output tokens), %s%s\n", shape->name[0] ? shape->name : sim->model,
            sim->batch, sim->context, sim->output, sim->calibration ? "calibrated by " : "roofline",
            sim->calibration ? sim->calibration_file : "");
}

static void print_notes(const void *user, FILE *out)
{
    const struct sim *sim = user;
    if (sim->ranks > 1 || sim->replicas > 1) {
        fprintf(out, "%d replicas of %d devices each; memory is of one device.\n", sim->replicas, sim->ranks);
    }
    fputs("TTFT: mean over the batch, prompts one after the other. TPOT: decode time per token but the first.\n", out);
    if (sim->calibration) {
        fprintf(
            out,
            "A stage takes its floor + max(bytes / bandwidth, flops / rate) / efficiency; host: a step's time outside\n"
            "stages. +-: 95%% of the points that calibrating left out were predicted within. \"figures\": the row's\n"
            "weakest: measured, interpolated, extrapolated (also: another device's curves),\n"
            "roofline (not in %s). With --calibration none: the bare roofline.\n",
            sim->calibration_file);
        return;
    }
    fputs("A step is the sum over stages and layers of max(bytes / bandwidth, flops / rate) + launch: no kernel is\n"
          "faster, most are slower. \"figures\": how the row's weakest rate came about (clsa devices --sources).\n",
          out);
}

static void print_tables(const struct sim *sim, const struct table *requests, const struct table *stages)
{
    const struct table *both[] = {requests, stages};
    if (sim->json || sim->csv) {
        (sim->json ? tables_print_json : tables_print_csv)(both, sim->stages ? 2 : 1, stdout);
        return;
    }
    print_head(sim, stdout);
    putchar('\n');
    table_print(requests, stdout);
    if (sim->stages) {
        printf("\nprefill: one prompt. decode: the batch's first step.\n\n");
        table_print(stages, stdout);
    }
    putchar('\n');
    print_notes(sim, stdout);
}

static int validate(struct sim *sim)
{
    int error = calibrated_open(&sim->calibration, &sim->calibration_file, NULL, sim->devices_file);
    const char *configs = sim->configs ? sim->configs : sim->validate;
    struct validate_options options = {sim->validate, configs, sim->devices_file, sim->calibration};
    return error ? error : validate_print(&options, sim->per_row, sim->json);
}

static int print_paper(const struct sim *sim)
{
    struct sim_paper_options options = {.config = &sim->config,
                                        .model = sim->model,
                                        .knobs = &sim->flags.options,
                                        .batch = sim->batch,
                                        .output_tokens = sim->output,
                                        .chunk_tokens = sim->chunk};
    if (sim->n_devices > 1) {
        return status_fail(-EINVAL, "--paper: of one device, not of %d", sim->n_devices);
    }
    return sim_paper_print(&sim->devices[0], &options, sim->json);
}

// Prefill and the first decode steps of every row, one after the other.
static int trace(const struct sim *sim)
{
    enum { DECODE_STEPS = 16 };
    static struct plan part;
    struct sim_batch batch = {sim->batch, sim->replicas, sim->output};
    int32_t sequences = sim_batch_per_replica(&batch),
            steps = sim->output - 1 < DECODE_STEPS ? sim->output - 1 : DECODE_STEPS;
    struct trace_writer *writer = NULL;
    struct trace_writer_options options = {.path = sim->trace, .command = "clsa sim"};
    struct work *work = malloc((size_t)sequences * sizeof *work);
    int64_t now_ns = 0;
    int32_t source = 0;
    int error = work ? trace_writer_open(&writer, &options) : status_fail(-ENOMEM, "no memory for a batch");
    for (int32_t i = 0; work && i < sequences; i++) {
        work[i] = (struct work){sim->context, 1, 1};
    }
    for (int32_t p = 0; p < sim->n_plans; p++) {
        for (int32_t d = 0; !error && d < sim->n_devices; d++) {
            struct sample_sink sink = trace_writer_sink(writer);
            struct device group;
            error = parallel_split(&part, &group, &sim->plans[p], &sim->devices[d], sim->ranks);
            error = error
                        ? error
                        : sim_trace_batch(&sink, &now_ns, source++, &group, &part, work, sequences, sim->chunk, steps);
        }
    }
    int close_error = trace_writer_close(writer);
    free(work);
    return error || !close_error ? error : status_prefix(close_error, "--trace ");
}

static int report(const struct sim *sim, const struct table *requests, const struct table *stages,
                  struct table *const *charts)
{
    static const struct html_bars bars = {
        .caption = "Where the time goes", .part = "stage", .value = "percent",
        .value_title = "% of one prompt's prefill, of the first decode step",
        .by = {"method", "device", "phase"}, .n_by = 3};
    struct html *html;
    int error = html_open(&html, sim->html, "clsa sim");
    if (error) {
        return status_prefix(error, "--html ");
    }
    html_print(html, print_head, sim);
    html_table(html, "Requests", requests);
    html_print(html, print_notes, sim);
    html_bars(html, stages, &bars);
    sim_charts_draw(html, charts);
    html_table(html, "Stages", stages);
    return html_close(html);
}

static void print_positions_head(const void *user, FILE *out)
{
    const struct sim *sim = user;
    const char *name = sim->config.native.shape.name;
    fprintf(out, "%s: contexts to %d tokens, %s%s\n", name[0] ? name : sim->model, sim->context,
            sim->calibration ? "calibrated by " : "roofline", sim->calibration ? sim->calibration_file : "");
}

static int report_positions(const struct sim *sim, struct table *const *tables)
{
    static const char *const titles[] = {"Cost against position", "What fits at a context, and comes out",
                                         "Where the indexer overtakes attention", "Where methods cross",
                                         "Throughput against index sharing"};
    static const struct {
        int table;
        const char *caption, *x, *x_title, *y, *y_title;
    } charts[] = {
        {0, "Decode: a token where it stands", "context", "context, tokens", "decode_us_per_token", "us per token"},
        {0, "Prefill: a prompt token where it stands", "context", "context, tokens", "prefill_us_per_token",
         "us per token"},
        {1, "Batches collapse while thoughts grow: sequences that fit", "context", "context, tokens", "max_sequences",
         "sequences"},
        {1, "What all that fit put out", "context", "context, tokens", "tokens_per_s", "tokens/s"},
        {4, "Throughput against index sharing", "index_every", "layers per index", "tokens_per_s", "tokens/s"},
    };
    struct html *html;
    int error = html_open(&html, sim->html, "clsa sim --positions");
    if (error) {
        return status_prefix(error, "--html ");
    }
    html_print(html, print_positions_head, sim);
    for (size_t i = 0; i < sizeof charts / sizeof *charts; i++) {
        struct html_lines lines = {.caption = charts[i].caption,
                                   .x = charts[i].x,
                                   .x_title = charts[i].x_title,
                                   .y = charts[i].y,
                                   .y_title = charts[i].y_title,
                                   .by = {"method", "device"},
                                   .n_by = 2,
                                   .log_x = true,
                                   .log_y = true};
        html_lines(html, tables[charts[i].table], &lines);
    }
    for (int i = 0; i < SIM_POSITION_TABLES; i++) {
        html_table(html, titles[i], tables[i]);
    }
    html_text(html, sim_positions_definitions);
    return html_close(html);
}

static int share_index(void *user, struct plan *out, const char *method, int32_t index_every)
{
    const struct sim *sim = user;
    struct plan_options knobs = sim->flags.options;
    knobs.index_every = index_every;
    int error = choice_plan(out, &sim->config, sim->model, method, &knobs);
    return error || out->index.budget_tokens == 0 ? -EINVAL : 0;
}

static int print_positions(struct sim *sim)
{
    struct table *tables[SIM_POSITION_TABLES] = {NULL};
    struct sim_positions_options options = {sim->plans,
                                            sim->n_plans,
                                            sim->devices,
                                            sim->n_devices,
                                            sim->batch,
                                            sim->context,
                                            sim->chunk > 0 ? sim->chunk : sim->context,
                                            share_index,
                                            sim};
    int error = sim->ranks > 1 ? status_fail(-EINVAL, "--positions: of one device; leave out --tp") : 0;
    error = error ? error : sim_positions(tables, &options);
    error = error || !sim->html ? error : report_positions(sim, tables);
    bool text = !sim->json && !sim->csv;
    if (!error && text) {
        print_positions_head(sim, stdout);
        putchar('\n');
    }
    if (!error && !text) {
        (sim->json ? tables_print_json : tables_print_csv)((const struct table *const *)tables, SIM_POSITION_TABLES,
                                                           stdout);
    }
    for (int i = 0; i < SIM_POSITION_TABLES; i++) {
        if (!error && text && table_rows(tables[i]) > 0) {
            table_print(tables[i], stdout);
            putchar('\n');
        }
        table_close(tables[i]);
    }
    if (!error && text) {
        fputs(sim_positions_definitions, stdout);
    }
    return error;
}

// What was not given depends on what is asked for.
static void complete(struct sim *sim)
{
    sim->device_names = sim->device_names ? sim->device_names : sim->paper ? "B200" : "host";
    sim->batch = sim->batch ? sim->batch : sim->paper ? PAPER_BATCH : 1;
    sim->output = sim->output ? sim->output : sim->paper ? PAPER_OUTPUT_TOKENS : 256;
}

// What is given must have an effect.
static int check_together(const struct sim *sim)
{
    const char *mode = sim->validate ? "--validate" : sim->paper ? "--paper" : sim->positions ? "--positions" : NULL;
    const char *other = NULL;
    if (sim->validate || sim->paper) {
        other = sim->csv ? "--csv" : sim->html ? "--html" : sim->positions ? "--positions" : NULL;
    }
    if (mode) {
        other = other ? other : sim->trace ? "--trace" : sim->stages ? "--stages" : NULL;
    }
    if (mode && other) {
        return status_fail(-EINVAL, "%s: not with %s", other, mode);
    }
    if (!sim->validate && (sim->configs || sim->per_row)) {
        return status_fail(-EINVAL, "%s: only with --validate", sim->configs ? "--configs" : "--per-row");
    }
    return sim->csv && sim->json ? status_fail(-EINVAL, "--csv: not with --json") : 0;
}

static int run(struct sim *sim)
{
    int error = check_together(sim);
    if (error) {
        return error;
    }
    complete(sim);
    if (sim->validate) {
        return validate(sim);
    }
    if (sim->chunk > 0 && sim->context / sim->chunk > MAX_CHUNKS) {
        return status_fail(-EINVAL,
                           "--chunk %d: a prompt of %d would take more than %d steps; expected at least %d, or 0",
                           sim->chunk, sim->context, MAX_CHUNKS, sim->context / MAX_CHUNKS + 1);
    }
    error = plan_flags_resolve(&sim->flags);
    error = error ? error : choice_model(&sim->config, "--model", sim->model);
    error = error || sim->paper ? error : choose_plans(sim);
    error = error ? error
                  : calibrated_open(&sim->calibration, &sim->calibration_file, sim->device_names, sim->devices_file);
    error = error ? error : choose_devices(sim);
    if (error || sim->paper) {
        return error ? error : print_paper(sim);
    }
    if (sim->positions) {
        return print_positions(sim);
    }
    struct table *requests = sim_request_table(), *stages = sim_stage_table(), *charts[SIM_CHART_TABLES] = {NULL};
    error = requests && stages ? 0 : status_fail(-ENOMEM, "no memory for a table");
    error = error || !sim->html ? error : sim_charts_open(charts);
    error = error ? error : predict_all(sim, requests, stages, sim->html ? charts : NULL);
    error = error || !sim->html ? error : report(sim, requests, stages, charts);
    error = error || !sim->trace ? error : trace(sim);
    if (!error) {
        print_tables(sim, requests, stages);
    }
    table_close(requests);
    table_close(stages);
    for (int i = 0; i < SIM_CHART_TABLES; i++) {
        table_close(charts[i]);
    }
    return error;
}

int command_sim(int argc, char **argv)
{
    if (workload_given(argc, argv)) {
        return command_sim_workload(argc, argv);
    }
    const char *workload = NULL;    // for --help only: with one, the line above has left
    // Static: plans and devices are half a megabyte, and a process runs one command.
    static struct sim sim;
    sim = (struct sim){.model = "paper-4b",
                       .context = 8192,
                       .chunk = 8192,
                       .ranks = 1,
                       .replicas = 1,
                       .flags = plan_flags_default()};
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &sim.model, 0, 0, "NAME|FOLDER|FILE", "a size, a model's folder, or any config.json"},
        {"method", OPTION_TEXT, &sim.methods, 0, 0, "M[,M...]|native|all",
         "native: as the config declares it, and its default"},
        {"device", OPTION_TEXT, &sim.device_names, 0, 0, "NAME[,NAME...]",
         "host (the default) is measured; clsa devices lists the others"},
        {"devices", OPTION_TEXT, &sim.devices_file, 0, 0, "FILE",
         "a table of your own, in the form of sim/devices.json"},
        {"calibration", OPTION_TEXT, &sim.calibration_file, 0, 0, "FILE",
         "of clsa calibrate; none: bare roofline (default: the one that comes with clsa, for any GPU)"},
        {"batch", OPTION_INT, &sim.batch, 1, 4096, "sequences", "prompts, decoded together (default 1; --paper: 32)"},
        {"context", OPTION_INT, &sim.context, 1, 1 << 24, "tokens", "prompt length of each"},
        {"output", OPTION_INT, &sim.output, 1, 1 << 24, "tokens",
         "answer length of each (default 256; --paper: 10000)"},
        {"chunk", OPTION_INT, &sim.chunk, 0, 1 << 24, "tokens", "rows of one prefill step; 0: the whole prompt"},
        {"tp", OPTION_INT, &sim.ranks, 1, PARALLEL_MAX_RANKS, "devices", "that share every layer (tensor parallelism)"},
        {"dp", OPTION_INT, &sim.replicas, 1, 4096, "replicas", "that divide the batch (data parallelism)"},
        {"threads", OPTION_INT, &sim.threads, 0, 1024, "threads", "of the host; 0: all"},
        {"stages", OPTION_FLAG, &sim.stages, 0, 0, NULL, "break every row down by stage"},
        {"workload", OPTION_TEXT, &workload, 0, 0, "FILE|NAME", "simulate a service; then see --workload NAME --help"},
        {"positions", OPTION_FLAG, &sim.positions, 0, 0, NULL,
         "what a token costs at each position up to --context, and where indexer and methods cross"},
        {"html", OPTION_OUTPUT, &sim.html, 0, 0, "FILE", "also write a report, with charts, that needs nothing else"},
        {"trace", OPTION_OUTPUT, &sim.trace, 0, 0, "FILE", "also write prefill and 16 decode steps as a .pftrace"},
        {"paper", OPTION_FLAG, &sim.paper, 0, 0, NULL,
         "the experiment of arXiv 2606.06467 beside its figures (device: B200)"},
        {"validate", OPTION_TEXT, &sim.validate, 0, 0, "FOLDER", "predict the published measurements in *.csv there"},
        {"configs", OPTION_TEXT, &sim.configs, 0, 0, "FOLDER",
         "with --validate: of the models, as NAME.json (default: the folder of the *.csv)"},
        {"per-row", OPTION_FLAG, &sim.per_row, 0, 0, NULL, "with --validate: every measurement, not only their errors"},
        {"json", OPTION_FLAG, &sim.json, 0, 0, NULL, "print JSON"},
        {"csv", OPTION_FLAG, &sim.csv, 0, 0, NULL, "print CSV (predictions and --positions)"},
        PLAN_OPTIONS(sim.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {
        "sim",  "Predicts what a model and a method take on a device: a roofline over the cost model.", NULL, 0, 0,
        options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 0) {
        error = run(&sim);
    }
    calibration_free(sim.calibration);
    return error >= 0 ? EXIT_DONE : command_fail("sim", error);
}
