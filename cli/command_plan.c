// cli/command_plan.c - clsa plan: the smallest fleet for a workload and its limits, and sweeps over what-ifs.
//
// One row per device, method and value of each --sweep. With --resume rows go to a file as they finish and are not
// computed twice; --shard leaves the others to other machines, and `clsa plan merge` puts their files together.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "cli/calibrated.h"
#include "cli/choice.h"
#include "cli/interrupt.h"
#include "cli/plan_work.h"
#include "cli/workload.h"
#include "engine/status.h"
#include "sim/parallel.h"

struct plan_command {
    const char *model, *methods, *devices, *devices_file, *calibration_file, *prices, *shard, *resume, *html;
    int32_t threads, max_replicas;
    int64_t cache_tokens;
    double memory_percent, overhead_us, ttft_percent, tpot_percent;
    bool json, csv, no_headroom;
    struct option_list sweeps;
    struct workload_flags load;
    struct plan_flags flags;
    struct plan_case base;
    // What it names.
    struct model_config config;
    struct workload workload;
    struct calibration *calibration;    // NULL: bare roofline
    struct plan_grid grid;
    struct device *chosen;              // [of the axis "device"] owned
    struct plan_rows rows;
    struct table *table;
};

static const struct plan_axis *axis_of(const struct plan_command *command, const char *name)
{
    for (int32_t i = 0; i < command->grid.n_axes; i++) {
        if (strcmp(command->grid.axes[i].name, name) == 0) {
            return &command->grid.axes[i];
        }
    }
    return NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// Input

static int open_grid(struct plan_command *command)
{
    char methods[512];
    bool all = strcmp(command->methods, "all") == 0;
    if (all) {
        command_method_names(methods, sizeof methods);
        char *to = methods;
        for (const char *from = methods; *from; from++) {
            if (*from != ' ') {
                *to++ = *from;
            }
        }
        *to = 0;
    }
    int error = plan_grid_set(&command->grid, "device", command->devices);
    error = error ? error : plan_grid_set(&command->grid, "method", all ? methods : command->methods);
    if (error) {
        return status_prefix(error, "--");
    }
    for (int32_t i = 0; !error && i < command->sweeps.n; i++) {
        error = plan_grid_sweep(&command->grid, command->sweeps.items[i]);
    }
    return error;
}

static int set_price(struct plan_command *command, const struct device *table, int32_t n_table, char *item)
{
    const struct plan_axis *axis = axis_of(command, "device");
    struct device named;
    char *equals = strchr(item, '='), *end;
    double price = equals ? strtod(equals + 1, &end) : NAN;
    if (!equals || end == equals + 1 || *end || !(price > 0 && price < 1e9)) {
        return status_fail(-EINVAL, "--price %s: expected DEVICE=DOLLARS per hour, as in H100=2.5", item);
    }
    *equals = 0;
    int error = strcasecmp(item, "host") == 0 ? 0 : device_table_find(&named, table, n_table, item);
    if (error) {
        return status_prefix(error, "--price ");
    }
    for (int32_t i = 0; i < axis->n; i++) {
        struct device *device = &command->chosen[i];
        if (strcasecmp(axis->values[i], item) == 0 ||
            (strcasecmp(item, "host") != 0 && strcmp(device->name, named.name) == 0)) {
            device->price_per_hour = (struct device_figure){.value = price, .source = "--price"};
        }
    }
    return 0;
}

static int open_devices(struct plan_command *command)
{
    const struct plan_axis *axis = axis_of(command, "device");
    struct device *table = NULL;
    int32_t n_table;
    char *prices = strdup(command->prices ? command->prices : "");
    command->chosen = calloc((size_t)axis->n, sizeof *command->chosen);
    int error = command->chosen && prices ? 0 : status_fail(-ENOMEM, "no memory for devices");
    error = error ? error : device_table_load(&table, &n_table, command->devices_file);
    for (int32_t i = 0; !error && i < axis->n; i++) {
        error =
            choice_device(&command->chosen[i], table, n_table, command->calibration, axis->values[i], command->threads);
    }
    for (char *rest = prices, *item; !error && command->prices && (item = strsep(&rest, ",")) != NULL;) {
        error = set_price(command, table, n_table, item);
    }
    free(table);
    free(prices);
    return error;
}

static int parse_shard(struct plan_work *work, const char *text)
{
    work->n_shards = 1;
    if (!text) {
        return 0;
    }
    long shard, n;
    char rest;
    if (sscanf(text, "%ld/%ld%c", &shard, &n, &rest) != 2 || shard < 1 || n < shard || n > PLAN_MAX_CASES) {
        return status_fail(-EINVAL, "--shard %s: expected I/N with I from 1 to N", text);
    }
    work->shard = shard - 1;
    work->n_shards = n;
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// The question: all that rows depend on

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
    }
    return hash;
}

