// tui/cells.c - strokes on a grid.
#include "tui/cells.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"

int cells_resize(struct cells *cells, int32_t rows, int32_t cols)
{
    int64_t n = (int64_t)rows * cols;
    if (n > cells->capacity) {
        struct cell *grown = realloc(cells->cell, (size_t)n * sizeof *grown);
        if (!grown) {
            return status_fail(-ENOMEM, "out of memory for a screen of %d x %d", cols, rows);
        }
        cells->cell = grown;
        cells->capacity = n;
    }
    cells->rows = rows;
    cells->cols = cols;
    for (int64_t i = 0; i < n; i++) {
        cells->cell[i] = (struct cell){.glyph = ' ', .role = ROLE_TEXT};
    }
    return 0;
}

void cells_close(struct cells *cells)
{
    free(cells->cell);
    *cells = (struct cells){0};
}

// `row` and `col` are of the clip.
void cells_put(struct cells *cells, struct rect clip, int32_t row, int32_t col, uint32_t glyph, struct pen pen)
{
    if (row < 0 || col < 0 || row >= clip.rows || col >= clip.cols) {
        return;
    }
    row += clip.row;
    col += clip.col;
    if (row >= 0 && col >= 0 && row < cells->rows && col < cells->cols) {
        cells->cell[(int64_t)row * cells->cols + col] =
            (struct cell){.glyph = glyph, .role = (uint8_t)pen.role, .attributes = pen.attributes};
    }
}

void cells_fill(struct cells *cells, struct rect rect, uint32_t glyph, struct pen pen)
{
    for (int32_t row = 0; row < rect.rows; row++) {
        for (int32_t col = 0; col < rect.cols; col++) {
            cells_put(cells, rect, row, col, glyph, pen);
        }
    }
}

// Takes one code point off the text; '?' for what is malformed or not one column wide everywhere.
static uint32_t decode(const char **text)
{
    const unsigned char *byte = (const unsigned char *)*text;
    int more = byte[0] < 0x80 ? 0 : byte[0] >= 0xf0 ? 3 : byte[0] >= 0xe0 ? 2 : byte[0] >= 0xc0 ? 1 : -1;
    uint32_t point = more <= 0 ? byte[0] : byte[0] & (0x3fu >> more);
    *text += 1;
    for (int i = 1; i <= more; i++) {
        if ((byte[i] & 0xc0) != 0x80) {
            return '?';
        }
        point = point << 6 | (byte[i] & 0x3fu);
        *text += 1;
    }
    bool plain = point >= 0x20 && point < 0x7f;
    bool latin_or_greek = point >= 0xa1 && point < 0x300 && point != 0xad;
    bool sign = (point >= 0x2010 && point < 0x2028) || (point >= 0x2190 && point < 0x2300) ||
                (point >= 0x2500 && point < 0x25fd);
    return more >= 0 && (plain || latin_or_greek || sign) ? point : '?';
}

int32_t cells_width(const char *text)
{
    int32_t n = 0;
    while (*text) {
        decode(&text);
        n++;
    }
    return n;
}

int32_t cells_text(struct cells *cells, struct rect clip, int32_t row, int32_t col, struct pen pen, const char *text)
{
    while (*text) {
        cells_put(cells, clip, row, col++, decode(&text), pen);
    }
    return col;
}

void cells_text_right(struct cells *cells, struct rect clip, int32_t row, int32_t end, struct pen pen, const char *text)
{
    cells_text(cells, clip, row, end - cells_width(text), pen, text);
}

int32_t cells_text_fit(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t width, struct pen pen,
                       const char *text)
{
    bool cut = cells_width(text) > width;
    int32_t end = col + width;
    while (*text && col < end - (cut ? 1 : 0)) {
        cells_put(cells, clip, row, col++, decode(&text), pen);
    }
    if (cut && width > 0) {
        cells_put(cells, clip, row, col++, 0x2026, pen);    // ...
    }
    return col;
}

void cells_frame(struct cells *cells, struct rect rect, const char *title)
{
    struct pen pen = {ROLE_BORDER, 0};
    int32_t bottom = rect.rows - 1, right = rect.cols - 1;
    for (int32_t col = 1; col < right; col++) {
        cells_put(cells, rect, 0, col, 0x2500, pen);
        cells_put(cells, rect, bottom, col, 0x2500, pen);
    }
    for (int32_t row = 1; row < bottom; row++) {
        cells_put(cells, rect, row, 0, 0x2502, pen);
        cells_put(cells, rect, row, right, 0x2502, pen);
    }
    cells_put(cells, rect, 0, 0, 0x256d, pen);
    cells_put(cells, rect, 0, right, 0x256e, pen);
    cells_put(cells, rect, bottom, 0, 0x2570, pen);
    cells_put(cells, rect, bottom, right, 0x256f, pen);
    if (title && rect.cols > 8) {
        cells_put(cells, rect, 0, 2, ' ', pen);
        int32_t end = cells_text_fit(cells, rect, 0, 3, rect.cols - 6, (struct pen){ROLE_TITLE, ATTRIBUTE_BOLD}, title);
        cells_put(cells, rect, 0, end, ' ', pen);
    }
}

static double clamped(double part)
{
    return part > 0 ? (part < 1 ? part : 1) : 0;    // NaN becomes 0
}

