// engine/plan.c - the table of methods, the table of model sizes, and how a plan is made from both.
//
// A preset is one row of `methods`: everything that differs between two methods stands in their rows. What a plan must
// fulfil is plan_check.c; the small questions at the end trust a checked plan.
#include "engine/plan.h"

#include <errno.h>
#include <stdio.h>

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
    {.info = {"quest", "each query head selects pages by bounds of their keys", BACKBONE_TRANSFORMER, "dense"},
     .attention = ATTENTION_SELECTED,
     .full_layers = 2,
     .index_every = 1,
     .score = INDEX_PAGE_BOUND,
     .heads = HEADS_PER_QUERY_HEAD,
     .unit = UNIT_PAGE,
     .key_dtype = DTYPE_BF16},
};

#define MODEL_COMMON                                                                                                   \
    .backbone = BACKBONE_YOCO, .rope_theta_window = 1e4f, .rope_theta_global = 5e5f, .norm_eps = 1e-5f,                \
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
    case UNIT_PAGE: return divisor_up_to(top_k, top_k / 4 < 16 ? top_k / 4 : 16);     // Quest's 16, at least 4 pages
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

// The units that are always kept: the method's own, and as many as hold the tokens that the model's indexers were
// trained to leave out, but at most half of the budget.
static int32_t preset_local(const struct method *method, const struct model_shape *shape, int32_t unit, int32_t budget)
{
    if (method->score != INDEX_DOT || unit < 1) {
        return method->keep_local_units;
    }
    int32_t units = (shape->index_local_tokens + unit - 1) / unit, half = budget / unit / 2;
    units = units < half ? units : half;
    return units > method->keep_local_units ? units : method->keep_local_units;
}

static struct index_spec build_index(const struct method *method, const struct model_shape *shape,
                                     const struct plan_options *options)
{
    bool bounds = method->score == INDEX_PAGE_BOUND;    // scored by the attention's own heads: nothing to override
    int32_t heads = options->index_heads && !bounds ? options->index_heads : preset_heads(method->heads, shape);
    int32_t dim = options->index_dim ? options->index_dim : shape->index_dim;
    int32_t unit = options->block_tokens ? options->block_tokens : preset_unit(method->unit, shape->top_k);
    int32_t budget = options->top_k ? options->top_k : shape->top_k;
    int32_t local = options->keep_local >= 0 ? options->keep_local : preset_local(method, shape, unit, budget);
    return (struct index_spec){
        .query_from = method->query_from,
        .key_from = method->key_from,
        .score = method->score,
        .heads = heads,
        .dim = bounds ? shape->head_dim : dim,
        .key_dtype = options->index_dtype >= 0 ? (enum dtype)options->index_dtype : method->key_dtype,
        .sets = method->heads == HEADS_PER_KV_HEAD || bounds ? heads : 1,
        .unit_tokens = unit,
        .pooling = POOLING_MAX,
        .budget_tokens = budget,
        .keep_local_units = local,
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

static int fail_unknown_method(const char *name)
{
    char list[N_METHODS * 16] = "";
    for (int32_t i = 0, length = 0; i < N_METHODS; i++) {
        length += snprintf(list + length, sizeof list - (size_t)length, i ? ", %s" : "%s", methods[i].info.name);
    }
    return status_fail(-EINVAL, "unknown method '%s': expected one of %s", name, list);
}

int plan_build(struct plan *out, const struct model_shape *shape, const char *name, const struct plan_options *options)
{
    const struct plan_options none = plan_options_default();
    options = options ? options : &none;
    const struct method *method = find_method(name);
    if (!method) {
        return fail_unknown_method(name);
    }
    struct plan plan = {.shape = *shape};
    plan.shape.backbone = method->info.backbone;
    plan.shape.window_tokens = options->window_tokens ? options->window_tokens : shape->window_tokens;
    strncpy(plan.method, method->info.name, sizeof plan.method - 1);
    int32_t least = plan.shape.backbone == BACKBONE_YOCO ? 2 : 1;
    if (shape->n_layers < least || shape->n_layers > PLAN_MAX_LAYERS) {
        return status_fail(-EINVAL, "%s: n_layers is %d: %s needs %d to %d", shape->name, shape->n_layers, name, least,
                           PLAN_MAX_LAYERS);
    }
    if (options->index_every < 0 || options->index_every > PLAN_MAX_LAYERS) {
        return status_fail(-EINVAL, "index_every is %d: expected 1 to %d", options->index_every, PLAN_MAX_LAYERS);
    }
    build_layers(&plan, method, options->index_every ? options->index_every : method->index_every);
    if (method->attention == ATTENTION_SELECTED) {
        plan.index = build_index(method, &plan.shape, options);
    }
    plan.weight_dtype = options->weight_dtype >= 0 ? (enum dtype)options->weight_dtype : DTYPE_BF16;
    plan.kv_dtype = options->kv_dtype >= 0 ? (enum dtype)options->kv_dtype : DTYPE_BF16;
    int32_t unit = plan.index.unit_tokens > 0 ? plan.index.unit_tokens : 1;
    plan.page_tokens = options->page_tokens ? options->page_tokens : (63 / unit + 1) * unit;    // 64, in whole blocks
    int error = plan_check(&plan);
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

int32_t plan_prefix_unit(const struct plan *plan)
{
    return plan->index.unit_tokens > plan->page_tokens ? plan->index.unit_tokens : plan->page_tokens;
}

int32_t plan_group(const struct plan *plan)
{
    return plan->shape.n_heads / plan->shape.n_kv_heads;
}

enum dtype plan_fresh_dtype(const struct plan *plan)
{
    return plan->kv_dtype == DTYPE_FP8 ? DTYPE_BF16 : plan->kv_dtype;
}

int64_t plan_kv_token_bytes(const struct plan *plan, bool ring)
{
    enum { ALIGNMENT = 16 };    // of a token in fp8 pages: what kernels load at once
    const struct model_shape *shape = &plan->shape;
    enum dtype dtype = ring ? plan_fresh_dtype(plan) : plan->kv_dtype;
    if (shape->mla.kv_lora_rank) {
        return ((int64_t)shape->mla.kv_lora_rank + shape->mla.rope_dim) * dtype_bytes(dtype);
    }
    int64_t vectors = 2 * (int64_t)shape->n_kv_heads, bytes = vectors * shape->head_dim * dtype_bytes(dtype);
    return dtype == DTYPE_FP8 ? (bytes + vectors + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT : bytes;
}
