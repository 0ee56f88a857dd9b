// tests/test_backend_cpu.c - the fast CPU backend against the reference, on every instruction set of this machine.
//
// tests/operators.c compares operator by operator; here are the shapes that hurt: tails of every vector width, groups
// of 5 and of 7, one row and many, long contexts, windows longer than the context. And what the comparison cannot see:
// the same bits on any number of threads, and an instruction set that does not exist.
#include <errno.h>

#include "engine/backend.h"
#include "engine/status.h"
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/operators.h"

static const char *const isas[] = {"avx512_bf16", "avx512", "avx2", "baseline"};
enum { N_ISAS = sizeof isas / sizeof *isas };

// Opens and closes a backend with that instruction set.
static bool machine_has(const char *isa)
{
    struct plan plan = fixture_plan(plan_find_model("tiny"), "clsa", NULL);
    struct backend_options options = {.plan = &plan, .threads = 2, .max_rows = 2, .max_seqs = 1, .max_context = 64};
    struct backend_context *context;
    char device[128], variant[128];
    setenv("CLSA_CPU_ISA", isa, 1);
    int error = backend_cpu.open(&context, &options);
    if (error) {
        CHECK_MESSAGE(error == -EINVAL && strstr(status_text(), isa), "%s: %d, '%s'", isa, error, status_text());
        CHECK_MESSAGE(!context, "%s: a context in spite of the error", isa);
        return false;
    }
    backend_cpu.describe(context, device, variant, sizeof device);
    CHECK_MESSAGE(strcmp(variant, isa) == 0 && strstr(device, ", 2 threads"), "'%s' on '%s'", variant, device);
    backend_cpu.close(context);
    return true;
}

static struct model_shape random_shape(void)
{
    static const int32_t dims[] = {6, 10, 16, 24, 32, 62, 64, 96, 100, 128, 256};
    static const int32_t groups[] = {1, 1, 2, 3, 4, 5, 7};
    int32_t kv = check_range(1, 4), group = groups[check_range(0, 6)];
    return (struct model_shape){
        .name = "random", .hidden = check_range(3, 300), .ffn = check_range(3, 400), .n_layers = 2 * check_range(1, 2),
        .n_heads = kv * group, .n_kv_heads = kv, .head_dim = dims[check_range(0, 10)], .vocab = check_range(11, 300),
        .window_tokens = check_range(1, 200), .top_k = check_range(1, 8) * 16, .index_dim = check_range(1, 33) * 4,
        .lightning_heads = check_range(1, 40), .rope_theta_window = 1e4f, .rope_theta_global = 5e5f, .norm_eps = 1e-5f};
}

static struct plan random_plan(const char *method, const struct model_shape *shape)
{
    struct plan_options options = plan_options_default();
    options.kv_dtype = check_range(DTYPE_F32, DTYPE_FP8);
    options.weight_dtype = check_range(DTYPE_F32, DTYPE_BF16);
    options.index_dtype = check_range(DTYPE_F32, DTYPE_FP8);
    options.keep_sink = check_range(0, 1) && shape->top_k > 64 ? 1 : 0;
    options.block_tokens = strstr(method, "block") || strcmp(method, "quest") == 0 ? 4 << check_range(0, 2) : 0;
    bool odd_pages = options.block_tokens && check_range(0, 1);
    options.page_tokens = odd_pages ? options.block_tokens * 3 : 16 << check_range(0, 2);
    struct plan plan = fixture_plan(shape, method, &options);
    plan.index.pooling = check_range(0, 1) ? POOLING_MEAN : POOLING_MAX;
    return plan;
}

// Absolute and relative bounds do the work; the mean square error of a single score near 0 can be anything. f32 sums
// are in another order; and where rows are rounded to bf16 before they meet bf16 weights, 2^-9 per factor.
static void compare(const char *isa, const struct plan *plan, int32_t max_context, int32_t max_rows, int32_t max_seqs)
{
    bool rounds = strcmp(isa, "avx512_bf16") == 0 && plan->weight_dtype == DTYPE_BF16 && max_rows > 8;
    struct operators_options options = {
        .backend = &backend_cpu, .threads = 1 + check_range(0, 2), .plan = plan, .max_context = max_context,
        .max_rows = max_rows, .max_seqs = max_seqs, .absolute = rounds ? 0.05 : 2e-4, .relative = rounds ? 0.02 : 2e-4,
        .nmse = rounds ? 3e-5 : 1e-5, .seed = check_random()};
    int failures = operators_compare(&options);
    check_state = options.seed + 1;
    CHECK_MESSAGE(failures == 0,
                  "%s, %s: %d failures (heads %d/%d x %d, hidden %d, ffn %d, index %d x %d, unit %d, page %d, "
                  "context %d, rows %d, dtypes %s %s %s)",
                  isa, plan->method, failures, plan->shape.n_heads, plan->shape.n_kv_heads, plan->shape.head_dim,
                  plan->shape.hidden, plan->shape.ffn, plan->index.heads, plan->index.dim, plan->index.unit_tokens,
                  plan->page_tokens, max_context, max_rows, dtype_name(plan->weight_dtype), dtype_name(plan->kv_dtype),
                  dtype_name(plan->index.key_dtype));
}

