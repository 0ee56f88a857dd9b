// traces/import_events.c - picks from a stream of events what samples are made of.
#include "traces/import_events.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/import_json.h"

// Microseconds since 1970 are 1.8e15. Nanoseconds between the ends of that range, and a duration more, still fit.
static const double MAX_US = 4e15, MAX_DURATION_US = 1e12;

enum category { OTHER, KERNEL, COPY, FILL, LAUNCH, ANNOTATION, DEVICE_ANNOTATION };

static enum category category_of(const json_t *event)
{
    static const struct {
        const char *name;
        enum category category;
    } known[] = {
        {"kernel", KERNEL},           {"Kernel", KERNEL},
        {"gpu_memcpy", COPY},         {"Memcpy", COPY},
        {"gpu_memset", FILL},         {"Memset", FILL},
        {"cuda_runtime", LAUNCH},     {"Runtime", LAUNCH},
        {"cuda_driver", LAUNCH},      {"user_annotation", ANNOTATION},
        {"gpu_user_annotation", DEVICE_ANNOTATION},
    };
    const char *name = json_string_value(json_object_get(event, "cat"));
    const char *kind = json_string_value(json_object_get(event, "ph"));
    for (size_t i = 0; name && kind && strcmp(kind, "X") == 0 && i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            return known[i].category;
        }
    }
    return OTHER;
}

// The array with room for element n, grown by doubling; NULL where memory is out, the old one then still stands.
static void *reserve(void *array, int64_t n, int64_t *capacity, size_t bytes)
{
    if (n < *capacity) {
        return array;
    }
    int64_t grown_capacity = *capacity ? 2 * *capacity : 1024;
    void *grown = realloc(array, (size_t)grown_capacity * bytes);
    *capacity = grown ? grown_capacity : *capacity;
    return grown;
}

// A whole number, also where it is written as text; `otherwise` where there is none within [0, most].
static int64_t whole(const json_t *value, int64_t most, int64_t otherwise)
{
    double number = json_number_value(value);
    if (json_is_string(value)) {
        char *end;
        number = strtod(json_string_value(value), &end);
        number = end == json_string_value(value) ? -1 : number;
    } else if (!json_is_number(value)) {
        return otherwise;
    }
    return number >= 0 && number <= (double)most ? (int64_t)number : otherwise;
}

static void sizes(int32_t *out, const json_t *array)
{
    for (size_t i = 0; i < 3; i++) {
        out[i] = (int32_t)whole(json_array_get(array, i), INT32_MAX, 0);
    }
}

// Begin and duration in ns; false where they are none.
static bool times(int64_t *begin_ns, int64_t *duration_ns, const json_t *event)
{
    const json_t *ts = json_object_get(event, "ts"), *dur = json_object_get(event, "dur");
    double begin = json_number_value(ts), duration = json_number_value(dur);
    if (!json_is_number(ts) || !json_is_number(dur) || !(fabs(begin) <= MAX_US) ||
        !(duration >= 0 && duration <= MAX_DURATION_US)) {
        return false;
    }
    *begin_ns = json_is_integer(ts) ? 1000 * (int64_t)json_integer_value(ts) : llround(1e3 * begin);
    *duration_ns = llround(1e3 * duration);
    return true;
}

static int32_t intern(struct import_events *events, const json_t *event)
{
    const char *text = json_string_value(json_object_get(event, "name"));
    struct intern_key key = {.text = text ? text : ""};
    int64_t before = events->names.n;
    const struct intern_entry *entry = intern_table_find(&events->names, &key);
    if (!entry || before >= INT32_MAX) {
        return -1;
    }
    return (int32_t)(entry - events->names.entries);
}

