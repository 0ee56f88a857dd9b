// tui/screen.c - the screen around the views: tabs, note, footer, help.
#include <stdio.h>
#include <string.h>

#include "tui/views.h"

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};
static const struct pen key_pen = {ROLE_ACCENT, ATTRIBUTE_BOLD};

typedef void view_function(struct cells *, const struct layout *, const struct state *, struct ui *);
typedef void note_function(char *, const struct state *, const struct ui *);

static const struct { view_function *draw; note_function *note; } views[VIEW_COUNT] = {
    [VIEW_OVERVIEW] = {view_overview, note_overview}, [VIEW_COMPARE] = {view_compare, note_compare},
    [VIEW_STAGES] = {view_stages, note_stages}, [VIEW_TIMELINE] = {view_timeline, note_timeline},
    [VIEW_ROOFLINE] = {view_roofline, note_roofline}, [VIEW_WHATIF] = {view_whatif, note_whatif},
    [VIEW_REQUESTS] = {view_requests, note_requests}, [VIEW_ROUTING] = {view_routing, note_routing},
};

// The tabs: all titles; four letters each, or numbers only, beside the title of the view that is shown; that one alone.
enum tab_style { TABS_TITLES, TABS_SHORT, TABS_NUMBERS, TABS_ONE };

static int32_t tab_text(char *text, size_t bytes, int view, const struct ui *ui, enum tab_style style)
{
    bool here = view == (int)ui->view;
    if (here && style == TABS_ONE) {    // that there are others
        snprintf(text, bytes, " %d/%d %s ", view + 1, VIEW_COUNT, view_title((enum view)view));
    } else if (here || style == TABS_TITLES) {
        snprintf(text, bytes, " %d %s ", view + 1, view_title((enum view)view));
    } else if (style == TABS_SHORT) {
        snprintf(text, bytes, " %d %.4s", view + 1, view_title((enum view)view));
    } else if (style == TABS_NUMBERS) {
        snprintf(text, bytes, " %d ", view + 1);
    } else {
        text[0] = 0;
    }
    return cells_width(text);
}

// As many tabs as leave `right` columns for how the samples come in.
static int32_t put_tabs(struct cells *cells, struct rect line, struct ui *ui, int32_t right)
{
    char text[32];
    int style = TABS_TITLES;
    int32_t room = line.cols - right - 2;
    for (int32_t width = room + 1; width > room && style < TABS_ONE; style += width > room) {
        width = 0;
        for (int view = 0; view < VIEW_COUNT; view++) {
            width += tab_text(text, sizeof text, view, ui, (enum tab_style)style);
        }
    }
    int32_t col = 0;
    for (int view = 0; view < VIEW_COUNT; view++) {
        tab_text(text, sizeof text, view, ui, (enum tab_style)style);
        col = cells_text(cells, line, 0, col,
                         view == (int)ui->view ? (struct pen){ROLE_ACCENT, ATTRIBUTE_REVERSE | ATTRIBUTE_BOLD}
                                               : dim_pen, text);
        ui->tab_ends[view] = col;
    }
    return col;
}

