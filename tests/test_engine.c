// tests/test_engine.c - requests through the engine: outputs, preemption, reuse, forks, errors.
#include <errno.h>

#include "engine/cost.h"
#include "engine/kv_cache.h"
#include "engine/status.h"
#include "engine/tokenizer.h"
#include "tests/check.h"
#include "tests/fixture.h"

static const struct model_shape shape = {
    .name = "small", .hidden = 32, .ffn = 48, .n_layers = 4, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .vocab = 300,
    .window_tokens = 6, .top_k = 8, .index_dim = 8, .lightning_heads = 2, .rope_theta_window = 1e4f,
    .rope_theta_global = 5e5f, .norm_eps = 1e-5f};

enum { MAX_REQUESTS = 12, MAX_OUTPUT = 20, MAX_PROMPT = 30 };

static struct plan small_plan(const char *method, int32_t page_tokens)
{
    struct plan_options options = plan_options_default();
    options.page_tokens = page_tokens;
    return fixture_plan(&shape, method, &options);
}

struct answer {
    int32_t prompt[MAX_PROMPT], n_prompt, wanted;
    int32_t tokens[MAX_OUTPUT], n_tokens;
    bool finished;
};

static void random_answers(struct answer *answers, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        answers[i] = (struct answer){.n_prompt = check_range(1, MAX_PROMPT), .wanted = check_range(1, MAX_OUTPUT)};
        for (int32_t t = 0; t < answers[i].n_prompt; t++) {
            answers[i].prompt[t] = check_range(0, shape.vocab - 1);
        }
    }
}

static bool warmed;    // whether engines are, before they run

// Runs all at once. Checks that indices come in order, once each, and that the last one is marked.
static void run(const struct engine_options *options, struct answer *answers, int32_t n, float temperature,
                struct engine_stats *stats)
{
    struct engine *engine;
    const struct engine_output *outputs;
    int n_outputs, error = engine_open(&engine, options);
    CHECK_MESSAGE(!error, "%s", status_text());
    if (!error && warmed) {
        CHECK_MESSAGE(engine_warm(engine, 1) == 0, "%s", status_text());
        struct engine_stats fresh = engine_stats(engine);
        CHECK(fresh.steps == 0 && fresh.output_tokens == 0 && fresh.kv_bytes_used == 0);
    }
    for (int32_t i = 0; i < n && !error; i++) {
        struct engine_request request = {.prompt = answers[i].prompt, .n_prompt = answers[i].n_prompt,
                                         .max_output_tokens = answers[i].wanted, .temperature = temperature,
                                         .top_p = 0.9f, .seed = 7};
        int64_t id = -1;
        answers[i].n_tokens = 0;
        answers[i].finished = false;
        CHECK(engine_submit(engine, &request, &id) == 0 && id == i);
    }
    while ((n_outputs = engine_step(engine, &outputs)) >= 0) {
        for (int i = 0; i < n_outputs; i++) {
            struct answer *answer = &answers[outputs[i].request];
            CHECK(!answer->finished && outputs[i].index == answer->n_tokens && answer->n_tokens < answer->wanted);
            answer->tokens[answer->n_tokens++] = outputs[i].token;
            answer->finished = outputs[i].finished;
            CHECK(answer->finished == (answer->n_tokens == answer->wanted));
        }
    }
    CHECK_MESSAGE(n_outputs == -ENODATA, "%s", status_text());
    CHECK(error || engine_warm(engine, 1) == -EINVAL);    // what has run may be in the cache
    for (int32_t i = 0; i < n; i++) {
        CHECK(answers[i].finished);
    }
    *stats = engine_stats(engine);
    CHECK(stats->running == 0 && stats->waiting == 0 && stats->kv_bytes_used == 0 && stats->kv_bytes_allocated > 0);
    engine_close(engine);
}