static uint64_t hash_workload(const struct workload *workload)
{
    uint64_t hash = hash_bytes(14695981039346656037u, &workload->users, sizeof workload->users);
    hash = hash_bytes(hash, &workload->pause_ns, sizeof workload->pause_ns);
    for (int64_t i = 0; i < workload->n; i++) {
        const struct workload_request *request = &workload->requests[i];
        const int64_t values[] = {request->arrival_ns, request->prefix_id, request->prompt_tokens,
                                  request->prefix_tokens, request->output_tokens};
        hash = hash_bytes(hash, values, sizeof values);
    }
    return hash_bytes(hash, workload->blocks, (size_t)workload->n_blocks * sizeof *workload->blocks);
}

static uint64_t hash_curves(uint64_t hash, const struct calibration_profile *profile)
{
    const double values[] = {profile->overhead_s[PHASE_PREFILL], profile->overhead_s[PHASE_DECODE],
                             profile->overhead_per_seq_s,        profile->settle_s_per_byte,
                             profile->settle_s,                  profile->settle_seqs};
    hash = hash_bytes(hash, values, sizeof values);
    for (int32_t i = 0; i < profile->n_curves; i++) {
        const struct calibration_curve *curve = &profile->curves[i];
        const int32_t kind[] = {(int32_t)curve->stage, (int32_t)curve->phase, (int32_t)curve->layer,
                                (int32_t)curve->dtype, curve->unit_tokens};
        hash = hash_bytes(hash, kind, sizeof kind);
        hash = hash_bytes(hash, &curve->floor_s, sizeof curve->floor_s);
        for (int32_t p = 0; p < curve->n_points; p++) {
            const struct calibration_point *point = &curve->points[p];
            const double at[] = {point->rows, point->work, point->efficiency};
            hash = hash_bytes(hash, at, sizeof at);
        }
    }
    return hash;
}

// Rates, prices and curves; a device is plain numbers and texts, of which these decide.
static uint64_t hash_devices(const struct plan_command *command, int32_t n)
{
    uint64_t hash = 14695981039346656037u;
    for (int32_t i = 0; i < n; i++) {
        const struct device *device = &command->chosen[i];
        const double values[] = {device->bytes_per_s.value, device->memory_bytes.value, device->link_bytes_per_s.value,
                                 device->launch_s.value, device->price_per_hour.value,
                                 device->serving_power_w.value};
        hash = hash_bytes(hash, values, sizeof values);
        for (int d = 0; d < DTYPE_COUNT; d++) {
            hash = hash_bytes(hash, &device->flops_per_s[d].value, sizeof device->flops_per_s[d].value);
        }
        hash = device->calibration ? hash_curves(hash, device->calibration) : hash;
    }
    return hash;
}

// Numbers as text, so that reading them back gives the same.
static void say(json_t *question, const char *key, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.10g", value);
    json_object_set_new(question, key, json_string(text));
}

static void say_hash(json_t *question, const char *key, uint64_t hash)
{
    char text[32];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    json_object_set_new(question, key, json_string(text));
}

static json_t *axes_json(const struct plan_grid *grid)
{
    json_t *axes = json_array();
    for (int32_t a = 0; a < grid->n_axes; a++) {
        json_t *values = json_array();
        for (int32_t v = 0; v < grid->axes[a].n; v++) {
            json_array_append_new(values, json_string(grid->axes[a].values[v]));
        }
        json_array_append_new(axes, json_pack("{s:s, s:o}", "name", grid->axes[a].name, "values", values));
    }
    return axes;
}

