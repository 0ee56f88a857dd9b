// engine/plan.h - an attention method as data: a model's shape and, layer by layer, whose keys and values each layer
// reads and whose index it follows.
//
// The engine executes a plan, the cost model prices the same plan, the dashboard shows the same plan. A new method is a
// new row in plan.c's table of methods. Pure: no tensors, no files, no clock.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/dtype.h"

enum { PLAN_MAX_LAYERS = 256, PLAN_NAME_BYTES = 48 };

enum backbone { BACKBONE_TRANSFORMER, BACKBONE_YOCO, BACKBONE_COUNT };

// Multi-head latent attention (DeepSeek). kv_lora_rank == 0: plain grouped-query attention. Priced, not run.
struct mla_shape {
    int32_t q_lora_rank;        // 0: the query is projected from hidden directly
    int32_t kv_lora_rank;       // width of the cached latent
    int32_t rope_dim;           // cached beside it, shared by all heads
    int32_t nope_dim, v_dim;    // per head, after the up-projection
};

// Mixture of experts. n_experts == 0: a plain FFN in every layer. Priced, not run.
struct moe_shape {
    int32_t n_experts, n_active;    // routed experts, and how many of them each token visits
    int32_t n_shared;               // experts that every token visits
    int32_t ffn;                    // inner size of one expert
    int32_t n_dense_layers;         // the first layers have a plain FFN
};

struct model_shape {
    char name[PLAN_NAME_BYTES];
    enum backbone backbone;
    int32_t hidden, ffn, n_layers, n_heads, n_kv_heads, head_dim, vocab;
    int32_t window_tokens;          // keys a window layer sees, the current one included
    int32_t top_k;                  // default budget of the selecting methods
    int32_t index_dim;              // default size of an index key
    int32_t index_local_tokens;     // newest tokens that indexers without positions leave to be kept always; 0: none
    int32_t lightning_heads;        // query heads of DeepSeek's indexer at this model's size
    float rope_theta_window;        // RoPE base of YOCO's window layers
    float rope_theta_global;        // RoPE base of the Transformer; YOCO's global layers have no position encoding
    float norm_eps;
    bool tied_embeddings;           // the head is the embedding table
    struct mla_shape mla;
    struct moe_shape moe;
};

enum attention { ATTENTION_FULL, ATTENTION_WINDOW, ATTENTION_SELECTED };

// Layer l attends with `attention` over the keys and values of layer `kv_from`, restricted to what layer `index_from`
// selected. kv_from == l: its own. index_from == l: it runs an indexer. -1: none. YOCO's shared memory (the
// self-decoder's output after its own kv norm) is named by the last window layer.
struct layer_plan {
    enum attention attention;
    int32_t kv_from, index_from;
};

enum hidden_source { HIDDEN_LAYER_INPUT, HIDDEN_SHARED_MEMORY };

enum index_score {
    INDEX_DOT,           // q . k                                   (CLSA, MiniMax MSA)
    INDEX_GATED_RELU,    // sum over heads of w_h * max(q_h . k, 0) (DeepSeek DSA)
    INDEX_PAGE_BOUND     // sum over dims of max(q*min, q*max) of the unit's attention keys (Quest): no index keys
};

enum pooling { POOLING_MAX, POOLING_MEAN };

// How an indexer scores and selects; one per plan. budget_tokens == 0: the plan selects nothing.
struct index_spec {
    enum hidden_source query_from, key_from;
    enum index_score score;
    int32_t heads, dim;         // query heads of the indexer; size of its one key per token. Page bounds: n_heads,
                                // head_dim
    enum dtype key_dtype;       // f32 | bf16 | fp8 with one f32 scale per key (then queries are fp8, too, with one
                                // scale a head)
    int32_t sets;               // index sets per sequence: 1 | n_kv_heads (MSA) | n_heads (Quest). Divides n_heads
    int32_t unit_tokens;        // 1: tokens; 16, 128, ...: blocks
    enum pooling pooling;       // how a block's score follows from those of its tokens
    int32_t budget_tokens;      // k, a multiple of unit_tokens
    int32_t keep_local_units, keep_sink_units;    // always selected, inside the budget
};

