// workloads/describe.c - our own descriptions: JSON in, a drawn list of requests out.
//
// {"name", "source", "seed", "requests",
//  "arrivals": {"law": "poisson" | "gamma" | "constant", "rate_per_s" or "rates_per_s" with "window_s" (a rate for each
//               window, repeated), "cv" (gamma: deviation of the gaps over their mean)}
//           or {"law": "closed-loop", "users", "pause_s"},
//  "classes": [{"name", "weight", "prompt": lengths, "output": lengths, "correlation" (of their ranks' normal scores),
//               "think_share" (of the output), "prefix": {"groups", "tokens"} (stands before the drawn prompt)}]}
// Lengths are {"law": "constant", "tokens"}, {"law": "lognormal", "median_tokens", "sigma", "min_tokens", "max_tokens"}
// or {"law": "quantiles", "at": [0 .. 1], "tokens": [...]}, geometric between the points. Draws outside [min, max] move
// to the nearer end. "source" says where the figures come from and is required: a workload without one is a rumour.
//
// Validation is strict: an unknown key is an error. The same text and seed give the same list.
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status_list.h"
#include "workloads/internal.h"

enum { MAX_POINTS = 64, MAX_RATES = 1024, MAX_GROUPS = 1 << 20 };
static const int64_t max_requests = 100000000;

enum length_law { LENGTH_CONSTANT, LENGTH_LOGNORMAL, LENGTH_QUANTILES };

struct lengths {
    enum length_law law;
    double tokens, median, sigma, min, max;
    int32_t n;
    double at[MAX_POINTS], values[MAX_POINTS];
};

struct class {
    double weight, correlation, think_share;
    struct lengths prompt, output;
    int32_t prefix_groups, prefix_tokens;
    bool *group_seen;    // [prefix_groups] owned
};

enum arrival_law { ARRIVAL_POISSON, ARRIVAL_GAMMA, ARRIVAL_CONSTANT, ARRIVAL_CLOSED_LOOP };

struct description {
    uint64_t seed;
    int64_t requests;
    enum arrival_law arrivals;
    double cv, window_s;
    int32_t n_rates;
    double rates_per_s[MAX_RATES];
    int32_t n_classes;
    struct class classes[WORKLOAD_MAX_CLASSES];
};

// ---------------------------------------------------------------------------------------------------------------------
// Reading

// Where we are: "reasoning.workload: classes[0].prompt".
struct place {
    const char *where;
    char path[96];
};

__attribute__((format(printf, 3, 4))) static int wrong(const struct place *place, const char *key, const char *format,
                                                       ...)
{
    va_list arguments;
    va_start(arguments, format);
    status_fail_list(-EINVAL, format, arguments);
    va_end(arguments);
    return status_prefix(-EINVAL, "%s: %s%s\"%.40s\" ", place->where, place->path, place->path[0] ? "." : "", key);
}

static int take_number(double *out, const struct place *place, json_t *object, const char *key, double low, double high)
{
    json_t *value = json_object_get(object, key);
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= low && number <= high)) {
        return wrong(place, key, "expected a number from %g to %g", low, high);
    }
    *out = number;
    return 0;
}

// The same where the key may be absent; *out then keeps its value.
static int take_optional(double *out, const struct place *place, json_t *object, const char *key, double low,
                         double high)
{
    return json_object_get(object, key) ? take_number(out, place, object, key, low, high) : 0;
}

static int take_whole(int64_t *out, const struct place *place, json_t *object, const char *key, int64_t low,
                      int64_t high)
{
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < low || json_integer_value(value) > high) {
        return wrong(place, key, "expected a whole number from %lld to %lld", (long long)low, (long long)high);
    }
    *out = json_integer_value(value);
    return 0;
}

// One of `names`, which end with NULL.
static int take_name(int *out, const struct place *place, json_t *object, const char *key, const char *const *names)
{
    const char *name = json_string_value(json_object_get(object, key));
    char all[128] = "";
    for (int i = 0; names[i]; i++) {
        if (name && strcmp(name, names[i]) == 0) {
            *out = i;
            return 0;
        }
        strcat(strcat(all, i ? ", " : ""), names[i]);
    }
    return wrong(place, key, "expected one of %s", all);
}

