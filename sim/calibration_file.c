// sim/calibration_file.c - a calibration as JSON, written whole, read strictly.
//
// {"format": "clsa calibration", "version": 1, "date", "command", "traces": [name, ...], "profiles": [{"device",
// "backend", "models", "threads", "rates": as in sim/devices.json, "overhead": {"decode": {"steps", "seconds"},
// "prefill": {...}, "decode_per_sequence" (may be missing), "warm" (warm_s; may be missing), "settling":
// {"seconds_per_byte", "seconds", "sequences"} (may be missing)}, "curves": [{"stage", "phase", "unit_tokens", "layer"
// (a calibration_layer_name; missing: any), "dtype", "floor_s", "points": [[rows, work, efficiency, samples], ...],
// "roofline": {"points", "median", "p95"}, "calibrated": {...}}]}]}. Numbers keep all their
// bits. An unknown or missing key, a number out of range, points out of order or a curve that occurs twice is an error
// that names file and place. The rates are validated by sim/device.c. No model of the file is kept: it is parsed whole
// or not at all.
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/input_file.h"
#include "engine/output_file.h"
#include "engine/status.h"
#include "sim/calibration_internal.h"

enum { VERSION = 1, MAX_FILE_BYTES = 1 << 26, MAX_TRACES = 4096, MAX_CURVES = 1024, MAX_POINTS = 1 << 16 };
static const char FORMAT[] = "clsa calibration";
static const double MAX_COUNT = 9e15;    // whole numbers up to there are exact

// ---------------------------------------------------------------------------------------------------------------------
// Writing

static json_t *write_figure(const struct device_figure *figure)
{
    return json_pack("{s:f, s:s, s:s}", "value", figure->value, "provenance", provenance_name(figure->provenance),
                     "source", figure->source);
}

static void set_figure(json_t *object, const char *key, const struct device_figure *figure)
{
    if (figure->value > 0) {    // what is unknown is left out
        json_object_set_new(object, key, write_figure(figure));
    }
}

static json_t *write_rates(const struct device *device)
{
    json_t *object = json_pack("{s:s}", "name", device->name), *flops = json_object(), *curve = json_array();
    set_figure(object, "bytes_per_s", &device->bytes_per_s);
    for (int d = 0; d < DTYPE_COUNT; d++) {
        set_figure(flops, dtype_name((enum dtype)d), &device->flops_per_s[d]);
    }
    json_object_set_new(object, "flops_per_s", flops);
    for (int32_t i = 0; i < device->n_curve; i++) {
        json_array_append_new(curve, json_pack("{s:f, s:f}", "bytes", device->curve_bytes[i], "bytes_per_s",
                                               device->curve_bytes_per_s[i]));
    }
    if (device->n_curve > 0) {
        json_object_set(object, "curve", curve);
    }
    json_decref(curve);
    set_figure(object, "memory_bytes", &device->memory_bytes);
    set_figure(object, "memory_overhead_bytes", &device->memory_overhead_bytes);
    set_figure(object, "link_bytes_per_s", &device->link_bytes_per_s);
    set_figure(object, "link_s", &device->link_s);
    set_figure(object, "launch_s", &device->launch_s);
    set_figure(object, "price_per_hour", &device->price_per_hour);
    set_figure(object, "serving_power_w", &device->serving_power_w);
    return object;
}

static json_t *write_error(const struct calibration_error *error)
{
    return json_pack("{s:i, s:f, s:f}", "points", (int)error->n, "median", error->median, "p95", error->p95);
}

const char *calibration_layer_name(enum calibration_layer layer)
{
    static const char *const names[LAYER_KINDS] = {"any",    "window",    "indexed", "bounded",
                                                   "memory", "selecting", "taking",  "lightning"};
    return names[layer];
}

