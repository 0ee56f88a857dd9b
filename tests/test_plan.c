// tests/test_plan.c - presets as documented, what options change, and that no impossible plan passes.
#include "engine/cost.h"
#include "engine/status.h"
#include "tests/check.h"

#include <errno.h>
#include <stddef.h>

static struct plan build(const char *model, const char *method, const struct plan_options *options)
{
    struct plan plan = {0};
    CHECK_MESSAGE(plan_build(&plan, plan_find_model(model), method, options) == 0, "%s", status_text());
    return plan;
}

static void test_tables(void)
{
    CHECK(plan_method_count() == 10 && plan_model_count() == 4);
    for (int32_t i = 0; i < plan_method_count(); i++) {
        const struct method_info *method = plan_method(i);
        CHECK(plan_find_method(method->name) == method && strlen(method->summary) > 10);
        const struct method_info *dense = plan_find_method(method->dense_form);
        CHECK(dense && dense->backbone == method->backbone);
    }
    for (int32_t i = 0; i < plan_model_count(); i++) {
        CHECK(plan_find_model(plan_model(i)->name) == plan_model(i));
    }
    CHECK(!plan_find_method("clsb") && !plan_find_model("demo") && !plan_method(10) && !plan_model(-1));
}

// Each layer as "attention:keys:index"; F, W or S.
static void check_layers(const struct plan *plan, const char *expected)
{
    char text[512];
    int length = 0;
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        const struct layer_plan *layer = &plan->layers[l];
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%c:%d:%d", l ? " " : "",
                           "FWS"[layer->attention], layer->kv_from, layer->index_from);
    }
    CHECK_MESSAGE(strcmp(text, expected) == 0, "%s: layers are %s, expected %s", plan->method, text, expected);
}

static void test_layers(void)
{
    const struct {
        const char *method, *layers;
    } expected[] = {
        {"dense", "F:0:-1 F:1:-1 F:2:-1 F:3:-1 F:4:-1 F:5:-1 F:6:-1 F:7:-1"},
        {"yoco", "W:0:-1 W:1:-1 W:2:-1 W:3:-1 F:3:-1 F:3:-1 F:3:-1 F:3:-1"},
        {"block", "S:0:0 S:1:1 S:2:2 S:3:3 S:4:4 S:5:5 S:6:6 S:7:7"},
        {"token", "S:0:0 S:1:1 S:2:2 S:3:3 S:4:4 S:5:5 S:6:6 S:7:7"},
        {"dsa", "S:0:0 S:1:1 S:2:2 S:3:3 S:4:4 S:5:5 S:6:6 S:7:7"},
        {"indexcache", "S:0:0 S:1:0 S:2:0 S:3:0 S:4:4 S:5:4 S:6:4 S:7:4"},
        {"clsa", "W:0:-1 W:1:-1 W:2:-1 W:3:-1 S:3:4 S:3:4 S:3:4 S:3:4"},
        {"clsa-block", "W:0:-1 W:1:-1 W:2:-1 W:3:-1 S:3:4 S:3:4 S:3:4 S:3:4"},
        {"yoco-token", "W:0:-1 W:1:-1 W:2:-1 W:3:-1 S:3:4 S:3:5 S:3:6 S:3:7"},
        {"quest", "F:0:-1 F:1:-1 S:2:2 S:3:3 S:4:4 S:5:5 S:6:6 S:7:7"},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct plan plan = build("demo-8m", expected[i].method, NULL);
        check_layers(&plan, expected[i].layers);
        bool yoco = plan.layers[0].attention == ATTENTION_WINDOW;
        CHECK(plan_has_shared_memory(&plan) == yoco && plan_memory_layer(&plan) == (yoco ? 3 : -1));
        CHECK(plan_first_cross_layer(&plan) == (yoco ? 4 : 8) && plan_group(&plan) == 4);
    }
}

