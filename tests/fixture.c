// tests/fixture.c - small models and whole generations.
#include "tests/fixture.h"

#include <errno.h>

#include "engine/status.h"
#include "tests/check.h"

static void fatal(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, status_text());
    exit(1);
}

static void randomise(const struct matrix *m, double centre, double deviation)
{
    union {
        const void *read;
        void *write;
    } data = {.read = m->data};    // random models live in memory of their own, which may be written
    for (int32_t i = 0; data.write && i < m->n_rows * m->n_cols; i++) {
        dtype_store(data.write, i, m->dtype, (float)(centre + deviation * (double)check_normal()));
    }
}

struct plan fixture_plan(const struct model_shape *shape, const char *method, const struct plan_options *options)
{
    struct plan plan;
    if (plan_build(&plan, shape, method, options)) {
        fatal(method);
    }
    return plan;
}

struct model_file *fixture_model(const struct plan *plan, uint64_t seed, struct model_weights *weights)
{
    struct model_file *model;
    check_state = seed;    // check.h keeps a stream of random numbers per file: this one follows from the caller's
    if (model_file_random(&model, &plan->shape, plan->weight_dtype, seed) || model_file_weights(model, plan, weights)) {
        fatal("random model");
    }
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        const struct layer_weights *w = &weights->layers[l];
        randomise(&w->attention_norm, 1, 0.2);
        randomise(&w->q_norm, 1.5, 0.3);
        randomise(&w->k_norm, 1.5, 0.3);
        randomise(&w->ffn_norm, 1, 0.2);
    }
    randomise(&weights->memory_norm, 1, 0.2);
    randomise(&weights->final_norm, 1, 0.2);
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {    // last: the backbone does not depend on the method
        randomise(&weights->layers[l].index.k_norm, 1, 0.2);
        randomise(&weights->layers[l].index.k_norm_bias, 0, 0.2);
    }
    return model;
}

int32_t *fixture_tokens(int32_t n, int32_t vocab)
{
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    for (int32_t i = 0; tokens && i < n; i++) {
        tokens[i] = (int32_t)(check_random() % (uint64_t)vocab);
    }
    return tokens;
}

static void submit(struct engine *engine, struct fixture_text *text, int32_t vocab, bool every_position)
{
    int32_t n_output = text->n_tokens - text->n_prompt + 1;
    int32_t *forced = calloc((size_t)n_output, sizeof *forced);
    memcpy(forced, text->tokens + text->n_prompt, (size_t)(n_output - 1) * sizeof *forced);
    struct engine_request request = {.prompt = text->tokens, .n_prompt = text->n_prompt, .max_output_tokens = n_output,
                                     .forced = forced};
    int64_t id;
    text->logits = calloc((size_t)(every_position ? text->n_tokens : n_output) * (size_t)vocab, sizeof *text->logits);
    if (engine_submit(engine, &request, &id)) {
        fatal("submit");
    }
    free(forced);
}

int fixture_generate(const struct plan *plan, struct model_file *model, struct engine_options options,
                     struct fixture_text *texts, int32_t n_texts)
{
    struct engine *engine;
    const struct engine_output *outputs;
    size_t row_bytes = (size_t)plan->shape.vocab * sizeof(float);
    int n = 0;
    options.plan = plan;
    options.model = model;
    if (engine_open(&engine, &options)) {
        fatal("engine");
    }
    engine_keep_logits(engine, true);
    for (int32_t i = 0; i < n_texts; i++) {
        submit(engine, &texts[i], plan->shape.vocab, options.every_position);
    }
    while ((n = engine_step(engine, &outputs)) >= 0) {
        for (int32_t i = 0; i < n; i++) {
            struct fixture_text *text = &texts[outputs[i].request];
            int64_t row = outputs[i].index;
            if (!options.every_position) {
                memcpy(text->logits + row * plan->shape.vocab, outputs[i].logits, row_bytes);
            } else if (row == 0) {    // the whole prompt in one step: all its rows, of this one text
                memcpy(text->logits, engine_logits(engine, &(int32_t){0}), (size_t)text->n_prompt * row_bytes);
            } else {
                memcpy(text->logits + (text->n_prompt + row - 1) * plan->shape.vocab, outputs[i].logits, row_bytes);
            }
        }
    }
    engine_close(engine);
    return n == -ENODATA ? 0 : n;
}
