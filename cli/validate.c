// cli/validate.c - see validate.h.
#include "cli/validate.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/choice.h"
#include "cli/validate_points.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "sim/parallel.h"
#include "sim/predict.h"

// Kernels that read less, or a little of very many sequences, spend much of their time otherwise: kept apart as
// "short", so that neither hides the other. 256 MB: several times any cache.
enum { MAX_GROUPS = 64, NAME_BYTES = 96, STREAM_BYTES = 256000000, STREAM_TOKENS = 1000 };
enum { KERNEL_HEADS = 64 };    // FlashMLA on Hopper: rows of a tile of the matrix unit, all of one token

static const struct table_column summary_columns[] = {
    {"group", "measured", -1},          {"device", "device", -1},         {"rows", "rows", 0},
    {"median_ratio", "predicted/measured", 3}, {"median_error_percent", "median |error| %", 1},
    {"p95_error_percent", "P95 %", 1},  {"bare_median_error_percent", "roofline %", 1},
    {"tiles_median_ratio", "in tiles", 3}, {"least_ms", "least ms", 4},
};
static const struct table_column row_columns[] = {
    {"group", "measured", -1},           {"device", "device", -1},          {"shape", "shape", -1},
    {"predicted_ms", "predicted ms", 4}, {"published_ms", "published ms", 4}, {"error_percent", "error %", 1},
    {"roofline_ms", "roofline ms", 4},   {"provenance", "figures", -1},
};

// Rows that belong together, by what was measured and where.
struct group {
    char name[NAME_BYTES], device[DEVICE_NAME_BYTES];
    double *ratios, *bare, *tiles;    // [n] predicted over published; owned
    double least_s;                   // published
    int64_t n, room;
};

// One measurement and what is said of it.
struct outcome {
    struct stage_prediction predicted;
    double bare_s, published_s;
    double tiles_s;                   // with heads in the measured kernel's tiles; NaN: nothing known of it
};

struct validation {
    struct table *summary;     // one row per group of rows: how many, median ratio, errors; owned
    struct table *rows;        // one per measurement; owned
    struct table *points;      // published points; owned
};

struct validate {
    const struct validate_options *options;
    struct validation *out;
    struct device *table;
    int32_t n_table, n_groups;
    struct group groups[MAX_GROUPS];
};

// ---------------------------------------------------------------------------------------------------------------------
// Results

static struct group *group_of(struct validate *validate, const char *name, const char *device)
{
    for (int32_t i = 0; i < validate->n_groups; i++) {
        struct group *group = &validate->groups[i];
        if (strcmp(group->name, name) == 0 && strcmp(group->device, device) == 0) {
            return group;
        }
    }
    if (validate->n_groups == MAX_GROUPS) {
        return NULL;
    }
    struct group *group = &validate->groups[validate->n_groups++];
    snprintf(group->name, sizeof group->name, "%s", name);
    snprintf(group->device, sizeof group->device, "%s", device);
    return group;
}

static int grow_ratios(double **ratios, int64_t room)
{
    double *grown = realloc(*ratios, (size_t)room * sizeof *grown);
    *ratios = grown ? grown : *ratios;
    return grown ? 0 : status_fail(-ENOMEM, "no memory for %lld measurements", (long long)room);
}

static int add_row(struct validate *validate, const char *name, const char *device, const char *shape,
                   const struct outcome *outcome)
{
    double predicted_s = outcome->predicted.seconds, published_s = outcome->published_s;
    struct group *group = group_of(validate, name, device);
    struct table *rows = validate->out->rows;
    if (!group) {
        return status_fail(-EINVAL, "more than %d kinds of measurements", MAX_GROUPS);
    }
    if (group->n == group->room) {
        int64_t room = group->room > 0 ? 2 * group->room : 256;
        int error = grow_ratios(&group->ratios, room);
        error = error ? error : grow_ratios(&group->bare, room);
        error = error ? error : grow_ratios(&group->tiles, room);
        if (error) {
            return error;
        }
        group->room = room;
    }
    group->least_s = group->n == 0 || published_s < group->least_s ? published_s : group->least_s;
    group->ratios[group->n] = predicted_s / published_s;
    group->tiles[group->n] = outcome->tiles_s / published_s;
    group->bare[group->n++] = outcome->bare_s / published_s;
    table_row(rows);
    table_text(rows, "group", name);
    table_text(rows, "device", device);
    table_text(rows, "shape", shape);
    table_number(rows, "predicted_ms", 1e3 * predicted_s);
    table_number(rows, "published_ms", 1e3 * published_s);
    table_number(rows, "error_percent", 100 * (predicted_s / published_s - 1));
    table_number(rows, "roofline_ms", 1e3 * outcome->bare_s);
    table_text(rows, "provenance", provenance_name(outcome->predicted.provenance));
    return 0;
}

