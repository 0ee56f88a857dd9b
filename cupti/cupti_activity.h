// cupti/cupti_activity.h - what a GPU did, kernel by kernel: CUPTI's activity records, in a thread of their own.
//
// CUPTI knows one subscriber per process, so there is one of these at a time. It is subscribed to once and stays so until
// the process ends, because the library does not take well to coming and going (timestamps go wrong when their clock is
// registered again); what closing does is to stop records. The thread asks CUPTI for its records ten times a second, joins
// them (cupti_join.h) and hands them to its client. Times are CLOCK_BOOTTIME nanoseconds.
//
// A thread that enqueues work says under which tag it does so. Tags are the client's; they ascend, 0 is none.
#pragma once

#include "cupti/cupti_join.h"

struct activity;

// Called by the activity's thread.
struct activity_client {
    void *user;
    void (*flush)(void *user);            // what has ended by now is complete when `flushed` comes
    void (*work)(void *user, const struct joined_work *work);
    void (*launch)(void *user, uint64_t tag, const struct launch_sample *launch);
    uint64_t (*flushed)(void *user, const struct join_totals *totals);    // returns the tag below which nothing is awaited
};

enum activity_level {
    ACTIVITY_NODES,                       // one record for each kernel, also of a graph's
    ACTIVITY_GRAPHS,                      // one for each launch of a graph: hardly any cost, for long runs
};

// Before the first work on a GPU, so that nothing is missed. -ENODEV: no library here; -EBUSY: another tool or another
// activity has CUPTI; -ENOTSUP: CUPTI refuses. status_text says who or why. The client is copied.
int activity_open(struct activity **out, const struct activity_client *client, enum activity_level level);
void activity_close(struct activity *activity);    // NULL-safe; hands over what there is. No GPU work may be under way

// Returns once everything that ended before the call has been handed over.
void activity_drain(struct activity *activity);

// Of the calling thread. What it enqueues between push and pop carries the tag; the ordinal is noted for nodes of graphs
// that are made there. -1: a step begins, of which tags in it are higher than this one.
void activity_push(struct activity *activity, uint64_t tag, int32_t ordinal);
void activity_pop(struct activity *activity, int32_t ordinal);    // the ordinal that is on again

// Whether CUPTI is here, without subscribing. Returns 0 and the library's file and version in words, or -ENODEV.
int activity_describe(char *text, size_t bytes);
