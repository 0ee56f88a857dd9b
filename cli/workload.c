// cli/workload.c - flags and tables, see workload.h.
#include "cli/workload.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"

const char *const workload_definitions =
    "queue: arrival to the first step that works on it. TTFT: arrival to the first token. TPOT: (end to end - TTFT) /\n"
    "(output tokens - 1). Percentiles of all finished requests, by nearest rank. Goodput: those within the limits.\n"
    "Reused: of the prompts' tokens, those found in the cache because an earlier prompt began alike.\n";

struct workload_flags workload_flags_default(void)
{
    return (struct workload_flags){.rate_factor = 1, .length_factor = 1};
}

bool workload_given(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--workload") == 0 || strncmp(argv[i], "--workload=", 11) == 0) {
            return true;
        }
    }
    return false;
}

int workload_flags_load(struct workload *out, const struct workload_flags *flags)
{
    struct workload_options options = {.seed = (uint64_t)flags->seed,
                                       .max_requests = flags->requests,
                                       .rate_factor = flags->rate_factor == 1 ? 0 : flags->rate_factor,
                                       .length_factor = flags->length_factor == 1 ? 0 : flags->length_factor,
                                       .prompt_tokens = flags->prompt_tokens,
                                       .output_tokens = flags->output_tokens,
                                       .max_prompt_tokens = flags->max_prompt,
                                       .max_output_tokens = flags->max_output};
    int error = workload_load(out, flags->name, &options);
    return error ? status_prefix(error, "--workload ") : 0;
}

static const struct table_column workload_columns[] = {
    {"workload", "workload", -1},        {"requests", "requests", 0},         {"rate_per_s", "per s", 3},
    {"gap_cv", "gap CV", 2},             {"users", "users", 0},               {"prompt_mean", "prompt mean", 0},
    {"prompt_p50", "p50", 0},            {"prompt_p95", "p95", 0},            {"prompt_p99", "p99", 0},
    {"prompt_max", "max", 0},            {"output_mean", "output mean", 0},   {"output_p50", "p50", 0},
    {"output_p95", "p95", 0},            {"output_p99", "p99", 0},            {"output_max", "max", 0},
    {"think_percent", "thought %", 1},   {"prefix_hit_percent", "prefix hit %", 1},
};

static void add_lengths(struct table *table, const char *what, const struct workload_lengths *lengths)
{
    const struct {
        const char *name;
        double value;
    } cells[] = {{"mean", lengths->mean},
                 {"p50", lengths->p50},
                 {"p95", lengths->p95},
                 {"p99", lengths->p99},
                 {"max", lengths->max}};
    for (size_t i = 0; i < sizeof cells / sizeof cells[0]; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s", what, cells[i].name);
        table_number(table, key, cells[i].value);
    }
}

struct table *workload_table(const struct workload *workload)
{
    struct workload_statistics statistics;
    struct table *table =
        table_open("workload", workload_columns, sizeof workload_columns / sizeof workload_columns[0]);
    if (!table || workload_measure(&statistics, workload)) {
        table_close(table);
        return NULL;
    }
    table_row(table);
    table_text(table, "workload", workload->name);
    table_number(table, "requests", (double)statistics.n);
    if (workload->users > 0) {
        table_number(table, "users", workload->users);
    } else if (statistics.rate_per_s > 0) {
        table_number(table, "rate_per_s", statistics.rate_per_s);
        table_number(table, "gap_cv", statistics.gap_cv);
    }
    add_lengths(table, "prompt", &statistics.prompt);
    add_lengths(table, "output", &statistics.output);
    table_number(table, "think_percent", 100 * statistics.think_share);
    table_number(table, "prefix_hit_percent", 100 * statistics.prefix_hit_share);
    return table;
}

static const struct table_column service_columns[] = {
    {"method", "method", -1},
    {"device", "device", -1},
    {"finished", "finished", 0},
    {"rejected", "rejected", 0},
    {"preemptions", "preempted", 0},
    {"reused_percent", "reused %", 1},
    {"span_s", "span s", 2},
    {"requests_per_s", "req/s", 3},
    {"output_tokens_per_s", "out tok/s", 1},
    {"total_tokens_per_s", "all tok/s", 1},
    {"slo_percent", "in SLO %", 1},
    {"goodput_per_s", "goodput/s", 3},
    {"queue_first_half", "queue 1st", 1},
    {"queue_second_half", "2nd half", 1},
    {"saturation", "verdict", -1},
};