static json_t *write_curve(const struct calibration_curve *curve)
{
    json_t *points = json_array();
    for (int32_t i = 0; i < curve->n_points; i++) {
        const struct calibration_point *point = &curve->points[i];
        json_array_append_new(points, json_pack("[i, f, f, I]", (int)point->rows, point->work, point->efficiency,
                                                (json_int_t)point->samples));
    }
    json_t *object = json_pack("{s:s, s:s, s:i, s:s, s:f, s:o, s:o, s:o}", "stage", stage_name(curve->stage), "phase",
                               phase_name(curve->phase), "unit_tokens", (int)curve->unit_tokens, "dtype",
                               dtype_name(curve->dtype), "floor_s", curve->floor_s, "points", points, "roofline",
                               write_error(&curve->roofline), "calibrated", write_error(&curve->calibrated));
    if (curve->layer != LAYER_ANY) {
        json_object_set_new(object, "layer", json_string(calibration_layer_name(curve->layer)));
    }
    return object;
}

static json_t *write_overhead(const struct calibration_profile *profile)
{
    json_t *object = json_object();
    for (int phase = 0; phase < PHASE_MIXED; phase++) {
        json_object_set_new(object, phase_name((enum phase)phase),
                            json_pack("{s:I, s:f}", "steps", (json_int_t)profile->n_steps[phase], "seconds",
                                      profile->overhead_s[phase]));
    }
    if (profile->overhead_per_seq_s > 0) {
        json_object_set_new(object, "decode_per_sequence", json_real(profile->overhead_per_seq_s));
    }
    if (profile->warm_s > 0) {
        json_object_set_new(object, "warm", json_real(profile->warm_s));
    }
    if (profile->settle_s > 0) {
        json_object_set_new(object, "settling", json_pack("{s:f, s:f, s:i}", "seconds_per_byte",
                                                          profile->settle_s_per_byte, "seconds", profile->settle_s,
                                                          "sequences", (int)profile->settle_seqs));
    }
    return object;
}

static json_t *write_profile(const struct calibration_profile *profile)
{
    json_t *curves = json_array();
    for (int32_t c = 0; c < profile->n_curves; c++) {
        json_array_append_new(curves, write_curve(&profile->curves[c]));
    }
    return json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:o}", "device", profile->device, "backend", profile->backend,
                     "models", profile->models, "threads", (int)profile->threads, "rates",
                     write_rates(&profile->rates), "overhead", write_overhead(profile), "curves", curves);
}

int calibration_save(const struct calibration *calibration, const char *path)
{
    json_t *traces = json_array(), *profiles = json_array();
    bool complete = true;
    for (int32_t t = 0; t < calibration->n_traces; t++) {
        complete = json_array_append_new(traces, json_string(calibration->traces[t])) == 0 && complete;
    }
    for (int32_t p = 0; p < calibration->n_profiles; p++) {
        complete = json_array_append_new(profiles, write_profile(&calibration->profiles[p])) == 0 && complete;
    }
    json_t *root = json_pack("{s:s, s:i, s:s, s:s, s:o, s:o}", "format", FORMAT, "version", VERSION, "date",
                             calibration->date, "command", calibration->command, "traces", traces, "profiles",
                             profiles);
    struct output_file file;
    int error =
        complete && root ? 0 : status_fail(-EINVAL, "%s: a name or a text is not UTF-8, or memory is out", path);
    error = error ? error : output_file_open(&file, path);
    if (!error) {
        if (json_dumpf(root, file.stream, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) != 0 ||
            fputc('\n', file.stream) == EOF) {
            error = status_fail(errno ? -errno : -EIO, "%s: cannot write: %s", path, strerror(errno));
            output_file_abandon(&file);
        } else {
            error = output_file_commit(&file);
        }
    }
    json_decref(root);
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

// Where we are in the file: "FILE: profile 0, curve 3".
struct place {
    const char *where;
    int profile, curve;    // -1: not in one
};

__attribute__((format(printf, 2, 3))) static int wrong(const struct place *place, const char *format, ...)
{
    char what[256], at[64] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (place->curve >= 0) {
        snprintf(at, sizeof at, "profile %d, curve %d: ", place->profile, place->curve);
    } else if (place->profile >= 0) {
        snprintf(at, sizeof at, "profile %d: ", place->profile);
    }
    return status_fail(-EINVAL, "%s: %s%s; make it anew with clsa calibrate", place->where, at, what);
}

// Exactly these keys, [NULL]-terminated.
static int check_keys(const struct place *place, json_t *object, const char *what, const char *const *keys)
{
    size_t n = 0;
    for (; keys[n]; n++) {
        if (!json_object_get(object, keys[n])) {
            return wrong(place, "%s has no \"%s\"", what, keys[n]);
        }
    }
    return json_object_size(object) == n ? 0 : wrong(place, "%s has a key that is not known", what);
}

static int read_number(double *out, const struct place *place, const char *what, json_t *value, double min, double max)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max)) {
        return wrong(place, "%s must be a number from %g to %g", what, min, max);
    }
    *out = number;
    return 0;
}