static int add_work(struct import_events *events, const json_t *event, enum device_work work, int32_t name,
                    int64_t begin_ns, int64_t duration_ns)
{
    const json_t *args = json_object_get(event, "args");
    struct import_work *works = reserve(events->works, events->n_works, &events->works_capacity, sizeof *works);
    if (!works) {
        return -ENOMEM;
    }
    events->works = works;
    struct import_work *out = &works[events->n_works++];
    *out = (struct import_work){
        .work = work, .name = name, .begin_ns = begin_ns, .duration_ns = duration_ns,
        .device = (int32_t)whole(json_object_get(args, "device"), INT32_MAX,
                                 whole(json_object_get(event, "pid"), INT32_MAX, 0)),
        .context = (int32_t)whole(json_object_get(args, "context"), INT32_MAX, 0),
        .stream = (int32_t)whole(json_object_get(args, "stream"), INT32_MAX,
                                 whole(json_object_get(event, "tid"), INT32_MAX, 0)),
        .correlation = (uint32_t)whole(json_object_get(args, "correlation"), UINT32_MAX, 0),
        .registers = (int32_t)whole(json_object_get(args, "registers per thread"), INT32_MAX, 0),
        .shared_bytes = (int32_t)whole(json_object_get(args, "shared memory"), INT32_MAX, 0),
        .bytes = whole(json_object_get(args, "bytes"), INT64_C(1) << 50, 0),
    };
    sizes(out->grid, json_object_get(args, "grid"));
    sizes(out->block, json_object_get(args, "block"));
    return 0;
}

static int add_launch(struct import_events *events, const json_t *event, int32_t name, int64_t begin_ns,
                      int64_t duration_ns)
{
    uint32_t correlation =
        (uint32_t)whole(json_object_get(json_object_get(event, "args"), "correlation"), UINT32_MAX, 0);
    if (correlation == 0) {
        return 0;
    }
    struct import_launch *launches =
        reserve(events->launches, events->n_launches, &events->launches_capacity, sizeof *launches);
    if (!launches) {
        return -ENOMEM;
    }
    events->launches = launches;
    launches[events->n_launches++] = (struct import_launch){
        .name = name, .thread = (int32_t)whole(json_object_get(event, "tid"), INT32_MAX, 0), .correlation = correlation,
        .begin_ns = begin_ns, .duration_ns = duration_ns,
    };
    return 0;
}

static int add_annotation(struct import_events *events, const json_t *event, bool on_device, int32_t name,
                          int64_t begin_ns, int64_t duration_ns)
{
    struct import_annotation *annotations =
        reserve(events->annotations, events->n_annotations, &events->annotations_capacity, sizeof *annotations);
    if (!annotations) {
        return -ENOMEM;
    }
    events->annotations = annotations;
    annotations[events->n_annotations++] = (struct import_annotation){
        .name = name, .on_device = on_device, .begin_ns = begin_ns, .duration_ns = duration_ns,
        .device = (int32_t)whole(json_object_get(event, "pid"), INT32_MAX, 0),
    };
    return 0;
}

static int on_event(void *user, const json_t *event)
{
    struct import_events *events = user;
    enum category category = category_of(event);
    int64_t begin_ns, duration_ns;
    int error = 0;
    events->n_events++;
    if (category == OTHER) {
        events->n_other++;
        return 0;
    }
    if (!times(&begin_ns, &duration_ns, event)) {
        events->n_invalid++;
        return 0;
    }
    int32_t name = intern(events, event);
    if (name < 0) {
        error = -ENOMEM;
    } else if (category == LAUNCH) {
        error = add_launch(events, event, name, begin_ns, duration_ns);
    } else if (category == ANNOTATION || category == DEVICE_ANNOTATION) {
        error = add_annotation(events, event, category == DEVICE_ANNOTATION, name, begin_ns, duration_ns);
    } else {
        enum device_work work = category == KERNEL ? WORK_KERNEL : category == COPY ? WORK_COPY : WORK_FILL;
        error = add_work(events, event, work, name, begin_ns, duration_ns);
    }
    return error ? status_fail(error, "out of memory after %lld events", (long long)events->n_events) : 0;
}