// A cache too small for all: requests wait, are preempted and run again, and every answer is that of a cache with room.
static void check_preemption(const char *method)
{
    struct plan plan = small_plan(method, 4);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct engine_options roomy = {.plan = &plan, .model = model, .backend = "reference", .max_seqs = 4,
                                   .max_context = MAX_PROMPT + MAX_OUTPUT, .max_step_tokens = 16};
    struct engine_options tight = roomy;
    struct answer expected[MAX_REQUESTS], got[MAX_REQUESTS];
    struct engine_stats easy, hard;
    tight.cache_tokens = MAX_PROMPT + MAX_OUTPUT + 10;
    random_answers(expected, MAX_REQUESTS);
    for (int32_t i = 0; i < 4; i++) {    // short prompts with long answers, which grow until the pages are short
        expected[i].n_prompt = 2;
        expected[i].wanted = MAX_OUTPUT;
    }
    for (int sampled = 0; sampled < 2; sampled++) {
        memcpy(got, expected, sizeof got);
        run(&roomy, expected, MAX_REQUESTS, sampled ? 0.8f : 0, &easy);
        run(&tight, got, MAX_REQUESTS, sampled ? 0.8f : 0, &hard);
        for (int32_t i = 0; i < MAX_REQUESTS; i++) {
            CHECK_MESSAGE(memcmp(expected[i].tokens, got[i].tokens, (size_t)expected[i].wanted * 4) == 0,
                          "%s: request %d was answered differently in a small cache", method, i);
        }
        CHECK(easy.output_tokens == hard.output_tokens);
        int32_t roomy_pages = 4 * ((roomy.max_context - 1) / plan.page_tokens + 1);
        int32_t fewer_pages = roomy_pages - (tight.cache_tokens - 1) / plan.page_tokens - 1;
        CHECK(easy.kv_bytes_allocated - hard.kv_bytes_allocated == fewer_pages * kv_cache_page_bytes(&plan));
        CHECK_MESSAGE(hard.prompt_tokens > easy.prompt_tokens, "%s: nothing was preempted", method);
    }
    model_file_close(model);
}

// What an engine has run to warm up is in no answer and told to nobody.
static void count_steps(void *user, const struct observed_step *step)
{
    CHECK(step->step == *(int64_t *)user);
    ++*(int64_t *)user;
}

// With few large pages there are fewer of them than sequences.
static void check_warm(const char *method, const char *backend, int32_t page_tokens)
{
    struct plan plan = small_plan(method, page_tokens);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    int64_t steps = 0;
    struct observer observer = {.user = &steps, .step_begin = count_steps};
    struct engine_options options = {.plan = &plan, .model = model, .backend = backend, .threads = 2,
                                     .max_seqs = check_range(1, 6), .max_context = MAX_PROMPT + MAX_OUTPUT,
                                     .max_step_tokens = check_range(1, 40),
                                     .cache_tokens = MAX_PROMPT + MAX_OUTPUT + check_range(0, 60)};
    struct answer cold[MAX_REQUESTS], warm[MAX_REQUESTS];
    struct engine_stats stats;
    random_answers(cold, MAX_REQUESTS);
    memcpy(warm, cold, sizeof warm);
    run(&options, cold, MAX_REQUESTS, 0, &stats);
    warmed = true;
    options.observer = &observer;
    run(&options, warm, MAX_REQUESTS, 0, &stats);
    warmed = false;
    CHECK(steps == stats.steps);
    for (int32_t i = 0; i < MAX_REQUESTS; i++) {
        CHECK_MESSAGE(memcmp(cold[i].tokens, warm[i].tokens, (size_t)cold[i].wanted * 4) == 0,
                      "%s on %s: request %d was answered differently by a warmed engine", method, backend, i);
    }
    model_file_close(model);
}

