// tests/test_logits.c - the engine's logits against PyTorch's, for every method that both know.
//
// The golden files in tests/data/logits were made by workloads/train/golden.py: two tiny models in the engine's own
// format and, per method, the logits after the later tokens, computed by an implementation that shares no code with the
// engine. A prompt gives the first row and decoding the others, so both are compared. Keys
// and index keys are kept in f32 here: rounding them would hide errors, and could change a selection.
#include "engine/status.h"
#include "tests/check.h"
#include "tests/fixture.h"

enum { N_TOKENS = 48, N_PROMPT = 31, N_ROWS = N_TOKENS - N_PROMPT + 1, BLOCK_TOKENS = 4 };

// Logits are about 1 in size; both sides compute in f32, in different orders.
static const double tolerance = 2e-4;

static const struct golden {
    const char *model, *method;
} golden[] = {
    {"yoco", "yoco"}, {"yoco", "clsa"}, {"yoco", "clsa-block"}, {"yoco", "yoco-token"},
    {"transformer", "dense"}, {"transformer", "token"}, {"transformer", "indexcache"}, {"transformer", "block"},
};

// Reads n elements of `size` bytes into a block that the caller frees; NULL and a failed check if the file is not
// exactly that long.
static void *read_all(const char *path, size_t size, size_t n)
{
    FILE *file = fopen(path, "rb");
    char *data = calloc(n + 1, size);
    size_t got = file && data ? fread(data, size, n + 1, file) : 0;
    CHECK_MESSAGE(got == n, "%s: %zu elements, expected %zu", path, got, n);
    if (file) {
        fclose(file);
    }
    if (got != n) {
        free(data);
        return NULL;
    }
    return data;
}

static void compare(const struct golden *with, const float *expected, const float *got, int32_t n_rows, int32_t vocab)
{
    double worst = 0, scale = 0;
    int64_t n = (int64_t)n_rows * vocab, at = 0;
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)expected[i] - (double)got[i]);
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
        scale = fabs((double)expected[i]) > scale ? fabs((double)expected[i]) : scale;
    }
    CHECK_MESSAGE(worst <= tolerance, "%s: row %lld, logit %lld: %.7g, PyTorch %.7g", with->method,
                  (long long)(at / vocab), (long long)(at % vocab), (double)got[at], (double)expected[at]);
    CHECK_MESSAGE(scale > 0.5, "%s: the golden logits are all near 0", with->method);
}

static void check_one(const struct golden *with, const char *backend)
{
    char path[160];
    snprintf(path, sizeof path, "tests/data/logits/%s", with->model);
    struct model_file *model;
    int error = model_file_open(&model, path);
    CHECK_MESSAGE(!error, "%s", status_text());
    if (error) {
        return;
    }
    struct plan_options options = plan_options_default();
    options.kv_dtype = DTYPE_F32;
    options.index_dtype = DTYPE_F32;
    options.block_tokens = strstr(with->method, "block") ? BLOCK_TOKENS : 0;
    struct plan plan = fixture_plan(&model_file_config(model)->native.shape, with->method, &options);
    int32_t vocab = plan.shape.vocab;
    snprintf(path, sizeof path, "tests/data/logits/%s/tokens.i32", with->model);
    int32_t *tokens = read_all(path, sizeof *tokens, N_TOKENS);
    snprintf(path, sizeof path, "tests/data/logits/%s/%s.f32", with->model, with->method);
    float *expected = read_all(path, sizeof *expected, (size_t)N_ROWS * (size_t)vocab);
    struct fixture_text text = {.tokens = tokens, .n_tokens = N_TOKENS, .n_prompt = N_PROMPT};
    struct engine_options engine = {.backend = backend, .threads = 2, .max_context = N_TOKENS + 1};
    if (tokens && expected) {
        error = fixture_generate(&plan, model, engine, &text, 1);
        CHECK_MESSAGE(!error, "%s on %s: %s", with->method, backend, status_text());
        if (!error) {
            compare(with, expected, text.logits, N_ROWS, vocab);
        }
    }
    free(text.logits);
    free(expected);
    free(tokens);
    model_file_close(model);
}

int main(void)
{
    check_begin();
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        check_one(&golden[i], "reference");
    }
    return check_end();
}
