// tui/layout.c - sizes to rectangles.
#include "tui/layout.h"

enum {
    NOW_COLS = 30,         // "KV bytes        12.6 MiB" and a border
    NOW_ROWS = 12,         // ten figures and a border
    STACK_ROWS = 9,        // a bar, its legend in two or three columns, a border
    WIDE_COLS = 72,        // from here on two panels stand side by side
    HELP_COLS = 54,
    LEGEND_COLS = 42, LEGEND_ROWS = 9,    // of the roofline: a stage and three figures; beside the plot or below
    KNOB_ROWS = 20, KNOB_COLS = 32,       // eighteen knobs in a border: "index every  method's"
    FEW_KNOB_ROWS = 16,                   // on a terminal of 24 rows, so that scenarios have room below
    NARROW_COLS = 60,
    DETAIL_ROWS = 3        // what it is, what it moved, where it belongs
};

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static struct rect take_top(struct rect *from, int32_t rows)
{
    struct rect top = {from->row, from->col, least(rows, from->rows), from->cols};
    from->row += top.rows;
    from->rows -= top.rows;
    return top;
}

static struct rect take_left(struct rect *from, int32_t cols)
{
    struct rect left = {from->row, from->col, from->rows, least(cols, from->cols)};
    from->col += left.cols;
    from->cols -= left.cols;
    return left;
}

static void overview(struct layout *out, struct rect body)
{
    bool wide = body.cols >= WIDE_COLS, tall = body.rows >= NOW_ROWS + STACK_ROWS - 1;
    if (!wide && body.rows >= NOW_ROWS + STACK_ROWS) {
        out->now = take_top(&body, NOW_ROWS);
        if (body.rows >= STACK_ROWS + 6) {
            out->history = take_top(&body, body.rows - STACK_ROWS > 10 ? 10 : body.rows - STACK_ROWS);
        }
        out->stack = body;
    } else if (wide && tall) {
        struct rect top = take_top(&body, body.rows >= 2 * NOW_ROWS + 4 ? NOW_ROWS + 4 : NOW_ROWS);
        out->now = take_left(&top, NOW_COLS);
        out->history = top;
        out->stack = body;
    } else if (wide) {
        out->now = take_left(&body, NOW_COLS);
        out->stack = body;
    } else {
        out->now = body;
    }
}

static void compare(struct layout *out, struct rect body, int32_t table_rows)
{
    int32_t wanted = table_rows + (out->framed ? 2 : 0);
    if (body.rows - wanted < 7) {    // fewer than a border, a heading and four stages: the table may have the rest
        wanted = body.rows >= 16 ? body.rows - 8 : body.rows;
    }
    out->table = take_top(&body, wanted);
    if (body.rows >= 7) {
        out->bars = body;
    }
}

// Knobs, beside them the answer, below what is pinned; in a narrow screen the knobs first.
static void whatif(struct layout *out, struct rect body)
{
    enum { BELOW = 5 };    // a border, a heading and two scenarios
    bool wide = body.cols >= WIDE_COLS;
    int32_t knob_rows = body.rows >= KNOB_ROWS + BELOW ? KNOB_ROWS : FEW_KNOB_ROWS;
    if (body.rows >= knob_rows + BELOW && wide) {
        struct rect top = take_top(&body, knob_rows);
        out->detail = body;
        body = top;
    }
    if (wide) {
        out->table = take_left(&body, KNOB_COLS);
        out->bars = body;
    } else if (body.rows >= knob_rows + BELOW) {
        out->table = take_top(&body, knob_rows);
        out->bars = body;
    } else {
        out->table = body;
    }
}

static void with_detail(struct layout *out, struct rect body, enum view view)
{
    int32_t rows = view == VIEW_TIMELINE || view == VIEW_REQUESTS || view == VIEW_STAGES ? DETAIL_ROWS : 0;
    if (view == VIEW_ROOFLINE && body.cols >= WIDE_COLS) {
        out->table = take_left(&body, body.cols - LEGEND_COLS);
        out->detail = body;
        return;
    }
    if (view == VIEW_ROUTING && body.rows >= 12) {
        rows = body.rows / 2 - (out->framed ? 2 : 0);    // as many rows of time as of layers
    }
    rows = view == VIEW_ROOFLINE && body.rows >= 2 * LEGEND_ROWS ? LEGEND_ROWS : rows;
    if (rows > 0 && body.rows >= 2 * rows + (out->framed ? 4 : 0)) {
        out->table = take_top(&body, body.rows - rows - (out->framed ? 2 : 0));
        out->detail = body;
    } else {
        out->table = body;
    }
}

void layout_compute(struct layout *out, enum view view, int32_t rows, int32_t cols, int32_t table_rows,
                    int32_t help_rows)
{
    *out = (struct layout){.screen = {0, 0, rows, cols}, .too_small = rows < LAYOUT_MIN_ROWS || cols < LAYOUT_MIN_COLS};
    if (out->too_small) {
        return;
    }
    out->framed = rows >= 10 && cols >= 36;
    struct rect body = out->screen;
    out->tabs = take_top(&body, 1);
    if (rows >= 8) {
        out->note = take_top(&body, cols < NARROW_COLS && rows >= 12 ? 2 : 1);    // what follows is said to its end
        out->footer = (struct rect){rows - 1, 0, 1, cols};
        body.rows--;
    }
    if (view == VIEW_OVERVIEW) {
        overview(out, body);
    } else if (view == VIEW_COMPARE) {
        compare(out, body, table_rows);
    } else if (view == VIEW_WHATIF) {
        whatif(out, body);
    } else {
        with_detail(out, body, view);
    }
    int32_t height = least(help_rows + 2, rows), width = least(HELP_COLS, cols);
    out->help = (struct rect){(rows - height) / 2, (cols - width) / 2, height, width};
}

struct rect layout_inside(const struct layout *layout, struct rect panel)
{
    if (!layout->framed || panel.rows < 3 || panel.cols < 5) {
        return panel;
    }
    // A space beside each vertical line keeps text off it.
    return (struct rect){panel.row + 1, panel.col + 2, panel.rows - 2, panel.cols - 4};
}
