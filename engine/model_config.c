// engine/model_config.c - from config.json to a plan, and our own models back.
//
// A reader carries the first error, so that the functions below read keys one after the other. Keys of a nested
// "text_config" (models that also see or hear) come before those around it. Nothing here knows a model by its name: the
// keys decide, except for three defaults that a family leaves unsaid.
#include "engine/model_config.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"

struct reader {
    const json_t *root, *inner;    // inner: "text_config", or root again
    const char *where;
    int error;                     // of the first key that was wrong; later ones are not looked at
};

static const json_t *find(const struct reader *reader, const char *key)
{
    const json_t *value = json_object_get(reader->inner, key);
    value = value ? value : json_object_get(reader->root, key);
    return json_is_null(value) ? NULL : value;
}

static void reject(struct reader *reader, const char *key, const json_t *value, const char *expected)
{
    if (reader->error) {
        return;
    }
    if (!value) {
        reader->error = status_fail(-EINVAL, "%s: \"%s\" is missing; expected %s", reader->where, key, expected);
        return;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
    reader->error = status_fail(-EINVAL, "%s: \"%s\" is %.40s; expected %s", reader->where, key, text ? text : "huge",
                                expected);
    free(text);
}

static int32_t whole(struct reader *reader, const char *key, const json_t *value, int32_t low, int32_t high)
{
    if (!json_is_integer(value) || json_integer_value(value) < low || json_integer_value(value) > high) {
        char expected[64];
        snprintf(expected, sizeof expected, "a whole number from %d to %d", low, high);
        reject(reader, key, value, expected);
        return low;
    }
    return (int32_t)json_integer_value(value);
}

static int32_t required(struct reader *reader, const char *key, int32_t low, int32_t high)
{
    return whole(reader, key, find(reader, key), low, high);
}

static int32_t optional(struct reader *reader, const char *key, int32_t low, int32_t high, int32_t fallback)
{
    const json_t *value = find(reader, key);
    return value ? whole(reader, key, value, low, high) : fallback;
}

// The first of two spellings that is there.
static const char *either(const struct reader *reader, const char *key, const char *other)
{
    return find(reader, key) ? key : other;
}

static double number(struct reader *reader, const char *key, const json_t *value, double low, double high,
                     double fallback)
{
    double got = value ? json_number_value(value) : fallback;
    if (value && (!json_is_number(value) || !(got >= low && got <= high))) {
        char expected[64];
        snprintf(expected, sizeof expected, "a number from %g to %g", low, high);
        reject(reader, key, value, expected);
        return fallback;
    }
    return got;
}

static bool truth(struct reader *reader, const char *key, bool fallback)
{
    const json_t *value = find(reader, key);
    if (value && !json_is_boolean(value)) {
        reject(reader, key, value, "true or false");
    }
    return value ? json_is_true(value) : fallback;
}

static const char *text(struct reader *reader, const char *key, const char *fallback)
{
    const json_t *value = find(reader, key);
    if (value && !json_is_string(value)) {
        reject(reader, key, value, "text");
    }
    return json_is_string(value) ? json_string_value(value) : fallback;
}

static bool begins_with(const char *word, const char *beginning)
{
    return strncmp(word, beginning, strlen(beginning)) == 0;
}

// "meta-llama/Llama-3.1-8B" -> "Llama-3.1-8B", else the family. What a terminal would obey becomes '?'.
static void read_name(struct reader *reader, struct model_shape *shape)
{
    const char *name = text(reader, "_name_or_path", "");
    const char *slash = strrchr(name, '/');
    name = slash ? slash + 1 : name;
    name = *name ? name : text(reader, "model_type", "model");
    for (size_t i = 0; i < sizeof shape->name - 1 && name[i]; i++) {
        shape->name[i] = (char)(name[i] >= ' ' && name[i] < 127 ? name[i] : '?');
    }
}

static void read_mla(struct reader *reader, struct model_shape *shape)
{
    shape->mla = (struct mla_shape){
        .q_lora_rank = optional(reader, "q_lora_rank", 0, 1 << 16, 0),
        .kv_lora_rank = required(reader, "kv_lora_rank", 1, 1 << 16),
        .rope_dim = required(reader, "qk_rope_head_dim", 0, 1 << 13),
        .nope_dim = required(reader, "qk_nope_head_dim", 1, 1 << 13),
        .v_dim = required(reader, "v_head_dim", 1, 1 << 14),
    };
    // All query heads read one latent: to everything that counts KV heads, it is one.
    shape->n_kv_heads = 1;
    shape->head_dim = shape->mla.nope_dim + shape->mla.rope_dim;
}

static void read_heads(struct reader *reader, struct model_shape *shape)
{
    shape->n_heads = required(reader, "num_attention_heads", 1, 1 << 12);
    if (find(reader, "kv_lora_rank")) {
        read_mla(reader, shape);
        return;
    }
    shape->n_kv_heads = optional(reader, "num_key_value_heads", 1, 1 << 12, shape->n_heads);
    if (find(reader, "head_dim") || shape->hidden % shape->n_heads) {
        shape->head_dim = required(reader, "head_dim", 1, 1 << 14);
    } else {
        shape->head_dim = shape->hidden / shape->n_heads;
    }
    if (shape->n_heads % shape->n_kv_heads) {
        reject(reader, "num_key_value_heads", find(reader, "num_key_value_heads"), "a divisor of num_attention_heads");
    }
}

// Experts are priced in every layer after the first dense ones; a layer that breaks this is an error, not an estimate.
static int32_t read_dense_layers(struct reader *reader, int32_t n_layers)
{
    const char *steps[] = {"decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step"};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const json_t *step = find(reader, steps[i]);
        if (step && !(json_is_integer(step) && json_integer_value(step) == 1)) {
            reject(reader, steps[i], step, "1: experts in every layer after the first dense ones");
        }
    }
    int32_t n = optional(reader, "first_k_dense_replace", 0, n_layers, 0);
    const json_t *dense = find(reader, "mlp_only_layers");
    for (size_t i = 0; i < json_array_size(dense); i++) {
        if (json_integer_value(json_array_get(dense, i)) != (json_int_t)i || (int32_t)i >= n_layers) {
            reject(reader, "mlp_only_layers", dense, "the first layers only: [0, 1, ...]");
            return n;
        }
        n = n > (int32_t)i + 1 ? n : (int32_t)i + 1;
    }
    return n;
}

