// tests/test_model_config.c - config.json of many families: sizes that are known, plans that hold, and wrong keys.
//
// Parameter counts are the published ones (total, without multi-token prediction and vision).
#include <errno.h>

#include "engine/cost.h"
#include "engine/model_config.h"
#include "engine/status.h"
#include "tests/check.h"

enum { TEXT_BYTES = 1 << 16 };

static char *read_config(const char *name)
{
    static char text[TEXT_BYTES];
    char path[256];
    snprintf(path, sizeof path, "tests/data/config/%s", name);
    FILE *stream = fopen(path, "rb");
    size_t length = stream ? fread(text, 1, sizeof text - 1, stream) : 0;
    CHECK_MESSAGE(length > 0, "%s: cannot read", path);
    if (stream) {
        fclose(stream);
    }
    text[length] = 0;
    return text;
}

static int parse(struct model_config *config, const char *text)
{
    return model_config_parse(config, text, strlen(text), "some/config.json");
}

static struct model_config load(const char *name)
{
    struct model_config config;
    memset(&config, 0xa5, sizeof config);
    int error = parse(&config, read_config(name));
    CHECK_MESSAGE(error == 0, "%s: %s", name, status_text());
    if (error) {
        exit(check_end());
    }
    CHECK_MESSAGE(plan_check(&config.native) == 0, "%s: %s", name, status_text());
    // Every method must be priceable over this shape; page bounds are not for latent attention.
    for (int32_t i = 0; i < plan_method_count(); i++) {
        struct plan plan;
        bool impossible = config.native.shape.mla.kv_lora_rank && strcmp(plan_method(i)->name, "quest") == 0;
        error = plan_build(&plan, &config.native.shape, plan_method(i)->name, NULL);
        CHECK_MESSAGE(impossible ? error == -EINVAL : error == 0, "%s as %s: %s", name, plan_method(i)->name,
                      status_text());
    }
    return config;
}

static void check_parameters(const char *name, const struct plan *plan, double expected, double tolerance)
{
    double got = (double)plan_parameters(plan);
    CHECK_MESSAGE(fabs(got - expected) <= tolerance * expected, "%s: %.4g parameters, expected %.4g", name, got,
                  expected);
}

static int32_t count_layers(const struct plan *plan, enum attention attention)
{
    int32_t n = 0;
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        n += plan->layers[l].attention == attention;
    }
    return n;
}

static void test_grouped_query(void)
{
    struct model_config config = load("llama-3.1-8b.json");
    const struct plan *plan = &config.native;
    CHECK(!config.runnable);
    CHECK(strcmp(plan->shape.name, "Llama-3.1-8B") == 0);
    CHECK(strcmp(plan->method, "native") == 0);
    CHECK(plan->shape.head_dim == 128 && plan->shape.n_kv_heads == 8 && plan->shape.rope_theta_global == 5e5f);
    CHECK(plan->weight_dtype == DTYPE_BF16 && !plan->shape.tied_embeddings);
    CHECK(count_layers(plan, ATTENTION_FULL) == 32);
    CHECK(plan_kv_bytes_per_token(plan) == 32 * 2 * 8 * 128 * 2);
    check_parameters("Llama 3.1 8B", plan, 8.03e9, 0.01);

    config = load("qwen2-window-like.json");
    CHECK(config.native.shape.tied_embeddings);
    CHECK(count_layers(&config.native, ATTENTION_WINDOW) == 7);
    CHECK(config.native.layers[20].attention == ATTENTION_FULL);
    CHECK(config.native.layers[21].attention == ATTENTION_WINDOW);
    check_parameters("Qwen2 1.5B", &config.native, 1.54e9, 0.01);
}

static void test_windows(void)
{
    struct model_config config = load("gemma-3-like.json");
    const struct plan *plan = &config.native;
    CHECK(plan->shape.hidden == 3840 && plan->shape.window_tokens == 1024 && plan->shape.tied_embeddings);
    CHECK(count_layers(plan, ATTENTION_FULL) == 8 && plan->layers[5].attention == ATTENTION_FULL);
    CHECK(plan->shape.rope_theta_window == 1e4f && plan->shape.rope_theta_global == 1e6f);
    CHECK(!plan_has_shared_memory(plan));
    check_parameters("Gemma 3 12B", plan, 11.77e9, 0.01);

    config = load("gpt-oss-like.json");
    CHECK(count_layers(&config.native, ATTENTION_WINDOW) == 12);
    CHECK(config.native.layers[0].attention == ATTENTION_WINDOW && config.native.shape.window_tokens == 128);
    CHECK(config.native.shape.moe.ffn == 2880 && config.native.shape.moe.n_active == 4);
    check_parameters("gpt-oss 20B", &config.native, 20.9e9, 0.01);
}