// Prompts that begin alike, all together or one after the other, with and without room: reuse changes no logit, to the
// bit where rows are computed one by one (the reference), and within a tolerance where they are computed together.
// There all selecting methods may see everything, because scores that are nearly equal are no matter of reuse.
static void check_reuse(const char *method, const char *backend, int32_t page_tokens, int64_t *reused)
{
    enum { TEXTS = 10, TOKENS = MAX_PROMPT + MAX_OUTPUT };
    bool exact = strcmp(backend, "reference") == 0;
    struct plan_options plan_options = plan_options_default();
    plan_options.page_tokens = page_tokens;
    plan_options.block_tokens = 8;
    plan_options.top_k = exact ? 0 : 64;
    plan_options.kv_dtype = plan_options.weight_dtype = exact ? -1 : DTYPE_F32;    // or sums round otherwise
    struct plan plan = fixture_plan(&shape, method, &plan_options);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct engine_options options = {.plan = &plan, .model = model, .backend = backend, .threads = 2,
                                     .max_seqs = check_range(1, 3), .max_context = TOKENS,
                                     .max_step_tokens = check_range(4, 24),
                                     .cache_tokens = TOKENS + check_range(0, 2 * TOKENS)};
    struct engine *plain, *reusing;
    CHECK_MESSAGE(engine_open(&plain, &options) == 0, "%s", status_text());
    options.reuse_prefixes = true;
    options.snapshots = check_range(0, 2);
    CHECK_MESSAGE(engine_open(&reusing, &options) == 0, "%s", status_text());
    struct engine *engines[] = {plain, reusing};
    static float logits[2][TEXTS][MAX_OUTPUT][300];
    int32_t stem[MAX_PROMPT];
    for (int32_t t = 0; t < MAX_PROMPT; t++) {
        stem[t] = check_range(0, shape.vocab - 1);
    }
    memset(logits, 0xff, sizeof logits);
    for (int32_t i = 0; i < TEXTS; i++) {
        int32_t tokens[MAX_PROMPT], forced[MAX_OUTPUT], n_prompt = check_range(MAX_PROMPT - 8, MAX_PROMPT);
        int32_t shared = check_range(0, 2) ? 20 : check_range(0, n_prompt);
        for (int32_t t = 0; t < n_prompt; t++) {
            tokens[t] = t < shared ? stem[t] : check_range(0, shape.vocab - 1);
        }
        for (int32_t t = 0; t < MAX_OUTPUT; t++) {
            forced[t] = check_range(0, shape.vocab - 1);
        }
        struct engine_request request = {.prompt = tokens, .n_prompt = n_prompt,
                                         .max_output_tokens = check_range(1, MAX_OUTPUT), .forced = forced};
        bool wait = check_range(0, 1);
        for (int e = 0; e < 2; e++) {
            int64_t id;
            const struct engine_output *outputs;
            engine_keep_logits(engines[e], true);
            CHECK(engine_submit(engines[e], &request, &id) == 0 && id == i);
            for (int n; (wait || i == TEXTS - 1) && (n = engine_step(engines[e], &outputs)) >= 0;) {
                for (int k = 0; k < n; k++) {
                    memcpy(logits[e][outputs[k].request][outputs[k].index], outputs[k].logits, sizeof logits[0][0][0]);
                }
            }
        }
    }
    for (int32_t i = 0; i < TEXTS && !check_failures; i++) {
        for (int32_t t = 0; t < MAX_OUTPUT; t++) {
            double worst = 0;
            bool same = memcmp(logits[0][i][t], logits[1][i][t], sizeof logits[0][i][t]) == 0;
            for (int32_t v = 0; v < shape.vocab && !same; v++) {
                worst = fmax(worst, fabs((double)logits[0][i][t][v] - logits[1][i][t][v]));
                worst = isnan(logits[1][i][t][v]) ? INFINITY : worst;
            }
            CHECK_MESSAGE(worst <= (exact ? 0 : 1e-4), "%s on %s: token %d of request %d differs by %g with a prefix",
                          method, backend, t, i, worst);
        }
    }
    struct engine_stats stats = engine_stats(reusing), without = engine_stats(plain);
    CHECK(without.reused_tokens == 0 && stats.kv_bytes_used == 0 && stats.output_tokens == without.output_tokens);
    *reused += stats.reused_tokens;
    engine_close(plain);
    engine_close(reusing);
    model_file_close(model);
}

// Forced tokens follow whatever was drawn; an end of text among them ends the answer if asked for.
static void check_forced_and_end(void)
{
    struct plan plan = small_plan("clsa", 8);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct engine_options options = {.plan = &plan, .model = model, .backend = "reference", .max_context = 64};
    const int32_t prompt[] = {5, 6, 7}, forced[] = {9, TOKEN_END, 11, 12};
    for (int stop = 0; stop < 2; stop++) {
        struct engine_request request = {.prompt = prompt, .n_prompt = 3, .max_output_tokens = 4, .forced = forced,
                                         .stop_at_end = stop};
        struct engine *engine;
        const struct engine_output *outputs;
        int64_t id;
        int32_t count = 0;
        bool finished = false;
        CHECK(engine_open(&engine, &options) == 0 && engine_submit(engine, &request, &id) == 0);
        for (int n; (n = engine_step(engine, &outputs)) >= 0; count += n) {
            finished = n == 1 && outputs[0].finished;
            CHECK(outputs[0].logits == NULL);
        }
        CHECK(finished && count == (stop ? 2 : 4));
        engine_close(engine);
    }
    model_file_close(model);
}

