// engine/cost.c - the formulas.
//
// Every count is a sum over rows (tokens that run a layer) in closed form. Weights are matrices only: norms and biases
// are less than a thousandth of them. Sums saturate instead of overflowing, so that absurd work has an absurd price.
#include "engine/cost.h"

#include <assert.h>
#include <errno.h>

#include "engine/status.h"

static int64_t add(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int64_t mul(int64_t a, int64_t b)    // of counts: neither is negative
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

static int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void pay(struct stage_cost *cost, int64_t bytes, int64_t flops)
{
    cost->bytes = add(cost->bytes, bytes);
    cost->flops = add(cost->flops, flops);
}

// The rows of one sequence that run: positions [begin, end). A row at position p sees p + 1 tokens.
struct span {
    int64_t begin, end;
};

static struct span last_rows(const struct work *work, int32_t n)
{
    assert(work->context_tokens >= 0 && n >= 0 && n <= work->new_tokens);
    int64_t end = (int64_t)work->context_tokens + work->new_tokens;
    return (struct span){end - n, end};
}

// Prompt rows leave below the first cross layer; those that leave logits run every layer.
static struct span layer_rows(const struct plan *plan, int32_t layer, const struct work *work)
{
    return last_rows(work, layer < plan_first_cross_layer(plan) ? work->new_tokens : work->logit_rows);
}

static int64_t triangle(int64_t n)    // 1 + 2 + ... + n
{
    return n % 2 ? mul(n, (n + 1) / 2) : mul(n / 2, n + 1);
}

// Sum over rows of min(tokens that the row sees, cap).
static int64_t sum_tokens(struct span rows, int64_t cap)
{
    int64_t growing_begin = min(rows.begin, cap), growing_end = min(rows.end, cap);
    int64_t flat = rows.end - rows.begin - (growing_end - growing_begin);
    return add(triangle(growing_end) - triangle(growing_begin), mul(flat, cap));
}

// Sum of the units that hold 1, 2, ..., n tokens.
static int64_t triangle_of_units(int64_t n, int64_t unit)
{
    int64_t whole = n / unit;
    return add(mul(unit, triangle(whole)), mul(n % unit, whole + 1));
}

// Sum over rows of min(units that begin at or before the row, cap).
static int64_t sum_units(struct span rows, int64_t unit, int64_t cap)
{
    int64_t growing_begin = min(rows.begin, mul(cap, unit)), growing_end = min(rows.end, mul(cap, unit));
    int64_t flat = rows.end - rows.begin - (growing_end - growing_begin);
    return add(triangle_of_units(growing_end, unit) - triangle_of_units(growing_begin, unit), mul(flat, cap));
}

static int64_t units_of(int64_t tokens, int64_t unit)
{
    return (tokens + unit - 1) / unit;
}

// Keys and values of one token in one layer, as cached.
static int64_t kv_bytes(const struct plan *plan)
{
    return plan_kv_token_bytes(plan, false);
}

static int64_t ring_bytes(const struct plan *plan)
{
    return plan_kv_token_bytes(plan, true);
}

// Operations of one row over one key in all heads: the score and the weighted value. Latent attention runs absorbed,
// but for prompts (see spelled_out_flops): every head scores the latent and its rotary part, and adds up latents.
static int64_t attend_flops(const struct plan *plan)
{
    const struct model_shape *shape = &plan->shape;
    int64_t per_head = shape->mla.kv_lora_rank ? 2 * (2 * (int64_t)shape->mla.kv_lora_rank + shape->mla.rope_dim)
                                               : 4 * (int64_t)shape->head_dim;
    return shape->n_heads * per_head;
}

static int64_t index_key_bytes(const struct index_spec *index)
{
    if (index->score == INDEX_PAGE_BOUND) {
        return 0;
    }
    int64_t scale_bytes = index->key_dtype == DTYPE_FP8 ? 4 : 0;
    return (int64_t)index->dim * dtype_bytes(index->key_dtype) + scale_bytes;
}

static int64_t bound_bytes(const struct plan *plan)    // of one unit: f32 minimum and maximum of every key element
{
    return 2 * (int64_t)plan->shape.n_kv_heads * plan->shape.head_dim * 4;
}

// Elements of the weight matrices.

static int64_t query_weights(const struct model_shape *shape)
{
    const struct mla_shape *mla = &shape->mla;
    if (!mla->kv_lora_rank) {
        return (int64_t)shape->hidden * shape->n_heads * shape->head_dim;
    }
    int64_t query = (int64_t)shape->n_heads * (mla->nope_dim + mla->rope_dim);
    int64_t absorb = (int64_t)shape->n_heads * mla->nope_dim * mla->kv_lora_rank;    // query to latent
    if (!mla->q_lora_rank) {
        return shape->hidden * query + absorb;
    }
    return mla->q_lora_rank * (shape->hidden + query) + absorb;
}

static int64_t kv_weights(const struct model_shape *shape)
{
    if (shape->mla.kv_lora_rank) {
        return (int64_t)shape->hidden * (shape->mla.kv_lora_rank + shape->mla.rope_dim);
    }
    return 2 * (int64_t)shape->hidden * shape->n_kv_heads * shape->head_dim;
}

static int64_t output_weights(const struct model_shape *shape)
{
    const struct mla_shape *mla = &shape->mla;
    if (!mla->kv_lora_rank) {
        return (int64_t)shape->n_heads * shape->head_dim * shape->hidden;
    }
    return (int64_t)shape->n_heads * mla->v_dim * (mla->kv_lora_rank + shape->hidden);    // latent to value, then out
}

static int64_t index_query_weights(const struct plan *plan)
{
    const struct index_spec *index = &plan->index;
    const struct model_shape *shape = &plan->shape;
    int64_t outputs = (int64_t)index->heads * index->dim;
    if (index->score == INDEX_PAGE_BOUND) {
        return 0;
    }
    if (index->score == INDEX_DOT) {
        return shape->hidden * outputs;
    }
    // DeepSeek's indexer takes its queries from the query latent where there is one; gates always from hidden.
    int64_t inputs = shape->mla.kv_lora_rank && shape->mla.q_lora_rank ? shape->mla.q_lora_rank : shape->hidden;
    return inputs * outputs + (int64_t)shape->hidden * index->heads;
}

static int64_t index_key_weights(const struct plan *plan)
{
    return plan->index.score == INDEX_PAGE_BOUND ? 0 : (int64_t)plan->shape.hidden * plan->index.dim;
}

static int64_t expert_weights(const struct model_shape *shape)
{
    return 3 * (int64_t)shape->hidden * shape->moe.ffn;
}

static bool has_experts(const struct model_shape *shape, int32_t layer)
{
    return shape->moe.n_experts > 0 && layer >= shape->moe.n_dense_layers;
}

// How many of the routed experts `rows` tokens visit, if each visits n_active at random: n (1 - (1 - active/n)^rows).
static double experts_visited(const struct moe_shape *moe, int64_t rows)
{
    double missed = 1, factor = 1 - (double)moe->n_active / moe->n_experts;
    for (; rows > 0; rows /= 2) {    // power by squaring: the same bits on every machine
        missed *= rows % 2 ? factor : 1;
        factor *= factor;
    }
    return moe->n_experts * (1 - missed);
}

static void pay_matrix(struct stage_cost *cost, const struct plan *plan, int64_t elements, int64_t rows)
{
    if (rows > 0) {
        pay(cost, mul(elements, dtype_bytes(plan->weight_dtype)), mul(mul(2, rows), elements));
    }
}

// The pass as one layer sees it.
struct pass {
    const struct plan *plan;
    int32_t layer;
    const struct work *work;    // [n_seqs]
    int32_t n_seqs;
    int64_t new_rows;           // of all sequences
    int64_t rows;               // those that run this layer
};

static struct pass make_pass(const struct plan *plan, int32_t layer, const struct work *work, int32_t n_seqs)
{
    struct pass pass = {plan, layer, work, n_seqs, 0, 0};
    for (int32_t i = 0; i < n_seqs; i++) {
        struct span rows = layer_rows(plan, layer < 0 ? plan->shape.n_layers : layer, &work[i]);
        pass.new_rows += work[i].new_tokens;
        pass.rows += rows.end - rows.begin;
    }
    return pass;
}

static void pay_qkv(struct stage_cost *own, struct stage_cost *memory, const struct pass *pass)
{
    const struct model_shape *shape = &pass->plan->shape;
    int64_t elements = query_weights(shape) + (plan_has_own_kv(pass->plan, pass->layer) ? kv_weights(shape) : 0);
    pay_matrix(own, pass->plan, elements, pass->rows);
    if (pass->layer == plan_memory_layer(pass->plan)) {
        pay_matrix(memory, pass->plan, kv_weights(shape), pass->new_rows);
    }
}

// Each key that some row sees is read once, those of this pass included.
static void pay_window_attention(struct stage_cost *cost, const struct pass *pass)
{
    int64_t window = pass->plan->shape.window_tokens;
    for (int32_t i = 0; i < pass->n_seqs; i++) {
        struct span rows = layer_rows(pass->plan, pass->layer, &pass->work[i]);
        if (rows.end > rows.begin) {
            int64_t keys = min(rows.end, rows.end - rows.begin - 1 + window);
            pay(cost, mul(keys, ring_bytes(pass->plan)), mul(sum_tokens(rows, window), attend_flops(pass->plan)));
        }
    }
}

// Rows of one sequence at [begin, end) put their keys into units: whole bounds are written, and one that older keys had
// begun is read.
static void pay_bounds(struct stage_cost *cost, const struct plan *plan, struct span rows)
{
    int64_t unit = plan->index.unit_tokens;
    if (rows.end > rows.begin) {
        int64_t written = units_of(rows.end, unit) - rows.begin / unit;
        pay(cost, mul(written + (rows.begin % unit ? 1 : 0), bound_bytes(plan)), 0);
    }
}

static void pay_kv_write(struct stage_cost *cost, const struct pass *pass)
{
    const struct plan *plan = pass->plan;
    const struct layer_plan *layer = &plan->layers[pass->layer];
    for (int32_t i = 0; i < pass->n_seqs; i++) {
        struct span all = last_rows(&pass->work[i], pass->work[i].new_tokens);
        int64_t n = all.end - all.begin;
        if (plan_has_own_kv(plan, pass->layer)) {
            bool ring = layer->attention == ATTENTION_WINDOW;    // keeps the last window only
            pay(cost, mul(ring ? min(n, plan->shape.window_tokens) : n, plan_kv_token_bytes(plan, ring)), 0);
        }
        if (pass->layer == plan_memory_layer(plan)) {
            pay(cost, mul(n, kv_bytes(plan)), 0);
        }
        if (plan_runs_indexer(plan, pass->layer)) {
            pay(cost, mul(n, index_key_bytes(&plan->index)), 0);
            if (plan->index.score == INDEX_PAGE_BOUND) {
                pay_bounds(cost, plan, all);
            }
        }
    }
}

// Keys of all rows, also of those that leave before: later tokens look for them. Queries of the rows that run.
static void pay_index_project(struct stage_cost *cost, const struct pass *pass)
{
    if (plan_runs_indexer(pass->plan, pass->layer)) {
        pay_matrix(cost, pass->plan, index_query_weights(pass->plan), pass->rows);
        pay_matrix(cost, pass->plan, index_key_weights(pass->plan), pass->new_rows);
    }
}

// Keys (or bounds) of a sequence are read once per pass whatever its rows; every score is written.
static void pay_index_score(struct stage_cost *cost, const struct pass *pass)
{
    const struct plan *plan = pass->plan;
    const struct index_spec *index = &plan->index;
    if (!plan_runs_indexer(plan, pass->layer)) {
        return;
    }
    for (int32_t i = 0; i < pass->n_seqs; i++) {
        struct span rows = layer_rows(plan, pass->layer, &pass->work[i]);
        if (rows.end == rows.begin) {
            continue;
        }
        int64_t units = sum_units(rows, index->unit_tokens, INT32_MAX);
        int64_t seen = sum_tokens(rows, INT64_MAX);
        int64_t per_key = 2 * (int64_t)index->heads * index->dim;
        pay(cost, mul(mul(4, index->sets), units), 0);
        switch (index->score) {
        case INDEX_DOT: pay(cost, mul(rows.end, index_key_bytes(index)), mul(seen, per_key)); break;
        case INDEX_GATED_RELU:    // and the maximum, the gate and the sum of each head
            pay(cost, mul(rows.end, index_key_bytes(index)), mul(seen, per_key + 3 * (int64_t)index->heads));
            break;
        case INDEX_PAGE_BOUND:    // both products of each element
            pay(cost, mul(units_of(rows.end, index->unit_tokens), bound_bytes(plan)), mul(units, 2 * per_key));
            break;
        }
    }
}

// Reads every score once, writes the numbers of the selected units; a comparison per score.
static void pay_index_select(struct stage_cost *cost, const struct pass *pass)
{
    const struct index_spec *index = &pass->plan->index;
    if (!plan_runs_indexer(pass->plan, pass->layer)) {
        return;
    }
    for (int32_t i = 0; i < pass->n_seqs; i++) {
        struct span rows = layer_rows(pass->plan, pass->layer, &pass->work[i]);
        int64_t scores = mul(index->sets, sum_units(rows, index->unit_tokens, INT32_MAX));
        int64_t chosen = mul(index->sets, sum_units(rows, index->unit_tokens, plan_budget_units(pass->plan)));
        pay(cost, mul(4, add(scores, chosen)), scores);
    }
}

// Latent attention without absorption, as prompts run where that costs less: every head has keys and values of its own,
// made of the latents. For the keys of this pass that takes what absorption takes for its rows, which stages qkv and
// output pay; those before them are made again in every pass.
static int64_t spelled_out_flops(const struct plan *plan, struct span rows)
{
    const struct mla_shape *mla = &plan->shape.mla;
    int64_t heads = plan->shape.n_heads, made = 2 * heads * (mla->nope_dim + mla->v_dim) * (int64_t)mla->kv_lora_rank;
    int64_t per_key = 2 * heads * (mla->nope_dim + mla->rope_dim + mla->v_dim);
    return add(mul(sum_tokens(rows, INT64_MAX), per_key), mul(rows.begin, made));
}

static int64_t attention_flops(const struct plan *plan, struct span rows, int64_t budget)
{
    int64_t flops = mul(sum_tokens(rows, budget), attend_flops(plan));
    bool prompt = rows.end - rows.begin > 1 && rows.end <= budget;    // and nothing is left out
    return plan->shape.mla.kv_lora_rank && prompt ? min(flops, spelled_out_flops(plan, rows)) : flops;
}

// Full: every key of the sequence is read once. Selected: the unit numbers of every row, and no more keys than the rows
// can have chosen together. Where several sets share a KV head (Quest) the floor is that they chose the same.
static void pay_attention(struct stage_cost *cost, const struct pass *pass)
{
    const struct plan *plan = pass->plan;
    const struct index_spec *index = &plan->index;
    bool selected = plan->layers[pass->layer].attention == ATTENTION_SELECTED;
    for (int32_t i = 0; i < pass->n_seqs; i++) {
        struct span rows = layer_rows(plan, pass->layer, &pass->work[i]);
        if (rows.end == rows.begin) {
            continue;
        }
        int64_t budget = selected ? index->budget_tokens : INT64_MAX;
        int64_t keys = min(mul(rows.end - rows.begin, budget), rows.end);
        pay(cost, mul(keys, kv_bytes(plan)), attention_flops(plan, rows, budget));
        if (selected) {
            int64_t chosen = sum_units(rows, index->unit_tokens, plan_budget_units(plan));
            pay(cost, mul(mul(4, index->sets), chosen), 0);
        }
    }
}

static void pay_ffn(struct stage_cost *cost, const struct pass *pass)
{
    const struct model_shape *shape = &pass->plan->shape;
    const struct moe_shape *moe = &shape->moe;
    if (!has_experts(shape, pass->layer)) {
        pay_matrix(cost, pass->plan, 3 * (int64_t)shape->hidden * shape->ffn, pass->rows);
        return;
    }
    int64_t router = (int64_t)shape->hidden * moe->n_experts, expert = expert_weights(shape);
    pay_matrix(cost, pass->plan, router + moe->n_shared * expert, pass->rows);
    double read = experts_visited(moe, pass->rows) * (double)expert * dtype_bytes(pass->plan->weight_dtype);
    pay(cost, (int64_t)(read + 0.5), mul(mul(2, pass->rows), moe->n_active * expert));
}

static void pay_outside_layers(struct stage_cost *cost, enum stage stage, const struct pass *pass)
{
    const struct model_shape *shape = &pass->plan->shape;
    int64_t row_bytes = (int64_t)shape->hidden * dtype_bytes(pass->plan->weight_dtype);
    switch (stage) {
    case STAGE_EMBED: pay(cost, mul(pass->new_rows, row_bytes), 0); break;
    case STAGE_HEAD: pay_matrix(cost, pass->plan, (int64_t)shape->vocab * shape->hidden, pass->rows); break;
    case STAGE_SAMPLE: pay(cost, mul(mul(4, shape->vocab), pass->rows), mul(shape->vocab, pass->rows)); break;
    default: break;
    }
}

static void pay_layer(struct stage_cost *cost, enum stage stage, const struct pass *pass)
{
    bool window = pass->plan->layers[pass->layer].attention == ATTENTION_WINDOW;
    switch (stage) {
    case STAGE_QKV: pay_qkv(cost, cost, pass); break;
    case STAGE_KV_WRITE: pay_kv_write(cost, pass); break;
    case STAGE_INDEX_PROJECT: pay_index_project(cost, pass); break;
    case STAGE_INDEX_SCORE: pay_index_score(cost, pass); break;
    case STAGE_INDEX_SELECT: pay_index_select(cost, pass); break;
    case STAGE_OUTPUT: pay_matrix(cost, pass->plan, output_weights(&pass->plan->shape), pass->rows); break;
    case STAGE_FFN: pay_ffn(cost, pass); break;
    case STAGE_WINDOW_ATTENTION:
        if (window) {
            pay_window_attention(cost, pass);
        }
        break;
    case STAGE_ATTENTION:
        if (!window) {
            pay_attention(cost, pass);
        }
        break;
    default: break;
    }
}

int stage_cost(struct stage_cost *out, const struct plan *plan, enum stage stage, int32_t layer,
               const struct work *work, int32_t n_seqs)
{
    if (layer < -1 || layer >= plan->shape.n_layers) {
        return status_fail(-EINVAL, "layer %d of %s: expected -1 (outside layers) to %d", layer, plan->shape.name,
                           plan->shape.n_layers - 1);
    }
    struct pass pass = make_pass(plan, layer, work, n_seqs);
    *out = (struct stage_cost){0, 0};
    if (layer < 0) {
        pay_outside_layers(out, stage, &pass);
    } else {
        pay_layer(out, stage, &pass);
    }
    return 0;
}

struct stage_cost step_cost(const struct plan *plan, const struct work *work, int32_t n_seqs)
{
    struct stage_cost total = {0, 0};
    struct pass pass = make_pass(plan, -1, work, n_seqs);
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        pay_outside_layers(&total, (enum stage)stage, &pass);
    }
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        pass = make_pass(plan, layer, work, n_seqs);
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            pay_layer(&total, (enum stage)stage, &pass);
        }
    }
    return total;
}

