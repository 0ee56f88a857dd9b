// sim/step_price.c - see step_price.h.
//
// "Kinds" are layers with equal costs, the first one stands for all; kind 0 is what lies outside layers. A "term" is
// one stage of one kind. Of a term, the part that depends on rows only is found by asking the cost model for a batch of
// one sequence with all the rows; the part that depends on contexts is a dot product with the batch's features. All
// features are whole numbers below 2^53, so their sums are exact in any order.
#include "sim/step_price.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/step_price_internal.h"

enum { CACHE_ENTRIES = 1024, MAX_PROBES = 24 };

// ---------------------------------------------------------------------------------------------------------------------
// Features

static void features_of(double *out, const struct step_price *price, int32_t context_tokens)
{
    struct feature_sums sums = {0};
    memset(out, 0, FEATURE_COUNT * sizeof *out);
    count_features(&sums, price, context_tokens);
    add_features(out, &sums);
}

static struct stage_cost cost_of(const struct step_price *price, const struct term *term, const struct work *work)
{
    struct stage_cost cost = {0, 0};
    stage_cost(&cost, &price->plan, term->stage, term->layer, work, 1);    // its layer was checked when it was found
    return cost;
}

// Solves for coefficients such that coefficients . features = values in every probe, by elimination with full pivoting.
// Features that say the same as others get 0. Whether there are such coefficients is the caller's to check.
static void solve(double *coefficients, double (*features)[FEATURE_COUNT], const double *values, int32_t n)
{
    double a[MAX_PROBES][FEATURE_COUNT + 1];
    int32_t row_of[FEATURE_COUNT];
    bool taken[MAX_PROBES] = {false};
    for (int32_t i = 0; i < n; i++) {
        memcpy(a[i], features[i], sizeof features[i]);
        a[i][FEATURE_COUNT] = values[i];
    }
    memset(row_of, -1, sizeof row_of);
    for (;;) {
        int32_t row = -1, column = -1;
        double best = 1e-6;    // features are whole numbers: what is left below this is rounding
        for (int32_t i = 0; i < n; i++) {
            for (int32_t f = 0; f < FEATURE_COUNT && !taken[i]; f++) {
                if (row_of[f] < 0 && fabs(a[i][f]) > best) {
                    best = fabs(a[i][f]);
                    row = i;
                    column = f;
                }
            }
        }
        if (row < 0) {
            break;
        }
        taken[row] = true;
        row_of[column] = row;
        for (int32_t i = 0; i < n; i++) {
            double factor = i == row ? 0 : a[i][column] / a[row][column];
            for (int32_t f = 0; f <= FEATURE_COUNT; f++) {
                a[i][f] -= factor * a[row][f];
            }
        }
    }
    for (int32_t f = 0; f < FEATURE_COUNT; f++) {
        double value = row_of[f] < 0 ? 0 : a[row_of[f]][FEATURE_COUNT] / a[row_of[f]][f];
        coefficients[f] = fabs(value - round(value)) < 1e-3 ? round(value) : value;    // bytes and operations are whole
    }
}

static double dot(const double *coefficients, const double *features)
{
    double sum = 0;
    for (int f = 0; f < FEATURE_COUNT; f++) {
        sum += coefficients[f] * features[f];
    }
    return sum;
}

// Contexts around everything at which a cost may bend.
static int32_t choose_probes(int32_t *contexts, const struct step_price *price)
{
    int64_t window = price->plan.shape.window_tokens, budget = price->plan.index.budget_tokens, unit = price->unit;
    int64_t beyond = 2 * (window + budget) + 3 * unit;
    const int64_t chosen[] = {0, 1, 2, unit - 1, unit, unit + 1, 2 * unit, 2 * unit + 1, window / 2, window - 1, window,
                              window + 1, budget / 2, budget - 2, budget - 1, budget, budget + 1, budget + unit, beyond,
                              beyond + 1, beyond + unit, 2 * beyond, 2 * beyond + unit / 2, 3 * beyond};
    int32_t n = 0;
    for (size_t i = 0; i < sizeof chosen / sizeof chosen[0]; i++) {
        if (chosen[i] >= 0 && chosen[i] < INT32_MAX / 2) {
            contexts[n++] = (int32_t)chosen[i];
        }
    }
    return n;
}

