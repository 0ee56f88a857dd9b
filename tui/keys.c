// tui/keys.c - keys.
#include "tui/keys.h"

#include <errno.h>
#include <string.h>

#include "engine/status.h"

const int32_t ui_refresh_hz[UI_REFRESHES] = {1, 2, 5, 10, 20, 30};
enum { REFRESH_DEFAULT = 3, PAGE_LINES = 10 };

const struct ui_key_help ui_keys[] = {
    {"q, F10", "quit", false},
    {"?, h, F1", "these keys; any closes", false},
    {"Tab, 1 2 3", "views", false},
    {"p, s", "pause; then one step", false},
    {"m", "next method, then all", false},
    {"b", "next baseline", false},
    {"f", "decode or prefill", false},
    {"< > r", "sort, reverse", false},
    {"j k, arrows", "scroll", false},
    {"+ -", "redraw more, less often", false},
    {"] [", "double, halve top k", true},
    {"} {", "double, halve the batch", true},
};
const int32_t ui_n_keys = (int32_t)(sizeof ui_keys / sizeof ui_keys[0]);

static const char *const view_names[VIEW_COUNT] = {"overview", "compare", "stages"};

const char *view_name(enum view view)
{
    return view_names[view];
}

int view_from_name(enum view *out, const char *name)
{
    for (int view = 0; view < VIEW_COUNT; view++) {
        if (strcmp(name, view_names[view]) == 0) {
            *out = (enum view)view;
            return 0;
        }
    }
    return status_fail(-EINVAL, "%s: no such view; there are overview, compare and stages", name);
}

struct ui ui_default(void)
{
    return (struct ui){.phase = PHASE_DECODE, .pinned = -1, .baseline = -1, .refresh = REFRESH_DEFAULT};
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

// Keys that only change what is seen. False: the key is none of them.
static bool look(struct ui *ui, const struct state *state, int32_t key)
{
    switch (key) {
    case 'q': case KEY_QUIT: ui->quit = true; return true;
    case '?': case 'h': case KEY_HELP_ME: ui->help = true; return true;
    case '\t': show(ui, (enum view)((ui->view + 1) % VIEW_COUNT)); return true;
    case KEY_BACK_TAB: show(ui, (enum view)((ui->view + VIEW_COUNT - 1) % VIEW_COUNT)); return true;
    case '1': case '2': case '3': show(ui, (enum view)(key - '1')); return true;
    case 'b': ui->baseline = state_method_count(state) > 0 ?
                             (ui_baseline(ui, state) + 1) % state_method_count(state) : -1; return true;
    case 'f': ui->phase = ui->phase == PHASE_DECODE ? PHASE_PREFILL : PHASE_DECODE; return true;
    case '<': ui->sort[ui->view] -= ui->sort[ui->view] > 0; return true;
    case '>': ui->sort[ui->view]++; return true;
    case 'r': ui->reverse = !ui->reverse; return true;
    case 'j': case KEY_ARROW_DOWN: ui->scroll++; return true;
    case 'k': case KEY_ARROW_UP: ui->scroll -= ui->scroll > 0; return true;
    case KEY_PAGE_FORWARD: ui->scroll += PAGE_LINES; return true;
    case KEY_PAGE_BACK: ui->scroll = ui->scroll > PAGE_LINES ? ui->scroll - PAGE_LINES : 0; return true;
    case '+': ui->refresh += ui->refresh + 1 < UI_REFRESHES; return true;
    case '-': ui->refresh -= ui->refresh > 0; return true;
    default: return false;
    }
}

struct request_to_owner ui_key(struct ui *ui, const struct state *state, int32_t key)
{
    struct request_to_owner request = {COMMAND_NONE, ""};
    if (key == KEY_NONE) {
        return request;
    }
    if (ui->help) {
        ui->help = false;
        return request;
    }
    if (look(ui, state, key)) {
        return request;
    }
    switch (key) {
    case 'p': case ' ':
        ui->paused = !ui->paused;
        request.command = ui->paused ? COMMAND_PAUSE : COMMAND_RESUME;
        break;
    case 's': request.command = ui->paused ? COMMAND_STEP : COMMAND_NONE; break;
    case 'm': request = next_method(ui, state); break;
    case ']': request.command = ui->live ? COMMAND_K_UP : COMMAND_NONE; break;
    case '[': request.command = ui->live ? COMMAND_K_DOWN : COMMAND_NONE; break;
    case '}': request.command = ui->live ? COMMAND_BATCH_UP : COMMAND_NONE; break;
    case '{': request.command = ui->live ? COMMAND_BATCH_DOWN : COMMAND_NONE; break;
    default: break;
    }
    return request;
}