static void test_index_specs(void)
{
    const struct {
        const char *model, *method;
        enum index_score score;
        int32_t heads, dim, sets, unit, budget, local;
        enum dtype dtype;
    } expected[] = {
        {"paper-4b", "clsa", INDEX_DOT, 1, 128, 1, 1, 2048, 0, DTYPE_BF16},
        {"paper-4b", "block", INDEX_DOT, 4, 128, 4, 128, 2048, 1, DTYPE_BF16},
        {"paper-4b", "clsa-block", INDEX_DOT, 1, 128, 1, 128, 2048, 1, DTYPE_BF16},
        {"paper-4b", "dsa", INDEX_GATED_RELU, 64, 128, 1, 1, 2048, 0, DTYPE_FP8},
        {"paper-4b", "quest", INDEX_PAGE_BOUND, 20, 128, 20, 16, 2048, 0, DTYPE_BF16},
        {"bench-100m", "block", INDEX_DOT, 4, 64, 4, 64, 1024, 1, DTYPE_BF16},
        {"demo-8m", "block", INDEX_DOT, 2, 32, 2, 16, 256, 1, DTYPE_BF16},
        {"demo-8m", "quest", INDEX_PAGE_BOUND, 8, 32, 8, 16, 256, 0, DTYPE_BF16},
        {"tiny", "block", INDEX_DOT, 2, 16, 2, 4, 16, 1, DTYPE_BF16},
        {"tiny", "quest", INDEX_PAGE_BOUND, 4, 16, 4, 4, 16, 0, DTYPE_BF16},
        {"tiny", "dsa", INDEX_GATED_RELU, 4, 16, 1, 1, 16, 0, DTYPE_FP8},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct plan plan = build(expected[i].model, expected[i].method, NULL);
        const struct index_spec *index = &plan.index;
        CHECK_MESSAGE(index->score == expected[i].score && index->heads == expected[i].heads &&
                          index->dim == expected[i].dim && index->sets == expected[i].sets &&
                          index->unit_tokens == expected[i].unit && index->budget_tokens == expected[i].budget &&
                          index->keep_local_units == expected[i].local && index->key_dtype == expected[i].dtype,
                      "%s, %s: heads %d, dim %d, sets %d, unit %d, budget %d", expected[i].model, expected[i].method,
                      index->heads, index->dim, index->sets, index->unit_tokens, index->budget_tokens);
        CHECK(plan_budget_units(&plan) * index->unit_tokens == index->budget_tokens);
    }
    struct plan clsa = build("tiny", "clsa", NULL), token = build("tiny", "yoco-token", NULL);
    CHECK(clsa.index.query_from == HIDDEN_SHARED_MEMORY && clsa.index.key_from == HIDDEN_SHARED_MEMORY);
    CHECK(token.index.query_from == HIDDEN_LAYER_INPUT && token.index.key_from == HIDDEN_SHARED_MEMORY);
}

// Every preset runs at every size, and at sizes that are nobody's.
static void test_any_size(void)
{
    for (int i = 0; i < 400; i++) {
        int32_t n_kv_heads = check_range(1, 5);
        struct model_shape shape = *plan_model(check_range(0, plan_model_count() - 1));
        if (i % 2) {
            shape.n_kv_heads = n_kv_heads;
            shape.n_heads = n_kv_heads * check_range(1, 5);
            shape.n_layers = check_range(2, 40);
            shape.top_k = check_range(1, 3000);
            shape.head_dim = 2 * check_range(1, 80);
            shape.window_tokens = check_range(1, 600);
        }
        for (int32_t m = 0; m < plan_method_count(); m++) {
            struct plan plan = {0};
            int error = plan_build(&plan, &shape, plan_method(m)->name, NULL);
            CHECK_MESSAGE(!error && plan_check_runnable(&plan) == 0, "%s", status_text());
            CHECK(plan.shape.backbone == plan_method(m)->backbone && plan.page_tokens >= 64);
            CHECK(!plan.index.budget_tokens || plan.page_tokens % plan.index.unit_tokens == 0);
        }
    }
}

