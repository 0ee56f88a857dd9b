// tui/view_curves.c - in Compare's place of bars: the methods' decode rates over the context or the batch, and where
// they cross. Both axes are logarithmic. A ring is what was measured.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/views.h"

static const struct pen dim_pen = {ROLE_DIM, 0};

enum { SCALE_COLS = 6, LEGEND_COLS = 34, LEGEND_LEAST = 30 };    // "100k "; "a clsa            12.3k tok/s"

// Colours of stages that are told apart at a glance; a method has one by its place.
static enum role curve_role(int32_t method)
{
    static const int roles[] = {STAGE_ATTENTION, STAGE_QKV, STAGE_FFN, STAGE_INDEX_SCORE, STAGE_OUTPUT,
                                STAGE_WINDOW_ATTENTION, STAGE_INDEX_SELECT, STAGE_HEAD};
    return (enum role)(ROLE_STAGE + roles[method % 8]);
}

struct plot {
    const struct sweep *sweep;
    struct rect area;
    double min_y, max_y;       // decades
};

static double part_x(const struct plot *plot, double x)
{
    const struct sweep *sweep = plot->sweep;
    return log(x / sweep->x[0]) / log(sweep->x[sweep->n_points - 1] / sweep->x[0]);
}

static int32_t dot_y(const struct plot *plot, double tokens_per_s)
{
    double part = (plot->max_y - log10(tokens_per_s)) / (plot->max_y - plot->min_y);
    return (int32_t)floor(part * (4 * plot->area.rows - 1));
}

// False: there is nothing to be seen.
static bool set_scale(struct plot *plot)
{
    const struct sweep *sweep = plot->sweep;
    plot->min_y = INFINITY;
    plot->max_y = -INFINITY;
    for (int32_t method = 0; method < sweep->n_methods; method++) {
        for (int32_t i = 0; i < sweep->n_points; i++) {
            double y = log10(sweep->tokens_per_s[method][i]);
            plot->min_y = y < plot->min_y ? y : plot->min_y;
            plot->max_y = y > plot->max_y ? y : plot->max_y;
        }
    }
    if (plot->max_y - plot->min_y < 0.1) {
        plot->min_y -= 0.5;
        plot->max_y = plot->min_y + 1;
    }
    return isfinite(plot->min_y) && isfinite(plot->max_y);
}

// The rate at x, between two points by the line between their logarithms.
static double rate_of(const struct sweep *sweep, int32_t method, double x)
{
    const double *y = sweep->tokens_per_s[method];
    for (int32_t i = 1; i < sweep->n_points; i++) {
        if (x <= sweep->x[i] || i + 1 == sweep->n_points) {
            double part = log(x / sweep->x[i - 1]) / log(sweep->x[i] / sweep->x[i - 1]);
            return y[i - 1] * pow(y[i] / y[i - 1], part);
        }
    }
    return y[0];
}

static void draw_curve(struct cells *cells, const struct plot *plot, int32_t method)
{
    const struct sweep *sweep = plot->sweep;
    struct pen pen = {curve_role(method), 0};
    int32_t last = -1, n = 2 * plot->area.cols;
    for (int32_t dot = 0; dot < n; dot++) {
        double x = sweep->x[0] * pow(sweep->x[sweep->n_points - 1] / sweep->x[0], (dot + 0.5) / n);
        double rate = rate_of(sweep, method, x);
        if (!isfinite(rate)) {
            return;
        }
        int32_t y = dot_y(plot, rate), from = last < 0 ? y : last < y ? last + 1 : y, to = last > y ? last - 1 : y;
        for (int32_t between = from; between <= to; between++) {
            cells_dot(cells, plot->area, dot, between, pen);
        }
        last = y;
    }
    // Its letter, in places of its own, so that curves are told apart without colour.
    int32_t apart = 3 * sweep->n_methods > 16 ? 3 * sweep->n_methods : 16;
    for (int32_t col = 2 + 3 * method; col < plot->area.cols; col += apart) {
        double x = sweep->x[0] * pow(sweep->x[sweep->n_points - 1] / sweep->x[0], (col + 0.5) / plot->area.cols);
        cells_put(cells, plot->area, dot_y(plot, rate_of(sweep, method, x)) / 4, col, (uint32_t)('a' + method),
                  (struct pen){pen.role, ATTRIBUTE_BOLD});
    }
}

