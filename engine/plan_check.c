// engine/plan_check.c - what a plan must fulfil, to be priced and to be run.
//
// Plans are also read from foreign configs, so nothing is trusted: every number has a range, far above any model in
// sight and low enough that sums of products stay within 64 bits. The first violation is named with what was expected.
#include <errno.h>
#include <math.h>

#include "engine/plan.h"
#include "engine/status.h"

static int check_range(const char *name, int64_t value, int64_t low, int64_t high)
{
    if (value >= low && value <= high) {
        return 0;
    }
    return status_fail(-EINVAL, "%s is %lld: expected %lld to %lld", name, (long long)value, (long long)low,
                       (long long)high);
}

struct range {
    const char *name;
    int64_t value, low, high;
};

static int check_ranges(const struct range *ranges, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int error = check_range(ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high);
        if (error) {
            return error;
        }
    }
    return 0;
}

static int check_mla_and_moe(const struct model_shape *shape)
{
    const struct mla_shape *mla = &shape->mla;
    const struct moe_shape *moe = &shape->moe;
    int64_t latent = mla->kv_lora_rank ? 1 : 0, mixture = moe->n_experts ? 1 : 0;
    const struct range ranges[] = {
        {"mla.kv_lora_rank", mla->kv_lora_rank, 0, 1 << 16},
        {"mla.q_lora_rank", mla->q_lora_rank, 0, latent << 16},
        {"mla.rope_dim", mla->rope_dim, 0, latent << 14},
        {"mla.nope_dim", mla->nope_dim, latent, latent << 14},
        {"mla.v_dim", mla->v_dim, latent, latent << 14},
        {"moe.n_experts", moe->n_experts, 0, 1 << 16},
        {"moe.n_active", moe->n_active, mixture, moe->n_experts},
        {"moe.n_shared", moe->n_shared, 0, mixture << 10},
        {"moe.ffn", moe->ffn, mixture, mixture << 22},
        {"moe.n_dense_layers", moe->n_dense_layers, 0, mixture * shape->n_layers},
    };
    return check_ranges(ranges, sizeof ranges / sizeof *ranges);
}

static int check_shape(const struct model_shape *shape)
{
    bool all_experts = shape->moe.n_experts && !shape->moe.n_dense_layers;
    const struct range ranges[] = {
        {"backbone", shape->backbone, 0, BACKBONE_COUNT - 1},
        {"hidden", shape->hidden, 1, 1 << 20},
        {"ffn", shape->ffn, all_experts ? 0 : 1, 1 << 22},
        {"n_layers", shape->n_layers, 1, PLAN_MAX_LAYERS},
        {"n_heads", shape->n_heads, 1, 1 << 12},
        {"n_kv_heads", shape->n_kv_heads, 1, 1 << 12},
        {"head_dim", shape->head_dim, 1, 1 << 14},
        {"vocab", shape->vocab, 1, 1 << 24},
    };
    int error = check_ranges(ranges, sizeof ranges / sizeof *ranges);
    if (!error) {
        error = check_mla_and_moe(shape);
    }
    if (error) {
        return error;
    }
    if (shape->n_heads % shape->n_kv_heads) {
        return status_fail(-EINVAL, "n_heads is %d: expected a multiple of n_kv_heads, which is %d", shape->n_heads,
                           shape->n_kv_heads);
    }
    int32_t rotated = shape->mla.kv_lora_rank ? shape->mla.rope_dim : shape->head_dim;
    if (rotated % 2) {
        return status_fail(-EINVAL, "%s is %d: rotary positions need an even size",
                           shape->mla.kv_lora_rank ? "mla.rope_dim" : "head_dim", rotated);
    }
    return 0;
}

