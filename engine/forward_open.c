// engine/forward_open.c - a forward pass's buffers, and the price of its stages.
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "engine/forward_state.h"
#include "engine/status.h"

static int take(struct forward *f, void **out, int64_t rows, int64_t row_bytes, const char *what)
{
    int error = f->options.backend->alloc(f->options.context, out, rows * row_bytes);
    if (error) {
        return status_prefix(error, "%s, %lld rows of %lld bytes: ", what, (long long)rows, (long long)row_bytes);
    }
    return 0;
}

static int take_activations(struct forward *f)
{
    const struct forward_options *options = &f->options;
    const struct model_shape *shape = &options->plan->shape;
    int64_t size = options->backend->activation_bytes, rows = options->max_rows, last = options->max_logit_rows;
    int64_t hidden = shape->hidden, heads = (int64_t)shape->n_heads * shape->head_dim;
    int64_t kv_bytes = (int64_t)shape->n_kv_heads * shape->head_dim * dtype_bytes(plan_fresh_dtype(options->plan));
    bool memory = plan_has_shared_memory(options->plan);
    int error = take(f, &f->x_all, rows, hidden * 4, "residual stream");
    error = error ? error : take(f, &f->x_last, last, hidden * 4, "residual stream");
    error = error ? error : take(f, &f->normed, rows, hidden * size, "normed input");
    error = error ? error : take(f, &f->memory_all, memory ? rows : 0, hidden * size, "shared memory");
    error = error ? error : take(f, &f->memory_last, memory ? last : 0, hidden * size, "shared memory");
    error = error ? error : take(f, &f->q, rows, heads * size, "queries");
    error = error ? error : take(f, &f->k, rows, kv_bytes, "keys");
    error = error ? error : take(f, &f->v, rows, kv_bytes, "values");
    error = error ? error : take(f, &f->attended, rows, heads * size, "attention output");
    error = error ? error : take(f, &f->logits, last, (int64_t)shape->vocab * 4, "logits");
    return error;
}

static int take_indexer(struct forward *f)
{
    const struct forward_options *options = &f->options;
    const struct plan *plan = options->plan;
    const struct index_spec *index = &plan->index;
    int64_t size = options->backend->activation_bytes, rows = options->max_rows;
    int32_t units = plan_units(plan, options->max_context), budget = plan_budget_units(plan);
    int64_t tile = options->backend->asynchronous ? DEVICE_SCORE_TILE_BYTES : SCORE_TILE_BYTES;
    int64_t scores = plan_score_bytes(plan, options->max_rows, options->max_logit_rows, options->max_context, tile);
    f->score_capacity = scores / 4;
    int error = take(f, &f->index_q, rows, (int64_t)index->heads * index->dim * size, "index queries");
    error = error ? error : take(f, &f->index_gate, rows, (int64_t)index->heads * 4, "index gates");
    error = error ? error : take(f, &f->index_k, rows, index->dim * size, "index keys");
    error = error ? error : take(f, &f->scores, f->score_capacity, 4, "index scores");
    for (int32_t l = 0; l < plan->shape.n_layers && !error; l++) {
        if (plan_runs_indexer(plan, l)) {
            struct selection *s = &f->selections[l];
            int64_t n = l < plan_first_cross_layer(plan) ? rows : options->max_logit_rows;
            s->sets = index->sets;
            s->unit_tokens = index->unit_tokens;
            s->stride = budget < units ? budget : units;
            void *unit = NULL, *count = NULL;
            error = take(f, &unit, n * s->sets, (int64_t)s->stride * 4, "selected units");
            error = error ? error : take(f, &count, n * s->sets, 4, "selection counts");
            s->unit = unit;
            s->count = count;
        }
    }
    return error;
}

