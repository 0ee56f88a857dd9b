// cli/command.h - the subcommands, and what they share: choosing a model, a plan and an engine from flags.
#pragma once

#include "cli/options.h"
#include "engine/engine.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_WRONG_INPUT = 2, EXIT_INTERRUPTED = 130 };

// Each takes argv from its own name on and returns an exit status.
int command_run(int argc, char **argv);
int command_compare(int argc, char **argv);
int command_profile(int argc, char **argv);
int command_trace(int argc, char **argv);
int command_calibrate(int argc, char **argv);
int command_sim(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_top(int argc, char **argv);
int command_model(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_devices(int argc, char **argv);

// Prints "clsa compare: <status_text()>" on stderr and returns the exit status that belongs to `error`.
int command_fail(const char *command, int error);

// A plan's knobs as flags: put PLAN_OPTIONS(variable) into a command's table of options.
struct plan_flags {
    const char *index_dtype, *weight_dtype, *kv_dtype;    // names, NULL: the preset's
    struct plan_options options;
};
struct plan_flags plan_flags_default(void);
int plan_flags_resolve(struct plan_flags *flags);    // names -> options; -EINVAL
#define PLAN_OPTIONS(flags)                                                                                            \
    PLAN_OTHER_OPTIONS(flags),                                                                                         \
    {"top-k", OPTION_INT, &(flags).options.top_k, 1, 1 << 24, "tokens", "budget of selected tokens"}
// All but the budget, for a command that has a list of them.
#define PLAN_OTHER_OPTIONS(flags)                                                                                      \
    {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "Method (0 or none: the preset's value)"},                                  \
    {"block-tokens", OPTION_INT, &(flags).options.block_tokens, 1, 1 << 16, "tokens", "size of a selected unit"},      \
    {"index-every", OPTION_INT, &(flags).options.index_every, 1, 256, "layers", "layers that share one index"},        \
    {"index-heads", OPTION_INT, &(flags).options.index_heads, 1, 1024, "heads", "query heads of the indexer"},         \
    {"index-dim", OPTION_INT, &(flags).options.index_dim, 1, 4096, "elements", "size of an index key"},                \
    {"index-dtype", OPTION_TEXT, &(flags).index_dtype, 0, 0, "f32|bf16|fp8", "type of cached index keys"},             \
    {"kv-dtype", OPTION_TEXT, &(flags).kv_dtype, 0, 0, "f32|bf16|fp8", "type of cached keys and values"},              \
    {"weight-dtype", OPTION_TEXT, &(flags).weight_dtype, 0, 0, "f32|bf16", "type of random weights"},                  \
    {"window", OPTION_INT, &(flags).options.window_tokens, 1, 1 << 24, "tokens", "window of YOCO's window layers"},    \
    {"keep-local", OPTION_INT, &(flags).options.keep_local, 0, 1 << 20, "units", "newest units always selected"},      \
    {"keep-sink", OPTION_INT, &(flags).options.keep_sink, 0, 1 << 20, "units", "first units always selected"},         \
    {"page-tokens", OPTION_INT, &(flags).options.page_tokens, 1, 1 << 16, "tokens", "tokens per page of the KV cache"}

// A model from --model: a folder, the name of a size ("demo-8m": random weights from `seed`) or of a trained model that
// is shipped ("demo-yoco", or "demo" for the one that fits). `method`, which may be NULL, decides the backbone of a
// size and of "demo". *file is owned by the caller.
int command_model_open(struct model_file **file, const char *model, const char *method, const struct plan_flags *flags,
                       uint64_t seed);

// The plan of `method` for an open model: its shape, its weights' type, and the knobs.
int command_plan_build(struct plan *out, const struct model_file *file, const char *method,
                       const struct plan_flags *flags);

// The methods' names, comma-separated, for error texts.
void command_method_names(char *names, size_t bytes);

// A prompt as tokens, from a file or from text given on the command line; neither or both is -EINVAL.
// *context_tokens 0: becomes the whole text's length. *tokens is owned by the caller.
int command_prompt(int32_t **tokens, int32_t *n_tokens, int32_t *context_tokens, const char *file, const char *text);
