// cli/sim_workload.c - clsa sim --workload: a service under load, simulated for each method on each device.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/calibrated.h"
#include "cli/choice.h"
#include "cli/html.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/sim_trace.h"
#include "cli/workload.h"
#include "engine/output_file.h"
#include "engine/status.h"
#include "sim/fleet.h"
#include "sim/parallel.h"
#include "traces/trace.h"

enum { MAX_NAMES = 32, MAX_REQUEST_ROWS = 100000 };

struct sim {
    const char *model, *methods, *devices, *devices_file, *calibration_file;
    const char *router, *html, *trace, *fit;
    int32_t max_seqs, chunk, threads, ranks, replicas, prefill_replicas;
    int64_t cache_tokens;
    double memory_percent, overhead_us, handover_gb_per_s;
    bool json, csv, timeline, per_request, every_step;
    struct workload_flags load;
    struct plan_flags flags;
    struct model_config config;
    struct workload workload;
    struct trace_writer *writer;        // NULL: none asked for
    int32_t n_traced;
    struct table *service, *latency, *use, *points, *requests, *lengths;
    struct calibration *calibration;    // NULL: bare roofline
    char rejection[256];
};

static const struct table_column use_columns[] = {
    {"method", "method", -1},
    {"device", "device", -1},
    {"steps", "steps", 0},
    {"jumped_percent", "jumped %", 1},
    {"max_sequences", "max seqs", 0},
    {"peak_sequences", "peak seqs", 0},
    {"kv_gb", "KV GB", 3},
    {"peak_kv_gb", "peak KV GB", 3},
    {"weight_gb", "weights GB", 3},
    {"cost_per_million_output_tokens", "$/M out", 4},
    {"watt_hours_per_million_output_tokens", "Wh/M out", 1},
    {"step_off_percent", "step +-%", 0},
    {"provenance", "figures", -1},
};

static const struct table_column point_columns[] = {
    {"method", "method", -1}, {"device", "device", -1}, {"time_s", "time s", 3}, {"batch", "batch", 0},
    {"queue", "queue", 0}, {"kv_percent", "KV %", 1}, {"output_tokens_per_s", "out tok/s", 1},
};

static void show_progress(void *user, int64_t finished, int64_t total)
{
    (void)total;
    progress_update(user, finished);
}

static bool fleet_of(const struct sim *sim)
{
    return sim->replicas > 1 || sim->prefill_replicas > 0;
}

static void add_use(struct sim *sim, const struct plan *plan, const struct device *device,
                    const struct serve_result *result)
{
    int32_t replicas = sim->replicas + sim->prefill_replicas;
    table_row(sim->use);
    table_text(sim->use, "method", plan->method);
    table_text(sim->use, "device", device->name);
    table_number(sim->use, "steps", (double)result->steps);
    table_number(sim->use, "jumped_percent", 100 * (double)result->jumped_steps / (double)result->steps);
    table_number(sim->use, "max_sequences", result->max_seqs);
    table_number(sim->use, "peak_sequences", result->peak_running);
    table_number(sim->use, "kv_gb", 1e-9 * (double)result->kv_bytes);
    table_number(sim->use, "peak_kv_gb", 1e-9 * (double)result->peak_kv_bytes);
    table_number(sim->use, "weight_gb", 1e-9 * (double)result->weight_bytes);
    if (device->price_per_hour.value > 0 && result->metrics.output_tokens > 0) {
        table_number(sim->use, "cost_per_million_output_tokens", replicas * device->price_per_hour.value / 3600 *
                                                                     result->metrics.span_s /
                                                                     result->metrics.output_tokens * 1e6);
    }
    if (device->serving_power_w.value > 0 && result->metrics.output_tokens > 0) {
        table_number(sim->use, "watt_hours_per_million_output_tokens",
                     device->serving_power_w.value / 3600 * result->busy_s / result->metrics.output_tokens * 1e6);
    }
    if (!fleet_of(sim)) {
        table_number(sim->use, "step_off_percent", 100 * result->off_share);
    }
    table_text(sim->use, "provenance", provenance_name(result->provenance));
    for (int32_t i = 0; i < result->n_points; i++) {
        const struct serve_point *point = &result->points[i];
        table_row(sim->points);
        table_text(sim->points, "method", plan->method);
        table_text(sim->points, "device", device->name);
        table_number(sim->points, "time_s", point->time_s);
        table_number(sim->points, "batch", point->running);
        table_number(sim->points, "queue", point->waiting);
        table_number(sim->points, "kv_percent", 100.0 * point->kv_pages / (double)result->n_pages);
        table_number(sim->points, "output_tokens_per_s", point->output_tokens_per_s);
    }
}

