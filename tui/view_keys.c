// tui/view_keys.c - keys of single views.
#include "tui/view_keys.h"

#include <stdio.h>
#include <string.h>

#include "engine/status.h"
#include "tui/request_list.h"
#include "tui/views.h"
#include "tui/whatif.h"

static void search(struct ui *ui, const struct state *state, int32_t by)
{
    const char *text = ui->filter[VIEW_TIMELINE];
    if (!*text) {
        snprintf(ui->message, sizeof ui->message, "Nothing to search for: / takes a text.");
    } else if (!timeline_look_search(&ui->timeline, state_timeline(state), text, by)) {
        snprintf(ui->message, sizeof ui->message, "%s: no stage, phase, method or step of that name", text);
    }
}

// Other recordings: their step of the selected one's number on it; without a selection the first on the first.
static void align(struct ui *ui, const struct state *state)
{
    const struct timeline *timeline = state_timeline(state);
    const struct timeline_step *step = timeline_look_step(&ui->timeline, timeline);
    if (!ui->beside || ui->beside->n == 0) {
        snprintf(ui->message, sizeof ui->message, "Nothing to align: --replay takes more than one trace.");
    } else if (timeline_first(timeline) < timeline_end(timeline)) {
        int64_t on = step ? ui->timeline.step : timeline_first(timeline);
        beside_align(ui->beside, timeline, on);
        int64_t number = timeline_step(timeline, on)->number;
        snprintf(ui->message, sizeof ui->message, "Aligned at step %lld.", (long long)number);
    }
}

static bool timeline_key(struct ui *ui, const struct state *state, int32_t key)
{
    struct timeline_look *look = &ui->timeline;
    const struct timeline *timeline = state_timeline(state);
    switch (key) {
    case KEY_ARROW_LEFT: timeline_look_move(look, timeline, -1); return true;
    case KEY_ARROW_RIGHT: timeline_look_move(look, timeline, 1); return true;
    case 'k': case KEY_ARROW_UP: timeline_look_track(look, timeline, -1); return true;
    case 'j': case KEY_ARROW_DOWN: timeline_look_track(look, timeline, 1); return true;
    case '+': case '=': timeline_look_zoom(look, timeline, 0.5); return true;
    case '-': timeline_look_zoom(look, timeline, 2); return true;
    case '<': case ',': timeline_look_pan(look, timeline, -0.25); return true;
    case '>': case '.': timeline_look_pan(look, timeline, 0.25); return true;
    case KEY_PAGE_BACK: timeline_look_pan(look, timeline, -1); return true;
    case KEY_PAGE_FORWARD: timeline_look_pan(look, timeline, 1); return true;
    case KEY_TO_BEGIN: timeline_look_to_begin(look, timeline); return true;
    case KEY_TO_END: timeline_look_to_end(look, timeline); return true;
    case KEY_RETURN: timeline_look_enter(look, timeline); return true;
    case KEY_ESCAPE: timeline_look_back(look); return true;
    case 'w': timeline_look_slowest(look, timeline); return true;
    case 'n': search(ui, state, 1); return true;
    case 'N': search(ui, state, -1); return true;
    case 'A': align(ui, state); return true;
    default: return false;
    }
}

static void copy_shown(struct ui *ui, const struct state *state)
{
    struct method_summary told;
    struct phase_summary decode;
    int32_t method = ui_method(ui, state);
    bool copied = false;
    if (method >= 0) {
        state_method(state, method, &told);
        state_phase(state, method, PHASE_DECODE, &decode);
        copied = whatif_copy(ui->whatif, &told.source, decode.n_seqs, told.prompt_tokens);
    }
    snprintf(ui->message, sizeof ui->message,
             copied ? "Taken from what is shown." : "Nothing to take: the model or method shown is not known by name.");
}

static void start_job(struct ui *ui, int start(struct whatif *))
{
    if (start(ui->whatif) != 0) {
        snprintf(ui->message, sizeof ui->message, "%s", status_text());
    }
}

static bool whatif_key(struct ui *ui, const struct state *state, int32_t key)
{
    struct whatif *whatif = ui->whatif;
    if (!whatif) {
        return false;
    }
    switch (key) {
    case 'k': case KEY_ARROW_UP: whatif_select(whatif, -1); return true;
    case 'j': case KEY_ARROW_DOWN: whatif_select(whatif, 1); return true;
    case KEY_ARROW_LEFT: case '-': whatif_change(whatif, -1); return true;
    case KEY_ARROW_RIGHT: case '+': case '=': whatif_change(whatif, 1); return true;
    case KEY_RETURN:
        ui->before_typing = whatif->now;
        input_begin(&ui->input, INPUT_VALUE, "");
        return true;
    case 'a':
        if (!whatif_pin(whatif)) {
            snprintf(ui->message, sizeof ui->message, "No room for more than %d pinned scenarios.", WHATIF_PINNED);
        }
        return true;
    case 'd': case KEY_REMOVE: whatif_unpin(whatif); return true;
    case 'c': copy_shown(ui, state); return true;
    case 'w': start_job(ui, whatif_simulate); return true;
    case 'P': start_job(ui, whatif_plan); return true;
    case 'x': whatif_job_cancel(whatif->job); return true;
    default: return false;
    }
}

static void select_stage(struct ui *ui, const struct state *state, int32_t by)
{
    struct phase_summary summary;
    enum phase phase;
    if (!view_phase(state, ui, ui_method(ui, state), &phase, &summary)) {
        return;
    }
    int32_t stage = view_selected_stage(ui, &summary);
    for (int32_t n = 0; n < STAGE_COUNT; n++) {
        stage = (stage + by + STAGE_COUNT) % STAGE_COUNT;
        if (summary.stages[stage].window_calls > 0) {
            ui->stage = stage;
            return;
        }
    }
}

