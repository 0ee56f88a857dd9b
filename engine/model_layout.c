// engine/model_layout.c - the walk over a plan's tensors.
#include "engine/model_layout.h"

#include <stdio.h>

enum { PREFIX_BYTES = MODEL_TENSOR_NAME_BYTES / 2 };

struct walk {
    int (*visit)(void *user, const struct model_tensor *tensor);
    void *user;
    int result;
    char prefix[PREFIX_BYTES];    // of the names that follow: "model.layers.3."
};

static void visit(struct walk *walk, struct matrix *slot, enum model_fill fill, int32_t n_rows, int32_t n_cols,
                  const char *name)
{
    if (walk->result) {
        return;
    }
    struct model_tensor tensor = {.n_rows = n_rows, .n_cols = n_cols, .fill = fill, .slot = slot};
    snprintf(tensor.name, sizeof tensor.name, "%s%s", walk->prefix, name);
    walk->result = walk->visit(walk->user, &tensor);
}

static void matrix(struct walk *walk, struct matrix *slot, int32_t n_rows, int32_t n_cols, const char *name)
{
    visit(walk, slot, MODEL_FILL_NORMAL, n_rows, n_cols, name);
}

static void norm(struct walk *walk, struct matrix *slot, int32_t n, const char *name)
{
    visit(walk, slot, MODEL_FILL_ONES, 1, n, name);
}

static void visit_attention(struct walk *walk, const struct plan *plan, int32_t l, struct layer_weights *weights)
{
    const struct model_shape *shape = &plan->shape;
    int32_t q_dim = shape->n_heads * shape->head_dim, kv_dim = shape->n_kv_heads * shape->head_dim;
    norm(walk, &weights->attention_norm, shape->hidden, "input_layernorm.weight");
    matrix(walk, &weights->q, q_dim, shape->hidden, "self_attn.q_proj.weight");
    if (plan_has_own_kv(plan, l)) {
        matrix(walk, &weights->k, kv_dim, shape->hidden, "self_attn.k_proj.weight");
        matrix(walk, &weights->v, kv_dim, shape->hidden, "self_attn.v_proj.weight");
        // Not in cross layers: the norm belongs to queries and keys that are rotated.
        norm(walk, &weights->q_norm, shape->head_dim, "self_attn.q_norm.weight");
        norm(walk, &weights->k_norm, shape->head_dim, "self_attn.k_norm.weight");
    }
    matrix(walk, &weights->output, shape->hidden, q_dim, "self_attn.o_proj.weight");
}

static void visit_ffn(struct walk *walk, const struct model_shape *shape, struct layer_weights *weights)
{
    norm(walk, &weights->ffn_norm, shape->hidden, "post_attention_layernorm.weight");
    matrix(walk, &weights->gate, shape->ffn, shape->hidden, "mlp.gate_proj.weight");
    matrix(walk, &weights->up, shape->ffn, shape->hidden, "mlp.up_proj.weight");
    matrix(walk, &weights->down, shape->hidden, shape->ffn, "mlp.down_proj.weight");
}

static void visit_indexer(struct walk *walk, const struct plan *plan, struct index_weights *weights)
{
    const struct index_spec *index = &plan->index;
    int32_t hidden = plan->shape.hidden;
    matrix(walk, &weights->q, index->heads * index->dim, hidden, "q_proj.weight");
    matrix(walk, &weights->k, index->dim, hidden, "k_proj.weight");
    if (index->score == INDEX_GATED_RELU) {
        matrix(walk, &weights->gate, index->heads, hidden, "gate_proj.weight");
        norm(walk, &weights->k_norm, index->dim, "k_norm.weight");
        visit(walk, &weights->k_norm_bias, MODEL_FILL_ZEROS, 1, index->dim, "k_norm.bias");
    }
}

static void visit_memory(struct walk *walk, const struct model_shape *shape, struct model_weights *weights)
{
    int32_t kv_dim = shape->n_kv_heads * shape->head_dim;
    norm(walk, &weights->memory_norm, shape->hidden, "norm.weight");
    matrix(walk, &weights->memory_k, kv_dim, shape->hidden, "k_proj.weight");
    matrix(walk, &weights->memory_v, kv_dim, shape->hidden, "v_proj.weight");
}

const char *model_layout_indexer(const struct index_spec *index)
{
    if (index->budget_tokens == 0 || index->score == INDEX_PAGE_BOUND) {
        return NULL;
    }
    if (index->score == INDEX_GATED_RELU) {
        return "lightning_indexer";
    }
    if (index->heads > 1) {
        return "group_indexer";
    }
    // Its query has another source than the shared indexer's, which can live in the same layer.
    return index->query_from != index->key_from ? "layer_indexer" : "indexer";
}

int model_layout_walk(const struct plan *plan, struct model_weights *weights,
                      int (*visit_one)(void *user, const struct model_tensor *tensor), void *user)
{
    const struct model_shape *shape = &plan->shape;
    const char *indexer = model_layout_indexer(&plan->index);
    struct walk walk = {.visit = visit_one, .user = user, .prefix = "model."};
    matrix(&walk, &weights->embedding, shape->vocab, shape->hidden, "embed_tokens.weight");
    for (int32_t l = 0; l < shape->n_layers; l++) {
        snprintf(walk.prefix, sizeof walk.prefix, "model.layers.%d.", l);
        visit_attention(&walk, plan, l, &weights->layers[l]);
        visit_ffn(&walk, shape, &weights->layers[l]);
        if (indexer && plan_runs_indexer(plan, l)) {
            snprintf(walk.prefix, sizeof walk.prefix, "model.layers.%d.%s.", l, indexer);
            visit_indexer(&walk, plan, &weights->layers[l].index);
        }
    }
    if (plan_has_shared_memory(plan)) {
        snprintf(walk.prefix, sizeof walk.prefix, "model.memory.");
        visit_memory(&walk, shape, weights);
    }
    walk.prefix[0] = 0;
    norm(&walk, &weights->final_norm, shape->hidden, "model.norm.weight");
    if (!shape->tied_embeddings) {
        matrix(&walk, &weights->head, shape->vocab, shape->hidden, "lm_head.weight");
    }
    return walk.result;
}
