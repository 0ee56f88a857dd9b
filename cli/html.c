// cli/html.c - see html.h.
#include "cli/html.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/output_file.h"
#include "engine/status.h"

enum {
    WIDTH = 900,
    HEIGHT = 360,
    LEFT = 80,
    RIGHT = 200,
    TOP = 16,
    BOTTOM = 48,
    BAR = 22,
    MAX_SERIES = 48,
    LABEL_BYTES = 160
};
enum { PLOT_WIDTH = WIDTH - LEFT - RIGHT, PLOT_HEIGHT = HEIGHT - TOP - BOTTOM };

struct html {
    struct output_file file;
    bool no_memory;
};

// Okabe and Ito's colours, which colour-blind readers tell apart, then darker ones.
static const char *const colours[] = {"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9",
                                      "#d55e00", "#999999", "#882255", "#44aa99", "#332288",
                                      "#aa4499", "#117733", "#ddcc77", "#661100", "#6699cc"};
enum { N_COLOURS = sizeof colours / sizeof colours[0] };

static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&': fputs("&amp;", out); break;
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '"': fputs("&quot;", out); break;
        default: fputc(*text, out);
        }
    }
}

int html_open(struct html **out, const char *path, const char *title)
{
    struct html *html = *out = calloc(1, sizeof *html);
    int error = html ? output_file_open(&html->file, path) : status_fail(-ENOMEM, "no memory for a report");
    if (error) {
        free(html);
        *out = NULL;
        return error;
    }
    FILE *stream = html->file.stream;
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>", stream);
    put_escaped(stream, title);
    fputs(
        "</title>\n<style>\nbody{font:14px sans-serif;margin:2em;color:#222}\nh2{font-size:16px;margin-top:2em}\n"
        "table{border-collapse:collapse}\ntd,th{padding:2px 10px;border-bottom:1px solid #ddd;text-align:right;"
        "white-space:nowrap}\ntd.text,th.text{text-align:left}\npre{white-space:pre-wrap}\n"
        "svg{font:11px sans-serif;overflow:visible}\n</style></head><body>\n<h1>",
        stream);
    put_escaped(stream, title);
    fputs("</h1>\n", stream);
    return 0;
}

static void put_caption(struct html *html, const char *caption)
{
    fputs("<h2>", html->file.stream);
    put_escaped(html->file.stream, caption);
    fputs("</h2>\n", html->file.stream);
}

void html_text(struct html *html, const char *text)
{
    fputs("<pre>", html->file.stream);
    put_escaped(html->file.stream, text);
    fputs("</pre>\n", html->file.stream);
}

void html_print(struct html *html, void (*print)(const void *user, FILE *out), const void *user)
{
    char *text = NULL;
    size_t length;
    FILE *stream = open_memstream(&text, &length);
    if (stream) {
        print(user, stream);
    }
    if (stream && fclose(stream) == 0) {
        html_text(html, text);
    } else {
        html->no_memory = true;
    }
    free(text);
}

void html_table(struct html *html, const char *caption, const struct table *table)
{
    FILE *stream = html->file.stream;
    if (table_rows(table) == 0) {
        return;
    }
    put_caption(html, caption);
    fputs("<table>", stream);
    for (int32_t r = -1; r < table_rows(table); r++) {
        fputs("<tr>", stream);
        for (int32_t c = 0; c < table_columns(table); c++) {
            char buffer[64];
            const struct table_column *column = table_column(table, c);
            fprintf(stream, "<%s%s>", r < 0 ? "th" : "td", column->decimals < 0 ? " class=\"text\"" : "");
            put_escaped(stream, r < 0 ? column->title : table_render(table, r, c, buffer, sizeof buffer));
            fprintf(stream, "</%s>", r < 0 ? "th" : "td");
        }
        fputs("</tr>\n", stream);
    }
    fputs("</table>\n", stream);
}

// ---------------------------------------------------------------------------------------------------------------------
// Groups of rows

struct series {
    int32_t n;
    char labels[MAX_SERIES][LABEL_BYTES];
};