// Several replicas, reduced to what the tables say of one; their records are the whole workload's.
static int simulate_fleet(struct serve_result *out, const struct sim *sim, const struct serve_options *options)
{
    struct fleet_options fleet_options = {
        .replica = *options,
        .slo = {.ttft_s = options->slo_ttft_s, .tpot_s = options->slo_tpot_s},
        .n_replicas = sim->replicas,
    };
    struct fleet_result fleet;
    int error = router_from_name(&fleet_options.router, sim->router);
    if (error) {
        return status_prefix(error, "--router ");
    }
    if (sim->prefill_replicas > 0) {
        double own = options->device->link_bytes_per_s.value;
        double link = sim->handover_gb_per_s > 0 ? 1e9 * sim->handover_gb_per_s : own;
        error = fleet_run_split(&fleet, &sim->workload, &fleet_options, sim->prefill_replicas, link);
    } else {
        error = fleet_run(&fleet, &sim->workload, &fleet_options);
    }
    if (error) {
        return error;
    }
    *out = (struct serve_result){.metrics = fleet.metrics, .records = fleet.records, .n_records = fleet.n_records};
    memcpy(out->first_rejection, fleet.first_rejection, sizeof out->first_rejection);
    out->provenance = fleet.provenance;
    out->busy_s = fleet.busy_s;
    for (int32_t r = 0; r < fleet.n_replicas; r++) {
        const struct serve_result *one = &fleet.replicas[r];
        out->steps += one->steps;
        out->jumped_steps += one->jumped_steps;
        out->max_seqs += one->max_seqs;
        out->kv_bytes += one->kv_bytes;
        out->weight_bytes += one->weight_bytes;
        out->peak_running += one->peak_running;
        out->peak_kv_bytes += one->peak_kv_bytes;
    }
    fleet.records = NULL;    // they are out's now
    fleet_close(&fleet);
    return 0;
}

static int simulate(struct sim *sim, const char *method, const struct device *one_device)
{
    // Static: the plan and the points are large, and a process runs one command.
    static struct plan whole, plan;
    static struct serve_result result;
    struct device group, *device = &group;
    struct progress progress;
    int error = choice_plan(&whole, &sim->config, sim->model, method, &sim->flags.options);
    error = error ? error : parallel_split(&plan, device, &whole, one_device, sim->ranks);
    if (error) {
        return error;
    }
    struct serve_options options = {.plan = &plan,
                                    .device = device,
                                    .step_overhead_s = 1e-6 * sim->overhead_us,
                                    .max_seqs = sim->max_seqs,
                                    .max_step_tokens = sim->chunk,
                                    .cache_tokens = sim->cache_tokens,
                                    .no_reuse = sim->load.no_reuse,
                                    .snapshots = sim->load.snapshots,
                                    .memory_share = 0.01 * sim->memory_percent,
                                    .slo_ttft_s = sim->load.slo_ttft_s,
                                    .slo_tpot_s = 1e-3 * sim->load.slo_tpot_ms,
                                    .every_step = sim->every_step,
                                    .stop = interrupt_flag(),
                                    .progress = show_progress,
                                    .progress_user = &progress};
    progress_begin(&progress, plan.method, sim->workload.n);
    error = fleet_of(sim) ? simulate_fleet(&result, sim, &options) : serve_run(&result, &sim->workload, &options);
    progress_end(&progress);
    if (!error && interrupt_requested()) {    // what did not end says nothing
        serve_close(&result);
        error = interrupt_check();
    }
    if (error) {
        return status_prefix(error, "%s on %s: ", plan.method, device->name);
    }
    workload_add_service(sim->service, sim->latency, plan.method, device->name, &result.metrics);
    add_use(sim, &plan, device, &result);
    if (sim->writer) {
        struct sample_sink sink = trace_writer_sink(sim->writer);
        error = sim_trace_service(&sink, sim->n_traced++, device, &plan, &result);
    }
    if (sim->per_request) {
        workload_add_requests(sim->requests, plan.method, device->name, result.records, result.n_records);
    }
    if (result.first_rejection[0]) {
        memcpy(sim->rejection, result.first_rejection, sizeof sim->rejection);
    }
    serve_close(&result);
    return error;
}

