// tests/test_identities.c - different ways to the same answer must give the same bits.
//
// Methods that select everything equal the method that selects nothing; early exit equals none; a prompt in chunks, in
// pages or in company equals the prompt whole, in one piece, alone. On the reference backend bit for bit, because a
// row's arithmetic depends on nothing else; on other backends within a tolerance, where selection cannot differ. The
// same way twice gives the same bits everywhere. A backend that is not here is skipped, visibly.
#include <errno.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/fixture.h"

static const struct tested {
    const char *backend;
    bool same_bits;         // else within `tolerance`, and only for plans that leave no key out
    double tolerance;
    enum dtype weight_dtype, kv_dtype;
} tested[] = {
    {"reference", true, 0, DTYPE_BF16, DTYPE_BF16},
    {"reference", true, 0, DTYPE_BF16, DTYPE_FP8},
    // A product of bf16 activations would hide a wrong result in its rounding.
    {"cpu", false, 1e-3, DTYPE_F32, DTYPE_F32},
    {"cpu", false, 0.1, DTYPE_F32, DTYPE_FP8},    // the last bit of a sum may decide where a key is rounded to
    // It rounds activations to bf16 between operators; logits are about 1 in size.
    {"cuda", false, 0.15, DTYPE_BF16, DTYPE_BF16},
    {"cuda", false, 0.4, DTYPE_BF16, DTYPE_FP8},
};

enum { N_TOKENS = 45, N_PROMPT = 37, VOCAB = 61, MAX_CONTEXT = 48 };

static const struct model_shape shape = {
    .name = "identities", .hidden = 40, .ffn = 56, .n_layers = 6, .n_heads = 6, .n_kv_heads = 2, .head_dim = 16,
    .vocab = VOCAB, .window_tokens = 7, .top_k = 16, .index_dim = 16, .lightning_heads = 3, .rope_theta_window = 1e4f,
    .rope_theta_global = 5e5f, .norm_eps = 1e-5f};

struct scene {
    const struct tested *with;
    struct model_file *models[BACKBONE_COUNT];
    const int32_t *tokens;    // [N_TOKENS]
};

static struct plan_options small_blocks(void)
{
    struct plan_options options = plan_options_default();
    options.block_tokens = 4;
    return options;
}

static struct plan build(const struct tested *with, const char *method, struct plan_options options)
{
    options.weight_dtype = (int32_t)with->weight_dtype;
    options.kv_dtype = (int32_t)with->kv_dtype;
    bool blocks = strstr(method, "block") || strcmp(method, "quest") == 0;
    options.block_tokens = blocks ? options.block_tokens : 0;
    return fixture_plan(&shape, method, &options);
}

// Whether results must agree: always with the same bits, else where no rounding can change a selection.
static bool comparable(const struct scene *scene, const struct plan *plan)
{
    return scene->with->same_bits || plan->index.budget_tokens == 0 || plan->index.budget_tokens >= MAX_CONTEXT;
}

// The standard run: the scene's text, alone, its prompt in one step, then forced decoding. [N_TOKENS-N_PROMPT+1][VOCAB]
static float *run(const struct scene *scene, const struct plan *plan, struct engine_options options)
{
    struct fixture_text text = {.tokens = scene->tokens, .n_tokens = N_TOKENS, .n_prompt = N_PROMPT};
    options.backend = scene->with->backend;
    options.threads = 2;
    options.max_context = options.max_context ? options.max_context : MAX_CONTEXT;
    int error = fixture_generate(plan, scene->models[plan->shape.backbone], options, &text, 1);
    CHECK_MESSAGE(!error, "%s on %s: %s", plan->method, options.backend, status_text());
    return text.logits;
}

static void same(const struct scene *scene, const char *what, const float *a, const float *b, int64_t n)
{
    double tolerance = scene->with->tolerance;
    int64_t i = 0;
    bool equal = true;
    while (i < n && equal) {
        bool bits = memcmp(&a[i], &b[i], sizeof *a) == 0, near = fabs((double)a[i] - (double)b[i]) <= tolerance;
        equal = isfinite(a[i]) && (scene->with->same_bits ? bits : near);
        i += equal;
    }
    CHECK_MESSAGE(i == n, "%s, %s: logit %lld of %lld is %.9g and %.9g", scene->with->backend, what, (long long)i,
                  (long long)n, (double)a[i], (double)b[i]);
}