static void label_of(char *out, const struct table *table, int32_t row, const char *const *by, int32_t n_by)
{
    size_t length = 0;
    out[0] = 0;
    for (int32_t i = 0; i < n_by && length < LABEL_BYTES; i++) {
        const char *text = table_cell_text(table, row, by[i]);
        length += (size_t)snprintf(out + length, LABEL_BYTES - length, "%s%s", i ? ", " : "", text ? text : "-");
    }
}

// The number of a label, in the order in which they appear; -1: there are too many.
static int32_t series_of(struct series *series, const char *label)
{
    for (int32_t i = 0; i < series->n; i++) {
        if (strcmp(series->labels[i], label) == 0) {
            return i;
        }
    }
    if (series->n == MAX_SERIES) {
        return -1;
    }
    snprintf(series->labels[series->n], LABEL_BYTES, "%s", label);
    return series->n++;
}

static void put_legend(FILE *stream, const struct series *series)
{
    for (int32_t i = 0; i < series->n; i++) {
        int y = TOP + 6 + 15 * i;
        fprintf(stream, "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"10\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">",
                WIDTH - RIGHT + 14, y, colours[i % N_COLOURS], WIDTH - RIGHT + 32, y + 9);
        put_escaped(stream, series->labels[i]);
        fputs("</text>\n", stream);
    }
}

// The height at which every name of the legend is inside the picture.
static int legend_height(const struct series *series)
{
    return TOP + 6 + 15 * series->n + 6;
}

// ---------------------------------------------------------------------------------------------------------------------
// Lines

struct scale {
    double low, high;
    bool log;
};

static bool has_place(const struct scale *scale, double value)
{
    return isfinite(value) && (!scale->log || value > 0);
}

static void widen(struct scale *scale, double value)
{
    scale->low = fmin(scale->low, value);
    scale->high = fmax(scale->high, value);
}

// In [0, 1] along the axis.
static double place(const struct scale *scale, double value)
{
    double low = scale->log ? log(scale->low) : scale->low, high = scale->log ? log(scale->high) : scale->high;
    return high > low ? ((scale->log ? log(value) : value) - low) / (high - low) : 0.5;
}

static void put_number(FILE *stream, double value)
{
    static const char *const suffixes[] = {"", "K", "M", "G"};
    int s = 0;
    while (fabs(value) >= 1e4 && s < 3) {
        value /= 1000;
        s++;
    }
    fprintf(stream, "%.4g%s", value, suffixes[s]);
}

static void put_tick(FILE *stream, const struct scale *scale, double value, bool horizontal)
{
    double at = place(scale, value);
    if (horizontal) {
        double x = LEFT + at * PLOT_WIDTH;
        fprintf(stream, "<path d=\"M%.1f %dv%d\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">", x,
                TOP, PLOT_HEIGHT, x, TOP + PLOT_HEIGHT + 15);
    } else {
        double y = TOP + (1 - at) * PLOT_HEIGHT;
        fprintf(stream, "<path d=\"M%d %.1fh%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT,
                y, PLOT_WIDTH, LEFT - 6, y + 4);
    }
    put_number(stream, value);
    fputs("</text>\n", stream);
}

// Powers of ten, the less they span the more of their multiples, or a handful of round numbers.
static void put_axis(FILE *stream, const struct scale *scale, const char *title, bool horizontal)
{
    if (scale->log) {
        int32_t digits = scale->high > 100 * scale->low ? 1 : 9;
        bool narrow = scale->high < 10 * scale->low;
        for (double power = pow(10, floor(log10(scale->low))); power <= scale->high; power *= 10) {
            for (int32_t digit = 1; digit <= digits; digit++) {
                double value = power * digit;
                if (!narrow && digit != 1 && digit != 2 && digit != 5) {
                    continue;
                }
                if (value >= scale->low && value <= scale->high) {
                    put_tick(stream, scale, value, horizontal);
                }
            }
        }
    } else {
        double span = scale->high > scale->low ? scale->high - scale->low : 1, step = pow(10, floor(log10(span)));
        step *= span / step < 2 ? 0.25 : span / step < 5 ? 0.5 : 1;
        for (double value = ceil(scale->low / step) * step; value <= scale->high + step * 1e-9; value += step) {
            put_tick(stream, scale, value, horizontal);
        }
    }
    fprintf(stream, horizontal ? "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">"
                               : "<text transform=\"translate(%d %d) rotate(-90)\" text-anchor=\"middle\">",
            horizontal ? LEFT + PLOT_WIDTH / 2 : 14, horizontal ? HEIGHT - 10 : TOP + PLOT_HEIGHT / 2);
    put_escaped(stream, title);
    fputs("</text>\n", stream);
}

