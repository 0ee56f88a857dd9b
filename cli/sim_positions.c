// cli/sim_positions.c - see sim_positions.h.
#include "cli/sim_positions.h"

#include <errno.h>

#include "engine/status.h"
#include "sim/positions.h"

enum { FIRST_CONTEXT = 1024 };

const char *const sim_positions_definitions =
    "Decode: a step of the batch over its sequences; prefill: a row of a chunk that ends at the context. $/M: the "
    "device's\n"
    "price over its tokens, were it always busy so. Index: project, score and select. From: the context from which\n"
    "on it holds up to the largest asked for.\n";

static const struct table_column cost_columns[] = {
    {"method", "method", -1},
    {"device", "device", -1},
    {"context", "context", 0},
    {"decode_us_per_token", "decode us/token", 2},
    {"decode_dollars_per_million", "$/M out", 4},
    {"prefill_us_per_token", "prefill us/token", 3},
    {"prefill_dollars_per_million", "$/M in", 5},
    {"decode_index_percent", "index % of decode", 1},
    {"prefill_index_percent", "of prefill", 1},
};
static const struct table_column overtake_columns[] = {
    {"method", "method", -1},    {"device", "device", -1},
    {"phase", "phase", -1},      {"overtakes", "index over attention", -1},
    {"from_context", "from", 0},
};
static const struct table_column beats_columns[] = {
    {"method", "method", -1}, {"beats", "beats", -1},        {"device", "device", -1},
    {"phase", "phase", -1},   {"crosses", "is cheaper", -1}, {"from_context", "from", 0},
};

static void add_cost(struct table *table, const struct plan *plan, const struct device *device, int32_t context,
                     int32_t batch, int32_t rows, const struct position_cost *cost)
{
    double dollars_per_us = 1e-6 * device->price_per_hour.value / 3600, million = 1e6;
    table_row(table);
    table_text(table, "method", plan->method);
    table_text(table, "device", device->name);
    table_number(table, "context", context);
    table_number(table, "decode_us_per_token", 1e6 * cost->decode_s);
    table_number(table, "prefill_us_per_token", 1e6 * cost->prefill_s);
    if (dollars_per_us > 0) {
        table_number(table, "decode_dollars_per_million", 1e6 * cost->decode_s * dollars_per_us * million);
        table_number(table, "prefill_dollars_per_million", 1e6 * cost->prefill_s * dollars_per_us * million);
    }
    table_number(table, "decode_index_percent", 100 * cost->decode_index_s / (cost->decode_s * batch));
    table_number(table, "prefill_index_percent", 100 * cost->prefill_index_s / (cost->prefill_s * rows));
}

static int add_costs(struct table *table, const struct sim_positions_options *o, const struct plan *plan,
                     const struct device *device)
{
    bool last = false;
    for (int64_t at = FIRST_CONTEXT; !last; at *= 2) {
        struct position_cost cost;
        last = at >= o->max_context;
        int32_t context = last ? o->max_context : (int32_t)at;
        int error = position_cost(&cost, device, plan, o->batch, context, o->chunk_tokens);
        if (error) {
            return error;
        }
        add_cost(table, plan, device, context, o->batch, context < o->chunk_tokens ? context : o->chunk_tokens, &cost);
    }
    return 0;
}

static void add_crossing(struct table *table, const char *what, enum crossing crossing, int32_t context)
{
    table_text(table, what, crossing == CROSSING_AT ? "from" : crossing_name(crossing));
    if (crossing != CROSSING_NEVER) {
        table_number(table, "from_context", context);
    }
}

static int add_overtakes(struct table *table, const struct sim_positions_options *o, const struct plan *plan,
                         const struct device *device)
{
    for (int decode = 0; decode < 2 && plan->index.budget_tokens > 0; decode++) {
        enum crossing crossing;
        int32_t context;
        int error = position_index_overtakes(&crossing, &context, device, plan, o->batch, o->chunk_tokens, decode,
                                             o->max_context);
        if (error) {
            return error;
        }
        table_row(table);
        table_text(table, "method", plan->method);
        table_text(table, "device", device->name);
        table_text(table, "phase", phase_name(decode ? PHASE_DECODE : PHASE_PREFILL));
        add_crossing(table, "overtakes", crossing, context);
    }
    return 0;
}

static int add_beats(struct table *table, const struct sim_positions_options *o, int32_t challenger, int32_t holder,
                     const struct device *device)
{
    const struct plan *a = &o->plans[holder], *b = &o->plans[challenger];
    for (int decode = 0; decode < 2; decode++) {
        enum crossing crossing;
        int32_t context;
        int error =
            position_beats(&crossing, &context, device, a, b, o->batch, o->chunk_tokens, decode, o->max_context);
        if (error) {
            return error;
        }
        table_row(table);
        table_text(table, "method", b->method);
        table_text(table, "beats", a->method);
        table_text(table, "device", device->name);
        table_text(table, "phase", phase_name(decode ? PHASE_DECODE : PHASE_PREFILL));
        add_crossing(table, "crosses", crossing, context);
    }
    return 0;
}

int sim_positions(struct table **tables, const struct sim_positions_options *options)
{
    tables[0] = table_open("positions", cost_columns, sizeof cost_columns / sizeof cost_columns[0]);
    tables[1] = table_open("index_overtakes", overtake_columns, sizeof overtake_columns / sizeof overtake_columns[0]);
    tables[2] = table_open("crossings", beats_columns, sizeof beats_columns / sizeof beats_columns[0]);
    int error = tables[0] && tables[1] && tables[2] ? 0 : status_fail(-ENOMEM, "no memory for a table");
    for (int32_t d = 0; !error && d < options->n_devices; d++) {
        for (int32_t p = 0; !error && p < options->n_plans; p++) {
            const struct plan *plan = &options->plans[p];
            error = add_costs(tables[0], options, plan, &options->devices[d]);
            error = error ? error : add_overtakes(tables[1], options, plan, &options->devices[d]);
            for (int32_t other = 0; !error && other < p; other++) {
                error = add_beats(tables[2], options, p, other, &options->devices[d]);
            }
        }
    }
    return error;
}
