// tui/event.h - one sample of any kind as a value: what the feed's ring and a replay hold.
//
// A source is large and rare, so an event names it by its number in its owner's table; a kernel's or a gauge's name is
// in its owner's name_table. No allocation, no clock.
#pragma once

#include "engine/sample.h"

enum event_kind { EVENT_SOURCE, EVENT_STAGE, EVENT_STEP, EVENT_REQUEST, EVENT_COUNTER, EVENT_KERNEL, EVENT_GAUGE };

struct event {
    enum event_kind kind;
    union {
        int64_t source;    // index into the owner's table of sources
        struct stage_sample stage;
        struct step_sample step;
        struct request_sample request;
        struct counter_sample counter;
        struct kernel_sample kernel;
        struct gauge_sample gauge;
    } of;
};

// When the event was known: the end of what it times. INT64_MIN for a source, which belongs to what follows it.
int64_t event_time_ns(const struct event *event);

// Hands the event to the sink. `source` is what a source event names; it may be NULL for others.
void event_deliver(const struct event *event, const struct sample_source *source, const struct sample_sink *to);