static void read_moe(struct reader *reader, struct model_shape *shape)
{
    const char *experts = either(reader, "n_routed_experts", either(reader, "num_local_experts", "num_experts"));
    struct moe_shape moe = {.n_experts = optional(reader, experts, 0, 1 << 16, 0)};
    if (moe.n_experts == 0) {
        shape->ffn = required(reader, "intermediate_size", 1, 1 << 22);
        return;
    }
    // Where experts are all there is, their size goes by the plain name (Mixtral).
    moe.ffn = required(reader, either(reader, "moe_intermediate_size", "intermediate_size"), 1, 1 << 22);
    moe.n_active = required(reader, either(reader, "num_experts_per_tok", "experts_per_token"), 1, moe.n_experts);
    int32_t shared_ffn = optional(reader, "shared_expert_intermediate_size", 0, 1 << 22, 0);
    moe.n_shared = optional(reader, "n_shared_experts", 0, 1 << 10, (shared_ffn + moe.ffn - 1) / moe.ffn);
    moe.n_dense_layers = read_dense_layers(reader, shape->n_layers);
    shape->ffn = moe.n_dense_layers > 0 ? required(reader, "intermediate_size", 1, 1 << 22)
                                        : optional(reader, "intermediate_size", 0, 1 << 22, 0);
    shape->moe = moe;
}

