// tests/test_oracle.c - every method and many shapes: the engine against the oracle.
//
// First a whole text in one step with every position through every layer: all logits and, where the plan selects, all
// selections (the oracle follows them and judges them by its own scores). Then the same text cut into prefill chunks
// and decode steps, in a batch with other texts of other lengths: logits where a token follows.
#include <errno.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/oracle.h"

// Which backends are held against the oracle, and how close they must come with f32, bf16 and fp8 keys and values. An
// fp8 code can come out an eighth away, because the engine rounds an f32 where the oracle rounds a double: in 51 runs
// of all cases that was worth up to 0.09 of a logit (reference; mean square 3e-4), with bf16 up to 0.008 (4e-6).
// nearly: how much of the scores' range a selection may lose to the best one by rounding alone: little in f32; anything
// (1) where a rounded input can turn a row's only positive score, after a ReLU, into zero. same_bits: rows do not
// depend on their batch; without it, a batched run may select differently where scores are nearly equal, so that it is
// compared only under plans whose selection leaves nothing out.
static const struct tested {
    const char *backend;
    struct closeness {
        double within, nmse, nearly;
    } f32, bf16, fp8;
    bool same_bits;
} tested[] = {
    {"reference", {5e-5, 1e-11, 1e-5}, {0.03, 1e-4, 0.5}, {0.2, 1e-3, 0.5}, true},
    // Weights in bf16 meet activations rounded to bf16.
    {"cpu", {2e-4, 1e-9, 1e-4}, {0.4, 3e-3, 1}, {0.2, 1e-3, 1}, false},
};

struct shape_case {
    const char *name;
    struct model_shape shape;
    int32_t n_tokens, n_prompt;
    struct plan_options options;    // zeros and negative dtypes keep the preset
};

// The number of sink units is written out in each case.
#define KEEP .index_dtype = -1, .weight_dtype = -1, .kv_dtype = -1

static const struct shape_case cases[] = {
    {"tiny", {.hidden = 64, .ffn = 192, .n_layers = 4, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .vocab = 512,
              .window_tokens = 8, .top_k = 16, .index_dim = 16, .lightning_heads = 4},
     40, 33, {KEEP, .keep_sink = -1}},
    {"odd sizes, group of 5", {.hidden = 40, .ffn = 72, .n_layers = 6, .n_heads = 5, .n_kv_heads = 1, .head_dim = 10,
                               .vocab = 37, .window_tokens = 5, .top_k = 12, .index_dim = 8, .lightning_heads = 3},
     47, 41, {KEEP, .block_tokens = 4, .page_tokens = 12, .keep_sink = -1}},
    {"head of 6, blocks larger than pages", {.hidden = 24, .ffn = 20, .n_layers = 2, .n_heads = 6, .n_kv_heads = 3,
                                             .head_dim = 6, .vocab = 50, .window_tokens = 3, .top_k = 16,
                                             .index_dim = 4, .lightning_heads = 2},
     37, 30, {KEEP, .block_tokens = 8, .page_tokens = 4, .keep_sink = 1}},
    {"budget beyond the context", {.hidden = 32, .ffn = 48, .n_layers = 4, .n_heads = 4, .n_kv_heads = 4, .head_dim = 8,
                                   .vocab = 64, .window_tokens = 100, .top_k = 64, .index_dim = 12,
                                   .lightning_heads = 2},
     20, 14, {KEEP, .block_tokens = 16, .keep_sink = -1}},
    {"one token", {.hidden = 32, .ffn = 48, .n_layers = 2, .n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .vocab = 64,
                   .window_tokens = 4, .top_k = 4, .index_dim = 8, .lightning_heads = 2},
     9, 1, {KEEP, .block_tokens = 2, .keep_sink = -1}},
};

static int32_t follow_engine(void *user, int32_t layer, int32_t row, int32_t set, const int32_t **units)
{
    return engine_selection(user, layer, row, set, units);
}

static struct closeness bound_of(const struct tested *with, const struct plan *plan)
{
    return plan->kv_dtype == DTYPE_F32 ? with->f32 : plan->kv_dtype == DTYPE_BF16 ? with->bf16 : with->fp8;
}