void qkv_cost_parts(struct stage_cost *own, struct stage_cost *memory, const struct plan *plan, int32_t layer,
                    const struct work *work, int32_t n_seqs)
{
    struct pass pass = make_pass(plan, layer, work, n_seqs);
    *own = *memory = (struct stage_cost){0, 0};
    pay_qkv(own, memory, &pass);
}

int64_t plan_parameters(const struct plan *plan)
{
    const struct model_shape *shape = &plan->shape;
    int64_t total = (int64_t)shape->vocab * shape->hidden * (shape->tied_embeddings ? 1 : 2);
    for (int32_t layer = 0; layer < shape->n_layers; layer++) {
        total += query_weights(shape) + output_weights(shape);
        total += plan_has_own_kv(plan, layer) ? kv_weights(shape) : 0;
        total += layer == plan_memory_layer(plan) ? kv_weights(shape) : 0;
        total += plan_runs_indexer(plan, layer) ? index_query_weights(plan) + index_key_weights(plan) : 0;
        if (has_experts(shape, layer)) {
            total += (int64_t)shape->hidden * shape->moe.n_experts +
                     ((int64_t)shape->moe.n_experts + shape->moe.n_shared) * expert_weights(shape);
        } else {
            total += 3 * (int64_t)shape->hidden * shape->ffn;
        }
    }
    return total;
}

