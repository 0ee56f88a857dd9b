// tui/view_stages.c - one method, stage by stage: time, rates, distance to the floor; per phase, adding up to the step.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tui/views.h"

enum column {
    COLUMN_STAGE,
    COLUMN_SHARE,
    COLUMN_STEP,
    COLUMN_MEDIAN,
    COLUMN_P95,
    COLUMN_BYTES,
    COLUMN_FLOPS,
    COLUMN_FLOOR,
    COLUMN_BOUND,
    COLUMN_CALLS,
    COLUMN_COUNT
};

static const struct view_column columns[COLUMN_COUNT] = {
    {"stage", 17, 0}, {"share", 6, 1}, {"per step", 8, 3}, {"median", 8, 4}, {"P95", 8, 6}, {"GB/s", 6, 5},
    {"GFLOP/s", 7, 8}, {"% floor", 7, 2}, {"bound by", 9, 7}, {"calls", 7, 9},
};

struct row {
    int32_t stage;
    double value[COLUMN_COUNT];
    int32_t order;       // ties keep the order of a step
};

struct sorting {
    int32_t column;
    bool reverse;
    const char *filter;        // part of a stage's name; "": all
};

static int compare_rows(const void *left, const void *right, void *user)
{
    const struct row *a = left, *b = right;
    const struct sorting *sorting = user;
    double x = a->value[sorting->column], y = b->value[sorting->column];
    int order;
    if (isnan(x) || isnan(y)) {
        return isnan(x) != isnan(y) ? isnan(x) - isnan(y) : a->order - b->order;    // the unknown last
    }
    order = sorting->column == COLUMN_STAGE ? (x > y) - (x < y) : (x < y) - (x > y);    // times: the greatest first
    order = sorting->reverse ? -order : order;
    return order ? order : a->order - b->order;
}

static int32_t make_rows(struct row *rows, const struct phase_summary *summary, const struct sorting *sorting)
{
    int32_t n = 0;
    for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
        const struct stage_summary *from = &summary->stages[stage];
        if (from->window_calls == 0 || !strstr(stage_name((enum stage)stage), sorting->filter)) {
            continue;
        }
        rows[n] = (struct row){.stage = stage, .order = n, .value = {
            stage, from->share, from->mean_ns, from->median_ns, from->p95_ns, from->bytes_per_s, from->flops_per_s,
            from->floor_part, from->bound, (double)from->calls}};
        n++;
    }
    qsort_r(rows, (size_t)n, sizeof *rows, compare_rows, (void *)sorting);
    return n;
}

struct lines {                 // where the next line goes; lines scrolled away are only counted
    struct cells *cells;
    struct rect clip;
    const bool *shown;
    int32_t row;
    int32_t selected;          // stage
};

static void put_line(struct lines *lines, char (*texts)[FORMAT_BYTES], struct pen pen)
{
    if (lines->row >= 0) {
        view_columns_row(lines->cells, lines->clip, lines->row, columns, COLUMN_COUNT, lines->shown, texts, pen);
    }
    lines->row++;
}

static void put_stage(struct lines *lines, const struct row *row, const struct stage_summary *summary)
{
    char texts[COLUMN_COUNT][FORMAT_BYTES] = {""};
    snprintf(texts[COLUMN_STAGE], FORMAT_BYTES, "  %s", stage_name((enum stage)row->stage));
    format_percent(texts[COLUMN_SHARE], summary->share);
    format_time_ns(texts[COLUMN_STEP], summary->mean_ns);
    format_time_ns(texts[COLUMN_MEDIAN], summary->median_ns);
    format_time_ns(texts[COLUMN_P95], summary->p95_ns);
    format_number(texts[COLUMN_BYTES], summary->bytes_per_s * 1e-9);
    format_number(texts[COLUMN_FLOPS], summary->flops_per_s * 1e-9);
    format_percent(texts[COLUMN_FLOOR], summary->floor_part);
    strcpy(texts[COLUMN_BOUND], isfinite(summary->floor_part) ? bound_name(summary->bound) : "-");
    format_number(texts[COLUMN_CALLS], (double)summary->calls);
    put_line(lines, texts, (struct pen){ROLE_TEXT, 0});
    if (lines->row > 0) {
        view_stage_key(lines->cells, lines->clip, lines->row - 1, 0, row->stage);
        if (row->stage == lines->selected) {
            cells_put(lines->cells, lines->clip, lines->row - 1, 1, 0x25b8, (struct pen){ROLE_ACCENT, ATTRIBUTE_BOLD});
        }
    }
}

// A row that has only a time: gaps, overlap, the step.
static void put_sum(struct lines *lines, const char *name, double ns, double of_ns, struct pen pen)
{
    char texts[COLUMN_COUNT][FORMAT_BYTES] = {""};
    strcpy(texts[COLUMN_STAGE], name);
    format_percent(texts[COLUMN_SHARE], ns / of_ns);
    format_time_ns(texts[COLUMN_STEP], ns);
    put_line(lines, texts, pen);
}