// Weights of a whole model, in floating point because this runs before anything is known to fit into integers. An upper
// bound: queries, keys, values and output in every layer, every expert, an indexer.
static int check_parameters(const struct model_shape *shape, const struct index_spec *index)
{
    double hidden = shape->hidden, heads = shape->n_heads;
    double attention = hidden * shape->head_dim * (2.0 * heads + 2.0 * shape->n_kv_heads);
    if (shape->mla.kv_lora_rank) {
        const struct mla_shape *mla = &shape->mla;
        double query = heads * ((double)mla->nope_dim + mla->rope_dim);
        attention = hidden * (mla->q_lora_rank + query + mla->kv_lora_rank + mla->rope_dim + heads * mla->v_dim) +
                    mla->q_lora_rank * query + heads * mla->kv_lora_rank * ((double)mla->nope_dim + mla->v_dim);
    }
    double ffn = 3.0 * hidden * shape->ffn;
    double experts = hidden * shape->moe.n_experts +
                     3.0 * hidden * shape->moe.ffn * ((double)shape->moe.n_experts + shape->moe.n_shared);
    double indexer = hidden * (index->heads * (index->dim + 1.0) + index->dim);
    double total = shape->n_layers * (attention + ffn + experts + indexer) + 2.0 * hidden * shape->vocab;
    if (total > 0x1p50) {
        return status_fail(-EINVAL, "the model would have up to %.3g parameters: expected at most %.3g", total, 0x1p50);
    }
    return 0;
}

static int check_layer(const struct plan *plan, int32_t l)
{
    const struct layer_plan *layer = &plan->layers[l];
    bool selected = layer->attention == ATTENTION_SELECTED;
    const struct range ranges[] = {
        {"attention", layer->attention, 0, ATTENTION_SELECTED},
        {"kv_from", layer->kv_from, 0, l},
        {"index_from", layer->index_from, selected ? 0 : -1, selected ? l : -1},
    };
    int error = check_ranges(ranges, sizeof ranges / sizeof *ranges);
    if (error) {
        return status_prefix(error, "layer %d: ", l);
    }
    const struct layer_plan *source = &plan->layers[layer->kv_from];
    if (source->kv_from != layer->kv_from) {
        return status_fail(-EINVAL, "layer %d reads the keys of layer %d, which has none", l, layer->kv_from);
    }
    if (layer->attention == ATTENTION_WINDOW && source->attention != ATTENTION_WINDOW) {
        return status_fail(-EINVAL, "layer %d has a window over the keys of layer %d, which has no window", l,
                           layer->kv_from);
    }
    if (selected && plan->layers[layer->index_from].index_from != layer->index_from) {
        return status_fail(-EINVAL, "layer %d follows the index of layer %d, which runs no indexer", l,
                           layer->index_from);
    }
    return 0;
}

// A shared memory lets prompt rows leave after the layer that names it. That is exact only if nothing above that layer
// has keys that those rows would have to write.
static int check_memory(const struct plan *plan)
{
    int32_t memory = plan_memory_layer(plan);
    if ((plan->shape.backbone == BACKBONE_YOCO) != (memory >= 0)) {
        return status_fail(-EINVAL, "%s", memory >= 0 ? "only a YOCO backbone has a shared memory"
                                                      : "a YOCO backbone needs a shared memory: no layer reads one");
    }
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        const struct layer_plan *layer = &plan->layers[l];
        bool reads = layer->attention != ATTENTION_WINDOW && plan->layers[layer->kv_from].attention == ATTENTION_WINDOW;
        if (reads != (memory >= 0 && l > memory) || (reads && layer->kv_from != memory)) {
            return status_fail(-EINVAL, "layer %d: a shared memory is read by all layers above it and none below", l);
        }
    }
    return 0;
}