static int simulate_all(struct sim *sim)
{
    struct device *table = NULL;
    int32_t n_table;
    char *devices = strdup(sim->devices);
    int error = devices ? device_table_load(&table, &n_table, sim->devices_file) : status_fail(-ENOMEM, "no memory");
    for (char *rest = devices, *name; !error && (name = strsep(&rest, ",")) != NULL;) {
        struct device device;
        char *methods = strdup(sim->methods);
        error = methods ? choice_device(&device, table, n_table, sim->calibration, name, sim->threads)
                        : status_fail(-ENOMEM, "no memory");
        for (char *left = methods, *method; !error && (method = strsep(&left, ",")) != NULL;) {
            error = simulate(sim, method, &device);
        }
        free(methods);
    }
    free(table);
    free(devices);
    return error;
}

static void print_notes(const void *user, FILE *out)
{
    const struct sim *sim = user;
    fputs(workload_definitions, out);
    if (sim->prefill_replicas > 0) {
        fprintf(out, "Prompts are computed by %d of the replicas, which hand keys and values on to those that\n"
                "answer.\n", sim->prefill_replicas);
    }
    if (sim->ranks > 1 || fleet_of(sim)) {
        fprintf(out,
                "%d replicas of %d devices each; steps, sequences, KV and weights: peaks of the replicas added up, of\n"
                "one device each.\n",
                sim->replicas + sim->prefill_replicas, sim->ranks);
    }
    fprintf(out, "Step times of %s ", sim->model);
    if (sim->calibration) {
        fprintf(out,
                "as calibrated by %s;\n\"figures\": how the weakest of them came about. --calibration none: the bare "
                "roofline.\n",
                sim->calibration_file);
    } else {
        fputs("by roofline over the cost model: no kernel is faster, most are slower.\n", out);
    }
}

static int report(const struct sim *sim)
{
    static const struct {
        const char *caption, *key, *title;
    } charts[] = {{"Sequences that run", "batch", "sequences"},
                  {"Requests that wait", "queue", "requests"},
                  {"KV cache in use", "kv_percent", "%"},
                  {"Output", "output_tokens_per_s", "tokens per second"}};
    struct html *html;
    int error = html_open(&html, sim->html, "clsa sim --workload");
    if (error) {
        return status_prefix(error, "--html ");
    }
    html_table(html, "Workload", sim->lengths);
    html_table(html, "Service", sim->service);
    html_table(html, "Latency", sim->latency);
    html_table(html, "Use", sim->use);
    for (size_t i = 0; i < sizeof charts / sizeof charts[0]; i++) {
        struct html_lines lines = {.caption = charts[i].caption,
                                   .x = "time_s",
                                   .x_title = "seconds",
                                   .y = charts[i].key,
                                   .y_title = charts[i].title,
                                   .by = {"method", "device"},
                                   .n_by = 2};
        html_lines(html, sim->points, &lines);
    }
    html_print(html, print_notes, sim);
    return html_close(html);
}