static void compare_random(const char *isa)
{
    for (int32_t m = 0; m < plan_method_count(); m++) {
        for (int repeat = 0; repeat < 2; repeat++) {
            struct model_shape shape = random_shape();
            struct plan plan = random_plan(plan_method(m)->name, &shape);
            int32_t max_rows = repeat % 2 ? check_range(9, 150) : check_range(1, 8);
            compare(isa, &plan, check_range(1, 700), max_rows, check_range(1, 6));
        }
    }
}

// Contexts of 32768 over little models: many parts of attention, many chunks of scores, long selections.
static void compare_long(const char *isa)
{
    static const char *const methods[] = {"dense", "clsa", "block", "dsa", "quest"};
    const struct model_shape shape = {
        .name = "long", .hidden = 40, .ffn = 40, .n_layers = 2, .n_heads = 5, .n_kv_heads = 1, .head_dim = 16,
        .vocab = 20, .window_tokens = 500, .top_k = 2048, .index_dim = 16, .lightning_heads = 3,
        .rope_theta_window = 1e4f, .rope_theta_global = 5e5f, .norm_eps = 1e-5f};
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        if (check_range(0, 1)) {
            continue;    // the reference is slow here: about half of them a run
        }
        struct plan_options options = plan_options_default();
        options.index_dtype = strcmp(methods[m], "dsa") == 0 ? DTYPE_FP8 : DTYPE_BF16;
        options.block_tokens = strcmp(methods[m], "block") == 0 ? 128 : 0;
        options.weight_dtype = DTYPE_F32;
        struct plan plan = fixture_plan(&shape, methods[m], &options);
        compare(isa, &plan, 32768, 12, 2);
    }
}

// Two generations' logits, bit for bit, on different numbers of threads.
static void check_threads(const char *method)
{
    struct model_shape shape = *plan_find_model("tiny");
    shape.top_k = 32;
    struct plan plan = fixture_plan(&shape, method, NULL);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    enum { N_TOKENS = 300, N_PROMPT = 290 };
    int32_t *tokens = fixture_tokens(N_TOKENS, shape.vocab);
    static const int32_t threads[] = {1, 2, 5};
    float *logits[3];
    int64_t bytes = (N_TOKENS - N_PROMPT + 1) * (int64_t)shape.vocab * (int64_t)sizeof(float);
    for (int i = 0; i < 3; i++) {
        struct fixture_text text = {.tokens = tokens, .n_tokens = N_TOKENS, .n_prompt = N_PROMPT};
        struct engine_options options = {.backend = "cpu", .threads = threads[i], .max_context = 512};
        int error = fixture_generate(&plan, model, options, &text, 1);
        CHECK_MESSAGE(!error, "%s on %d threads: %s", method, threads[i], status_text());
        logits[i] = text.logits;
    }
    for (int i = 1; i < 3; i++) {
        CHECK_MESSAGE(memcmp(logits[0], logits[i], (size_t)bytes) == 0, "%s: other bits on %d threads than on one",
                      method, threads[i]);
    }
    for (int i = 0; i < 3; i++) {
        free(logits[i]);
    }
    free(tokens);
    model_file_close(model);
}

int main(void)
{
    check_begin();
    CHECK_MESSAGE(!machine_has("mmx"), "an instruction set that does not exist was accepted");
    int32_t present = 0;
    for (int i = 0; i < N_ISAS; i++) {
        if (!machine_has(isas[i])) {
            continue;
        }
        present++;
        compare_random(isas[i]);
        compare_long(isas[i]);
        check_threads("clsa");
        check_threads("dense");
        check_threads("block");
    }
    CHECK_MESSAGE(present > 0, "no instruction set at all");
    return check_end();
}