static int fit_term(struct term *term, const struct step_price *price)
{
    int32_t contexts[MAX_PROBES], n = choose_probes(contexts, price);
    double features[MAX_PROBES][FEATURE_COUNT] = {{0}}, bytes[MAX_PROBES] = {0}, flops[MAX_PROBES] = {0};
    for (int32_t i = 0; i < n; i++) {
        struct work work = {contexts[i], 1, 1};
        struct stage_cost cost = cost_of(price, term, &work);
        features_of(features[i], price, contexts[i]);
        bytes[i] = (double)cost.bytes;
        flops[i] = (double)cost.flops;
    }
    solve(term->bytes, features, bytes, n);
    solve(term->flops, features, flops, n);
    for (int32_t i = 0; i < n; i++) {
        if (fabs(dot(term->bytes, features[i]) - bytes[i]) > 1e-9 * bytes[i] ||
            fabs(dot(term->flops, features[i]) - flops[i]) > 1e-9 * flops[i]) {
            return status_fail(-EDOM, "%s of layer %d at context %d costs what no sum over contexts gives",
                               stage_name(term->stage), term->layer, contexts[i]);
        }
    }
    for (int f = 0; f < FEATURE_COUNT; f++) {
        if (term->bytes[f] != 0 || term->flops[f] != 0) {
            term->used[term->n_used++] = (enum feature)f;
        }
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Terms

static bool reads_cache(enum stage stage)
{
    return stage == STAGE_WINDOW_ATTENTION || stage == STAGE_KV_WRITE || stage == STAGE_INDEX_SCORE ||
           stage == STAGE_INDEX_SELECT || stage == STAGE_ATTENTION;
}

// Two layers are of one kind if they cost the same, stage by stage, in batches short and long, of prompts and answers.
static bool same_kind(const struct plan *plan, int32_t a, int32_t b)
{
    int32_t far = 2 * (plan->shape.window_tokens + plan->index.budget_tokens) + 1;
    const struct work batches[] = {{0, 1, 1}, {far, 1, 1}, {0, 5, 1}, {far, 7, 0}, {1, 3, 3}};
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            struct stage_cost of_a, of_b;
            if (stage_cost(&of_a, plan, (enum stage)stage, a, &batches[i], 1) ||
                stage_cost(&of_b, plan, (enum stage)stage, b, &batches[i], 1) || of_a.bytes != of_b.bytes ||
                of_a.flops != of_b.flops) {
                return false;
            }
        }
    }
    return true;
}

static bool ever_costs(const struct step_price *price, const struct term *term)
{
    const struct work batches[] = {{0, 1, 1}, {7, 5, 0}, {9, 3, 3}};
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        struct stage_cost cost = cost_of(price, term, &batches[i]);
        if (cost.bytes || cost.flops) {
            return true;
        }
    }
    return false;
}

static int add_terms(struct step_price *price, int32_t layer, double n_layers, bool additive)
{
    for (int s = 0; s < STAGE_COUNT; s++) {
        struct term term = {.stage = (enum stage)s, .layer = layer, .n_layers = n_layers};
        if (reads_cache(term.stage) != additive || !ever_costs(price, &term)) {
            continue;
        }
        struct predict_state state = {false, false}, other = {true, true};
        term.predicted = predict_term_of(&price->device, &price->plan, term.stage, layer, state);
        term.other = predict_term_of(&price->device, &price->plan, term.stage, layer, other);
        term.waits = predict_term_of(&price->device, &price->plan, STAGE_HOST, layer, state);
        term.other_waits = predict_term_of(&price->device, &price->plan, STAGE_HOST, layer, other);
        term.predicted.number = 4 * price->n_terms;
        term.other.number = 4 * price->n_terms + 1;
        term.waits.number = 4 * price->n_terms + 2;
        term.other_waits.number = 4 * price->n_terms + 3;
        term.splits = predict_splits(&term.predicted);
        if (price->n_terms == MAX_TERMS) {
            return status_fail(-EINVAL, "%s has more kinds of layers than can be simulated", price->plan.shape.name);
        }
        int error = additive ? fit_term(&term, price) : 0;
        if (error) {
            return error;
        }
        price->terms[price->n_terms++] = term;
        price->n_rows_terms += !additive;
    }
    return 0;
}