static int open_trace(struct sim *sim)
{
    struct trace_writer_options options = {.path = sim->trace, .command = "clsa sim --workload"};
    if (!sim->trace) {
        return 0;
    }
    if (fleet_of(sim)) {
        return status_fail(-EINVAL, "--trace: of one replica only; leave out --replicas");
    }
    int error = trace_writer_open(&sim->writer, &options);
    return error ? status_prefix(error, "--trace ") : 0;
}

static int write_fit(const struct sim *sim)
{
    struct output_file file;
    char *text;
    int error = workload_fit(&text, &sim->workload);
    error = error ? error : output_file_open(&file, sim->fit);
    if (!error) {
        fprintf(file.stream, "%s\n", text);
        error = output_file_commit(&file);
    }
    free(text);
    return error ? status_prefix(error, "--fit ") : 0;
}

static void print(const struct sim *sim)
{
    const struct table *tables[6] = {sim->lengths, sim->service, sim->latency, sim->use};
    int32_t n = 4;
    if (sim->timeline) {
        tables[n++] = sim->points;
    }
    if (sim->per_request) {
        tables[n++] = sim->requests;
    }
    if (sim->json || sim->csv) {
        (sim->json ? tables_print_json : tables_print_csv)(tables, n, stdout);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        table_print(tables[i], stdout);
        putchar('\n');
    }
    print_notes(sim, stdout);
}

static int run(struct sim *sim)
{
    int error =
        sim->csv && sim->json ? status_fail(-EINVAL, "--csv: not with --json") : plan_flags_resolve(&sim->flags);
    error = error ? error : choice_model(&sim->config, "--model", sim->model);
    error = error ? error : workload_flags_load(&sim->workload, &sim->load);
    error = error ? error : calibrated_open(&sim->calibration, &sim->calibration_file, sim->devices, sim->devices_file);
    if (error) {
        return error;
    }
    if (sim->per_request && sim->workload.n > MAX_REQUEST_ROWS) {
        return status_fail(-EINVAL, "--per-request: %lld requests: expected at most %d; lower --requests",
                           (long long)sim->workload.n, MAX_REQUEST_ROWS);
    }
    if (sim->timeline && fleet_of(sim)) {
        return status_fail(-EINVAL, "--timeline: of one replica only; leave out --replicas");
    }
    sim->lengths = workload_table(&sim->workload);
    sim->service = workload_service_table();
    sim->latency = workload_latency_table();
    sim->requests = workload_request_table();
    sim->use = table_open("use", use_columns, sizeof use_columns / sizeof use_columns[0]);
    sim->points = table_open("timeline", point_columns, sizeof point_columns / sizeof point_columns[0]);
    if (!sim->lengths || !sim->service || !sim->latency || !sim->requests || !sim->use || !sim->points) {
        return status_fail(-ENOMEM, "no memory for a table");
    }
    interrupt_catch();
    error = sim->fit ? write_fit(sim) : 0;
    error = error ? error : open_trace(sim);
    error = error ? error : simulate_all(sim);
    if (sim->writer) {
        int close_error = trace_writer_close(sim->writer);
        error = error || !close_error ? error : status_prefix(close_error, "--trace ");
    }
    // Interrupted, the methods and devices that are done are told all the same.
    bool stopped = error == -EINTR && table_rows(sim->service) > 0;
    int report_error = (!error || stopped) && sim->html ? report(sim) : 0;
    if (report_error || (error && !stopped)) {
        return report_error ? report_error : error;
    }
    print(sim);
    if (sim->rejection[0]) {
        fprintf(stderr, "clsa sim: rejected: %s\n", sim->rejection);
    }
    return error;
}

