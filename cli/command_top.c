// cli/command_top.c - the dashboard: over a live engine, over a trace, or one view as text.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/measure.h"
#include "cli/top_gauges.h"
#include "cli/top_live.h"
#include "cli/top_rates.h"
#include "engine/status.h"
#include "engine/tokenizer.h"
#include "tui/dashboard.h"
#include "tui/feed.h"
#include "tui/listen.h"
#include "tui/replay.h"
#include "tui/script.h"
#include "tui/theme.h"

enum {
    FEED_EVENTS = 1 << 17,          // 0.6 s of 200 thousand stages a second: far more than a frame
    KERNEL_FEED_EVENTS = 1 << 19,   // kernels come when a buffer of CUPTI's is full: 250 thousand, and their stages
    REPLAY_EVENTS = 250000,         // handed over per frame, so that --speed max leaves the keys alive
    SNAPSHOT_ROWS = 40, SNAPSHOT_COLS = 120
};

struct top {
    const char *model, *methods, *prompt, *text, *device, *sim_device, *attach_path,
        *speed, *snapshot, *script;
    int32_t context, output, batch, chunk, threads, rows, cols;
    struct option_list replays;     // the first is played, others lie beside it on the timeline
    struct beside beside;
    int64_t seed;
    bool ascii, no_braille, color, no_color, no_mouse;
    struct plan_flags flags;
    struct collect_flags collect;
    const char *view, *theme;
    struct settings settings;
    double replay_speed;            // 0: everything at once
    struct top_rates *rates;
    struct top_gauges *gauges;      // of the GPU that the engine runs on; NULL: none
    struct feed *feed;
    struct live *live;
    struct replay *replay;
    struct routing *routing;
    struct attachment *attachment;
    int32_t *tokens, n_tokens;
};

// Repeated up to --context where no prompt is given.
static const char *const default_text =
    "A sparse attention layer reads few of the keys that it could read, and must first "
    "find out which ones are worth it. ";

static int64_t pump_live(void *user, int64_t now_ns, const struct sample_sink *to)
{
    struct top *top = user;
    struct sample_source source;
    if (live_source(top->live, &source)) {
        top_gauges_read(top->gauges, now_ns, source.id, to);
    }
    int64_t n = feed_drain(top->feed, to);
    int error = live_error(top->live);
    return error ? error : n;
}

static void command_live(void *user, const struct request_to_owner *request, const struct sample_sink *to, char *told,
                         size_t told_bytes)
{
    struct top *top = user;
    (void)to;
    live_command(top->live, request, told, told_bytes);
    if (strncmp(told, "device ", 7) == 0) {
        top_rates_forget(top->rates);
        top_gauges_close(top->gauges);
        top->gauges = top_gauges_open(told + 7);
    }
}

static bool notice_live(void *user, char *text, size_t bytes)
{
    return live_notice(((struct top *)user)->live, text, bytes);
}

static int64_t dropped_live(void *user)
{
    return feed_dropped(((struct top *)user)->feed);
}

static void origin_live(void *user, char *text, size_t bytes)
{
    (void)user;
    snprintf(text, bytes, "live");
}

static int64_t pump_replay(void *user, int64_t now_ns, const struct sample_sink *to)
{
    return replay_advance(((struct top *)user)->replay, now_ns, REPLAY_EVENTS, to);
}

static void command_replay(void *user, const struct request_to_owner *request, const struct sample_sink *to, char *told,
                           size_t told_bytes)
{
    (void)told, (void)told_bytes;
    struct replay *replay = ((struct top *)user)->replay;
    if (request->command == COMMAND_PAUSE || request->command == COMMAND_RESUME) {
        replay_pause(replay, request->command == COMMAND_PAUSE);
    } else if (request->command == COMMAND_STEP) {
        replay_step(replay, to);
    }
}

static void origin_replay(void *user, char *text, size_t bytes)
{
    const struct replay *replay = ((struct top *)user)->replay;
    double part = replay_part(replay);
    const char *cut = replay_cut(replay) ? " (cut)" : "";
    if (part < 1) {
        snprintf(text, bytes, "replay%s %.0f%%", cut, 100 * part);
    } else {
        snprintf(text, bytes, "replay%s ended", cut);
    }
}

static int64_t pump_attached(void *user, int64_t now_ns, const struct sample_sink *to)
{
    (void)now_ns;
    return attachment_pump(((struct top *)user)->attachment, to);
}