static void draw_axes(struct cells *cells, const struct plot *plot, struct rect inside)
{
    char text[FORMAT_BYTES];
    int32_t last_row = -2, free_col = 0, rows = plot->area.rows;
    for (int32_t row = 0; row < rows; row += rows > 8 ? 4 : rows > 3 ? rows - 1 : 1) {
        format_number(text, pow(10, plot->max_y - (row + 0.5) / rows * (plot->max_y - plot->min_y)));
        if (row > last_row + 1) {
            cells_text_right(cells, inside, row, SCALE_COLS - 1, dim_pen, text);
            last_row = row;
        }
    }
    for (int32_t i = 0; i < plot->sweep->n_points; i += 4) {
        int32_t col = (int32_t)(part_x(plot, plot->sweep->x[i]) * (plot->area.cols - 1));
        format_whole(text, plot->sweep->x[i]);
        if (plot->sweep->x[i] >= 1024) {
            snprintf(text, sizeof text, "%.0fK", plot->sweep->x[i] / 1024);
        }
        col = col + cells_width(text) > plot->area.cols ? plot->area.cols - cells_width(text) : col;
        if (col >= free_col) {
            free_col = cells_text(cells, inside, rows, SCALE_COLS + col, dim_pen, text) - SCALE_COLS + 1;
        }
    }
}

static void format_x(char *text, const struct sweep *sweep, double x)
{
    if (sweep->over == SWEEP_CONTEXT && x >= 1024) {
        snprintf(text, FORMAT_BYTES, "%.1fK", x / 1024);
    } else {
        snprintf(text, FORMAT_BYTES, "%.3g", x);
    }
}

static void draw_crossings(struct cells *cells, const struct plot *plot)
{
    for (int32_t i = 0; i < plot->sweep->n_crossings; i++) {
        const struct sweep_crossing *crossing = &plot->sweep->crossings[i];
        int32_t col = (int32_t)(part_x(plot, crossing->x) * plot->area.cols);
        cells_put(cells, plot->area, dot_y(plot, crossing->tokens_per_s) / 4, col, 0xd7,
                  (struct pen){ROLE_WARN, ATTRIBUTE_BOLD | ATTRIBUTE_REVERSE});
    }
}

// What was measured: at its own context and batch, where that is on the curves' plane.
static void draw_measured(struct cells *cells, const struct plot *plot, const struct state *state)
{
    const struct sweep *sweep = plot->sweep;
    for (int32_t method = 0; method < sweep->n_methods; method++) {
        struct phase_summary decode;
        if (!state_phase(state, method, PHASE_DECODE, &decode) || !(decode.tokens_per_s > 0)) {
            continue;
        }
        bool context = sweep->over == SWEEP_CONTEXT;
        double x = context ? decode.context_tokens : decode.n_seqs;
        int32_t row = dot_y(plot, decode.tokens_per_s) / 4, col = (int32_t)(part_x(plot, x) * plot->area.cols);
        if ((!context || decode.n_seqs == sweep->fixed) && row >= 0 && col >= 0 && col < plot->area.cols &&
            dot_y(plot, decode.tokens_per_s) >= 0) {
            cells_put(cells, plot->area, row, col, 'o', (struct pen){curve_role(method), ATTRIBUTE_BOLD});
        }
    }
}

// The methods by their letters, the rate where one works now, and the crossings.
static void draw_legend(struct cells *cells, struct rect clip, const struct plot *plot, const struct state *state)
{
    const struct sweep *sweep = plot->sweep;
    char label[SOURCE_NAME_BYTES], other[SOURCE_NAME_BYTES];
    char text[2 * SOURCE_NAME_BYTES + FORMAT_BYTES], at[FORMAT_BYTES];
    int32_t row = 0;
    for (int32_t method = 0; method < sweep->n_methods && row < clip.rows; method++, row++) {
        state_label(state, method, label, sizeof label);
        cells_put(cells, clip, row, 0, (uint32_t)('a' + method), (struct pen){curve_role(method), ATTRIBUTE_BOLD});
        cells_text_fit(cells, clip, row, 2, 15, (struct pen){ROLE_TEXT, 0}, label);
        format_number(at, sweep->tokens_per_s[method][sweep->n_points - 1]);
        cells_text_right(cells, clip, row, 24, dim_pen, at);
        cells_text(cells, clip, row, 25, dim_pen, "at end");
    }
    for (int32_t i = 0; i < sweep->n_crossings && row < clip.rows; i++, row++) {
        const struct sweep_crossing *crossing = &sweep->crossings[i];
        format_x(at, sweep, crossing->x);
        state_label(state, crossing->faster, label, sizeof label);
        state_label(state, crossing->slower, other, sizeof other);
        snprintf(text, sizeof text, "\u00d7 from %.16s on %.40s > %.40s", at, label, other);
        cells_text_fit(cells, clip, row, 0, clip.cols, (struct pen){ROLE_WARN, 0}, text);
    }
}

