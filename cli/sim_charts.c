// cli/sim_charts.c - see sim_charts.h.
#include "cli/sim_charts.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/status.h"

enum { MOST_SEQUENCES = 4096 };

static const struct table_column batch_columns[] = {
    {"method", "method", -1},
    {"device", "device", -1},
    {"sequences", "sequences", 0},
    {"user_tokens_per_s", "tok/s per user", 2},
    {"device_tokens_per_s", "tok/s per device", 1},
    {"kv_gb", "KV GB", 3},
};
static const struct table_column roof_columns[] = {
    {"what", "what", -1},
    {"device", "device", -1},
    {"stage", "stage", -1},
    {"flops_per_byte", "flop/byte", 3},
    {"gflops_per_s", "Gflop/s", 1},
};

int sim_charts_open(struct table **tables)
{
    tables[0] = table_open("batches", batch_columns, sizeof batch_columns / sizeof batch_columns[0]);
    tables[1] = table_open("roofline", roof_columns, sizeof roof_columns / sizeof roof_columns[0]);
    return tables[0] && tables[1] ? 0 : status_fail(-ENOMEM, "no memory for a table");
}

static int add_batches(struct table *table, const struct plan *plan, const struct device *device,
                       int32_t context_tokens, int32_t chunk_tokens)
{
    struct work *work = malloc(MOST_SEQUENCES * sizeof *work);
    int32_t ranks = device->ranks > 1 ? device->ranks : 1;
    int64_t page = plan->page_tokens, pages = (context_tokens + page) / page;    // with the token that is drawn
    double kv = (double)pages * (double)page * (double)plan_kv_bytes_per_token(plan) +
                (double)plan_kv_bytes_per_sequence(plan);
    int64_t fits = predict_max_seqs(device, plan, (int64_t)context_tokens + 1, chunk_tokens);
    int32_t most = fits >= 0 && fits < MOST_SEQUENCES ? (int32_t)fits : MOST_SEQUENCES;    // -1: nobody knows
    int error = work ? 0 : status_fail(-ENOMEM, "no memory for a batch");
    for (int32_t n = 1; n <= most && !error; n = n < most && 2 * n > most ? most : 2 * n) {
        struct step_prediction step;
        for (int32_t i = 0; i < n; i++) {
            work[i] = (struct work){context_tokens, 1, 1};
        }
        error = predict_step(&step, device, plan, work, n);
        if (!error) {
            table_row(table);
            table_text(table, "method", plan->method);
            table_text(table, "device", device->name);
            table_number(table, "sequences", n);
            table_number(table, "user_tokens_per_s", 1 / step.seconds);
            table_number(table, "device_tokens_per_s", n / step.seconds / ranks);
            table_number(table, "kv_gb", 1e-9 * kv * n);
        }
    }
    free(work);
    return error;
}

static void add_stages(struct table *table, const struct plan *plan, const struct device *device, const char *phase,
                       const struct step_prediction *step)
{
    for (int s = 0; s < STAGE_COUNT; s++) {
        const struct stage_prediction *stage = &step->stages[s];
        if (stage->seconds > 0 && stage->cost.bytes > 0 && stage->cost.flops > 0) {
            char what[128];
            snprintf(what, sizeof what, "%s %s", plan->method, phase);
            table_row(table);
            table_text(table, "what", what);
            table_text(table, "device", device->name);
            table_text(table, "stage", stage_name((enum stage)s));
            table_number(table, "flops_per_byte", (double)stage->cost.flops / (double)stage->cost.bytes);
            table_number(table, "gflops_per_s", 1e-9 * (double)stage->cost.flops / stage->seconds);
        }
    }
}

int sim_charts_add(struct table *const *tables, const struct plan *plan, const struct device *device,
                   int32_t context_tokens, int32_t chunk_tokens, const struct step_prediction *prefill,
                   const struct step_prediction *decode)
{
    add_stages(tables[1], plan, device, "prefill", prefill);
    add_stages(tables[1], plan, device, "decode", decode);
    return add_batches(tables[0], plan, device, context_tokens, chunk_tokens);
}

void sim_charts_ceilings(struct table *const *tables, const struct device *device)
{
    const struct device_figure *rate = device_rate(device, DTYPE_BF16);
    for (double intensity = 0.125; rate && intensity <= 65536; intensity *= 2) {
        double memory = intensity * device->bytes_per_s.value;
        table_row(tables[1]);
        table_text(tables[1], "what", "ceiling, bf16");
        table_text(tables[1], "device", device->name);
        table_text(tables[1], "stage", "");
        table_number(tables[1], "flops_per_byte", intensity);
        table_number(tables[1], "gflops_per_s", 1e-9 * (memory < rate->value ? memory : rate->value));
    }
}

void sim_charts_draw(struct html *html, struct table *const *tables)
{
    const struct html_lines charts[] = {
        {.caption = "Throughput against speed, batches of 1, 2, 4, ... up to what fits", .x = "user_tokens_per_s",
         .x_title = "tokens/s per user", .y = "device_tokens_per_s", .y_title = "tokens/s per device",
         .by = {"method", "device"}, .n_by = 2, .log_x = true, .log_y = true},
        {.caption = "Keys and values against concurrency", .x = "sequences", .x_title = "sequences", .y = "kv_gb",
         .y_title = "GB", .by = {"method", "device"}, .n_by = 2, .log_x = true, .log_y = true},
        {.caption = "Roofline: one prompt's prefill, the batch's first step", .x = "flops_per_byte",
         .x_title = "operations per byte", .y = "gflops_per_s", .y_title = "Gflop/s", .by = {"what", "device"},
         .n_by = 2, .log_x = true, .log_y = true, .joined = "ceiling"},
    };
    for (size_t i = 0; i < sizeof charts / sizeof charts[0]; i++) {
        html_lines(html, tables[i < 2 ? 0 : 1], &charts[i]);
    }
    html_table(html, "Batches", tables[0]);
    html_table(html, "Roofline", tables[1]);
}
