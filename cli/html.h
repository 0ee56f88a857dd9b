// cli/html.h - a report as one HTML file that needs nothing else: tables, and charts drawn from their rows as SVG.
//
// No script, no address: it opens offline and can be mailed. Points tell their values when pointed at. The file appears
// whole or not at all.
#pragma once

#include "cli/table.h"

struct html;
enum { HTML_MAX_BY = 12 };

int html_open(struct html **out, const char *path, const char *title);
void html_text(struct html *html, const char *text);
// The text that print(user, out) writes. Without memory for it html_close fails.
void html_print(struct html *html, void (*print)(const void *user, FILE *out), const void *user);
void html_table(struct html *html, const char *caption, const struct table *table);

// Lines over number column `x` of number column `y`, one for each combination of the texts in `by` [n_by]. Logarithmic
// where asked for; rows without both numbers, or without a place on a logarithmic axis, are left out.
struct html_lines {
    const char *caption, *x, *x_title, *y, *y_title;
    const char *by[HTML_MAX_BY];
    int32_t n_by;
    bool log_x, log_y;
    const char *joined;    // only series whose label begins so are joined by lines; NULL: all
};
void html_lines(struct html *html, const struct table *table, const struct html_lines *lines);

// Stacked bars: one for each combination of `by`, of the parts named in text column `part`, as long as number column
// `value`; "-" where none of its rows has that number.
struct html_bars {
    const char *caption, *part, *value, *value_title;
    const char *by[HTML_MAX_BY];
    int32_t n_by;
};
void html_bars(struct html *html, const struct table *table, const struct html_bars *bars);

int html_close(struct html *html);    // completes the file and frees; a failure since open, then no file. NULL-safe
void html_abandon(struct html *html); // NULL-safe; no file