// All rows of the text in one step. The oracle follows that step's selections. Returns its logits [n_tokens][vocab].
static double *compare_whole(const struct plan *plan, struct model_file *model, const struct model_weights *weights,
                             const struct tested *with, const int32_t *tokens, int32_t n, const char *what)
{
    struct engine_options options = {.plan = plan, .model = model, .backend = with->backend, .threads = 2,
                                     .max_context = n + 1, .max_step_tokens = n, .every_position = true};
    struct engine_request request = {.prompt = tokens, .n_prompt = n, .max_output_tokens = 1};
    struct engine *engine = NULL;
    const struct engine_output *outputs;
    double *expected = malloc((size_t)n * (size_t)plan->shape.vocab * sizeof *expected);
    int64_t id;
    int error = engine_open(&engine, &options);
    if (!error) {
        engine_keep_logits(engine, true);
        error = engine_submit(engine, &request, &id);
        error = error ? error : engine_step(engine, &outputs) == 1 ? 0 : -EIO;
    }
    CHECK_MESSAGE(!error, "%s: %s", what, status_text());
    if (!error) {
        struct oracle_options follow = {.follow = follow_engine, .user = engine};
        struct oracle_report report;
        oracle_run(plan, weights, tokens, n, &follow, expected, &report);
        int32_t n_rows = 0;
        const float *logits = engine_logits(engine, &n_rows);
        CHECK(n_rows == n);
        CHECK_MESSAGE(report.followed == report.selections, "%s: %lld of %lld selections were followed", what,
                      (long long)report.followed, (long long)report.selections);
        CHECK_MESSAGE(report.malformed == 0, "%s: %lld of %lld selections are malformed", what,
                      (long long)report.malformed, (long long)report.selections);
        struct closeness bound = bound_of(with, plan);
        CHECK_MESSAGE(report.worst_regret <= bound.nearly,
                      "%s: a selection left out a score better by %.3g of the range", what, report.worst_regret);
        check_close(what, logits, expected, (int64_t)n * plan->shape.vocab, bound.within, bound.within, bound.nmse);
    }
    engine_close(engine);
    return expected;
}

// The text in a batch of ragged texts: chunks of a prime number of rows, then decode. Its logits must be the oracle's
// of the whole text; `expected` [n][vocab] are those.
static void compare_batched(const struct plan *plan, struct model_file *model, const struct tested *with,
                            const struct shape_case *shape, const int32_t *tokens, const double *expected,
                            const char *what)
{
    int32_t n = shape->n_tokens, n_prompt = shape->n_prompt, vocab = plan->shape.vocab;
    int32_t *other = fixture_tokens(n, vocab);
    struct fixture_text texts[4] = {{.tokens = other, .n_tokens = n / 2 + 1, .n_prompt = n / 3 + 1},
                                    {.tokens = tokens, .n_tokens = n, .n_prompt = n_prompt},
                                    {.tokens = other + 1, .n_tokens = n - 1, .n_prompt = 1},
                                    {.tokens = other + 2, .n_tokens = n - 2, .n_prompt = n - 2}};
    struct engine_options options = {.backend = with->backend, .threads = 2, .max_seqs = 3, .max_context = n + 1,
                                     .max_step_tokens = 7};
    int error = fixture_generate(plan, model, options, texts, 4);
    CHECK_MESSAGE(!error, "%s, batched: %s", what, status_text());
    if (!error) {
        struct closeness bound = bound_of(with, plan);
        check_close(what, texts[1].logits, expected + (int64_t)(n_prompt - 1) * vocab,
                    (int64_t)(n - n_prompt + 1) * vocab, bound.within, bound.within, bound.nmse);
    }
    for (int32_t i = 0; i < 4; i++) {
        free(texts[i].logits);
    }
    free(other);
}

static void compare(const char *method, const struct shape_case *shape, const struct tested *with, bool rounded)
{
    struct model_shape sizes = shape->shape;
    struct plan_options options = shape->options;
    char what[160];
    sizes.rope_theta_window = 1e4f;
    sizes.rope_theta_global = 5e5f;
    sizes.norm_eps = 1e-5f;
    // With bf16 weights, activations are rounded too, and many a key would come to another fp8 code.
    options.kv_dtype = rounded ? check_range(DTYPE_BF16, DTYPE_FP8) : DTYPE_F32;
    options.weight_dtype = options.kv_dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    options.index_dtype = rounded ? check_range(DTYPE_BF16, DTYPE_FP8) : DTYPE_F32;
    options.keep_local = check_range(-1, 1);
    if (strcmp(method, "token") == 0 || strcmp(method, "clsa") == 0) {
        options.index_heads = check_range(0, 3);    // several heads may add up to one set; 0 keeps the one
    }
    if (!strstr(method, "block") && strcmp(method, "quest") != 0) {
        options.block_tokens = 0;    // a method of tokens stays one
    }
    snprintf(what, sizeof what, "%s, %s, %s, %s", with->backend, method, shape->name, rounded ? "rounded" : "f32");
    struct plan plan = fixture_plan(&sizes, method, &options);
    plan.index.pooling = check_range(0, 1) ? POOLING_MEAN : POOLING_MAX;
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    int32_t *tokens = fixture_tokens(shape->n_tokens, sizes.vocab);
    double *expected = compare_whole(&plan, model, &weights, with, tokens, shape->n_tokens, what);
    bool leaves_out = plan.index.budget_tokens > 0 && plan.index.budget_tokens < shape->n_tokens;
    if (!check_failures && (with->same_bits || !leaves_out)) {
        compare_batched(&plan, model, with, shape, tokens, expected, what);
    }
    free(expected);
    free(tokens);
    model_file_close(model);
}

int main(void)
{
    check_begin();
    for (size_t b = 0; b < sizeof tested / sizeof *tested; b++) {
        for (int32_t m = 0; m < plan_method_count(); m++) {
            for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
                compare(plan_method(m)->name, &cases[c], &tested[b], false);
                compare(plan_method(m)->name, &cases[c], &tested[b], true);
            }
        }
    }
    return check_end();
}