static int read_count(int64_t *out, const struct place *place, const char *what, json_t *value, double min, double max)
{
    double number = 0;
    if (!json_is_integer(value)) {
        return wrong(place, "%s must be a whole number", what);
    }
    int error = read_number(&number, place, what, value, min, max);
    *out = error ? *out : (int64_t)json_integer_value(value);
    return error;
}

static int read_int(int32_t *out, const struct place *place, const char *what, json_t *value, int32_t min, int32_t max)
{
    int64_t number = 0;
    int error = read_count(&number, place, what, value, min, max);
    *out = (int32_t)number;
    return error;
}

static int read_text(char *out, size_t bytes, const struct place *place, const char *what, json_t *value)
{
    const char *text = json_string_value(value);
    size_t length = text ? json_string_length(value) : bytes;
    bool printable = length < bytes;
    for (size_t i = 0; i < length && printable; i++) {
        printable = (unsigned char)text[i] >= ' ' && text[i] != 0x7f;    // control characters would upset a terminal
    }
    if (!printable) {
        return wrong(place, "%s must be text of at most %zu bytes without control characters", what, bytes - 1);
    }
    memcpy(out, text, length + 1);
    return 0;
}

static int read_error(struct calibration_error *out, const struct place *place, const char *what, json_t *object)
{
    static const char *const keys[] = {"points", "median", "p95", NULL};
    int error = check_keys(place, object, what, keys);
    error = error ? error : read_int(&out->n, place, what, json_object_get(object, "points"), 0, MAX_POINTS);
    error = error ? error : read_number(&out->median, place, what, json_object_get(object, "median"), 0, 1e300);
    return error ? error : read_number(&out->p95, place, what, json_object_get(object, "p95"), 0, 1e300);
}

static int read_points(struct calibration_curve *out, const struct place *place, json_t *array)
{
    size_t n = json_array_size(array);
    if (n < 1 || n > MAX_POINTS) {
        return wrong(place, "\"points\" must be an array of 1 to %d points", MAX_POINTS);
    }
    out->points = calloc(n, sizeof *out->points);
    if (!out->points) {
        return status_fail(-ENOMEM, "%s: no memory for %zu points", place->where, n);
    }
    for (size_t i = 0; i < n; i++) {
        json_t *from = json_array_get(array, i);
        struct calibration_point *point = &out->points[i];
        int error = json_array_size(from) == 4 ? 0 : wrong(place, "a point must be [rows, work, efficiency, samples]");
        error = error ? error : read_int(&point->rows, place, "rows", json_array_get(from, 0), 1, 1 << 30);
        error = error ? error : read_number(&point->work, place, "work", json_array_get(from, 1), 1, 1e30);
        error =
            error ? error : read_number(&point->efficiency, place, "efficiency", json_array_get(from, 2), 1e-30, 1e30);
        error = error ? error : read_count(&point->samples, place, "samples", json_array_get(from, 3), 1, MAX_COUNT);
        if (error) {
            return error;
        }
        if (i > 0 &&
            (point[-1].rows > point->rows || (point[-1].rows == point->rows && point[-1].work >= point->work))) {
            return wrong(place, "points must ascend by rows, then by work (point %zu)", i);
        }
    }
    out->n_points = (int32_t)n;
    return 0;
}

