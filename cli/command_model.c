// cli/command_model.c - model folders: init writes a random one, info describes any model, check reads one whole.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/shipped.h"
#include "cli/table.h"
#include "engine/cost.h"
#include "engine/status.h"

enum { MAX_METHODS = 32, NAMES_BYTES = 512 };

static const double mib = 1048576;

// init

struct init {
    const char *preset, *backbone, *methods, *out;
    int64_t seed;
    int32_t max_shard_mb;
    struct plan_flags flags;
    struct model_shape shape;
    struct plan *plans;                         // [n_plans] owned
    const struct plan *pointers[MAX_METHODS];
    int32_t n_plans;
};

static void append(char *names, const char *name)
{
    if (strlen(names) + strlen(name) + 3 < NAMES_BYTES) {
        strcat(strcat(names, *names ? ", " : ""), name);
    }
}

static void preset_names(char *names)
{
    names[0] = 0;
    for (int32_t i = 0; i < plan_model_count(); i++) {
        append(names, plan_model(i)->name);
    }
}

static int unknown_preset(const char *given)
{
    char names[NAMES_BYTES];
    preset_names(names);
    if (!given) {
        return status_fail(-EINVAL, "--preset is missing: expected one of %s", names);
    }
    return status_fail(-EINVAL, "--preset %s: expected one of %s", given, names);
}

static int add_method(struct init *init, const char *name)
{
    if (init->n_plans == MAX_METHODS) {
        return status_fail(-EINVAL, "--methods: names more than %d", MAX_METHODS);
    }
    const struct method_info *method = plan_find_method(name);
    if (!method) {
        char names[NAMES_BYTES];
        command_method_names(names, sizeof names);
        return status_fail(-EINVAL, "--methods %s: expected some of %s", name, names);
    }
    if (init->n_plans == 0 && !init->backbone) {
        init->shape.backbone = method->backbone;
    }
    if (method->backbone != init->shape.backbone) {
        return status_fail(-EINVAL, "--methods: %s needs a %s, but the model is a %s: write a folder for each", name,
                           method->backbone == BACKBONE_YOCO ? "YOCO" : "Transformer",
                           method->backbone == BACKBONE_YOCO ? "Transformer" : "YOCO");
    }
    struct plan *plan = &init->plans[init->n_plans];
    int error = plan_build(plan, &init->shape, name, &init->flags.options);
    if (!error) {
        init->pointers[init->n_plans++] = plan;
    }
    return error;
}

static int add_methods(struct init *init)
{
    if (!init->methods) {    // all of the backbone
        int error = 0;
        for (int32_t i = 0; i < plan_method_count() && !error; i++) {
            if (plan_method(i)->backbone == init->shape.backbone) {
                error = add_method(init, plan_method(i)->name);
            }
        }
        return error;
    }
    char *list = strdup(init->methods), *rest = NULL;
    int error = list ? 0 : status_fail(-ENOMEM, "out of memory");
    for (char *name = list ? strtok_r(list, ",", &rest) : NULL; name && !error; name = strtok_r(NULL, ",", &rest)) {
        error = add_method(init, name);
    }
    free(list);
    if (!error && init->n_plans == 0) {
        error = status_fail(-EINVAL, "--methods: expected names, as in clsa,yoco");
    }
    return error;
}

static int resolve_backbone(struct init *init)
{
    if (!init->backbone) {
        return 0;
    }
    if (strcmp(init->backbone, "yoco") == 0) {
        init->shape.backbone = BACKBONE_YOCO;
    } else if (strcmp(init->backbone, "transformer") == 0) {
        init->shape.backbone = BACKBONE_TRANSFORMER;
    } else {
        return status_fail(-EINVAL, "--backbone %s: expected transformer or yoco", init->backbone);
    }
    return 0;
}

static int show_progress(void *user, int64_t done, int64_t total)
{
    struct progress *progress = user;
    if (progress->total == 0) {
        progress_begin(progress, "clsa: writing", total);
    }
    progress_update(progress, done);
    return interrupt_check();
}

static int init_it(struct init *init)
{
    const struct model_shape *preset = init->preset ? plan_find_model(init->preset) : NULL;
    if (!preset) {
        return unknown_preset(init->preset);
    }
    if (!init->out) {
        return status_fail(-EINVAL, "--out is missing: name the folder to write");
    }
    init->shape = *preset;
    init->plans = calloc(MAX_METHODS, sizeof *init->plans);
    int error = init->plans ? 0 : status_fail(-ENOMEM, "out of memory");
    error = error ? error : plan_flags_resolve(&init->flags);
    error = error ? error : resolve_backbone(init);
    error = error ? error : add_methods(init);
    if (error) {
        return error;
    }
    struct progress progress = {0};
    const struct model_file_random_options options = {
        .shape = &init->shape, .weight_dtype = init->plans[0].weight_dtype, .seed = (uint64_t)init->seed,
        .plans = init->pointers, .n_plans = init->n_plans, .max_shard_bytes = (int64_t)init->max_shard_mb * 1000000,
        .progress = show_progress, .user = &progress,
    };
    interrupt_catch();
    error = model_file_write(init->out, &options);
    progress_end(&progress);
    if (!error) {
        printf("%s: %s as %s, %.1f MiB of %s weights\n", init->out, init->shape.name,
               init->shape.backbone == BACKBONE_YOCO ? "YOCO" : "Transformer", (double)progress.total / mib,
               dtype_name(options.weight_dtype));
    }
    return error;
}

