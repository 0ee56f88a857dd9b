// tui/commands.c - the commands.
#include "tui/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tui/theme.h"

typedef bool handler(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request);
// The n-th word that may stand as the argument; NULL: no more.
typedef const char *candidate(const struct state *state, int32_t n);

static bool say(struct ui *ui, const char *what, const char *argument)
{
    snprintf(ui->message, sizeof ui->message, "%s: %.100s", what, argument);
    return false;
}

static bool do_quit(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)state, (void)argument, (void)request;
    ui->quit = true;
    return true;
}

static bool do_view(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)state, (void)request;
    if (view_from_name(&ui->view, argument) != 0) {
        return say(ui, "no such view", argument);
    }
    ui->scroll = 0;
    return true;
}

static const char *view_candidate(const struct state *state, int32_t n)
{
    (void)state;
    return n < VIEW_COUNT ? view_name((enum view)n) : NULL;
}

static bool do_phase(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)state, (void)request;
    return phase_from_name(&ui->phase, argument) == 0 || say(ui, "no such phase", argument);
}

static const char *phase_candidate(const struct state *state, int32_t n)
{
    (void)state;
    return n < PHASE_COUNT ? phase_name((enum phase)n) : NULL;
}

static bool do_method(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    int32_t method = state_find_method(state, argument);
    if (method < 0 && strcmp(argument, "all") != 0) {
        return say(ui, "no such method so far", argument);
    }
    ui->pinned = method;
    request->command = COMMAND_METHOD;
    if (method >= 0) {
        snprintf(request->method, sizeof request->method, "%s", argument);
    }
    return true;
}

static bool do_baseline(struct ui *ui, const struct state *state, const char *argument,
                        struct request_to_owner *request)
{
    int32_t method = state_find_method(state, argument);
    (void)request;
    if (method < 0) {
        return say(ui, "no such method so far", argument);
    }
    ui->baseline = method;
    return true;
}

static const char *method_candidate(const struct state *state, int32_t n)
{
    static struct method_summary told;    // its name is read before the next call
    if (n >= state_method_count(state)) {
        return NULL;
    }
    state_method(state, n, &told);
    return told.source.method;
}

static bool do_filter(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)state, (void)request;
    snprintf(ui->filter[ui->view], INPUT_BYTES, "%s", argument);
    ui->scroll = 0;
    return true;
}

static bool do_step(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    char text[INPUT_BYTES + 8];
    (void)request;
    snprintf(text, sizeof text, "step %s", argument);
    if (!timeline_look_search(&ui->timeline, state_timeline(state), text, 1)) {
        return say(ui, "no such step", argument);
    }
    ui->view = VIEW_TIMELINE;
    return true;
}

static bool do_rate(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)state, (void)request;
    for (int32_t i = 0; i < UI_REFRESHES; i++) {
        if (atoi(argument) == ui_refresh_hz[i]) {
            ui->refresh = i;
            return true;
        }
    }
    return say(ui, "redraws a second: 1, 2, 5, 10, 20 or 30, not", argument);
}

static bool do_export(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)ui, (void)state;
    request->command = COMMAND_EXPORT;
    snprintf(request->text, sizeof request->text, "%s", argument);
    return true;
}

static bool do_record(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)ui, (void)state;
    request->command = COMMAND_RECORD;
    snprintf(request->text, sizeof request->text, "%s", argument);
    return true;
}

static bool do_dump(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)ui, (void)state;
    request->command = COMMAND_DUMP;
    snprintf(request->text, sizeof request->text, "%s", argument);
    return true;
}

// A knob of the running engine: "k 512".
static bool set_engine(struct ui *ui, const char *knob, const char *argument, struct request_to_owner *request)
{
    if (!ui->live) {
        return say(ui, "no engine runs here that could be told", knob);
    }
    request->command = COMMAND_ENGINE;
    snprintf(request->text, sizeof request->text, "%s %.64s", knob, argument);
    return true;
}

#define DO_ENGINE(function, knob)                                                                                      \
    static bool function(struct ui *ui, const struct state *state, const char *argument,                               \
                         struct request_to_owner *request)                                                             \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        return set_engine(ui, knob, argument, request);                                                                \
    }
DO_ENGINE(do_k, "k")
DO_ENGINE(do_batch, "batch")
DO_ENGINE(do_context, "context")
DO_ENGINE(do_index_every, "index-every")
DO_ENGINE(do_device, "device")

static const char *device_candidate(const struct state *state, int32_t n)
{
    static const char *const names[] = {"cpu", "cuda", "reference"};
    (void)state;
    return n < 3 ? names[n] : NULL;
}