// A fork draws what its original draws, from a copy of its cache; without room or a decoding original there is none.
static void check_fork(const char *method)
{
    struct plan plan = small_plan(method, 4);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct engine_options options = {
        .plan = &plan, .model = model, .backend = "reference", .max_seqs = 3, .max_context = 64, .max_step_tokens = 16};
    struct answer original = {.n_prompt = 21, .wanted = MAX_OUTPUT};
    int32_t drawn[3][MAX_OUTPUT] = {{0}}, n_drawn[3] = {0};
    int32_t *tokens = fixture_tokens(original.n_prompt, shape.vocab);
    struct engine_request request = {.prompt = tokens, .n_prompt = original.n_prompt, .max_output_tokens = MAX_OUTPUT};
    const struct engine_output *outputs;
    struct engine *engine;
    int64_t id = -1, fork;
    CHECK(engine_open(&engine, &options) == 0 && engine_submit(engine, &request, &id) == 0);
    CHECK(engine_step(engine, &outputs) == 0);
    CHECK(engine_fork(engine, id, &fork) == -EINVAL && engine_fork(engine, 99, &fork) == -EINVAL);
    for (int n; (n = engine_step(engine, &outputs)) >= 0;) {
        for (int i = 0; i < n; i++) {
            int64_t r = outputs[i].request;
            CHECK(r >= 0 && r < 3 && outputs[i].index < MAX_OUTPUT);
            drawn[r][outputs[i].index] = outputs[i].token;
            n_drawn[r]++;
        }
        if (n_drawn[0] == 1 || n_drawn[0] == 7) {
            CHECK_MESSAGE(engine_fork(engine, id, &fork) == 0 && fork == (n_drawn[0] == 1 ? 1 : 2), "%s",
                          status_text());
        } else if (n_drawn[0] == 8) {
            CHECK(engine_fork(engine, id, &fork) == -EAGAIN);
        }
    }
    CHECK(n_drawn[0] == MAX_OUTPUT && n_drawn[1] == MAX_OUTPUT - 1 && n_drawn[2] == MAX_OUTPUT - 7);
    CHECK_MESSAGE(memcmp(drawn[1] + 1, drawn[0] + 1, (MAX_OUTPUT - 1) * sizeof(int32_t)) == 0 &&
                      memcmp(drawn[2] + 7, drawn[0] + 7, (MAX_OUTPUT - 7) * sizeof(int32_t)) == 0,
                  "%s: a fork went its own way", method);
    CHECK(engine_stats(engine).kv_bytes_used == 0);
    engine_close(engine);
    free(tokens);
    model_file_close(model);
}

// With every position, the drawn token belongs to the prompt's last row, and all rows' logits are there.
static void check_every_position(void)
{
    struct plan plan = small_plan("token", 8);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct engine_options options = {.plan = &plan, .model = model, .backend = "reference", .max_context = 64,
                                     .every_position = true};
    int32_t *tokens = fixture_tokens(11, shape.vocab), n_rows = -1;
    struct engine_request request = {.prompt = tokens, .n_prompt = 11, .max_output_tokens = 1};
    struct engine *engine;
    const struct engine_output *outputs;
    const int32_t *units;
    int64_t id;
    CHECK(engine_open(&engine, &options) == 0 && engine_submit(engine, &request, &id) == 0);
    CHECK(engine_logits(engine, &n_rows) == NULL && n_rows == 0);
    engine_keep_logits(engine, true);
    CHECK(engine_step(engine, &outputs) == 1);
    const float *logits = engine_logits(engine, &n_rows);
    CHECK(n_rows == 11 && outputs[0].logits == logits + (int64_t)10 * shape.vocab);
    int32_t best = 0;
    for (int32_t i = 0; i < shape.vocab; i++) {
        best = outputs[0].logits[i] > outputs[0].logits[best] ? i : best;
    }
    CHECK(outputs[0].token == best);
    CHECK(engine_selection(engine, 0, 10, 0, &units) == 8 && engine_selection(engine, 0, 2, 0, &units) == 3);
    CHECK(units[0] == 0 && units[1] == 1 && units[2] == 2);
    CHECK(engine_selection(engine, 0, 11, 0, &units) == 0 && engine_selection(engine, 0, -1, 0, &units) == 0);
    CHECK(engine_selection(engine, 4, 0, 0, &units) == 0 && engine_selection(engine, 0, 0, 1, &units) == 0);
    engine_close(engine);
    free(tokens);
    model_file_close(model);
}

