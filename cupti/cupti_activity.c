// cupti/cupti_activity.c - the subscription, its buffers, and the thread that empties them.
//
// Buffers are given to CUPTI zeroed, which spares it from doing so in the thread that launches. They are taken back by
// a callback that only puts them into a list; records are read by our thread alone. Where memory for a buffer is
// refused, CUPTI drops records and counts them.
#include "cupti/cupti_activity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/status.h"

// 1 MiB: five thousand kernels, some 25 decode steps. A buffer comes back when it is full; larger ones would come
// later.
enum { BUFFER_BYTES = 1 << 20, FLUSH_PERIOD_MS = 100 };
enum { SPARE_BUFFERS = 8 };    // kept for the next request; more are given back

// Device memory for the timestamps of 250,000 works each; the first are taken with the context, so that no step waits.
static const size_t device_buffer_bytes = 8 << 20, device_buffer_limit = 250, device_buffers_first = 3;

struct buffer {
    struct buffer *next;
    size_t valid;
    // Behind it, at DATA_OFFSET: BUFFER_BYTES of records.
};
enum { DATA_OFFSET = 64 };    // records begin at a cache line; CUPTI asks for 8

struct activity {
    const struct cupti *cupti;
    void *subscriber;
    struct activity_client client;
    struct join join;
    enum activity_level level;
    int64_t dropped;                     // that CUPTI has counted
    pthread_t thread;

    pthread_mutex_t mutex;               // of all below
    pthread_cond_t wake, done;
    bool open, stop;
    bool given;                          // CUPTI has had a buffer: there is a context, and something to be asked for
    uint64_t asked, answered;            // drains
    struct buffer *full, **full_end;     // in the order in which they came
    struct buffer *spare;
    int32_t n_spare;
};

static struct activity session = {.mutex = PTHREAD_MUTEX_INITIALIZER};

// Of a thread that enqueues: what nodes of graphs made now are of, and which works may run them.
static _Thread_local int32_t current_ordinal = -1;
static _Thread_local uint64_t current_tag, next_tag;

static int refuse(int result, const char *what)
{
    const char *text = NULL;
    if (session.cupti->result_string(result, &text) != CUPTI_OK || !text) {
        text = "unknown error";
    }
    return status_fail(-ENOTSUP, "CUPTI: %s: %s (%d)%s", what, text, result,
                       result == CUPTI_NO_PRIVILEGE ? "; run as root, or set NVreg_RestrictProfilingToAdminUsers=0"
                                                    : "");
}

// ---------------------------------------------------------------------------------------------------------------------
// What CUPTI calls

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void on_request(uint8_t **data, size_t *bytes, size_t *max_records)
{
    pthread_mutex_lock(&session.mutex);
    struct buffer *buffer = session.spare;
    if (buffer) {
        session.spare = buffer->next;
        session.n_spare--;
    }
    session.given = true;
    pthread_mutex_unlock(&session.mutex);
    buffer = buffer ? buffer : calloc(1, DATA_OFFSET + BUFFER_BYTES);
    *data = buffer ? (uint8_t *)buffer + DATA_OFFSET : NULL;
    *bytes = buffer ? BUFFER_BYTES : 0;
    *max_records = 0;    // as many as fit
}

static void on_complete(void *context, uint32_t stream, uint8_t *data, size_t bytes, size_t valid)
{
    (void)context;
    (void)stream;
    (void)bytes;
    if (!data) {
        return;
    }
    struct buffer *buffer = (struct buffer *)(void *)(data - DATA_OFFSET);
    buffer->next = NULL;
    buffer->valid = valid;
    pthread_mutex_lock(&session.mutex);
    *session.full_end = buffer;
    session.full_end = &buffer->next;
    pthread_mutex_unlock(&session.mutex);
}