static int take_list(double *out, int32_t *n, const struct place *place, json_t *object, const char *key, int32_t max,
                     double low, double high)
{
    json_t *list = json_object_get(object, key);
    size_t size = json_array_size(list);
    if (size < 1 || size > (size_t)max) {
        return wrong(place, key, "expected a list of 1 to %d numbers", max);
    }
    for (size_t i = 0; i < size; i++) {
        json_t *value = json_array_get(list, i);
        out[i] = json_number_value(value);
        if (!json_is_number(value) || !(out[i] >= low && out[i] <= high)) {
            return wrong(place, key, "[%zu]: expected a number from %g to %g", i, low, high);
        }
    }
    *n = (int32_t)size;
    return 0;
}

static int check_keys(const struct place *place, json_t *object, const char *const *keys)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object)) {
        return status_fail(-EINVAL, "%s: %s: expected an object", place->where, place->path);
    }
    json_object_foreach(object, key, value)
    {
        bool known = false;
        for (int i = 0; keys[i] && !known; i++) {
            known = strcmp(key, keys[i]) == 0;
        }
        if (!known) {
            return wrong(place, key, "is no key of this place");
        }
    }
    return 0;
}

static int read_quantiles(struct lengths *out, const struct place *place, json_t *object)
{
    int32_t n = 0;
    int error = take_list(out->at, &out->n, place, object, "at", MAX_POINTS, 0, 1);
    error = error ? error : take_list(out->values, &n, place, object, "tokens", MAX_POINTS, 1, WORKLOAD_MAX_TOKENS);
    if (error) {
        return error;
    }
    if (n != out->n || n < 2 || out->at[0] > 0 || out->at[n - 1] < 1) {
        return wrong(place, "at", "expected as many places as tokens, from 0 to 1");
    }
    for (int32_t i = 1; i < n; i++) {
        if (!(out->at[i] > out->at[i - 1]) || !(out->values[i] >= out->values[i - 1])) {
            return wrong(place, "at", "[%d]: expected places and tokens to ascend", i);
        }
    }
    return 0;
}

static int read_lengths(struct lengths *out, struct place place, json_t *parent, const char *key)
{
    static const char *const laws[] = {"constant", "lognormal", "quantiles", NULL};
    static const char *const keys[][6] = {{"law", "tokens"},
                                          {"law", "median_tokens", "sigma", "min_tokens", "max_tokens"},
                                          {"law", "at", "tokens", "min_tokens", "max_tokens"}};
    json_t *object = json_object_get(parent, key);
    size_t end = strlen(place.path);
    snprintf(place.path + end, sizeof place.path - end, ".%s", key);
    int law = 0;
    *out = (struct lengths){.min = 1, .max = WORKLOAD_MAX_TOKENS};
    if (!json_is_object(object)) {
        return status_fail(-EINVAL, "%s: %s: expected an object with a \"law\"", place.where, place.path);
    }
    int error = take_name(&law, &place, object, "law", laws);
    error = error ? error : check_keys(&place, object, keys[law]);
    error = error ? error : take_optional(&out->min, &place, object, "min_tokens", 1, WORKLOAD_MAX_TOKENS);
    error = error ? error : take_optional(&out->max, &place, object, "max_tokens", out->min, WORKLOAD_MAX_TOKENS);
    out->law = (enum length_law)law;
    if (error) {
        return error;
    }
    switch (out->law) {
    case LENGTH_CONSTANT: return take_number(&out->tokens, &place, object, "tokens", 1, WORKLOAD_MAX_TOKENS);
    case LENGTH_QUANTILES: return read_quantiles(out, &place, object);
    default:
        error = take_number(&out->median, &place, object, "median_tokens", 1, WORKLOAD_MAX_TOKENS);
        return error ? error : take_number(&out->sigma, &place, object, "sigma", 0, 10);
    }
}

