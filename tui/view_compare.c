// tui/view_compare.c - the methods side by side: what each needed, what it should need, and where its step goes.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tui/views.h"

enum column {
    COLUMN_METHOD,
    COLUMN_PREFILL,
    COLUMN_PREFILL_PREDICTED,
    COLUMN_RATE,
    COLUMN_PREDICTED,
    COLUMN_SPEEDUP,
    COLUMN_KV,
    COLUMN_STEP,
    COLUMN_FLOOR,
    COLUMN_PART,
    COLUMN_PROMPT,
    COLUMN_COUNT
};

static const struct view_column columns[COLUMN_COUNT] = {
    {"  method", 14, 0}, {"prefill", 8, 3},  {"predict", 8, 10}, {"tok/s", 7, 1},
    {"predict", 7, 6},   {"speed-up", 9, 2}, {"KV bytes", 9, 4}, {"step", 8, 7},
    {"floor", 8, 8},     {"% floor", 8, 5},  {"prompt", 7, 9},
};

struct row {
    int32_t method;
    double value[COLUMN_COUNT];
};

struct sorting {
    int32_t column;
    bool reverse;
    const char *filter;        // part of a method's label; "": all
};

// Decode is what methods are compared by; speed-up and floor refer to its steps.
static void make_row(struct row *row, const struct state *state, int32_t method, int32_t baseline)
{
    struct method_summary told;
    struct phase_summary decode, base;
    state_method(state, method, &told);
    state_phase(state, method, PHASE_DECODE, &decode);
    state_phase(state, baseline, PHASE_DECODE, &base);
    *row = (struct row){.method = method, .value = {
        method, told.prefill_s * 1e9, told.predicted_prefill_s * 1e9, decode.tokens_per_s, told.predicted_tokens_per_s,
        decode.tokens_per_s / base.tokens_per_s, told.kv_peak_bytes, decode.mean_ns, decode.floor_ns, decode.floor_part,
        told.prompt_tokens > 0 ? (double)told.prompt_tokens : NAN}};
}

static int compare_rows(const void *left, const void *right, void *user)
{
    const struct row *a = left, *b = right;
    const struct sorting *sorting = user;
    double x = a->value[sorting->column], y = b->value[sorting->column];
    int order;
    if (isnan(x) || isnan(y)) {
        return isnan(x) != isnan(y) ? isnan(x) - isnan(y) : a->method - b->method;    // the unknown last
    }
    order = sorting->column == COLUMN_METHOD ? (x > y) - (x < y) : (x < y) - (x > y);
    order = sorting->reverse ? -order : order;
    return order ? order : a->method - b->method;
}

static int32_t make_rows(struct row *rows, const struct state *state, const struct ui *ui,
                         const struct sorting *sorting)
{
    int32_t n = 0;
    for (int32_t i = 0; i < state_method_count(state); i++) {
        char label[SOURCE_NAME_BYTES];
        state_label(state, i, label, sizeof label);
        if (strstr(label, sorting->filter)) {
            make_row(&rows[n++], state, i, ui_baseline(ui, state));
        }
    }
    qsort_r(rows, (size_t)n, sizeof *rows, compare_rows, (void *)sorting);
    return n;
}

int32_t view_compare_rows(const struct state *state)
{
    return 1 + state_method_count(state);
}