enum { N_LOGITS = (N_TOKENS - N_PROMPT + 1) * VOCAB };

static void check_whole_budget(const struct scene *scene)
{
    for (int32_t m = 0; m < plan_method_count(); m++) {
        const struct method_info *info = plan_method(m);
        struct plan_options options = small_blocks();
        options.top_k = MAX_CONTEXT + 16;
        bool dense = strcmp(info->name, info->dense_form) == 0;
        struct plan form = build(scene->with, info->dense_form, plan_options_default());
        struct plan plan = build(scene->with, info->name, dense ? plan_options_default() : options);
        float *expected = run(scene, &form, (struct engine_options){0});
        float *got = run(scene, &plan, (struct engine_options){0});
        char what[120];
        snprintf(what, sizeof what, "%s that selects everything, against %s", info->name, info->dense_form);
        same(scene, what, expected, got, N_LOGITS);
        free(expected);
        free(got);
    }
}

static void check_every_layer_indexed(const struct scene *scene)
{
    struct plan_options options = plan_options_default();
    struct plan token = build(scene->with, "token", options);
    options.index_every = 1;
    struct plan cached = build(scene->with, "indexcache", options);
    float *a = run(scene, &token, (struct engine_options){0}), *b = run(scene, &cached, (struct engine_options){0});
    if (scene->with->same_bits) {
        same(scene, "indexcache with an indexer in every layer, against token", a, b, N_LOGITS);
    }
    options.index_every = 3;
    struct plan shared = build(scene->with, "indexcache", options);
    float *c = run(scene, &shared, (struct engine_options){0});
    CHECK_MESSAGE(memcmp(a, c, N_LOGITS * sizeof *a) != 0, "sharing an index between layers changed nothing");
    free(a);
    free(b);
    free(c);
}

// One plan, many ways to run it.
static void check_ways(const struct scene *scene, const struct plan *plan)
{
    struct plan_options options = small_blocks();
    char what[120];
    float *expected = run(scene, plan, (struct engine_options){0});
    static const struct {
        const char *name;
        struct engine_options options;
        int32_t page_tokens;    // 0: as the plan has it
    } ways[] = {
        {"once more", {.max_seqs = 1}, 0},
        {"prompt in chunks of 5", {.max_step_tokens = 5}, 0},
        {"prompt row by row", {.max_step_tokens = 1}, 0},
        {"longer context", {.max_context = 300}, 0},
        {"pages of 4", {.max_seqs = 1}, 4},
        {"pages of 4, chunks of 6", {.max_step_tokens = 6}, 4},
        {"one page for all", {.max_seqs = 1}, 64},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct plan changed = *plan;
        if (ways[i].page_tokens) {
            options.page_tokens = ways[i].page_tokens;
            changed = build(scene->with, plan->method, options);
        }
        float *got = run(scene, &changed, ways[i].options);
        snprintf(what, sizeof what, "%s, %s", plan->method, ways[i].name);
        same(scene, what, expected, got, N_LOGITS);
        CHECK_MESSAGE(i > 0 || memcmp(expected, got, N_LOGITS * sizeof *got) == 0, "%s, %s: other bits",
                      scene->with->backend, what);
        free(got);
    }
    // Without early exit, with every row through every layer: [N_TOKENS][VOCAB], the last of which are the same rows.
    float *all = run(scene, plan, (struct engine_options){.every_position = true});
    snprintf(what, sizeof what, "%s, every position", plan->method);
    same(scene, what, expected, all + (N_PROMPT - 1) * VOCAB, N_LOGITS);
    free(all);
    free(expected);
}

