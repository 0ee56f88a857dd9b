// cupti/range_profiler.c - CUPTI's range profiler with ranges of our own and a single pass.
//
// CUPTI adds up ranges of the same name, so each is named by its number. A session holds SESSION_RANGES of them; when
// it is full, it is evaluated and the next one begins, unnoticed by the caller.
#include "cupti/range_profiler.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/status.h"

// More than the stages of a decode step; the image takes some kilobytes a range.
enum { SESSION_RANGES = 512, MAX_METRICS = 16 };

struct range_profiler {
    struct counters_api api;
    const char *metrics[MAX_METRICS];    // [n_metrics]
    int32_t n_metrics;
    void *host, *object;    // CUPTI's
    uint8_t *config;        // owned
    uint8_t *image;         // [image_bytes] owned
    size_t config_bytes, image_bytes;
    bool running;                  // a session is open
    int32_t n_open;                // ranges of this session
    double *values;                // [capacity][n_metrics] owned
    int32_t n_values, capacity;    // ranges
    int failed;                    // the first failure
    char failure[256];             // its text
};

static void fail(struct range_profiler *profiler, int error)
{
    if (error && !profiler->failed) {
        profiler->failed = error;
        snprintf(profiler->failure, sizeof profiler->failure, "%s", status_text());
    }
}

static int check(const struct range_profiler *profiler, int result)
{
    return counters_api_status(&profiler->api, result, "counting ranges");
}

// ---------------------------------------------------------------------------------------------------------------------
// Sessions

static int begin_session(struct range_profiler *profiler)
{
    struct counters_api *api = &profiler->api;
    struct cupti_image_init init = COUNTERS_PARAMS(cupti_image_init, image, .object = profiler->object,
                                                   .bytes = profiler->image_bytes, .image = profiler->image);
    int error = check(profiler, api->range_image_init(&init));
    struct cupti_range_config config = COUNTERS_PARAMS(
        cupti_range_config, target_level, .object = profiler->object, .config_bytes = profiler->config_bytes,
        .config = profiler->config, .image_bytes = profiler->image_bytes, .image = profiler->image,
        .range = COUNTERS_USER_RANGE, .replay = COUNTERS_USER_REPLAY, .max_ranges = SESSION_RANGES, .n_levels = 1,
        .min_level = 1, .target_level = 1);
    error = error ? error : check(profiler, api->range_configure(&config));
    struct cupti_range_object object = COUNTERS_PARAMS(cupti_range_object, object, .object = profiler->object);
    error = error ? error : check(profiler, api->range_start(&object));
    profiler->running = !error;
    profiler->n_open = 0;
    return error;
}

static int grow(struct range_profiler *profiler, int32_t wanted)
{
    if (wanted <= profiler->capacity) {
        return 0;
    }
    int32_t capacity = wanted > 2 * profiler->capacity ? wanted : 2 * profiler->capacity;
    double *grown = realloc(profiler->values, (size_t)capacity * (size_t)profiler->n_metrics * sizeof *grown);
    if (!grown) {
        return status_fail(-ENOMEM, "no memory for the counts of %d ranges", capacity);
    }
    profiler->values = grown;
    profiler->capacity = capacity;
    return 0;
}

// Puts the counts of the image's range `index` where its name says.
static int take_range(struct range_profiler *profiler, size_t index, bool *seen)
{
    struct counters_api *api = &profiler->api;
    struct cupti_range_name name =
        COUNTERS_PARAMS(cupti_range_name, name, .image = profiler->image, .image_bytes = profiler->image_bytes,
                        .index = index, .delimiter = "/");
    int error = check(profiler, api->range_name(&name));
    char *end = NULL;
    long number = error ? -1 : strtol(name.name, &end, 10);
    if (!error && (end == name.name || *end || number < 0 || number >= profiler->n_open || seen[number])) {
        error = status_fail(-EIO, "counting ranges: CUPTI names a range \"%.40s\"", name.name);
    }
    if (error) {
        return error;
    }
    seen[number] = true;
    double *values = profiler->values + (profiler->n_values + number) * (long)profiler->n_metrics;
    struct cupti_host_evaluate evaluate =
        COUNTERS_PARAMS(cupti_host_evaluate, values, .host = profiler->host, .image = profiler->image,
                        .image_bytes = profiler->image_bytes, .index = index, .names = profiler->metrics,
                        .n = (size_t)profiler->n_metrics, .values = values);
    return check(profiler, api->host_evaluate(&evaluate));
}