// A graph's node was made: by the thread that captures, or as the copy that will be launched.
static void on_node(void *user, uint32_t domain, uint32_t id, const void *data)
{
    (void)user;
    const struct cupti_resource *resource = data;
    uint64_t node = 0, original = 0;
    if (domain != CUPTI_DOMAIN_RESOURCE || !resource->data || !resource->data->node ||
        session.cupti->node_id(resource->data->node, &node) != CUPTI_OK) {
        return;
    }
    if (id == CUPTI_NODE_CREATED) {
        join_node_created(&session.join, node, current_ordinal, current_tag);
    } else if (id == CUPTI_NODE_DESTROYED) {
        join_node_destroyed(&session.join, node, current_tag);
    } else if (id == CUPTI_NODE_CLONED && resource->data->original_node &&
               session.cupti->node_id(resource->data->original_node, &original) == CUPTI_OK) {
        join_node_cloned(&session.join, node, original, current_tag);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The thread

static void give_back(struct buffer *buffer)
{
    pthread_mutex_lock(&session.mutex);
    bool keep = session.n_spare < SPARE_BUFFERS;    // only this thread adds to the spare ones
    pthread_mutex_unlock(&session.mutex);
    if (!keep) {
        free(buffer);
        return;
    }
    memset((uint8_t *)buffer + DATA_OFFSET, 0, buffer->valid);
    pthread_mutex_lock(&session.mutex);
    buffer->next = session.spare;
    session.spare = buffer;
    session.n_spare++;
    pthread_mutex_unlock(&session.mutex);
}

static void read_buffers(void)
{
    pthread_mutex_lock(&session.mutex);
    struct buffer *buffer = session.full;
    session.full = NULL;
    session.full_end = &session.full;
    pthread_mutex_unlock(&session.mutex);
    while (buffer) {
        struct buffer *next = buffer->next;
        void *record = NULL;
        while (buffer->valid > 0 &&
               session.cupti->next_record((uint8_t *)buffer + DATA_OFFSET, buffer->valid, &record) == CUPTI_OK) {
            join_record(&session.join, record);
        }
        give_back(buffer);
        buffer = next;
    }
}

// `given`: before the first buffer is asked for, CUPTI may still be finding its device, and is better left alone.
static void flush(bool given, bool all)
{
    struct activity *a = &session;
    const struct join_consumer consumer = {a->client.user, a->client.work, a->client.launch};
    size_t dropped = 0;
    if (given) {
        a->cupti->flush(all ? CUPTI_FLUSH_FORCED : 0);
    }
    read_buffers();
    if (given && a->cupti->dropped(NULL, 0, &dropped) == CUPTI_OK) {    // since it was last asked
        a->dropped += (int64_t)dropped;
    }
    join_resolve(&a->join, &consumer, all);
    struct join_totals totals = a->join.totals;
    totals.dropped += a->dropped;
    join_forget(&a->join, a->client.flushed(a->client.user, &totals, all));
}

static void *run(void *unused)
{
    (void)unused;
    struct activity *a = &session;
    pthread_mutex_lock(&a->mutex);
    for (bool last = false; !last;) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += FLUSH_PERIOD_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        int waited = 0;
        while (!a->stop && a->asked == a->answered && waited != ETIMEDOUT) {
            waited = pthread_cond_timedwait(&a->wake, &a->mutex, &until);
        }
        uint64_t asked = a->asked;
        uint64_t answered = a->answered;
        bool given = a->given;
        last = a->stop;
        pthread_mutex_unlock(&a->mutex);
        flush(given, last || asked != answered);
        pthread_mutex_lock(&a->mutex);
        a->answered = asked;
        pthread_cond_broadcast(&a->done);
    }
    pthread_mutex_unlock(&a->mutex);
    return NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

// What is set once per process, before any kind is enabled and any context made.
static int prepare(const struct cupti *cupti)
{
    size_t bytes = sizeof(size_t), size = device_buffer_bytes, limit = device_buffer_limit,
           first = device_buffers_first;
    uint8_t zeroed = 1;
    size_t zeroed_bytes = sizeof zeroed;
    // Wishes: a library that does not know one does without.
    cupti->set_attribute(CUPTI_ZEROED_BUFFERS, &zeroed_bytes, &zeroed);
    cupti->set_attribute(CUPTI_DEVICE_BUFFER_BYTES, &bytes, &size);
    cupti->set_attribute(CUPTI_DEVICE_BUFFER_LIMIT, &bytes, &limit);
    cupti->set_attribute(CUPTI_DEVICE_BUFFER_FIRST, &bytes, &first);
    int result = cupti->register_timestamp(now_ns);
    if (result != CUPTI_OK) {
        return refuse(result, "registering the clock");
    }
    result = cupti->register_buffers(on_request, on_complete);
    return result == CUPTI_OK ? 0 : refuse(result, "registering buffers");
}

static int subscribe(const struct cupti *cupti)
{
    char other[CUPTI_OLD_NAME_BYTES] = "";
    struct cupti_subscriber named = {sizeof named, "clsa", other, sizeof other};
    session.cupti = cupti;
    int result = cupti->subscribe_named ? cupti->subscribe_named(&session.subscriber, on_node, NULL, &named)
                                        : cupti->subscribe(&session.subscriber, on_node, NULL);
    if (result == CUPTI_OTHER_SUBSCRIBER) {
        other[sizeof other - 1] = 0;
        return status_fail(-EBUSY, "CUPTI is in use by %s in this process; only one tool at a time can trace kernels",
                           other[0] ? other : "another tool (nsys, ncu, a debugger or a sanitizer)");
    }
    if (result != CUPTI_OK) {
        session.subscriber = NULL;
        return refuse(result, "subscribing (is there a GPU and its driver?)");
    }
    int error = prepare(cupti);
    static const uint32_t nodes[] = {CUPTI_NODE_CREATED, CUPTI_NODE_DESTROYED, CUPTI_NODE_CLONED};
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes && !error; i++) {
        result = cupti->enable_callback(1, session.subscriber, CUPTI_DOMAIN_RESOURCE, nodes[i]);
        error = result == CUPTI_OK ? 0 : refuse(result, "listening to graphs");
    }
    if (error) {
        cupti->unsubscribe(session.subscriber);
        session.subscriber = NULL;
    }
    return error;
}

// The calls that enqueue. A function that this version of the library does not know is not called either.
static void switch_calls(bool on)
{
    const struct cupti *cupti = session.cupti;
    if (!cupti->enable_runtime || !cupti->enable_driver) {
        (on ? cupti->enable : cupti->disable)(CUPTI_RUNTIME);
        (on ? cupti->enable : cupti->disable)(CUPTI_DRIVER);
        return;
    }
    for (const struct cupti_function *f = cupti_functions; f->name; f++) {
        (f->kind == CUPTI_RUNTIME ? cupti->enable_runtime : cupti->enable_driver)(f->id, on);
    }
}

static int switch_kinds(bool on)
{
    const uint32_t kinds[] = {CUPTI_EXTERNAL, CUPTI_KERNEL, CUPTI_MEMCPY, CUPTI_MEMSET, CUPTI_OVERHEAD, CUPTI_GRAPH};
    int n = (int)(sizeof kinds / sizeof *kinds) - (session.level == ACTIVITY_GRAPHS ? 0 : 1), error = 0;
    for (int i = 0; i < n; i++) {
        int result = (on ? session.cupti->enable : session.cupti->disable)(kinds[i]);
        error = error || result == CUPTI_OK ? error : refuse(result, "choosing records");
    }
    switch_calls(on);
    return error;
}

static int start_thread(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&session.wake, &attributes);
    pthread_cond_init(&session.done, NULL);
    pthread_condattr_destroy(&attributes);
    int error = pthread_create(&session.thread, NULL, run, NULL);
    if (error) {
        pthread_cond_destroy(&session.wake);
        pthread_cond_destroy(&session.done);
        return status_fail(-error, "the thread that reads CUPTI's records cannot be started: %s", strerror(error));
    }
    return 0;
}