static int read_curve(struct calibration_curve *out, const struct place *place, json_t *object)
{
    static const char *const keys[] = {"stage",   "phase",  "unit_tokens", "dtype",     "floor_s",
                                       "points", "roofline", "calibrated",  NULL};
    static const char *const with_layer[] = {"stage",  "phase",    "unit_tokens", "layer", "dtype", "floor_s",
                                             "points", "roofline", "calibrated",  NULL};
    char stage[32], phase[32], dtype[32];
    json_t *layer = json_object_get(object, "layer");
    const char *kind = json_string_value(layer);
    int error = check_keys(place, object, "the curve", layer ? with_layer : keys);
    for (int k = LAYER_WINDOW; kind && k < LAYER_KINDS; k++) {
        enum calibration_layer named = (enum calibration_layer)k;
        out->layer = strcmp(kind, calibration_layer_name(named)) == 0 ? named : out->layer;
    }
    if (!error && layer && out->layer == LAYER_ANY) {
        error = wrong(place, "\"layer\" must be \"window\", \"indexed\", \"bounded\", \"memory\", \"selecting\", "
                             "\"taking\" or \"lightning\"");
    }
    error = error ? error : read_text(stage, sizeof stage, place, "\"stage\"", json_object_get(object, "stage"));
    error = error ? error : read_text(phase, sizeof phase, place, "\"phase\"", json_object_get(object, "phase"));
    error = error ? error : read_text(dtype, sizeof dtype, place, "\"dtype\"", json_object_get(object, "dtype"));
    if (error) {
        return error;
    }
    if (stage_from_name(&out->stage, stage) || phase_from_name(&out->phase, phase) ||
        dtype_from_name(&out->dtype, dtype)) {
        return wrong(place, "\"%s\", \"%s\", \"%s\": not a stage, a phase and a type", stage, phase,
                     dtype);
    }
    error = read_int(&out->unit_tokens, place, "\"unit_tokens\"", json_object_get(object, "unit_tokens"), 0, 1 << 30);
    error =
        error ? error : read_number(&out->floor_s, place, "\"floor_s\"", json_object_get(object, "floor_s"), 0, 1e6);
    error = error ? error : read_error(&out->roofline, place, "\"roofline\"", json_object_get(object, "roofline"));
    error =
        error ? error : read_error(&out->calibrated, place, "\"calibrated\"", json_object_get(object, "calibrated"));
    return error ? error : read_points(out, place, json_object_get(object, "points"));
}

static int read_curves(struct calibration_profile *out, struct place *place, json_t *array)
{
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n > MAX_CURVES) {
        return wrong(place, "\"curves\" must be an array of at most %d", MAX_CURVES);
    }
    out->curves = calloc(n + 1, sizeof *out->curves);
    if (!out->curves) {
        return status_fail(-ENOMEM, "%s: no memory for %zu curves", place->where, n);
    }
    for (size_t i = 0; i < n; i++) {
        struct calibration_curve *curve = &out->curves[out->n_curves++];
        place->curve = (int)i;
        int error = read_curve(curve, place, json_array_get(array, i));
        if (error) {
            return error;
        }
        for (const struct calibration_curve *other = out->curves; other < curve; other++) {
            if (other->stage == curve->stage && other->phase == curve->phase && other->dtype == curve->dtype &&
                other->unit_tokens == curve->unit_tokens && other->layer == curve->layer) {
                return wrong(place, "the same stage, phase, unit and type as curve %d", (int)(other - out->curves));
            }
        }
    }
    place->curve = -1;
    return 0;
}