static void test_options(void)
{
    struct plan_options options = plan_options_default();
    options.index_every = 3;
    struct plan plan = build("demo-8m", "clsa", &options);
    check_layers(&plan, "W:0:-1 W:1:-1 W:2:-1 W:3:-1 S:3:4 S:3:4 S:3:4 S:3:7");
    plan = build("demo-8m", "quest", &options);
    check_layers(&plan, "F:0:-1 F:1:-1 S:2:2 S:3:2 S:4:2 S:5:5 S:6:5 S:7:5");
    options = plan_options_default();
    options.top_k = 96;
    options.block_tokens = 24;
    options.window_tokens = 5;
    options.keep_local = 2;
    options.keep_sink = 1;
    options.index_dim = 8;
    options.index_heads = 8;
    options.index_dtype = DTYPE_FP8;
    options.weight_dtype = DTYPE_F32;
    options.kv_dtype = DTYPE_F32;
    plan = build("demo-8m", "block", &options);
    CHECK(plan.index.budget_tokens == 96 && plan.index.unit_tokens == 24 && plan_budget_units(&plan) == 4);
    CHECK(plan.index.keep_local_units == 2 && plan.index.keep_sink_units == 1);
    CHECK(plan.index.dim == 8 && plan.index.heads == 8 && plan.index.sets == 8 && plan.index.key_dtype == DTYPE_FP8);
    CHECK(plan.weight_dtype == DTYPE_F32 && plan.kv_dtype == DTYPE_F32 && plan.page_tokens == 72);
    plan = build("demo-8m", "quest", &options);    // its heads are the attention's
    CHECK(plan.index.heads == 8 && plan.index.dim == 32 && plan.index.sets == 8);
    plan = build("demo-8m", "yoco", &options);     // nothing to select, but a window
    CHECK(plan.shape.window_tokens == 5 && plan.index.budget_tokens == 0 && plan_budget_units(&plan) == 0);
    options = plan_options_default();
    options.page_tokens = 8;
    plan = build("demo-8m", "block", &options);    // two pages hold a block
    CHECK(plan.page_tokens == 8 && plan.index.unit_tokens == 16);
}

// Indexers that were trained without the newest tokens: those are kept, in whole units and within half of the budget.
static void test_index_local(void)
{
    struct model_shape shape = *plan_find_model("demo-8m");
    shape.index_local_tokens = 40;
    static const struct {
        const char *method;
        int32_t top_k, block_tokens, units;
    } expected[] = {{"token", 0, 0, 40},  {"token", 64, 0, 32}, {"indexcache", 0, 0, 40},  {"block", 0, 0, 3},
                    {"block", 64, 32, 1}, {"block", 32, 32, 1}, {"block", 128, 8, 5},      {"dsa", 0, 0, 0},
                    {"quest", 0, 0, 0},   {"clsa", 20, 0, 10},  {"clsa-block", 256, 16, 3}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct plan_options options = plan_options_default();
        options.top_k = expected[i].top_k;
        options.block_tokens = expected[i].block_tokens;
        struct plan plan;
        CHECK_MESSAGE(plan_build(&plan, &shape, expected[i].method, &options) == 0, "%s", status_text());
        CHECK_MESSAGE(plan.index.keep_local_units == expected[i].units, "%s, %d by %d: keeps %d units, expected %d",
                      expected[i].method, expected[i].top_k, expected[i].block_tokens, plan.index.keep_local_units,
                      expected[i].units);
        options.keep_local = 0;
        CHECK(plan_build(&plan, &shape, expected[i].method, &options) == 0 && plan.index.keep_local_units == 0);
    }
}

static void check_refused(const char *model, const char *method, const struct plan_options *options, const char *says)
{
    struct plan plan, before;
    memset(&plan, 0x5a, sizeof plan);
    before = plan;
    CHECK(plan_build(&plan, plan_find_model(model), method, options) == -EINVAL);
    CHECK_MESSAGE(strstr(status_text(), says), "\"%s\" does not say \"%s\"", status_text(), says);
    CHECK(memcmp(&plan, &before, sizeof plan) == 0);
}