static json_t *question_of(const struct plan_command *command, double workload_rate_per_s)
{
    json_t *question = json_object();
    const struct plan_options *knobs = &command->flags.options;
    json_object_set_new(question, "model", json_string(command->model));
    json_object_set_new(question, "workload", json_string(command->workload.name));
    say(question, "requests", (double)command->workload.n);
    say(question, "users", command->workload.users);
    say(question, "workload_rate_per_s", workload_rate_per_s);
    say_hash(question, "workload_hash", hash_workload(&command->workload));
    say_hash(question, "device_hash", hash_devices(command, axis_of(command, "device")->n));
    json_object_set_new(question, "calibration",
                        json_string(command->calibration_file ? command->calibration_file : ""));
    json_object_set_new(question, "router", json_string(command->base.router));
    say(question, "rate_per_s", command->base.rate_per_s);
    say(question, "slo_ttft_s", command->base.slo_ttft_s);
    say(question, "slo_tpot_ms", command->base.slo_tpot_ms);
    say(question, "slo_ttft_percent", command->ttft_percent);
    say(question, "slo_tpot_percent", command->tpot_percent);
    say(question, "max_seqs", command->base.max_seqs);
    say(question, "tp", command->base.ranks);
    say(question, "chunk", command->base.chunk);
    say(question, "cache_tokens", (double)command->cache_tokens);
    say(question, "memory_percent", command->memory_percent);
    say(question, "step_overhead_us", command->overhead_us);
    say(question, "max_replicas", command->max_replicas);
    say(question, "reuse", !command->load.no_reuse);
    say(question, "snapshots", command->load.snapshots);
    say(question, "headroom", !command->no_headroom);
    say_hash(question, "method_knobs", hash_bytes(14695981039346656037u, knobs, sizeof *knobs));
    json_object_set_new(question, "axes", axes_json(&command->grid));
    return question;
}

// ---------------------------------------------------------------------------------------------------------------------
// Output

static void show_row(void *user, int64_t index)
{
    struct plan_command *command = user;
    if (!command->json && !command->csv) {
        plan_rows_show(command->table, &command->rows, index);
        table_print_new(command->table, stdout);
        fflush(stdout);
    }
}

// ---------------------------------------------------------------------------------------------------------------------

static int open_calibration(struct plan_command *command)
{
    const struct plan_axis *axis = axis_of(command, "device");
    char names[1024] = "";
    for (int32_t i = 0; i < axis->n; i++) {
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", i ? "," : "", axis->values[i]);
    }
    return calibrated_open(&command->calibration, &command->calibration_file, names, command->devices_file);
}

static int open_input(struct plan_command *command)
{
    struct plan_case *base = &command->base;
    int error = command->csv && command->json ? status_fail(-EINVAL, "--csv: not with --json")
                                              : plan_flags_resolve(&command->flags);
    error = error ? error : choice_model(&command->config, "--model", command->model);
    error = error ? error : open_grid(command);
    error = error ? error : workload_flags_load(&command->workload, &command->load);
    error = error ? error : open_calibration(command);
    error = error ? error : open_devices(command);
    base->knobs = command->flags.options;
    base->slo_ttft_s = command->load.slo_ttft_s;
    base->slo_tpot_ms = command->load.slo_tpot_ms;
    return error;
}

