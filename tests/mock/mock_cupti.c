// tests/mock/mock_cupti.c - the mock: buffers, kinds, external ids and graph nodes as CUPTI has them.
//
// Records are longer than cupti_api.h declares them, as in a newer CUPTI, by a number of bytes that changes. Kernels
// and calls go to different buffers, as in CUPTI, where the former come from the device. Not for many threads at once,
// but for one that launches and one that flushes.
#include "tests/mock/mock_cupti.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { KINDS = 64, FUNCTIONS = 1024, DEPTH = 16, MAX_BUFFERS = 1024 };
enum { DRIVER_LAUNCH = 307 };    // cuLaunchKernel
enum { OF_CALLS, OF_TAGS, OF_DEVICE, SORTS };

struct entry {
    uint64_t bytes;        // of the record behind, to the next entry
};

static struct {
    pthread_mutex_t mutex;
    cupti_callback callback;
    cupti_request request;
    cupti_complete complete;
    uint64_t (*now)(void);
    int subscriptions, refusal;
    char other[64];
    bool kinds[KINDS], functions[2][FUNCTIONS], subscribed;
    int held;
    uint64_t externals[DEPTH];
    int depth;
    uint32_t last_correlation, dropped, pad;
    struct filled { uint8_t *data; size_t bytes, used; int sort, kept; } buffers[MAX_BUFFERS];    // not completed yet
    int n_buffers, open[SORTS];    // index of the one being filled + 1; 0: none
} mock = {.mutex = PTHREAD_MUTEX_INITIALIZER};

// ---------------------------------------------------------------------------------------------------------------------
// For the test

EXPORT void mock_refuse(int result, const char *other);
EXPORT void mock_drop(uint32_t n);
EXPORT uint32_t mock_call(uint32_t id, uint64_t start, uint64_t end);
EXPORT void mock_record(const void *record, size_t bytes);
EXPORT void mock_node(uint32_t event, uint64_t node, uint64_t original);
EXPORT void mock_hold(int what);
EXPORT void mock_keep(int calls, int flushes);
EXPORT int mock_enabled(uint32_t kind);
EXPORT uint64_t mock_now(void);
EXPORT int mock_subscriptions(void);

void mock_refuse(int result, const char *other)
{
    mock.refusal = result;
    strncpy(mock.other, other ? other : "", sizeof mock.other - 1);
}

void mock_drop(uint32_t n)
{
    pthread_mutex_lock(&mock.mutex);
    mock.dropped += n;
    pthread_mutex_unlock(&mock.mutex);
}

// Under the mutex.
static void append(int sort, const void *record, size_t bytes)
{
    size_t padded = (bytes + 7) / 8 * 8 + 8 * (mock.pad++ % 4), needed = sizeof(struct entry) + padded;
    struct filled *buffer = mock.open[sort] ? &mock.buffers[mock.open[sort] - 1] : NULL;
    if (!buffer || buffer->bytes - buffer->used < needed) {
        size_t max_records = 0;
        if (mock.n_buffers == MAX_BUFFERS) {
            mock.dropped++;
            return;
        }
        buffer = &mock.buffers[mock.n_buffers];
        *buffer = (struct filled){.sort = sort};
        mock.request(&buffer->data, &buffer->bytes, &max_records);
        if (!buffer->data) {
            mock.dropped++;
            return;
        }
        mock.open[sort] = ++mock.n_buffers;
        for (size_t i = 0; i < buffer->bytes; i++) {
            if (buffer->data[i]) {
                abort();    // buffers were promised to be zeroed
            }
        }
    }
    struct entry entry = {needed};
    memcpy(buffer->data + buffer->used, &entry, sizeof entry);
    memcpy(buffer->data + buffer->used + sizeof entry, record, bytes);
    memset(buffer->data + buffer->used + sizeof entry + bytes, 0xA5, padded - bytes);
    buffer->used += needed;
}

uint32_t mock_call(uint32_t id, uint64_t start, uint64_t end)
{
    pthread_mutex_lock(&mock.mutex);
    uint32_t correlation = ++mock.last_correlation;
    if (mock.functions[0][id] && mock.depth > 0 && mock.kinds[CUPTI_EXTERNAL]) {
        struct cupti_external external = {CUPTI_EXTERNAL, CUPTI_EXTERNAL_OURS, mock.externals[mock.depth - 1],
                                          correlation, 0};
        append(OF_TAGS, &external, sizeof external);
    }
    if (mock.functions[0][id]) {
        struct cupti_call call = {CUPTI_RUNTIME, id, start, end, 1, 77, correlation, 0};
        append(OF_CALLS, &call, sizeof call);
    }
    if (mock.functions[0][id] && mock.functions[1][DRIVER_LAUNCH]) {    // the runtime calls the driver
        struct cupti_call call = {CUPTI_DRIVER, DRIVER_LAUNCH, start, end, 1, 77, correlation, 0};
        append(OF_CALLS, &call, sizeof call);
    }
    pthread_mutex_unlock(&mock.mutex);
    return correlation;
}