static void put_row(struct cells *cells, struct rect clip, int32_t line, const bool *shown, const struct row *row,
                    const struct state *state, const struct ui *ui)
{
    char texts[COLUMN_COUNT][FORMAT_BYTES], label[SOURCE_NAME_BYTES];
    bool here = row->method == ui_method(ui, state), base = row->method == ui_baseline(ui, state);
    const double *value = row->value;
    state_label(state, row->method, label, sizeof label);
    snprintf(texts[COLUMN_METHOD], FORMAT_BYTES, "%s %.27s", here ? "\u25b8" : " ", label);
    format_time_ns(texts[COLUMN_PREFILL], value[COLUMN_PREFILL]);
    format_time_ns(texts[COLUMN_PREFILL_PREDICTED], value[COLUMN_PREFILL_PREDICTED]);
    format_number(texts[COLUMN_RATE], value[COLUMN_RATE]);
    format_number(texts[COLUMN_PREDICTED], value[COLUMN_PREDICTED]);
    if (base) {
        strcpy(texts[COLUMN_SPEEDUP], "base");
    } else {
        format_ratio(texts[COLUMN_SPEEDUP], value[COLUMN_SPEEDUP]);
    }
    format_bytes(texts[COLUMN_KV], value[COLUMN_KV]);
    format_time_ns(texts[COLUMN_STEP], value[COLUMN_STEP]);
    format_time_ns(texts[COLUMN_FLOOR], value[COLUMN_FLOOR]);
    format_percent(texts[COLUMN_PART], value[COLUMN_PART]);
    format_whole(texts[COLUMN_PROMPT], value[COLUMN_PROMPT]);
    view_columns_row(cells, clip, line, columns, COLUMN_COUNT, shown, texts,
                     (struct pen){ROLE_TEXT, here ? ATTRIBUTE_BOLD : 0});
}

static void draw_table(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    struct row rows[STATE_METHODS];
    int32_t *sort = &ui->sort[VIEW_COMPARE];
    *sort = *sort < COLUMN_COUNT ? *sort : COLUMN_COUNT - 1;
    struct sorting sorting = {*sort, ui->reverse, ui->filter[VIEW_COMPARE]};
    int32_t n = make_rows(rows, state, ui, &sorting);
    struct rect inside = layout_inside(layout, layout->table);
    bool shown[COLUMN_COUNT];
    view_columns_fit(columns, COLUMN_COUNT, inside.cols, shown);
    if (layout->framed) {
        cells_frame(cells, layout->table, "Methods on the same work: prefill of a prompt, decode");
    }
    view_columns_title(cells, inside, columns, COLUMN_COUNT, shown, sorting.column, sorting.reverse);
    int32_t room = inside.rows - 1, first = 0;
    if (layout->bars.rows == 0) {    // then scrolling is this table's
        int32_t most = n > room ? n - room : 0;
        ui->scroll = ui->scroll < most ? ui->scroll : most;
        first = ui->scroll;
    }
    for (int32_t i = 0; i < room && first + i < n; i++) {
        put_row(cells, inside, 1 + i, shown, &rows[first + i], state, ui);
    }
}

enum { STAGE_COLS = 18, CELL_COLS = 9, BAR_COLS = 4, GAP_COLS = 2 };

struct bars {
    struct cells *cells;
    struct rect clip;
    int32_t first, n, width;                         // methods shown, columns of each
    struct phase_summary summaries[STATE_METHODS];   // [n]
    double top_ns;                                   // of a full bar: one scale for all
};

static double part_ns(const struct phase_summary *summary, int32_t part)
{
    return part < STAGE_COUNT ? (summary->stages[part].window_calls > 0 ? summary->stages[part].mean_ns : NAN)
           : part == STAGE_COUNT ? summary->gaps_ns : -summary->overlap_ns;
}

static void put_bar_row(const struct bars *bars, int32_t row, int32_t part)
{
    const char *name = part < STAGE_COUNT ? stage_name((enum stage)part) : part == STAGE_COUNT ? "gaps" : "- overlap";
    int32_t bar = bars->width - CELL_COLS - GAP_COLS;
    if (part <= STAGE_COUNT) {
        view_stage_key(bars->cells, bars->clip, row, 0, part);
    }
    cells_text(bars->cells, bars->clip, row, 2, (struct pen){ROLE_TEXT, 0}, name);
    for (int32_t i = 0; i < bars->n; i++) {
        char text[FORMAT_BYTES];
        double ns = part_ns(&bars->summaries[i], part);
        int32_t begin = STAGE_COLS + i * bars->width;
        format_time_ns(text, ns);
        cells_text_right(bars->cells, bars->clip, row, begin + CELL_COLS,
                         (struct pen){isnan(ns) ? ROLE_DIM : ROLE_TEXT, 0}, text);
        if (bar >= BAR_COLS && ns > 0) {
            struct pen pen = {part < STAGE_COUNT ? (enum role)(ROLE_STAGE + part) : ROLE_GAP, 0};
            cells_bar(bars->cells, bars->clip, row, begin + CELL_COLS + 1, bar, ns / bars->top_ns, pen);
        }
    }
}

