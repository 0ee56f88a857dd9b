// tests/fixture.h - what the tests of the engine share: small models with every weight random, and whole generations.
#pragma once

#include "engine/engine.h"

// A random model for `plan` (f32 or bf16 weights as the plan says), norms and biases random too, so that none of them
// can be forgotten unnoticed. Ends the program on failure. *weights are its host matrices, valid until the model
// closes.
struct model_file *fixture_model(const struct plan *plan, uint64_t seed, struct model_weights *weights);

// A plan over `shape`, ending the program on failure.
struct plan fixture_plan(const struct model_shape *shape, const char *method, const struct plan_options *options);

// One text: its first n_prompt tokens are the prompt, the rest is forced. logits [n_tokens - n_prompt + 1][vocab] are
// what was predicted after the prompt and after each forced token; with every_position [n_tokens][vocab] of all.
struct fixture_text {
    const int32_t *tokens;    // [n_tokens]
    int32_t n_tokens, n_prompt;
    float *logits;            // out, to be freed by the caller
};

// Runs all texts at once through an engine; options.plan and .model are filled in. Returns engine_step's error, 0 if
// all texts were finished.
int fixture_generate(const struct plan *plan, struct model_file *model, struct engine_options options,
                     struct fixture_text *texts, int32_t n_texts);

// Random tokens below vocab [n], to be freed by the caller.
int32_t *fixture_tokens(int32_t n, int32_t vocab);
