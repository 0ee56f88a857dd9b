// engine/plan.c - the table of methods, the table of model sizes, how a plan is made from both, and what it must fulfil.
//
// A preset is one row of `methods`: everything that differs between two methods stands in their rows. plan_check trusts
// nothing (plans are also read from foreign configs); the small questions at the end trust a checked plan.
#include "engine/plan.h"

#include <errno.h>
#include <math.h>

#include "engine/status.h"

enum { ONE_INDEX_FOR_ALL = PLAN_MAX_LAYERS };    // a group of layers that no model outgrows

enum unit_rule { UNIT_TOKEN, UNIT_BLOCK, UNIT_PAGE };
enum head_rule { HEADS_ONE, HEADS_PER_KV_HEAD, HEADS_LIGHTNING, HEADS_PER_QUERY_HEAD };

struct method {
    struct method_info info;
    enum attention attention;              // of the global layers
    int32_t full_layers;                   // the first global layers stay full
    int32_t index_every;                   // consecutive selecting layers that follow one indexer
    enum hidden_source query_from, key_from;
    enum index_score score;
    enum head_rule heads;
    enum unit_rule unit;
    enum dtype key_dtype;
    int32_t keep_local_units;
};

static const struct method methods[] = {
    {.info = {"dense", "every layer reads every key", BACKBONE_TRANSFORMER, "dense"}, .attention = ATTENTION_FULL},
    {.info = {"yoco", "window layers below, one memory shared by the full layers above", BACKBONE_YOCO, "yoco"},
     .attention = ATTENTION_FULL},
    {.info = {"block", "each layer selects blocks, one set per KV head (MiniMax MSA)", BACKBONE_TRANSFORMER, "dense"},
     .attention = ATTENTION_SELECTED,
     .index_every = 1,
     .score = INDEX_DOT,
     .heads = HEADS_PER_KV_HEAD,
     .unit = UNIT_BLOCK,
     .key_dtype = DTYPE_BF16,
     .keep_local_units = 1},
    {.info = {"token", "each layer selects tokens with its own single-head indexer", BACKBONE_TRANSFORMER, "dense"},
     .attention = ATTENTION_SELECTED,
     .index_every = 1,
     .score = INDEX_DOT,
     .heads = HEADS_ONE,
     .unit = UNIT_TOKEN,
     .key_dtype = DTYPE_BF16},
    {.info = {"dsa", "each layer selects tokens with DeepSeek's lightning indexer", BACKBONE_TRANSFORMER, "dense"},
     .attention = ATTENTION_SELECTED,
     .index_every = 1,
     .score = INDEX_GATED_RELU,
     .heads = HEADS_LIGHTNING,
     .unit = UNIT_TOKEN,
     .key_dtype = DTYPE_FP8},
    {.info = {"indexcache", "every 4th layer selects tokens, the next 3 reuse them", BACKBONE_TRANSFORMER, "dense"},
     .attention = ATTENTION_SELECTED,
     .index_every = 4,
     .score = INDEX_DOT,
     .heads = HEADS_ONE,
     .unit = UNIT_TOKEN,
     .key_dtype = DTYPE_BF16},
    {.info = {"clsa", "one selection of tokens serves all layers above the shared memory", BACKBONE_YOCO, "yoco"},
     .attention = ATTENTION_SELECTED,
     .index_every = ONE_INDEX_FOR_ALL,
     .query_from = HIDDEN_SHARED_MEMORY,
     .key_from = HIDDEN_SHARED_MEMORY,
     .score = INDEX_DOT,
     .heads = HEADS_ONE,
     .unit = UNIT_TOKEN,
     .key_dtype = DTYPE_BF16},
    {.info = {"clsa-block", "clsa with blocks instead of tokens", BACKBONE_YOCO, "yoco"},
     .attention = ATTENTION_SELECTED,
     .index_every = ONE_INDEX_FOR_ALL,
     .query_from = HIDDEN_SHARED_MEMORY,
     .key_from = HIDDEN_SHARED_MEMORY,
     .score = INDEX_DOT,
     .heads = HEADS_ONE,
     .unit = UNIT_BLOCK,
     .key_dtype = DTYPE_BF16,
     .keep_local_units = 1},
    {.info = {"yoco-token", "clsa with an indexer of its own in every layer above the memory", BACKBONE_YOCO, "yoco"},
     .attention = ATTENTION_SELECTED,
     .index_every = 1,
     .query_from = HIDDEN_LAYER_INPUT,
     .key_from = HIDDEN_SHARED_MEMORY,
     .score = INDEX_DOT,
     .heads = HEADS_ONE,
     .unit = UNIT_TOKEN,
     .key_dtype = DTYPE_BF16},
    {.info = {"quest", "each query head selects pages by bounds of their keys, untrained", BACKBONE_TRANSFORMER, "dense"},
     .attention = ATTENTION_SELECTED,
     .full_layers = 2,
     .index_every = 1,
     .score = INDEX_PAGE_BOUND,
     .heads = HEADS_PER_QUERY_HEAD,
     .unit = UNIT_PAGE,
     .key_dtype = DTYPE_BF16},
};