int command_sim_workload(int argc, char **argv)
{
    static struct sim sim;
    sim = (struct sim){.model = "paper-4b",
                       .methods = "clsa",
                       .devices = "h100-sxm",
                       .router = "least-load",
                       .ranks = 1,
                       .replicas = 1,
                       .max_seqs = 256,
                       .chunk = 2048,
                       .memory_percent = 90,
                       .load = workload_flags_default(),
                       .flags = plan_flags_default()};
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &sim.model, 0, 0, "NAME|FOLDER|FILE", "a size, a model's folder, or any config.json"},
        {"method", OPTION_TEXT, &sim.methods, 0, 0, "M[,M...]", "attention methods; native: as the config declares it"},
        {"device", OPTION_TEXT, &sim.devices, 0, 0, "NAME[,NAME...]",
         "host is measured; clsa devices lists the others"},
        {"devices", OPTION_TEXT, &sim.devices_file, 0, 0, "FILE",
         "a table of your own, in the form of sim/devices.json"},
        {"calibration", OPTION_TEXT, &sim.calibration_file, 0, 0, "FILE",
         "of clsa calibrate; none: bare roofline (default: the one that comes with clsa, for any GPU)"},
        {"tp", OPTION_INT, &sim.ranks, 1, PARALLEL_MAX_RANKS, "devices", "per replica, which share every layer"},
        {"replicas", OPTION_INT, &sim.replicas, 1, FLEET_MAX_REPLICAS, "replicas", "of the model, behind a router"},
        {"prefill-replicas", OPTION_INT, &sim.prefill_replicas, 0, FLEET_MAX_REPLICAS, "replicas",
         "that only compute prompts, before those that answer; 0: none"},
        {"handover", OPTION_REAL, &sim.handover_gb_per_s, 0, 1e6, "GB/s",
         "at which they hand on keys and values; 0: the link between devices"},
        {"router", OPTION_TEXT, &sim.router, 0, 0, "NAME", "round-robin, least-load (fewest requests in hand), prefix"},
        {"max-seqs", OPTION_INT, &sim.max_seqs, 1, 1 << 16, "sequences", "that run at once"},
        {"chunk", OPTION_INT, &sim.chunk, 1, 1 << 24, "tokens", "rows of one step, decode and prefill together"},
        {"cache-tokens", OPTION_LONG, &sim.cache_tokens, 0, 1e12, "tokens",
         "size of the KV cache; 0: what memory leaves"},
        {"memory-percent", OPTION_REAL, &sim.memory_percent, 1, 100, "%", "of the device's memory that may be used"},
        {"step-overhead", OPTION_REAL, &sim.overhead_us, 0, 1e6, "us", "added to every step"},
        {"threads", OPTION_INT, &sim.threads, 0, 1024, "threads", "of the host; 0: all"},
        {"timeline", OPTION_FLAG, &sim.timeline, 0, 0, NULL, "batch, queue and KV over time"},
        {"html", OPTION_OUTPUT, &sim.html, 0, 0, "FILE", "also write a report, with charts, that needs nothing else"},
        {"trace", OPTION_OUTPUT, &sim.trace, 0, 0, "FILE", "also write requests and counters as a .pftrace"},
        {"fit", OPTION_OUTPUT, &sim.fit, 0, 0, "FILE", "also write a *.workload that draws such requests"},
        {"per-request", OPTION_FLAG, &sim.per_request, 0, 0, NULL, "a row for every request"},
        {"every-step", OPTION_FLAG, &sim.every_step, 0, 0, NULL, "do not jump over steady decode (slow, same results)"},
        {"json", OPTION_FLAG, &sim.json, 0, 0, NULL, "print JSON"},
        {"csv", OPTION_FLAG, &sim.csv, 0, 0, NULL, "print CSV"},
        WORKLOAD_OPTIONS(sim.load),
        PLAN_OPTIONS(sim.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"sim", "Simulates a service that answers a workload.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 0) {
        error = run(&sim);
    }
    struct table *tables[] = {sim.service, sim.latency, sim.use, sim.points, sim.requests, sim.lengths};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        table_close(tables[i]);
    }
    workload_close(&sim.workload);
    calibration_free(sim.calibration);
    return error >= 0 ? EXIT_DONE : command_fail("sim", error);
}