// The slowest run of the selected stage, on the timeline; n goes on from there.
static void show_slowest(struct ui *ui, const struct state *state)
{
    struct phase_summary summary;
    enum phase phase;
    struct method_summary told;
    int32_t method = ui_method(ui, state);
    if (!view_phase(state, ui, method, &phase, &summary)) {
        return;
    }
    int32_t stage = view_selected_stage(ui, &summary);
    state_method(state, method, &told);
    if (stage < STAGE_COUNT &&
        timeline_look_slowest_stage(&ui->timeline, state_timeline(state), &told.source, phase, (enum stage)stage)) {
        snprintf(ui->filter[VIEW_TIMELINE], INPUT_BYTES, "%s", stage_name((enum stage)stage));
        ui->view = VIEW_TIMELINE;
        ui->scroll = 0;
    }
}

static bool stages_key(struct ui *ui, const struct state *state, int32_t key)
{
    switch (key) {
    case KEY_ARROW_LEFT: select_stage(ui, state, -1); return true;
    case KEY_ARROW_RIGHT: select_stage(ui, state, 1); return true;
    case KEY_RETURN: show_slowest(ui, state); return true;
    case 'd':
        ui->kernels = !ui->kernels;
        ui->scroll = 0;
        return true;
    case KEY_ESCAPE:
        if (ui->kernels) {
            ui->kernels = false;
            ui->scroll = 0;
            return true;
        }
        return false;
    default: return false;
    }
}

static void select_request(struct ui *ui, const struct state *state, int32_t by)
{
    int64_t rows[REQUEST_LOG_ROWS];
    const struct request_log *log = state_requests(state);
    int32_t n = request_list(log, ui->filter[VIEW_REQUESTS], ui->sort[VIEW_REQUESTS], ui->reverse, rows);
    int32_t at = request_list_find(rows, n, ui->request) + by;
    if (n > 0) {
        ui->request = rows[at < 0 ? 0 : at < n ? at : n - 1];
    }
}

// The timeline of the selected request, from its submission to its end or to now.
static void show_request(struct ui *ui, const struct state *state)
{
    const struct request_log *log = state_requests(state);
    select_request(ui, state, 0);
    if (ui->request < request_log_first(log) || ui->request >= request_log_end(log)) {
        return;
    }
    const struct request_row *row = request_log_row(log, ui->request);
    int64_t end_ns = row->finished_ns >= 0 ? row->finished_ns : state_last_ns(state);
    ui->view = VIEW_TIMELINE;
    ui->scroll = 0;
    timeline_look_show(&ui->timeline, state_timeline(state), row->submitted_ns, end_ns);
}

static bool requests_key(struct ui *ui, const struct state *state, int32_t key)
{
    enum { PAGE = 10 };
    switch (key) {
    case 'k': case KEY_ARROW_UP: select_request(ui, state, -1); return true;
    case 'j': case KEY_ARROW_DOWN: select_request(ui, state, 1); return true;
    case KEY_PAGE_BACK: select_request(ui, state, -PAGE); return true;
    case KEY_PAGE_FORWARD: select_request(ui, state, PAGE); return true;
    case KEY_TO_BEGIN: select_request(ui, state, -REQUEST_LOG_ROWS); return true;
    case KEY_TO_END: select_request(ui, state, REQUEST_LOG_ROWS); return true;
    case KEY_RETURN: show_request(ui, state); return true;
    default: return false;
    }
}

static bool compare_key(struct ui *ui, int32_t key)
{
    if (key == 'v') {
        ui->curves = (enum sweep_over)((ui->curves + 1) % SWEEP_COUNT);
        ui->scroll = 0;
    }
    return key == 'v';
}

static bool routing_key(struct ui *ui, int32_t key)
{
    ui->blocks = key == 'u' ? !ui->blocks : ui->blocks;
    return key == 'u';
}

bool view_has_filter(enum view view)
{
    return view == VIEW_COMPARE || view == VIEW_STAGES || view == VIEW_TIMELINE || view == VIEW_REQUESTS;
}

bool view_key(struct ui *ui, const struct state *state, int32_t key)
{
    switch (ui->view) {
    case VIEW_COMPARE: return compare_key(ui, key);
    case VIEW_STAGES: return stages_key(ui, state, key);
    case VIEW_TIMELINE: return timeline_key(ui, state, key);
    case VIEW_WHATIF: return whatif_key(ui, state, key);
    case VIEW_REQUESTS: return requests_key(ui, state, key);
    case VIEW_ROUTING: return routing_key(ui, key);
    default: return false;
    }
}

void view_typed(struct ui *ui, const struct state *state)
{
    if (ui->input.mode == INPUT_FILTER && ui->view == VIEW_TIMELINE) {
        search(ui, state, 1);
    } else if (ui->input.mode == INPUT_VALUE && ui->input.length > 0 && !whatif_type(ui->whatif, ui->input.text)) {
        snprintf(ui->message, sizeof ui->message, "%s: no value for %s", ui->input.text,
                 knob_name((enum knob)ui->whatif->knob));
    }
}

void view_typing(struct ui *ui, bool ends)
{
    if (ui->input.mode == INPUT_VALUE) {
        whatif_set(ui->whatif, &ui->before_typing);
        if (!ends && ui->input.length > 0) {
            whatif_type(ui->whatif, ui->input.text);
        }
    } else if (ui->input.mode == INPUT_FILTER) {
        memcpy(ui->filter[ui->view], ends ? "" : ui->input.text, ends ? 1 : INPUT_BYTES);
        ui->scroll = 0;
    }
}
