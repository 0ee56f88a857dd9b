// cli/sim_positions.c - see sim_positions.h.
#include "cli/sim_positions.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "engine/status.h"
#include "sim/positions.h"

enum { FIRST_CONTEXT = 1024, MOST_SEQUENCES = 4096 };

const char *const sim_positions_definitions =
    "Decode: a step of the batch over its sequences; prefill: a row of a chunk that ends at the context. $/M: the "
    "device's\n"
    "price over its tokens, were it always busy so. Index: project, score and select. From: the context from which\n"
    "on it holds up to the largest asked for. Fit: sequences of that context beside the weights, at most 4096; what\n"
    "comes out while all of them decode. Layers per index: one indexer for so many layers, at the longest context.\n";

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
// A batch collapses while its sequences grow: what memory holds at each context, and what then comes out.
static const struct table_column batch_columns[] = {
    {"method", "method", -1},
    {"device", "device", -1},
    {"context", "context", 0},
    {"kv_gb_per_sequence", "KV GB/seq", 4},
    {"max_sequences", "fit", 0},
    {"tokens_per_s", "tok/s of all", 1},
    {"user_tokens_per_s", "of each", 2},
};
static const struct table_column sharing_columns[] = {
    {"method", "method", -1},      {"device", "device", -1},
    {"index_every", "layers per index", 0}, {"context", "context", 0},
    {"decode_us_per_token", "decode us/token", 2}, {"max_sequences", "fit", 0},
    {"tokens_per_s", "tok/s of all that fit", 1},
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

static int add_batch(struct table *table, const struct sim_positions_options *o, const struct plan *plan,
                     const struct device *device, int32_t context);

static int add_costs(struct table *const *tables, const struct sim_positions_options *o, const struct plan *plan,
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
        add_cost(tables[0], plan, device, context, o->batch, context < o->chunk_tokens ? context : o->chunk_tokens,
                 &cost);
        error = add_batch(tables[1], o, plan, device, context);
        if (error) {
            return error;
        }
    }
    return 0;
}

// How many sequences of a context fit, and the time of a step of all of them. 0 and 0 where none does or memory is
// unknown.
static int full_batch(int32_t *fit, double *step_s, const struct plan *plan, const struct device *device,
                      int32_t context, int32_t chunk_tokens)
{
    struct step_prediction step;
    int64_t n = predict_max_seqs(device, plan, (int64_t)context + 1, chunk_tokens);    // with the token that is drawn
    *fit = n < 1 ? 0 : n < MOST_SEQUENCES ? (int32_t)n : MOST_SEQUENCES;
    *step_s = 0;
    struct work *work = *fit > 0 ? malloc((size_t)*fit * sizeof *work) : NULL;
    if (*fit > 0 && !work) {
        return status_fail(-ENOMEM, "no memory for a batch of %d", *fit);
    }
    for (int32_t i = 0; i < *fit; i++) {
        work[i] = (struct work){context, 1, 1};
    }
    int error = *fit > 0 ? predict_step(&step, device, plan, work, *fit) : 0;
    *step_s = error || *fit == 0 ? 0 : step.seconds;
    free(work);
    return error;
}

static int add_batch(struct table *table, const struct sim_positions_options *o, const struct plan *plan,
                     const struct device *device, int32_t context)
{
    int32_t fit;
    double step_s;
    int error = full_batch(&fit, &step_s, plan, device, context, o->chunk_tokens);
    if (error || !(device->memory_bytes.value > 0)) {
        return error;
    }
    table_row(table);
    table_text(table, "method", plan->method);
    table_text(table, "device", device->name);
    table_number(table, "context", context);
    table_number(table, "kv_gb_per_sequence", 1e-9 * ((double)plan_kv_bytes_per_token(plan) * context +
                                                      (double)plan_kv_bytes_per_sequence(plan)));
    table_number(table, "max_sequences", fit);
    if (fit > 0) {
        table_number(table, "tokens_per_s", fit / step_s);
        table_number(table, "user_tokens_per_s", 1 / step_s);
    }
    return 0;
}

// One index for 1, 2, 4, ... layers, at the longest context.
static int add_sharing(struct table *table, const struct sim_positions_options *o, const struct plan *plan,
                       const struct device *device)
{
    static struct plan shared;
    int error = 0;
    for (int32_t every = 1; every <= plan->shape.n_layers && !error; every *= 2) {
        struct position_cost cost;
        int32_t fit;
        double step_s;
        if (o->sharing(o->user, &shared, plan->method, every)) {
            return 0;    // a method whose indexers are given
        }
        error = position_cost(&cost, device, &shared, o->batch, o->max_context, o->chunk_tokens);
        error = error ? error : full_batch(&fit, &step_s, &shared, device, o->max_context, o->chunk_tokens);
        if (!error) {
            table_row(table);
            table_text(table, "method", plan->method);
            table_text(table, "device", device->name);
            table_number(table, "index_every", every);
            table_number(table, "context", o->max_context);
            table_number(table, "decode_us_per_token", 1e6 * cost.decode_s);
            table_number(table, "max_sequences", fit);
            table_number(table, "tokens_per_s", fit > 0 ? fit / step_s : NAN);
        }
    }
    return error;
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
    tables[1] = table_open("full_batches", batch_columns, sizeof batch_columns / sizeof batch_columns[0]);
    tables[2] = table_open("index_overtakes", overtake_columns, sizeof overtake_columns / sizeof overtake_columns[0]);
    tables[3] = table_open("crossings", beats_columns, sizeof beats_columns / sizeof beats_columns[0]);
    tables[4] = table_open("index_sharing", sharing_columns, sizeof sharing_columns / sizeof sharing_columns[0]);
    int error = tables[0] && tables[1] && tables[2] && tables[3] && tables[4]
                    ? 0
                    : status_fail(-ENOMEM, "no memory for a table");
    for (int32_t d = 0; !error && d < options->n_devices; d++) {
        for (int32_t p = 0; !error && p < options->n_plans; p++) {
            const struct plan *plan = &options->plans[p];
            error = add_costs(tables, options, plan, &options->devices[d]);
            error = error ? error : add_overtakes(tables[2], options, plan, &options->devices[d]);
            error = error || !options->sharing ? error : add_sharing(tables[4], options, plan, &options->devices[d]);
            for (int32_t other = 0; !error && other < p; other++) {
                error = add_beats(tables[3], options, p, other, &options->devices[d]);
            }
        }
    }
    return error;
}
