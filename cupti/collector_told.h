// cupti/collector_told.h - what an engine has told during one step, kept until it can be handed over.
//
// Filled by the engine's thread; then either handed over at once or, where kernels are collected, by another thread
// once the step's kernels are known. Memory only grows, and is used again for later steps.
#pragma once

#include "engine/observer.h"
#include "engine/sample.h"

struct told_record {
    enum { TOLD_STAGE, TOLD_REQUEST, TOLD_COUNTER } kind;
    union {
        struct stage_sample stage;
        struct request_sample request;
        struct counter_sample counter;
    } as;
};

struct told {
    struct told *next;                  // in lists
    struct told_record *records;        // [n_records] owned, in order
    int64_t n_records, record_capacity;
    struct observed_stage *enqueued;    // [n_enqueued] owned: stages of the pass as they were enqueued
    int64_t n_enqueued, enqueued_capacity;
    int64_t lost;                       // what found no memory
    bool has_step;
    struct step_sample step;
    uint64_t serial;                    // of the step, over all engines of a process; 0: none
};

struct told *told_open(void);           // NULL: no memory
void told_close(struct told *told);     // NULL-safe
void told_reset(struct told *told);     // as opened, but for its memory

void told_add(struct told *told, const struct told_record *record);

// Returns the stage's ordinal, or -1 if it was lost.
int32_t told_add_enqueued(struct told *told, const struct observed_stage *stage);

// The sample of a stage of this step; the times are the caller's.
struct stage_sample told_stage(const struct told *told, const struct observed_stage *stage, int64_t begin_ns,
                               int64_t duration_ns);

void told_hand_over_record(const struct told_record *record, const struct sample_sink *sink);
