// sim/device.c - the table of devices: parsing, validation, look-up.
//
// The form is one object {"devices": [...]}; each figure is {"value", "provenance", "source"}. Validation is strict:
// an unknown key, a missing source, a rate that is no positive number or a name that occurs twice is an error that
// names the file, the device and the key. The table is parsed whole or not at all.
#include "sim/device.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/input_file.h"
#include "engine/status_list.h"

extern const unsigned char devices_json[];    // sim/devices.json, see sim.cmake
extern const size_t devices_json_bytes;

enum { MAX_DEVICES = 1024, MAX_FILE_BYTES = 1 << 24 };

static const char *const provenance_names[] = {"datasheet", "measured", "interpolated", "extrapolated", "roofline"};

const char *provenance_name(enum provenance provenance)
{
    return provenance_names[provenance];
}

enum provenance provenance_weaker(enum provenance a, enum provenance b)
{
    static const int strength[] = {[PROVENANCE_ROOFLINE] = 0,
                                   [PROVENANCE_DATASHEET] = 1,
                                   [PROVENANCE_EXTRAPOLATED] = 2,
                                   [PROVENANCE_INTERPOLATED] = 3,
                                   [PROVENANCE_MEASURED] = 4};
    return strength[a] <= strength[b] ? a : b;
}

const struct device_figure *device_rate(const struct device *device, enum dtype dtype)
{
    for (int wider = (int)dtype; wider >= DTYPE_F32; wider--) {
        if (device->flops_per_s[wider].value > 0) {
            return &device->flops_per_s[wider];
        }
    }
    return NULL;
}

double device_bandwidth(const struct device *device, double working_set_bytes)
{
    for (int32_t i = 0; i < device->n_curve; i++) {
        if (working_set_bytes <= device->curve_bytes[i]) {
            return device->curve_bytes_per_s[i];
        }
    }
    return device->bytes_per_s.value;
}

// Where we are in the file, for errors: "devices.json: device H100, \"launch_s\"".
struct place {
    const char *where, *device, *key;
};

__attribute__((format(printf, 2, 3))) static int wrong(const struct place *place, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    status_fail_list(-EINVAL, format, arguments);
    va_end(arguments);
    return status_prefix(-EINVAL, "%s: device %.64s: \"%.40s\" ", place->where, place->device, place->key);
}

static int check_keys(const struct place *place, json_t *object, const char *const *keys)
{
    if (!json_is_object(object)) {
        return wrong(place, "must be an object");
    }
    char names[256] = "";
    for (int i = 0; keys[i]; i++) {
        strcat(strcat(names, i ? ", " : ""), keys[i]);    // the longest list, a device's, has 130 characters
    }
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        bool known = false;
        for (int i = 0; keys[i]; i++) {
            known = known || strcmp(key, keys[i]) == 0;
        }
        if (!known) {
            return wrong(place, "has the unknown key \"%.40s\"; it may have %s", key, names);
        }
    }
    return 0;
}

// A positive number up to `max`.
static int parse_number(double *out, const struct place *place, json_t *value, double max)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number > 0 && number <= max)) {
        return wrong(place, "must be a number above 0, at most %g; leave out what is unknown", max);
    }
    *out = number;
    return 0;
}

// Text of printable ASCII that fits `bytes`. Anything else would upset a terminal.
static int parse_text(char *out, size_t bytes, const struct place *place, json_t *value)
{
    const char *text = json_string_value(value);
    size_t length = text ? json_string_length(value) : 0;
    bool printable = true;
    for (size_t i = 0; i < length; i++) {
        printable = printable && text[i] >= ' ' && text[i] <= '~';
    }
    if (length == 0 || length >= bytes || !printable) {
        return wrong(place, "must be text of 1 to %zu printable ASCII characters", bytes - 1);
    }
    memcpy(out, text, length + 1);
    return 0;
}

static int parse_provenance(enum provenance *out, const struct place *place, json_t *value)
{
    const char *name = json_string_value(value);
    for (int i = 0; name && i <= PROVENANCE_EXTRAPOLATED; i++) {
        if (strcmp(name, provenance_names[i]) == 0) {
            *out = (enum provenance)i;
            return 0;
        }
    }
    return wrong(place, "needs a \"provenance\": datasheet, measured, interpolated or extrapolated");
}

