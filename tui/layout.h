// tui/layout.h - which part of the screen shows what: a pure function of the screen's size.
//
// Rectangles lie inside the screen and never overlap; one that found no room is empty (rows == 0). Rooms shrink before
// they vanish: at 40x12 one panel is left, and only below LAYOUT_MIN_ROWS x LAYOUT_MIN_COLS nothing fits.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { LAYOUT_MIN_ROWS = 6, LAYOUT_MIN_COLS = 20 };

enum view {
    VIEW_OVERVIEW, VIEW_COMPARE, VIEW_STAGES, VIEW_TIMELINE, VIEW_ROOFLINE, VIEW_WHATIF, VIEW_REQUESTS, VIEW_ROUTING,
    VIEW_COUNT
};

struct rect {
    int32_t row, col, rows, cols;
};

struct layout {
    bool too_small;
    bool framed;                   // panels have a border: their content is one cell smaller on each side
    struct rect screen;
    struct rect tabs, note, footer;    // a row each
    struct rect now, history, stack;   // Overview
    struct rect table, bars;           // Compare; other views have the table alone
    struct rect detail;                // of what is selected in the table
    struct rect help;                  // drawn over everything when asked for
};

// `table_rows`: lines that Compare's table would like to have, its heading included. `help_rows`: likewise the help's.
void layout_compute(struct layout *out, enum view view, int32_t rows, int32_t cols, int32_t table_rows,
                    int32_t help_rows);

// What is inside a panel's border.
struct rect layout_inside(const struct layout *layout, struct rect panel);