static int end_session(struct range_profiler *profiler)
{
    struct counters_api *api = &profiler->api;
    bool seen[SESSION_RANGES] = {false};
    struct cupti_range_stop stop = COUNTERS_PARAMS(cupti_range_stop, all_submitted, .object = profiler->object);
    int error = check(profiler, api->range_stop(&stop));
    profiler->running = false;
    if (!error && !stop.all_submitted) {
        error = status_fail(-EIO, "counting ranges: one pass does not suffice");
    }
    struct cupti_range_decode decode = COUNTERS_PARAMS(cupti_range_decode, dropped, .object = profiler->object);
    error = error ? error : check(profiler, api->range_decode(&decode));
    if (!error && decode.dropped > 0) {
        error = status_fail(-EIO, "counting ranges: CUPTI dropped %zu", decode.dropped);
    }
    struct cupti_range_info info =
        COUNTERS_PARAMS(cupti_range_info, n, .image = profiler->image, .image_bytes = profiler->image_bytes);
    error = error ? error : check(profiler, api->range_info(&info));
    if (!error && info.n != (size_t)profiler->n_open) {
        error = status_fail(-EIO, "counting ranges: CUPTI knows %zu of %d", info.n, profiler->n_open);
    }
    error = error ? error : grow(profiler, profiler->n_values + profiler->n_open);
    for (size_t i = 0; !error && i < info.n; i++) {
        error = take_range(profiler, i, seen);
    }
    profiler->n_values += error ? 0 : profiler->n_open;
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Ranges

void range_profiler_push(struct range_profiler *profiler)
{
    if (profiler->failed) {
        return;
    }
    int error = profiler->api.context_synchronize() ? status_fail(-EIO, "counting ranges: the GPU failed") : 0;
    if (!error && profiler->running && profiler->n_open == SESSION_RANGES) {
        error = end_session(profiler);
    }
    error = error || profiler->running ? error : begin_session(profiler);
    char name[16];
    snprintf(name, sizeof name, "%d", profiler->n_open);
    struct cupti_range_push push = COUNTERS_PARAMS(cupti_range_push, name, .object = profiler->object, .name = name);
    error = error ? error : check(profiler, profiler->api.range_push(&push));
    fail(profiler, error);
}

void range_profiler_pop(struct range_profiler *profiler)
{
    if (profiler->failed) {
        return;
    }
    int error = profiler->api.context_synchronize() ? status_fail(-EIO, "counting ranges: the GPU failed") : 0;
    struct cupti_range_object pop = COUNTERS_PARAMS(cupti_range_object, object, .object = profiler->object);
    error = error ? error : check(profiler, profiler->api.range_pop(&pop));
    profiler->n_open += !error;
    fail(profiler, error);
}

int range_profiler_collect(struct range_profiler *profiler, const double **values)
{
    *values = NULL;
    if (!profiler->failed && profiler->running) {
        fail(profiler, end_session(profiler));
    }
    if (profiler->failed) {
        return status_fail(profiler->failed, "%s", profiler->failure);
    }
    int n = profiler->n_values;
    *values = profiler->values;
    profiler->n_values = 0;
    return n;
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

static int configure(struct range_profiler *profiler, const struct range_options *options, void *context)
{
    const struct counters_api *api = &profiler->api;
    struct cupti_chip_name chip = COUNTERS_PARAMS(cupti_chip_name, name, .device = (size_t)options->device);
    int error = check(profiler, api->device_chip(&chip));
    struct cupti_range_availability ask = COUNTERS_PARAMS(cupti_range_availability, image, .context = context);
    error = error ? error : check(profiler, api->range_availability(&ask));
    if (error) {
        return error;
    }
    ask.image = calloc(1, ask.bytes);
    error = ask.image ? check(profiler, api->range_availability(&ask)) : status_fail(-ENOMEM, "no memory for counters");
    error = error ? error
                  : counters_configure(api, COUNTERS_RANGE_PROFILER, chip.name, ask.image, profiler->metrics,
                                       &profiler->n_metrics, profiler->n_metrics, &profiler->host, &profiler->config,
                                       &profiler->config_bytes);
    free(ask.image);
    return error;
}

static int enable(struct range_profiler *profiler, void *context)
{
    const struct counters_api *api = &profiler->api;
    struct cupti_range_enable start = COUNTERS_PARAMS(cupti_range_enable, object, .context = context);
    int error = check(profiler, api->range_enable(&start));
    if (error) {
        return error;
    }
    profiler->object = start.object;
    struct cupti_range_image_size size =
        COUNTERS_PARAMS(cupti_range_image_size, bytes, .object = profiler->object, .names = profiler->metrics,
                        .n = (size_t)profiler->n_metrics, .max_ranges = SESSION_RANGES, .max_nodes = SESSION_RANGES);
    error = check(profiler, api->range_image_size(&size));
    if (error) {
        return error;
    }
    profiler->image = calloc(1, size.bytes);
    profiler->image_bytes = size.bytes;
    return profiler->image ? 0 : status_fail(-ENOMEM, "no memory for %zu bytes of counters", size.bytes);
}

int range_profiler_open(struct range_profiler **out, const struct range_options *options)
{
    *out = NULL;
    if (options->n_metrics < 1 || options->n_metrics > MAX_METRICS) {
        return status_fail(-EINVAL, "%d metrics; expected 1 to %d", options->n_metrics, MAX_METRICS);
    }
    struct range_profiler *profiler = calloc(1, sizeof *profiler);
    if (!profiler) {
        return status_fail(-ENOMEM, "no memory for a profiler");
    }
    for (profiler->n_metrics = 0; profiler->n_metrics < options->n_metrics; profiler->n_metrics++) {
        profiler->metrics[profiler->n_metrics] = options->metrics[profiler->n_metrics];
    }
    void *context = NULL;
    struct cupti_nothing initialize = COUNTERS_PARAMS(cupti_nothing, priv, .priv = NULL);
    int error = counters_api_load(&profiler->api, &options->libraries);
    if (!error && (profiler->api.context_current(&context) != 0 || !context)) {
        error = status_fail(-ENOTSUP, "counting ranges: this thread has no CUDA context");
    }
    error = error ? error : check(profiler, profiler->api.profiler_initialize(&initialize));
    error = error ? error : configure(profiler, options, context);
    error = error ? error : enable(profiler, context);
    if (error) {
        range_profiler_close(profiler);
        return error;
    }
    *out = profiler;
    return 0;
}

void range_profiler_close(struct range_profiler *profiler)
{
    if (!profiler) {
        return;
    }
    const struct counters_api *api = &profiler->api;
    if (profiler->object) {
        struct cupti_range_stop stop = COUNTERS_PARAMS(cupti_range_stop, all_submitted, .object = profiler->object);
        struct cupti_range_object object = COUNTERS_PARAMS(cupti_range_object, object, .object = profiler->object);
        if (profiler->running) {
            api->range_stop(&stop);
        }
        api->range_disable(&object);
    }
    if (profiler->host) {
        struct cupti_host_close close = COUNTERS_PARAMS(cupti_host_close, host, .host = profiler->host);
        api->host_close(&close);
    }
    free(profiler->config);
    free(profiler->image);
    free(profiler->values);
    free(profiler);
}