static void test_experts(void)
{
    struct model_config config = load("qwen3-30b-a3b.json");
    CHECK(config.native.shape.moe.n_experts == 128 && config.native.shape.moe.n_active == 8);
    CHECK(count_layers(&config.native, ATTENTION_FULL) == 48);
    check_parameters("Qwen3 30B A3B", &config.native, 30.5e9, 0.01);

    config = load("mixtral-8x7b.json");
    CHECK(config.native.shape.moe.ffn == 14336 && config.native.shape.moe.n_dense_layers == 0);
    check_parameters("Mixtral 8x7B", &config.native, 46.7e9, 0.01);
}

static void test_latent_attention(void)
{
    struct model_config config = load("deepseek-v3.2.json");
    const struct plan *plan = &config.native;
    CHECK(plan->shape.mla.q_lora_rank == 1536 && plan->shape.mla.kv_lora_rank == 512 && plan->shape.mla.v_dim == 128);
    CHECK(plan->shape.moe.n_dense_layers == 3 && plan->shape.moe.n_shared == 1);
    CHECK(plan->index.score == INDEX_GATED_RELU && plan->index.heads == 64 && plan->index.dim == 128);
    CHECK(plan->index.budget_tokens == 2048 && plan->index.key_dtype == DTYPE_FP8);
    CHECK(plan->weight_dtype == DTYPE_FP8);
    for (int32_t l = 0; l < 61; l++) {
        CHECK(plan_runs_indexer(plan, l));
    }
    // 512 latent + 64 rotary elements, and an fp8 index key with its scale.
    CHECK(plan_kv_bytes_per_token(plan) == 61 * (576 * 2 + 132));
    check_parameters("DeepSeek V3", plan, 671e9, 0.01);
}

// Layers 0, 1, 2, 6, 10, ... run an indexer: every 4th, counted from layer 2.
static void test_shared_indexes(void)
{
    struct model_config config = load("glm-5-like.json");
    const struct plan *plan = &config.native;
    int32_t n_indexers = 0;
    for (int32_t l = 0; l < 78; l++) {
        int32_t expected = l < 3 ? l : l - (l - 2) % 4;
        CHECK_MESSAGE(plan->layers[l].index_from == expected, "layer %d follows %d, expected %d", l,
                      plan->layers[l].index_from, expected);
        n_indexers += plan_runs_indexer(plan, l);
    }
    CHECK(n_indexers == 21);
    CHECK(plan->shape.head_dim == 256 && plan->shape.rope_theta_global == 8e6f && plan->index.heads == 32);
    check_parameters("GLM-5", plan, 744e9, 0.02);
}

static const char small[] = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 128, "
                            "\"num_hidden_layers\": 4, \"num_attention_heads\": 4, \"vocab_size\": 256%s}";

static int parse_small(struct model_config *config, const char *more)
{
    char text[4096];
    snprintf(text, sizeof text, small, more);
    return parse(config, text);
}

static void test_defaults(void)
{
    struct model_config config;
    CHECK(parse_small(&config, "") == 0);
    const struct model_shape *shape = &config.native.shape;
    CHECK(shape->n_kv_heads == 4 && shape->head_dim == 16 && shape->top_k == 2048 && shape->index_dim == 128);
    CHECK(shape->lightning_heads == 64 && shape->window_tokens == 512 && strcmp(shape->name, "llama") == 0);
    CHECK(parse_small(&config, ", \"index_topk\": 32, \"index_topk_pattern\": \"FSFS\"") == 0);
    CHECK(config.native.layers[1].index_from == 0 && config.native.layers[3].index_from == 2);
    CHECK(parse_small(&config, ", \"index_topk\": 32, "
                               "\"indexer_types\": [\"full\", \"shared\", \"shared\", \"full\"]") == 0);
    CHECK(config.native.layers[2].index_from == 0 && config.native.layers[3].index_from == 3);
    CHECK(parse_small(&config, ", \"sliding_window\": 16") == 0);
    CHECK(count_layers(&config.native, ATTENTION_WINDOW) == 4);
    CHECK(parse_small(&config, ", \"sliding_window\": 16, \"sliding_window_pattern\": 2") == 0);
    CHECK(count_layers(&config.native, ATTENTION_WINDOW) == 2);
    CHECK(parse_small(&config, ", \"rope_parameters\": {\"rope_theta\": 7e5}, \"dtype\": \"float32\"") == 0);
    CHECK(config.native.shape.rope_theta_global == 7e5f && config.native.weight_dtype == DTYPE_F32);
    CHECK(parse_small(&config, ", \"_name_or_path\": \"a/\\u001b[31mred\\u00e9\"") == 0);
    CHECK(strcmp(shape->name, "?[31mred??") == 0);
    CHECK(parse_small(&config, ", \"num_experts\": 8, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 32, "
                               "\"shared_expert_intermediate_size\": 128, \"mlp_only_layers\": [0, 1]") == 0);
    CHECK(shape->moe.n_shared == 4 && shape->moe.n_dense_layers == 2);
}