static int parse_figure(struct device_figure *out, const struct place *place, json_t *object, double max)
{
    static const char *const keys[] = {"value", "provenance", "source", NULL};
    int error = check_keys(place, object, keys);
    error = error ? error : parse_number(&out->value, place, json_object_get(object, "value"), max);
    error = error ? error : parse_provenance(&out->provenance, place, json_object_get(object, "provenance"));
    if (!error && !json_object_get(object, "source")) {
        return wrong(place, "needs a \"source\": where the value was read or measured");
    }
    return error ? error : parse_text(out->source, sizeof out->source, place, json_object_get(object, "source"));
}

static int parse_flops(struct device *out, struct place *place, json_t *object)
{
    static const char *const keys[] = {"f32", "bf16", "fp8", NULL};
    int error = check_keys(place, object, keys);
    for (int i = 0; !error && i < DTYPE_COUNT; i++) {
        json_t *figure = json_object_get(object, keys[i]);
        place->key = keys[i];
        error = figure ? parse_figure(&out->flops_per_s[i], place, figure, 1e21) : 0;
    }
    return error;
}

static int parse_curve(struct device *out, const struct place *place, json_t *array)
{
    static const char *const keys[] = {"bytes", "bytes_per_s", NULL};
    if (!json_is_array(array) || json_array_size(array) > DEVICE_CURVE_POINTS) {
        return wrong(place, "must be an array of at most %d points", DEVICE_CURVE_POINTS);
    }
    double bytes = 0, rate = 1e18;
    for (size_t i = 0; i < json_array_size(array); i++) {
        json_t *point = json_array_get(array, i);
        int error = check_keys(place, point, keys);
        error = error ? error : parse_number(&out->curve_bytes[i], place, json_object_get(point, "bytes"), 1e18);
        error = error ? error
                      : parse_number(&out->curve_bytes_per_s[i], place, json_object_get(point, "bytes_per_s"), 1e18);
        if (error) {
            return error;
        }
        if (!(out->curve_bytes[i] > bytes) || !(out->curve_bytes_per_s[i] <= rate)) {
            return wrong(place, "must have sizes that grow and rates that do not (point %zu)", i);
        }
        bytes = out->curve_bytes[i];
        rate = out->curve_bytes_per_s[i];
    }
    out->n_curve = (int32_t)json_array_size(array);
    if (out->n_curve > 0 && !(out->bytes_per_s.value <= rate)) {
        return wrong(place, "must not end below \"bytes_per_s\"");
    }
    return 0;
}

// The figures of one device in the order of the struct; the name is already there.
static int parse_figures(struct device *out, struct place *place, json_t *object)
{
    const struct {
        const char *key;
        struct device_figure *figure;
        double max;
        bool required;
    } figures[] = {
        {"bytes_per_s", &out->bytes_per_s, 1e18, true},
        {"memory_bytes", &out->memory_bytes, 1e18, false},
        {"memory_overhead_bytes", &out->memory_overhead_bytes, 1e18, false},
        {"link_bytes_per_s", &out->link_bytes_per_s, 1e18, false},
        {"link_s", &out->link_s, 1, false},
        {"launch_s", &out->launch_s, 1, false},
        {"price_per_hour", &out->price_per_hour, 1e9, false},
        {"serving_power_w", &out->serving_power_w, 1e9, false},
    };
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        json_t *value = json_object_get(object, figures[i].key);
        place->key = figures[i].key;
        if (!value && figures[i].required) {
            return wrong(place, "is missing");
        }
        int error = value ? parse_figure(figures[i].figure, place, value, figures[i].max) : 0;
        if (error) {
            return error;
        }
    }
    place->key = "flops_per_s";
    if (json_object_size(json_object_get(object, "flops_per_s")) == 0) {
        return wrong(place, "is missing or empty: {\"bf16\": {\"value\": ...}}");
    }
    int error = parse_flops(out, place, json_object_get(object, "flops_per_s"));
    place->key = "curve";
    json_t *curve = json_object_get(object, "curve");
    return error || !curve ? error : parse_curve(out, place, curve);
}

