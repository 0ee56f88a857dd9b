// tui/keys.c - keys.
#include "tui/keys.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/status.h"
#include "tui/commands.h"
#include "tui/view_keys.h"

const int32_t ui_refresh_hz[UI_REFRESHES] = {1, 2, 5, 10, 20, 30};
enum { REFRESH_DEFAULT = 3, PAGE_LINES = 10 };

const struct ui_key_help ui_keys[] = {
    {"q, F10", "quit", -1, false},
    {"?, h, F1", "these keys; type to search, Esc closes", -1, false},
    {"Tab, 1 - 8", "views", -1, false},
    {"p, s", "pause; then one step", -1, false},
    {"m", "next method, then all", -1, false},
    {"b", "next baseline", -1, false},
    {"f", "decode or prefill", -1, false},
    {"< > R", "sort, reverse", -1, false},
    {"r", "record a trace; again: end it", -1, false},
    {"D", "the last 30 s to a trace", -1, false},
    {"e", "the view to a file; :export names it", -1, false},
    {":", "a command, completed by Tab", -1, false},
    {"mouse", "tabs, scroll, select", -1, false},
    {"j k, arrows", "scroll", -1, false},
    {"+ -", "redraw more, less often", -1, false},
    {"Ctrl-L", "redraw everything now", -1, false},
    {"left, right", "select a stage", VIEW_STAGES, false},
    {"Enter", "its slowest on the timeline", VIEW_STAGES, false},
    {"d, Esc", "its kernels; back", VIEW_STAGES, false},
    {"/", "only stages whose name holds a text", VIEW_STAGES, false},
    {"/", "only methods whose name holds a text", VIEW_COMPARE, false},
    {"v", "curves over context, over batch; bars", VIEW_COMPARE, false},
    {"] [", "double, halve top k", -1, true},
    {"} {", "double, halve the batch", -1, true},
    {") (", "double, halve the context", -1, true},
    {"i", "layers that share an index: 1, 2, 4, ...", -1, true},
    {"left, right", "select the next block", VIEW_TIMELINE, false},
    {"up, down", "select a track", VIEW_TIMELINE, false},
    {"+ -, Enter", "zoom; to the selection", VIEW_TIMELINE, false},
    {"< >, PgUp", "pan by a quarter, a screen", VIEW_TIMELINE, false},
    {"Home, End", "first step; follow the newest", VIEW_TIMELINE, false},
    {"Esc", "see everything; again: select nothing", VIEW_TIMELINE, false},
    {"w", "slowest step; again: the next", VIEW_TIMELINE, false},
    {"/ n N", "search a stage, phase, method, step", VIEW_TIMELINE, false},
    {"A", "align other traces with the selected step", VIEW_TIMELINE, false},
    {"j k, arrows", "select a stage", VIEW_ROOFLINE, false},
    {"up, down", "select a knob", VIEW_WHATIF, false},
    {"left, right", "next choice; halve, double", VIEW_WHATIF, false},
    {"Enter", "type a value: 128K, a name's beginning", VIEW_WHATIF, false},
    {"a, d", "pin the scenario; unpin the last", VIEW_WHATIF, false},
    {"c", "take over what is shown", VIEW_WHATIF, false},
    {"w, x", "simulate the workload; cancel", VIEW_WHATIF, false},
    {"P", "find the smallest fleet within the limits", VIEW_WHATIF, false},
    {"c", "what selections hold of dense attention: slower steps", VIEW_ROUTING, true},
    {"u", "the tokens, or blocks that would hold most of them", VIEW_ROUTING, true},
    {"j k, arrows", "select a request", VIEW_REQUESTS, false},
    {"Enter", "its timeline", VIEW_REQUESTS, false},
    {"/", "only a method, a state, a number", VIEW_REQUESTS, false},
};
const int32_t ui_n_keys = (int32_t)(sizeof ui_keys / sizeof ui_keys[0]);

bool ui_key_listed(const struct ui *ui, int32_t index)
{
    const struct ui_key_help *help = &ui_keys[index];
    const char *typed = ui->input.mode == INPUT_HELP ? ui->input.text : "";
    return (!help->live_only || ui->live) && (help->view < 0 || help->view == (int32_t)ui->view) &&
           (strcasestr(help->keys, typed) || strcasestr(help->does, typed));
}