static void test_refused_options(void)
{
    check_refused("tiny", "clsb", NULL, "clsa-block");
    struct plan_options options = plan_options_default();
    options.top_k = 100;
    check_refused("demo-8m", "block", &options, "96 or 112");
    check_refused("paper-4b", "block", &options, "at least 128");
    options.top_k = -1;
    check_refused("tiny", "clsa", &options, "top-k");
    options = plan_options_default();
    options.keep_local = 20;
    check_refused("tiny", "token", &options, "holds only 16");
    options = plan_options_default();
    options.index_every = -1;
    check_refused("tiny", "token", &options, "index_every");
    options = plan_options_default();
    options.index_heads = 3;    // of 4 heads in 2 groups
    check_refused("tiny", "block", &options, "index.sets");
    options = plan_options_default();
    options.index_dim = 6;
    check_refused("tiny", "dsa", &options, "multiple of 4");
    options = plan_options_default();
    options.page_tokens = 24;
    check_refused("demo-8m", "block", &options, "page");
    options = plan_options_default();
    options.window_tokens = -7;
    check_refused("tiny", "yoco", &options, "window_tokens");
    options = plan_options_default();
    options.kv_dtype = 9;
    check_refused("tiny", "yoco", &options, "kv_dtype");
}

static void expect_refused(const struct plan *plan, const char *says)
{
    CHECK(plan_check(plan) == -EINVAL);
    CHECK_MESSAGE(strstr(status_text(), says), "\"%s\" does not say \"%s\"", status_text(), says);
}

// One thing wrong at a time.
#define REFUSED(method, field, value, says)                                                                            \
    do {                                                                                                               \
        struct plan wrong = build("demo-8m", method, NULL);                                                            \
        wrong.field = value;                                                                                           \
        expect_refused(&wrong, says);                                                                                  \
    } while (0)

static void test_refused_plans(void)
{
    REFUSED("dense", shape.hidden, 0, "hidden");
    REFUSED("dense", shape.n_layers, PLAN_MAX_LAYERS + 1, "n_layers");
    REFUSED("dense", shape.n_kv_heads, 3, "multiple of n_kv_heads");
    REFUSED("dense", shape.head_dim, 33, "even");
    REFUSED("dense", shape.vocab, INT32_MAX, "vocab");
    REFUSED("yoco", shape.window_tokens, 0, "window_tokens");
    REFUSED("yoco", shape.backbone, BACKBONE_TRANSFORMER, "YOCO");
    REFUSED("dense", shape.backbone, BACKBONE_YOCO, "YOCO");
    REFUSED("dense", layers[3].kv_from, 4, "kv_from");
    REFUSED("dense", layers[3].kv_from, -1, "kv_from");
    REFUSED("dense", layers[3].index_from, 3, "index_from");
    REFUSED("token", layers[3].index_from, 4, "index_from");
    REFUSED("token", layers[3].index_from, -1, "index_from");
    REFUSED("indexcache", layers[7].index_from, 6, "no indexer");
    REFUSED("yoco", layers[5].kv_from, 4, "has none");
    REFUSED("yoco", layers[5].kv_from, 2, "memory");
    REFUSED("yoco", layers[3].attention, ATTENTION_FULL, "YOCO");    // the memory belongs to a window layer
    REFUSED("clsa", layers[5].kv_from, 5, "memory");
    REFUSED("clsa", index.key_from, HIDDEN_LAYER_INPUT, "index keys");
    REFUSED("token", index.key_from, HIDDEN_SHARED_MEMORY, "index keys");
    REFUSED("token", index.query_from, HIDDEN_SHARED_MEMORY, "index queries");
    REFUSED("token", index.budget_tokens, 0, "top-k");
    REFUSED("dense", index.budget_tokens, 16, "no layer selects");
    REFUSED("block", index.budget_tokens, 250, "240 or 256");
    REFUSED("block", index.unit_tokens, 0, "unit_tokens");
    REFUSED("token", index.sets, 3, "index.sets");
    REFUSED("token", index.sets, 2, "one set per head");
    REFUSED("dsa", index.sets, 8, "gated");
    REFUSED("quest", index.heads, 4, "page bounds");
    REFUSED("quest", layers[4].kv_from, 3, "page bounds");
    REFUSED("token", page_tokens, 0, "page_tokens");
    REFUSED("dense", weight_dtype, DTYPE_COUNT, "weight_dtype");
    REFUSED("dense", shape.mla.nope_dim, 64, "mla.nope_dim");
    REFUSED("dense", shape.moe.n_experts, 4, "moe.n_active");
    struct plan large = build("demo-8m", "dense", NULL);
    large.shape.hidden = large.shape.ffn = 1 << 20;
    large.shape.n_layers = 200;
    for (int32_t l = 0; l < 200; l++) {
        large.layers[l] = (struct layer_plan){ATTENTION_FULL, l, -1};
    }
    CHECK(plan_check(&large) == 0);    // enormous, but every count fits
    large.shape.ffn = 1 << 22;
    expect_refused(&large, "parameters");
}

