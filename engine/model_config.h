// engine/model_config.h - a Hugging Face config.json as a plan.
//
// Reads our own models and the GQA, MLA and MoE families (Llama, Mistral, Qwen3, Gemma, DeepSeek-V3/V3.2, GLM, ...).
// Pure: text in, plan out; the caller reads the file. Unknown keys are ignored, missing or absurd sizes are -EINVAL
// with the key and what was expected.
#pragma once

#include <stddef.h>

#include "engine/plan.h"

struct model_config {
    struct plan native;    // as the config declares it: window layers, latent attention, DeepSeek's indexer, index
                           // sharing. native.method is "dense" or "yoco" for our own models, else "native"
    bool runnable;         // our own layout, which model_file_open can read
};

// `text` [length] need not end in 0. `where` names it in errors ("model/config.json").
int model_config_parse(struct model_config *out, const char *text, size_t length, const char *where);

// The config.json of one of our models, as text to be freed by the caller. -ENOMEM.
int model_config_write(char **out, const struct model_shape *shape, enum dtype weight_dtype);