void mock_record(const void *record, size_t bytes)
{
    uint32_t kind;
    memcpy(&kind, record, sizeof kind);
    pthread_mutex_lock(&mock.mutex);
    if (mock.kinds[kind]) {
        append(OF_DEVICE, record, bytes);
    }
    pthread_mutex_unlock(&mock.mutex);
}

void mock_node(uint32_t event, uint64_t node, uint64_t original)
{
    struct cupti_graph_data data = {.node = (void *)(uintptr_t)node, .original_node = (void *)(uintptr_t)original};
    struct cupti_resource resource = {NULL, NULL, &data};
    mock.callback(NULL, CUPTI_DOMAIN_RESOURCE, event, &resource);
}

void mock_hold(int what)
{
    pthread_mutex_lock(&mock.mutex);
    mock.held = what;
    pthread_mutex_unlock(&mock.mutex);
}

void mock_keep(int calls, int flushes)
{
    pthread_mutex_lock(&mock.mutex);
    for (int i = 0; i < mock.n_buffers; i++) {
        if ((mock.buffers[i].sort != OF_DEVICE) == (calls != 0)) {
            mock.buffers[i].kept = flushes;
            mock.open[mock.buffers[i].sort] = 0;
        }
    }
    pthread_mutex_unlock(&mock.mutex);
}

int mock_enabled(uint32_t kind)
{
    return mock.kinds[kind];
}

uint64_t mock_now(void)
{
    return mock.now();
}

int mock_subscriptions(void)
{
    return mock.subscriptions;
}

// ---------------------------------------------------------------------------------------------------------------------
// For the collector

EXPORT int cuptiGetVersion(uint32_t *version);
EXPORT int cuptiGetResultString(int result, const char **text);
EXPORT int cuptiSubscribe(void **subscriber, cupti_callback callback, void *user);
EXPORT int cuptiSubscribe_v2(void **subscriber, cupti_callback callback, void *user, struct cupti_subscriber *named);
EXPORT int cuptiUnsubscribe(void *subscriber);
EXPORT int cuptiEnableCallback(uint32_t enable, void *subscriber, uint32_t domain, uint32_t id);
EXPORT int cuptiActivityEnable(uint32_t kind);
EXPORT int cuptiActivityDisable(uint32_t kind);
EXPORT int cuptiActivityEnableRuntimeApi(uint32_t id, uint8_t enable);
EXPORT int cuptiActivityEnableDriverApi(uint32_t id, uint8_t enable);
EXPORT int cuptiActivitySetAttribute(uint32_t attribute, size_t *bytes, void *value);
EXPORT int cuptiActivityRegisterTimestampCallback(uint64_t (*now)(void));
EXPORT int cuptiActivityRegisterCallbacks(cupti_request request, cupti_complete complete);
EXPORT int cuptiActivityGetNextRecord(uint8_t *buffer, size_t valid, void **record);
EXPORT int cuptiActivityGetNumDroppedRecords(void *context, uint32_t stream, size_t *dropped);
EXPORT int cuptiActivityFlushAll(uint32_t flags);
EXPORT int cuptiActivityPushExternalCorrelationId(uint32_t kind, uint64_t id);
EXPORT int cuptiActivityPopExternalCorrelationId(uint32_t kind, uint64_t *id);
EXPORT int cuptiGetGraphNodeId(void *node, uint64_t *id);

int cuptiGetVersion(uint32_t *version)
{
    *version = 130001;
    return CUPTI_OK;
}

int cuptiGetResultString(int result, const char **text)
{
    *text = result == CUPTI_NO_PRIVILEGE ? "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES" : "CUPTI_ERROR_UNKNOWN";
    return CUPTI_OK;
}

int cuptiSubscribe_v2(void **subscriber, cupti_callback callback, void *user, struct cupti_subscriber *named)
{
    (void)user;
    if (mock.refusal) {
        if (named) {
            strncpy(named->old_name, mock.other, named->old_bytes - 1);
        }
        return mock.refusal;
    }
    if (mock.subscribed) {
        return CUPTI_OTHER_SUBSCRIBER;
    }
    mock.subscribed = true;
    mock.subscriptions++;
    mock.callback = callback;
    *subscriber = &mock;
    return CUPTI_OK;
}

