// engine/model_file.h - models on disk in Hugging Face layout, and random ones in memory.
//
// A folder holds config.json and either model.safetensors or model.safetensors.index.json with its shards. Files are
// mapped read-only and validated whole before the first tensor is used: header size, JSON, dtypes (F32, BF16), offsets
// in range, aligned and without overlap, shapes against the config. Anything else is -EINVAL with file, tensor and fix.
//
// One model holds one backbone's weights and the indexers of any number of its methods, which differ in shape and so in
// name: `indexer` (one query head), `layer_indexer` (one, its query from the layer's input and its key from the shared
// memory), `group_indexer` (INDEX_DOT, several heads), `lightning_indexer` (GATED_RELU).
// Tensor names: model.embed_tokens.weight, model.layers.N.{input_layernorm, self_attn.{q,k,v,o}_proj,
// self_attn.{q,k}_norm, post_attention_layernorm, mlp.{gate,up,down}_proj}.weight, model.layers.N.<indexer>.{q_proj,
// k_proj,gate_proj,k_norm}.weight and .k_norm.bias, model.memory.{norm,k_proj,v_proj}.weight, model.norm.weight,
// lm_head.weight. YOCO's shared indexers live in layer plan_first_cross_layer(); a per-layer one reading the memory
// keeps its key projection in its own layer.
#pragma once

#include "engine/backend.h"
#include "engine/model_config.h"

struct model_file;

// Maps the folder. *out is owned by the caller and outlives every struct model_weights taken from it.
int model_file_open(struct model_file **out, const char *folder);
void model_file_close(struct model_file *file);    // NULL-safe

// Random weights in memory, a pure function of (shape, dtype, seed, tensor name): what `model init` writes and this
// builds are the same bits, and two methods see the same backbone. Tensors are made when first asked for. Norms are
// ones, their biases zeros; matrices normal with deviation 1/sqrt(inputs), which keeps activations near 1.
int model_file_random(struct model_file **out, const struct model_shape *shape, enum dtype weight_dtype, uint64_t seed);

const struct model_config *model_file_config(const struct model_file *file);    // borrowed until close

// Reads and parses the config.json at `path`, or in the folder of that name: any family that model_config.h knows.
int model_file_load_config(struct model_config *out, const char *path);

// Fills `out` with the tensors that the plan needs. out->layers is owned by the model file and valid until close.
// -EINVAL if the plan's backbone or sizes are not the model's, or an indexer is missing: the text names the tensor, the
// shape expected and found, and the remedy (`clsa model init --methods ...`).
int model_file_weights(struct model_file *file, const struct plan *plan, struct model_weights *out);

struct model_file_tensor {
    const char *name, *file;    // borrowed until close; file is "" in a random model
    enum dtype dtype;
    int32_t n_rows, n_cols;
    int64_t bytes;
    const void *data;           // [n_rows][n_cols] borrowed until close
};
int32_t model_file_tensor_count(const struct model_file *file);
const struct model_file_tensor *model_file_tensor(const struct model_file *file, int32_t index);

// What to write: a random model with the indexers that `plans` [n_plans] need.
struct model_file_random_options {
    const struct model_shape *shape;
    enum dtype weight_dtype;
    uint64_t seed;
    const struct plan *const *plans;
    int32_t n_plans;
    int64_t max_shard_bytes;    // > 0: split into shards of at most this, or of one tensor
    // Now and then; its error ends it. May be NULL.
    int (*progress)(void *user, int64_t done_bytes, int64_t total_bytes);
    void *user;
};

// `folder` must not exist or be empty; it appears whole or not at all.
int model_file_write(const char *folder, const struct model_file_random_options *options);
