// cli/validate_points.c - see validate_points.h.
//
// IndexCache: a 47-layer model of which every nth layer runs an indexer. A request alone (decode), as many as memory
// holds (full throughput), one prompt in chunks (prefill). DeepSeek's cost curves: how much steeper cost grows with
// position under dense attention than under DSA beyond its knee; absolute costs depend on a fleet that is not
// described.
#include "cli/validate_points.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/choice.h"
#include "engine/model_file.h"
#include "engine/status.h"
#include "sim/predict.h"

const char validate_points_head[] = "source,setup,quantity,context,value,unit,kind";

enum { FIELDS = 7, MAX_VALUES = 8, CHUNK = 8192, COST_BATCH = 64 };
static const char index_cache_model[] = "IndexCache-30B", deepseek_model[] = "DeepSeek-V3.2";

static const struct table_column columns[] = {
    {"source", "source", -1},      {"quantity", "quantity", -1},  {"context", "context", -1},
    {"predicted", "predicted", 3}, {"published", "published", 3}, {"error_percent", "error %", 1},
    {"unit", "unit", -1},          {"kind", "kind", -1},
};

struct table *validate_points_table(void)
{
    return table_open("published", columns, sizeof columns / sizeof columns[0]);
}

int validate_config(struct plan *out, const char *configs, const char *name)
{
    static struct model_config config;    // large, as are all plans
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.json", configs, name);
    config = (struct model_config){0};
    int error = model_file_load_config(&config, path);
    if (!error) {
        *out = config.native;
    }
    return error;
}

// A list of values "1.2|1.3" or "0|7K(knee)|128K"; K is 1000 or 1024 as the source means it. Returns how many, or
// -EINVAL.
static int parse_values(double *out, char *text, double kilo)
{
    int n = 0;
    for (char *rest = text, *item; (item = strsep(&rest, "|")) != NULL;) {
        char *end;
        if (n == MAX_VALUES) {
            return -EINVAL;
        }
        out[n] = strtod(item, &end);
        if (end == item) {
            return -EINVAL;
        }
        out[n++] *= *end == 'K' ? kilo : 1;
    }
    return n;
}

static void add_point(struct table *table, char *const *fields, double context, double predicted, double published)
{
    char text[48];
    snprintf(text, sizeof text, context >= 1000 ? "%.0fK" : "%.0f", context >= 1000 ? context / 1000 : context);
    table_row(table);
    table_text(table, "source", fields[0]);
    table_text(table, "quantity", fields[2]);
    table_text(table, "context", text);
    table_number(table, "predicted", predicted);
    table_number(table, "published", published);
    table_number(table, "error_percent", 100 * (predicted / published - 1));
    table_text(table, "unit", fields[5]);
    table_text(table, "kind", fields[6]);
}

// ---------------------------------------------------------------------------------------------------------------------
// IndexCache

static void share_index(struct plan *plan, int32_t every)
{
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        plan->layers[layer].index_from = layer / every * every;
    }
}

static int index_cache(double *out, const struct plan *native, const struct device *device, const char *quantity,
                       int32_t context, int32_t every)
{
    static struct plan plan;
    struct request_prediction request;
    plan = *native;
    share_index(&plan, every);
    int error = predict_request(&request, device, &plan, 1, context, 2, CHUNK);
    if (error) {
        return error;
    }
    int32_t batch = request.max_seqs > 1 ? (int32_t)request.max_seqs : 1;
    if (strstr(quantity, "full-throughput")) {
        error = predict_request(&request, device, &plan, batch, context, 2, CHUNK);
        *out = batch / request.first_decode_step_s;
    } else if (strstr(quantity, "share")) {
        const struct stage_prediction *stages = request.prefill.stages;
        *out = (stages[STAGE_INDEX_PROJECT].seconds + stages[STAGE_INDEX_SCORE].seconds +
                stages[STAGE_INDEX_SELECT].seconds) /
               request.prefill_s;
    } else {
        *out = strstr(quantity, "decode") ? 1 / request.first_decode_step_s : request.prefill_s;
    }
    return error;
}