// The methods that fit, the shown one among them; their summaries, and the scale.
static void gather(struct bars *bars, const struct state *state, const struct ui *ui, enum phase phase)
{
    int32_t all = state_method_count(state), space = bars->clip.cols - STAGE_COLS, here = ui_method(ui, state);
    bars->n = space / CELL_COLS < all ? space / CELL_COLS : all;
    bars->n = bars->n > 0 ? bars->n : 0;
    bars->first = here >= bars->n ? here - bars->n + 1 : 0;
    bars->width = bars->n > 0 ? space / bars->n : 0;
    bars->width = bars->width < 40 ? bars->width : 40;    // longer bars say no more
    for (int32_t i = 0; i < bars->n; i++) {
        state_phase(state, bars->first + i, phase, &bars->summaries[i]);
        for (int32_t part = 0; part <= STAGE_COUNT; part++) {
            double ns = part_ns(&bars->summaries[i], part);
            bars->top_ns = ns > bars->top_ns ? ns : bars->top_ns;
        }
    }
}

static void put_bar_titles(const struct bars *bars, const struct state *state, const struct ui *ui, int32_t sum_row)
{
    cells_text(bars->cells, bars->clip, sum_row, 2, (struct pen){ROLE_TEXT, ATTRIBUTE_BOLD}, "= step");
    for (int32_t i = 0; i < bars->n; i++) {
        char label[SOURCE_NAME_BYTES], text[FORMAT_BYTES];
        int32_t begin = STAGE_COLS + i * bars->width;
        bool here = bars->first + i == ui_method(ui, state);
        state_label(state, bars->first + i, label, sizeof label);
        // Right-aligned over its figures; a longer name goes on over the bars.
        int32_t width = cells_width(label), room = CELL_COLS - 1 < width ? bars->width - 1 : CELL_COLS - 1;
        width = width < room ? width : room;
        int32_t col = width < CELL_COLS - 1 ? begin + CELL_COLS - width : begin + 1;
        cells_text_fit(bars->cells, bars->clip, 0, col, width,
                       (struct pen){here ? ROLE_ACCENT : ROLE_TITLE, ATTRIBUTE_BOLD}, label);
        format_time_ns(text, bars->summaries[i].mean_ns);
        cells_text_right(bars->cells, bars->clip, sum_row, begin + CELL_COLS, (struct pen){ROLE_TEXT, ATTRIBUTE_BOLD},
                         text);
    }
}

// The rows that any shown method has: in the order of a step, or the longest first where there is no room for all.
static int32_t choose_parts(int32_t *parts, const struct bars *bars, int32_t room)
{
    double most_ns[STAGE_COUNT + 2];
    int32_t n = 0;
    for (int32_t part = 0; part < STAGE_COUNT + 2; part++) {
        bool seen = part == STAGE_COUNT;
        most_ns[part] = 0;
        for (int32_t i = 0; i < bars->n; i++) {    // overlap is there where it is not 0: then it is negative
            double ns = fabs(part_ns(&bars->summaries[i], part));
            seen = seen || (part < STAGE_COUNT ? ns >= 0 : ns > 0);
            most_ns[part] = ns > most_ns[part] ? ns : most_ns[part];
        }
        if (seen) {
            parts[n++] = part;
        }
    }
    for (int32_t i = 1; i < n && n > room; i++) {
        for (int32_t j = i; j > 0 && most_ns[parts[j - 1]] < most_ns[parts[j]]; j--) {
            int32_t other = parts[j];
            parts[j] = parts[j - 1];
            parts[j - 1] = other;
        }
    }
    return n;
}

