// tests/test_logits.c - the engine's logits against PyTorch's, for every method that both know.
//
// The golden files in tests/data/logits were made by workloads/train/golden.py: two tiny random models in the engine's
// own format, and for them and for the two trained models, per method, the logits after the later tokens, computed by
// an implementation that shares no code with the engine. A prompt gives the first row and decoding the others, so both
// are compared. Keys and index keys are kept in f32 here: rounding them would hide errors, and could change a
// selection.
#include "engine/status.h"
#include "tests/check.h"
#include "tests/fixture.h"

enum { BLOCK_TOKENS = 4 };

// Both sides compute in f32, in different orders; against the greatest logit, which is about 4 in random models and 30
// in trained ones.
static const double tolerance = 5e-5;

static const struct golden {
    const char *golden, *model;    // folders
    int32_t n_tokens, n_prompt, top_k;
} models[] = {
    {"tests/data/logits/yoco", "tests/data/logits/yoco", 48, 31, 16},
    {"tests/data/logits/transformer", "tests/data/logits/transformer", 48, 31, 16},
    {"tests/data/logits/demo-yoco", "workloads/models/demo-yoco", 256, 251, 64},
    {"tests/data/logits/demo-transformer", "workloads/models/demo-transformer", 256, 251, 64},
};
static const char *const methods[BACKBONE_COUNT][4] = {
    [BACKBONE_YOCO] = {"yoco", "clsa", "clsa-block", "yoco-token"},
    [BACKBONE_TRANSFORMER] = {"dense", "token", "indexcache", "block"},
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

static void compare(const struct golden *with, const char *method, const float *expected, const float *got,
                    int32_t n_rows, int32_t vocab)
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
    CHECK_MESSAGE(worst <= tolerance * scale, "%s, %s: row %lld, logit %lld: %.7g, PyTorch %.7g", with->model, method,
                  (long long)(at / vocab), (long long)(at % vocab), (double)got[at], (double)expected[at]);
    CHECK_MESSAGE(scale > 0.5, "%s, %s: the golden logits are all near 0", with->model, method);
}

static void check_method(const struct golden *with, struct model_file *model, const char *method, const char *backend)
{
    char path[160];
    struct plan_options options = plan_options_default();
    options.kv_dtype = DTYPE_F32;
    options.index_dtype = DTYPE_F32;
    options.top_k = with->top_k;
    options.block_tokens = strstr(method, "block") ? BLOCK_TOKENS : 0;
    struct plan plan = fixture_plan(&model_file_config(model)->native.shape, method, &options);
    int32_t vocab = plan.shape.vocab, n_rows = with->n_tokens - with->n_prompt + 1;
    snprintf(path, sizeof path, "%s/tokens.i32", with->golden);
    int32_t *tokens = read_all(path, sizeof *tokens, (size_t)with->n_tokens);
    snprintf(path, sizeof path, "%s/%s.f32", with->golden, method);
    float *expected = read_all(path, sizeof *expected, (size_t)n_rows * (size_t)vocab);
    struct fixture_text text = {.tokens = tokens, .n_tokens = with->n_tokens, .n_prompt = with->n_prompt};
    struct engine_options engine = {.backend = backend, .threads = 2, .max_context = with->n_tokens + 1};
    if (tokens && expected) {
        int error = fixture_generate(&plan, model, engine, &text, 1);
        CHECK_MESSAGE(!error, "%s, %s on %s: %s", with->model, method, backend, status_text());
        if (!error) {
            compare(with, method, expected, text.logits, n_rows, vocab);
        }
    }
    free(text.logits);
    free(expected);
    free(tokens);
}

static void check_model(const struct golden *with, const char *backend)
{
    struct model_file *model;
    int error = model_file_open(&model, with->model);
    CHECK_MESSAGE(!error, "%s", status_text());
    for (size_t i = 0; !error && i < sizeof methods[0] / sizeof *methods[0]; i++) {
        check_method(with, model, methods[model_file_config(model)->native.shape.backbone][i], backend);
    }
    model_file_close(model);
}

int main(void)
{
    check_begin();
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        check_model(&models[i], "reference");
    }
    return check_end();
}