// Each is refused with -EINVAL, a text that has all `words` (separated by '|'), and leaves the result untouched.
static void expect_refusal(const char *text, const char *words)
{
    struct model_config config, before;
    memset(&config, 0x5a, sizeof config);
    before = config;
    char copy[512];
    int error = parse(&config, text);
    CHECK_MESSAGE(error == -EINVAL, "returned %d for %.200s", error, text);
    CHECK(memcmp(&config, &before, sizeof config) == 0);
    snprintf(copy, sizeof copy, "some/config.json: |%s", words);
    for (char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        CHECK_MESSAGE(strstr(status_text(), word) != NULL, "\"%s\" is not in: %s", word, status_text());
    }
}

static void expect_small_refusal(const char *more, const char *words)
{
    char text[4096];
    snprintf(text, sizeof text, small, more);
    expect_refusal(text, words);
}

static void test_refusals(void)
{
    expect_refusal("", "line");
    expect_refusal("[1, 2]", "JSON object");
    expect_refusal("{}", "\"hidden_size\" is missing; expected a whole number from 1 to 1048576");
    expect_refusal("{\"hidden_size\": -4}", "\"hidden_size\" is -4; expected a whole number from 1 to 1048576");
    expect_refusal("{\"hidden_size\": 64.0}", "\"hidden_size\" is 64.0");
    expect_refusal("{\"hidden_size\": \"64\"}", "\"hidden_size\" is \"64\"");
    expect_refusal("{\"hidden_size\": 99999999999999999999999}", "line 1");
    expect_refusal("{\"hidden_size\": 9223372036854775807}", "9223372036854775807; expected");
    expect_refusal("{\"hidden_size\": [[[[[[[[1]]]]]]]]}", "\"hidden_size\" is [[[");
    expect_refusal("{\"hidden_size\": 64, \"hidden_size\": 64}", "duplicate");
    expect_refusal("{\"hidden_size\": 64} x", "line 1");
    expect_refusal("{\"hidden_size\": 64, \"num_hidden_layers\": 257}", "\"num_hidden_layers\" is 257|256");
    expect_small_refusal(", \"num_key_value_heads\": 3", "\"num_key_value_heads\" is 3|divisor");
    expect_small_refusal(", \"head_dim\": 0", "\"head_dim\" is 0");
    expect_small_refusal(", \"head_dim\": 15", "even");
    expect_small_refusal(", \"rope_theta\": 1e999", "line 1");
    expect_small_refusal(", \"rope_theta\": -1", "\"rope_theta\" is -1");
    expect_small_refusal(", \"rms_norm_eps\": \"small\"", "\"rms_norm_eps\" is \"small\"");
    expect_small_refusal(", \"tie_word_embeddings\": 1", "\"tie_word_embeddings\" is 1|true or false");
    expect_small_refusal(", \"sliding_window\": -1", "\"sliding_window\" is -1");
    expect_small_refusal(", \"layer_types\": [\"full_attention\"]", "\"layer_types\"|one entry per layer");
    expect_small_refusal(", \"layer_types\": [\"full_attention\", \"mamba\", \"mamba\", \"mamba\"]", "\"mamba\"");
    expect_small_refusal(", \"layer_types\": [1, 2, 3, 4]", "\"layer_types\" is 1");
    expect_small_refusal(", \"index_topk\": 0", "\"index_topk\" is 0");
    expect_small_refusal(", \"index_topk\": 32, \"index_topk_pattern\": \"SFFF\"", "layer 0|begin with F");
    expect_small_refusal(", \"index_topk\": 32, \"index_topk_pattern\": \"FXFF\"", "\"FXFF\"");
    expect_small_refusal(", \"index_topk\": 32, \"indexer_types\": [\"full\"]", "\"indexer_types\"");
    expect_small_refusal(", \"index_topk\": 32, \"index_topk_freq\": 0", "\"index_topk_freq\" is 0");
    expect_small_refusal(", \"index_topk\": 32, \"index_head_dim\": 6", "multiple of 4");
    expect_small_refusal(", \"num_experts\": 8", "\"experts_per_token\" is missing");
    expect_small_refusal(", \"num_experts\": 8, \"num_experts_per_tok\": 9", "\"num_experts_per_tok\" is 9|1 to 8");
    expect_small_refusal(", \"num_experts\": 8, \"num_experts_per_tok\": 2, \"mlp_only_layers\": [3]", "first layers");
    expect_small_refusal(", \"num_experts\": 8, \"num_experts_per_tok\": 2, \"decoder_sparse_step\": 2",
                         "\"decoder_sparse_step\" is 2");
    expect_small_refusal(", \"kv_lora_rank\": 32", "\"qk_");
    expect_small_refusal(", \"model_type\": \"clsa\"", "duplicate");
    expect_refusal("{\"model_type\": \"clsa\", \"hidden_size\": 64, \"intermediate_size\": 8, "
                   "\"num_hidden_layers\": 4, \"num_attention_heads\": 4, \"vocab_size\": 256}",
                   "\"clsa_backbone\" is missing|yoco");
    // Each size is allowed, the product is not.
    expect_refusal("{\"hidden_size\": 1048576, \"intermediate_size\": 4194304, \"num_hidden_layers\": 256, "
                   "\"num_attention_heads\": 4096, \"head_dim\": 16384, \"vocab_size\": 16777216}", "parameters");
}

