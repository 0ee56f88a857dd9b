// tui/dashboard.c - the loop: samples, keys, a frame.
#include "tui/dashboard.h"

#include <errno.h>
#include <time.h>

#include "engine/status.h"
#include "tui/draw.h"
#include "tui/script.h"
#include "tui/views.h"

enum { KEYS_PER_FRAME = 64 };    // a pasted text must not hold up the screen

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int draw_frame(struct cells *cells, const struct dashboard_stream *stream, const struct state *state,
                      struct ui *ui)
{
    int32_t rows, cols;
    draw_size(&rows, &cols);
    int error = cells_resize(cells, rows, cols);
    if (error) {
        return error;
    }
    cells->color = draw_color();
    ui->dropped = stream->dropped ? stream->dropped(stream->user) : 0;
    stream->origin(stream->user, ui->origin, sizeof ui->origin);
    view_draw(cells, state, ui);
    draw_cells(cells);
    return 0;
}

// What a key leads to, beyond what is seen.
static void press(const struct dashboard_stream *stream, struct state *state, struct ui *ui,
                  const struct sample_sink *sink, int32_t key)
{
    struct request_to_owner request = ui_key(ui, state, key);
    if (request.command != COMMAND_NONE) {
        stream->command(stream->user, &request, sink);
    }
    if (request.command == COMMAND_BATCH_UP || request.command == COMMAND_BATCH_DOWN) {
        state_forget(state);    // methods are compared on the same work
    }
}

// Whether a simulation makes progress that is to be seen; once more after it has ended.
static bool simulating(struct ui *ui)
{
    struct job_report report;
    whatif_job_report(ui->whatif->job, &report);
    bool was = ui->simulating;
    ui->simulating = report.state == JOB_RUNNING;
    return was || ui->simulating;
}

// Waits for keys until the frame is over or one came; takes all that wait. True: something may look different.
static bool take_keys(const struct dashboard_stream *stream, struct state *state, struct ui *ui,
                      const struct sample_sink *sink, int64_t until_ns)
{
    int32_t rows, cols, new_rows, new_cols;
    bool any = false;
    draw_size(&rows, &cols);
    int64_t wait_ns = until_ns - now_ns();
    int32_t key = draw_key(wait_ns > 0 ? (int32_t)((wait_ns + 999999) / 1000000) : 0);
    for (int i = 0; i < KEYS_PER_FRAME && key != KEY_NONE; i++, key = draw_key(0)) {
        press(stream, state, ui, sink, key);
        any = true;
    }
    draw_size(&new_rows, &new_cols);
    return any || rows != new_rows || cols != new_cols;
}

int dashboard_run(const struct dashboard_stream *stream, const struct dashboard_options *options)
{
    struct state *state = NULL;
    struct cells cells = {0};
    struct ui ui = ui_default();
    static struct routing_snapshot routing;    // large, and a process has one dashboard
    ui.routing = options->routing ? &routing : NULL;
    ui.view = options->view;
    ui.live = options->live;
    ui.timeline = timeline_look_default(options->live);
    int error = state_open(&state, options->device);
    error = error ? error : whatif_open(&ui.whatif, options->device);
    error = error ? error : draw_open(&(struct draw_options){options->ascii, options->no_color});
    if (error) {
        whatif_close(ui.whatif);
        state_close(state);
        return error;
    }
    struct sample_sink sink = state_sink(state);
    bool changed = true;
    int64_t frame_ns = 0;    // when the current frame began
    const char *script = options->script ? options->script : "";
    while (!ui.quit && !draw_interrupted()) {
        int64_t now = now_ns(), period_ns = 1000000000 / ui_refresh_hz[ui.refresh];
        if (now - frame_ns >= period_ns) {
            frame_ns = now;
            int64_t n = stream->pump(stream->user, now, &sink);
            if (n < 0) {
                error = (int)n;
                break;
            }
            changed = changed || n > 0 || simulating(&ui);
            changed = (options->routing && routing_get(options->routing, &routing)) || changed;
            for (; *script && !ui.quit; changed = true) {
                press(stream, state, &ui, &sink, script_next(&script));
            }
        }
        error = changed ? draw_frame(&cells, stream, state, &ui) : 0;
        if (error) {
            break;
        }
        changed = take_keys(stream, state, &ui, &sink, frame_ns + period_ns);
    }
    draw_close();
    cells_close(&cells);
    whatif_close(ui.whatif);
    state_close(state);
    return error;
}

int dashboard_snapshot(char **out, const struct state *state, const struct ui *ui, const char *script, int32_t rows,
                       int32_t cols, bool ascii)
{
    struct cells cells = {0};
    struct ui copy = *ui;
    *out = NULL;
    int error = whatif_open(&copy.whatif, state_device(state));
    while (!error && script && *script) {
        ui_key(&copy, state, script_next(&script));
    }
    copy.refresh = -1;
    error = error ? error : cells_resize(&cells, rows, cols);
    if (!error) {
        view_draw(&cells, state, &copy);
        *out = cells_text_of(&cells, ascii);
    }
    cells_close(&cells);
    whatif_close(copy.whatif);
    return error ? error : *out ? 0 : status_fail(-ENOMEM, "out of memory for a screen of %d x %d", cols, rows);
}
