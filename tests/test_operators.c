// tests/test_operators.c - every operator of every backend against the reference, over random shapes and batches.
//
// First the comparison itself is tested: the reference against itself passes, and a reference with one operator
// slightly wrong fails, operator by operator.
#include <fcntl.h>
#include <unistd.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/operators.h"

// Backends that this machine can always run, and how far one operator may be from the reference.
static const struct tested {
    const struct backend *backend;
    double absolute, relative, nmse;
} tested[] = {
    {&backend_reference, 0, 0, 0},
};

static struct model_shape random_shape(void)
{
    static const int32_t dims[] = {6, 10, 16, 32, 64, 128};
    int32_t kv = check_range(1, 3), group = check_range(1, 5), dim = dims[check_range(0, 5)];
    return (struct model_shape){
        .name = "random", .hidden = check_range(8, 90), .ffn = check_range(8, 150), .n_layers = check_range(1, 3) * 2,
        .n_heads = kv * group, .n_kv_heads = kv, .head_dim = dim, .vocab = check_range(11, 300),
        .window_tokens = check_range(1, 40), .top_k = check_range(1, 8) * 16, .index_dim = check_range(1, 10) * 4,
        .lightning_heads = check_range(1, 9), .rope_theta_window = 1e4f, .rope_theta_global = 5e5f, .norm_eps = 1e-5f};
}

static struct plan random_plan(const char *method)
{
    struct plan_options options = plan_options_default();
    struct model_shape shape = random_shape();
    options.kv_dtype = check_range(DTYPE_F32, DTYPE_FP8);
    options.weight_dtype = check_range(DTYPE_F32, DTYPE_BF16);
    options.index_dtype = check_range(DTYPE_F32, DTYPE_FP8);
    options.page_tokens = check_range(0, 1) ? 16 : 64;
    options.keep_sink = check_range(0, 1) && shape.top_k > 64 ? 1 : 0;
    options.block_tokens = strstr(method, "block") || strcmp(method, "quest") == 0 ? 4 << check_range(0, 2) : 0;
    struct plan plan = fixture_plan(&shape, method, &options);
    plan.index.pooling = check_range(0, 1) ? POOLING_MEAN : POOLING_MAX;
    return plan;
}

static struct operators_options random_case(const struct plan *plan, const struct tested *with)
{
    return (struct operators_options){
        .backend = with->backend, .threads = 2, .plan = plan, .max_context = check_range(1, 300),
        .max_rows = check_range(1, 60), .max_seqs = check_range(1, 5), .absolute = with->absolute,
        .relative = with->relative, .nmse = with->nmse, .seed = check_random()};
}

// A reference whose operators do their work and then spoil one value, or write one too many.
static struct backend spoilt;
static int spoilt_head(struct backend_context *c, const struct batch *b, const struct op_head *op)
{
    int error = backend_reference.head(c, b, op);
    op->logits[0] += 0.01f;
    return error;
}
static int spoilt_output(struct backend_context *c, const struct batch *b, const struct op_output *op)
{
    int error = backend_reference.output(c, b, op);
    op->x[(int64_t)op->n * op->weight->n_rows] = 0;    // one value beyond
    return error;
}
static int spoilt_select(struct backend_context *c, const struct batch *b, const struct op_index_select *op)
{
    struct op_index_select short_op = *op;
    short_op.n = op->n - 1;    // the last row stays poison
    return backend_reference.index_select(c, b, &short_op);
}
static int spoilt_attention(struct backend_context *c, const struct batch *b, const struct op_attention *op)
{
    struct op_attention without = *op;
    without.lse = NULL;
    return backend_reference.attention(c, b, &without);
}
static int spoilt_kv_write(struct backend_context *c, const struct batch *b, const struct op_kv_write *op)
{
    struct op_kv_write swapped = *op;
    swapped.k = op->v;
    swapped.v = op->k;
    return backend_reference.kv_write(c, b, &swapped);
}

// The failures that the spoilt backend must cause are not news: they go nowhere.
static int compare_quietly(const struct operators_options *options)
{
    int kept = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY);
    fflush(stderr);
    dup2(nowhere, STDERR_FILENO);
    int failures = operators_compare(options);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(nowhere);
    return failures;
}

static void check_comparison(void)
{
    struct plan plan = random_plan("clsa");
    struct tested with = {&spoilt, 1e-4, 1e-4, 1e-6};
    struct operators_options options = random_case(&plan, &with);
    for (int kind = 0; kind < 6; kind++) {
        spoilt = backend_reference;
        spoilt.name = "spoilt";
        switch (kind) {
        case 1: spoilt.head = spoilt_head; break;
        case 2: spoilt.output = spoilt_output; break;
        case 3: spoilt.index_select = spoilt_select; break;
        case 4: spoilt.attention = spoilt_attention; break;
        case 5: spoilt.kv_write = spoilt_kv_write; break;
        default: break;
        }
        int failures = compare_quietly(&options);
        CHECK_MESSAGE((failures > 0) == (kind > 0), "spoilt operator %d: %d failures", kind, failures);
    }
}

int main(void)
{
    check_begin();
    check_comparison();
    for (size_t t = 0; t < sizeof tested / sizeof *tested; t++) {
        for (int32_t m = 0; m < plan_method_count(); m++) {
            for (int repeat = 0; repeat < 4; repeat++) {
                struct plan plan = random_plan(plan_method(m)->name);
                struct operators_options options = random_case(&plan, &tested[t]);
                int failures = operators_compare(&options);
                CHECK_MESSAGE(failures == 0, "%s, %s: %d checks of operators failed", tested[t].backend->name,
                              plan.method, failures);
            }
        }
    }
    return check_end();
}