static void test_own_models(void)
{
    for (int i = 0; i < 200; i++) {
        struct model_shape shape = *plan_model(check_range(0, plan_model_count() - 1));
        shape.backbone = check_range(0, 1) ? BACKBONE_YOCO : BACKBONE_TRANSFORMER;
        shape.hidden = check_range(1, 5000);
        shape.ffn = check_range(1, 5000);
        shape.n_layers = check_range(2, 64);
        shape.n_kv_heads = check_range(1, 8);
        shape.n_heads = shape.n_kv_heads * check_range(1, 5);
        shape.head_dim = 2 * check_range(1, 128);
        shape.vocab = check_range(1, 1 << 20);
        shape.window_tokens = check_range(1, 1 << 20);
        shape.top_k = check_range(1, 1 << 20);
        shape.index_local_tokens = check_range(0, 1 << 20);
        shape.rope_theta_window = expf((float)check_uniform() * 10);
        shape.rope_theta_global = expf((float)check_uniform() * 20);
        shape.norm_eps = expf(-(float)check_uniform() * 20 - 1);
        shape.tied_embeddings = check_range(0, 1);
        enum dtype dtype = check_range(0, 1) ? DTYPE_BF16 : DTYPE_F32;
        char *text;
        struct model_config config;
        CHECK(model_config_write(&text, &shape, dtype) == 0);
        CHECK_MESSAGE(parse(&config, text) == 0, "%s", status_text());
        const struct model_shape *got = &config.native.shape;
        CHECK(config.runnable && config.native.weight_dtype == dtype);
        CHECK(strcmp(config.native.method, shape.backbone == BACKBONE_YOCO ? "yoco" : "dense") == 0);
        CHECK(strcmp(got->name, shape.name) == 0 && got->backbone == shape.backbone && got->hidden == shape.hidden);
        CHECK(got->ffn == shape.ffn && got->n_layers == shape.n_layers && got->n_heads == shape.n_heads);
        CHECK(got->n_kv_heads == shape.n_kv_heads && got->head_dim == shape.head_dim && got->vocab == shape.vocab);
        CHECK(got->window_tokens == shape.window_tokens && got->top_k == shape.top_k);
        CHECK(got->index_dim == shape.index_dim && got->lightning_heads == shape.lightning_heads);
        CHECK(got->index_local_tokens == shape.index_local_tokens);
        CHECK(got->tied_embeddings == shape.tied_embeddings);
        // Floats come back as the same bits.
        CHECK(got->rope_theta_window == shape.rope_theta_window && got->rope_theta_global == shape.rope_theta_global);
        CHECK(got->norm_eps == shape.norm_eps);
        free(text);
    }
}

int main(void)
{
    check_begin();
    test_grouped_query();
    test_windows();
    test_experts();
    test_latent_attention();
    test_shared_indexes();
    test_defaults();
    test_refusals();
    test_own_models();
    return check_end();
}