static int add_index_cache(struct table *table, char **fields, const struct plan *native, const struct device *device)
{
    double contexts[MAX_VALUES], values[MAX_VALUES];
    char *quantity = fields[2];
    int32_t every = strstr(quantity, "1/4") ? 4 : strstr(quantity, "1/2") ? 2 : 1;
    int n = parse_values(contexts, fields[3], 1000), m = parse_values(values, fields[4], 1000);
    if (n < 1 || n != m) {
        return status_fail(-EINVAL, "as many contexts as values expected");
    }
    for (int i = 0; i < n; i++) {
        double predicted, baseline;
        if (!(contexts[i] >= 1 && contexts[i] < 1 << 27)) {
            return status_fail(-EINVAL, "a context of %g tokens", contexts[i]);
        }
        int error = index_cache(&predicted, native, device, quantity, (int32_t)contexts[i], every);
        if (!error && strstr(quantity, "speedup")) {
            error = index_cache(&baseline, native, device, quantity, (int32_t)contexts[i], 1);
            predicted = strstr(quantity, "prefill") ? baseline / predicted : predicted / baseline;
        }
        if (error) {
            return error;
        }
        add_point(table, fields, contexts[i], predicted, values[i]);
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// DeepSeek's cost curves

struct slopes {
    double dense[2], sparse[2];    // published, per token of position: prefill, decode; 0: not there
};

static int note_slope(struct slopes *slopes, char **fields)
{
    double contexts[MAX_VALUES], values[MAX_VALUES];
    int n = parse_values(contexts, fields[3], 1024), m = parse_values(values, fields[4], 1000);
    if (n < 2 || n != m || !(contexts[n - 1] > contexts[n - 2])) {
        return status_fail(-EINVAL, "as many contexts as values expected, two at least");
    }
    double slope = (values[n - 1] - values[n - 2]) / (contexts[n - 1] - contexts[n - 2]);
    double *to = strstr(fields[1], "V3.1") ? slopes->dense : slopes->sparse;
    to[strncmp(fields[2], "decode", 6) == 0] = slope;
    return 0;
}

// How many seconds a step takes longer per token of context.
static int predict_slope(double *out, const struct device *device, const struct plan *plan, bool decode)
{
    enum { NEAR = 65536, FAR = 126976 };
    struct work near[COST_BATCH], far[COST_BATCH];
    struct step_prediction first, second;
    int32_t n = decode ? COST_BATCH : 1, rows = decode ? 1 : CHUNK;
    for (int32_t i = 0; i < n; i++) {
        near[i] = (struct work){NEAR, rows, decode};
        far[i] = (struct work){FAR, rows, decode};
    }
    int error = predict_step(&first, device, plan, near, n);
    error = error ? error : predict_step(&second, device, plan, far, n);
    *out = error ? NAN : (second.seconds - first.seconds) / (FAR - NEAR) / n;
    return error;
}

static int add_slopes(struct table *table, const struct slopes *slopes, const struct plan *native,
                      const struct device *device)
{
    static struct plan dense;
    dense = *native;
    dense.index = (struct index_spec){0};
    for (int32_t layer = 0; layer < dense.shape.n_layers; layer++) {
        dense.layers[layer].attention = ATTENTION_FULL;
        dense.layers[layer].index_from = -1;
    }
    for (int decode = 0; decode < 2; decode++) {
        char *fields[FIELDS] = {"deepseek-ai/DeepSeek-V3.2-Exp cost.jpg", "", decode ? "decode: slope, dense over DSA"
                                                                                     : "prefill: slope, dense over DSA",
                                "", "", "x", "read"};
        double steep, flat;
        if (slopes->dense[decode] == 0 || slopes->sparse[decode] == 0) {
            continue;
        }
        int error = predict_slope(&steep, device, &dense, decode);
        error = error ? error : predict_slope(&flat, device, native, decode);
        if (error) {
            return error;
        }
        add_point(table, fields, 128000, steep / flat, slopes->dense[decode] / slopes->sparse[decode]);
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------

struct reader {
    const struct validate_options *options;
    const struct device *devices;
    int32_t n_devices;
    struct slopes slopes;
    bool index_cache_read;
};

static int choose(struct plan *plan, struct device *device, const struct reader *reader, const char *model,
                  const char *name)
{
    int error = validate_config(plan, reader->options->configs, model);
    return error ? error
                 : choice_device(device, reader->devices, reader->n_devices, reader->options->calibration, name, 0);
}

static int add_line(struct table *table, struct reader *reader, char **fields)
{
    static struct plan native;
    static struct device device;
    if (strstr(fields[0], "IndexCache")) {
        int error = reader->index_cache_read ? 0 : choose(&native, &device, reader, index_cache_model, "H100");
        reader->index_cache_read = true;
        return error ? error : add_index_cache(table, fields, &native, &device);
    }
    if (strstr(fields[0], "DeepSeek-V3.2-Exp cost") && strstr(fields[2], "cost")) {
        return note_slope(&reader->slopes, fields);
    }
    add_point(table, fields, NAN, NAN, strtod(fields[4], NULL));
    return 0;
}

int validate_points(struct table *table, const struct csv *csv, const struct validate_options *options,
                    const struct device *devices, int32_t n_devices)
{
    static struct plan native;
    struct reader reader = {.options = options, .devices = devices, .n_devices = n_devices};
    for (int64_t line = 1; line < csv->n_lines; line++) {
        char *fields[FIELDS];
        int error = csv_fields(csv, line, fields, FIELDS);
        if (error) {
            return error;
        }
        error = add_line(table, &reader, fields);
        if (error) {
            return status_prefix(error, "%s: line %lld: ", csv->path, (long long)csv->numbers[line]);
        }
    }
    const struct slopes *slopes = &reader.slopes;
    if (slopes->dense[0] == 0 && slopes->dense[1] == 0) {
        return 0;
    }
    struct device device;
    int error = choose(&native, &device, &reader, deepseek_model, "H800");
    native.weight_dtype = DTYPE_FP8;
    return error ? error : add_slopes(table, slopes, &native, &device);
}
