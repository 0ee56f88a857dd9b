// cli/sim_rows.c - see sim_rows.h.
#include "cli/sim_rows.h"

#include <math.h>
#include <stdio.h>

enum { CELL_BYTES = 256 };

static const struct table_column request_columns[] = {
    {"method", "method", -1},
    {"device", "device", -1},
    {"prefill_s", "prefill s", 3},
    {"ttft_s", "TTFT s", 3},
    {"first_decode_step_ms", "first ms", 3},
    {"last_decode_step_ms", "last ms", 3},
    {"tpot_ms", "TPOT ms", 3},
    {"prefill_off_percent", "prefill +-%", 0},
    {"decode_off_percent", "decode +-%", 0},
    {"decode_tokens_per_s", "decode tok/s", 1},
    {"end_to_end_s", "end to end s", 2},
    {"throughput_tokens_per_s", "all tok/s", 1},
    {"weight_gb", "weights GB", 3},
    {"kv_gb_per_sequence", "KV GB/seq", 4},
    {"max_sequences", "max seqs", 0},
    {"bound_by", "mostly", -1},
    {"provenance", "figures", -1},
    {"verdict", "memory", -1},
};

static const struct table_column stage_columns[] = {
    {"method", "method", -1}, {"device", "device", -1},      {"phase", "phase", -1}, {"stage", "stage", -1},
    {"ms", "ms", 4},          {"percent", "%", 1},           {"gb", "GB", 4},        {"gflop", "Gflop", 2},
    {"bound", "bound", -1},   {"off_percent", "+-%", 0}, {"provenance", "figures", -1},
};

struct table *sim_request_table(void)
{
    return table_open("sim", request_columns, sizeof request_columns / sizeof request_columns[0]);
}

struct table *sim_stage_table(void)
{
    return table_open("stages", stage_columns, sizeof stage_columns / sizeof stage_columns[0]);
}

// Sequences of one replica, of the fullest where they do not divide.
int32_t sim_batch_per_replica(const struct sim_batch *batch)
{
    return (batch->sequences + batch->replicas - 1) / batch->replicas;
}

static bool fits(const struct sim_batch *batch, const struct request_prediction *request)
{
    return request->max_seqs < 0 || request->max_seqs >= sim_batch_per_replica(batch);
}

// Does the batch fit, and if not, what does?
static void verdict(char *out, size_t bytes, const struct sim_batch *batch, const struct plan *plan,
                    const struct device *device, const struct request_prediction *request)
{
    double memory = device->memory_bytes.value, weights = (double)request->weight_bytes;
    if (request->max_seqs < 0) {
        snprintf(out, bytes, "capacity unknown; needs %.4g GB", 1e-9 * (double)request->total_bytes);
    } else if (request->max_seqs >= sim_batch_per_replica(batch)) {
        snprintf(out, bytes, "fits: %.4g of %.4g GB", 1e-9 * (double)request->total_bytes, 1e-9 * memory);
    } else if (weights > memory) {
        snprintf(out, bytes, "does not fit: weights %.4g GB alone exceed %.4g GB", 1e-9 * weights, 1e-9 * memory);
    } else {
        double per_seq = 1e-9 * (double)request->kv_bytes_per_seq;
        int n = snprintf(out, bytes, "does not fit: weights %.4g GB + KV %.4g GB per sequence, %.4g GB in all; ",
                         1e-9 * weights, per_seq, 1e-9 * memory);
        if (n < 0 || (size_t)n >= bytes) {
            return;
        }
        if (request->max_seqs > 0) {
            snprintf(out + n, bytes - (size_t)n, "%lld sequence%s", (long long)request->max_seqs,
                     request->max_seqs == 1 ? " fits" : "s fit");
            return;
        }
        double left = memory - weights - (double)plan_kv_bytes_per_sequence(plan);
        double tokens = floor(left / (double)plan_kv_bytes_per_token(plan) / plan->page_tokens) * plan->page_tokens;
        snprintf(out + n, bytes - (size_t)n, "one sequence of %.0f tokens fits", tokens > 0 ? tokens : 0);
    }
}

