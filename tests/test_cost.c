// tests/test_cost.c - the cost model against figures worked out elsewhere: the geometry of arXiv 2606.06467, published
// sizes of DeepSeek-V3, and work so large that 64 bits do not hold it.
#include "engine/cost.h"
#include "engine/status.h"
#include "tests/check.h"

#include <errno.h>

enum { MAX_SEQS = 32, CONTEXT = 131072 };

static struct plan paper_plan(const char *method)
{
    struct plan plan;
    if (plan_build(&plan, plan_find_model("paper-4b"), method, NULL) != 0) {
        fprintf(stderr, "%s\n", status_text());
        exit(1);
    }
    return plan;
}

static void check_near(const char *what, double got, double expected, double relative)
{
    CHECK_MESSAGE(fabs(got - expected) <= relative * expected, "%s: got %.6g, expected %.6g", what, got, expected);
}

static struct stage_cost decode_step(const struct plan *plan, int32_t n_seqs, int32_t context)
{
    struct work work[MAX_SEQS];
    for (int32_t s = 0; s < n_seqs; s++) {
        work[s] = (struct work){context - 1, 1, 1};
    }
    return step_cost(plan, work, n_seqs);
}

static void test_weights(void)
{
    struct plan dense = paper_plan("dense"), clsa = paper_plan("clsa");
    const double self = 74.71104e6, cross = 72.08960e6, memory = 2.62144e6, head = 131072.0 * 2560;
    const double indexer = 2560 * 128 * 2;
    CHECK(plan_parameters(&dense) == (int64_t)(32 * self + 2 * head + 0.5));
    CHECK(plan_parameters(&clsa) == (int64_t)(16 * self + 16 * cross + memory + indexer + 2 * head + 0.5));
    CHECK(plan_weight_bytes(&clsa) == 2 * plan_parameters(&clsa));
    clsa.shape.tied_embeddings = true;
    CHECK(plan_parameters(&clsa) == (int64_t)(16 * self + 16 * cross + memory + indexer + head + 0.5));
}

static void test_cache(void)
{
    const struct {
        const char *method;
        int64_t per_token, per_sequence;
    } expected[] = {
        {"dense", 65536, 0},
        {"yoco", 2048, 16 * 512 * 2048},
        {"clsa", 2304, 16 * 512 * 2048},
        {"clsa-block", 2304, 16 * 512 * 2048},
        {"yoco-token", 2048 + 16 * 256, 16 * 512 * 2048},
        {"block", 73728, 0},
        {"token", 73728, 0},
        {"dsa", 32 * (2048 + 132), 0},
        {"indexcache", 67584, 0},
        {"quest", 65536 + 30 * 2 * 4 * 128 * 4 / 16, 0},    // f32 bounds
    };
    CHECK(sizeof expected / sizeof *expected == (size_t)plan_method_count());
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct plan plan = paper_plan(expected[i].method);
        CHECK_MESSAGE(plan_kv_bytes_per_token(&plan) == expected[i].per_token, "%s: %lld bytes per token, not %lld",
                      plan.method, (long long)plan_kv_bytes_per_token(&plan), (long long)expected[i].per_token);
        CHECK(plan_kv_bytes_per_sequence(&plan) == expected[i].per_sequence);
    }
    struct plan clsa = paper_plan("clsa");
    clsa.index.key_dtype = DTYPE_FP8;
    CHECK(plan_kv_bytes_per_token(&clsa) == 2180);
}

// At 3.15e12 bytes a second.
// Rows of a step have their scores at once, up to a tile; one row has them whatever the tile.
static void test_scores(void)
{
    struct plan dense = paper_plan("dense"), token = paper_plan("token"), clsa = paper_plan("clsa");
    const int64_t tile = DEVICE_SCORE_TILE_BYTES, row = 4 * (131072 + SCORE_ALIGNMENT);
    CHECK(plan_score_bytes(&dense, 8192, 32, 131072, tile) == 0);
    CHECK(plan_score_bytes(&token, 8192, 32, 131072, tile) == tile);
    CHECK(plan_score_bytes(&token, 100, 32, 131072, tile) == 100 * row);
    CHECK(plan_score_bytes(&token, 8192, 32, 131072, 4096) == row);
    CHECK(plan_score_bytes(&clsa, 8192, 32, 131072, tile) == 32 * row);    // cross layers run for those alone
    struct plan block = paper_plan("block");
    CHECK(plan_score_bytes(&block, 7, 1, 1000, tile) ==
          7 * 4 * (int64_t)block.index.sets * (plan_units(&block, 1000) + SCORE_ALIGNMENT));
}