static int command_init(int argc, char **argv)
{
    struct init init = {.seed = 1, .flags = plan_flags_default()};
    const struct option_spec options[] = {
        {"preset", OPTION_TEXT, &init.preset, 0, 0, "NAME", "size of the model (clsa model info NAME describes it)"},
        {"out", OPTION_TEXT, &init.out, 0, 0, "FOLDER", "new folder to write"},
        {"methods", OPTION_TEXT, &init.methods, 0, 0, "NAME[,NAME]",
         "whose indexers it has (default: all of the backbone)"},
        {"backbone", OPTION_TEXT, &init.backbone, 0, 0, "transformer|yoco", "default: that of --methods, or yoco"},
        {"seed", OPTION_LONG, &init.seed, 0, 9e18, "N", "of the weights"},
        {"weight-dtype", OPTION_TEXT, &init.flags.weight_dtype, 0, 0, "f32|bf16", "of the weights (default: bf16)"},
        {"max-shard-mb", OPTION_INT, &init.max_shard_mb, 1, 1 << 20, "MB", "split into files of at most this"},
        {"index-heads", OPTION_INT, &init.flags.options.index_heads, 1, 1024, "heads", "query heads of the indexers"},
        {"index-dim", OPTION_INT, &init.flags.options.index_dim, 1, 4096, "elements", "size of an index key"},
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"model init", "Write a model with random weights.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    error = error ? error : init_it(&init);
    free(init.plans);
    return error ? command_fail("model init", error) : EXIT_DONE;
}

// info

struct info {
    bool json, tensors;
    struct model_config config;
    struct model_file *file;    // NULL: a size or a foreign config
};

static const struct table_column model_columns[] = {
    {"model", "model", -1},           {"backbone", "backbone", -1},     {"layers", "layers", 0},
    {"hidden", "hidden", 0},          {"ffn", "ffn", 0},                {"heads", "heads", 0},
    {"kv_heads", "KV heads", 0},      {"head_dim", "head dim", 0},      {"vocab", "vocabulary", 0},
    {"experts", "experts", 0},        {"window_tokens", "window", 0},   {"top_k", "k", 0},
    {"weight_dtype", "weights", -1},  {"tensors", "tensors", 0},
};

static const struct table_column method_columns[] = {
    {"method", "method", -1},
    {"parameters_m", "parameters M", 2},
    {"weight_mib", "weights MiB", 1},
    {"kv_bytes_per_token", "KV B/token", 0},
    {"kv_bytes_per_sequence", "KV B/sequence", 0},
    {"note", "", -1},
};

static const struct table_column tensor_columns[] = {
    {"tensor", "tensor", -1}, {"file", "file", -1},       {"dtype", "type", -1},
    {"rows", "rows", 0},      {"columns", "columns", 0},  {"bytes", "bytes", 0},
};

#define TABLE(name, columns) table_open(name, columns, (int32_t)(sizeof(columns) / sizeof *(columns)))

static double count(bool known, int32_t value)
{
    return known ? (double)value : (double)NAN;
}

static void fill_model(struct table *table, const struct info *info)
{
    const struct plan *native = &info->config.native;
    const struct model_shape *shape = &native->shape;
    table_row(table);
    table_text(table, "model", shape->name);
    table_text(table, "backbone", shape->backbone == BACKBONE_YOCO ? "YOCO" : "Transformer");
    table_number(table, "layers", shape->n_layers);
    table_number(table, "hidden", shape->hidden);
    table_number(table, "ffn", shape->ffn);
    table_number(table, "heads", shape->n_heads);
    table_number(table, "kv_heads", count(!shape->mla.kv_lora_rank, shape->n_kv_heads));
    table_number(table, "head_dim", shape->head_dim);
    table_number(table, "vocab", shape->vocab);
    table_number(table, "experts", count(shape->moe.n_experts > 0, shape->moe.n_experts));
    table_number(table, "window_tokens", shape->window_tokens);
    table_number(table, "top_k", shape->top_k);
    table_text(table, "weight_dtype", dtype_name(native->weight_dtype));
    table_number(table, "tensors", info->file ? (double)model_file_tensor_count(info->file) : (double)NAN);
}

static void fill_plan(struct table *table, const struct plan *plan, const char *note)
{
    table_number(table, "parameters_m", (double)plan_parameters(plan) * 1e-6);
    table_number(table, "weight_mib", (double)plan_weight_bytes(plan) / mib);
    table_number(table, "kv_bytes_per_token", (double)plan_kv_bytes_per_token(plan));
    table_number(table, "kv_bytes_per_sequence", (double)plan_kv_bytes_per_sequence(plan));
    table_text(table, "note", note);
}

static void fill_methods(struct table *table, const struct info *info)
{
    const struct plan *native = &info->config.native;
    struct plan_options options = plan_options_default();
    options.weight_dtype = (int32_t)native->weight_dtype;
    if (!plan_find_method(native->method)) {
        table_row(table);
        table_text(table, "method", native->method);
        fill_plan(table, native, "as its config declares it");
    }
    for (int32_t i = 0; i < plan_method_count(); i++) {
        struct plan plan;
        struct model_weights weights;
        table_row(table);
        table_text(table, "method", plan_method(i)->name);
        if (plan_build(&plan, &native->shape, plan_method(i)->name, &options) != 0) {
            table_text(table, "note", status_text());
        } else if (info->file && plan.shape.backbone != native->shape.backbone) {
            fill_plan(table, &plan, "needs the other backbone");
        } else if (info->file && model_file_weights(info->file, &plan, &weights) != 0) {
            fill_plan(table, &plan, "its indexer is not in this model");
        } else {
            fill_plan(table, &plan, info->file ? "runs" : "");
        }
    }
}

static void fill_tensors(struct table *table, const struct info *info)
{
    int32_t n = info->file ? model_file_tensor_count(info->file) : 0;
    for (int32_t i = 0; i < n; i++) {
        const struct model_file_tensor *tensor = model_file_tensor(info->file, i);
        table_row(table);
        table_text(table, "tensor", tensor->name);
        table_text(table, "file", tensor->file);
        table_text(table, "dtype", dtype_name(tensor->dtype));
        table_number(table, "rows", tensor->n_rows);
        table_number(table, "columns", tensor->n_cols);
        table_number(table, "bytes", (double)tensor->bytes);
    }
}

static int print_info(const struct info *info)
{
    struct table *tables[] = {TABLE("model", model_columns), TABLE("methods", method_columns),
                              TABLE("tensors", tensor_columns)};
    int32_t n_shown = info->tensors ? 3 : 2;
    int error = 0;
    if (tables[0] && tables[1] && tables[2]) {
        fill_model(tables[0], info);
        fill_methods(tables[1], info);
        fill_tensors(tables[2], info);
        if (info->json) {
            tables_print_json((const struct table *const *)tables, n_shown, stdout);
        }
        for (int32_t i = 0; i < n_shown && !info->json; i++) {
            fputs(i ? "\n" : "", stdout);
            table_print(tables[i], stdout);
        }
    } else {
        error = status_fail(-ENOMEM, "out of memory for the tables");
    }
    for (int32_t i = 0; i < 3; i++) {
        table_close(tables[i]);
    }
    return error;
}

// `name`, or the folder of the shipped model of that name.
static const char *folder_of(char path[PATH_MAX], const char *name)
{
    struct stat about;
    return stat(name, &about) != 0 && shipped_folder(path, name, BACKBONE_YOCO) ? path : name;
}

// A folder with weights, a config.json or a folder with only that, or the name of a size or of a shipped model.
static int find_model(struct info *info, const char *given)
{
    char shipped[PATH_MAX];
    const char *name = folder_of(shipped, given);
    const struct model_shape *preset = plan_find_model(name);
    struct stat about;
    if (stat(name, &about) != 0 && preset) {
        info->config.runnable = true;
        return plan_build(&info->config.native, preset, preset->backbone == BACKBONE_YOCO ? "yoco" : "dense", NULL);
    }
    if (stat(name, &about) != 0 && errno == ENOENT) {
        char names[NAMES_BYTES];
        preset_names(names);
        return status_fail(-EINVAL, "%s: neither a folder, a config.json nor a known size (%s)", name, names);
    }
    int error = model_file_load_config(&info->config, name);
    if (error || !S_ISDIR(about.st_mode) || !info->config.runnable) {
        return error;
    }
    return model_file_open(&info->file, name);
}

static int command_info(int argc, char **argv)
{
    struct info info = {.json = false};
    const struct option_spec options[] = {
        {"tensors", OPTION_FLAG, &info.tensors, 0, 0, NULL, "list the tensors of a folder"},
        {"json", OPTION_FLAG, &info.json, 0, 0, NULL, "print JSON"},
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"model info", "Sizes, parameters and KV bytes of a model under each method.",
                                         "FOLDER|PRESET|config.json", 1, 1, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    error = error ? error : find_model(&info, argv[1]);
    error = error ? error : print_info(&info);
    model_file_close(info.file);
    return error ? command_fail("model info", error) : EXIT_DONE;
}

// check

static const struct table_column check_columns[] = {
    {"model", "model", -1},      {"tensors", "tensors", 0},  {"parameters_m", "parameters M", 2},
    {"mib", "MiB", 1},           {"weight_dtype", "type", -1}, {"methods", "runs", -1},
};

static int check_tensor(const struct model_file_tensor *tensor, const char *folder)
{
    int64_t n = (int64_t)tensor->n_rows * tensor->n_cols;
    for (int64_t i = 0; i < n; i++) {
        float value = dtype_load(tensor->data, i, tensor->dtype);
        if (!isfinite(value)) {
            return status_fail(-EINVAL, "%s/%s: tensor %.80s is %s at [%lld, %lld]: the weights are damaged", folder,
                               tensor->file, tensor->name, isnan(value) ? "not a number" : "infinite",
                               (long long)(i / tensor->n_cols), (long long)(i % tensor->n_cols));
        }
    }
    return 0;
}

static void runnable_methods(char *names, struct model_file *file)
{
    struct plan_options options = plan_options_default();
    const struct plan *native = &model_file_config(file)->native;
    options.weight_dtype = (int32_t)native->weight_dtype;
    names[0] = 0;
    for (int32_t i = 0; i < plan_method_count(); i++) {
        struct plan plan;
        struct model_weights weights;
        const char *name = plan_method(i)->name;
        if (plan_build(&plan, &native->shape, name, &options) == 0 && model_file_weights(file, &plan, &weights) == 0) {
            append(names, name);
        }
    }
}

static int check_it(struct model_file *file, const char *folder, bool json)
{
    struct progress progress;
    int64_t total = 0, done = 0, parameters = 0;
    int32_t n = model_file_tensor_count(file);
    for (int32_t i = 0; i < n; i++) {
        total += model_file_tensor(file, i)->bytes;
        parameters += (int64_t)model_file_tensor(file, i)->n_rows * model_file_tensor(file, i)->n_cols;
    }
    int error = 0;
    progress_begin(&progress, "clsa: checking", total);
    for (int32_t i = 0; i < n && !error; i++) {
        const struct model_file_tensor *tensor = model_file_tensor(file, i);
        error = check_tensor(tensor, folder);
        done += tensor->bytes;
        progress_update(&progress, done);
    }
    progress_end(&progress);
    struct table *table = error ? NULL : TABLE("check", check_columns);
    if (!table) {
        return error ? error : status_fail(-ENOMEM, "out of memory for the table");
    }
    char names[NAMES_BYTES];
    const struct plan *native = &model_file_config(file)->native;
    runnable_methods(names, file);
    table_row(table);
    table_text(table, "model", native->shape.name);
    table_number(table, "tensors", n);
    table_number(table, "parameters_m", (double)parameters * 1e-6);
    table_number(table, "mib", (double)total / mib);
    table_text(table, "weight_dtype", dtype_name(native->weight_dtype));
    table_text(table, "methods", names);
    if (json) {
        table_print_json(table, stdout);
    } else {
        table_print(table, stdout);
        printf("\n%s: whole, and every value is finite\n", folder);
    }
    table_close(table);
    return 0;
}

static int command_check(int argc, char **argv)
{
    bool json = false;
    struct model_file *file = NULL;
    const struct option_spec options[] = {
        {"json", OPTION_FLAG, &json, 0, 0, NULL, "print JSON"},
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"model check", "Read a model folder whole: layout, shapes, every value.",
                                         "FOLDER", 1, 1, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    char shipped[PATH_MAX];
    error = error ? error : model_file_open(&file, folder_of(shipped, argv[1]));
    error = error ? error : check_it(file, argv[1], json);
    model_file_close(file);
    return error ? command_fail("model check", error) : EXIT_DONE;
}

static void usage(FILE *out)
{
    fputs("usage: clsa model init|info|check [options]\n\n"
          "  init   write a model with random weights\n"
          "  info   sizes, parameters and KV bytes of a model under each method\n"
          "  check  read a model folder whole: layout, shapes, every value\n\n"
          "clsa model init --help lists the options of init, and so on.\n", out);
}

int command_model(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    if (strcmp(verb, "init") == 0) {
        return command_init(argc - 1, argv + 1);
    }
    if (strcmp(verb, "info") == 0) {
        return command_info(argc - 1, argv + 1);
    }
    if (strcmp(verb, "check") == 0) {
        return command_check(argc - 1, argv + 1);
    }
    if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
        usage(stdout);
        return EXIT_DONE;
    }
    status_fail(-EINVAL, "%s: expected init, info or check", *verb ? verb : "no verb");
    return command_fail("model", -EINVAL);
}