static int read_prefix(struct class *out, struct place place, json_t *object)
{
    static const char *const keys[] = {"groups", "tokens", NULL};
    int64_t groups = 0, tokens = 0;
    size_t end = strlen(place.path);
    snprintf(place.path + end, sizeof place.path - end, ".prefix");
    int error = check_keys(&place, object, keys);
    error = error ? error : take_whole(&groups, &place, object, "groups", 1, MAX_GROUPS);
    error = error ? error : take_whole(&tokens, &place, object, "tokens", 1, WORKLOAD_MAX_TOKENS / 2);
    if (error) {
        return error;
    }
    out->prefix_groups = (int32_t)groups;
    out->prefix_tokens = (int32_t)tokens;
    out->group_seen = calloc((size_t)groups, sizeof *out->group_seen);
    return out->group_seen ? 0 : status_fail(-ENOMEM, "no memory for %lld prefixes", (long long)groups);
}

static int read_class(struct class *out, char *name, const char *where, json_t *object, size_t index)
{
    static const char *const keys[] = {"name",        "weight",      "prompt", "output",
                                       "correlation", "think_share", "prefix", NULL};
    struct place place = {.where = where};
    snprintf(place.path, sizeof place.path, "classes[%zu]", index);
    *out = (struct class){.weight = 1};
    int error = check_keys(&place, object, keys);
    const char *given = json_string_value(json_object_get(object, "name"));
    if (!error && (!given || !*given || strlen(given) >= WORKLOAD_NAME_BYTES)) {
        error = wrong(&place, "name", "expected a text of 1 to %d bytes", WORKLOAD_NAME_BYTES - 1);
    }
    error = error ? error : take_optional(&out->weight, &place, object, "weight", 1e-6, 1e6);
    error = error ? error : take_optional(&out->correlation, &place, object, "correlation", -1, 1);
    error = error ? error : take_optional(&out->think_share, &place, object, "think_share", 0, 1);
    error = error ? error : read_lengths(&out->prompt, place, object, "prompt");
    error = error ? error : read_lengths(&out->output, place, object, "output");
    if (!error) {
        snprintf(name, WORKLOAD_NAME_BYTES, "%s", given);
    }
    json_t *prefix = json_object_get(object, "prefix");
    return error || !prefix ? error : read_prefix(out, place, prefix);
}

static int read_arrivals(struct description *out, struct workload *workload, const char *where, json_t *object)
{
    static const char *const laws[] = {"poisson", "gamma", "constant", "closed-loop", NULL};
    static const char *const open_keys[] = {"law", "rate_per_s", "rates_per_s", "window_s", "cv", NULL};
    static const char *const closed_keys[] = {"law", "users", "pause_s", NULL};
    struct place place = {.where = where, .path = "arrivals"};
    int law = 0;
    if (!json_is_object(object)) {
        return status_fail(-EINVAL, "%s: \"arrivals\": expected an object with a \"law\"", where);
    }
    int error = take_name(&law, &place, object, "law", laws);
    out->arrivals = (enum arrival_law)law;
    bool closed = out->arrivals == ARRIVAL_CLOSED_LOOP;
    error = error ? error : check_keys(&place, object, closed ? closed_keys : open_keys);
    if (error) {
        return error;
    }
    if (closed) {
        int64_t users = 0;
        double pause_s = 0;
        error = take_whole(&users, &place, object, "users", 1, 1 << 24);
        error = error ? error : take_optional(&pause_s, &place, object, "pause_s", 0, 1e9);
        workload->users = (int32_t)users;
        workload->pause_ns = (int64_t)(pause_s * 1e9);
        return error;
    }
    out->window_s = 1;
    out->n_rates = 1;
    out->cv = 1;
    if (json_object_get(object, "rates_per_s")) {
        error = take_list(out->rates_per_s, &out->n_rates, &place, object, "rates_per_s", MAX_RATES, 1e-4, 1e6);
        error = error ? error : take_number(&out->window_s, &place, object, "window_s", 60, 1e6);
    } else {
        error = take_number(&out->rates_per_s[0], &place, object, "rate_per_s", 1e-4, 1e6);
    }
    return error || out->arrivals != ARRIVAL_GAMMA ? error : take_number(&out->cv, &place, object, "cv", 0.01, 100);
}