// What the indexers' inputs ask of the layers that run them.
static int check_index_sources(const struct plan *plan)
{
    const struct index_spec *index = &plan->index;
    int32_t first_cross = plan_first_cross_layer(plan);
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        if (!plan_runs_indexer(plan, l)) {
            continue;
        }
        if (index->score == INDEX_PAGE_BOUND) {
            if (plan->layers[l].kv_from != l || plan->shape.mla.kv_lora_rank) {
                return status_fail(-EINVAL, "layer %d: page bounds need plain keys of the layer's own", l);
            }
            continue;
        }
        bool cross = l >= first_cross;
        if (cross != (index->key_from == HIDDEN_SHARED_MEMORY)) {
            return status_fail(-EINVAL, "layer %d: index keys come from the shared memory where there is one (prompt "
                               "rows skip the layers above it), else from the layer's input", l);
        }
        if (!cross && index->query_from == HIDDEN_SHARED_MEMORY) {
            return status_fail(-EINVAL, "layer %d: there is no shared memory yet to make index queries of", l);
        }
    }
    return 0;
}

static int check_index_heads(const struct plan *plan)
{
    const struct index_spec *index = &plan->index;
    const struct model_shape *shape = &plan->shape;
    if (shape->n_heads % index->sets || (index->sets % shape->n_kv_heads && shape->n_kv_heads % index->sets)) {
        return status_fail(-EINVAL, "index.sets is %d: expected a divisor of the %d heads that splits or joins whole "
                           "groups of the %d KV heads", index->sets, shape->n_heads, shape->n_kv_heads);
    }
    if (index->score == INDEX_DOT && index->sets != 1 && index->sets != index->heads) {
        return status_fail(-EINVAL, "index.sets is %d with %d index heads: expected 1 or one set per head", index->sets,
                           index->heads);
    }
    if (index->score == INDEX_GATED_RELU && index->sets != 1) {
        return status_fail(-EINVAL, "index.sets is %d: gated heads add up to 1 set", index->sets);
    }
    if (index->score == INDEX_GATED_RELU && index->dim % 4) {
        return status_fail(-EINVAL, "index.dim is %d: half of it is rotated in pairs, so it must be a multiple of 4",
                           index->dim);
    }
    if (index->score == INDEX_PAGE_BOUND &&
        (index->sets != shape->n_heads || index->heads != shape->n_heads || index->dim != shape->head_dim)) {
        return status_fail(-EINVAL, "page bounds are scored by the %d attention heads of %d: expected as many index "
                           "heads and sets, got %d and %d of %d", shape->n_heads, shape->head_dim, index->heads,
                           index->sets, index->dim);
    }
    return 0;
}

static int check_budget(const struct index_spec *index)
{
    int32_t unit = index->unit_tokens, rest = index->budget_tokens % unit;
    if (rest && index->budget_tokens < unit) {
        return status_fail(-EINVAL, "a budget of %d tokens holds no block of %d: expected at least %d",
                           index->budget_tokens, unit, unit);
    }
    if (rest) {
        return status_fail(-EINVAL, "a budget of %d tokens is no multiple of blocks of %d: %d or %d would be",
                           index->budget_tokens, unit, index->budget_tokens - rest, index->budget_tokens - rest + unit);
    }
    int64_t kept = (int64_t)index->keep_local_units + index->keep_sink_units;
    if (kept > index->budget_tokens / unit) {
        return status_fail(-EINVAL, "%lld units are always kept, but the budget of %d tokens holds only %d",
                           (long long)kept, index->budget_tokens, index->budget_tokens / unit);
    }
    return 0;
}