// ---------------------------------------------------------------------------------------------------------------------
// Bad input

static void expect(int got, int wanted, const char *word)
{
    CHECK_MESSAGE(got == wanted && strstr(status_text(), word), "returned %d with '%s', expected %d and '%s'", got,
                  status_text(), wanted, word);
}

static void check_bad_options(void)
{
    struct plan plan = small_plan("clsa", 8), broken = plan;
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, 1, &weights);
    const struct engine_options good = {.plan = &plan, .model = model, .backend = "reference", .max_context = 64};
    struct engine_options o;
    struct engine *engine = NULL;
#define OPEN_FAILS(assignment, error, word)                                                                            \
    do {                                                                                                               \
        o = good;                                                                                                      \
        assignment;                                                                                                    \
        expect(engine_open(&engine, &o), error, word);                                                                 \
        CHECK(engine == NULL);                                                                                         \
    } while (0)
    OPEN_FAILS(o.max_context = -1, -EINVAL, "max_context");
    OPEN_FAILS(o.max_seqs = -3, -EINVAL, "max_seqs");
    OPEN_FAILS(o.max_step_tokens = -1, -EINVAL, "max_step_tokens");
    OPEN_FAILS(o.threads = -1, -EINVAL, "threads");
    OPEN_FAILS(o.cache_tokens = -2, -EINVAL, "cache_tokens");
    OPEN_FAILS(o.cache_tokens = CACHE_ALL_FREE, -EINVAL, "memory of its own");
    OPEN_FAILS((o.max_context = 1 << 27, o.max_seqs = 1 << 16), -EINVAL, "tokens");
    OPEN_FAILS(o.backend = "gpu", -EINVAL, "reference");
    broken.index.budget_tokens = 0;
    OPEN_FAILS(o.plan = &broken, -EINVAL, "budget");
    broken = plan;
    broken.shape.hidden = -4;
    OPEN_FAILS(o.plan = &broken, -EINVAL, "hidden");
    struct plan other = small_plan("token", 8);    // the other backbone: not this model's
    OPEN_FAILS((o.plan = &other), -EINVAL, "");
    if (engine_open(&engine, &(struct engine_options){.plan = &plan, .model = model, .backend = "cuda"}) != 0) {
        CHECK(strstr(status_text(), "cuda"));
    }
    engine_close(engine);
    engine_close(NULL);
    model_file_close(model);
}

static void check_bad_requests(void)
{
    struct plan plan = small_plan("clsa", 8);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, 1, &weights);
    struct engine_options options = {.plan = &plan, .model = model, .backend = "reference", .max_context = 16,
                                     .max_seqs = 2, .cache_tokens = 16};
    const int32_t tokens[20] = {1, 2, 300, -1};
    const struct engine_request good = {.prompt = tokens, .n_prompt = 2, .max_output_tokens = 2};
    struct engine_request r;
    struct engine *engine;
    const struct engine_output *outputs;
    int64_t id;
    CHECK(engine_open(&engine, &options) == 0);
    expect(engine_step(engine, &outputs), -ENODATA, "no request");
#define SUBMIT_FAILS(assignment, word)                                                                                 \
    do {                                                                                                               \
        r = good;                                                                                                      \
        assignment;                                                                                                    \
        expect(engine_submit(engine, &r, &id), -EINVAL, word);                                                         \
    } while (0)
    SUBMIT_FAILS(r.n_prompt = 0, "prompt");
    SUBMIT_FAILS(r.n_prompt = -5, "prompt");
    SUBMIT_FAILS(r.n_prompt = 17, "prompt");
    SUBMIT_FAILS(r.max_output_tokens = 0, "output");
    SUBMIT_FAILS(r.max_output_tokens = 15, "2 tokens and 15");
    SUBMIT_FAILS(r.max_output_tokens = INT32_MAX, "together");
    SUBMIT_FAILS(r.n_prompt = 3, "token 2 is 300");
    SUBMIT_FAILS((r.prompt = tokens + 3, r.n_prompt = 1), "token 0 is -1");
    SUBMIT_FAILS(r.forced = tokens + 1, "forced token 1 is 300");
    SUBMIT_FAILS(r.temperature = -1, "temperature");
    SUBMIT_FAILS(r.temperature = NAN, "temperature");
    SUBMIT_FAILS(r.top_p = 1.5f, "top-p");
    SUBMIT_FAILS(r.top_p = NAN, "top-p");
    CHECK(engine_submit(engine, &good, &id) == 0 && id == 0);    // and none of that was kept
    CHECK(engine_step(engine, &outputs) == 1);
    engine_close(engine);
    model_file_close(model);
}