struct drawing {
    const struct table *table;
    const struct html_lines *lines;
    struct scale x, y;
    struct series *series;
};

static bool point_at(const struct drawing *drawing, int32_t row, double *x, double *y, char *label)
{
    const struct html_lines *lines = drawing->lines;
    *x = table_cell_number(drawing->table, row, lines->x);
    *y = table_cell_number(drawing->table, row, lines->y);
    label_of(label, drawing->table, row, lines->by, lines->n_by);
    return has_place(&drawing->x, *x) && has_place(&drawing->y, *y) && series_of(drawing->series, label) >= 0;
}

static void put_line(FILE *stream, const struct drawing *drawing, int32_t which)
{
    char label[LABEL_BYTES];
    double x, y;
    const char *begin = "M", *colour = colours[which % N_COLOURS];
    const char *joined = drawing->lines->joined;
    bool lined = !joined || strncmp(drawing->series->labels[which], joined, strlen(joined)) == 0;
    fprintf(stream, "<path fill=\"none\" stroke-width=\"1.5\" stroke=\"%s\" d=\"", colour);
    for (int32_t row = 0; lined && row < table_rows(drawing->table); row++) {
        if (point_at(drawing, row, &x, &y, label) && series_of(drawing->series, label) == which) {
            fprintf(stream, "%s%.1f %.1f", begin, LEFT + place(&drawing->x, x) * PLOT_WIDTH,
                    TOP + (1 - place(&drawing->y, y)) * PLOT_HEIGHT);
            begin = "L";
        }
    }
    fputs("\"/>\n", stream);
    for (int32_t row = 0; row < table_rows(drawing->table); row++) {
        if (point_at(drawing, row, &x, &y, label) && series_of(drawing->series, label) == which) {
            fprintf(stream, "<circle r=\"2\" fill=\"%s\" cx=\"%.1f\" cy=\"%.1f\"><title>", colour,
                    LEFT + place(&drawing->x, x) * PLOT_WIDTH, TOP + (1 - place(&drawing->y, y)) * PLOT_HEIGHT);
            put_escaped(stream, label);
            fprintf(stream, ": %.6g at %.6g</title></circle>\n", y, x);
        }
    }
}

void html_lines(struct html *html, const struct table *table, const struct html_lines *lines)
{
    FILE *stream = html->file.stream;
    struct series *series = calloc(1, sizeof *series);
    struct drawing drawing = {
        table, lines, {INFINITY, -INFINITY, lines->log_x}, {INFINITY, -INFINITY, lines->log_y}, series};
    for (int32_t row = 0; series && row < table_rows(table); row++) {
        char label[LABEL_BYTES];
        double x, y;
        if (point_at(&drawing, row, &x, &y, label)) {
            widen(&drawing.x, x);
            widen(&drawing.y, y);
        }
    }
    if (series && series->n > 0) {
        drawing.y.low = lines->log_y ? drawing.y.low : fmin(0, drawing.y.low);
        put_caption(html, lines->caption);
        int legend = legend_height(series);
        fprintf(stream, "<svg width=\"%d\" height=\"%d\">\n", WIDTH, HEIGHT > legend ? HEIGHT : legend);
        put_axis(stream, &drawing.x, lines->x_title, true);
        put_axis(stream, &drawing.y, lines->y_title, false);
        for (int32_t i = 0; i < series->n; i++) {
            put_line(stream, &drawing, i);
        }
        put_legend(stream, series);
        fputs("</svg>\n", stream);
    }
    free(series);
}