static void test_decode_steps(void)
{
    const struct {
        const char *method;
        int32_t n_seqs;
        double ms;
    } expected[] = {{"clsa", 1, 1.74}, {"clsa", 8, 2.01}, {"clsa", 32, 2.92}, {"dense", 8, 23.6}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct plan plan = paper_plan(expected[i].method);
        double ms = (double)decode_step(&plan, expected[i].n_seqs, CONTEXT).bytes / 3.15e12 * 1e3;
        check_near(expected[i].method, ms, expected[i].ms, 0.004);
    }
}

static void test_decode_stages(void)
{
    struct plan clsa = paper_plan("clsa"), dense = paper_plan("dense"), block = paper_plan("block");
    struct work work = {CONTEXT - 1, 1, 1};
    struct stage_cost cost;
    CHECK(stage_cost(&cost, &dense, STAGE_ATTENTION, 5, &work, 1) == 0);
    CHECK(cost.bytes == (int64_t)CONTEXT * 2048 && cost.flops == (int64_t)CONTEXT * 4 * 2560);
    CHECK(stage_cost(&cost, &clsa, STAGE_ATTENTION, 20, &work, 1) == 0);
    CHECK(cost.bytes == 2048 * 2048 + 4 * 2048 && cost.flops == 2048 * 4 * 2560);
    CHECK(stage_cost(&cost, &clsa, STAGE_WINDOW_ATTENTION, 3, &work, 1) == 0);
    CHECK(cost.bytes == 512 * 2048);
    CHECK(stage_cost(&cost, &clsa, STAGE_INDEX_SCORE, 16, &work, 1) == 0);
    CHECK(cost.bytes == (int64_t)CONTEXT * (256 + 4) && cost.flops == (int64_t)CONTEXT * 256);
    CHECK(stage_cost(&cost, &clsa, STAGE_INDEX_SELECT, 16, &work, 1) == 0);
    CHECK(cost.bytes == 4 * (CONTEXT + 2048));
    CHECK(stage_cost(&cost, &clsa, STAGE_INDEX_SCORE, 17, &work, 1) == 0);
    CHECK(cost.bytes == 0 && cost.flops == 0);
    CHECK(stage_cost(&cost, &block, STAGE_INDEX_SELECT, 9, &work, 1) == 0);
    CHECK(cost.bytes == 4 * 4 * (CONTEXT / 128 + 16));
}

static void test_prefill(void)
{
    const struct {
        const char *method;
        int32_t tokens;
        double flops, relative;
    } expected[] = {
        {"dense", CONTEXT, 3.44e15, 0.002}, {"yoco", CONTEXT, 3.25e14, 0.002},
        {"dense", 32768, 3.33e14, 0.002},   {"yoco", 32768, 8.1e13, 0.006},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct plan plan = paper_plan(expected[i].method);
        struct work work = {0, expected[i].tokens, 1};
        double flops = (double)step_cost(&plan, &work, 1).flops;
        check_near(expected[i].method, flops, expected[i].flops, expected[i].relative);
    }
}

// Chunks of a prompt compute what the whole prompt does, and all rows through all layers cost more.
static void test_chunks(void)
{
    for (int32_t m = 0; m < plan_method_count(); m++) {
        struct plan plan = paper_plan(plan_method(m)->name);
        int32_t prompt = check_range(2000, 5000), cut = check_range(1, prompt - 1);
        struct work whole = {0, prompt, 1}, all = {0, prompt, prompt};
        struct work begin = {0, cut, 0}, end = {cut, prompt - cut, 1};
        int64_t flops = step_cost(&plan, &whole, 1).flops;
        CHECK(step_cost(&plan, &begin, 1).flops + step_cost(&plan, &end, 1).flops == flops);
        CHECK(step_cost(&plan, &all, 1).flops > flops);
    }
}

