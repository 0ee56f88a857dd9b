// tests/test_probe.c - what a probed step says of its selections, by two ways that share no code.
//
// Coverage comes from two log-sum-exps of the backend's attention; the mass of single tokens from queries and cached
// keys on the host. Summed over what was selected, the second must give the first.
#include <errno.h>

#include "engine/engine.h"
#include "engine/selection_metrics.h"
#include "engine/status.h"
#include "tests/check.h"
#include "tests/fixture.h"

static const struct model_shape shape = {.name = "small",
                                         .hidden = 64,
                                         .ffn = 64,
                                         .n_layers = 6,
                                         .n_heads = 4,
                                         .n_kv_heads = 2,
                                         .head_dim = 32,
                                         .vocab = 300,
                                         .window_tokens = 6,
                                         .top_k = 8,
                                         .index_dim = 32,
                                         .lightning_heads = 2,
                                         .rope_theta_window = 1e4f,
                                         .rope_theta_global = 5e5f,
                                         .norm_eps = 1e-5f};

enum { PROMPT = 90, OUTPUT = 8, SEQS = 3, CONTEXT = PROMPT + OUTPUT, BUDGET = 8 };

static bool selects(const struct plan *plan, int32_t layer)
{
    return plan->layers[layer].index_from >= 0;
}

// Over all sets of one indexer: the mass of what was selected must be the coverage of the layers that follow it.
static void check_indexer(struct engine *engine, const struct plan *plan, int32_t index_from, int32_t row,
                          int32_t position)
{
    float mass[CONTEXT];
    int32_t tokens[CONTEXT], exact[CONTEXT], n_tokens, layers = 0;
    double by_mass = 0, by_lse = 0;
    for (int32_t set = 0; set < plan->index.sets; set++) {
        const int32_t *units;
        double total = 0;
        CHECK_MESSAGE(engine_dense_mass(engine, index_from, row, set, mass, &n_tokens) == 0, "%s", status_text());
        CHECK(n_tokens == position + 1);
        for (int32_t t = 0; t < n_tokens; t++) {
            total += (double)mass[t];
        }
        CHECK_MESSAGE(fabs(total - 1) <= 1e-4, "the mass of all tokens is %g", total);
        int32_t n_units = engine_selection(engine, index_from, row, set, &units);
        int32_t n = selection_tokens(tokens, units, n_units, plan->index.unit_tokens, n_tokens);
        CHECK(n > 0 && n <= BUDGET);
        by_mass += selection_mass(mass, tokens, n) / plan->index.sets;
        CHECK(selection_exact(exact, mass, n_tokens, n) == n);
        CHECK(selection_mass(mass, exact, n) >= selection_mass(mass, tokens, n) - 1e-6);
    }
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        if (plan->layers[layer].index_from == index_from) {
            double coverage = engine_coverage(engine, layer, row);
            CHECK_MESSAGE(coverage > 0 && coverage <= 1 + 1e-5, "layer %d covers %g", layer, coverage);
            by_lse += coverage;
            layers++;
        }
    }
    CHECK_MESSAGE(fabs(by_mass - by_lse / layers) <= 2e-4, "%s, indexer %d: %g by mass, %g by lse", plan->method,
                  index_from, by_mass, by_lse / layers);
}

// Every step is probed; what is drawn must be what an engine draws that never was.
static void run(const struct plan *plan, struct model_file *model, const char *backend, const int32_t *prompt,
                bool probed, int32_t drawn[SEQS][OUTPUT])
{
    struct engine_options options = {.plan = plan,
                                     .model = model,
                                     .backend = backend,
                                     .max_seqs = SEQS,
                                     .max_context = CONTEXT,
                                     .max_step_tokens = SEQS * PROMPT};
    const struct engine_output *outputs;
    struct engine *engine;
    int32_t checked = 0;
    int64_t id;
    CHECK_MESSAGE(engine_open(&engine, &options) == 0, "%s", status_text());
    CHECK(engine_probe(engine, probed) == 0);
    for (int32_t s = 0; s < SEQS; s++) {
        struct engine_request request = {.prompt = prompt + s, .n_prompt = PROMPT - 7 * s, .max_output_tokens = OUTPUT};
        CHECK(engine_submit(engine, &request, &id) == 0 && id == s);
    }
    for (int n; (n = engine_step(engine, &outputs)) >= 0;) {
        for (int i = 0; i < n; i++) {
            int64_t s = outputs[i].request;
            drawn[s][outputs[i].index] = outputs[i].token;
            for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
                bool known =
                    probed && outputs[i].index > 0 && selects(plan, layer);    // the first comes from a prompt's step
                CHECK(isnan(engine_coverage(engine, layer, i)) == !known);
                if (known && plan_runs_indexer(plan, layer)) {
                    check_indexer(engine, plan, layer, i, PROMPT - 7 * (int32_t)s + outputs[i].index - 1);
                    checked++;
                }
            }
        }
    }
    float mass[CONTEXT];
    int32_t n_tokens;
    CHECK(engine_dense_mass(engine, 0, 99, 0, mass, &n_tokens) == -EINVAL && isnan(engine_coverage(engine, 99, 0)));
    CHECK(checked > 0 || !probed || plan->index.budget_tokens == 0);
    engine_close(engine);
}

