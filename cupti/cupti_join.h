// cupti/cupti_join.h - joins CUPTI's records: what ran on the GPU with the call that enqueued it and the stage it is
// of.
//
// Three things meet here, in any order. A kernel's record names its call (a correlation id). The call's own records
// name the tag under which the calling thread enqueued at that time. And a kernel that is a node of a graph carries the
// node's id, for which it was noted, when the node was made, which stage of the pass was being captured. Records of one
// flush are given in any order; join_resolve then hands works over in the order in which they came, up to the first
// whose call has no tag yet. That is waited for: a second after tags of later calls, ten seconds if none comes.
//
// The library uses nodes' numbers again. A number that gets a new meaning keeps the old ones for works with lower tags.
//
// Nodes may be noted from any thread; everything else is for one thread.
#pragma once

#include <pthread.h>

#include "cupti/cupti_api.h"
#include "cupti/number_map.h"
#include "engine/sample.h"

// A piece of work. The sample's source, step, phase, stage and layer are the consumer's to fill.
struct joined_work {
    uint64_t tag;              // under which it was enqueued; 0: none
    int32_t ordinal;           // of a graph's node: the stage noted for it; -1: none
    struct kernel_sample sample;
};

// Counts since the join was opened.
struct join_totals {
    int64_t dropped;           // no memory to keep them
    int64_t invalid;           // without times, or ending before they begin
    int64_t overhead_ns;       // that CUPTI says it took by itself
};

struct join_consumer {
    void *user;
    void (*work)(void *user, const struct joined_work *work);
    void (*launch)(void *user, uint64_t tag, const struct launch_sample *launch);    // source and step are to be filled
};

struct pending_work;
struct node_change;
struct pending_launch;

struct join {
    pthread_mutex_t mutex;              // of what is known of nodes
    struct number_map nodes;            // node -> ordinal
    struct number_map changed;          // nodes that have meant something else
    struct node_change *changes;        // [n_changes] owned: what, in order
    int64_t n_changes, change_capacity;
    struct number_map tags, old_tags;   // call -> tag; those of before the last rotation
    uint64_t newest_tag, newest_old_tag;
    uint32_t newest_call;               // that has a tag
    struct pending_work *works;         // [n_works] owned
    int64_t n_works, work_capacity;
    struct pending_launch *launches;    // [n_launches] owned
    int64_t n_launches, launch_capacity;
    struct number_map of_runtime;       // calls of the runtime among those, while they are handed over
    struct join_totals totals;
};

void join_open(struct join *join);
void join_close(struct join *join);

// `tag`: no work with this tag or a higher one ran what the node was before.
void join_node_created(struct join *join, uint64_t node, int32_t ordinal, uint64_t tag);    // -1: of no stage
void join_node_cloned(struct join *join, uint64_t node, uint64_t original, uint64_t tag);
void join_node_destroyed(struct join *join, uint64_t node, uint64_t tag);

void join_record(struct join *join, const void *record);

// Hands over what can be; `last`: nothing waits any longer.
void join_resolve(struct join *join, const struct join_consumer *consumer, bool last);

// No record will come any more for tags below `done`: what was noted for them may be forgotten.
void join_forget(struct join *join, uint64_t done);