// RoPE's base: a key of its own, or in "rope_parameters", there again once per kind of layer.
static float read_theta(struct reader *reader, const char *key, const char *kind, float fallback)
{
    const json_t *parameters = find(reader, "rope_parameters");
    const json_t *of_kind = json_object_get(parameters, kind);
    const json_t *value = find(reader, key);
    value = value ? value : json_object_get(of_kind ? of_kind : parameters, "rope_theta");
    return (float)number(reader, key, json_is_null(value) ? NULL : value, 1e-3, 1e30, (double)fallback);
}

static void read_shape(struct reader *reader, struct model_shape *shape, const char *family)
{
    *shape = (struct model_shape){.backbone = BACKBONE_TRANSFORMER};
    read_name(reader, shape);
    shape->hidden = required(reader, "hidden_size", 1, 1 << 20);
    shape->n_layers = required(reader, "num_hidden_layers", 1, PLAN_MAX_LAYERS);
    shape->vocab = required(reader, "vocab_size", 1, 1 << 24);
    read_heads(reader, shape);
    read_moe(reader, shape);
    shape->window_tokens = optional(reader, "sliding_window", 1, 1 << 30, 512);
    shape->top_k = optional(reader, "index_topk", 1, 1 << 24, 2048);
    shape->index_dim = optional(reader, "index_head_dim", 1, 1 << 14, 128);
    shape->lightning_heads = optional(reader, "index_n_heads", 1, 1 << 12, 64);
    shape->rope_theta_global = read_theta(reader, "rope_theta", "full_attention", 1e4f);
    shape->rope_theta_window =
        read_theta(reader, "rope_local_base_freq", "sliding_attention", shape->rope_theta_global);
    shape->norm_eps = (float)number(reader, "rms_norm_eps", find(reader, "rms_norm_eps"), 0, 0.5, 1e-6);
    shape->tied_embeddings = truth(reader, "tie_word_embeddings", begins_with(family, "gemma"));
}

static enum dtype read_dtype(struct reader *reader, bool own)
{
    const json_t *quantization = find(reader, "quantization_config");
    const char *method = json_string_value(json_object_get(quantization, "quant_method"));
    if (method && strcmp(method, "fp8") == 0 && !own) {
        return DTYPE_FP8;
    }
    const char *key = either(reader, "torch_dtype", "dtype");
    const char *name = text(reader, key, "bfloat16");
    if (strcmp(name, "float32") == 0) {
        return DTYPE_F32;
    }
    if (strcmp(name, "bfloat16") != 0 && own) {
        reject(reader, key, find(reader, key), "\"bfloat16\" or \"float32\"");
    }
    return DTYPE_BF16;    // float16 too: as many bytes
}

// Which layers of a foreign model have a window.
static void read_windows(struct reader *reader, struct plan *plan, const char *family)
{
    const json_t *types = find(reader, "layer_types");
    int32_t n_layers = plan->shape.n_layers;
    if (!truth(reader, "use_sliding_window", !begins_with(family, "qwen") || types)) {
        return;
    }
    if (!types && !find(reader, "sliding_window")) {
        return;
    }
    if (types && json_array_size(types) != (size_t)n_layers) {
        reject(reader, "layer_types", types, "an array with one entry per layer");
        return;
    }
    // Gemma leaves its pattern unsaid: every second layer of Gemma 2, every sixth of Gemma 3 is full.
    int32_t unsaid = begins_with(family, "gemma2") ? 2 : begins_with(family, "gemma3") ? 6 : 0;
    int32_t every = optional(reader, "sliding_window_pattern", 1, PLAN_MAX_LAYERS, unsaid);
    int32_t first = optional(reader, "max_window_layers", 0, INT32_MAX, 0);
    for (int32_t l = 0; l < n_layers; l++) {
        bool window = every ? (l + 1) % every != 0 : l >= first;
        if (types) {
            const json_t *type = json_array_get(types, (size_t)l);
            const char *name = json_is_string(type) ? json_string_value(type) : "";
            window = strcmp(name, "sliding_attention") == 0;
            if (!window && strcmp(name, "full_attention") != 0) {
                reject(reader, "layer_types", type, "\"full_attention\" or \"sliding_attention\" for each layer");
                return;
            }
        }
        if (window) {
            required(reader, "sliding_window", 1, 1 << 30);
            plan->layers[l].attention = ATTENTION_WINDOW;
        }
    }
}