int forward_open(struct forward **out, const struct forward_options *options)
{
    *out = NULL;
    const struct plan *plan = options->plan;
    int error = plan_check_runnable(plan);
    for (int32_t l = 0; l < plan->shape.n_layers && !error; l++) {
        if (plan->layers[l].attention == ATTENTION_WINDOW && !plan_has_own_kv(plan, l)) {
            return status_fail(-EINVAL, "layer %d: the engine runs no window over another layer's keys", l);
        }
    }
    if (error) {
        return error;
    }
    size_t n_layers = (size_t)plan->shape.n_layers;
    struct forward *f = calloc(1, sizeof *f);
    if (!f) {
        return status_fail(-ENOMEM, "no memory for a forward pass");
    }
    f->options = *options;
    f->selections = calloc(n_layers, sizeof *f->selections);
    f->costs = calloc((n_layers + 1) * STAGE_COUNT * PART_COUNT, sizeof *f->costs);
    error = f->selections && f->costs ? 0 : status_fail(-ENOMEM, "no memory for the stages of %zu layers", n_layers);
    error = error ? error : take_activations(f);
    error = error ? error : take_indexer(f);
    if (error) {
        forward_close(f);
        return error;
    }
    *out = f;
    return 0;
}

void forward_close(struct forward *f)
{
    if (!f) {
        return;
    }
    void (*release)(struct backend_context *, void *) = f->options.backend->free;
    struct backend_context *context = f->options.context;
    void *const buffers[] = {f->x_all, f->x_last, f->normed, f->memory_all, f->memory_last, f->q, f->k, f->v,
                             f->attended, f->index_q, f->index_gate, f->index_k, f->scores, f->logits};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        release(context, buffers[i]);
    }
    forward_set_probe(f, false);
    for (int32_t l = 0; f->selections && l < f->options.plan->shape.n_layers; l++) {
        release(context, f->selections[l].unit);
        release(context, f->selections[l].count);
    }
    free(f->selections);
    free(f->costs);
    free(f->on_device);
    free(f->mark_ns);
    free(f);
}

void forward_use_cache(struct forward *f, const struct kv_cache *cache)
{
    f->cache = cache;
}

static struct stage_cost difference(struct stage_cost a, struct stage_cost b)
{
    return (struct stage_cost){a.bytes - b.bytes, a.flops - b.flops};
}

// Splits what cost.h prices as one: see enum part.
static void split_costs(struct forward *f, int32_t layer, struct work *without_logits)
{
    const struct plan *plan = f->options.plan;
    int32_t n_seqs = f->batch->n_seqs;
    if (layer == plan_memory_layer(plan)) {
        struct stage_cost *write = forward_cost(f, layer, STAGE_KV_WRITE, PART_LAYER);
        write[PART_MEMORY] = (struct stage_cost){f->batch->all.n * plan_kv_token_bytes(plan, false), 0};
        *write = difference(*write, write[PART_MEMORY]);
        struct stage_cost *project = forward_cost(f, layer, STAGE_QKV, PART_LAYER);
        qkv_cost_parts(&project[PART_LAYER], &project[PART_MEMORY], plan, layer, f->work, n_seqs);
    }
    if (layer >= plan_first_cross_layer(plan) && plan_runs_indexer(plan, layer)) {
        struct stage_cost *write = forward_cost(f, layer, STAGE_KV_WRITE, PART_LAYER);
        struct stage_cost *project = forward_cost(f, layer, STAGE_INDEX_PROJECT, PART_LAYER);
        write[PART_MEMORY] = *write;
        *write = (struct stage_cost){0, 0};
        for (int32_t s = 0; s < n_seqs; s++) {
            without_logits[s] = f->work[s];
            without_logits[s].logit_rows = 0;
        }
        int error = stage_cost(&project[PART_MEMORY], plan, STAGE_INDEX_PROJECT, layer, without_logits, n_seqs);
        assert(!error);
        (void)error;
        *project = difference(*project, project[PART_MEMORY]);
    }
}

int forward_price(struct forward *f)
{
    const struct plan *plan = f->options.plan;
    struct work *without_logits = malloc((size_t)f->batch->n_seqs * sizeof *without_logits);
    if (!without_logits) {
        return status_fail(-ENOMEM, "no memory to price a step of %d sequences", f->batch->n_seqs);
    }
    for (int32_t layer = -1; layer < plan->shape.n_layers; layer++) {
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            struct stage_cost *cost = forward_cost(f, layer, (enum stage)stage, PART_LAYER);
            int error = stage_cost(cost, plan, (enum stage)stage, layer, f->work, f->batch->n_seqs);
            assert(!error);    // only a layer out of range fails
            (void)error;
            cost[PART_MEMORY] = (struct stage_cost){0, 0};
        }
        if (layer >= 0) {
            split_costs(f, layer, without_logits);
        }
    }
    free(without_logits);
    return 0;
}