// In company: texts of other lengths in the same steps, chunks cut wherever the budget of rows ends.
static void check_company(const struct scene *scene, const struct plan *plan)
{
    static const int32_t lengths[][2] = {{12, 9}, {N_TOKENS, N_PROMPT}, {40, 1}, {33, 33}, {3, 2}};    // tokens, prompt
    struct fixture_text together[5];
    struct engine_options options = {.backend = scene->with->backend, .threads = 2, .max_context = MAX_CONTEXT,
                                     .max_seqs = 4, .max_step_tokens = 11};
    for (int i = 0; i < 5; i++) {
        together[i] = (struct fixture_text){.tokens = scene->tokens + (N_TOKENS - lengths[i][0]) / 2,
                                            .n_tokens = lengths[i][0], .n_prompt = lengths[i][1]};
    }
    int error = fixture_generate(plan, scene->models[plan->shape.backbone], options, together, 5);
    CHECK_MESSAGE(!error, "%s: %s", plan->method, status_text());
    for (int i = 0; i < 5; i++) {
        struct fixture_text alone = together[i];
        char what[120];
        options.max_seqs = 1;
        options.max_step_tokens = MAX_CONTEXT;
        error = fixture_generate(plan, scene->models[plan->shape.backbone], options, &alone, 1);
        CHECK_MESSAGE(!error, "%s: %s", plan->method, status_text());
        snprintf(what, sizeof what, "%s, text %d of a batch", plan->method, i);
        same(scene, what, alone.logits, together[i].logits, (int64_t)(alone.n_tokens - alone.n_prompt + 1) * VOCAB);
        free(alone.logits);
        free(together[i].logits);
    }
}

static void set_all(const struct matrix *m, float value)
{
    union {
        const void *read;
        void *write;
    } data = {.read = m->data};
    for (int32_t i = 0; data.write && i < m->n_rows * m->n_cols; i++) {
        dtype_store(data.write, i, m->dtype, value);
    }
}

// Runs the whole text in one step with every position; returns engine_step's result, leaves the engine open.
static int one_step(const struct scene *scene, const struct plan *plan, struct model_file *model,
                    struct engine **engine)
{
    struct engine_options options = {.plan = plan, .model = model, .backend = scene->with->backend, .threads = 2,
                                     .max_context = MAX_CONTEXT, .every_position = true};
    struct engine_request request = {.prompt = scene->tokens, .n_prompt = N_TOKENS, .max_output_tokens = 1};
    const struct engine_output *outputs;
    int64_t id;
    int error = engine_open(engine, &options);
    error = error ? error : engine_submit(*engine, &request, &id);
    CHECK_MESSAGE(!error, "%s: %s", plan->method, status_text());
    return error ? error : engine_step(*engine, &outputs);
}

// Index queries of zero make all scores equal: the lowest units must win, beside those that are always kept.
static void check_equal_scores(const struct scene *scene, const struct plan *plan)
{
    struct model_weights weights;
    struct model_file *model = fixture_model(plan, check_random(), &weights);
    struct engine *engine = NULL;
    int32_t unit = plan->index.unit_tokens, budget = plan_budget_units(plan), local = plan->index.keep_local_units;
    for (int32_t l = 0; l < shape.n_layers; l++) {
        set_all(&weights.layers[l].index.q, 0);
    }
    CHECK(one_step(scene, plan, model, &engine) == 1);
    for (int32_t l = 0; engine && l < shape.n_layers; l++) {
        for (int32_t row = 0; plan_runs_indexer(plan, l) && row < N_TOKENS; row++) {
            const int32_t *units;
            int32_t n_units = row / unit + 1, count = engine_selection(engine, l, row, plan->index.sets - 1, &units);
            int32_t wanted = n_units < budget ? n_units : budget;
            CHECK(count == wanted);
            for (int32_t i = 0; i < count; i++) {
                int32_t expected = i < wanted - local ? i : n_units - (wanted - i);
                CHECK_MESSAGE(units[i] == expected, "%s, layer %d, row %d: unit %d is %d, expected %d", plan->method, l,
                              row, i, units[i], expected);
            }
        }
    }
    engine_close(engine);
    model_file_close(model);
}