static bool do_theme(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)state, (void)request;
    int32_t theme = theme_find(argument);
    if (theme < 0) {
        return say(ui, "no such theme", argument);
    }
    ui->theme = theme;
    return true;
}

static const char *theme_candidate(const struct state *state, int32_t n)
{
    (void)state;
    return n < THEME_COUNT ? theme_name(n) : NULL;
}

static bool do_save(struct ui *ui, const struct state *state, const char *argument, struct request_to_owner *request)
{
    (void)ui, (void)state, (void)argument;
    request->command = COMMAND_SAVE_SETTINGS;
    return true;
}

static const struct {
    const char *name;
    handler *run;
    candidate *arguments;
    bool needs_argument;
} commands[] = {
    {"view", do_view, view_candidate, true}, {"method", do_method, method_candidate, true},
    {"baseline", do_baseline, method_candidate, true}, {"phase", do_phase, phase_candidate, true},
    {"filter", do_filter, NULL, false}, {"step", do_step, NULL, true}, {"rate", do_rate, NULL, true},
    {"theme", do_theme, theme_candidate, true}, {"export", do_export, NULL, false},
    {"k", do_k, NULL, true}, {"batch", do_batch, NULL, true}, {"context", do_context, NULL, true},
    {"index-every", do_index_every, NULL, true}, {"device", do_device, device_candidate, true},
    {"record", do_record, NULL, false}, {"dump", do_dump, NULL, false}, {"save", do_save, NULL, false},
    {"quit", do_quit, NULL, false},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

const struct command_help command_helps[] = {
    {":view NAME", "another view"}, {":method NAME", "that one; all: in turn"}, {":baseline NAME", "of speed-ups"},
    {":phase NAME", "decode, prefill, mixed"}, {":filter TEXT", "as /; none: all"}, {":step N", "on the timeline"},
    {":rate N", "redraws a second"}, {":theme NAME", "colours"}, {":export FILE", ".txt, .csv or .json"},
    {":k N", "selected tokens; :batch, :context, :index-every"}, {":device NAME", "that runs the engine"},
    {":record FILE", "a trace, until r"}, {":dump FILE", "the last 30 s"}, {":save", "settings, for next time"},
};
const int32_t command_n_helps = (int32_t)(sizeof command_helps / sizeof command_helps[0]);

bool command_execute(struct ui *ui, const struct state *state, const char *line, struct request_to_owner *request)
{
    size_t length = strcspn(line, " "), found = N_COMMANDS;
    const char *argument = line + length + strspn(line + length, " ");
    for (size_t i = 0; i < N_COMMANDS; i++) {    // a beginning is enough: the first that fits, "q" for quit
        if (strncmp(commands[i].name, line, length) == 0 && length > 0 &&
            (found == N_COMMANDS || strlen(commands[i].name) == length)) {
            found = i;
        }
    }
    if (length == 0) {
        return true;
    }
    if (found == N_COMMANDS) {
        return say(ui, "no such command", line);
    }
    if (commands[found].needs_argument && !*argument) {
        return say(ui, "an argument is missing", commands[found].name);
    }
    return commands[found].run(ui, state, argument, request);
}

static const char *command_candidate(const struct state *state, int32_t n)
{
    (void)state;
    return n < (int32_t)N_COMMANDS ? commands[n].name : NULL;
}

void command_complete(struct ui *ui, const struct state *state)
{
    struct input *input = &ui->input;
    char *space = strchr(input->text, ' '), *word = space ? space + 1 : input->text, common[INPUT_BYTES] = "";
    candidate *words = command_candidate;
    int32_t n = 0;
    for (size_t i = 0; space && i < N_COMMANDS; i++) {
        if (strncmp(commands[i].name, input->text, (size_t)(space - input->text)) == 0) {
            words = commands[i].arguments;
            break;
        }
    }
    size_t length = strlen(word), told = 0;
    const char *text;
    for (int32_t i = 0; words && (text = words(state, i)) != NULL; i++) {
        if (strncmp(text, word, length) != 0) {
            continue;
        }
        if (n++ == 0) {
            snprintf(common, sizeof common, "%s", text);
        }
        size_t same = 0;
        while (common[same] && common[same] == text[same]) {
            same++;
        }
        common[same] = 0;
        if (told < sizeof ui->message) {
            told += (size_t)snprintf(ui->message + told, sizeof ui->message - told, "%s  ", text);
        }
    }
    if (n == 1) {
        ui->message[0] = 0;
    }
    if (n > 0 && (size_t)(word - input->text) + strlen(common) + 2 < INPUT_BYTES) {
        strcpy(word, common);
        strcat(input->text, n == 1 && !space ? " " : "");
        input->length = input->cursor = (int32_t)strlen(input->text);
    }
}