static void check_source(void)
{
    struct plan plan = small_plan("block", 8);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, 1, &weights);
    struct engine_options options = {.plan = &plan, .model = model, .backend = "reference", .max_context = 16};
    struct engine *engine;
    struct sample_source source;
    CHECK(engine_open(&engine, &options) == 0);
    engine_source(engine, &source);
    CHECK(strcmp(source.model, "small") == 0 && strcmp(source.method, "block") == 0 && source.threads == 1);
    CHECK(strncmp(source.backend, "reference", 9) == 0 && source.top_k == 8 && source.index_sets == 2);
    CHECK(source.n_layers == 4 && source.page_tokens == plan.page_tokens && strlen(source.device) > 0);
    CHECK(strcmp(engine_plan(engine)->method, "block") == 0);
    engine_close(engine);
    model_file_close(model);
}

// What is forced follows, what was drawn is told; behind it the engine goes on by itself. Bad requests change nothing.
static void check_force(void)
{
    struct plan plan = small_plan("token", 4);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct engine_options options = {
        .plan = &plan, .model = model, .backend = "reference", .max_seqs = 2, .max_context = 64};
    int32_t *tokens = fixture_tokens(24, shape.vocab), drawn[2][10] = {{0}}, too_big = shape.vocab;
    struct engine_request request = {.prompt = tokens, .n_prompt = 16, .max_output_tokens = 10};
    const struct engine_output *outputs;
    struct engine *engine;
    int64_t id = -1;
    CHECK(engine_open(&engine, &options) == 0 && engine_submit(engine, &request, &id) == 0);
    CHECK(engine_force(engine, 1, tokens, 1) == -EINVAL && engine_force(engine, -1, tokens, 1) == -EINVAL);
    CHECK(engine_force(engine, id, tokens, 11) == -EINVAL && engine_force(engine, id, &too_big, 1) == -EINVAL);
    CHECK(engine_force(engine, id, tokens, 3) == 0 &&
          engine_force(engine, id, tokens + 16, 7) == 0);    // the last one counts
    for (int n; (n = engine_step(engine, &outputs)) >= 0;) {
        CHECK(n == 1 && outputs[0].index < 10);
        drawn[0][outputs[0].index] = outputs[0].token;
    }
    request.n_prompt = 23;    // the same tokens as a prompt
    request.max_output_tokens = 3;
    CHECK(engine_submit(engine, &request, &id) == 0);
    for (int n; (n = engine_step(engine, &outputs)) >= 0;) {
        CHECK(n == 1 && outputs[0].index < 3);
        drawn[1][outputs[0].index] = outputs[0].token;
    }
    CHECK_MESSAGE(memcmp(drawn[0] + 7, drawn[1], 3 * sizeof(int32_t)) == 0,
                  "what follows forced tokens differs from a prompt's");
    engine_close(engine);
    model_file_close(model);
    free(tokens);
}

int main(void)
{
    check_begin();
    for (int32_t m = 0; m < plan_method_count(); m++) {
        check_preemption(plan_method(m)->name);
        check_warm(plan_method(m)->name, "reference", 4);
        check_warm(plan_method(m)->name, "cpu", 4);
        check_warm(plan_method(m)->name, "cpu", 32);
        int64_t reused = 0;
        for (int i = 0; i < 6; i++) {
            check_reuse(plan_method(m)->name, i % 3 == 2 ? "cpu" : "reference", i % 2 ? 8 : 4, &reused);
        }
        CHECK_MESSAGE(reused > 0, "%s: nothing was reused", plan_method(m)->name);
    }
    check_forced_and_end();
    check_fork("clsa");
    check_fork("block");
    check_fork("quest");
    check_force();
    check_every_position();
    check_bad_options();
    check_bad_requests();
    check_source();
    return check_end();
}