// A NaN among an indexer's weights is an error that names the layer and a position: the first, where rows run in order.
static void check_nan(const struct scene *scene, const struct plan *plan)
{
    struct model_weights weights;
    struct model_file *model = fixture_model(plan, check_random(), &weights);
    struct engine *engine = NULL;
    int32_t layer = shape.n_layers - 1;
    while (!plan_runs_indexer(plan, layer)) {
        layer--;
    }
    char expected[32];
    bool in_order = strcmp(scene->with->backend, "cuda") != 0;
    snprintf(expected, sizeof expected, "layer %d: position %s", layer, in_order ? "0" : "");
    set_all(&weights.layers[layer].index.k, NAN);
    int result = one_step(scene, plan, model, &engine);
    CHECK_MESSAGE(result == -EDOM && strstr(status_text(), expected), "%s: returned %d, '%s', expected '%s'",
                  plan->method, result, status_text(), expected);
    const struct engine_output *outputs;
    CHECK(engine_step(engine, &outputs) == -EDOM);
    engine_close(engine);
    model_file_close(model);
}

// A step whose scores do not fit into one tile, against chunks that do. Two layers, so that each row's selection
// counts.
static void check_score_tiles(const struct tested *with)
{
    enum { LONG = 4200 };    // rows times units times 4 bytes is a little over 64 MiB
    const struct model_shape small = {.name = "long", .hidden = 8, .ffn = 8, .n_layers = 2, .n_heads = 1,
                                      .n_kv_heads = 1, .head_dim = 4, .vocab = 50, .top_k = 8, .index_dim = 4,
                                      .rope_theta_window = 1e4f, .rope_theta_global = 5e5f, .norm_eps = 1e-5f};
    struct plan plan = fixture_plan(&small, "token", NULL);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    int32_t *tokens = fixture_tokens(LONG, small.vocab);
    struct fixture_text texts[2];
    for (int i = 0; i < 2; i++) {
        texts[i] = (struct fixture_text){.tokens = tokens, .n_tokens = LONG, .n_prompt = LONG};
        struct engine_options options = {.backend = with->backend, .max_context = LONG + 1,
                                         .max_step_tokens = i ? 1000 : LONG};
        CHECK(fixture_generate(&plan, model, options, &texts[i], 1) == 0);
    }
    CHECK_MESSAGE(memcmp(texts[0].logits, texts[1].logits, 50 * sizeof(float)) == 0, "tiles of scores differ from one");
    free(texts[0].logits);
    free(texts[1].logits);
    free(tokens);
    model_file_close(model);
}

static void check_backend(const struct tested *with)
{
    struct scene scene = {.with = with};
    struct plan_options options = small_blocks();
    struct plan dense = build(with, "dense", options), yoco = build(with, "yoco", options);
    struct model_weights weights;
    int32_t *tokens = fixture_tokens(N_TOKENS, VOCAB);
    scene.tokens = tokens;
    scene.models[BACKBONE_TRANSFORMER] = fixture_model(&dense, check_random(), &weights);
    scene.models[BACKBONE_YOCO] = fixture_model(&yoco, check_random(), &weights);
    check_whole_budget(&scene);
    check_every_layer_indexed(&scene);
    for (int32_t m = 0; m < plan_method_count(); m++) {
        struct plan plan = build(with, plan_method(m)->name, options);
        if (comparable(&scene, &plan)) {
            check_ways(&scene, &plan);
            check_company(&scene, &plan);
        }
        if (plan.index.budget_tokens > 0 && plan.index.score != INDEX_PAGE_BOUND) {
            check_equal_scores(&scene, &plan);
            check_nan(&scene, &plan);
        }
    }
    if (with->same_bits) {
        check_score_tiles(with);
    }
    model_file_close(scene.models[BACKBONE_TRANSFORMER]);
    model_file_close(scene.models[BACKBONE_YOCO]);
    free(tokens);
}

int main(void)
{
    check_begin();
    for (size_t i = 0; i < sizeof tested / sizeof *tested; i++) {
        const struct backend *backend;
        if (backend_find(&backend, tested[i].backend)) {
            printf("skipped: %s\n", status_text());
        } else {
            check_backend(&tested[i]);
        }
    }
    return check_end();
}
