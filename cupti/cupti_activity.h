// cupti/cupti_activity.h - what a GPU did, kernel by kernel: CUPTI's activity records, in a thread of their own.
//
// CUPTI knows one subscriber per process, so there is one of these at a time. It is subscribed to once and stays so
// until the process ends, because the library does not take well to coming and going (timestamps go wrong when their
// clock is registered again); what closing does is to stop records. The thread asks CUPTI for its records ten times a
// second, joins them (cupti_join.h) and hands them to its client. Times are CLOCK_BOOTTIME nanoseconds.
//
// A thread that enqueues work says under which tag it does so. Tags are the client's; they ascend, 0 is none.
#pragma once

#include "cupti/cupti_join.h"

struct activity;

// Called by the activity's thread. A flush brings the records of buffers all of whose works have ended: while a GPU is
// busy, some that ended long ago are in a buffer with one that has not. What comes does so in the order of tags, buffer
// by buffer.
struct activity_client {
    void *user;
    void (*work)(void *user, const struct joined_work *work);
    void (*launch)(void *user, uint64_t tag, const struct launch_sample *launch);
    // After each. `all`: nothing is left behind. Returns the tag below which nothing is awaited any more.
    uint64_t (*flushed)(void *user, const struct join_totals *totals, bool all);
};

enum activity_level {
    ACTIVITY_NODES,                       // one record for each kernel, also of a graph's
    ACTIVITY_GRAPHS,                      // one for each launch of a graph: hardly any cost, for long runs
};

// Before the first work on a GPU, so that nothing is missed. -ENODEV: no library here; -EBUSY: another tool or another
// activity has CUPTI; -ENOTSUP: CUPTI refuses. status_text says who or why. The client is copied.
int activity_open(struct activity **out, const struct activity_client *client, enum activity_level level);
void activity_close(struct activity *activity);    // NULL-safe; hands over what there is. No GPU work may be under way

// Returns once everything has been handed over, and `flushed` was told so. No GPU work may be under way.
void activity_drain(struct activity *activity);

// Of the calling thread. What it enqueues in a step carries the step's tag, what it enqueues in a stage of the step the
// stage's, and nodes of graphs that are made there are noted as the stage's ordinal. Tags of a step are in [tag, next).
void activity_step_begin(struct activity *activity, uint64_t tag, uint64_t next);
void activity_step_end(struct activity *activity);
void activity_stage_begin(struct activity *activity, uint64_t tag, int32_t ordinal);    // -1: of none
void activity_stage_end(struct activity *activity);

// Whether CUPTI is here, without subscribing. Returns 0 and the library's file and version in words, or -ENODEV.
int activity_describe(char *text, size_t bytes);