static const struct { const char *name, *title; } views[VIEW_COUNT] = {
    [VIEW_OVERVIEW] = {"overview", "Overview"}, [VIEW_COMPARE] = {"compare", "Compare"},
    [VIEW_STAGES] = {"stages", "Stages"}, [VIEW_TIMELINE] = {"timeline", "Timeline"},
    [VIEW_ROOFLINE] = {"roofline", "Roofline"}, [VIEW_WHATIF] = {"what-if", "What-if"},
    [VIEW_REQUESTS] = {"requests", "Requests"}, [VIEW_ROUTING] = {"routing", "Routing"},
};

const char *view_name(enum view view)
{
    return views[view].name;
}

const char *view_title(enum view view)
{
    return views[view].title;
}

const char *view_names(void)
{
    return "overview, compare, stages, timeline, roofline, what-if, requests, routing";
}

int view_from_name(enum view *out, const char *name)
{
    for (int view = 0; view < VIEW_COUNT; view++) {
        if (strcmp(name, views[view].name) == 0) {
            *out = (enum view)view;
            return 0;
        }
    }
    return status_fail(-EINVAL, "%s: no such view; there are %s", name, view_names());
}

struct ui ui_default(void)
{
    return (struct ui){.phase = PHASE_DECODE, .pinned = -1, .baseline = -1, .refresh = REFRESH_DEFAULT,
                       .timeline = timeline_look_default(false), .stage = -1, .request = -1};
}

static bool same_method(const struct state *state, int32_t a, int32_t b)
{
    struct method_summary first, second;
    state_method(state, a, &first);
    state_method(state, b, &second);
    return strcmp(first.source.method, second.source.method) == 0;
}

int32_t ui_method(const struct ui *ui, const struct state *state)
{
    int32_t n = state_method_count(state), current = state_current_method(state);
    if (ui->pinned < 0 || ui->pinned >= n) {
        return current;
    }
    // A live engine is told names: where k changed, the variant that runs now is the one to look at.
    return ui->live && current >= 0 && same_method(state, ui->pinned, current) ? current : ui->pinned;
}

int32_t ui_baseline(const struct ui *ui, const struct state *state)
{
    int32_t n = state_method_count(state), dense = state_find_method(state, "dense");
    if (ui->baseline >= 0 && ui->baseline < n) {
        return ui->baseline;
    }
    return dense >= 0 ? dense : n > 0 ? 0 : -1;
}

static void show(struct ui *ui, enum view view)
{
    ui->view = view;
    ui->scroll = 0;
}

// Whether a live engine would be told the same name as for an earlier method.
static bool is_variant(const struct state *state, int32_t method)
{
    for (int32_t i = 0; i < method; i++) {
        if (same_method(state, i, method)) {
            return true;
        }
    }
    return false;
}

static struct request_to_owner next_method(struct ui *ui, const struct state *state)
{
    struct request_to_owner request = {.command = COMMAND_METHOD};
    int32_t n = state_method_count(state), next = ui->pinned + 1;
    while (ui->live && next < n && is_variant(state, next)) {
        next++;
    }
    ui->pinned = next < n ? next : -1;
    if (ui->pinned >= 0) {
        struct method_summary method;
        state_method(state, ui->pinned, &method);
        memcpy(request.method, method.source.method, sizeof request.method);
    }
    return request;
}

static void scroll_by(struct ui *ui, int32_t lines)
{
    ui->scroll = ui->scroll + lines > 0 ? ui->scroll + lines : 0;
}

// Keys that lead to another view, or out. False: the key is none of them.
static bool go(struct ui *ui, int32_t key)
{
    switch (key) {
    case 'q': case KEY_QUIT: ui->quit = true; return true;
    case '?': case 'h': case KEY_HELP_ME:
        ui->help = true;
        ui->help_scroll = 0;
        input_begin(&ui->input, INPUT_HELP, "");
        return true;
    case '\t': show(ui, (enum view)((ui->view + 1) % VIEW_COUNT)); return true;
    case KEY_BACK_TAB: show(ui, (enum view)((ui->view + VIEW_COUNT - 1) % VIEW_COUNT)); return true;
    default:
        if (key >= '1' && key < '1' + VIEW_COUNT) {
            show(ui, (enum view)(key - '1'));
            return true;
        }
        return false;
    }
}

