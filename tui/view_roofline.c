// tui/view_roofline.c - each stage by its flops per byte and the rate it reached, under the device's ceilings.
//
// Both axes are logarithmic. The slanted ceiling is memory: flops per byte times bandwidth; the flat one is the rate of
// multiply-adds in the weights' type. Stages without flops have no place in the plot; the table tells of them.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/views.h"

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};

struct point {
    int32_t stage;
    double intensity, flops_per_s;     // NaN where the stage multiplies nothing
    double bytes_per_s, floor_part;
    enum bound bound;
};

struct plot {
    struct point points[STAGE_COUNT];
    int32_t n, selected;
    double bytes_per_s, peak_flops_per_s;    // 0: unknown
    double min_x, max_x, min_y, max_y;       // decades: logarithms to the base 10
};

static void widen(double *min, double *max, double value)
{
    if (isfinite(value)) {
        *min = value < *min ? value : *min;
        *max = value > *max ? value : *max;
    }
}

// Everything in sight with a little room: points, and where the ceilings meet.
static void set_scale(struct plot *plot)
{
    plot->min_x = plot->min_y = INFINITY;
    plot->max_x = plot->max_y = -INFINITY;
    for (int32_t i = 0; i < plot->n; i++) {
        widen(&plot->min_x, &plot->max_x, log10(plot->points[i].intensity));
        widen(&plot->min_y, &plot->max_y, log10(plot->points[i].flops_per_s));
    }
    if (plot->peak_flops_per_s > 0) {
        widen(&plot->min_x, &plot->max_x, log10(plot->peak_flops_per_s / plot->bytes_per_s));
        widen(&plot->min_y, &plot->max_y, log10(plot->peak_flops_per_s));
    }
    if (!(plot->min_x <= plot->max_x)) {
        plot->min_x = plot->max_x = 0;
        plot->min_y = plot->max_y = 9;
    }
    plot->min_x -= 0.5;
    plot->max_x += 0.7;
    plot->min_y -= 0.4;
    plot->max_y += 0.3;
}

static bool make_plot(struct plot *plot, const struct state *state, const struct ui *ui, enum phase *phase)
{
    struct phase_summary summary;
    struct method_summary told;
    int32_t method = ui_method(ui, state);
    *plot = (struct plot){0};
    if (!view_phase(state, ui, method, phase, &summary)) {
        return false;
    }
    state_method(state, method, &told);
    const struct device *device = state_device(state);
    const struct device_figure *peak = device ? device_rate(device, told.source.weight_dtype) : NULL;
    plot->bytes_per_s = device ? device->bytes_per_s.value : 0;
    plot->peak_flops_per_s = peak && plot->bytes_per_s > 0 ? peak->value : 0;
    for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
        const struct stage_summary *from = &summary.stages[stage];
        if (from->window_calls > 0) {
            bool multiplies = from->flops_per_s > 0 && from->bytes_per_s > 0;
            plot->points[plot->n++] = (struct point){
                .stage = stage, .intensity = multiplies ? from->flops_per_s / from->bytes_per_s : NAN,
                .flops_per_s = multiplies ? from->flops_per_s : NAN, .bytes_per_s = from->bytes_per_s,
                .floor_part = from->floor_part, .bound = from->bound};
        }
    }
    plot->selected = ui->scroll < plot->n ? ui->scroll : plot->n - 1;
    set_scale(plot);
    return true;
}

static int32_t dot_x(const struct plot *plot, struct rect area, double decade)
{
    return (int32_t)floor((decade - plot->min_x) / (plot->max_x - plot->min_x) * (2 * area.cols));
}

static int32_t dot_y(const struct plot *plot, struct rect area, double decade)
{
    return (int32_t)floor((plot->max_y - decade) / (plot->max_y - plot->min_y) * (4 * area.rows));
}

// min(peak, intensity x bandwidth), dot by dot; where it is steep, the dots between two columns are filled.
static void draw_ceiling(struct cells *cells, const struct plot *plot, struct rect area)
{
    int32_t last = -1;
    for (int32_t x = 0; x < 2 * area.cols; x++) {
        double decade = plot->min_x + (x + 0.5) / (2 * area.cols) * (plot->max_x - plot->min_x);
        double memory = decade + log10(plot->bytes_per_s), flat = log10(plot->peak_flops_per_s);
        int32_t y = dot_y(plot, area, memory < flat ? memory : flat);
        for (int32_t between = last >= 0 && last > y ? last - 1 : y; between >= y; between--) {
            cells_dot(cells, area, x, between, (struct pen){ROLE_DIM, 0});
        }
        last = y;
    }
}