int64_t plan_weight_bytes(const struct plan *plan)
{
    return plan_parameters(plan) * dtype_bytes(plan->weight_dtype);
}

int64_t plan_kv_bytes_per_token(const struct plan *plan)
{
    int64_t total = plan_has_shared_memory(plan) ? kv_bytes(plan) : 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        bool window = plan->layers[layer].attention == ATTENTION_WINDOW;
        total += plan_has_own_kv(plan, layer) && !window ? kv_bytes(plan) : 0;
        if (plan_runs_indexer(plan, layer)) {
            bool bounds = plan->index.score == INDEX_PAGE_BOUND;
            total += bounds ? units_of(bound_bytes(plan), plan->index.unit_tokens) : index_key_bytes(&plan->index);
        }
    }
    return total;
}

int64_t plan_kv_bytes_per_sequence(const struct plan *plan)
{
    int64_t total = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        bool ring = plan->layers[layer].attention == ATTENTION_WINDOW && plan_has_own_kv(plan, layer);
        total += ring ? mul(plan->shape.window_tokens, ring_bytes(plan)) : 0;
    }
    return total;
}

int32_t plan_units(const struct plan *plan, int32_t tokens)
{
    return plan->index.budget_tokens ? (int32_t)units_of(tokens, plan->index.unit_tokens) : 0;
}