#define MODEL_COMMON                                                                                                     \
    .backbone = BACKBONE_YOCO, .rope_theta_window = 1e4f, .rope_theta_global = 5e5f, .norm_eps = 1e-5f,                  \
    .tied_embeddings = false

static const struct model_shape models[] = {
    {.name = "paper-4b", .hidden = 2560, .ffn = 7680, .n_layers = 32, .n_heads = 20, .n_kv_heads = 4, .head_dim = 128,
     .vocab = 131072, .window_tokens = 512, .top_k = 2048, .index_dim = 128, .lightning_heads = 64, MODEL_COMMON},
    {.name = "bench-100m", .hidden = 768, .ffn = 2304, .n_layers = 16, .n_heads = 12, .n_kv_heads = 4, .head_dim = 64,
     .vocab = 512, .window_tokens = 256, .top_k = 1024, .index_dim = 64, .lightning_heads = 32, MODEL_COMMON},
    {.name = "demo-8m", .hidden = 256, .ffn = 768, .n_layers = 8, .n_heads = 8, .n_kv_heads = 2, .head_dim = 32,
     .vocab = 512, .window_tokens = 128, .top_k = 256, .index_dim = 32, .lightning_heads = 8, MODEL_COMMON},
    {.name = "tiny", .hidden = 64, .ffn = 192, .n_layers = 4, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .vocab = 512, .window_tokens = 8, .top_k = 16, .index_dim = 16, .lightning_heads = 4, MODEL_COMMON},
};

enum { N_METHODS = sizeof methods / sizeof *methods, N_MODELS = sizeof models / sizeof *models };

int32_t plan_method_count(void)
{
    return N_METHODS;
}

const struct method_info *plan_method(int32_t index)
{
    return index >= 0 && index < N_METHODS ? &methods[index].info : NULL;
}

static const struct method *find_method(const char *name)
{
    for (int32_t i = 0; i < N_METHODS; i++) {
        if (strcmp(methods[i].info.name, name) == 0) {
            return &methods[i];
        }
    }
    return NULL;
}

const struct method_info *plan_find_method(const char *name)
{
    const struct method *method = find_method(name);
    return method ? &method->info : NULL;
}

int32_t plan_model_count(void)
{
    return N_MODELS;
}

const struct model_shape *plan_model(int32_t index)
{
    return index >= 0 && index < N_MODELS ? &models[index] : NULL;
}

const struct model_shape *plan_find_model(const char *name)
{
    for (int32_t i = 0; i < N_MODELS; i++) {
        if (strcmp(models[i].name, name) == 0) {
            return &models[i];
        }
    }
    return NULL;
}

struct plan_options plan_options_default(void)
{
    return (struct plan_options){
        .keep_local = -1, .keep_sink = -1, .index_dtype = -1, .weight_dtype = -1, .kv_dtype = -1};
}

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