static void test_runnable(void)
{
    struct plan plan = build("demo-8m", "dense", NULL);
    plan.weight_dtype = DTYPE_FP8;
    CHECK(plan_check(&plan) == 0 && plan_check_runnable(&plan) == -EINVAL && strstr(status_text(), "fp8"));
    plan = build("demo-8m", "dense", NULL);
    plan.kv_dtype = DTYPE_FP8;
    CHECK(plan_check_runnable(&plan) == 0);
    plan = build("demo-8m", "dense", NULL);
    plan.layers[2].attention = ATTENTION_WINDOW;
    CHECK(plan_check(&plan) == 0 && plan_check_runnable(&plan) == -EINVAL && strstr(status_text(), "window"));
    plan = build("demo-8m", "dense", NULL);
    plan.shape.rope_theta_global = NAN;
    CHECK(plan_check(&plan) == 0 && plan_check_runnable(&plan) == -EINVAL && strstr(status_text(), "rope_theta"));
}

// Random words in valid plans: whatever passes can be priced without overflow or a wild read (the sanitizers watch).
static void test_damaged_plans(void)
{
    const int32_t wild[] = {0, 1, -1, 2, 3, 7, 255, 256, 1 << 16, 1 << 20, 1 << 24, 1 << 30, INT32_MAX, INT32_MIN};
    int32_t passed = 0;
    for (int i = 0; i < 20000; i++) {
        const char *method = plan_method(check_range(0, plan_method_count() - 1))->name;
        struct plan plan = build("tiny", method, NULL);
        for (int32_t n = check_range(1, 3); n > 0; n--) {
            int32_t words = (int32_t)(sizeof plan / 4), near = (int32_t)(offsetof(struct plan, layers) / 4) + 12;
            int32_t word = check_range(PLAN_NAME_BYTES / 2, check_range(0, 1) ? near : words - 1);
            if (word != (int32_t)(offsetof(struct plan, shape.tied_embeddings) / 4)) {    // any other byte is no bool
                memcpy((char *)&plan + 4 * (int64_t)word, &wild[check_range(0, 13)], 4);
            }
        }
        if (plan_check(&plan) == 0) {
            struct work work = {check_range(0, 1 << 20), check_range(1, 1 << 16), 1};
            struct stage_cost cost = step_cost(&plan, &work, 1);
            CHECK(cost.bytes >= 0 && cost.flops >= 0 && plan_weight_bytes(&plan) > 0);
            CHECK(plan_kv_bytes_per_token(&plan) >= 0 && plan_kv_bytes_per_sequence(&plan) >= 0);
            passed++;
        } else {
            CHECK(status_text()[0]);
        }
    }
    CHECK_MESSAGE(passed > 100 && passed < 19000, "%d of 20000 damaged plans passed", passed);
}

int main(void)
{
    check_begin();
    test_tables();
    test_layers();
    test_index_specs();
    test_any_size();
    test_options();
    test_index_local();
    test_refused_options();
    test_refused_plans();
    test_runnable();
    test_damaged_plans();
    return check_end();
}