static void draw_ceiling_names(struct cells *cells, const struct plot *plot, struct rect area)
{
    char text[64], rate[FORMAT_BYTES];
    format_number(rate, plot->peak_flops_per_s * 1e-9);
    snprintf(text, sizeof text, "%s GFLOP/s", rate);
    int32_t row = dot_y(plot, area, log10(plot->peak_flops_per_s)) / 4;
    cells_text_right(cells, area, row > 0 ? row - 1 : row + 1, area.cols, dim_pen, text);
    format_number(rate, plot->bytes_per_s * 1e-9);
    snprintf(text, sizeof text, "%s GB/s", rate);
    // Left of the slope, halfway up.
    double ridge = log10(plot->peak_flops_per_s / plot->bytes_per_s), middle = (plot->min_x + ridge) / 2;
    int32_t col = dot_x(plot, area, middle) / 2 - cells_width(text) - 1;
    row = dot_y(plot, area, middle + log10(plot->bytes_per_s)) / 4;
    if (col >= 0 && row >= 0 && row < area.rows) {
        cells_text(cells, area, row, col, dim_pen, text);
    }
}

static void draw_axes(struct cells *cells, const struct plot *plot, struct rect inside, struct rect area)
{
    static const char *const flops[] = {"1", "10", "100", "1k", "10k", "100k", "1M", "10M", "100M", "1G", "10G", "100G",
                                        "1T", "10T", "100T", "1P", "10P"};
    int32_t n_flops = (int32_t)(sizeof flops / sizeof flops[0]), last_row = area.rows;
    for (int32_t decade = (int32_t)ceil(plot->min_y); decade <= plot->max_y; decade++) {
        int32_t row = dot_y(plot, area, decade) / 4;
        if (decade >= 0 && decade < n_flops && row >= 0 && row < last_row) {
            cells_text_right(cells, inside, row, area.col - inside.col - 1, dim_pen, flops[decade]);
            last_row = row;
        }
    }
    int32_t free_col = 0;
    for (int32_t decade = (int32_t)ceil(plot->min_x); decade <= plot->max_x; decade++) {
        char text[FORMAT_BYTES];
        int32_t col = dot_x(plot, area, decade) / 2;
        snprintf(text, sizeof text, "%g", pow(10, decade));
        if (col >= free_col && col + cells_width(text) <= area.cols) {
            free_col = cells_text(cells, inside, inside.rows - 1, area.col - inside.col + col, dim_pen, text) -
                       (area.col - inside.col) + 1;
        }
    }
    const char *unit = "flop/byte";
    if (free_col + cells_width(unit) <= area.cols) {
        cells_text_right(cells, inside, inside.rows - 1, inside.cols, dim_pen, unit);
    }
}

// Where the selected stage has been in recent steps: a dot each.
static void draw_trail(struct cells *cells, const struct plot *plot, struct rect area, const struct state *state,
                       int32_t method, enum phase phase)
{
    double bytes_per_s[STATE_STEPS], flops_per_s[STATE_STEPS];
    if (plot->selected < 0) {
        return;
    }
    int32_t stage = plot->points[plot->selected].stage;
    int32_t n = state_stage_history(state, method, phase, (enum stage)stage, bytes_per_s, flops_per_s, STATE_STEPS);
    for (int32_t i = 0; i < n; i++) {
        if (flops_per_s[i] > 0 && bytes_per_s[i] > 0) {
            int32_t x = dot_x(plot, area, log10(flops_per_s[i] / bytes_per_s[i]));
            cells_dot(cells, area, x, dot_y(plot, area, log10(flops_per_s[i])),
                      (struct pen){(enum role)(ROLE_STAGE + stage), 0});
        }
    }
}

static void draw_points(struct cells *cells, const struct plot *plot, struct rect area)
{
    for (int pass = 0; pass < 2; pass++) {    // the selected one last, over the others
        for (int32_t i = 0; i < plot->n; i++) {
            const struct point *point = &plot->points[i];
            if (isfinite(point->intensity) && (i == plot->selected) == (pass == 1)) {
                struct pen pen = {(enum role)(ROLE_STAGE + point->stage),
                                  i == plot->selected ? ATTRIBUTE_BOLD | ATTRIBUTE_REVERSE : ATTRIBUTE_BOLD};
                cells_put(cells, area, dot_y(plot, area, log10(point->flops_per_s)) / 4,
                          dot_x(plot, area, log10(point->intensity)) / 2, (uint32_t)view_stage_letter(point->stage),
                          pen);
            }
        }
    }
}

