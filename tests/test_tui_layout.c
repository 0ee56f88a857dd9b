// tests/test_tui_layout.c - rectangles of every screen from 1x1 to 300x100: inside the screen, none over another.
#include "tests/check.h"
#include "tui/layout.h"

static bool inside(struct rect a, struct rect b)
{
    return a.row >= b.row && a.col >= b.col && a.row + a.rows <= b.row + b.rows && a.col + a.cols <= b.col + b.cols;
}

static bool apart(struct rect a, struct rect b)
{
    return a.rows == 0 || b.rows == 0 || a.cols == 0 || b.cols == 0 || a.row + a.rows <= b.row ||
           b.row + b.rows <= a.row || a.col + a.cols <= b.col || b.col + b.cols <= a.col;
}

static void check_size(enum view view, int32_t rows, int32_t cols, int32_t table_rows, int32_t help_rows)
{
    struct layout layout;
    layout_compute(&layout, view, rows, cols, table_rows, help_rows);
    const struct rect rects[] = {layout.tabs, layout.note, layout.footer, layout.now, layout.history, layout.stack,
                                 layout.table, layout.bars, layout.detail};
    enum { N = sizeof rects / sizeof rects[0] };
    CHECK(layout.too_small == (rows < LAYOUT_MIN_ROWS || cols < LAYOUT_MIN_COLS));
    int64_t area = 0;
    for (int i = 0; i < N; i++) {
        CHECK_MESSAGE(rects[i].rows >= 0 && rects[i].cols >= 0 && inside(rects[i], layout.screen),
                      "view %d, %d x %d: rectangle %d leaves the screen", view, cols, rows, i);
        for (int j = 0; j < i; j++) {
            CHECK_MESSAGE(apart(rects[i], rects[j]), "view %d, %d x %d: rectangles %d and %d overlap", view, cols, rows,
                          i, j);
        }
        area += (int64_t)rects[i].rows * rects[i].cols;
        struct rect content = layout_inside(&layout, rects[i]);
        CHECK(rects[i].rows == 0 || inside(content, rects[i]));
        CHECK_MESSAGE(i < 3 || rects[i].rows == 0 || content.rows > 0, "view %d, %d x %d: panel %d is all border", view,
                      cols, rows, i);
    }
    CHECK(inside(layout.help, layout.screen));
    if (!layout.too_small) {
        CHECK_MESSAGE(area == (int64_t)rows * cols, "view %d, %d x %d: %lld cells used", view, cols, rows,
                      (long long)area);
        CHECK(view == VIEW_OVERVIEW ? layout.now.rows > 0 : layout.table.rows > 0);
    }
}

int main(void)
{
    check_begin();
    for (int view = 0; view < VIEW_COUNT; view++) {
        for (int32_t rows = 1; rows <= 100; rows++) {
            for (int32_t cols = 1; cols <= 300; cols++) {
                check_size((enum view)view, rows, cols, check_range(1, 17), check_range(1, 15));
            }
        }
    }
    // What the manual promises: three panels at 80x24, all panels at 120x40, one at 40x12.
    struct layout layout;
    layout_compute(&layout, VIEW_OVERVIEW, 24, 80, 1, 12);
    CHECK(layout.now.rows > 0 && layout.history.rows > 0 && layout.stack.rows > 0 && layout.framed);
    layout_compute(&layout, VIEW_OVERVIEW, 12, 40, 1, 12);
    CHECK(layout.now.rows == 8 && layout.history.rows == 0 && layout.stack.rows == 0);
    layout_compute(&layout, VIEW_COMPARE, 24, 80, 11, 12);
    CHECK(layout.table.rows == 13 && layout.bars.rows == 8);
    layout_compute(&layout, VIEW_COMPARE, 12, 40, 11, 12);
    CHECK(layout.table.rows == 8 && layout.bars.rows == 0);
    return check_end();
}