static const struct table_column latency_columns[] = {
    {"method", "method", -1}, {"device", "device", -1}, {"measure", "ms", -1},
    {"mean_ms", "mean", 3},   {"p50_ms", "p50", 3},     {"p90_ms", "p90", 3},
    {"p95_ms", "p95", 3},     {"p99_ms", "p99", 3},     {"max_ms", "max", 3},
};

struct table *workload_service_table(void)
{
    return table_open("serve", service_columns, sizeof service_columns / sizeof service_columns[0]);
}

struct table *workload_latency_table(void)
{
    return table_open("latency", latency_columns, sizeof latency_columns / sizeof latency_columns[0]);
}

void workload_add_service(struct table *service, struct table *latency, const char *method, const char *device,
                          const struct serve_metrics *metrics)
{
    const struct percentiles *measures[] = {&metrics->queue_s, &metrics->ttft_s, &metrics->tpot_s,
                                            &metrics->end_to_end_s};
    static const char *const names[] = {"queue", "ttft", "tpot", "end_to_end"};
    table_row(service);
    table_text(service, "method", method);
    table_text(service, "device", device);
    table_number(service, "finished", (double)metrics->finished);
    table_number(service, "rejected", (double)metrics->rejected);
    table_number(service, "preemptions", (double)metrics->preemptions);
    double prompts = metrics->prompt_tokens > 0 ? metrics->prompt_tokens : 1;
    table_number(service, "reused_percent", 100 * metrics->reused_tokens / prompts);
    table_number(service, "span_s", metrics->span_s);
    table_number(service, "requests_per_s", metrics->requests_per_s);
    table_number(service, "output_tokens_per_s", metrics->output_tokens_per_s);
    table_number(service, "total_tokens_per_s", metrics->total_tokens_per_s);
    table_number(service, "slo_percent", 100 * metrics->slo_share);
    table_number(service, "goodput_per_s", metrics->goodput_per_s);
    table_number(service, "queue_first_half", metrics->queue_first_half);
    table_number(service, "queue_second_half", metrics->queue_second_half);
    table_text(service, "saturation", saturation_name(metrics->saturation));
    for (int i = 0; i < 4; i++) {
        table_row(latency);
        table_text(latency, "method", method);
        table_text(latency, "device", device);
        table_text(latency, "measure", names[i]);
        table_number(latency, "mean_ms", 1e3 * measures[i]->mean);
        table_number(latency, "p50_ms", 1e3 * measures[i]->p50);
        table_number(latency, "p90_ms", 1e3 * measures[i]->p90);
        table_number(latency, "p95_ms", 1e3 * measures[i]->p95);
        table_number(latency, "p99_ms", 1e3 * measures[i]->p99);
        table_number(latency, "max_ms", 1e3 * measures[i]->max);
    }
}

static const struct table_column request_columns[] = {
    {"method", "method", -1},   {"device", "device", -1}, {"request", "request", 0}, {"prompt_tokens", "prompt", 0},
    {"output_tokens", "output", 0}, {"reused_tokens", "reused", 0},
    {"arrival_s", "arrival s", 3}, {"queue_ms", "queue ms", 3}, {"ttft_ms", "TTFT ms", 3},
    {"tpot_ms", "TPOT ms", 3},  {"end_to_end_ms", "end to end ms", 3},
};

struct table *workload_request_table(void)
{
    return table_open("requests", request_columns, sizeof request_columns / sizeof request_columns[0]);
}

void workload_add_requests(struct table *table, const char *method, const char *device,
                           const struct request_record *records, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const struct request_record *record = &records[i];
        table_row(table);
        table_text(table, "method", method);
        table_text(table, "device", device);
        table_number(table, "request", (double)i);
        table_number(table, "prompt_tokens", record->prompt_tokens);
        table_number(table, "output_tokens", record->output_tokens);
        table_number(table, "reused_tokens", record->reused_tokens);
        table_number(table, "arrival_s", record->arrival_s);
        table_number(table, "queue_ms", 1e3 * (record->started_s - record->arrival_s));
        table_number(table, "ttft_ms", 1e3 * (record->first_token_s - record->arrival_s));
        table_number(table, "tpot_ms", 1e3 * request_tpot(record));
        table_number(table, "end_to_end_ms", 1e3 * (record->finished_s - record->arrival_s));
    }
}