// ---------------------------------------------------------------------------------------------------------------------
// Bars

static double total_of(const struct table *table, const struct html_bars *bars, const char *label)
{
    double total = 0;
    for (int32_t row = 0; row < table_rows(table); row++) {
        char other[LABEL_BYTES];
        double value = table_cell_number(table, row, bars->value);
        label_of(other, table, row, bars->by, bars->n_by);
        total += strcmp(label, other) == 0 && value > 0 ? value : 0;
    }
    return total;
}

static void put_bar(FILE *stream, const struct table *table, const struct html_bars *bars, struct series *parts,
                    const char *label, double longest, int y)
{
    double x = LEFT + RIGHT, total = 0;
    bool known = false;
    const double scale = (PLOT_WIDTH - RIGHT - LEFT) / longest;
    fprintf(stream, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">", LEFT + RIGHT - 8, y + 15);
    put_escaped(stream, label);
    fputs("</text>\n", stream);
    for (int32_t row = 0; row < table_rows(table); row++) {
        char other[LABEL_BYTES];
        const char *part = table_cell_text(table, row, bars->part);
        double value = table_cell_number(table, row, bars->value);
        label_of(other, table, row, bars->by, bars->n_by);
        bool mine = strcmp(label, other) == 0;
        int32_t which = part && mine && value > 0 ? series_of(parts, part) : -1;
        known = known || (mine && isfinite(value));
        if (which >= 0) {
            fprintf(stream, "<rect x=\"%.1f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"%s\"><title>", x, y,
                    value * scale, BAR - 4, colours[which % N_COLOURS]);
            put_escaped(stream, part);
            fprintf(stream, ": %.6g</title></rect>\n", value);
            x += value * scale;
            total += value;
        }
    }
    fprintf(stream, "<text x=\"%.1f\" y=\"%d\">", x + 5, y + 15);
    if (known) {
        put_number(stream, total);
    } else {
        fputc('-', stream);
    }
    fputs("</text>\n", stream);
}

void html_bars(struct html *html, const struct table *table, const struct html_bars *bars)
{
    FILE *stream = html->file.stream;
    struct series *rows = calloc(1, sizeof *rows), *parts = calloc(1, sizeof *parts);
    double longest = 0;
    for (int32_t row = 0; rows && parts && row < table_rows(table); row++) {
        char label[LABEL_BYTES];
        label_of(label, table, row, bars->by, bars->n_by);
        if (series_of(rows, label) >= 0) {
            longest = fmax(longest, total_of(table, bars, label));
        }
    }
    if (longest > 0) {
        int height = TOP + BAR * rows->n + 24, legend = TOP + 30 + 15 * N_COLOURS;
        put_caption(html, bars->caption);
        fprintf(stream, "<svg width=\"%d\" height=\"%d\">\n", WIDTH, height > legend ? height : legend);
        for (int32_t i = 0; i < rows->n; i++) {
            put_bar(stream, table, bars, parts, rows->labels[i], longest, TOP + BAR * i);
        }
        put_legend(stream, parts);
        fprintf(stream, "<text x=\"%d\" y=\"%d\">", LEFT + RIGHT, TOP + BAR * rows->n + 16);
        put_escaped(stream, bars->value_title);
        fputs("</text>\n</svg>\n", stream);
    }
    free(rows);
    free(parts);
}

// ---------------------------------------------------------------------------------------------------------------------

void html_abandon(struct html *html)
{
    if (html) {
        output_file_abandon(&html->file);
        free(html);
    }
}

int html_close(struct html *html)
{
    if (!html) {
        return 0;
    }
    if (html->no_memory) {
        html_abandon(html);
        return status_fail(-ENOMEM, "no memory for a report");
    }
    fputs("</body></html>\n", html->file.stream);
    int error = output_file_commit(&html->file);
    free(html);
    return error;
}