// The stage that takes most of a step: "attention 71%, bandwidth".
static void dominant(char *out, size_t bytes, const struct step_prediction *step)
{
    int most = 0;
    for (int s = 1; s < STAGE_COUNT; s++) {
        most = step->stages[s].seconds > step->stages[most].seconds ? s : most;
    }
    snprintf(out, bytes, "%s %.0f%%, %s", stage_name((enum stage)most),
             100 * step->stages[most].seconds / step->seconds, bound_name(step->stages[most].bound));
}

void sim_add_request(struct table *table, const struct sim_batch *batch, const struct plan *plan,
                        const struct device *device, const struct request_prediction *request)
{
    char cell[CELL_BYTES];
    bool decodes = batch->output_tokens > 1;
    table_row(table);
    table_text(table, "method", plan->method);
    table_text(table, "device", device->name);
    table_number(table, "prefill_s", request->prefill_s);
    table_number(table, "ttft_s", request->ttft_s);
    if (decodes) {
        table_number(table, "first_decode_step_ms", 1e3 * request->first_decode_step_s);
        table_number(table, "last_decode_step_ms", 1e3 * request->last_decode_step_s);
        table_number(table, "tpot_ms", 1e3 * request->decode_s / (batch->output_tokens - 1));
    }
    table_number(table, "prefill_off_percent", 100 * request->prefill.off_s / request->prefill_s);
    if (decodes) {
        table_number(table, "decode_off_percent", 100 * request->first_decode.off_s / request->first_decode_step_s);
    }
    // Steps have a length even where their batch does not fit; nobody will see its throughput.
    double replicas = (double)batch->sequences / sim_batch_per_replica(batch);
    if (decodes && fits(batch, request)) {
        table_number(table, "decode_tokens_per_s", request->decode_tokens_per_s * replicas);
    }
    if (fits(batch, request)) {
        table_number(table, "end_to_end_s", request->end_to_end_s);
        table_number(table, "throughput_tokens_per_s", request->throughput_tokens_per_s * replicas);
    }
    table_number(table, "weight_gb", 1e-9 * (double)request->weight_bytes);
    table_number(table, "kv_gb_per_sequence", 1e-9 * (double)request->kv_bytes_per_seq);
    if (request->max_seqs >= 0) {
        table_number(table, "max_sequences", (double)request->max_seqs);
    }
    dominant(cell, sizeof cell, decodes ? &request->first_decode : &request->prefill);
    table_text(table, "bound_by", cell);
    table_text(table, "provenance", provenance_name(request->provenance));
    verdict(cell, sizeof cell, batch, plan, device, request);
    table_text(table, "verdict", cell);
}

void sim_add_stages(struct table *table, const struct plan *plan, const struct device *device, enum phase phase,
                       const struct step_prediction *step)
{
    for (int s = 0; s < STAGE_COUNT; s++) {
        const struct stage_prediction *stage = &step->stages[s];
        if (!(stage->seconds > 0)) {
            continue;
        }
        table_row(table);
        table_text(table, "method", plan->method);
        table_text(table, "device", device->name);
        table_text(table, "phase", phase_name(phase));
        table_text(table, "stage", stage_name((enum stage)s));
        table_number(table, "ms", 1e3 * stage->seconds);
        table_number(table, "percent", 100 * stage->seconds / step->seconds);
        table_number(table, "gb", 1e-9 * (double)stage->cost.bytes);
        table_number(table, "gflop", 1e-9 * (double)stage->cost.flops);
        table_text(table, "bound", bound_name(stage->bound));
        table_number(table, "off_percent", 100 * stage->off_s / stage->seconds);
        table_text(table, "provenance", provenance_name(stage->provenance));
    }
}
