// tui/views.c - the strokes that views share.
#include "tui/views.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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

int32_t view_selected_stage(const struct ui *ui, const struct phase_summary *summary)
{
    bool there = ui->stage >= 0 && ui->stage < STAGE_COUNT && summary->stages[ui->stage].window_calls > 0;
    return there ? ui->stage : view_greatest(summary);
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