// "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3", ...}, ...]
static int on_member(void *user, const char *key, const json_t *value)
{
    struct import_events *events = user;
    size_t i;
    const json_t *device;
    const int64_t most = sizeof events->devices / sizeof *events->devices - 1;
    if (strcmp(key, "deviceProperties") == 0) {
        json_array_foreach(value, i, device)
        {
            int64_t id = whole(json_object_get(device, "id"), most, -1);
            const char *name = json_string_value(json_object_get(device, "name"));
            if (id >= 0 && name) {
                snprintf(events->devices[id], SOURCE_NAME_BYTES, "%s", name);    // of two, the later one
            }
        }
    }
    return 0;
}

static int by_begin(int64_t a_ns, int64_t b_ns, int64_t a_duration_ns, int64_t b_duration_ns)
{
    // Of two that begin together the longer is the one around the other.
    return a_ns != b_ns ? (a_ns < b_ns ? -1 : 1) : (a_duration_ns < b_duration_ns) - (a_duration_ns > b_duration_ns);
}

static int compare_works(const void *left, const void *right)
{
    const struct import_work *a = left, *b = right;
    int order = by_begin(a->begin_ns, b->begin_ns, a->duration_ns, b->duration_ns);
    return order ? order : (a->stream > b->stream) - (a->stream < b->stream);
}

static int compare_annotations(const void *left, const void *right)
{
    const struct import_annotation *a = left, *b = right;
    return by_begin(a->begin_ns, b->begin_ns, a->duration_ns, b->duration_ns);
}

static int compare_launches(const void *left, const void *right)
{
    const struct import_launch *a = left, *b = right;
    return a->correlation != b->correlation ? (a->correlation < b->correlation ? -1 : 1)
                                            : by_begin(a->begin_ns, b->begin_ns, a->duration_ns, b->duration_ns);
}

// Moves the earliest begin to 0.
static void shift(struct import_events *events)
{
    int64_t first_ns = INT64_MAX;
    for (int64_t i = 0; i < events->n_works; i++) {
        first_ns = events->works[i].begin_ns < first_ns ? events->works[i].begin_ns : first_ns;
    }
    for (int64_t i = 0; i < events->n_launches; i++) {
        first_ns = events->launches[i].begin_ns < first_ns ? events->launches[i].begin_ns : first_ns;
    }
    for (int64_t i = 0; i < events->n_annotations; i++) {
        first_ns = events->annotations[i].begin_ns < first_ns ? events->annotations[i].begin_ns : first_ns;
    }
    for (int64_t i = 0; i < events->n_works; i++) {
        events->works[i].begin_ns -= first_ns;
    }
    for (int64_t i = 0; i < events->n_launches; i++) {
        events->launches[i].begin_ns -= first_ns;
    }
    for (int64_t i = 0; i < events->n_annotations; i++) {
        events->annotations[i].begin_ns -= first_ns;
    }
}

int import_events_read(struct import_events *out, int fd, const char *name)
{
    *out = (struct import_events){0};
    struct import_json reader = {.name = name, .user = out, .event = on_event, .member = on_member};
    int error = import_json_read(&reader, fd);
    if (error) {
        return error;
    }
    shift(out);
    if (out->n_works > 0) {
        qsort(out->works, (size_t)out->n_works, sizeof *out->works, compare_works);
    }
    if (out->n_launches > 0) {
        qsort(out->launches, (size_t)out->n_launches, sizeof *out->launches, compare_launches);
    }
    if (out->n_annotations > 0) {
        qsort(out->annotations, (size_t)out->n_annotations, sizeof *out->annotations, compare_annotations);
    }
    return 0;
}

void import_events_free(struct import_events *events)
{
    intern_table_free(&events->names);
    free(events->works);
    free(events->launches);
    free(events->annotations);
    *events = (struct import_events){0};
}
