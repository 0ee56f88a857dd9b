// tui/views.c - the screen around the views (tabs, note, footer, help), and the strokes that views share.
#include "tui/views.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};

bool view_phase(const struct state *state, const struct ui *ui, int32_t method, enum phase *phase,
                struct phase_summary *out)
{
    static const enum phase others[] = {PHASE_DECODE, PHASE_PREFILL, PHASE_MIXED};
    *phase = ui->phase;
    bool found = method >= 0 && state_phase(state, method, ui->phase, out);
    for (int i = 0; i < 3 && method >= 0 && !found; i++) {
        *phase = others[i];
        found = state_phase(state, method, others[i], out);
    }
    return found;
}

char view_stage_letter(int32_t stage)
{
    // e mbed, q kv, w indow, k v_write, p roject, s core, x select, g ather, a ttention, o utput, f fn, h ead, t oken
    // drawn, c ommunicate, H ost, gaps
    return "eqwkpsxgaofhtcH."[stage];
}

static struct pen stage_pen(const struct cells *cells, int32_t stage)
{
    return (struct pen){stage == STAGE_COUNT ? ROLE_GAP : (enum role)(ROLE_STAGE + stage),
                        cells->color ? ATTRIBUTE_REVERSE : 0};
}

void view_stage_key(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t stage)
{
    cells_put(cells, clip, row, col, (uint32_t)view_stage_letter(stage), stage_pen(cells, stage));
}

void view_stack(struct cells *cells, struct rect clip, int32_t row, int32_t width, const struct phase_summary *summary)
{
    double total = summary->mean_ns + summary->overlap_ns, reached = 0;
    int32_t col = 0;
    for (int32_t stage = 0; stage <= STAGE_COUNT && total > 0; stage++) {
        reached += stage < STAGE_COUNT ? summary->stages[stage].mean_ns : summary->gaps_ns;
        int32_t end = (int32_t)lround(reached / total * width);
        for (int32_t first = col; col < end && col < width; col++) {
            // With colour a letter marks where a part begins; without, letters are the bar.
            char letter = col == first || !cells->color ? view_stage_letter(stage) : ' ';
            cells_put(cells, clip, row, col, (uint32_t)letter, stage_pen(cells, stage));
        }
    }
}

int32_t view_greatest(const struct phase_summary *summary)
{
    int32_t greatest = STAGE_COUNT;
    for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
        if (summary->stages[stage].mean_ns > (greatest < STAGE_COUNT ? summary->stages[greatest].mean_ns : 0)) {
            greatest = stage;
        }
    }
    return greatest;
}

void view_columns_fit(const struct view_column *columns, int32_t n, int32_t width, bool *shown)
{
    int32_t used = -1;
    for (int32_t i = 0; i < n; i++) {
        shown[i] = true;
        used += columns[i].width + 1;
    }
    while (used > width) {
        int32_t drop = -1;
        for (int32_t i = 1; i < n; i++) {
            if (shown[i] && (drop < 0 || columns[i].drop > columns[drop].drop)) {
                drop = i;
            }
        }
        if (drop < 0) {
            return;
        }
        shown[drop] = false;
        used -= columns[drop].width + 1;
    }
}

void view_columns_row(struct cells *cells, struct rect clip, int32_t row, const struct view_column *columns, int32_t n,
                      const bool *shown, char (*texts)[FORMAT_BYTES], struct pen pen)
{
    int32_t end = columns[0].width;
    cells_text_fit(cells, clip, row, 0, columns[0].width, pen, texts[0]);
    for (int32_t i = 1; i < n; i++) {
        if (shown[i]) {
            end += columns[i].width + 1;
            cells_text_right(cells, clip, row, end, pen, texts[i]);
        }
    }
}

void view_columns_title(struct cells *cells, struct rect clip, const struct view_column *columns, int32_t n,
                        const bool *shown, int32_t sorted, bool reverse)
{
    int32_t end = columns[0].width;
    for (int32_t i = 0; i < n; i++) {
        char title[FORMAT_BYTES];
        const char *arrow = i != sorted ? "" : (sorted == 0) != reverse ? "\u25b2" : "\u25bc";
        snprintf(title, sizeof title, "%s%s", columns[i].title, arrow);
        struct pen pen = {i == sorted ? ROLE_ACCENT : ROLE_DIM, i == sorted ? ATTRIBUTE_BOLD : 0};
        if (i == 0) {
            cells_text_fit(cells, clip, 0, 0, columns[0].width, pen, title);
        } else if (shown[i]) {
            end += columns[i].width + 1;
            cells_text_right(cells, clip, 0, end, pen, title);
        }
    }
}