static struct plan deepseek_v3(void)
{
    struct model_shape shape = {
        .name = "deepseek-v3", .hidden = 7168, .ffn = 18432, .n_layers = 61, .n_heads = 128, .n_kv_heads = 128,
        .head_dim = 192, .vocab = 129280, .top_k = 2048, .index_dim = 128, .lightning_heads = 64,
        .mla = {.q_lora_rank = 1536, .kv_lora_rank = 512, .rope_dim = 64, .nope_dim = 128, .v_dim = 128},
        .moe = {.n_experts = 256, .n_active = 8, .n_shared = 1, .ffn = 2048, .n_dense_layers = 3},
    };
    struct plan plan = {0};
    CHECK_MESSAGE(plan_build(&plan, &shape, "dense", NULL) == 0, "%s", status_text());
    return plan;
}

static void test_deepseek(void)
{
    struct plan plan = deepseek_v3();
    check_near("DeepSeek-V3 parameters", (double)plan_parameters(&plan), 671e9, 0.001);
    CHECK(plan_kv_bytes_per_token(&plan) == 70272);
    // 37 B are active for one token: two operations for each but the embedding table, which is looked up.
    struct work work = {0, 1, 1};
    check_near("DeepSeek-V3 active", (double)step_cost(&plan, &work, 1).flops / 2 + 7168.0 * 129280, 37.5e9, 0.02);
    // A prompt is cheaper with keys and values of every head, 320 of 1088 operations a pair; a few rows behind a long
    // context are not, because all its keys would have to be made.
    struct stage_cost prompt, tail;
    struct work whole = {0, 8192, 1}, few = {65536, 16, 0};
    CHECK(stage_cost(&prompt, &plan, STAGE_ATTENTION, 5, &whole, 1) == 0);
    CHECK(prompt.flops == (int64_t)8192 * 8193 / 2 * 128 * 2 * (128 + 64 + 128));
    CHECK(stage_cost(&tail, &plan, STAGE_ATTENTION, 5, &few, 1) == 0);
    CHECK(tail.flops == ((int64_t)65536 * 16 + 16 * 17 / 2) * 128 * 2 * (512 + 64 + 512));
    CHECK(plan_check_runnable(&plan) == -EINVAL);
}

static void test_limits(void)
{
    struct plan plan = paper_plan("dense");
    struct stage_cost cost = {7, 7};
    struct work work = {10, 1, 1};
    CHECK(stage_cost(&cost, &plan, STAGE_FFN, 32, &work, 1) == -EINVAL);
    CHECK(stage_cost(&cost, &plan, STAGE_FFN, -2, &work, 1) == -EINVAL && cost.bytes == 7 && cost.flops == 7);
    CHECK(stage_cost(&cost, &plan, STAGE_FFN, -1, &work, 1) == 0 && cost.bytes == 0);
    CHECK(stage_cost(&cost, &plan, STAGE_EMBED, 3, &work, 1) == 0 && cost.bytes == 0);
    // Nothing to do costs nothing.
    CHECK(step_cost(&plan, NULL, 0).bytes == 0 && step_cost(&plan, &(struct work){500, 0, 0}, 1).flops == 0);
    // More than 64 bits hold: the price stays at the top instead of turning negative.
    struct work absurd = {INT32_MAX, INT32_MAX, INT32_MAX};
    for (int32_t m = 0; m < plan_method_count(); m++) {
        plan = paper_plan(plan_method(m)->name);
        struct stage_cost step = step_cost(&plan, &absurd, 1);
        CHECK(step.flops > 0 && step.bytes > 0);
    }
    plan = paper_plan("dense");
    CHECK(step_cost(&plan, &absurd, 1).flops == INT64_MAX);
}

int main(void)
{
    check_begin();
    test_weights();
    test_cache();
    test_scores();
    test_decode_steps();
    test_decode_stages();
    test_prefill();
    test_chunks();
    test_deepseek();
    test_limits();
    return check_end();
}
