// tui/ansi.c - cells to SGR sequences; one is written where a cell's look differs from that of the cell before.
#include "tui/ansi.h"

#include <stdio.h>
#include <stdlib.h>

#include "tui/theme.h"

// "\033[0;1;4;7;38;5;255m" and a glyph of at most four bytes.
enum { CELL_BYTES = 24 + 4, LINE_END_BYTES = 8 };

static int32_t put_look(char *end, const struct cell *cell, int32_t theme)
{
    int32_t n = sprintf(end, "\033[0%s%s%s", cell->attributes & ATTRIBUTE_BOLD ? ";1" : "",
                        cell->attributes & ATTRIBUTE_UNDERLINE ? ";4" : "",
                        cell->attributes & ATTRIBUTE_REVERSE ? ";7" : "");
    int16_t color = theme_color(theme, (enum role)cell->role, true);
    if (color >= 0) {
        n += sprintf(end + n, ";38;5;%d", color);
    }
    end[n++] = 'm';
    return n;
}

static bool same_look(const struct cell *a, const struct cell *b, int32_t theme)
{
    return a->attributes == b->attributes &&
           theme_color(theme, (enum role)a->role, true) == theme_color(theme, (enum role)b->role, true);
}

char *ansi_of(const struct cells *cells, bool ascii, int32_t theme)
{
    static const struct cell plain = {.glyph = ' ', .role = ROLE_TEXT};
    char *text = malloc((size_t)cells->rows * ((size_t)cells->cols * CELL_BYTES + LINE_END_BYTES) + 1), *end = text;
    for (int32_t row = 0; text && row < cells->rows; row++) {
        const struct cell *line = &cells->cell[(int64_t)row * cells->cols], *before = &plain;
        int32_t length = cells->cols;
        while (length > 0 && line[length - 1].glyph == ' ' && !line[length - 1].attributes) {
            length--;
        }
        for (int32_t col = 0; col < length; before = &line[col++]) {
            if (!same_look(before, &line[col], theme)) {
                end += put_look(end, &line[col], theme);
            }
            end += cells_encode(end, ascii ? cells_ascii(line[col].glyph) : line[col].glyph);
        }
        end += sprintf(end, "%s\n", same_look(before, &plain, theme) ? "" : "\033[0m");
    }
    if (text) {
        *end = 0;
    }
    return text;
}