static double percentile(double *values, int64_t n, double percent)
{
    sort_doubles(values, n);
    int64_t rank = (int64_t)ceil((double)n * percent / 100);
    return values[rank > 0 ? rank - 1 : 0];
}

static void to_errors(double *ratios, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        ratios[i] = fabs(ratios[i] - 1);
    }
}

static void summarise(struct validate *validate)
{
    struct table *table = validate->out->summary;
    for (int32_t i = 0; i < validate->n_groups; i++) {
        struct group *group = &validate->groups[i];
        table_row(table);
        table_text(table, "group", group->name);
        table_text(table, "device", group->device);
        table_number(table, "rows", (double)group->n);
        table_number(table, "least_ms", 1e3 * group->least_s);
        table_number(table, "tiles_median_ratio",
                     isnan(group->tiles[0]) ? NAN : percentile(group->tiles, group->n, 50));
        table_number(table, "median_ratio", percentile(group->ratios, group->n, 50));
        to_errors(group->ratios, group->n);
        to_errors(group->bare, group->n);
        table_number(table, "median_error_percent", 100 * percentile(group->ratios, group->n, 50));
        table_number(table, "p95_error_percent", 100 * percentile(group->ratios, group->n, 95));
        table_number(table, "bare_median_error_percent", 100 * percentile(group->bare, group->n, 50));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Dense decode attention: gpu,engine,kernel,heads,kv_heads,head_dim,kv_dtype,batch,context,latency_ms

static const char decode_head[] = "gpu,engine,kernel,heads,kv_heads,head_dim,kv_dtype,batch,context,latency_ms";
static const char module_head[] = "gpu,model,indexer,tp,isl,past,latency_ms";

static int predict_decode(struct stage_prediction *out, struct plan *plan, const struct device *device, int32_t batch,
                          int32_t context)
{
    struct work *work = malloc((size_t)batch * sizeof *work);
    if (!work) {
        return status_fail(-ENOMEM, "no memory for a batch of %d", batch);
    }
    for (int32_t i = 0; i < batch; i++) {
        work[i] = (struct work){context, 1, 1};
    }
    int error = predict_stage(out, device, plan, STAGE_ATTENTION, 0, work, batch);
    free(work);
    return error;
}

static int build_kernel(struct plan *plan, const double *sizes, const char *kv_dtype)
{
    // Only heads and their size matter to the stage; the rest must be there.
    struct model_shape shape = *plan_find_model("tiny");
    shape.n_heads = (int32_t)sizes[0];
    shape.n_kv_heads = (int32_t)sizes[1];
    shape.head_dim = (int32_t)sizes[2];
    int error = plan_build(plan, &shape, "dense", NULL);
    if (!error) {
        plan->kv_dtype = strcmp(kv_dtype, "fp8") == 0 ? DTYPE_FP8 : DTYPE_BF16;
        error = plan_check(plan);
    }
    return error;
}

static int add_decode(struct validate *validate, const struct csv *csv, int64_t line, char **fields)
{
    static const char *const names[] = {"heads", "kv_heads", "head_dim", NULL, "batch", "context", "latency_ms"};
    static struct plan plan;    // large, as are all plans
    double values[7] = {0};
    struct device device;
    struct stage_prediction predicted, bare;
    int error = 0;
    for (int i = 0; !error && i < 7; i++) {
        error = names[i] ? csv_number(&values[i], csv, line, names[i], fields[3 + i]) : 0;
        if (!error && names[i] && i < 6 && !(values[i] >= 1 && values[i] <= 1 << 27)) {
            error = status_fail(-EINVAL, "%s: line %lld: %s is %s: expected 1 or more", csv->path,
                                (long long)csv->numbers[line], names[i], fields[3 + i]);
        }
    }
    error = error ? error
                  : choice_device(&device, validate->table, validate->n_table, validate->options->calibration,
                                  fields[0], 0);
    error = error ? error : build_kernel(&plan, values, fields[6]);
    error = error ? error : predict_decode(&predicted, &plan, &device, (int32_t)values[4], (int32_t)values[5]);
    device.calibration = NULL;
    error = error ? error : predict_decode(&bare, &plan, &device, (int32_t)values[4], (int32_t)values[5]);
    if (error) {
        return error;
    }
    char name[NAME_BYTES], shape[NAME_BYTES];
    bool streams = bare.cost.bytes >= STREAM_BYTES && values[5] >= STREAM_TOKENS;
    snprintf(name, sizeof name, "dense decode, %s, %.24s %.24s %.8s", streams ? "long" : "short", fields[1], fields[2],
             fields[6]);
    snprintf(shape, sizeof shape, "%.0f/%.0f heads x %.0f, batch %.0f, context %.0f", values[0], values[1], values[2],
             values[4], values[5]);
    struct outcome outcome = {predicted, bare.seconds, 1e-3 * values[6], NAN};
    return add_row(validate, name, device.name, shape, &outcome);
}

// ---------------------------------------------------------------------------------------------------------------------
// DSA attention modules in prefill: gpu,model,indexer,tp,isl,past,latency_ms

static const enum stage module_stages[] = {STAGE_QKV,         STAGE_KV_WRITE,  STAGE_INDEX_PROJECT, STAGE_INDEX_SCORE,
                                           STAGE_INDEX_SELECT, STAGE_ATTENTION, STAGE_OUTPUT};

static int32_t layer_that(const struct plan *plan, bool runs_indexer)
{
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        if (plan->layers[layer].attention == ATTENTION_SELECTED && plan_runs_indexer(plan, layer) == runs_indexer) {
            return layer;
        }
    }
    return -1;
}

// `padded`: as the measured kernel runs selected attention, whose tiles are of KERNEL_HEADS heads, whether a device has
// so many or not.
static int predict_module(struct stage_prediction *out, const struct device *device, const struct plan *module,
                          int32_t layer, const struct work *work, bool padded)
{
    static struct plan wide;
    wide = *module;
    padded = padded && work->context_tokens + work->new_tokens > module->index.budget_tokens;    // and so selects
    wide.shape.n_heads = (wide.shape.n_heads + KERNEL_HEADS - 1) / KERNEL_HEADS * KERNEL_HEADS;
    *out = (struct stage_prediction){.provenance = PROVENANCE_MEASURED};
    for (size_t i = 0; i < sizeof module_stages / sizeof module_stages[0]; i++) {
        struct stage_prediction one;
        const struct plan *plan = padded && module_stages[i] == STAGE_ATTENTION ? &wide : module;
        int error = predict_stage(&one, device, plan, module_stages[i], layer, work, 1);
        if (error) {
            return error;
        }
        out->seconds += one.seconds;
        out->provenance = provenance_weaker(out->provenance, one.provenance);
    }
    return 0;
}

static int add_module(struct validate *validate, const struct csv *csv, int64_t line, char **fields)
{
    static const char *const names[] = {"tp", "isl", "past", "latency_ms"};
    static struct plan whole, part;
    struct device device, group;
    struct stage_prediction predicted, padded, bare;
    double values[4];
    bool full = strcmp(fields[2], "full") == 0;
    int error = 0;
    for (int i = 0; !error && i < 4; i++) {
        error = csv_number(&values[i], csv, line, names[i], fields[3 + i]);
        if (!error && !(values[i] >= (i == 2 ? 0 : 1e-9) && values[i] < 1 << 27)) {
            error = status_fail(-EINVAL, "%s: line %lld: %s is %s", csv->path, (long long)csv->numbers[line], names[i],
                                fields[3 + i]);
        }
    }
    error = error ? error
                  : choice_device(&device, validate->table, validate->n_table, validate->options->calibration,
                                  fields[0], 0);
    error = error ? error : validate_config(&whole, validate->options->configs, fields[1]);
    // As measured: block-scaled fp8 projections; attention multiplies in bf16 what it reads in fp8.
    whole.weight_dtype = DTYPE_FP8;
    error = error ? error : parallel_split(&part, &group, &whole, &device, (int32_t)values[0]);
    int32_t layer = error ? 0 : layer_that(&part, full);
    if (!error && layer < 0) {
        error = status_fail(-EINVAL, "%s: line %lld: %s has no layer whose index is \"%s\"", csv->path,
                            (long long)csv->numbers[line], fields[1], fields[2]);
    }
    struct work work = {(int32_t)values[2], (int32_t)values[1], 1};
    error = error ? error : predict_module(&predicted, &group, &part, layer, &work, false);
    error = error ? error : predict_module(&padded, &group, &part, layer, &work, true);
    group.calibration = NULL;
    error = error ? error : predict_module(&bare, &group, &part, layer, &work, false);
    if (error) {
        return error;
    }
    char name[NAME_BYTES], shape[NAME_BYTES];
    snprintf(name, sizeof name, "DSA prefill module, %.24s %.8s, tp %.0f", fields[1], fields[2], values[0]);
    snprintf(shape, sizeof shape, "%.0f rows behind %.0f", values[1], values[2]);
    struct outcome outcome = {predicted, bare.seconds, 1e-3 * values[3], padded.seconds};
    return add_row(validate, name, device.name, shape, &outcome);
}

// ---------------------------------------------------------------------------------------------------------------------
// Files

static int count_fields(const char *head)
{
    int n = 1;
    for (; *head; head++) {
        n += *head == ',';
    }
    return n;
}

static int add_line(struct validate *validate, const struct csv *csv, int64_t line, bool decode)
{
    char *fields[VALIDATE_MAX_FIELDS];
    int error = csv_fields(csv, line, fields, count_fields(decode ? decode_head : module_head));
    error = error ? error : decode ? add_decode(validate, csv, line, fields) : add_module(validate, csv, line, fields);
    return error;
}

static int add_file(void *user, const char *path)
{
    struct validate *validate = user;
    struct csv csv;
    int error = csv_open(&csv, path);
    if (error) {
        return error;
    }
    bool decode = strcmp(csv.lines[0], decode_head) == 0, module = strcmp(csv.lines[0], module_head) == 0;
    bool points = strcmp(csv.lines[0], validate_points_head) == 0;
    if (points) {
        error = validate_points(validate->out->points, &csv, validate->options, validate->table, validate->n_table);
    } else if (!decode && !module) {
        error = status_fail(-EINVAL, "%s: line %lld: unknown columns; expected \"%s\", \"%s\" or \"%s\"", path,
                            (long long)csv.numbers[0], decode_head, module_head, validate_points_head);
    }
    for (int64_t line = 1; !error && !points && line < csv.n_lines; line++) {
        error = add_line(validate, &csv, line, decode);
    }
    csv_close(&csv);
    return error;
}

static void close_tables(struct validation *validation)
{
    table_close(validation->summary);
    table_close(validation->rows);
    table_close(validation->points);
    *validation = (struct validation){0};
}

static int predict_all(struct validation *out, const struct validate_options *options)
{
    struct validate *validate = calloc(1, sizeof *validate);
    *out = (struct validation){
        .summary = table_open("validation", summary_columns, sizeof summary_columns / sizeof summary_columns[0]),
        .rows = table_open("measurements", row_columns, sizeof row_columns / sizeof row_columns[0]),
        .points = validate_points_table(),
    };
    if (!validate || !out->summary || !out->rows || !out->points) {
        free(validate);
        close_tables(out);
        return status_fail(-ENOMEM, "no memory for a table");
    }
    validate->options = options;
    validate->out = out;
    int error = device_table_load(&validate->table, &validate->n_table, options->devices_file);
    error = error ? error : csv_each(options->folder, add_file, validate);
    if (!error) {
        summarise(validate);
    }
    for (int32_t i = 0; i < validate->n_groups; i++) {
        free(validate->groups[i].ratios);
        free(validate->groups[i].bare);
        free(validate->groups[i].tiles);
    }
    free(validate->table);
    free(validate);
    if (error) {
        close_tables(out);
    }
    return error;
}

static const char notes[] =
    "Predicted by %s; nothing is fitted to these rows. Ratio: below 1 the prediction is faster. Decode is long from\n"
    "256 MB and 1000 tokens on. IndexCache: one request alone, bf16, an indexer of 32 heads assumed. Slopes: how\n"
    "cost grows with position.\n"
    "Why predictions miss. \"least\": no row of a group takes less: modules launched kernel by kernel take that\n"
    "long whatever they do, which is most of short rows. \"in tiles\": the ratio if sparse attention multiplies in\n"
    "tiles of 64 heads, as the measured kernels do on Hopper: eight devices with 8 or 16 heads each save nothing\n"
    "there. What is left of long rows is the reach of kernels (the indexer's products 44%% of the fp8 peak, sparse\n"
    "attention 59%% of bf16; calibrated, latents go by dense attention, whose products are as full). Attention over\n"
    "fp8 caches converts while it reads, and stays short of bandwidth.\n"
    "IndexCache's absolute figures are a server's: its decode steps take several times what their kernels do, which\n"
    "ratios of two such steps show less.\n";

int validate_print(const struct validate_options *options, bool per_row, bool json)
{
    struct validation validation;
    int error = predict_all(&validation, options);
    if (error) {
        return status_prefix(error, "--validate ");
    }
    const struct table *tables[] = {validation.summary, validation.points, validation.rows};
    int32_t n = per_row ? 3 : 2;
    if (json) {
        tables_print_json(tables, n, stdout);
    }
    for (int32_t i = 0; i < n && !json; i++) {
        table_print(tables[i], stdout);
        putchar('\n');
    }
    if (!json) {
        printf(notes, options->calibration ? "the calibration, and beside it the bare roofline"
                                           : "bare roofline, which no kernel beats");
    }
    close_tables(&validation);
    return 0;
}