static int parse_device(struct device *out, const char *where, json_t *object, size_t index)
{
    static const char *const keys[] = {"name",     "driver_name",    "bytes_per_s",
                                       "flops_per_s", "curve",       "memory_bytes",
                                       "memory_overhead_bytes",
                                       "link_bytes_per_s", "link_s", "launch_s",
                                       "price_per_hour",   "serving_power_w", NULL};
    char number[24];
    snprintf(number, sizeof number, "%zu", index);
    struct place place = {.where = where, .device = number, .key = "name"};
    int error = json_is_object(object) ? 0 : wrong(&place, "is missing: each device is an object");
    error = error ? error : parse_text(out->name, sizeof out->name, &place, json_object_get(object, "name"));
    if (error) {
        return error;
    }
    place.device = out->name;
    if (strcasecmp(out->name, "host") == 0 || strchr(out->name, ',')) {
        return wrong(&place, "must have no comma and not be \"host\", which is this machine");
    }
    place.key = "device";
    error = check_keys(&place, object, keys);
    json_t *driver_name = json_object_get(object, "driver_name");
    place.key = "driver_name";
    error = error || !driver_name ? error : parse_text(out->driver_name, sizeof out->driver_name, &place, driver_name);
    return error ? error : parse_figures(out, &place, object);
}

static int parse_devices(struct device *table, json_t *array, const char *where)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        int error = parse_device(&table[i], where, json_array_get(array, i), i);
        if (error) {
            return error;
        }
        for (size_t j = 0; j < i; j++) {
            if (strcasecmp(table[i].name, table[j].name) == 0) {
                return status_fail(-EINVAL, "%s: device %s occurs twice", where, table[i].name);
            }
        }
    }
    return 0;
}

int device_table_parse(struct device **out, int32_t *n, const char *text, size_t length, const char *where)
{
    *out = NULL;
    *n = 0;
    json_error_t json_error;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &json_error);
    if (!root) {
        return status_fail(-EINVAL, "%s:%d: %s", where, json_error.line, json_error.text);
    }
    json_t *array = json_object_get(root, "devices");
    size_t count = json_array_size(array);
    struct device *table = NULL;
    int error;
    if (!json_is_array(array) || json_object_size(root) != 1 || count == 0 || count > MAX_DEVICES) {
        error = status_fail(-EINVAL, "%s: expected {\"devices\": [...]} with 1 to %d devices", where, MAX_DEVICES);
        goto done;
    }
    table = calloc(count, sizeof *table);
    if (!table) {
        error = status_fail(-ENOMEM, "%s: no memory for %zu devices", where, count);
        goto done;
    }
    error = parse_devices(table, array, where);
    if (!error) {
        *out = table;
        *n = (int32_t)count;
        table = NULL;
    }
done:
    free(table);
    json_decref(root);
    return error;
}

int device_table_load(struct device **out, int32_t *n, const char *path)
{
    if (!path) {
        return device_table_parse(out, n, (const char *)devices_json, devices_json_bytes, "sim/devices.json");
    }
    *out = NULL;
    *n = 0;
    char *text;
    size_t length = 0;
    int error = input_file_read(&text, &length, path, MAX_FILE_BYTES);
    if (!error) {
        error = device_table_parse(out, n, text, length, path);
        free(text);
    }
    return error;
}

static int unknown_name(const char *name, const char *why, const struct device *table, int32_t n)
{
    char names[1024] = "host";
    for (int32_t i = 0; i < n && strlen(names) + DEVICE_NAME_BYTES + 2 < sizeof names; i++) {
        strcat(strcat(names, ", "), table[i].name);
    }
    return status_fail(-EINVAL, "%.64s: %s; there are %s", name, why, names);
}

int device_table_find(struct device *out, const struct device *table, int32_t n, const char *name)
{
    const struct device *found = NULL;
    size_t length = strlen(name);
    for (int32_t i = 0; i < n; i++) {
        if (strcasecmp(table[i].name, name) == 0) {
            *out = table[i];
            return 0;
        }
        if (strncasecmp(table[i].name, name, length) == 0 && table[i].name[length] == '-') {
            if (found) {
                return unknown_name(name, "several devices begin so", table, n);
            }
            found = &table[i];
        }
    }
    if (!found || length == 0) {
        return unknown_name(name, "no such device", table, n);
    }
    *out = *found;
    return 0;
}

bool device_table_find_driver(struct device *out, const struct device *table, int32_t n, const char *driver_name)
{
    for (int32_t i = 0; i < n; i++) {
        if (table[i].driver_name[0] && strcmp(table[i].driver_name, driver_name) == 0) {
            *out = table[i];
            return true;
        }
    }
    return false;
}

int device_find(struct device *out, const char *name, int32_t threads)
{
    if (strcasecmp(name, "host") == 0) {
        return device_measure_host(out, threads);
    }
    struct device *table;
    int32_t n;
    int error = device_table_load(&table, &n, NULL);
    if (!error) {
        error = device_table_find(out, table, n, name);
        free(table);
    }
    return error;
}
