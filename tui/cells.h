// tui/cells.h - a screen as a grid of cells, and the strokes that views draw with.
//
// Pure: what stands here becomes a terminal's content (draw.h) or plain text (cells_text_of). A cell says what its
// content is (its role), not which colour that has. All glyphs are one column wide; what is not drawn is a space. Every
// stroke is clipped to its rectangle and to the grid. Where there is no colour, views use letters instead.
#pragma once

#include "engine/stage.h"
#include "tui/layout.h"

enum role {
    ROLE_TEXT, ROLE_DIM, ROLE_TITLE, ROLE_BORDER, ROLE_GOOD, ROLE_WARN, ROLE_BAD, ROLE_ACCENT,
    ROLE_STAGE,                                  // + enum stage
    ROLE_GAP = ROLE_STAGE + STAGE_COUNT,
    ROLE_COUNT
};

enum attribute { ATTRIBUTE_BOLD = 1, ATTRIBUTE_REVERSE = 2, ATTRIBUTE_UNDERLINE = 4 };

struct cell {
    uint32_t glyph;          // a code point
    uint8_t role, attributes;
};

struct cells {
    int32_t rows, cols;
    bool color;              // whether roles will be told apart by colour
    struct cell *cell;       // [rows][cols], owned
    int64_t capacity;
};

struct pen {
    enum role role;
    uint8_t attributes;
};

// Makes the grid rows x cols and blank. The first call takes a zeroed struct. -ENOMEM leaves it as it was.
int cells_resize(struct cells *cells, int32_t rows, int32_t cols);
void cells_close(struct cells *cells);    // harmless on a zeroed struct

void cells_put(struct cells *cells, struct rect clip, int32_t row, int32_t col, uint32_t glyph, struct pen pen);
void cells_fill(struct cells *cells, struct rect rect, uint32_t glyph, struct pen pen);

// UTF-8 text from (row, col) of the clip on. Malformed, wide and invisible characters show as '?'. Returns the column
// behind it, as if there were no clip. _right ends at column `end` of the clip; _fit cuts to `width` with an ellipsis.
int32_t cells_text(struct cells *cells, struct rect clip, int32_t row, int32_t col, struct pen pen, const char *text);
void cells_text_right(struct cells *cells, struct rect clip, int32_t row, int32_t end, struct pen pen,
                      const char *text);
int32_t cells_text_fit(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t width, struct pen pen,
                       const char *text);
int32_t cells_width(const char *text);    // columns of UTF-8 text

void cells_frame(struct cells *cells, struct rect rect, const char *title);

// A bar of `width` columns of which `part` [0, 1] is full, in eighths of a column. Positive parts always show.
void cells_bar(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t width, double part,
               struct pen pen);

// Columns for values [n], the last at the right edge, in eighths of a row; `top` is the value of a full column.
void cells_plot(struct cells *cells, struct rect rect, const double *values, int32_t n, double top, struct pen pen);

// A dot of a grid twice as wide and four times as high as the rectangle, (0, 0) at its upper left. Dots join those that
// are there; anything else in the cell is replaced.
void cells_dot(struct cells *cells, struct rect rect, int32_t x, int32_t y, struct pen pen);

// Braille becomes quarters of cells: for fonts that lack it, or draw it faintly.
void cells_blocks(struct cells *cells);

// The nearest ASCII character.
uint32_t cells_ascii(uint32_t glyph);

// The grid as lines without trailing spaces, to be freed by the caller; NULL: no memory.
char *cells_text_of(const struct cells *cells, bool ascii);

// UTF-8 of a code point into bytes [4]; returns their number.
int32_t cells_encode(char *bytes, uint32_t glyph);