struct plan {
    char method[PLAN_NAME_BYTES];    // the preset's name, or "native" for a foreign model's own method
    struct model_shape shape;
    struct layer_plan layers[PLAN_MAX_LAYERS];    // [shape.n_layers]
    struct index_spec index;
    enum dtype weight_dtype;    // f32 | bf16
    enum dtype kv_dtype;        // of the pages: f32 | bf16 | fp8 with a scale per token, KV head, key and value
    int32_t page_tokens;        // tokens per page of the KV cache; a multiple of index.unit_tokens, or divides it
};

// Overrides over a preset; a field that is 0 (-1 where 0 means something) keeps the preset's value.
struct plan_options {
    int32_t top_k, block_tokens, index_every, index_heads, index_dim, window_tokens;
    int32_t keep_local, keep_sink;              // units; -1: keep
    int32_t index_dtype, weight_dtype, kv_dtype;    // enum dtype; -1: keep
    int32_t page_tokens;
};
struct plan_options plan_options_default(void);

struct method_info {
    const char *name;           // "clsa"
    const char *summary;        // one line for --help and the dashboard
    enum backbone backbone;
    const char *dense_form;     // the method it approximates, with the same weights: "dense" or "yoco"
};

// The table of methods and the table of model sizes, in the order of the documentation.
int32_t plan_method_count(void);
const struct method_info *plan_method(int32_t index);
const struct method_info *plan_find_method(const char *name);    // NULL if unknown
int32_t plan_model_count(void);
const struct model_shape *plan_model(int32_t index);
const struct model_shape *plan_find_model(const char *name);     // NULL if unknown

// Builds the plan of `method` for `shape`. shape->backbone is replaced by the method's: the same sizes as Transformer
// or as YOCO. `options` may be NULL. -EINVAL with a text for an unknown method or impossible sizes; *out then
// unchanged.
int plan_build(struct plan *out, const struct model_shape *shape, const char *method,
               const struct plan_options *options);

// Everything that a plan must fulfil to be priced (sizes positive, no product that overflows, references to earlier
// layers only, budget a multiple of the unit, ...). 0 or -EINVAL with the first violation.
int plan_check(const struct plan *plan);

// What the engine asks beyond that (no MLA, no MoE, f32 or bf16 weights). 0 or -EINVAL with the reason.
int plan_check_runnable(const struct plan *plan);

// Small questions about a plan.
bool plan_runs_indexer(const struct plan *plan, int32_t layer);       // index_from == layer
bool plan_has_own_kv(const struct plan *plan, int32_t layer);         // kv_from == layer, window layers included
bool plan_has_shared_memory(const struct plan *plan);                 // some global layer reads a window layer's memory
int32_t plan_memory_layer(const struct plan *plan);                   // the layer that names the memory, or -1
int32_t plan_first_cross_layer(const struct plan *plan);              // that prompt rows skip; n_layers if none
int32_t plan_budget_units(const struct plan *plan);                   // budget_tokens / unit_tokens
int32_t plan_prefix_unit(const struct plan *plan);                    // prefixes are shared in multiples of it
int32_t plan_group(const struct plan *plan);                          // query heads per KV head

// What a step's own keys and values are kept in, and those of window rings: kv_dtype, or bf16 where that is fp8.
enum dtype plan_fresh_dtype(const struct plan *plan);
// Bytes of the keys and values of one token in one layer: in its pages, or in a window ring. fp8 pages hold
// 2 * n_kv_heads * (head_dim + 1) bytes of codes and scales, filled up to a multiple of 16; latents have no scales.
int64_t plan_kv_token_bytes(const struct plan *plan, bool ring);