static void draw_tabs(struct cells *cells, const struct layout *layout, const struct state *state, const struct ui *ui)
{
    static const char *const titles[VIEW_COUNT] = {"Overview", "Compare", "Stages"};
    struct rect line = layout->tabs;
    int32_t col = 0;
    for (int view = 0; view < VIEW_COUNT; view++) {
        if (line.cols < 36 && view != (int)ui->view) {
            continue;
        }
        char title[32];
        snprintf(title, sizeof title, " %d %s ", view + 1, titles[view]);
        bool here = view == (int)ui->view;
        col = cells_text(cells, line, 0, col,
                         here ? (struct pen){ROLE_ACCENT, ATTRIBUTE_REVERSE | ATTRIBUTE_BOLD} : dim_pen, title);
    }
    char right[256], part[SOURCE_NAME_BYTES + 8];
    snprintf(right, sizeof right, "%s", ui->origin);
    if (ui->refresh >= 0) {
        snprintf(right, sizeof right, "%s%s%d/s", ui->origin, ui->origin[0] ? "  " : "",
                 (int)ui_refresh_hz[ui->refresh]);
    }
    int32_t method = ui_method(ui, state), space = line.cols - col - 2;
    if (method >= 0) {
        struct method_summary summary;
        state_method(state, method, &summary);
        const char *const facts[] = {summary.source.model, summary.source.backend};
        for (int i = 0; i < 2; i++) {
            snprintf(part, sizeof part, "%s  ", facts[i]);
            if (cells_width(part) + cells_width(right) + (ui->paused ? 8 : 0) <= space) {
                memmove(right + strlen(part), right, strlen(right) + 1);
                memcpy(right, part, strlen(part));
            }
        }
    }
    int32_t end = line.cols - 1, width = cells_width(right);
    if (width <= space) {
        cells_text_right(cells, line, 0, end, dim_pen, right);
        end -= width + 1;
    }
    if (ui->paused && end - col >= 8) {
        cells_text_right(cells, line, 0, end, (struct pen){ROLE_WARN, ATTRIBUTE_REVERSE | ATTRIBUTE_BOLD}, " PAUSED ");
    }
}

static void draw_footer(struct cells *cells, const struct layout *layout, const struct state *state,
                        const struct ui *ui)
{
    static const struct { const char *key, *does; } hints[] = {
        {"q", "quit"}, {"?", "help"}, {"Tab", "view"}, {"p", "pause"}, {"m", "method"}, {"b", "baseline"},
        {"f", "phase"}, {"<>", "sort"}, {"r", "reverse"}, {"+-", "rate"},
    };
    struct rect line = layout->footer;
    int64_t lost = state_lost(state) + ui->dropped;
    char text[64] = "";
    int32_t col = 1, end = line.cols - 1;
    if (lost > 0) {
        snprintf(text, sizeof text, "%lld samples lost", (long long)lost);
        cells_text_right(cells, line, 0, end, (struct pen){ROLE_BAD, ATTRIBUTE_BOLD}, text);
        end -= cells_width(text) + 2;
    }
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++) {
        int32_t width = cells_width(hints[i].key) + 1 + cells_width(hints[i].does);
        if (col + width > end) {
            break;
        }
        col = cells_text(cells, line, 0, col, (struct pen){ROLE_ACCENT, ATTRIBUTE_BOLD}, hints[i].key);
        col = cells_text(cells, line, 0, col + 1, dim_pen, hints[i].does) + 2;
    }
}

static int32_t help_rows(const struct ui *ui)
{
    int32_t n = 0;
    for (int32_t i = 0; i < ui_n_keys; i++) {
        n += !ui_keys[i].live_only || ui->live;
    }
    return n;
}

static void draw_help(struct cells *cells, const struct layout *layout, const struct ui *ui)
{
    struct rect rect = layout->help;
    struct rect inside = {rect.row + 1, rect.col + 2, rect.rows - 2, rect.cols - 4};
    int32_t keys_cols = 13, row = 0;
    cells_fill(cells, rect, ' ', text_pen);
    if (inside.rows >= help_rows(ui)) {
        cells_frame(cells, rect, "Keys");
    } else {
        inside = rect;    // a key is worth more than a border
    }
    for (int32_t i = 0; i < ui_n_keys; i++) {
        if (!ui_keys[i].live_only || ui->live) {
            cells_text_fit(cells, inside, row, 0, keys_cols - 1, (struct pen){ROLE_ACCENT, ATTRIBUTE_BOLD},
                           ui_keys[i].keys);
            cells_text_fit(cells, inside, row++, keys_cols, inside.cols - keys_cols, text_pen, ui_keys[i].does);
        }
    }
}

static void draw_note(struct cells *cells, const struct layout *layout, const struct state *state, const struct ui *ui)
{
    static void (*const notes[VIEW_COUNT])(char *, const struct state *,
                                           const struct ui *) = {note_overview, note_compare, note_stages};
    char note[NOTE_BYTES] = "";
    notes[ui->view](note, state, ui);
    cells_text_fit(cells, layout->note, 0, 1, layout->note.cols - 2, (struct pen){ROLE_TEXT, ATTRIBUTE_BOLD}, note);
}

void view_draw(struct cells *cells, const struct state *state, struct ui *ui)
{
    static void (*const views[VIEW_COUNT])(struct cells *, const struct layout *, const struct state *, struct ui *) = {
        view_overview, view_compare, view_stages};
    struct layout layout;
    layout_compute(&layout, ui->view, cells->rows, cells->cols, view_compare_rows(state), help_rows(ui));
    cells_fill(cells, layout.screen, ' ', text_pen);
    if (layout.too_small) {
        cells_text(cells, layout.screen, 0, 0, text_pen, "terminal too small");
        return;
    }
    draw_tabs(cells, &layout, state, ui);
    views[ui->view](cells, &layout, state, ui);
    if (layout.note.rows > 0) {
        draw_note(cells, &layout, state, ui);
        draw_footer(cells, &layout, state, ui);
    }
    if (ui->help) {
        draw_help(cells, &layout, ui);
    }
}