static void command_attached(void *user, const struct request_to_owner *request, const struct sample_sink *to,
                             char *told, size_t told_bytes)
{
    (void)user, (void)request, (void)to, (void)told, (void)told_bytes;    // the engine works for whoever started it
}

static int64_t dropped_attached(void *user)
{
    return attachment_dropped(((struct top *)user)->attachment);
}

static void origin_attached(void *user, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s", attachment_ended(((struct top *)user)->attachment) ? "ended" : "attached");
}

// Rates that are known only once the samples say where they come from.
static const struct device *device_replay(void *user)
{
    struct top *top = user;
    const struct sample_source *source = replay_first_source(top->replay);
    if (source && (top->replay_speed > 0 || replay_part(top->replay) >= 1)) {    // all at once: first that, then rates
        top_rates_of_source(top->rates, source, true, false);
    }
    return top_rates_known(top->rates);
}

// Of another device than at the start: a GPU's by the table.
static const struct device *device_live(void *user)
{
    struct top *top = user;
    struct sample_source source;
    if (live_source(top->live, &source)) {
        top_rates_of_source(top->rates, &source, false, false);
    }
    return top_rates_known(top->rates);
}

static const struct device *device_attached(void *user)
{
    struct top *top = user;
    const struct sample_source *source = attachment_source(top->attachment);
    if (source) {
        top_rates_of_source(top->rates, source, false, false);
    }
    return top_rates_known(top->rates);
}

static int open_live(struct top *top)
{
    const char *text = top->prompt || top->text ? top->text : default_text;
    struct live_options options = {
        .model = top->model, .methods = top->methods, .device = top->device, .output_tokens = top->output,
        .batch = top->batch, .chunk_tokens = top->chunk, .threads = top->threads, .seed = (uint64_t)top->seed,
        .flags = top->flags,
    };
    int error = collect_resolve(&top->collect, top->device);
    if (!error && top->collect.mode == COLLECT_COUNTERS) {
        error = status_fail(-EINVAL,
                            "--collect counters: the dashboard shows none; use clsa profile, and --replay its trace");
    }
    options.collect = top->collect;
    error = error ? error : routing_open(&top->routing);
    options.routing = top->routing;
    if (!top->prompt && !top->text && top->context == 0) {
        top->context = 2048;
    }
    error = error ? error : command_prompt(&top->tokens, &top->n_tokens, &top->context, top->prompt, text);
    if (error) {
        return error;
    }
    options.text = top->tokens;
    options.n_text = top->n_tokens;
    options.context_tokens = top->context;
    return live_open(&top->live, &options);
}

static void screen_size(const struct top *top, int32_t *rows, int32_t *cols)
{
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0;
    *rows = top->rows > 0 ? top->rows
            : known       ? size.ws_row - 1
                          : SNAPSHOT_ROWS;    // a line for the prompt that follows
    *cols = top->cols > 0 ? top->cols : known ? size.ws_col : SNAPSHOT_COLS;
}

// One view as text, when the trace is over or every method has done a batch.
static int print_snapshot(struct top *top)
{
    struct state *state = NULL;
    struct ui ui = ui_default();
    static struct routing_snapshot routing;    // large, and a process prints one screen
    char *text = NULL;
    int error = top_rates_open(&top->rates, top->sim_device, top->threads);
    error = error || top->replay ? error : open_live(top);
    error = error || top->replay ? error : top_rates_of_engine(top->rates, top->device);
    if (!error && top->replay && replay_first_source(top->replay)) {
        top_rates_of_source(top->rates, replay_first_source(top->replay), true, true);
    }
    error = error ? error : state_open(&state, top_rates_known(top->rates));
    if (error) {
        return error;
    }
    struct sample_sink sink = state_sink(state);
    if (top->replay) {
        replay_all(top->replay, &sink);
        origin_replay(top, ui.origin, sizeof ui.origin);
    } else {
        error = live_run_once(top->live, &sink);
        origin_live(top, ui.origin, sizeof ui.origin);
        ui.live = true;
        ui.routing = routing_get(top->routing, &routing) ? &routing : NULL;
        live_close(top->live);    // before the state that its samples go to
        top->live = NULL;
    }
    if (!error) {
        struct snapshot_options options = {
            .script = top->script, .ascii = top->settings.ascii,
            .no_braille = top->settings.no_braille, .color = top->color,
        };
        screen_size(top, &options.rows, &options.cols);
        ui.view = top->settings.view;
        ui.theme = top->settings.theme;
        ui.beside = &top->beside;
        error = dashboard_snapshot(&text, state, &ui, &options);
    }
    if (!error) {
        fputs(text, stdout);
    }
    free(text);
    state_close(state);
    return error;
}