// The device's own parser reads a table; this is a table of one.
static int read_rates(struct device *out, const struct place *place, json_t *object)
{
    json_t *table = json_pack("{s:[O]}", "devices", object ? object : json_null());
    char *text = table ? json_dumps(table, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    struct device *devices = NULL;
    int32_t n;
    int error = text ? device_table_parse(&devices, &n, text, strlen(text), place->where)
                     : status_fail(-ENOMEM, "%s: no memory for rates", place->where);
    if (!error) {
        *out = devices[0];
        free(devices);
    }
    free(text);
    json_decref(table);
    return error;
}

static int read_settling(struct calibration_profile *out, const struct place *place, json_t *object)
{
    static const char *const keys[] = {"seconds_per_byte", "seconds", "sequences", NULL};
    int error = check_keys(place, object, "\"settling\"", keys);
    error = error ? error : read_number(&out->settle_s_per_byte, place, "\"seconds_per_byte\"",
                                        json_object_get(object, "seconds_per_byte"), 0, 1);
    error =
        error ? error : read_number(&out->settle_s, place, "\"seconds\"", json_object_get(object, "seconds"), 0, 1e6);
    return error
               ? error
               : read_int(&out->settle_seqs, place, "\"sequences\"", json_object_get(object, "sequences"), 0, 1 << 20);
}

static int read_overhead(struct calibration_profile *out, const struct place *place, json_t *object)
{
    static const char *const keys[] = {"steps", "seconds", NULL};
    const char *parts[6] = {"prefill", "decode"};    // ends with a NULL
    json_t *warm = json_object_get(object, "warm");
    json_t *per_sequence = json_object_get(object, "decode_per_sequence"),
           *settling = json_object_get(object, "settling");
    int n = 2;
    if (per_sequence) {
        parts[n++] = "decode_per_sequence";
    }
    if (settling) {
        parts[n++] = "settling";
    }
    if (warm) {
        parts[n++] = "warm";
    }
    int error = check_keys(place, object, "\"overhead\"", parts);
    error = error || !settling ? error : read_settling(out, place, settling);
    error = error || !warm ? error : read_number(&out->warm_s, place, "\"warm\"", warm, 0, 1e6);
    error = error || !per_sequence
                ? error
                : read_number(&out->overhead_per_seq_s, place, "\"decode_per_sequence\"", per_sequence, 0, 1);
    for (int phase = 0; !error && phase < PHASE_MIXED; phase++) {
        json_t *one = json_object_get(object, phase_name((enum phase)phase));
        error = check_keys(place, one, "\"overhead\"", keys);
        error = error
                    ? error
                    : read_count(&out->n_steps[phase], place, "\"steps\"", json_object_get(one, "steps"), 0, MAX_COUNT);
        error =
            error ? error
                  : read_number(&out->overhead_s[phase], place, "\"seconds\"", json_object_get(one, "seconds"), 0, 1e6);
    }
    return error;
}

static int read_profile(struct calibration_profile *out, struct place *place, json_t *object)
{
    static const char *const keys[] = {"device", "backend", "models", "threads", "rates", "overhead", "curves", NULL};
    int error = check_keys(place, object, "the profile", keys);
    error = error ? error
                  : read_text(out->device, sizeof out->device, place, "\"device\"", json_object_get(object, "device"));
    error =
        error ? error
              : read_text(out->backend, sizeof out->backend, place, "\"backend\"", json_object_get(object, "backend"));
    error = error ? error
                  : read_text(out->models, sizeof out->models, place, "\"models\"", json_object_get(object, "models"));
    error =
        error ? error : read_int(&out->threads, place, "\"threads\"", json_object_get(object, "threads"), 0, 1 << 20);
    error = error ? error : read_rates(&out->rates, place, json_object_get(object, "rates"));
    error = error ? error : read_overhead(out, place, json_object_get(object, "overhead"));
    out->rates.threads = out->threads;
    return error ? error : read_curves(out, place, json_object_get(object, "curves"));
}

static int read_all(struct calibration *out, struct place *place, json_t *root)
{
    static const char *const keys[] = {"format", "version", "date", "command", "traces", "profiles", NULL};
    const char *format = json_string_value(json_object_get(root, "format"));
    json_t *traces = json_object_get(root, "traces"), *profiles = json_object_get(root, "profiles");
    int32_t version;
    if (!format || strcmp(format, FORMAT) != 0) {
        return status_fail(-EINVAL, "%s: not a calibration (\"format\": \"%s\"); clsa calibrate makes one",
                           place->where, FORMAT);
    }
    int error = check_keys(place, root, "the file", keys);
    error =
        error ? error : read_int(&version, place, "\"version\"", json_object_get(root, "version"), VERSION, VERSION);
    error = error ? error : read_text(out->date, sizeof out->date, place, "\"date\"", json_object_get(root, "date"));
    error = error
                ? error
                : read_text(out->command, sizeof out->command, place, "\"command\"", json_object_get(root, "command"));
    if (error) {
        return error;
    }
    size_t n_traces = json_array_size(traces), n_profiles = json_array_size(profiles);
    if (!json_is_array(traces) || n_traces > MAX_TRACES || n_profiles < 1 || n_profiles > CALIBRATION_MAX_PROFILES) {
        return wrong(place, "expected up to %d \"traces\" and 1 to %d \"profiles\"", MAX_TRACES,
                     CALIBRATION_MAX_PROFILES);
    }
    out->traces = calloc(n_traces + 1, sizeof *out->traces);
    out->profiles = calloc(n_profiles, sizeof *out->profiles);
    if (!out->traces || !out->profiles) {
        return status_fail(-ENOMEM, "%s: no memory", place->where);
    }
    for (; !error && out->n_traces < (int32_t)n_traces; out->n_traces++) {
        error = read_text(out->traces[out->n_traces], sizeof *out->traces, place, "a trace's name",
                          json_array_get(traces, (size_t)out->n_traces));
    }
    for (; !error && out->n_profiles < (int32_t)n_profiles; out->n_profiles++) {
        place->profile = out->n_profiles;
        error = read_profile(&out->profiles[out->n_profiles], place, json_array_get(profiles, (size_t)out->n_profiles));
    }
    return error;
}

int calibration_parse(struct calibration **out, const char *text, size_t length, const char *where)
{
    *out = NULL;
    json_error_t json_error;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &json_error);
    if (!root) {
        return status_fail(-EINVAL, "%s:%d: %s", where, json_error.line, json_error.text);
    }
    struct place place = {where, -1, -1};
    struct calibration *made = calloc(1, sizeof *made);
    int error = made ? read_all(made, &place, root) : status_fail(-ENOMEM, "%s: no memory", where);
    json_decref(root);
    if (error) {
        calibration_free(made);
        return error;
    }
    *out = made;
    return 0;
}