static int read_description(struct description *out, struct workload *workload, const char *where, json_t *root)
{
    static const char *const keys[] = {"name", "source", "seed", "requests", "arrivals", "classes", NULL};
    struct place place = {.where = where};
    int64_t seed = 0;
    int error = check_keys(&place, root, keys);
    const char *name = json_string_value(json_object_get(root, "name"));
    const char *source = json_string_value(json_object_get(root, "source"));
    json_t *classes = json_object_get(root, "classes");
    if (!error && (!name || !*name || strlen(name) >= WORKLOAD_NAME_BYTES)) {
        error = wrong(&place, "name", "expected a text of 1 to %d bytes", WORKLOAD_NAME_BYTES - 1);
    }
    if (!error && (!source || !*source)) {
        error = wrong(&place, "source", "expected a text that says where the figures come from");
    }
    error = error ? error : take_whole(&seed, &place, root, "seed", 0, INT64_MAX);
    error = error ? error : take_whole(&out->requests, &place, root, "requests", 1, max_requests);
    error = error ? error : read_arrivals(out, workload, where, json_object_get(root, "arrivals"));
    if (!error && (json_array_size(classes) < 1 || json_array_size(classes) > WORKLOAD_MAX_CLASSES)) {
        error = wrong(&place, "classes", "expected a list of 1 to %d", WORKLOAD_MAX_CLASSES);
    }
    for (size_t i = 0; !error && i < json_array_size(classes); i++) {
        out->n_classes++;
        error = read_class(&out->classes[i], workload->classes[i], where, json_array_get(classes, i), i);
    }
    if (!error) {
        snprintf(workload->name, sizeof workload->name, "%s", name);
        workload->n_classes = out->n_classes;
        out->seed = (uint64_t)seed;
    }
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Drawing

struct random {
    uint64_t state;
};

static double uniform(struct random *random)    // (0, 1): splitmix64's upper bits, never an end
{
    uint64_t z = (random->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 12) + 0.5) * 0x1p-52;
}

static double normal(struct random *random)
{
    double radius = sqrt(-2 * log(uniform(random)));
    return radius * cos(6.283185307179586 * uniform(random));
}

// Of mean 1 and the given shape, after Marsaglia and Tsang (2000); shapes below 1 by a power of a uniform draw.
static double gamma_draw(struct random *random, double shape)
{
    double boost = shape < 1 ? pow(uniform(random), 1 / shape) : 1, raised = shape < 1 ? shape + 1 : shape;
    double d = raised - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(random), v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(uniform(random)) < 0.5 * x * x + d - d * v + d * log(v)) {
            return d * v * boost / shape;
        }
    }
}

// The length whose rank has the normal score z.
static int32_t length_at(const struct lengths *lengths, double z)
{
    double tokens = lengths->tokens;
    if (lengths->law == LENGTH_LOGNORMAL) {
        tokens = lengths->median * exp(lengths->sigma * z);
    } else if (lengths->law == LENGTH_QUANTILES) {
        double rank = 0.5 * erfc(-z * 0.7071067811865476);
        int32_t i = 1;
        while (i < lengths->n - 1 && rank > lengths->at[i]) {
            i++;
        }
        double part = (rank - lengths->at[i - 1]) / (lengths->at[i] - lengths->at[i - 1]);
        tokens = lengths->values[i - 1] * pow(lengths->values[i] / lengths->values[i - 1], part);
    }
    return (int32_t)round(fmin(fmax(tokens, lengths->min), lengths->max));
}

static int32_t draw_class(struct random *random, const struct description *description)
{
    double total = 0, so_far = 0;
    for (int32_t i = 0; i < description->n_classes; i++) {
        total += description->classes[i].weight;
    }
    double at = uniform(random) * total;
    int32_t i = 0;
    while (i < description->n_classes - 1 && (so_far += description->classes[i].weight) < at) {
        i++;
    }
    return i;
}