static int run_dashboard(struct top *top)
{
    struct dashboard_options options = {.settings = top->settings, .no_color = top->no_color,
                                        .script = top->script};
    struct dashboard_stream stream = {
        .user = top, .pump = pump_replay, .command = command_replay, .origin = origin_replay, .device = device_replay};
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        return status_fail(-EINVAL, "standard input or output is no terminal; use --snapshot overview");
    }
    bool live = !top->replay && !top->attachment;
    int error = top_rates_open(&top->rates, top->sim_device, top->threads);
    error = error || !live ? error : open_live(top);
    error = error || !live ? error : top_rates_of_engine(top->rates, top->device);
    if (top->attachment) {
        options.attached = true;
        stream = (struct dashboard_stream){.user = top, .pump = pump_attached, .command = command_attached,
                                           .dropped = dropped_attached, .origin = origin_attached,
                                           .device = device_attached};
    } else if (!error && live) {
        stream = (struct dashboard_stream){
            .user = top, .pump = pump_live, .command = command_live, .dropped = dropped_live, .origin = origin_live,
            .notice = notice_live, .device = device_live};
        options.live = true;
        options.routing = top->routing;
        error = feed_open(&top->feed, top->collect.mode == COLLECT_KERNEL ? KERNEL_FEED_EVENTS : FEED_EVENTS);
        struct sample_sink sink = error ? (struct sample_sink){0} : feed_sink(top->feed);
        error = error ? error : live_start(top->live, &sink);
        top->gauges = error ? NULL : top_gauges_open(top->device);
    }
    options.beside = &top->beside;
    options.device = error ? NULL : top_rates_known(top->rates);
    return error ? error : dashboard_run(&stream, &options);
}

// What was saved; flags go before it. A screen that is printed takes nothing from there: it is for other programs.
static int read_settings(struct top *top)
{
    char path[4096];
    top->settings = settings_default();
    int error = top->snapshot || settings_path(path, sizeof path) != 0 ? 0 : settings_read(&top->settings, path);
    top->settings.ascii = top->settings.ascii || top->ascii;
    top->settings.no_braille = top->settings.no_braille || top->no_braille;
    top->settings.mouse = top->settings.mouse && !top->no_mouse;
    return error;
}

static int check_flags(struct top *top)
{
    char *end;
    int error = read_settings(top);
    const char *view = top->snapshot ? top->snapshot : top->view;
    if (error) {
        return error;
    }
    error = view ? view_from_name(&top->settings.view, view) : 0;
    if (error) {
        return status_prefix(error, top->snapshot ? "--snapshot " : "--view ");
    }
    if (top->theme) {
        top->settings.theme = theme_find(top->theme);
        if (top->settings.theme < 0) {
            return status_fail(-EINVAL, "--theme %s: expected dark, light or contrast", top->theme);
        }
    }
    error = top->script ? script_check(top->script) : 0;
    if (error) {
        return status_prefix(error, "--script ");
    }
    top->replay_speed = strcmp(top->speed, "max") == 0 ? 0 : strtod(top->speed, &end);
    if (strcmp(top->speed, "max") != 0 && (end == top->speed || *end || !(top->replay_speed >= 1e-6) ||
                                           !(top->replay_speed <= 1e6))) {
        return status_fail(-EINVAL, "--speed %s: expected max, or a number from 1e-6 to 1e6", top->speed);
    }
    if (top->attach_path && (top->replays.n > 0 || top->snapshot)) {
        return status_fail(-EINVAL, "--attach: neither with --replay nor with --snapshot");
    }
    if (top->attach_path) {
        return attachment_open(&top->attachment, top->attach_path);
    }
    error = top->replays.n > 0 ? replay_open(&top->replay, top->replays.items[0], top->replay_speed) : 0;
    for (int32_t i = 1; i < top->replays.n && !error; i++) {
        error = beside_add(&top->beside, top->replays.items[i]);
    }
    return error;
}