int calibration_load(struct calibration **out, const char *path)
{
    *out = NULL;
    char *text;
    size_t length;
    int error = input_file_read(&text, &length, path, MAX_FILE_BYTES);
    error = error ? error : calibration_parse(out, text, length, path);
    free(text);
    return error;
}

// Moves what `from` holds behind what `into` has; `from` is freed.
static int join(struct calibration *into, struct calibration *from)
{
    size_t profiles = (size_t)(into->n_profiles + from->n_profiles), traces = (size_t)(into->n_traces + from->n_traces);
    struct calibration_profile *all = realloc(into->profiles, profiles * sizeof *all);
    into->profiles = all ? all : into->profiles;
    char(*names)[CALIBRATION_TEXT_BYTES] = all ? realloc(into->traces, (traces + 1) * sizeof *names) : NULL;
    if (!names) {
        calibration_free(from);
        return status_fail(-ENOMEM, "no memory for the calibrations that come with the program");
    }
    into->traces = names;
    memcpy(all + into->n_profiles, from->profiles, (size_t)from->n_profiles * sizeof *all);
    memcpy(names + into->n_traces, from->traces, (size_t)from->n_traces * sizeof *names);
    into->n_profiles += from->n_profiles;
    into->n_traces += from->n_traces;
    free(from->profiles);    // their curves have moved
    free(from->traces);
    free(from);
    return 0;
}

int calibration_load_shipped(struct calibration **out, const char **paths)
{
    static char all_paths[CALIBRATION_TEXT_BYTES];
    size_t length = 0;
    *out = NULL;
    for (const struct shipped_calibration *shipped = shipped_calibrations; shipped->path; shipped++) {
        struct calibration *calibration;
        int error = calibration_parse(&calibration, (const char *)shipped->text, *shipped->bytes, shipped->path);
        if (!error && *out) {
            error = join(*out, calibration);
        } else if (!error) {
            *out = calibration;
        }
        if (error) {
            calibration_free(*out);
            *out = NULL;
            return error;
        }
        if (length + strlen(shipped->path) + 3 <= sizeof all_paths) {
            length += (size_t)sprintf(all_paths + length, "%s%s", length ? ", " : "", shipped->path);
        }
    }
    if (paths) {
        *paths = all_paths;
    }
    return 0;
}