void view_curves(struct cells *cells, struct rect panel, bool framed, const struct state *state, struct ui *ui)
{
    struct plot plot = {.sweep = &ui->sweep};
    char title[96] = "Curves";
    struct layout layout = {.framed = framed};
    struct rect inside = layout_inside(&layout, panel);
    bool known = sweep_update(&ui->sweep, state, ui->curves, ui_method(ui, state));
    if (known && ui->curves == SWEEP_CONTEXT) {
        snprintf(title, sizeof title, "Predicted decode tokens/s over the context, batch %d", ui->sweep.fixed);
    } else if (known) {
        snprintf(title, sizeof title, "Predicted decode tokens/s over the batch, context %d", ui->sweep.fixed);
    }
    if (framed) {
        cells_frame(cells, panel, title);
    }
    if (!known) {
        cells_text_fit(cells, inside, 0, 0, inside.cols, dim_pen,
                       "The device's rates are not known (yet); --sim-device names one.");
        return;
    }
    bool legend = inside.cols >= 2 * LEGEND_LEAST;
    plot.area = (struct rect){inside.row, inside.col + SCALE_COLS, inside.rows - 1,
                              inside.cols - SCALE_COLS - (legend ? LEGEND_COLS : 0)};
    if (plot.area.rows < 2 || plot.area.cols < 8) {
        return;
    }
    if (!set_scale(&plot)) {
        cells_text_fit(cells, inside, 0, 0, inside.cols, dim_pen, "No method here can be priced.");
        return;
    }
    for (int32_t method = 0; method < ui->sweep.n_methods; method++) {
        draw_curve(cells, &plot, method);
    }
    draw_axes(cells, &plot, inside);
    draw_measured(cells, &plot, state);
    draw_crossings(cells, &plot);
    if (legend) {
        int32_t col = inside.col + inside.cols - LEGEND_COLS + 2;
        draw_legend(cells, (struct rect){inside.row, col, inside.rows, LEGEND_COLS - 2}, &plot, state);
    }
}

bool note_curves(char *note, const struct state *state, const struct ui *ui)
{
    struct sweep sweep = ui->sweep;
    int32_t method = ui_method(ui, state), base = ui_baseline(ui, state);
    if (!sweep_update(&sweep, state, ui->curves, method)) {
        return false;
    }
    char label[SOURCE_NAME_BYTES], other[SOURCE_NAME_BYTES], at[FORMAT_BYTES];
    const char *unit = sweep.over == SWEEP_CONTEXT ? "tokens of context" : "sequences";
    for (int32_t i = 0; i < sweep.n_crossings; i++) {
        const struct sweep_crossing *crossing = &sweep.crossings[i];
        if (crossing->faster == base || crossing->slower == base) {
            state_label(state, crossing->faster, label, sizeof label);
            state_label(state, crossing->slower, other, sizeof other);
            format_x(at, &sweep, crossing->x);
            snprintf(note, NOTE_BYTES, "%.40s overtakes %.40s at %s %s (predicted; v: the other curves).", label,
                     other, at, unit);
            return true;
        }
    }
    int32_t best = -1;
    for (int32_t i = 0; i < sweep.n_methods; i++) {
        double rate = sweep.tokens_per_s[i][sweep.n_points - 1];
        best = isfinite(rate) && (best < 0 || rate > sweep.tokens_per_s[best][sweep.n_points - 1]) ? i : best;
    }
    if (best < 0) {
        snprintf(note, NOTE_BYTES, "No method here can be priced: the models are not known by name.");
        return true;
    }
    state_label(state, best, label, sizeof label);
    state_label(state, base, other, sizeof other);
    format_x(at, &sweep, sweep.x[sweep.n_points - 1]);
    snprintf(note, NOTE_BYTES, "Nothing crosses %.40s; %.40s is fastest at %s %s (predicted).", other, label, at, unit);
    return true;
}