static void draw_tabs(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    struct rect line = layout->tabs;
    const char *badge = ui->paused ? " PAUSED " : ui->recording ? " REC " : "";
    char right[256], part[SOURCE_NAME_BYTES + 8];
    snprintf(right, sizeof right, "%s", ui->origin);
    if (ui->refresh >= 0) {
        snprintf(right, sizeof right, "%s%s%d/s", ui->origin, ui->origin[0] ? "  " : "",
                 (int)ui_refresh_hz[ui->refresh]);
    }
    int32_t col = put_tabs(cells, line, ui, cells_width(right) + cells_width(badge) + 1);
    int32_t method = ui_method(ui, state), space = line.cols - col - 2;
    if (method >= 0) {
        struct method_summary summary;
        state_method(state, method, &summary);
        const char *const facts[] = {summary.source.model, summary.source.backend};
        for (int i = 0; i < 2; i++) {
            snprintf(part, sizeof part, "%s  ", facts[i]);
            if (cells_width(part) + cells_width(right) + cells_width(badge) <= space) {
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
    if (end - col >= cells_width(badge)) {
        cells_text_right(cells, line, 0, end, (struct pen){ROLE_WARN, ATTRIBUTE_REVERSE | ATTRIBUTE_BOLD}, badge);
    }
}

// The line that is typed, with its cursor.
static void draw_input(struct cells *cells, struct rect line, const struct ui *ui)
{
    char prompt[64] = "/";
    if (ui->input.mode == INPUT_COMMAND) {
        strcpy(prompt, ":");
    } else if (ui->input.mode == INPUT_VALUE) {
        snprintf(prompt, sizeof prompt, "%s = ", ui->whatif ? knob_name((enum knob)ui->whatif->knob) : "");
    }
    int32_t col = cells_text(cells, line, 0, 1, key_pen, prompt);
    int32_t hidden = ui->input.cursor - (line.cols - col - 2);    // a long line shows its end
    hidden = hidden > 0 ? hidden : 0;
    cells_text(cells, line, 0, col, text_pen, ui->input.text + hidden);
    int32_t at = ui->input.cursor;
    char under = at < ui->input.length ? ui->input.text[at] : ' ';
    cells_put(cells, line, 0, col + at - hidden, (uint32_t)under, (struct pen){ROLE_TEXT, ATTRIBUTE_REVERSE});
}

struct hint {
    const char *key, *does;
};

static const struct hint general_hints[] = {
    {"q", "quit"}, {"?", "help"}, {"Tab", "view"}, {"p", "pause"}, {"m", "method"}, {"b", "baseline"},
    {"f", "phase"}, {"<>", "sort"}, {"R", "reverse"}, {"+-", "rate"}, {NULL, NULL},
}, compare_hints[] = {
    {"q", "quit"}, {"?", "help"}, {"Tab", "view"}, {"v", "curves"}, {"m", "method"}, {"b", "baseline"}, {"f", "phase"},
    {"<>", "sort"}, {"R", "reverse"}, {"/", "filter"}, {"p", "pause"}, {NULL, NULL},
}, stages_hints[] = {
    {"q", "quit"}, {"?", "help"}, {"Tab", "view"}, {"left right", "stage"}, {"Enter", "slowest"}, {"d", "kernels"},
    {"/", "filter"}, {"<>", "sort"}, {"R", "reverse"}, {"f", "phase"}, {"m", "method"}, {"p", "pause"}, {NULL, NULL},
}, timeline_hints[] = {
    {"q", "quit"}, {"?", "help"}, {"Tab", "view"}, {"+-", "zoom"}, {"<>", "pan"}, {"arrows", "select"},
    {"w", "slowest"}, {"/", "search"}, {"Enter", "zoom in"}, {"Esc", "all"}, {"End", "follow"}, {NULL, NULL},
}, roofline_hints[] = {
    {"q", "quit"}, {"?", "help"}, {"Tab", "view"}, {"j k", "stage"}, {"f", "phase"}, {"m", "method"},
    {"p", "pause"}, {NULL, NULL},
}, whatif_hints[] = {
    {"q", "quit"}, {"?", "help"}, {"arrows", "knobs"}, {"Enter", "type"}, {"a", "pin"}, {"d", "unpin"},
    {"w", "simulate"}, {"P", "plan"}, {"x", "cancel"}, {"c", "copy shown"}, {NULL, NULL},
}, routing_hints[] = {
    {"q", "quit"}, {"?", "help"}, {"Tab", "view"}, {"u", "blocks"}, {"c", "coverage"}, {"j k", "layers"},
    {"m", "method"}, {"p", "pause"}, {NULL, NULL},
}, requests_hints[] = {
    {"q", "quit"}, {"?", "help"}, {"Tab", "view"}, {"j k", "select"}, {"Enter", "timeline"}, {"<>", "sort"},
    {"R", "reverse"}, {"/", "filter"}, {"p", "pause"}, {NULL, NULL},
};

static const struct hint *hints_of(enum view view)
{
    switch (view) {
    case VIEW_COMPARE: return compare_hints;
    case VIEW_STAGES: return stages_hints;
    case VIEW_TIMELINE: return timeline_hints;
    case VIEW_ROOFLINE: return roofline_hints;
    case VIEW_WHATIF: return whatif_hints;
    case VIEW_REQUESTS: return requests_hints;
    case VIEW_ROUTING: return routing_hints;
    default: return general_hints;
    }
}

static void draw_footer(struct cells *cells, const struct layout *layout, const struct state *state,
                        const struct ui *ui)
{
    struct rect line = layout->footer;
    if (ui->input.mode != INPUT_NONE && ui->input.mode != INPUT_HELP) {
        draw_input(cells, line, ui);
        return;
    }
    int64_t lost = state_lost(state) + ui->dropped;
    char text[INPUT_BYTES + 64] = "";
    int32_t col = 1, end = line.cols - 1;
    if (lost > 0) {
        snprintf(text, sizeof text, "%lld samples lost", (long long)lost);
        cells_text_right(cells, line, 0, end, (struct pen){ROLE_BAD, ATTRIBUTE_BOLD}, text);
        end -= cells_width(text) + 2;
    }
    if (ui->filter[ui->view][0]) {
        snprintf(text, sizeof text, "/%s", ui->filter[ui->view]);
        cells_text_right(cells, line, 0, end, (struct pen){ROLE_WARN, ATTRIBUTE_BOLD}, text);
        end -= cells_width(text) + 2;
    }
    for (const struct hint *hint = hints_of(ui->view); hint->key; hint++) {
        int32_t width = cells_width(hint->key) + 1 + cells_width(hint->does);
        if (col + width > end) {
            break;
        }
        col = cells_text(cells, line, 0, col, key_pen, hint->key);
        col = cells_text(cells, line, 0, col + 1, dim_pen, hint->does) + 2;
    }
}

static int32_t help_rows(const struct ui *ui)
{
    int32_t n = 0;
    for (int32_t i = 0; i < ui_n_keys; i++) {
        n += ui_key_listed(ui, i);
    }
    return n;
}

// Keys of the view first: who asks for help wants to know what is special here.
static void draw_help(struct cells *cells, const struct layout *layout, struct ui *ui)
{
    struct rect rect = layout->help;
    struct rect inside = {rect.row + 1, rect.col + 2, rect.rows - 2, rect.cols - 4};
    int32_t keys_cols = 13, row = 0, n = help_rows(ui);
    char title[INPUT_BYTES + 64];
    cells_fill(cells, rect, ' ', text_pen);
    int32_t most = n > inside.rows ? n - inside.rows : 0;
    ui->help_scroll = ui->help_scroll < most ? ui->help_scroll : most;
    int length = snprintf(title, sizeof title, ui->input.length > 0 ? "Keys with \"%s\"" : "Keys; type to search",
                          ui->input.text);
    if (most > 0) {
        snprintf(title + length, sizeof title - (size_t)length, ", %d-%d of %d", ui->help_scroll + 1,
                 ui->help_scroll + inside.rows, n);
    }
    cells_frame(cells, rect, title);
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < ui_n_keys; i++) {
            if (ui_key_listed(ui, i) && (ui_keys[i].view >= 0) == (pass == 0)) {
                int32_t at = row++ - ui->help_scroll;
                cells_text_fit(cells, inside, at, 0, keys_cols - 1, key_pen, ui_keys[i].keys);
                cells_text_fit(cells, inside, at, keys_cols, inside.cols - keys_cols, text_pen, ui_keys[i].does);
            }
        }
    }
}

static void draw_note(struct cells *cells, const struct layout *layout, const struct state *state, const struct ui *ui)
{
    char note[NOTE_BYTES] = "";
    struct pen pen = {ROLE_TEXT, ATTRIBUTE_BOLD};
    if (ui->message[0]) {
        snprintf(note, sizeof note, "%s", ui->message);
        pen.role = ROLE_WARN;
    } else {
        views[ui->view].note(note, state, ui);
    }
    int32_t width = layout->note.cols - 2, row = 0;
    if (layout->note.rows > 1 && cells_width(note) > width) {    // the first row ends with a word
        int32_t length = width;
        while (length > 0 && note[length] != ' ') {
            length--;
        }
        if (length > 0) {
            note[length] = 0;
            cells_text_fit(cells, layout->note, row++, 1, width, pen, note);
            memmove(note, note + length + 1, strlen(note + length + 1) + 1);
        }
    }
    cells_text_fit(cells, layout->note, row, 1, width, pen, note);
}

void view_draw(struct cells *cells, const struct state *state, struct ui *ui)
{
    struct layout layout;
    layout_compute(&layout, ui->view, cells->rows, cells->cols, view_compare_rows(state), help_rows(ui));
    cells_fill(cells, layout.screen, ' ', text_pen);
    if (layout.too_small) {
        cells_text(cells, layout.screen, 0, 0, text_pen, "terminal too small");
        return;
    }
    draw_tabs(cells, &layout, state, ui);
    views[ui->view].draw(cells, &layout, state, ui);
    if (layout.note.rows > 0) {
        draw_note(cells, &layout, state, ui);
        draw_footer(cells, &layout, state, ui);
    }
    if (ui->help) {
        draw_help(cells, &layout, ui);
    }
}