static void draw_legend(struct cells *cells, const struct plot *plot, struct rect clip)
{
    cells_text(cells, clip, 0, 2, dim_pen, "stage");
    cells_text_right(cells, clip, 0, 22, dim_pen, "flop/B");
    cells_text_right(cells, clip, 0, 30, dim_pen, "GFLOP/s");
    cells_text_right(cells, clip, 0, 38, dim_pen, "% roof");
    int32_t rows = clip.rows - 1, first = plot->selected >= rows ? plot->selected - rows + 1 : 0;
    for (int32_t i = 0; i < rows && first + i < plot->n; i++) {
        const struct point *point = &plot->points[first + i];
        char text[FORMAT_BYTES];
        struct pen pen = {ROLE_TEXT, first + i == plot->selected ? ATTRIBUTE_REVERSE | ATTRIBUTE_BOLD : 0};
        view_stage_key(cells, clip, 1 + i, 0, point->stage);
        cells_text_fit(cells, clip, 1 + i, 2, 16, pen, stage_name((enum stage)point->stage));
        format_number(text, point->intensity);
        cells_text_right(cells, clip, 1 + i, 22, text_pen, text);
        format_number(text, point->flops_per_s * 1e-9);
        cells_text_right(cells, clip, 1 + i, 30, text_pen, text);
        format_percent(text, point->floor_part);
        cells_text_right(cells, clip, 1 + i, 38, text_pen, text);
    }
}

void view_roofline(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    enum { SCALE_COLS = 5 };    // "100G" and a space
    struct plot plot;
    enum phase phase = ui->phase;
    char title[SOURCE_NAME_BYTES + 64] = "Roofline", label[SOURCE_NAME_BYTES];
    bool known = make_plot(&plot, state, ui, &phase);
    struct rect inside = layout_inside(layout, layout->table);
    struct rect area = {inside.row, inside.col + SCALE_COLS, inside.rows - 1, inside.cols - SCALE_COLS};
    if (known) {
        ui->scroll = plot.selected;
        state_label(state, ui_method(ui, state), label, sizeof label);
        snprintf(title, sizeof title, "Roofline: %s of %s; dots: recent steps", phase_name(phase), label);
    }
    if (layout->framed) {
        cells_frame(cells, layout->table, title);
        if (layout->detail.rows > 0) {
            cells_frame(cells, layout->detail, "Stages");
        }
    }
    if (!known || area.rows < 1 || area.cols < 1) {
        return;
    }
    if (plot.peak_flops_per_s > 0) {
        draw_ceiling(cells, &plot, area);
        if (area.cols >= 33) {    // or they would stand in the way of the points
            draw_ceiling_names(cells, &plot, area);
        }
    }
    draw_axes(cells, &plot, inside, area);
    draw_trail(cells, &plot, area, state, ui_method(ui, state), phase);
    draw_points(cells, &plot, area);
    if (layout->detail.rows > 0) {
        draw_legend(cells, &plot, layout_inside(layout, layout->detail));
    }
}

void note_roofline(char *note, const struct state *state, const struct ui *ui)
{
    struct plot plot;
    enum phase phase;
    if (!make_plot(&plot, state, ui, &phase)) {
        snprintf(note, NOTE_BYTES, "No step yet.");
        return;
    }
    char intensity[FORMAT_BYTES], part[FORMAT_BYTES], ridge[FORMAT_BYTES], rate[FORMAT_BYTES];
    const struct point *point = &plot.points[plot.selected < 0 ? 0 : plot.selected];
    const char *name = stage_name((enum stage)point->stage);
    if (plot.n == 0) {
        snprintf(note, NOTE_BYTES, "No stage yet.");
    } else if (plot.peak_flops_per_s <= 0) {
        snprintf(note, NOTE_BYTES, "No ceilings: the device's rates are not known; --sim-device names one.");
    } else if (!isfinite(point->intensity)) {
        format_number(rate, point->bytes_per_s * 1e-9);
        format_percent(part, point->floor_part);
        snprintf(note, NOTE_BYTES, "%s multiplies nothing: it moves %s GB/s, %s of what memory gives.", name, rate,
                 part);
    } else {
        format_number(intensity, point->intensity);
        format_percent(part, point->floor_part);
        format_number(ridge, plot.peak_flops_per_s / plot.bytes_per_s);
        snprintf(note, NOTE_BYTES, "%s: %s flop/byte, bound by %s, at %s of its roof (ridge at %s).", name,
                 intensity, bound_name(point->bound), part, ridge);
    }
}