int command_top(int argc, char **argv)
{
    struct top top = {
        .model = "demo-8m", .methods = "clsa,yoco,token,dense", .device = "cpu", .output = 64, .batch = 1, .chunk = 512,
        .seed = 1, .speed = "1", .flags = plan_flags_default(),
    };
    const struct option_spec options[] = {
        {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "What is shown"},
        {"replay", OPTION_LIST, &top.replays, 0, 0, "FILE",
         "a trace instead of a live engine; again: beside it, aligned"},
        {"attach", OPTION_TEXT, &top.attach_path, 0, 0, "SOCKET", "what clsa run --listen SOCKET does"},
        {"speed", OPTION_TEXT, &top.speed, 0, 0, "X|max", "of the replay; max: everything at once"},
        {"snapshot", OPTION_TEXT, &top.snapshot, 0, 0, "VIEW", "print a view as text and end"},
        {"script", OPTION_TEXT, &top.script, 0, 0, "KEYS", "keys to press first: \"4++<Right>/ffn<Enter>\""},
        {"view", OPTION_TEXT, &top.view, 0, 0, "VIEW", "to begin with (default: overview, or as saved)"},
        {"rows", OPTION_INT, &top.rows, 1, 1000, "rows", "of the snapshot (default: the terminal's, else 40)"},
        {"cols", OPTION_INT, &top.cols, 1, 1000, "columns", "of the snapshot (default: the terminal's, else 120)"},
        {"ascii", OPTION_FLAG, &top.ascii, 0, 0, NULL, "draw with ASCII characters only"},
        {"no-braille", OPTION_FLAG, &top.no_braille, 0, 0, NULL,
         "draw curves with blocks, for fonts that lack braille"},
        {"theme", OPTION_TEXT, &top.theme, 0, 0, "dark|light|contrast", "colours (default: dark, or as saved)"},
        {"no-mouse", OPTION_FLAG, &top.no_mouse, 0, 0, NULL, "leave the mouse to the terminal"},
        {"color", OPTION_FLAG, &top.color, 0, 0, NULL, "the snapshot with colours"},
        {"no-color", OPTION_FLAG, &top.no_color, 0, 0, NULL, "no colours; so does NO_COLOR in the environment"},
        {"sim-device", OPTION_TEXT, &top.sim_device, 0, 0, "NAME",
         "device whose rates make floors (default: this machine)"},
        {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "The live engine"},
        {"model", OPTION_TEXT, &top.model, 0, 0, "NAME|FOLDER", "a size (random weights) or a model folder"},
        {"method", OPTION_TEXT, &top.methods, 0, 0, "NAMES", "attention methods, with commas; they take turns"},
        {"prompt", OPTION_TEXT, &top.prompt, 0, 0, "FILE",
         "text to continue; repeated up to --context (default: a sentence)"},
        {"text", OPTION_TEXT, &top.text, 0, 0, "TEXT", "the same, given here"},
        {"context", OPTION_INT, &top.context, 1, 1 << 27, "tokens", "prompt length (default: the whole text, or 2048)"},
        {"output", OPTION_INT, &top.output, 1, 1 << 24, "tokens", "tokens to generate per request"},
        {"batch", OPTION_INT, &top.batch, 1, 1024, "sequences", "requests at once"},
        {"chunk", OPTION_INT, &top.chunk, 1, 1 << 20, "tokens", "rows of one prefill step"},
        {"device", OPTION_TEXT, &top.device, 0, 0, "cpu|reference|cuda[:N]", "backend"},
        {"threads", OPTION_INT, &top.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        COLLECT_OPTIONS(top.collect, "64"),
        {"seed", OPTION_LONG, &top.seed, 0, 9e18, "N", "of random weights"},
        PLAN_OPTIONS(top.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"top", "The dashboard: q quits, ? lists the keys.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    error = error ? error : check_flags(&top);
    error = error ? error : top.snapshot ? print_snapshot(&top) : run_dashboard(&top);
    live_close(top.live);
    feed_close(top.feed);
    replay_close(top.replay);
    routing_close(top.routing);
    attachment_close(top.attachment);
    top_rates_close(top.rates);
    top_gauges_close(top.gauges);
    beside_close(&top.beside);
    free(top.tokens);
    return error ? command_fail("top", error) : EXIT_DONE;
}