int cuptiSubscribe(void **subscriber, cupti_callback callback, void *user)
{
    return cuptiSubscribe_v2(subscriber, callback, user, NULL);
}

int cuptiUnsubscribe(void *subscriber)
{
    mock.subscribed = false;
    return subscriber == &mock ? CUPTI_OK : 1;
}

int cuptiEnableCallback(uint32_t enable, void *subscriber, uint32_t domain, uint32_t id)
{
    (void)id;
    return subscriber == &mock && enable && domain == CUPTI_DOMAIN_RESOURCE ? CUPTI_OK : 1;
}

static int switch_kind(uint32_t kind, bool on)
{
    pthread_mutex_lock(&mock.mutex);
    mock.kinds[kind] = on;
    pthread_mutex_unlock(&mock.mutex);
    return CUPTI_OK;
}

int cuptiActivityEnable(uint32_t kind)
{
    return switch_kind(kind, true);
}

int cuptiActivityDisable(uint32_t kind)
{
    return switch_kind(kind, false);
}

int cuptiActivityEnableRuntimeApi(uint32_t id, uint8_t enable)
{
    mock.functions[0][id] = enable;
    return CUPTI_OK;
}

int cuptiActivityEnableDriverApi(uint32_t id, uint8_t enable)
{
    mock.functions[1][id] = enable;
    return CUPTI_OK;
}

int cuptiActivitySetAttribute(uint32_t attribute, size_t *bytes, void *value)
{
    (void)value;
    return *bytes == (attribute == CUPTI_ZEROED_BUFFERS ? sizeof(uint8_t) : sizeof(size_t)) ? CUPTI_OK : 1;
}

int cuptiActivityRegisterTimestampCallback(uint64_t (*now)(void))
{
    if (mock.now) {
        abort();    // a second registration makes the real library's times wrong
    }
    mock.now = now;
    return CUPTI_OK;
}

int cuptiActivityRegisterCallbacks(cupti_request request, cupti_complete complete)
{
    mock.request = request;
    mock.complete = complete;
    return CUPTI_OK;
}

int cuptiActivityGetNextRecord(uint8_t *buffer, size_t valid, void **record)
{
    uint8_t *at = buffer;
    struct entry entry;
    if (*record) {
        at = (uint8_t *)*record - sizeof entry;
        memcpy(&entry, at, sizeof entry);
        at += entry.bytes;
    }
    if (at >= buffer + valid) {
        return CUPTI_NO_MORE;
    }
    *record = at + sizeof entry;
    return CUPTI_OK;
}

int cuptiActivityGetNumDroppedRecords(void *context, uint32_t stream, size_t *dropped)
{
    (void)context;
    (void)stream;
    pthread_mutex_lock(&mock.mutex);
    *dropped = mock.dropped;
    mock.dropped = 0;
    pthread_mutex_unlock(&mock.mutex);
    return CUPTI_OK;
}

// The last buffers first: the order of buffers means nothing.
int cuptiActivityFlushAll(uint32_t flags)
{
    struct filled ready[MAX_BUFFERS];
    int n = 0, kept = 0;
    pthread_mutex_lock(&mock.mutex);
    for (int i = 0; i < mock.n_buffers; i++) {
        int sort = mock.buffers[i].sort;
        bool held = mock.buffers[i].kept-- > 0 || mock.held == 2 || (mock.held == 1 && sort != OF_DEVICE) ||
                    (mock.held == 3 && sort == OF_TAGS);
        if (held && !(flags & CUPTI_FLUSH_FORCED)) {
            mock.buffers[kept++] = mock.buffers[i];
        } else {
            ready[n++] = mock.buffers[i];
        }
    }
    mock.n_buffers = kept;
    memset(mock.open, 0, sizeof mock.open);
    pthread_mutex_unlock(&mock.mutex);
    while (n-- > 0) {
        mock.complete(NULL, 0, ready[n].data, ready[n].bytes, ready[n].used);
    }
    return CUPTI_OK;
}

int cuptiActivityPushExternalCorrelationId(uint32_t kind, uint64_t id)
{
    if (kind != CUPTI_EXTERNAL_OURS || mock.depth == DEPTH) {
        return 1;
    }
    mock.externals[mock.depth++] = id;
    return CUPTI_OK;
}

int cuptiActivityPopExternalCorrelationId(uint32_t kind, uint64_t *id)
{
    if (kind != CUPTI_EXTERNAL_OURS || mock.depth == 0) {
        abort();    // more popped than pushed
    }
    *id = mock.externals[--mock.depth];
    return CUPTI_OK;
}

int cuptiGetGraphNodeId(void *node, uint64_t *id)
{
    *id = (uint64_t)(uintptr_t)node;
    return CUPTI_OK;
}
