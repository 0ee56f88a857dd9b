// cli/command.c - what the subcommands share.
#include "cli/command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/measure.h"
#include "cli/shipped.h"
#include "engine/status.h"
#include "engine/tokenizer.h"

int command_fail(const char *command, int error)
{
    fprintf(stderr, "clsa %s: %s\n", command, status_text());
    return error == -EINVAL ? EXIT_WRONG_INPUT : error == -EINTR ? EXIT_INTERRUPTED : EXIT_FAILED;
}

struct plan_flags plan_flags_default(void)
{
    return (struct plan_flags){.options = plan_options_default()};
}

static int resolve(int32_t *out, const char *flag, const char *name, bool fp8_allowed)
{
    if (!name) {
        return 0;
    }
    enum dtype dtype;
    int error = dtype_from_name(&dtype, name);
    if (error) {
        return status_prefix(error, "--%s: ", flag);
    }
    if (dtype == DTYPE_FP8 && !fp8_allowed) {
        return status_fail(-EINVAL, "--%s %s: expected f32 or bf16", flag, name);
    }
    *out = (int32_t)dtype;
    return 0;
}

int plan_flags_resolve(struct plan_flags *flags)
{
    int error = resolve(&flags->options.index_dtype, "index-dtype", flags->index_dtype, true);
    error = error ? error : resolve(&flags->options.weight_dtype, "weight-dtype", flags->weight_dtype, false);
    return error ? error : resolve(&flags->options.kv_dtype, "kv-dtype", flags->kv_dtype, true);
}

static int fail_unknown_model(const char *model, const char *tried)
{
    if (shipped_is_pair(model)) {
        return status_fail(-EINVAL, "--model %s: the trained models are not where they belong: no %s", model, tried);
    }
    char names[256] = "";
    for (int32_t i = 0; i < plan_model_count(); i++) {
        strcat(strcat(names, plan_model(i)->name), ", ");
    }
    return status_fail(-EINVAL, "--model %s: neither a folder nor a known size (%sdemo: trained)", model, names);
}

int command_model_open(struct model_file **file, const char *model, const char *method, const struct plan_flags *flags,
                       uint64_t seed)
{
    *file = NULL;
    struct stat info;
    if (stat(model, &info) == 0) {
        return model_file_open(file, model);
    }
    const struct model_shape *known = plan_find_model(model);
    const struct method_info *info_of = method ? plan_find_method(method) : NULL;
    if (!known) {
        char folder[PATH_MAX];
        bool shipped = shipped_folder(folder, model, info_of ? info_of->backbone : BACKBONE_YOCO);
        return shipped ? model_file_open(file, folder) : fail_unknown_model(model, folder);
    }
    struct model_shape shape = *known;
    if (info_of) {
        shape.backbone = info_of->backbone;
    }
    enum dtype weight_dtype = flags->options.weight_dtype < 0 ? DTYPE_BF16 : (enum dtype)flags->options.weight_dtype;
    return model_file_random(file, &shape, weight_dtype, seed);
}

int command_plan_build(struct plan *out, const struct model_file *file, const char *method,
                       const struct plan_flags *flags)
{
    const struct plan *native = &model_file_config(file)->native;
    struct plan_options options = flags->options;
    options.weight_dtype = (int32_t)native->weight_dtype;
    return plan_build(out, &native->shape, method, &options);
}

void command_method_names(char *names, size_t bytes)
{
    size_t length = 0;
    names[0] = 0;
    for (int32_t i = 0; i < plan_method_count() && length < bytes; i++) {
        length += (size_t)snprintf(names + length, bytes - length, "%s%s", i ? ", " : "", plan_method(i)->name);
    }
}

int command_prompt(int32_t **tokens, int32_t *n_tokens, int32_t *context_tokens, const char *file, const char *text)
{
    *tokens = NULL;
    if (!file == !text) {
        return status_fail(-EINVAL, "give the prompt either as --prompt FILE or as --text TEXT");
    }
    if (file) {
        int error = measure_read_prompt(tokens, n_tokens, file);
        if (error) {
            return error;
        }
    } else {
        size_t length = strlen(text);
        *tokens = malloc((length + 1) * sizeof **tokens);
        if (!*tokens) {
            return status_fail(-ENOMEM, "out of memory for the prompt");
        }
        *n_tokens = tokenizer_encode(*tokens, text, length);
    }
    if (*context_tokens == 0) {
        *context_tokens = *n_tokens;
    }
    return 0;
}
