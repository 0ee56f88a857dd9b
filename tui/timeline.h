// tui/timeline.h - every recent step and stage where it lies in time: what the timeline view pans over.
//
// A sink beside the windows of state. Steps are held in the order of their begin, each with its stages and with what
// each kind of stage took, so that a screen which shows a whole trace looks at steps only. When the room is full, the
// oldest steps make room; their number is told. A step is named by its place in the stream of all steps, which stays
// valid until the step is dropped. No clock, no curses.
#pragma once

#include "engine/sample.h"

enum { TIMELINE_SPANS = 1 << 21 };     // stages kept at most: 84 MB, two such traces as take a second to read

struct timeline;

struct timeline_span {                 // a stage of one layer
    int64_t begin_ns, duration_ns;
    int64_t bytes, flops;
    int32_t n_tokens;
    int16_t layer;                     // -1: outside layers
    uint8_t stage;
};

struct timeline_step {
    int64_t number;                    // as its engine counts
    int64_t begin_ns, duration_ns;
    int64_t first_span;                // in the store; its spans follow each other, by begin
    int32_t n_spans;
    int32_t n_seqs, n_tokens, context_tokens;
    uint8_t phase, source;             // source: index for timeline_source_name
    float stage_ns[STAGE_COUNT];
};

// `max_spans` is rounded up to a power of two. -ENOMEM.
int timeline_open(struct timeline **out, int64_t max_spans);
void timeline_close(struct timeline *timeline);    // NULL-safe
struct sample_sink timeline_sink(struct timeline *timeline);

// Steps are numbered from timeline_first to timeline_end - 1; the range is empty at the beginning.
int64_t timeline_first(const struct timeline *timeline);
int64_t timeline_end(const struct timeline *timeline);
const struct timeline_step *timeline_step(const struct timeline *timeline, int64_t step);    // of that range
const struct timeline_span *timeline_span(const struct timeline *timeline, const struct timeline_step *step,
                                          int32_t index);
const char *timeline_source_name(const struct timeline *timeline, int32_t source);    // "clsa k=256"
int32_t timeline_find_source(const struct timeline *timeline, const struct sample_source *source);    // -1: none
int32_t timeline_layers(const struct timeline *timeline);      // greatest layer seen + 1
int64_t timeline_dropped(const struct timeline *timeline);     // steps that made room, or came too late to be placed

// What the kept steps span; both 0 if there are none.
void timeline_range(const struct timeline *timeline, int64_t *begin_ns, int64_t *end_ns);

// The first step that ends after `time_ns`, if steps do not overlap; timeline_end if there is none.
int64_t timeline_find(const struct timeline *timeline, int64_t time_ns);

// The slowest step; of those that took less than `below_ns` (INT64_MAX: all). -1: none.
int64_t timeline_slowest(const struct timeline *timeline, int64_t below_ns);