static int run(struct plan_command *command)
{
    int error = open_input(command);
    struct workload_statistics statistics = {0};
    struct plan_work work = {.model = command->model,
                             .config = &command->config,
                             .workload = &command->workload,
                             .grid = &command->grid,
                             .base = command->base,
                             .options = {.replica = {.step_overhead_s = 1e-6 * command->overhead_us,
                                                     .cache_tokens = command->cache_tokens,
                                                     .no_reuse = command->load.no_reuse,
                                                     .snapshots = command->load.snapshots,
                                                     .memory_share = 0.01 * command->memory_percent},
                                         .slo = {.ttft_percent = command->ttft_percent,
                                                 .tpot_percent = command->tpot_percent},
                                         .max_replicas = command->max_replicas,
                                         .headroom = !command->no_headroom},
                             .devices = command->chosen,
                             .threads = command->threads ? command->threads : (int32_t)sysconf(_SC_NPROCESSORS_ONLN)};
    error = error ? error : parse_shard(&work, command->shard);
    error = error ? error : workload_measure(&statistics, &command->workload);
    work.workload_rate_per_s = statistics.rate_per_s;
    error = error ? error : plan_work_check(&work);
    if (error) {
        return error;
    }
    json_t *question = question_of(command, statistics.rate_per_s);
    error = plan_rows_open(&command->rows, question, plan_grid_cases(&command->grid));
    json_decref(question);
    if (!error && command->resume) {
        error = plan_rows_resume(&command->rows, command->resume);
    }
    command->table = error ? NULL : plan_rows_table(&command->rows);
    if (error || !command->table) {
        return error ? error : status_fail(-ENOMEM, "no memory for a table");
    }
    interrupt_catch();
    if (!command->json && !command->csv) {
        plan_rows_head(&command->rows, stdout);
        putchar('\n');
    }
    error = plan_work_run(&work, &command->rows, show_row, command);
    if (error && error != -EINTR) {
        return error;
    }
    if (command->json) {
        plan_rows_print_json(&command->rows, stdout);
    } else if (command->csv) {
        const struct table *table = command->table;
        plan_rows_show_all(command->table, &command->rows);    // whatever the order in which they finished
        tables_print_csv(&table, 1, stdout);
    } else {
        putchar('\n');
        plan_rows_notes(&command->rows, stdout);
    }
    int report_error = command->html ? plan_rows_report(&command->rows, command->html) : 0;
    return report_error ? status_prefix(report_error, "--html ") : error;
}

static int merge(int argc, char **argv)
{
    const char *out = NULL, *html = NULL;
    bool json = false, csv = false;
    const struct option_spec options[] = {
        {"out", OPTION_OUTPUT, &out, 0, 0, "FILE", "also write all rows to one file, which --resume takes"},
        {"html", OPTION_OUTPUT, &html, 0, 0, "FILE", "also write a report, with charts, that needs nothing else"},
        {"json", OPTION_FLAG, &json, 0, 0, NULL, "print JSON"},
        {"csv", OPTION_FLAG, &csv, 0, 0, NULL, "print CSV"},
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"plan merge", "Puts the rows of files of clsa plan --resume together.",
                                         "FILE [FILE...]", 1, 1024, options};
    struct plan_rows rows = {0};
    int32_t n;
    int error = options_parse(&command, argc, argv, &n);
    if (error) {
        return error > 0 ? EXIT_DONE : command_fail("plan merge", error);
    }
    error = csv && json ? status_fail(-EINVAL, "--csv: not with --json") : 0;
    for (int32_t i = 1; !error && i <= n; i++) {
        error = plan_rows_read(&rows, argv[i]);
    }
    error = error || !out ? error : plan_rows_write(&rows, out);
    error = error || !html ? error : plan_rows_report(&rows, html);
    struct table *table = error || json ? NULL : plan_rows_table(&rows);
    if (!error && json) {
        plan_rows_print_json(&rows, stdout);
    }
    if (table) {
        plan_rows_show_all(table, &rows);
    }
    if (table && csv) {
        const struct table *rows_table = table;
        tables_print_csv(&rows_table, 1, stdout);
    } else if (table) {
        plan_rows_head(&rows, stdout);
        putchar('\n');
        table_print(table, stdout);
        putchar('\n');
        plan_rows_notes(&rows, stdout);
    }
    if (!error && plan_rows_count(&rows) < rows.n) {
        fprintf(stderr, "clsa plan merge: %lld of %lld rows are there\n", (long long)plan_rows_count(&rows),
                (long long)rows.n);
    }
    table_close(table);
    plan_rows_close(&rows);
    return error ? command_fail("plan merge", error) : EXIT_DONE;
}

