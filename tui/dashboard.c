// tui/dashboard.c - the loop: samples, keys, a frame.
#include "tui/dashboard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/status.h"
#include "tui/ansi.h"
#include "tui/draw.h"
#include "tui/export.h"
#include "tui/record.h"
#include "tui/script.h"
#include "tui/views.h"

enum { KEYS_PER_FRAME = 64 };    // a pasted text must not hold up the screen

struct session {
    const struct dashboard_stream *stream;
    const struct dashboard_options *options;
    struct state *state;                  // owned, like all that follows
    struct recorder *recorder;
    struct routing_snapshot *routing;
    struct cells cells;
    struct ui ui;
    struct sample_sink sink;              // the recorder's, which hands on to state
    bool simulating;                      // at the last look
    int64_t heard_ns;                     // when samples came last
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int draw_frame(struct session *session)
{
    const struct dashboard_stream *stream = session->stream;
    struct ui *ui = &session->ui;
    int32_t rows, cols;
    draw_size(&rows, &cols);
    int error = cells_resize(&session->cells, rows, cols);
    if (error) {
        return error;
    }
    session->cells.color = draw_color();
    ui->dropped = stream->dropped ? stream->dropped(stream->user) : 0;
    ui->recording = recorder_active(session->recorder);
    stream->origin(stream->user, ui->origin, sizeof ui->origin);
    view_draw(&session->cells, session->state, ui);
    if (session->options->settings.no_braille && !session->options->settings.ascii) {
        cells_blocks(&session->cells);
    }
    draw_theme(ui->theme);
    draw_cells(&session->cells);
    return 0;
}

// What was done, or why it was not, for the line below the tabs.
static void tell(struct ui *ui, int error, const char *done, const char *path)
{
    if (error) {
        snprintf(ui->message, sizeof ui->message, "%.180s", status_text());
    } else {
        snprintf(ui->message, sizeof ui->message, "%s %.150s", done, path);
    }
}

// The view as it stands: text is drawn as wide as the screen, without its colours.
static void export_shown(struct session *session, const char *path)
{
    struct ui *ui = &session->ui;
    char name[64], *screen = NULL;
    if (!*path) {
        snprintf(name, sizeof name, "clsa-%s.%s", view_name(ui->view), ui->view == VIEW_WHATIF ? "json" : "txt");
        path = name;
    }
    session->cells.color = false;
    view_draw(&session->cells, session->state, ui);
    screen = cells_text_of(&session->cells, session->options->settings.ascii);
    int error = screen ? export_view(path, session->state, ui, screen) : status_fail(-ENOMEM, "out of memory");
    tell(ui, error, "Written:", path);
    free(screen);
}

// A name for a trace, where none was given.
static const char *trace_path(char name[64], const char *given)
{
    struct tm local;
    time_t now = time(NULL);
    if (*given) {
        return given;
    }
    strftime(name, 64, "clsa-%Y%m%d-%H%M%S.pftrace", localtime_r(&now, &local));
    return name;
}

static void toggle_recording(struct session *session, const char *path)
{
    char name[64];
    if (recorder_active(session->recorder)) {
        tell(&session->ui, recorder_stop(session->recorder), "The recording ends with this step.", "");
        return;
    }
    path = trace_path(name, path);
    tell(&session->ui, recorder_start(session->recorder, path), "Recording, until r:", path);
}

static void dump_ring(struct session *session, const char *path)
{
    char name[64];
    path = trace_path(name, path);
    tell(&session->ui, recorder_dump(session->recorder, path), "The last 30 s:", path);
}

static void save_settings(struct session *session)
{
    char path[4096];
    const struct ui *ui = &session->ui;
    struct settings settings = session->options->settings;
    settings.view = ui->view;
    settings.phase = ui->phase;
    settings.refresh = ui->refresh;
    settings.theme = ui->theme;
    int error = settings_path(path, sizeof path);
    error = error ? error : settings_write(&settings, path);
    tell(&session->ui, error, "Settings saved:", path);
}

// Whether figures before and after it do not compare: methods are compared on the same work.
static bool changes_work(const struct request_to_owner *request)
{
    switch (request->command) {
    case COMMAND_BATCH_UP: case COMMAND_BATCH_DOWN: case COMMAND_CONTEXT_UP: case COMMAND_CONTEXT_DOWN: return true;
    case COMMAND_ENGINE: return request->text[0] == 'b' || request->text[0] == 'c' || request->text[0] == 'd';
    default: return false;
    }
}

// Orders to whoever owns the stream; what becomes different is marked in the history.
static void steer(struct session *session, const struct request_to_owner *request)
{
    struct ui *ui = &session->ui;
    char told[MARK_BYTES + 64] = "";
    session->stream->command(session->stream->user, request, &session->sink, told, sizeof told);
    if (told[0] == '!') {
        snprintf(ui->message, sizeof ui->message, "%s", told + 1);
        return;
    }
    if (told[0] && changes_work(request)) {
        state_forget(session->state);
    }
    if (told[0] && request->command == COMMAND_ENGINE && request->text[0] == 'd') {
        state_set_device(session->state, NULL);
    }
    if (told[0]) {
        state_add_mark(session->state, told);
        snprintf(ui->message, sizeof ui->message, "From the next batch on: %.80s", told);
    }
}

// What a key leads to, beyond what is seen.
static void act(struct session *session, const struct request_to_owner *request)
{
    switch (request->command) {
    case COMMAND_NONE: return;
    case COMMAND_EXPORT: export_shown(session, request->text); return;
    case COMMAND_RECORD: toggle_recording(session, request->text); return;
    case COMMAND_DUMP: dump_ring(session, request->text); return;
    case COMMAND_REDRAW: draw_again(); return;
    case COMMAND_SAVE_SETTINGS: save_settings(session); return;
    default: steer(session, request); return;
    }
}

static void press(struct session *session, int32_t key)
{
    struct request_to_owner request;
    if (key == KEY_POINTER) {
        struct pointer pointer = draw_pointer();
        request = ui_pointer(&session->ui, session->state, &pointer);
    } else {
        request = ui_key(&session->ui, session->state, key);
    }
    act(session, &request);
}

// Whether a simulation makes progress that is to be seen; once more after it has ended.
static bool simulating(struct session *session)
{
    struct job_report report;
    whatif_poll(session->ui.whatif, &report);
    bool was = session->simulating;
    session->simulating = report.state == JOB_RUNNING;
    return was || session->simulating;
}

// Whether the device's rates have just become known.
static bool device_known(struct session *session)
{
    const struct dashboard_stream *stream = session->stream;
    if (state_device(session->state) || !stream->device) {
        return false;
    }
    const struct device *device = stream->device(stream->user);
    if (device) {
        state_set_device(session->state, device);
        whatif_offer(session->ui.whatif, device);
    }
    return device != NULL;
}

// Whether a running engine has been silent for another whole second, or no longer is.
static bool silence(struct session *session, int64_t now, bool heard)
{
    struct ui *ui = &session->ui;
    bool runs = (ui->live || (ui->attached && strcmp(ui->origin, "ended") != 0)) && !ui->paused;
    int32_t before = ui->silent_s;
    session->heard_ns = heard || !runs || session->heard_ns == 0 ? now : session->heard_ns;
    ui->silent_s = (int32_t)((now - session->heard_ns) / 1000000000);
    return ui->silent_s != before;
}

// Waits for keys until the frame is over or one came; takes all that wait. True: something may look different.
static bool take_keys(struct session *session, int64_t until_ns)
{
    int32_t rows, cols, new_rows, new_cols;
    bool any = false;
    draw_size(&rows, &cols);
    int64_t wait_ns = until_ns - now_ns();
    int32_t key = draw_key(wait_ns > 0 ? (int32_t)((wait_ns + 999999) / 1000000) : 0);
    for (int i = 0; i < KEYS_PER_FRAME && key != KEY_NONE; i++, key = draw_key(0)) {
        press(session, key);
        any = true;
    }
    draw_size(&new_rows, &new_cols);
    return any || rows != new_rows || cols != new_cols;
}

static int run(struct session *session)
{
    const char *script = session->options->script ? session->options->script : "";
    struct ui *ui = &session->ui;
    bool changed = true;
    int64_t frame_ns = 0;    // when the current frame began
    while (!ui->quit && !draw_interrupted()) {
        int64_t now = now_ns(), period_ns = 1000000000 / ui_refresh_hz[ui->refresh];
        if (now - frame_ns >= period_ns) {
            frame_ns = now;
            int64_t n = session->stream->pump(session->stream->user, now, &session->sink);
            if (n < 0) {
                return (int)n;
            }
            changed = changed || n > 0 || simulating(session);
            changed = silence(session, now, n > 0) || changed;
            changed = device_known(session) || changed;
            changed = (session->stream->notice &&
                       session->stream->notice(session->stream->user, ui->message, sizeof ui->message)) || changed;
            changed = (ui->routing && routing_get(session->options->routing, session->routing)) || changed;
            for (; *script && !ui->quit; changed = true) {
                press(session, script_next(&script));
            }
        }
        int error = changed ? draw_frame(session) : 0;
        if (error) {
            return error;
        }
        changed = take_keys(session, frame_ns + period_ns);
    }
    return 0;
}

static int open_session(struct session *session)
{
    const struct dashboard_options *options = session->options;
    const struct settings *settings = &options->settings;
    struct ui *ui = &session->ui;
    *ui = ui_default();
    ui->view = settings->view;
    ui->phase = settings->phase;
    ui->refresh = settings->refresh;
    ui->theme = settings->theme;
    ui->live = options->live;
    ui->attached = options->attached;
    ui->beside = options->beside;
    ui->timeline = timeline_look_default(options->live || options->attached);
    if (options->routing) {
        session->routing = calloc(1, sizeof *session->routing);
        ui->routing = session->routing;
    }
    int error = state_open(&session->state, options->device);
    error = error ? error : whatif_open(&ui->whatif, options->device);
    if (error) {
        return error;
    }
    struct sample_sink to_state = state_sink(session->state);
    error = recorder_open(&session->recorder, &to_state);
    if (error) {
        return error;
    }
    session->sink = recorder_sink(session->recorder);
    return draw_open(&(struct draw_options){settings->ascii, options->no_color, settings->mouse});
}

int dashboard_run(const struct dashboard_stream *stream, const struct dashboard_options *options)
{
    struct session session = {.stream = stream, .options = options};
    int error = open_session(&session);
    error = error ? error : run(&session);
    draw_close();
    int recorded = recorder_close(session.recorder);
    cells_close(&session.cells);
    whatif_close(session.ui.whatif);
    state_close(session.state);
    free(session.routing);
    return error ? error : recorded;
}

// A screen that is printed shows what a simulation found, not its progress.
static void finish_job(struct whatif *whatif)
{
    struct job_report report;
    struct timespec moment = {.tv_nsec = 5000000};
    for (whatif_poll(whatif, &report); report.state == JOB_RUNNING; whatif_poll(whatif, &report)) {
        nanosleep(&moment, NULL);
    }
}

int dashboard_snapshot(char **out, const struct state *state, const struct ui *ui,
                       const struct snapshot_options *options)
{
    struct cells cells = {.color = options->color};
    struct ui copy = *ui;
    const char *script = options->script;
    *out = NULL;
    int error = whatif_open(&copy.whatif, state_device(state));
    while (!error && script && *script) {
        ui_key(&copy, state, script_next(&script));
        finish_job(copy.whatif);
    }
    copy.refresh = -1;
    error = error ? error : cells_resize(&cells, options->rows, options->cols);
    if (!error) {
        view_draw(&cells, state, &copy);
        if (options->no_braille && !options->ascii) {
            cells_blocks(&cells);
        }
        *out = options->color ? ansi_of(&cells, options->ascii, copy.theme) : cells_text_of(&cells, options->ascii);
    }
    cells_close(&cells);
    whatif_close(copy.whatif);
    return error  ? error
           : *out ? 0
                  : status_fail(-ENOMEM, "out of memory for a screen of %d x %d", options->cols, options->rows);
}