static int check_index(const struct plan *plan)
{
    const struct index_spec *index = &plan->index;
    bool selects = false;
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        selects = selects || plan->layers[l].attention == ATTENTION_SELECTED;
    }
    if (!selects) {
        return check_range("index.budget_tokens, where no layer selects,", index->budget_tokens, 0, 0);
    }
    const struct range ranges[] = {
        {"index.query_from", index->query_from, 0, HIDDEN_SHARED_MEMORY},
        {"index.key_from", index->key_from, 0, HIDDEN_SHARED_MEMORY},
        {"index.score", index->score, 0, INDEX_PAGE_BOUND},
        {"index.heads", index->heads, 1, 1 << 12},
        {"index.dim", index->dim, 1, 1 << 14},
        {"index.key_dtype", index->key_dtype, 0, DTYPE_COUNT - 1},
        {"index.sets", index->sets, 1, 1 << 12},
        {"index.unit_tokens", index->unit_tokens, 1, 1 << 16},
        {"index.pooling", index->pooling, 0, POOLING_MEAN},
        {"index.budget_tokens (top-k)", index->budget_tokens, 1, 1 << 30},
        {"index.keep_local_units", index->keep_local_units, 0, 1 << 30},
        {"index.keep_sink_units", index->keep_sink_units, 0, 1 << 30},
    };
    int error = check_ranges(ranges, sizeof ranges / sizeof *ranges);
    error = error ? error : check_budget(index);
    error = error ? error : check_index_heads(plan);
    error = error ? error : check_index_sources(plan);
    if (!error && plan->page_tokens % index->unit_tokens && index->unit_tokens % plan->page_tokens) {
        return status_fail(-EINVAL, "a page of %d tokens and a block of %d: one must be a multiple of the other",
                           plan->page_tokens, index->unit_tokens);
    }
    return error;
}

int plan_check(const struct plan *plan)
{
    int error = check_shape(&plan->shape);
    bool windows = false;
    for (int32_t l = 0; !error && l < plan->shape.n_layers; l++) {
        error = check_layer(plan, l);
        windows = windows || plan->layers[l].attention == ATTENTION_WINDOW;
    }
    if (error) {
        return error;
    }
    const struct range ranges[] = {
        {"window_tokens", plan->shape.window_tokens, windows ? 1 : INT32_MIN, windows ? 1 << 30 : INT32_MAX},
        {"weight_dtype", plan->weight_dtype, 0, DTYPE_COUNT - 1},
        {"kv_dtype", plan->kv_dtype, 0, DTYPE_COUNT - 1},
        {"page_tokens", plan->page_tokens, 1, 1 << 20},
    };
    error = check_ranges(ranges, sizeof ranges / sizeof *ranges);
    error = error ? error : check_memory(plan);
    error = error ? error : check_index(plan);
    return error ? error : check_parameters(&plan->shape, &plan->index);
}

int plan_check_runnable(const struct plan *plan)
{
    const struct model_shape *shape = &plan->shape;
    int error = plan_check(plan);
    if (error) {
        return error;
    }
    if (shape->mla.kv_lora_rank || shape->moe.n_experts) {
        return status_fail(-EINVAL, "%s: the engine does not run %s; `clsa sim` prices it", shape->name,
                           shape->moe.n_experts ? "mixtures of experts" : "latent attention");
    }
    if (plan->weight_dtype == DTYPE_FP8) {
        return status_fail(-EINVAL, "%s: the engine runs f32 and bf16 weights, not fp8", shape->name);
    }
    if (shape->backbone == BACKBONE_TRANSFORMER) {
        for (int32_t l = 0; l < shape->n_layers; l++) {
            if (plan->layers[l].attention == ATTENTION_WINDOW) {
                return status_fail(-EINVAL, "%s: window layers run below a shared memory only, not layer %d",
                                   shape->name, l);
            }
        }
    }
    const float thetas[] = {shape->rope_theta_window, shape->rope_theta_global};
    for (int i = 0; i < 2; i++) {
        if (!(thetas[i] > 0 && isfinite(thetas[i]))) {
            return status_fail(-EINVAL, "rope_theta is %g: expected more than 0", (double)thetas[i]);
        }
    }
    if (!(shape->norm_eps >= 0 && shape->norm_eps < 1)) {
        return status_fail(-EINVAL, "norm_eps is %g: expected 0 or more and less than 1", (double)shape->norm_eps);
    }
    return 0;
}