static void put_phase(struct lines *lines, enum phase phase, const struct phase_summary *summary,
                      const struct sorting *sorting)
{
    struct row rows[STAGE_COUNT];
    int32_t n = make_rows(rows, summary, sorting);
    if (lines->row >= 0) {
        char text[128], floor[FORMAT_BYTES];
        int32_t col = cells_text(lines->cells, lines->clip, lines->row, 0, (struct pen){ROLE_TITLE, ATTRIBUTE_BOLD},
                                 phase_name(phase));
        format_time_ns(floor, summary->floor_ns);
        snprintf(text, sizeof text, "  %lld steps, batch %d, context %d, floor %s", (long long)summary->steps,
                 summary->n_seqs, summary->context_tokens, floor);
        cells_text_fit(lines->cells, lines->clip, lines->row, col, lines->clip.cols - col, (struct pen){ROLE_DIM, 0},
                       text);
    }
    lines->row++;
    for (int32_t i = 0; i < n; i++) {
        put_stage(lines, &rows[i], &summary->stages[rows[i].stage]);
    }
    put_sum(lines, "+ gaps", summary->gaps_ns, summary->mean_ns, (struct pen){ROLE_DIM, 0});
    put_sum(lines, "- overlap", summary->overlap_ns, summary->mean_ns, (struct pen){ROLE_DIM, 0});
    char texts[COLUMN_COUNT][FORMAT_BYTES] = {"= step"};
    format_percent(texts[COLUMN_SHARE], 1);
    format_time_ns(texts[COLUMN_STEP], summary->mean_ns);
    format_percent(texts[COLUMN_FLOOR], summary->floor_part);
    put_line(lines, texts, (struct pen){ROLE_TEXT, ATTRIBUTE_BOLD});
}

// All phases that have steps, the one asked for first. Returns the number of lines.
static int32_t put_all(struct lines *lines, const struct state *state, const struct ui *ui, int32_t method,
                       const struct sorting *sorting)
{
    int32_t begin = lines->row;
    for (int i = 0; i < PHASE_COUNT && method >= 0; i++) {
        enum phase phase = (enum phase)(((int)ui->phase + i) % PHASE_COUNT);
        struct phase_summary summary;
        if (state_phase(state, method, phase, &summary)) {
            lines->row += lines->row > begin;    // a blank line between phases
            put_phase(lines, phase, &summary, sorting);
        }
    }
    return lines->row - begin;
}

void view_stages(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    int32_t method = ui_method(ui, state);
    struct phase_summary summary;
    enum phase phase;
    bool known = view_phase(state, ui, method, &phase, &summary);
    int32_t selected = known ? view_selected_stage(ui, &summary) : STAGE_COUNT;
    if (layout->detail.rows > 0 && selected < STAGE_COUNT) {
        view_layer_strip(cells, layout, state, method, phase, selected);
    } else if (layout->detail.rows > 0 && layout->framed) {
        cells_frame(cells, layout->detail, "Layers");
    }
    if (ui->kernels && selected < STAGE_COUNT) {
        view_kernels(cells, layout, state, ui, method, phase, selected);
        return;
    }
    struct rect inside = layout_inside(layout, layout->table);
    bool shown[COLUMN_COUNT];
    view_columns_fit(columns, COLUMN_COUNT, inside.cols, shown);
    int32_t *sort = &ui->sort[VIEW_STAGES];
    *sort = *sort < COLUMN_COUNT ? *sort : COLUMN_COUNT - 1;
    struct sorting sorting = {*sort, ui->reverse, ui->filter[VIEW_STAGES]};
    struct rect body = {inside.row + 1, inside.col, inside.rows - 1, inside.cols};
    struct lines counted = {cells, (struct rect){0}, shown, 0, -1};    // an empty clip: nothing is drawn
    int32_t n = put_all(&counted, state, ui, method, &sorting), most = n > body.rows ? n - body.rows : 0;
    ui->scroll = ui->scroll < most ? ui->scroll : most;
    char title[SOURCE_NAME_BYTES + 64] = "Stages", label[SOURCE_NAME_BYTES];
    if (method >= 0) {
        state_label(state, method, label, sizeof label);
        snprintf(title, sizeof title, "Stages of %s; median and P95 of one layer", label);
    }
    if (most > 0) {
        size_t length = strlen(title);
        snprintf(title + length, sizeof title - length, ", lines %d-%d of %d", ui->scroll + 1,
                 ui->scroll + body.rows, n);
    }
    if (layout->framed) {
        cells_frame(cells, layout->table, title);
    }
    view_columns_title(cells, inside, columns, COLUMN_COUNT, shown, sorting.column, sorting.reverse);
    struct lines lines = {cells, body, shown, -ui->scroll, selected};
    put_all(&lines, state, ui, method, &sorting);
}

void note_stages(char *note, const struct state *state, const struct ui *ui)
{
    struct phase_summary summary;
    enum phase phase;
    int32_t worst = STAGE_COUNT;
    if (!view_phase(state, ui, ui_method(ui, state), &phase, &summary)) {
        snprintf(note, NOTE_BYTES, "No step yet.");
        return;
    }
    double most_ns = 0;
    for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
        double above_ns = summary.stages[stage].mean_ns - summary.stages[stage].floor_ns;
        if (above_ns > most_ns) {
            most_ns = above_ns;
            worst = stage;
        }
    }
    char time[FORMAT_BYTES], share[FORMAT_BYTES];
    if (worst == STAGE_COUNT) {
        worst = view_greatest(&summary);
        format_percent(share, worst < STAGE_COUNT ? summary.stages[worst].share : NAN);
        snprintf(note, NOTE_BYTES, "%s: %s takes %s of a step; no floor without the device's rates.", phase_name(phase),
                 worst < STAGE_COUNT ? stage_name((enum stage)worst) : "nothing", share);
        return;
    }
    format_time_ns(time, most_ns);
    format_percent(share, most_ns / summary.mean_ns);
    snprintf(note, NOTE_BYTES, "%s: %s is furthest above its floor, by %s (%s of a step).", phase_name(phase),
             stage_name((enum stage)worst), time, share);
}