static void check_method(const char *method, const char *backend, bool fp8)
{
    struct plan_options options = plan_options_default();
    options.top_k = BUDGET;
    options.page_tokens = 8;
    options.kv_dtype = fp8 ? DTYPE_FP8 : options.kv_dtype;
    struct plan plan = fixture_plan(&shape, method, &options);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    int32_t *prompt = fixture_tokens(PROMPT + SEQS, shape.vocab), plain[SEQS][OUTPUT] = {{0}},
            probed[SEQS][OUTPUT] = {{0}};
    run(&plan, model, backend, prompt, false, plain);
    run(&plan, model, backend, prompt, true, probed);
    CHECK_MESSAGE(memcmp(plain, probed, sizeof plain) == 0, "%s on %s%s: a probe changed what was drawn", method,
                  backend, fp8 ? ", fp8 pages" : "");
    model_file_close(model);
    free(prompt);
}

static void check_metrics(void)
{
    float mass[64];
    int32_t n = check_range(1, 64), k = check_range(1, 70), exact[64], units[] = {1, 3, 4}, others[] = {0, 3, 4, 9},
            tokens[12];
    for (int32_t t = 0; t < n; t++) {
        mass[t] = (float)check_range(0, 9);    // with many ties
    }
    int32_t got = selection_exact(exact, mass, n, k);
    CHECK(got == (k < n ? k : n));
    for (int32_t t = 0; t < n; t++) {
        int32_t better = 0;
        bool chosen = false;
        for (int32_t other = 0; other < n; other++) {
            better += mass[other] > mass[t] || (!(mass[other] < mass[t]) && other < t);
        }
        for (int32_t i = 0; i < got; i++) {
            chosen |= exact[i] == t;
            CHECK(i == 0 || exact[i] > exact[i - 1]);
        }
        CHECK_MESSAGE(chosen == (better < k), "token %d of %d, %d better ones, k %d", t, n, better, k);
    }
    CHECK(fabs(selection_share(units, 3, others, 4) - 2.0 / 3) < 1e-12 &&
          fabs(selection_share(others, 4, units, 3) - 0.5) < 1e-12);
    CHECK(fabs(selection_iou(units, 3, others, 4) - 0.4) < 1e-12 && isnan(selection_share(units, 0, others, 4)));
    CHECK(isnan(selection_iou(units, 0, others, 0)) && selection_iou(units, 3, units, 3) >= 1);
    CHECK(selection_tokens(tokens, units, 3, 4, 18) == 10 && tokens[0] == 4 && tokens[4] == 12 && tokens[9] == 17);
}

static bool has_gpu(void)
{
    struct plan plan = fixture_plan(&shape, "dense", NULL);
    struct backend_options options = {.plan = &plan, .max_rows = 1, .max_seqs = 1, .max_context = 64};
    struct backend_context *context;
    const struct backend *cuda;
    bool here = backend_find(&cuda, "cuda") == 0 && cuda->open(&context, &options) == 0;
    if (here) {
        cuda->close(context);
    } else {
        printf("not probed on a GPU: %s\n", status_text());
    }
    return here;
}

int main(void)
{
    static const char *const methods[] = {"dense",      "yoco", "block",      "token",      "dsa",
                                          "indexcache", "clsa", "clsa-block", "yoco-token", "quest"};
    check_begin();
    check_metrics();
    bool gpu = has_gpu();
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        for (int fp8 = 0; fp8 < 2; fp8++) {
            check_method(methods[i], "reference", fp8);
            check_method(methods[i], "cpu", fp8);
            if (gpu) {
                check_method(methods[i], "cuda", fp8);
            }
        }
    }
    return check_end();
}
