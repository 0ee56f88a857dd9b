// tui/timeline_look.h - which part of a timeline is seen, what is selected in it, and how keys move both.
//
// Pure: a look is a value, a timeline is only read. A selection whose step was dropped counts as none.
#pragma once

#include <stdbool.h>

#include "tui/timeline.h"

enum { TRACK_STEPS, TRACK_STAGES, TRACK_LAYERS };    // TRACK_LAYERS + layer: that layer alone

struct timeline_look {
    bool follow;               // the right edge stays at the newest step
    int64_t begin_ns;          // of what is seen, where it does not follow
    int64_t width_ns;          // 0: everything
    int32_t track;             // where the selection moves
    int64_t step;              // selected; -1: nothing
    int32_t span;              // of that step; -1: the step as a whole
    int32_t scroll;            // first layer shown
};

struct timeline_look timeline_look_default(bool live);

// What is seen: at least a nanosecond.
void timeline_look_window(const struct timeline_look *look, const struct timeline *timeline, int64_t *begin_ns,
                          int64_t *width_ns);

// The selected step, or NULL; its span, or NULL where the step as a whole is selected.
const struct timeline_step *timeline_look_step(const struct timeline_look *look, const struct timeline *timeline);
const struct timeline_span *timeline_look_span(const struct timeline_look *look, const struct timeline *timeline);

void timeline_look_move(struct timeline_look *look, const struct timeline *timeline, int32_t by);     // +1: the next
void timeline_look_track(struct timeline_look *look, const struct timeline *timeline, int32_t by);    // +1: down
void timeline_look_pan(struct timeline_look *look, const struct timeline *timeline, double windows);
void timeline_look_zoom(struct timeline_look *look, const struct timeline *timeline, double factor);    // > 1: wider
void timeline_look_enter(struct timeline_look *look, const struct timeline *timeline);    // what is selected, whole
void timeline_look_show(struct timeline_look *look, const struct timeline *timeline, int64_t begin_ns, int64_t end_ns);
void timeline_look_all(struct timeline_look *look);
void timeline_look_back(struct timeline_look *look);      // everything; where that is seen already, nothing is selected
void timeline_look_to_begin(struct timeline_look *look, const struct timeline *timeline);
void timeline_look_to_end(struct timeline_look *look, const struct timeline *timeline);

// Selects the slowest step; from there the next slower one, and so on.
void timeline_look_slowest(struct timeline_look *look, const struct timeline *timeline);

// Selects the longest run of a stage in the kept steps of that source and phase. False: there is none.
bool timeline_look_slowest_stage(struct timeline_look *look, const struct timeline *timeline,
                                 const struct sample_source *source, enum phase phase, enum stage stage);

// Selects what lies at `part` [0, 1] of the window on the current track.
void timeline_look_at(struct timeline_look *look, const struct timeline *timeline, double part);

// Selects the next (+1) or previous (-1) stage, or step, whose name holds `text`: a stage, a phase, a method, or a
// step's number. Goes around at the ends. False: there is none.
bool timeline_look_search(struct timeline_look *look, const struct timeline *timeline, const char *text, int32_t by);