// Keys that only change what is seen. False: the key is none of them.
static bool look(struct ui *ui, const struct state *state, int32_t key)
{
    switch (key) {
    case 'b': ui->baseline = state_method_count(state) > 0 ?
                             (ui_baseline(ui, state) + 1) % state_method_count(state) : -1; return true;
    case 'f': ui->phase = ui->phase == PHASE_DECODE ? PHASE_PREFILL : PHASE_DECODE; return true;
    case '<': ui->sort[ui->view] -= ui->sort[ui->view] > 0; return true;
    case '>': ui->sort[ui->view]++; return true;
    case 'R': ui->reverse = !ui->reverse; return true;
    case 'j': case KEY_ARROW_DOWN: scroll_by(ui, 1); return true;
    case 'k': case KEY_ARROW_UP: scroll_by(ui, -1); return true;
    case KEY_PAGE_FORWARD: scroll_by(ui, PAGE_LINES); return true;
    case KEY_PAGE_BACK: scroll_by(ui, -PAGE_LINES); return true;
    case '+': ui->refresh += ui->refresh + 1 < UI_REFRESHES; return true;
    case '-': ui->refresh -= ui->refresh > 0; return true;
    default: return false;
    }
}

static void type_help(struct ui *ui, int32_t key)
{
    switch (key) {
    case KEY_ARROW_UP: ui->help_scroll -= ui->help_scroll > 0; return;
    case KEY_ARROW_DOWN: ui->help_scroll++; return;
    default: break;
    }
    enum input_result result = key == '?' || key == KEY_HELP_ME ? INPUT_CANCELLED : input_key(&ui->input, key);
    ui->help_scroll = result == INPUT_TYPED ? 0 : ui->help_scroll;
    if (result == INPUT_DONE || result == INPUT_CANCELLED) {
        ui->help = false;
        input_end(&ui->input);
    }
}

// What is typed works while it is typed; Escape takes it away.
static void type_text(struct ui *ui, const struct state *state, int32_t key)
{
    enum input_result result = input_key(&ui->input, key);
    view_typing(ui, result == INPUT_CANCELLED);
    if (result == INPUT_DONE) {
        view_typed(ui, state);
    }
    if (result == INPUT_DONE || result == INPUT_CANCELLED) {
        input_end(&ui->input);
    }
}

static void type_command(struct ui *ui, const struct state *state, int32_t key, struct request_to_owner *request)
{
    if (key == '\t') {
        command_complete(ui, state);
        return;
    }
    enum input_result result = input_key(&ui->input, key);
    if (result == INPUT_DONE || result == INPUT_CANCELLED) {
        struct input typed = ui->input;
        input_end(&ui->input);
        if (result == INPUT_DONE) {
            command_execute(ui, state, typed.text, request);
        }
    }
}

static struct request_to_owner order(struct ui *ui, const struct state *state, int32_t key)
{
    struct request_to_owner request = {.command = COMMAND_NONE};
    if (ui->attached && (key == 'p' || key == ' ' || key == 's')) {
        snprintf(ui->message, sizeof ui->message, "The engine works for whoever started it: no pause from here.");
        return request;
    }
    if (!ui->live && key > 0 && key < 0x7f && strchr("][}{)(i", key)) {
        snprintf(ui->message, sizeof ui->message, ui->attached ? "The engine works for whoever started it."
                                                               : "A recording is as it was: no engine to steer.");
        return request;
    }
    switch (key) {
    case 'p': case ' ':
        ui->paused = !ui->paused;
        request.command = ui->paused ? COMMAND_PAUSE : COMMAND_RESUME;
        break;
    case 'r': request.command = COMMAND_RECORD; break;
    case 'D': request.command = COMMAND_DUMP; break;
    case 'e': request.command = COMMAND_EXPORT; break;
    case 's': request.command = ui->paused ? COMMAND_STEP : COMMAND_NONE; break;
    case 'm': request = next_method(ui, state); break;
    case ']': request.command = ui->live ? COMMAND_K_UP : COMMAND_NONE; break;
    case '[': request.command = ui->live ? COMMAND_K_DOWN : COMMAND_NONE; break;
    case '}': request.command = ui->live ? COMMAND_BATCH_UP : COMMAND_NONE; break;
    case 'c': request.command = ui->live && ui->view == VIEW_ROUTING ? COMMAND_COVERAGE : COMMAND_NONE; break;
    case '{': request.command = ui->live ? COMMAND_BATCH_DOWN : COMMAND_NONE; break;
    case ')': request.command = ui->live ? COMMAND_CONTEXT_UP : COMMAND_NONE; break;
    case '(': request.command = ui->live ? COMMAND_CONTEXT_DOWN : COMMAND_NONE; break;
    case 'i': request.command = ui->live ? COMMAND_INDEX_SHARING : COMMAND_NONE; break;
    default: break;
    }
    return request;
}