static int find_terms(struct step_price *price)
{
    int32_t kind_of[PLAN_MAX_LAYERS], count[PLAN_MAX_LAYERS] = {0}, n_layers = price->plan.shape.n_layers;
    for (int32_t layer = 0; layer < n_layers; layer++) {
        kind_of[layer] = layer;
        for (int32_t earlier = layer - 1; earlier >= 0; earlier--) {
            if (kind_of[earlier] == earlier && same_kind(&price->plan, earlier, layer)) {
                kind_of[layer] = earlier;
                break;
            }
        }
        count[kind_of[layer]]++;
    }
    for (int additive = 0; additive < 2; additive++) {
        int error = add_terms(price, -1, 1, additive);
        for (int32_t layer = 0; layer < n_layers && !error; layer++) {
            error = count[layer] ? add_terms(price, layer, count[layer], additive) : 0;
        }
        if (error) {
            return error;
        }
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Time

static struct rows_entry *rows_entry(struct step_price *price, int64_t new_rows, int64_t logit_rows)
{
    uint64_t hash = ((uint64_t)new_rows * 0x9e3779b97f4a7c15u) ^ ((uint64_t)logit_rows * 0xbf58476d1ce4e5b9u);
    struct rows_entry *entry = &price->cache[(hash >> 40) % CACHE_ENTRIES];
    if (entry->new_rows == new_rows && entry->logit_rows == logit_rows) {
        return entry;
    }
    struct work work = {0, (int32_t)new_rows, (int32_t)logit_rows};
    *entry = (struct rows_entry){.new_rows = new_rows, .logit_rows = logit_rows, .cost = entry->cost};
    for (int32_t i = 0; i < price->n_rows_terms; i++) {
        entry->cost[i] = cost_of(price, &price->terms[i], &work);
        entry->bytes += price->terms[i].n_layers * (double)entry->cost[i].bytes;
    }
    return entry;
}

static double time_of(struct step_price *price, const struct predict_pass *pass, const struct term *term,
                      const struct stage_cost *cost, const struct batch *batch)
{
    if (cost->bytes == 0 && cost->flops == 0) {
        return 0;
    }
    if (price->timer.seconds) {
        return term->n_layers * price->timer.seconds(price->timer.user, term->stage, term->layer, cost, pass->bandwidth,
                                                     batch->n_seqs, (int32_t)pass->new_rows);
    }
    bool other = term->stage == STAGE_INDEX_SELECT ? batch->state.taking : batch->state.cool;    // each goes by one
    return term->n_layers * predict_seconds(price->memory, pass, other ? &term->other : &term->predicted, cost);
}

// Of a step that holds `batch`; price->extra holds what its rows that do not decode cost in additive terms.
static double price_batch(struct step_price *price, const struct batch *batch)
{
    struct rows_entry *rows = rows_entry(price, batch->new_rows, batch->logit_rows);
    struct stage_cost cost[MAX_TERMS];    // [n_terms], additive ones only
    double bytes = rows->bytes;
    for (int32_t i = price->n_rows_terms; i < price->n_terms; i++) {
        const struct term *term = &price->terms[i];
        double term_bytes = 0, term_flops = 0;
        for (int32_t k = 0; k < term->n_used; k++) {
            term_bytes += term->bytes[term->used[k]] * batch->features[term->used[k]];
            term_flops += term->flops[term->used[k]] * batch->features[term->used[k]];
        }
        cost[i].bytes = price->extra[i].bytes + (int64_t)term_bytes;
        cost[i].flops = price->extra[i].flops + (int64_t)term_flops;
        bytes += term->n_layers * (double)cost[i].bytes;
    }
    int32_t n_decode = (int32_t)batch->features[FEATURE_ROWS];
    int64_t prompt_rows = batch->new_rows - n_decode;
    struct predict_pass pass = {.device = &price->device,
                                .plan = &price->plan,
                                .bandwidth = device_bandwidth(&price->device, bytes),
                                .new_rows = batch->new_rows,
                                .logit_rows = batch->logit_rows,
                                .seen_tokens = prompt_rows > 0 ? batch->seen_tokens / (double)prompt_rows : 0,
                                .chunked = batch->new_rows > batch->n_seqs,
                                .logits_chunked = batch->logits_chunked};
    if (rows->bandwidth != pass.bandwidth || rows->n_seqs != batch->n_seqs ||
        rows->logits_chunked != batch->logits_chunked || rows->cool != batch->state.cool) {
        rows->bandwidth = pass.bandwidth;
        rows->n_seqs = batch->n_seqs;
        rows->logits_chunked = batch->logits_chunked;
        rows->cool = batch->state.cool;
        rows->seconds = 0;
        for (int32_t i = 0; i < price->n_rows_terms; i++) {
            rows->seconds += time_of(price, &pass, &price->terms[i], &rows->cost[i], batch);
        }
    }
    double seconds = price->overhead_s + rows->seconds;
    if (!price->timer.seconds) {
        seconds += predict_overhead_s(&pass) + predict_communicate_s(&pass);
        seconds += prompt_rows == 0 && price->device.calibration
                       ? calibration_settling_s(price->device.calibration, bytes, batch->n_seqs, price->since_s)
                       : 0;
    }
    bool both = n_decode > 0 && n_decode < batch->n_seqs && !price->timer.seconds;
    struct predict_pass prompts = pass, decode = pass;
    prompts.new_rows = prompt_rows;
    prompts.chunked = true;
    decode.new_rows = n_decode;
    decode.chunked = false;
    for (int32_t i = price->n_rows_terms; i < price->n_terms; i++) {
        const struct term *term = &price->terms[i];
        if (both && term->splits) {
            const struct stage_cost *of_prompts = &price->extra[i];
            struct stage_cost rest = {cost[i].bytes - of_prompts->bytes, cost[i].flops - of_prompts->flops};
            seconds += time_of(price, &prompts, term, of_prompts, batch);
            seconds += time_of(price, &decode, term, &rest, batch);
        } else {
            seconds += time_of(price, &pass, term, &cost[i], batch);
        }
        if (term->stage == STAGE_INDEX_SELECT && price->waits && !pass.chunked && cost[i].bytes > 0) {
            const struct predict_term *waits = batch->state.taking ? &term->other_waits : &term->waits;
            seconds += term->n_layers * predict_seconds(price->memory, &pass, waits, &cost[i]);
        }
    }
    return seconds;
}

double step_price_sums(struct step_price *price, struct feature_sums sums, const struct work *others, int32_t n_others)
{
    struct batch batch = {.n_seqs = (int32_t)sums.rows + n_others, .state.taking = true};
    bool extra = false;
    for (int32_t i = 0; i < n_others; i++) {
        if (others[i].new_tokens == 1 && others[i].logit_rows == 1) {
            count_features(&sums, price, others[i].context_tokens);
            continue;
        }
        extra = true;
        batch.new_rows += others[i].new_tokens;
        batch.logit_rows += others[i].logit_rows;
        int64_t tokens = (int64_t)others[i].context_tokens + others[i].new_tokens;
        batch.state.taking = batch.state.taking && tokens <= price->budget_tokens;
        batch.seen_tokens += predict_seen_tokens(&others[i]);
        batch.logits_chunked = batch.logits_chunked || others[i].logit_rows > 1;
        for (int32_t t = price->n_rows_terms; t < price->n_terms; t++) {
            struct stage_cost cost = cost_of(price, &price->terms[t], &others[i]);
            price->extra[t].bytes += cost.bytes;
            price->extra[t].flops += cost.flops;
        }
    }
    batch.state.taking = batch.state.taking && sums.tokens == sums.budget;
    batch.new_rows += sums.rows;
    batch.state.cool = batch.new_rows > batch.n_seqs && price->device.calibration &&
                       calibration_cool(price->device.calibration, price->heat_s, batch.new_rows);
    batch.logit_rows += sums.rows;
    add_features(batch.features, &sums);
    double seconds = price_batch(price, &batch);
    if (extra) {
        memset(price->extra, 0, (size_t)price->n_terms * sizeof *price->extra);
    }
    return seconds;
}

double step_price_seconds(struct step_price *price, const struct work *work, int32_t n_seqs)
{
    return step_price_sums(price, (struct feature_sums){0}, work, n_seqs);
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

static int open_tables(struct step_price *price)
{
    size_t rows_terms = price->n_rows_terms > 0 ? (size_t)price->n_rows_terms : 1;
    price->cache = calloc(CACHE_ENTRIES, sizeof *price->cache);
    price->cache_costs = calloc(CACHE_ENTRIES * rows_terms, sizeof *price->cache_costs);
    price->memory = predict_memory_open(4 * price->n_terms);
    if (!price->cache || !price->cache_costs || !price->memory) {
        return status_fail(-ENOMEM, "no memory to price steps");
    }
    for (size_t i = 0; i < CACHE_ENTRIES; i++) {
        price->cache[i].new_rows = -1;    // no step has so many
        price->cache[i].cost = price->cache_costs + i * rows_terms;
    }
    return 0;
}

int step_price_open(struct step_price **out, const struct step_price_options *options)
{
    const struct plan *plan = options->plan;
    struct step_prediction probe;
    *out = NULL;
    int error = plan_check(plan);
    error = error ? error : predict_step(&probe, options->device, plan, &(struct work){0, 2, 1}, 1);
    if (error) {
        return error;
    }
    struct step_price *price = calloc(1, sizeof *price);
    if (!price) {
        return status_fail(-ENOMEM, "no memory to price steps");
    }
    price->device = *options->device;
    price->plan = *plan;
    price->timer = options->timer ? *options->timer : (struct stage_timer){NULL, NULL};
    price->overhead_s = options->step_overhead_s;
    price->since_s = INFINITY;
    price->max_seqs = options->max_seqs;
    price->provenance = probe.provenance;
    price->window_tokens = plan->shape.window_tokens > 0 ? plan->shape.window_tokens : INT64_MAX;
    price->budget_tokens = plan->index.budget_tokens > 0 ? plan->index.budget_tokens : INT64_MAX;
    price->budget_of_units = plan->index.budget_tokens > 0 ? plan_budget_units(plan) : INT64_MAX;
    price->waits = !price->timer.seconds && predict_waits(&price->device, plan);
    price->unit = plan->index.budget_tokens > 0 ? plan->index.unit_tokens : 1;
    error = find_terms(price);
    error = error ? error : open_tables(price);
    if (error) {
        step_price_close(price);
        return error;
    }
    *out = price;
    return 0;
}

void step_price_since(struct step_price *price, double seconds)
{
    price->since_s = seconds;
}

void step_price_heat(struct step_price *price, double heat_s)
{
    price->heat_s = heat_s;
}

enum provenance step_price_provenance(const struct step_price *price)
{
    return price->provenance;
}

void step_price_close(struct step_price *price)
{
    if (price) {
        free(price->cache);
        free(price->cache_costs);
        predict_memory_close(price->memory);
        free(price);
    }
}