int command_plan(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "merge") == 0) {
        return merge(argc - 1, argv + 1);
    }
    static struct plan_command plan;
    plan = (struct plan_command){.model = "paper-4b",
                                 .methods = "dense,clsa",
                                 .devices = "h100-sxm",
                                 .max_replicas = 64,
                                 .memory_percent = 90,
                                 .ttft_percent = 95,
                                 .tpot_percent = 95,
                                 .load = workload_flags_default(),
                                 .flags = plan_flags_default(),
                                 .base = {.router = "least-load", .max_seqs = 256, .chunk = 2048, .ranks = 1}};
    plan.load.name = "reasoning";
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &plan.model, 0, 0, "NAME|FOLDER|FILE", "a size, a model's folder, or any config.json"},
        {"method", OPTION_TEXT, &plan.methods, 0, 0, "M[,M...]|all",
         "attention methods; native: as the config declares it"},
        {"device", OPTION_TEXT, &plan.devices, 0, 0, "NAME[,NAME...]",
         "host is measured; clsa devices lists the others"},
        {"devices", OPTION_TEXT, &plan.devices_file, 0, 0, "FILE",
         "a table of your own, in the form of sim/devices.json"},
        {"price", OPTION_TEXT, &plan.prices, 0, 0, "NAME=$[,NAME=$...]",
         "per hour of one device, instead of the table's"},
        {"calibration", OPTION_TEXT, &plan.calibration_file, 0, 0, "FILE",
         "of clsa calibrate; none: bare roofline (default: the one that comes with clsa, for any GPU)"},
        {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "Limits: with --slo-ttft and --slo-tpot below, at least one"},
        {"slo-ttft-percentile", OPTION_REAL, &plan.ttft_percent, 1, 100, "%", "of the requests are within --slo-ttft"},
        {"slo-tpot-percentile", OPTION_REAL, &plan.tpot_percent, 1, 100, "%", "of the requests are within --slo-tpot"},
        {"rate", OPTION_REAL, &plan.base.rate_per_s, 0, 1e9, "1/s", "requests per second; 0: as the workload comes"},
        {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "Fleet"},
        {"router", OPTION_TEXT, &plan.base.router, 0, 0, "NAME",
         "round-robin, least-load (fewest requests in hand), prefix"},
        {"tp", OPTION_INT, &plan.base.ranks, 1, PARALLEL_MAX_RANKS, "devices", "per replica, which share every layer"},
        {"max-replicas", OPTION_INT, &plan.max_replicas, 1, PLANNER_MAX_REPLICAS, "replicas",
         "larger fleets are not tried"},
        {"no-headroom", OPTION_FLAG, &plan.no_headroom, 0, 0, NULL,
         "do not look for the load at which the fleet fails"},
        {"max-seqs", OPTION_INT, &plan.base.max_seqs, 1, 1 << 16, "sequences", "that run at once on a replica"},
        {"chunk", OPTION_INT, &plan.base.chunk, 1, 1 << 24, "tokens", "rows of one step, decode and prefill together"},
        {"cache-tokens", OPTION_LONG, &plan.cache_tokens, 0, 1e12, "tokens",
         "size of the KV cache; 0: what memory leaves"},
        {"memory-percent", OPTION_REAL, &plan.memory_percent, 1, 100, "%", "of the device's memory that may be used"},
        {"step-overhead", OPTION_REAL, &plan.overhead_us, 0, 1e6, "us", "added to every step"},
        {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "What if"},
        {"sweep", OPTION_LIST, &plan.sweeps, 0, 0, "NAME=VALUES",
         "top-k=512..8192, device=H100,B200, ...; several times"},
        {"resume", OPTION_TEXT, &plan.resume, 0, 0, "FILE",
         "rows go there as they finish; those in it are not computed again"},
        {"shard", OPTION_TEXT, &plan.shard, 0, 0, "I/N", "only every Nth case, from the Ith; see clsa plan merge"},
        {"threads", OPTION_INT, &plan.threads, 0, 256, "threads", "that compute; 0: all. Rows do not depend on it"},
        {"html", OPTION_OUTPUT, &plan.html, 0, 0, "FILE", "also write a report, with charts, that needs nothing else"},
        {"json", OPTION_FLAG, &plan.json, 0, 0, NULL, "print JSON"},
        {"csv", OPTION_FLAG, &plan.csv, 0, 0, NULL, "print CSV"},
        WORKLOAD_OPTIONS(plan.load),
        PLAN_OPTIONS(plan.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {
        "plan",
        "Finds the smallest fleet that answers a workload within limits. clsa plan merge FILE...: see --resume.",
        NULL,
        0,
        0,
        options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 0) {
        error = run(&plan);
    }
    table_close(plan.table);
    plan_rows_close(&plan.rows);
    plan_grid_close(&plan.grid);
    free(plan.chosen);
    workload_close(&plan.workload);
    calibration_free(plan.calibration);
    return error >= 0 ? EXIT_DONE : command_fail("plan", error);
}