int64_t plan_score_bytes(const struct plan *plan, int32_t rows, int32_t logit_rows, int32_t context_tokens,
                         int64_t tile_bytes)
{
    enum { F32_BYTES = 4 };
    int64_t row = (int64_t)plan->index.sets * (plan_units(plan, context_tokens) + SCORE_ALIGNMENT) * F32_BYTES;
    int32_t scored = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        int32_t n = layer < plan_first_cross_layer(plan) ? rows : logit_rows;
        scored = plan_runs_indexer(plan, layer) && n > scored ? n : scored;
    }
    int64_t wanted = scored * row;
    return wanted < tile_bytes ? wanted : row > tile_bytes ? row : tile_bytes;
}

int64_t plan_row_bytes(const struct plan *plan)
{
    enum { F32_BYTES = 4, ACTIVATION_BYTES = 2 };
    const struct model_shape *shape = &plan->shape;
    const struct index_spec *index = &plan->index;
    int64_t heads = (int64_t)shape->n_heads * shape->head_dim, kv_heads = (int64_t)shape->n_kv_heads * shape->head_dim;
    int64_t hidden = shape->hidden, selected = 0;
    for (int32_t layer = 0; layer < plan_first_cross_layer(plan); layer++) {
        selected += plan_runs_indexer(plan, layer) ? (int64_t)index->sets * (plan_budget_units(plan) + 1) : 0;
    }
    int64_t activations = 2 * hidden + 2 * heads + 2 * kv_heads + 2 * (int64_t)shape->ffn;
    activations += plan_has_shared_memory(plan) ? hidden : 0;
    activations += index->budget_tokens > 0 ? (int64_t)(index->heads + 1) * index->dim : 0;
    return F32_BYTES * (hidden + selected) + ACTIVATION_BYTES * activations;
}
