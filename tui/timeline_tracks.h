// tui/timeline_tracks.h - a timeline's tracks as rows of cells: requests, steps, stages, then one row per layer.
//
// A column shows what took most of its time. Names stand on what is wide enough for them. Part of the timeline view.
#pragma once

#include "tui/views.h"

struct tracks {
    struct cells *cells;
    const struct timeline *timeline;
    const struct request_log *requests;
    const struct timeline_look *look;
    struct rect clip;              // labels included
    int32_t label_cols;
    int64_t begin_ns, width_ns;    // of what is seen
    int32_t request_rows;          // 0: no room for them
    const char *steps_label;       // NULL: "steps"
    int32_t n_layers;              // layers shown, look->scroll the first
};

// Rows: request_rows, steps, stages, layers.
void tracks_draw(const struct tracks *tracks);

// The column of a time, behind the labels; outside [0, columns) where it is not seen.
int32_t tracks_column(const struct tracks *tracks, int64_t time_ns);