int activity_open(struct activity **out, const struct activity_client *client, enum activity_level level)
{
    struct activity *a = &session;
    *out = NULL;
    if (a->open) {
        return status_fail(-EBUSY, "this process collects kernels already");
    }
    const struct cupti *cupti = cupti_library(NULL);
    if (!cupti) {
        return -ENODEV;
    }
    if (!a->subscriber) {
        a->full_end = &a->full;
        join_open(&a->join);
        int error = subscribe(cupti);
        if (error) {
            join_close(&a->join);
            return error;
        }
    }
    a->client = *client;
    a->level = level;
    a->stop = false;
    a->asked = a->answered = 0;
    a->dropped = 0;
    a->join.totals = (struct join_totals){0};
    int error = switch_kinds(true);
    error = error ? error : start_thread();
    if (error) {
        switch_kinds(false);
        return error;
    }
    a->open = true;
    *out = a;
    return 0;
}

void activity_close(struct activity *activity)
{
    if (!activity) {
        return;
    }
    pthread_mutex_lock(&activity->mutex);
    activity->stop = true;
    pthread_cond_signal(&activity->wake);
    pthread_mutex_unlock(&activity->mutex);
    pthread_join(activity->thread, NULL);
    pthread_cond_destroy(&activity->wake);
    pthread_cond_destroy(&activity->done);
    switch_kinds(false);
    activity->open = false;
}

void activity_drain(struct activity *activity)
{
    pthread_mutex_lock(&activity->mutex);
    uint64_t asked = ++activity->asked;
    pthread_cond_signal(&activity->wake);
    while (activity->answered < asked) {
        pthread_cond_wait(&activity->done, &activity->mutex);
    }
    pthread_mutex_unlock(&activity->mutex);
}

void activity_step_begin(struct activity *activity, uint64_t tag, uint64_t next)
{
    current_tag = tag;
    next_tag = next;
    activity->cupti->push_external(CUPTI_EXTERNAL_OURS, tag);
}

// Graphs that go between steps were run by those before.
void activity_step_end(struct activity *activity)
{
    uint64_t tag;
    current_tag = next_tag;
    activity->cupti->pop_external(CUPTI_EXTERNAL_OURS, &tag);
}

void activity_stage_begin(struct activity *activity, uint64_t tag, int32_t ordinal)
{
    current_ordinal = ordinal;
    activity->cupti->push_external(CUPTI_EXTERNAL_OURS, tag);
}

void activity_stage_end(struct activity *activity)
{
    uint64_t tag;
    current_ordinal = -1;
    activity->cupti->pop_external(CUPTI_EXTERNAL_OURS, &tag);
}

int activity_describe(char *text, size_t bytes)
{
    const char *path;
    uint32_t version = 0;
    const struct cupti *cupti = cupti_library(&path);
    if (!cupti) {
        return -ENODEV;
    }
    cupti->version(&version);
    snprintf(text, bytes, "%s, version %u", path, version);
    return 0;
}