void cells_bar(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t width, double part,
               struct pen pen)
{
    int32_t eighths = (int32_t)lround(clamped(part) * 8 * width);
    if (eighths == 0 && part > 0) {
        eighths = 1;
    }
    for (int32_t i = 0; i < width && eighths > 0; i++, eighths -= 8) {
        // U+2588 is the full block, U+2589..U+258F are seven eighths down to one, from the left.
        cells_put(cells, clip, row, col + i, eighths >= 8 ? 0x2588 : 0x2590 - (uint32_t)eighths, pen);
    }
}

void cells_plot(struct cells *cells, struct rect rect, const double *values, int32_t n, double top, struct pen pen)
{
    for (int32_t i = 0; i < n && i < rect.cols; i++) {
        double part = top > 0 ? clamped(values[n - 1 - i] / top) : 0;
        int32_t eighths = (int32_t)lround(part * 8 * rect.rows);
        eighths = eighths == 0 && part > 0 ? 1 : eighths;
        for (int32_t row = rect.rows - 1; row >= 0 && eighths > 0; row--, eighths -= 8) {
            // U+2581..U+2588: one eighth up to full, from below.
            uint32_t glyph = 0x2580 + (uint32_t)(eighths < 8 ? eighths : 8);
            cells_put(cells, rect, row, rect.cols - 1 - i, glyph, pen);
        }
    }
}

void cells_dot(struct cells *cells, struct rect rect, int32_t x, int32_t y, struct pen pen)
{
    // Bits of a braille cell by row and column; the lowest row was added to the alphabet later.
    static const uint8_t bits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    int32_t row = rect.row + y / 4, col = rect.col + x / 2;
    if (x < 0 || y < 0 || y / 4 >= rect.rows || x / 2 >= rect.cols || row < 0 || col < 0 || row >= cells->rows ||
        col >= cells->cols) {
        return;
    }
    struct cell *cell = &cells->cell[(int64_t)row * cells->cols + col];
    bool joins = cell->glyph >= 0x2800 && cell->glyph < 0x2900;
    uint32_t before = joins ? cell->glyph : 0x2800;
    *cell = (struct cell){before | bits[y % 4][x % 2], (uint8_t)pen.role, pen.attributes};
}

void cells_blocks(struct cells *cells)
{
    // By which quarters are full: 1 upper left, 2 upper right, 4 lower left, 8 lower right.
    static const uint16_t quarters[] = {0x20,   0x2598, 0x259d, 0x2580, 0x2596, 0x258c, 0x259e, 0x259b,
                                        0x2597, 0x259a, 0x2590, 0x259c, 0x2584, 0x2599, 0x259f, 0x2588};
    for (int64_t i = 0; i < (int64_t)cells->rows * cells->cols; i++) {
        uint32_t *glyph = &cells->cell[i].glyph;
        if (*glyph >= 0x2800 && *glyph < 0x2900) {
            *glyph = quarters[(*glyph & 0x03 ? 1 : 0) | (*glyph & 0x18 ? 2 : 0) | (*glyph & 0x44 ? 4 : 0) |
                              (*glyph & 0xa0 ? 8 : 0)];
        }
    }
}

uint32_t cells_ascii(uint32_t glyph)
{
    if (glyph < 0x7f) {
        return glyph;
    }
    if (glyph >= 0x2581 && glyph <= 0x2588) {
        return (uint32_t) ".:-=+*%#"[glyph - 0x2581];
    }
    if (glyph >= 0x2800 && glyph < 0x2900) {    // braille: as dense as it has dots
        return (uint32_t) " ..::oo##"[__builtin_popcount(glyph & 0xff)];
    }
    if (glyph >= 0x2589 && glyph <= 0x258f) {
        return glyph <= 0x258c ? '#' : '|';    // half a column and more counts as one
    }
    switch (glyph) {
    case 0x2591: return '.';
    case 0x2592: return ':';
    case 0x2593: return '+';
    case 0x2500: case 0x2010: case 0x2013: return '-';
    case 0x2502: return '|';
    case 0x256d: case 0x256e: case 0x256f: case 0x2570: return '+';
    case 0x2026: return '~';
    case 0x25b2: return '^';
    case 0x25bc: return 'v';
    case 0x25b8: return '>';
    case 0x25a0: return '#';
    case 0xb7: return '.';
    case 0xd7: return 'x';
    default: return '?';
    }
}

int32_t cells_encode(char *bytes, uint32_t glyph)
{
    if (glyph < 0x80) {
        bytes[0] = (char)glyph;
        return 1;
    }
    if (glyph < 0x800) {
        bytes[0] = (char)(0xc0 | glyph >> 6);
        bytes[1] = (char)(0x80 | (glyph & 0x3f));
        return 2;
    }
    bytes[0] = (char)(0xe0 | glyph >> 12);
    bytes[1] = (char)(0x80 | (glyph >> 6 & 0x3f));
    bytes[2] = (char)(0x80 | (glyph & 0x3f));
    return 3;
}

char *cells_text_of(const struct cells *cells, bool ascii)
{
    char *text = malloc((size_t)cells->rows * ((size_t)cells->cols * 4 + 1) + 1), *end = text;
    for (int32_t row = 0; text && row < cells->rows; row++) {
        const struct cell *line = &cells->cell[(int64_t)row * cells->cols];
        int32_t length = cells->cols;
        while (length > 0 && line[length - 1].glyph == ' ') {
            length--;
        }
        for (int32_t col = 0; col < length; col++) {
            end += cells_encode(end, ascii ? cells_ascii(line[col].glyph) : line[col].glyph);
        }
        *end++ = '\n';
    }
    if (text) {
        *end = 0;
    }
    return text;
}
