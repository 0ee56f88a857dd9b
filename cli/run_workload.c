// cli/run_workload.c - clsa run --workload: a workload through the live engine, with the tables of clsa sim --workload.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/measure.h"
#include "cli/progress.h"
#include "cli/serving.h"
#include "cli/workload.h"
#include "engine/status.h"

enum { MAX_REQUEST_ROWS = 100000 };

struct run {
    const char *model, *method, *device;
    int32_t max_seqs, chunk, threads;
    int64_t cache_tokens, seed;
    bool json, virtual_clock, cold, per_request;
    struct workload_flags load;
    struct plan_flags flags;
    struct model_file *file;
    struct workload workload;
    struct serving_result result;
};

static const struct table_column use_columns[] = {
    {"method", "method", -1},  {"device", "device", -1},          {"steps", "steps", 0},
    {"busy_s", "in steps s", 3}, {"peak_kv_mb", "peak KV MB", 3}, {"kv_mb", "KV MB", 3}, {"weight_mb", "weights MB", 3},
};

static void show_progress(void *user, int64_t finished, int64_t total)
{
    (void)total;
    progress_update(user, finished);
}

static int print(const struct run *run, const char *device)
{
    struct table *tables[5] = {workload_table(&run->workload), workload_service_table(), workload_latency_table(),
                               table_open("use", use_columns, sizeof use_columns / sizeof use_columns[0]),
                               workload_request_table()};
    const struct serving_result *result = &run->result;
    int32_t n = run->per_request ? 5 : 4;
    bool whole = tables[0] && tables[1] && tables[2] && tables[3] && tables[4];
    if (whole) {
        workload_add_service(tables[1], tables[2], run->method, device, &result->metrics);
        table_row(tables[3]);
        table_text(tables[3], "method", run->method);
        table_text(tables[3], "device", device);
        table_number(tables[3], "steps", (double)result->steps);
        table_number(tables[3], "busy_s", result->busy_s);
        table_number(tables[3], "peak_kv_mb", 1e-6 * (double)result->peak_kv_bytes);
        table_number(tables[3], "kv_mb", 1e-6 * (double)result->kv_bytes);
        table_number(tables[3], "weight_mb", 1e-6 * (double)result->weight_bytes);
        if (run->per_request) {
            workload_add_requests(tables[4], run->method, device, result->records, result->n_records);
        }
    }
    if (whole && run->json) {
        tables_print_json((const struct table *const *)tables, n, stdout);
    }
    for (int32_t i = 0; whole && !run->json && i < n; i++) {
        table_print(tables[i], stdout);
        putchar('\n');
    }
    if (whole && !run->json) {
        fputs(workload_definitions, stdout);
        puts(run->virtual_clock
                 ? "Virtual clock: time advances by what each step took; waiting for arrivals takes none."
                 : "Real time.");
    }
    for (int i = 0; i < 5; i++) {
        table_close(tables[i]);
    }
    return whole ? 0 : status_fail(-ENOMEM, "no memory for a table");
}

static int run_it(struct run *run)
{
    static struct plan plan;
    char backend[32];
    int32_t number;
    struct progress progress;
    int error = plan_flags_resolve(&run->flags);
    if (!error && !plan_find_method(run->method)) {
        char names[256];
        command_method_names(names, sizeof names);
        error = status_fail(-EINVAL, "--method %s: expected one of %s", run->method, names);
    }
    error = error ? error : measure_device(backend, sizeof backend, &number, run->device);
    error = error ? error : workload_flags_load(&run->workload, &run->load);
    if (!error && run->per_request && run->workload.n > MAX_REQUEST_ROWS) {
        error = status_fail(-EINVAL, "--per-request: %lld requests: expected at most %d; lower --requests",
                            (long long)run->workload.n, MAX_REQUEST_ROWS);
    }
    error = error ? error : command_model_open(&run->file, run->model, run->method, &run->flags, (uint64_t)run->seed);
    error = error ? error : command_plan_build(&plan, run->file, run->method, &run->flags);
    if (error) {
        return error;
    }
    struct serving_options options = {.plan = &plan,
                                     .model = run->file,
                                     .backend = backend,
                                     .device = number,
                                     .threads = run->threads,
                                     .max_seqs = run->max_seqs,
                                     .max_step_tokens = run->chunk,
                                     .cache_tokens = run->cache_tokens,
                                     .no_reuse = run->load.no_reuse,
                                     .snapshots = run->load.snapshots,
                                     .virtual_clock = run->virtual_clock,
                                     .cold = run->cold,
                                     .seed = (uint64_t)run->seed,
                                     .slo_ttft_s = run->load.slo_ttft_s,
                                     .slo_tpot_s = 1e-3 * run->load.slo_tpot_ms,
                                     .progress = show_progress,
                                     .progress_user = &progress};
    progress_begin(&progress, "replay", run->workload.n);
    error = serving_run(&run->result, &run->workload, &options);
    progress_end(&progress);
    return error ? error : print(run, run->result.source.device);
}

int command_run_workload(int argc, char **argv)
{
    struct run run = {.model = "demo-8m",
                      .method = "clsa",
                      .device = "cpu",
                      .max_seqs = 8,
                      .chunk = 512,
                      .seed = 1,
                      .load = workload_flags_default(),
                      .flags = plan_flags_default()};
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &run.model, 0, 0, "NAME|FOLDER", "a size (random weights) or a model folder"},
        {"method", OPTION_TEXT, &run.method, 0, 0, "NAME", "attention method"},
        {"device", OPTION_TEXT, &run.device, 0, 0, "cpu|reference|cuda[:N]", "backend"},
        {"threads", OPTION_INT, &run.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        {"max-seqs", OPTION_INT, &run.max_seqs, 1, 1 << 16, "sequences", "that run at once"},
        {"chunk", OPTION_INT, &run.chunk, 1, 1 << 20, "tokens", "rows of one step, decode and prefill together"},
        {"cache-tokens", OPTION_LONG, &run.cache_tokens, 0, 1e9, "tokens", "size of the KV cache; 0: for all that run"},
        {"virtual", OPTION_FLAG, &run.virtual_clock, 0, 0, NULL, "as fast as possible: do not wait for arrivals"},
        {"cold", OPTION_FLAG, &run.cold, 0, 0, NULL,
         "the first requests pay for what is loaded and recorded at first use"},
        {"seed", OPTION_LONG, &run.seed, 0, 9e18, "N", "of random weights and of prompts"},
        {"per-request", OPTION_FLAG, &run.per_request, 0, 0, NULL, "a row for every request"},
        {"json", OPTION_FLAG, &run.json, 0, 0, NULL, "print JSON"},
        WORKLOAD_OPTIONS(run.load),
        PLAN_OPTIONS(run.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"run", "Answers a workload with a live engine.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 0) {
        error = run_it(&run);
    }
    serving_close(&run.result);
    workload_close(&run.workload);
    model_file_close(run.file);
    return error >= 0 ? EXIT_DONE : command_fail("run", error);
}
