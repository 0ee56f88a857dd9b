// tui/feed.c - a single-producer single-consumer ring of events.
//
// head counts what was written, tail what was read; both only grow, and an index is the count modulo the capacity. The
// release store of a count publishes the slots before it. Sources go through a small ring of their own, in step with
// the source events of the main one.
#include "tui/feed.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine/status.h"
#include "tui/event.h"
#include "tui/name_table.h"

enum {
    SOURCE_SLOTS = 64,         // announcements on their way at once: the engine makes one per run
    CACHE_LINE_BYTES = 128     // two lines: the prefetcher of current CPUs fetches pairs
};

struct feed {
    struct event *events;      // [capacity]
    uint64_t capacity, reserve;
    struct sample_source sources[SOURCE_SLOTS];
    struct name_table *names;  // owned; the producer adds, the release of `head` publishes
    // Each side writes its own line, so that neither slows the other.
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t head;
    _Atomic uint64_t source_head;
    _Atomic int64_t dropped;
    bool dropping;             // of the producer: until the end of the broken step
    int32_t losing;            // of the producer: the source that told losses last
    int64_t told_lost;         // ... and how many
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t tail;
    _Atomic uint64_t source_tail;
};

int feed_open(struct feed **out, int32_t capacity)
{
    *out = NULL;
    uint64_t slots = 64;
    while (slots < (uint64_t)(capacity > 0 ? capacity : 0)) {
        slots *= 2;
    }
    struct feed *feed = aligned_alloc(CACHE_LINE_BYTES, sizeof *feed);
    struct event *events = malloc(slots * sizeof *events);
    struct name_table *names = NULL;
    if (!feed || !events || name_table_open(&names) != 0) {
        free(feed);
        free(events);
        return status_fail(-ENOMEM, "out of memory for a feed of %llu events", (unsigned long long)slots);
    }
    *feed = (struct feed){.events = events, .names = names, .capacity = slots, .reserve = slots / 8,
                           .losing = -1};
    *out = feed;
    return 0;
}

void feed_close(struct feed *feed)
{
    if (feed) {
        free(feed->events);
        name_table_close(feed->names);
        free(feed);
    }
}

static void drop(struct feed *feed)
{
    atomic_fetch_add_explicit(&feed->dropped, 1, memory_order_relaxed);
}

// Writes the event if more than `reserve` slots stay free.
static bool push(struct feed *feed, const struct event *event, uint64_t reserve)
{
    uint64_t head = atomic_load_explicit(&feed->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&feed->tail, memory_order_acquire);
    if (head - tail + reserve >= feed->capacity) {
        drop(feed);
        return false;
    }
    feed->events[head & (feed->capacity - 1)] = *event;
    atomic_store_explicit(&feed->head, head + 1, memory_order_release);
    return true;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct feed *feed = user;
    uint64_t head = atomic_load_explicit(&feed->source_head, memory_order_relaxed);
    if (head - atomic_load_explicit(&feed->source_tail, memory_order_acquire) == SOURCE_SLOTS) {
        drop(feed);
        return;
    }
    feed->sources[head % SOURCE_SLOTS] = *source;
    struct event event = {.kind = EVENT_SOURCE, .of.source = (int64_t)(head % SOURCE_SLOTS)};
    if (push(feed, &event, 0)) {    // its release also publishes the source
        atomic_store_explicit(&feed->source_head, head + 1, memory_order_relaxed);
    }
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct feed *feed = user;
    struct event event = {.kind = EVENT_STAGE, .of.stage = *sample};
    if (feed->dropping) {
        drop(feed);
    } else if (!push(feed, &event, feed->reserve)) {
        feed->dropping = true;
    }
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct feed *feed = user;
    struct event event = {.kind = EVENT_STEP, .of.step = *sample};
    if (feed->dropping) {
        drop(feed);
        feed->dropping = false;
    } else {
        push(feed, &event, feed->reserve);
    }
}

static void on_request(void *user, const struct request_sample *sample)
{
    push(user, &(struct event){.kind = EVENT_REQUEST, .of.request = *sample}, 0);
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    push(user, &(struct event){.kind = EVENT_COUNTER, .of.counter = *sample}, 0);
}

// Kernels come after their step and belong to no sum: one that is lost breaks nothing else.
static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct feed *feed = user;
    struct event event = {.kind = EVENT_KERNEL, .of.kernel = *sample};
    event.of.kernel.name = name_table_keep(feed->names, sample->name);
    push(feed, &event, feed->reserve);
}

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    struct feed *feed = user;
    struct event event = {.kind = EVENT_GAUGE, .of.gauge = *sample};
    event.of.gauge.name = name_table_keep(feed->names, sample->name);
    event.of.gauge.unit = name_table_keep(feed->names, sample->unit);
    push(feed, &event, feed->reserve);
}

// What the collector has lost is missing here too. Each source counts its own, from nothing on.
static void on_loss(void *user, const struct loss_sample *sample)
{
    struct feed *feed = user;
    int64_t lost = sample->dropped + sample->invalid, before = sample->source == feed->losing ? feed->told_lost : 0;
    atomic_fetch_add_explicit(&feed->dropped, lost - before, memory_order_relaxed);
    feed->losing = sample->source;
    feed->told_lost = lost;
}

struct sample_sink feed_sink(struct feed *feed)
{
    return (struct sample_sink){.user = feed, .source = on_source, .stage = on_stage, .step = on_step,
                                .request = on_request, .counter = on_counter, .kernel = on_kernel,
                                .gauge = on_gauge, .loss = on_loss};
}

int64_t feed_drain(struct feed *feed, const struct sample_sink *to)
{
    uint64_t tail = atomic_load_explicit(&feed->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&feed->head, memory_order_acquire), begin = tail;
    for (; tail != head; tail++) {
        const struct event *event = &feed->events[tail & (feed->capacity - 1)];
        bool is_source = event->kind == EVENT_SOURCE;
        event_deliver(event, is_source ? &feed->sources[event->of.source] : NULL, to);
        if (is_source) {
            atomic_fetch_add_explicit(&feed->source_tail, 1, memory_order_release);
        }
        atomic_store_explicit(&feed->tail, tail + 1, memory_order_release);
    }
    return (int64_t)(head - begin);
}

int64_t feed_dropped(const struct feed *feed)
{
    return atomic_load_explicit(&feed->dropped, memory_order_relaxed);
}