// Whether layer l of a model with DeepSeek's indexer runs one itself: as listed ("indexer_types", or F and S in
// "index_topk_pattern"), or every index_topk_freq-th layer after the first ones.
static bool runs_indexer(struct reader *reader, int32_t l)
{
    const json_t *types = find(reader, "indexer_types"), *pattern = find(reader, "index_topk_pattern");
    if (types) {
        const json_t *type = json_array_get(types, (size_t)l);
        const char *name = json_is_string(type) ? json_string_value(type) : "";
        if (strcmp(name, "full") != 0 && strcmp(name, "shared") != 0) {
            reject(reader, "indexer_types", types, "\"full\" or \"shared\" for each layer");
        }
        return strcmp(name, "full") == 0;
    }
    if (pattern) {
        const char *letters = text(reader, "index_topk_pattern", "");
        if (strspn(letters, "FS") != strlen(letters)) {
            reject(reader, "index_topk_pattern", pattern, "one letter per layer, F (own index) or S (shared)");
        }
        return (size_t)l >= strlen(letters) || letters[l] == 'F';
    }
    int32_t every = optional(reader, "index_topk_freq", 1, PLAN_MAX_LAYERS, 1);
    int32_t after = l + 1 - optional(reader, "index_skip_topk_offset", 0, PLAN_MAX_LAYERS, 2);
    return after <= 0 || after % every == 0;
}

static void read_indexers(struct reader *reader, struct plan *plan)
{
    if (!find(reader, "index_topk")) {
        return;
    }
    int32_t index_from = -1;
    for (int32_t l = 0; l < plan->shape.n_layers && !reader->error; l++) {
        if (plan->layers[l].attention != ATTENTION_FULL) {
            continue;
        }
        index_from = runs_indexer(reader, l) ? l : index_from;
        if (index_from < 0 && !reader->error) {
            reader->error = status_fail(-EINVAL, "%s: layer %d shares an index, but no layer below it makes one; "
                                        "expected \"index_topk_pattern\" to begin with F", reader->where, l);
        }
        plan->layers[l].attention = ATTENTION_SELECTED;
        plan->layers[l].index_from = index_from;
    }
    if (index_from < 0) {
        return;
    }
    plan->index = (struct index_spec){
        .score = INDEX_GATED_RELU,
        .heads = plan->shape.lightning_heads,
        .dim = plan->shape.index_dim,
        .key_dtype = DTYPE_FP8,
        .sets = 1,
        .unit_tokens = 1,
        .budget_tokens = plan->shape.top_k,
    };
}

static void finish(struct reader *reader, int error)
{
    if (error && !reader->error) {
        reader->error = status_prefix(error, "%s: ", reader->where);
    }
}

static void read_own(struct reader *reader, struct model_config *out)
{
    struct model_shape shape;
    read_shape(reader, &shape, "clsa");
    const char *backbone = text(reader, "clsa_backbone", "");
    bool yoco = strcmp(backbone, "yoco") == 0;
    if (!yoco && strcmp(backbone, "transformer") != 0) {
        reject(reader, "clsa_backbone", find(reader, "clsa_backbone"), "\"transformer\" or \"yoco\"");
    }
    shape.window_tokens = required(reader, "sliding_window", 1, 1 << 24);
    shape.top_k = required(reader, "clsa_top_k", 1, 1 << 24);
    shape.index_dim = required(reader, "clsa_index_dim", 1, 1 << 14);
    shape.index_local_tokens = optional(reader, "clsa_index_local", 0, 1 << 24, 0);
    shape.lightning_heads = required(reader, "clsa_lightning_heads", 1, 1 << 12);
    shape.rope_theta_window = read_theta(reader, "clsa_rope_theta_window", "", 1e4f);
    struct plan_options options = plan_options_default();
    options.weight_dtype = (int32_t)read_dtype(reader, true);
    if (!reader->error) {
        finish(reader, plan_build(&out->native, &shape, yoco ? "yoco" : "dense", &options));
        finish(reader, reader->error ? 0 : plan_check_runnable(&out->native));
    }
    out->runnable = true;
}