struct request_to_owner ui_key(struct ui *ui, const struct state *state, int32_t key)
{
    struct request_to_owner request = {.command = COMMAND_NONE};
    if (key == KEY_NONE) {
        return request;
    }
    ui->message[0] = 0;
    if (key == KEY_QUIT) {
        ui->quit = true;
    } else if (key == 'L' - '@') {
        request.command = COMMAND_REDRAW;
    } else if (ui->help) {
        type_help(ui, key);
    } else if (ui->input.mode == INPUT_COMMAND) {
        type_command(ui, state, key, &request);
    } else if (ui->input.mode != INPUT_NONE) {
        type_text(ui, state, key);
    } else if (key == ':') {
        input_begin(&ui->input, INPUT_COMMAND, "");
    } else if (key == '/' && view_has_filter(ui->view)) {
        input_begin(&ui->input, INPUT_FILTER, "");
    } else if (!go(ui, key) && !view_key(ui, state, key) && !look(ui, state, key)) {
        request = order(ui, state, key);
    }
    return request;
}

static void turn_wheel(struct ui *ui, const struct state *state, bool up)
{
    enum { WHEEL_LINES = 3 };
    if (ui->help) {
        ui->help_scroll = up ? (ui->help_scroll > 0 ? ui->help_scroll - 1 : 0) : ui->help_scroll + 1;
    } else if (ui->view == VIEW_TIMELINE) {
        timeline_look_zoom(&ui->timeline, state_timeline(state), up ? 0.5 : 2);
    } else {
        for (int i = 0; i < (ui->view == VIEW_WHATIF ? 1 : WHEEL_LINES); i++) {
            ui_key(ui, state, up ? KEY_ARROW_UP : KEY_ARROW_DOWN);
        }
    }
}

// Selects what lies under the pointer on the timeline.
static void point_at_timeline(struct ui *ui, const struct state *state, const struct pointer *pointer)
{
    struct rect area = ui->timeline_columns;
    int32_t col = pointer->col - area.col, track = pointer->row - area.row - 1 - ui->timeline_request_rows;
    if (col < 0 || col >= area.cols || track < 0 || pointer->row >= area.row + area.rows) {
        return;
    }
    track += track >= TRACK_LAYERS ? ui->timeline.scroll : 0;
    if (track < TRACK_LAYERS + timeline_layers(state_timeline(state))) {
        ui->timeline.track = track;
        timeline_look_at(&ui->timeline, state_timeline(state), (col + 0.5) / area.cols);
    }
}

struct request_to_owner ui_pointer(struct ui *ui, const struct state *state, const struct pointer *pointer)
{
    struct request_to_owner request = {.command = COMMAND_NONE};
    ui->message[0] = 0;
    if (pointer->action == POINTER_WHEEL_UP || pointer->action == POINTER_WHEEL_DOWN) {
        turn_wheel(ui, state, pointer->action == POINTER_WHEEL_UP);
    } else if (pointer->action == POINTER_PRESS && ui->help) {
        ui->help = false;
        input_end(&ui->input);
    } else if (pointer->action == POINTER_PRESS && pointer->row == 0) {
        for (int view = 0; view < VIEW_COUNT; view++) {
            if (pointer->col < ui->tab_ends[view]) {
                show(ui, (enum view)view);
                break;
            }
        }
    } else if (pointer->action == POINTER_PRESS && ui->view == VIEW_TIMELINE) {
        point_at_timeline(ui, state, pointer);
    }
    return request;
}