static struct workload_request draw_request(struct random *random, struct description *description)
{
    int32_t index = draw_class(random, description);
    struct class *class = &description->classes[index];
    double z = normal(random), other = normal(random), r = class->correlation;
    struct workload_request request = {.prefix_id = -1, .class_index = index};
    request.prompt_tokens = length_at(&class->prompt, z);
    request.output_tokens = length_at(&class->output, r * z + sqrt(1 - r * r) * other);
    request.think_tokens = (int32_t)(class->think_share * request.output_tokens);
    if (class->prefix_groups > 0) {
        int32_t group = (int32_t)(uniform(random) * class->prefix_groups);
        int64_t whole = (int64_t)request.prompt_tokens + class->prefix_tokens;
        request.prompt_tokens = whole < WORKLOAD_MAX_TOKENS ? (int32_t)whole : WORKLOAD_MAX_TOKENS;
        request.prefix_id = (int64_t)index << 32 | group;
        request.prefix_tokens = class->prefix_tokens;
        request.reused_tokens = class->group_seen[group] ? class->prefix_tokens : 0;
        class->group_seen[group] = true;
    }
    return request;
}

// Advances *now_s by a gap of mean 1 at rate 1, stretched by the rates of the windows that it passes.
static void pass_gap(double *now_s, const struct description *description, double gap)
{
    double window_s = description->window_s;
    for (;;) {
        double window = floor(*now_s / window_s);
        window += (window + 1) * window_s <= *now_s;    // the quotient was rounded down to the window before
        double rate = description->rates_per_s[(int64_t)fmod(window, description->n_rates)];
        double left_s = (window + 1) * window_s - *now_s;
        if (description->n_rates == 1 || gap <= left_s * rate) {
            *now_s += gap / rate;
            return;
        }
        gap -= left_s * rate;
        *now_s = (window + 1) * window_s;
    }
}

static double draw_gap(struct random *random, const struct description *description)
{
    switch (description->arrivals) {
    case ARRIVAL_CONSTANT: return 1;
    case ARRIVAL_GAMMA: return gamma_draw(random, 1 / (description->cv * description->cv));
    default: return -log(uniform(random));
    }
}

static int draw(struct workload *out, struct description *description, const char *where)
{
    struct random random = {description->seed};
    double now_s = 0;
    out->requests = malloc((size_t)description->requests * sizeof *out->requests);
    if (!out->requests) {
        return status_fail(-ENOMEM, "%s: no memory for %lld requests", where, (long long)description->requests);
    }
    for (int64_t i = 0; i < description->requests; i++) {
        struct workload_request *request = &out->requests[out->n++];
        *request = draw_request(&random, description);
        if (description->arrivals != ARRIVAL_CLOSED_LOOP) {
            request->arrival_ns = (int64_t)(now_s * 1e9);
            pass_gap(&now_s, description, draw_gap(&random, description));
            if (!(now_s < 4e9)) {
                return status_fail(-EINVAL, "%s: request %lld arrives after more than 120 years; raise the rate", where,
                                   (long long)i);
            }
        }
    }
    return 0;
}

int workload_describe(struct workload *out, const char *text, size_t length, const char *where,
                      const struct workload_options *options)
{
    json_error_t place;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &place);
    if (!root) {
        return status_fail(-EINVAL, "%s: line %d, column %d: %s", where, place.line, place.column, place.text);
    }
    struct description *description = calloc(1, sizeof *description);
    int error = description ? 0 : status_fail(-ENOMEM, "%s: no memory", where);
    error = error ? error : read_description(description, out, where, root);
    if (!error) {
        description->seed = options->seed ? options->seed : description->seed;
        description->requests = options->max_requests ? options->max_requests : description->requests;
        error = draw(out, description, where);
    }
    for (int32_t i = 0; description && i < description->n_classes; i++) {
        free(description->classes[i].group_seen);
    }
    free(description);
    json_decref(root);
    return error;
}