static void read_foreign(struct reader *reader, struct model_config *out, const char *family)
{
    struct model_shape shape;
    read_shape(reader, &shape, family);
    struct plan_options options = plan_options_default();
    options.weight_dtype = (int32_t)read_dtype(reader, false);
    if (reader->error) {
        return;
    }
    finish(reader, plan_build(&out->native, &shape, "dense", &options));
    if (reader->error) {
        return;
    }
    read_windows(reader, &out->native, family);
    read_indexers(reader, &out->native);
    strcpy(out->native.method, "native");
    if (!reader->error) {
        finish(reader, plan_check(&out->native));
    }
}

int model_config_parse(struct model_config *out, const char *config, size_t length, const char *where)
{
    json_error_t problem;
    json_t *root = json_loadb(config, length, JSON_REJECT_DUPLICATES, &problem);
    if (!root) {
        return status_fail(-EINVAL, "%s: line %d: %s", where, problem.line, problem.text);
    }
    struct reader reader = {.root = root, .inner = json_object_get(root, "text_config"), .where = where};
    if (!json_is_object(reader.inner)) {
        reader.inner = root;
    }
    struct model_config config_read = {.runnable = false};
    if (!json_is_object(root)) {
        reader.error = status_fail(-EINVAL, "%s: expected a JSON object with \"hidden_size\" and so on", where);
    } else {
        const char *family = text(&reader, "model_type", "");
        if (strcmp(family, "clsa") == 0) {
            read_own(&reader, &config_read);
        } else {
            read_foreign(&reader, &config_read, family);
        }
    }
    json_decref(root);
    if (!reader.error) {
        *out = config_read;
    }
    return reader.error;
}

// The number with the fewest digits that reads back as the same float: 1e-05, not 9.99999975e-06.
static json_t *shortest(float value)
{
    char digits[32];
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        if (strtof(digits, NULL) == value) {
            break;
        }
    }
    return json_real(strtod(digits, NULL));
}

int model_config_write(char **out, const struct model_shape *shape, enum dtype weight_dtype)
{
    json_t *root = json_pack(
        "{s:[s], s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}",
        "architectures", "ClsaForCausalLM", "model_type", "clsa", "_name_or_path", shape->name,
        "clsa_backbone", shape->backbone == BACKBONE_YOCO ? "yoco" : "transformer",
        "hidden_size", shape->hidden, "intermediate_size", shape->ffn, "num_hidden_layers", shape->n_layers,
        "num_attention_heads", shape->n_heads, "num_key_value_heads", shape->n_kv_heads, "head_dim", shape->head_dim,
        "vocab_size", shape->vocab, "sliding_window", shape->window_tokens, "clsa_top_k", shape->top_k,
        "clsa_index_dim", shape->index_dim, "clsa_index_local", shape->index_local_tokens, "clsa_lightning_heads",
        shape->lightning_heads);
    const struct {
        const char *key;
        json_t *value;
    } rest[] = {
        {"rope_theta", shortest(shape->rope_theta_global)},
        {"clsa_rope_theta_window", shortest(shape->rope_theta_window)},
        {"rms_norm_eps", shortest(shape->norm_eps)},
        {"tie_word_embeddings", json_boolean(shape->tied_embeddings)},
        {"torch_dtype", json_string(weight_dtype == DTYPE_F32 ? "float32" : "bfloat16")},
    };
    bool complete = root != NULL;
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) {
        complete = json_object_set_new(root, rest[i].key, rest[i].value) == 0 && complete;
    }
    *out = complete ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    return *out ? 0 : status_fail(-ENOMEM, "out of memory for config.json");
}