static void draw_bars(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    struct bars bars = {.cells = cells, .clip = layout_inside(layout, layout->bars)};
    struct phase_summary shown;
    enum phase phase;
    view_phase(state, ui, ui_method(ui, state), &phase, &shown);
    gather(&bars, state, ui, phase);
    int32_t parts[STAGE_COUNT + 2], room = bars.clip.rows - 2, n = choose_parts(parts, &bars, room);
    int32_t most = n > room ? n - room : 0;
    ui->scroll = ui->scroll < most ? ui->scroll : most;
    char title[128];
    int length = snprintf(title, sizeof title, "Mean %s step by stage, one scale", phase_name(phase));
    if (most > 0) {
        length += snprintf(title + length, sizeof title - (size_t)length, ", %d-%d of %d rows (j k)", ui->scroll + 1,
                           ui->scroll + room, n);
    }
    if (bars.n < state_method_count(state)) {
        snprintf(title + length, sizeof title - (size_t)length, ", %d of %d methods (m)", bars.n,
                 state_method_count(state));
    }
    if (layout->framed) {
        cells_frame(cells, layout->bars, title);
    }
    int32_t count = n < room ? n : room;
    for (int32_t i = 0; i < count; i++) {
        put_bar_row(&bars, 1 + i, parts[ui->scroll + i]);
    }
    put_bar_titles(&bars, state, ui, 1 + count);
}

void view_compare(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    bool one = layout->bars.rows == 0;    // room for one panel only
    if (ui->curves != SWEEP_NONE) {
        view_curves(cells, one ? layout->table : layout->bars, layout->framed, state, ui);
    }
    if (ui->curves == SWEEP_NONE || !one) {
        draw_table(cells, layout, state, ui);
    }
    if (ui->curves == SWEEP_NONE && !one && state_method_count(state) > 0) {
        draw_bars(cells, layout, state, ui);
    }
}

void note_compare(char *note, const struct state *state, const struct ui *ui)
{
    struct row rows[STATE_METHODS];
    struct sorting by_rate = {COLUMN_RATE, false, ""};
    struct method_summary best_told, base_told;
    int32_t n = make_rows(rows, state, ui, &by_rate), base = ui_baseline(ui, state);
    if (n == 0 || isnan(rows[0].value[COLUMN_RATE])) {
        snprintf(note, NOTE_BYTES, "No decode step yet.");
        return;
    }
    if (ui->curves != SWEEP_NONE && note_curves(note, state, ui)) {
        return;
    }
    char best[SOURCE_NAME_BYTES], other[SOURCE_NAME_BYTES], ratio[FORMAT_BYTES];
    state_label(state, rows[0].method, best, sizeof best);
    state_label(state, base, other, sizeof other);
    format_ratio(ratio, rows[0].value[COLUMN_SPEEDUP]);
    if (rows[0].method == base) {
        snprintf(note, NOTE_BYTES, n > 1 ? "%s, the baseline, decodes fastest." : "%s: one method so far.", best);
        return;
    }
    int length = snprintf(note, NOTE_BYTES, "%s decodes fastest: %s %s", best, ratio, other);
    state_method(state, rows[0].method, &best_told);
    state_method(state, base, &base_told);
    if (best_told.kv_peak_bytes > 0 && base_told.kv_peak_bytes > 0 && length < NOTE_BYTES) {
        format_ratio(ratio, best_told.kv_peak_bytes / base_told.kv_peak_bytes);
        length += snprintf(note + length, (size_t)(NOTE_BYTES - length), ", with %s its KV bytes", ratio);
    }
    if (best_told.prompt_tokens != base_told.prompt_tokens && length < NOTE_BYTES) {
        snprintf(note + length, (size_t)(NOTE_BYTES - length), " (prompts differ: %d and %d tokens)",
                 best_told.prompt_tokens, base_told.prompt_tokens);
    }
}