// The limits are far above any model in sight and low enough that sums of products of them stay within 64 bits.
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
        return status_fail(-EINVAL, "layer %d reads the keys of layer %d, which has none of its own", l, layer->kv_from);
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
                                                      : "a YOCO backbone needs a shared memory: the last layer reads none");
    }
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        const struct layer_plan *layer = &plan->layers[l];
        bool reads = layer->attention != ATTENTION_WINDOW && plan->layers[layer->kv_from].attention == ATTENTION_WINDOW;
        if (reads != (memory >= 0 && l > memory) || (reads && layer->kv_from != memory)) {
            return status_fail(-EINVAL, "layer %d: a shared memory is read by every layer above it, and by none below", l);
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
            return status_fail(-EINVAL, cross ? "layer %d: prompt rows skip it, so its index keys must come from the memory"
                                              : "layer %d: there is no shared memory yet to make index keys of",
                               l);
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
    if (plan->weight_dtype == DTYPE_FP8 || plan->kv_dtype == DTYPE_FP8) {
        return status_fail(-EINVAL, "%s: the engine runs f32 and bf16 weights and caches, not fp8", shape->name);
    }
    if (shape->backbone == BACKBONE_TRANSFORMER) {
        for (int32_t l = 0; l < shape->n_layers; l++) {
            if (plan->layers[l].attention == ATTENTION_WINDOW) {
                return status_fail(-EINVAL, "%s: the engine runs window layers only below a shared memory; layer %d is one",
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

// The largest divisor of `budget` that is at most `limit`.
static int32_t divisor_up_to(int32_t budget, int32_t limit)
{
    int32_t unit = limit < budget ? limit : budget;
    while (unit > 1 && budget % unit) {
        unit--;
    }
    return unit > 1 ? unit : 1;
}

// Follows from the model's own budget, not an overridden one: the size of a block belongs to how the model was trained.
static int32_t preset_unit(enum unit_rule rule, int32_t top_k)
{
    switch (rule) {
    case UNIT_BLOCK: return divisor_up_to(top_k, top_k / 16 > 4 ? top_k / 16 : 4);    // 16 blocks, as MSA has
    case UNIT_PAGE: return divisor_up_to(top_k, top_k / 4 < 16 ? top_k / 4 : 16);     // Quest's 16, and 4 pages at least
    default: return 1;
    }
}

static int32_t preset_heads(enum head_rule rule, const struct model_shape *shape)
{
    switch (rule) {
    case HEADS_PER_KV_HEAD: return shape->n_kv_heads;
    case HEADS_LIGHTNING: return shape->lightning_heads;
    case HEADS_PER_QUERY_HEAD: return shape->n_heads;
    default: return 1;
    }
}

static struct index_spec build_index(const struct method *method, const struct model_shape *shape,
                                     const struct plan_options *options)
{
    bool bounds = method->score == INDEX_PAGE_BOUND;    // scored by the attention's own heads: nothing to override
    int32_t heads = options->index_heads && !bounds ? options->index_heads : preset_heads(method->heads, shape);
    int32_t dim = options->index_dim ? options->index_dim : shape->index_dim;
    return (struct index_spec){
        .query_from = method->query_from,
        .key_from = method->key_from,
        .score = method->score,
        .heads = heads,
        .dim = bounds ? shape->head_dim : dim,
        .key_dtype = options->index_dtype >= 0 ? (enum dtype)options->index_dtype : method->key_dtype,
        .sets = method->heads == HEADS_PER_KV_HEAD || bounds ? heads : 1,
        .unit_tokens = options->block_tokens ? options->block_tokens : preset_unit(method->unit, shape->top_k),
        .pooling = POOLING_MAX,
        .budget_tokens = options->top_k ? options->top_k : shape->top_k,
        .keep_local_units = options->keep_local >= 0 ? options->keep_local : method->keep_local_units,
        .keep_sink_units = options->keep_sink >= 0 ? options->keep_sink : 0,
    };
}

static void build_layers(struct plan *plan, const struct method *method, int32_t index_every)
{
    int32_t n_layers = plan->shape.n_layers;
    int32_t windows = method->info.backbone == BACKBONE_YOCO ? n_layers / 2 : 0;
    int32_t full = method->full_layers < n_layers ? method->full_layers : n_layers - 1;
    int32_t first = windows + full;    // that selects
    for (int32_t l = 0; l < n_layers; l++) {
        struct layer_plan *layer = &plan->layers[l];
        if (l < windows) {
            *layer = (struct layer_plan){ATTENTION_WINDOW, l, -1};
            continue;
        }
        *layer = (struct layer_plan){ATTENTION_FULL, windows ? windows - 1 : l, -1};
        if (method->attention == ATTENTION_SELECTED && l >= first) {
            layer->attention = ATTENTION_SELECTED;
            layer->index_from = l - (l - first) % index_every;
        }
    }
}

int plan_build(struct plan *out, const struct model_shape *shape, const char *name, const struct plan_options *options)
{
    const struct plan_options none = plan_options_default();
    options = options ? options : &none;
    const struct method *method = find_method(name);
    if (!method) {
        status_fail(-EINVAL, "%s", methods[0].info.name);
        for (int32_t i = 1; i < N_METHODS; i++) {
            status_fail(-EINVAL, "%s, %s", status_text(), methods[i].info.name);
        }
        return status_fail(-EINVAL, "unknown method '%s': expected one of %s", name, status_text());
    }
    struct plan plan = {.shape = *shape};
    plan.shape.backbone = method->info.backbone;
    plan.shape.window_tokens = options->window_tokens ? options->window_tokens : shape->window_tokens;
    strncpy(plan.method, method->info.name, sizeof plan.method - 1);
    int error = check_shape(&plan.shape);
    if (!error && plan.shape.backbone == BACKBONE_YOCO) {
        error = check_range("n_layers of a YOCO backbone", shape->n_layers, 2, PLAN_MAX_LAYERS);
    }
    if (!error && options->index_every) {
        error = check_range("index_every", options->index_every, 1, PLAN_MAX_LAYERS);
    }
    if (error) {
        return status_prefix(error, "%s, %s: ", shape->name, name);
    }
    build_layers(&plan, method, options->index_every ? options->index_every : method->index_every);
    if (method->attention == ATTENTION_SELECTED) {
        plan.index = build_index(method, &plan.shape, options);
    }
    plan.weight_dtype = options->weight_dtype >= 0 ? (enum dtype)options->weight_dtype : DTYPE_BF16;
    plan.kv_dtype = options->kv_dtype >= 0 ? (enum dtype)options->kv_dtype : DTYPE_BF16;
    int32_t unit = plan.index.unit_tokens > 0 ? plan.index.unit_tokens : 1;
    plan.page_tokens = options->page_tokens ? options->page_tokens : (63 / unit + 1) * unit;    // 64, in whole blocks
    error = plan_check(&plan);
    if (error) {
        return status_prefix(error, "%s, %s: ", shape->name, name);
    }
    *out = plan;
    return 0;
}

bool plan_runs_indexer(const struct plan *plan, int32_t layer)
{
    return plan->layers[layer].index_from == layer;
}

bool plan_has_own_kv(const struct plan *plan, int32_t layer)
{
    return plan->layers[layer].kv_from == layer;
}

bool plan_has_shared_memory(const struct plan *plan)
{
    return plan_memory_layer(plan) >= 0;
}

// The last layer tells: where there is a memory, every layer above it reads it.
int32_t plan_memory_layer(const struct plan *plan)
{
    const struct layer_plan *last = &plan->layers[plan->shape.n_layers - 1];
    bool reads = last->attention != ATTENTION_WINDOW && plan->layers[last->kv_from].attention == ATTENTION_WINDOW;
    return reads ? last->kv_from : -1;
}

int32_t plan_first_cross_layer(const struct plan *plan)
{
    int32_t memory = plan_memory_layer(plan);
    return memory >= 0 ? memory + 1 : plan->shape.n_layers;
}

int32_t plan_budget_units(const struct plan *plan)
{
    return plan->index.budget_tokens ? plan->index.budget_tokens / plan->index.unit_tokens : 0;
}

int32_t plan_group(const struct plan *plan)
{
    return plan->shape.n_heads / plan->shape.n_kv_heads;
}
