// tests/test_tui_views.c - views against golden files, from samples and from their trace; random keys.
//
// CLSA_UPDATE_GOLDEN=1 writes the golden files anew: look at them before they are committed.
#include <unistd.h>

#include "tests/check.h"
#include "tests/tui_stream.h"
#include "traces/trace.h"
#include "tui/dashboard.h"
#include "tui/replay.h"
#include "tui/views.h"

static const struct stream_options stream = {.seed = 1, .decode_steps = 60, .prefill_steps = 4, .requests = 2};

// What is looked at: a view, and the keys pressed before.
static const struct { const char *name; enum view view; const char *script; } screens[] = {
    {"overview", VIEW_OVERVIEW, ""}, {"compare", VIEW_COMPARE, ""}, {"stages", VIEW_STAGES, ""},
    {"help", VIEW_OVERVIEW, "?"}, {"timeline", VIEW_TIMELINE, ""},
    {"roofline", VIEW_ROOFLINE, "jj"},
    {"what-if", VIEW_WHATIF, "aj<Right><Right>aj<Right><Left>jj<Right>j<Enter>16<Enter>j<Enter>32K<Enter>"},
    {"requests", VIEW_REQUESTS, ">>>>>jj"},
    {"kernels", VIEW_STAGES, "d"}, {"stages-slowest", VIEW_STAGES, "<Right><Right><Enter>"},
    {"stages-filtered", VIEW_STAGES, "/index<Enter>"},
    {"routing", VIEW_ROUTING, ""},
    {"timeline-selected", VIEW_TIMELINE, "w<Enter>jj<Right><Right>/ffn<Enter>---"},
};
enum { N_SCREENS = sizeof screens / sizeof screens[0] };

static struct state *made_state(void)
{
    struct state *state;
    struct device device = tui_stream_device();
    CHECK(state_open(&state, &device) == 0);
    struct sample_sink sink = state_sink(state);
    tui_stream(&sink, &stream);
    return state;
}

// Two steps of three indexers: a few places and the newest tokens, shifted from layer to layer.
static const struct routing_snapshot *made_selections(void)
{
    static struct routing_snapshot snapshot;
    struct routing *routing;
    CHECK(routing_open(&routing) == 0);
    for (int32_t step = 0; step < 6; step++) {
        routing_wanted(routing, (step + 1) * INT64_C(1000000000));
        routing_begin(routing, "token", step, 2048 + step, 1);
        for (int32_t layer = 0; layer < 3; layer++) {
            int32_t units[256], n = 0;
            for (int32_t unit = 0; unit < 2048 + step; unit++) {
                if (n < 256 && (unit % 409 < 30 - 5 * layer + step || unit >= 2000)) {
                    units[n++] = unit;
                }
            }
            routing_put(routing, layer, units, n, NAN);
        }
        routing_end(routing);
    }
    routing_get(routing, &snapshot);
    routing_close(routing);
    return &snapshot;
}

// How a screen is drawn; each has golden files of its own.
enum style { STYLE_UNICODE, STYLE_ASCII, STYLE_COLOR, STYLE_COUNT };
static const char *const style_names[] = {"unicode", "ascii", "color"};

static char *draw(const struct state *state, int screen, int32_t rows, int32_t cols, enum style style)
{
    struct snapshot_options options = {
        .script = screens[screen].script, .rows = rows, .cols = cols, .ascii = style == STYLE_ASCII,
        .color = style == STYLE_COLOR,
    };
    struct ui ui = ui_default();
    char *text;
    ui.view = screens[screen].view;
    strcpy(ui.origin, "made up");
    ui.routing = made_selections();
    CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
    return text;
}

static char *read_all(const char *path)
{
    char *text = calloc(1, 1 << 16);
    FILE *file = fopen(path, "r");
    if (file && text) {
        text[fread(text, 1, (1 << 16) - 1, file)] = 0;
        fclose(file);
    }
    return text;
}

static void compare_golden(const char *path, const char *text)
{
    if (getenv("CLSA_UPDATE_GOLDEN")) {
        FILE *file = fopen(path, "w");
        CHECK_MESSAGE(file && fputs(text, file) >= 0, "%s: cannot write", path);
        if (file) {
            fclose(file);
        }
        return;
    }
    char *golden = read_all(path);
    CHECK_MESSAGE(strcmp(golden, text) == 0, "%s differs; it has\n%s\nand was drawn as\n%s", path, golden, text);
    free(golden);
}

// Lines of at most `cols` characters, as many as the screen has rows; ASCII where asked for, colours where asked for.
static void check_shape(const char *text, int32_t rows, int32_t cols, enum style style)
{
    int32_t lines = 0, width = 0, looks = 0;
    for (const char *byte = text; *byte; byte++) {
        if (*byte == '\033') {
            byte += strcspn(byte, "m");
            looks++;
            continue;
        }
        width += ((unsigned char)*byte & 0xc0) != 0x80 && *byte != '\n';
        CHECK(style != STYLE_ASCII || (unsigned char)*byte < 0x7f);
        if (*byte == '\n') {
            CHECK_MESSAGE(width <= cols, "a line of %d columns on a screen of %d", width, cols);
            lines++;
            width = 0;
        }
    }
    CHECK(lines == rows && width == 0 && (looks > 0) == (style == STYLE_COLOR));
}

static void test_golden(const struct state *state, const struct state *replayed)
{
    static const int32_t sizes[][2] = {{24, 80}, {40, 120}, {12, 40}, {60, 200}};
    for (int screen = 0; screen < N_SCREENS; screen++) {
        for (int size = 0; size < 4; size++) {
            for (enum style style = 0; style < STYLE_COUNT; style++) {
                char path[128];
                int32_t rows = sizes[size][0], cols = sizes[size][1];
                snprintf(path, sizeof path, "tests/golden/tui/%s_%dx%d_%s.txt", screens[screen].name, cols, rows,
                         style_names[style]);
                char *text = draw(state, screen, rows, cols, style), *again = draw(replayed, screen, rows, cols, style);
                check_shape(text, rows, cols, style);
                compare_golden(path, text);
                CHECK_MESSAGE(strcmp(text, again) == 0, "%s: another screen from the trace\n%s", path, again);
                free(text);
                free(again);
            }
        }
    }
}

// The same samples through a trace file: at once, in small portions of time, and step by step.
static struct state *replayed_state(const char *path, int way)
{
    struct state *state;
    struct device device = tui_stream_device();
    struct replay *replay;
    CHECK(state_open(&state, &device) == 0);
    struct sample_sink sink = state_sink(state);
    int error = replay_open(&replay, path, way == 1 ? 2.5 : 0);
    CHECK_MESSAGE(error == 0, "cannot replay %s", path);
    if (error) {
        return state;
    }
    CHECK(!replay_cut(replay) && strcmp(replay_first_source(replay)->method, "clsa") == 0);
    if (way == 0) {
        replay_all(replay, &sink);
    } else if (way == 1) {
        int64_t now_ns = 5, previous = -1;
        for (int32_t i = 0; i < 100000 && replay_part(replay) < 1; i++, now_ns += 3000000) {
            replay_advance(replay, now_ns, 1000, &sink);
            CHECK(state_last_ns(state) >= previous);
            previous = state_last_ns(state);
        }
        // All were handed on, 2.5 times as fast as they were made.
        double expected_ns = (double)(previous - INT64_C(1000000000000)) / 2.5;
        CHECK_MESSAGE(fabs((double)now_ns - expected_ns) < 10e6, "played in %.1f ms, expected %.1f",
                      (double)now_ns * 1e-6, expected_ns * 1e-6);
    } else {
        replay_advance(replay, 0, 0, &sink);
        replay_pause(replay, true);
        CHECK(replay_advance(replay, INT64_C(1) << 50, 1000, &sink) == 0);
        while (replay_step(replay, &sink) > 0) {
        }
    }
    CHECK(replay_part(replay) == 1);
    replay_close(replay);
    return state;
}

static int32_t random_key(void)
{
    static const int32_t keys[] = {KEY_ARROW_UP,   KEY_ARROW_DOWN, KEY_ARROW_LEFT, KEY_ARROW_RIGHT, KEY_BACK_TAB,
                                   KEY_PAGE_BACK,  KEY_TO_BEGIN,   KEY_TO_END,     KEY_REMOVE,      KEY_PAGE_FORWARD,
                                   KEY_RETURN,     KEY_ESCAPE,     KEY_ERASE,      KEY_QUIT,        KEY_HELP_ME,
                                   KEY_NONE,       '\t'};
    int32_t n = (int32_t)(sizeof keys / sizeof keys[0]), drawn = check_range(0, 2);
    return drawn == 0 ? keys[check_range(0, n - 1)] : drawn == 1 ? check_range(' ', '~') : check_range(-5, 300);
}

// Random keys, sizes and samples: nothing may crash, whatever is seen must be a screen.
static void test_fuzz(void)
{
    struct state *state;
    struct cells cells = {0};
    struct ui ui = ui_default();
    CHECK(state_open(&state, NULL) == 0 && whatif_open(&ui.whatif, NULL) == 0);
    ui.routing = made_selections();
    struct sample_sink sink = state_sink(state);
    int32_t rows = 24, cols = 80;
    for (int32_t event = 0; event < 10000; event++) {
        if (ui.help || ui.input.mode != INPUT_NONE) {    // or half of the keys would go into texts
            ui_key(&ui, state, check_range(0, 4) == 0 ? KEY_ESCAPE : KEY_NONE);
        }
        int32_t key = random_key();
        if (ui.view == VIEW_WHATIF && key == 'w') {
            key = KEY_NONE;    // a simulation takes long; it has a test of its own
        }
        struct request_to_owner request = ui_key(&ui, state, key);
        CHECK(request.command <= COMMAND_SAVE_SETTINGS && memchr(request.text, 0, INPUT_BYTES) &&
              memchr(request.method, 0, sizeof request.method));
        struct pointer pointer = {(enum pointer_action)check_range(0, 3), check_range(-1, rows), check_range(-1, cols)};
        if (check_range(0, 5) == 0) {
            ui_pointer(&ui, state, &pointer);
        }
        CHECK(ui.view < VIEW_COUNT && ui.refresh >= 0 && ui.refresh < UI_REFRESHES && ui.scroll >= 0);
        ui.live = check_range(0, 1);
        if (check_range(0, 9) == 0) {
            rows = check_range(1, check_range(1, 100));
            cols = check_range(1, check_range(1, 300));
        }
        if (check_range(0, 199) == 0) {
            struct stream_options some = {check_random(), check_range(0, 20), check_range(0, 3), check_range(0, 2)};
            tui_stream(&sink, &some);
        }
        cells.color = check_range(0, 1);
        CHECK(cells_resize(&cells, rows, cols) == 0);
        view_draw(&cells, state, &ui);
        for (int64_t i = 0; i < (int64_t)rows * cols; i++) {
            CHECK(cells.cell[i].role < ROLE_COUNT && cells.cell[i].glyph >= ' ');
            CHECK(cells_ascii(cells.cell[i].glyph) != '?' || cells.cell[i].glyph == '?');
        }
    }
    cells_close(&cells);
    whatif_close(ui.whatif);
    state_close(state);
}

static void test_text(void)
{
    struct cells cells = {0};
    // Dots of braille, one in each quarter, become that quarter; text stays.
    struct rect two = {0, 0, 1, 5};
    CHECK(cells_resize(&cells, 1, 5) == 0);
    for (int32_t i = 0; i < 4; i++) {
        cells_dot(&cells, two, 2 * i + i % 2, i < 2 ? i : i == 2 ? 2 : 3, (struct pen){ROLE_TEXT, 0});
    }
    cells_put(&cells, two, 0, 4, 'x', (struct pen){ROLE_TEXT, 0});
    cells_blocks(&cells);
    char *blocks = cells_text_of(&cells, false);
    CHECK_MESSAGE(strcmp(blocks, "\u2598\u259d\u2596\u2597x\n") == 0, "drawn as %s", blocks);
    free(blocks);
    CHECK(cells_resize(&cells, 1, 12) == 0);
    struct rect all = {0, 0, 1, 12};
    // An escape, a cut sequence, a wide character and an overlong text come from names in files.
    cells_text(&cells, all, 0, 0, (struct pen){ROLE_TEXT, 0}, "a\x1b" "b\xe4\xbd\xa0" "c\xc3\xa9\xc3");
    char *text = cells_text_of(&cells, false);
    CHECK_MESSAGE(strcmp(text, "a?b?c\xc3\xa9?\n") == 0, "drawn as %s", text);
    free(text);
    CHECK(cells_text_fit(&cells, all, 0, 0, 5, (struct pen){ROLE_TEXT, 0}, "overlong") == 5);
    text = cells_text_of(&cells, true);
    CHECK_MESSAGE(strncmp(text, "over~", 5) == 0, "drawn as %s", text);
    free(text);
    cells_close(&cells);
    static const struct { double ns; const char *text; } times[] = {{0, "0 ns"}, {843, "843 ns"}, {999.6, "1.00 us"},
        {12345, "12.3 us"}, {4.56e6, "4.56 ms"}, {9.996e6, "10.0 ms"}, {1.2e9, "1.20 s"}, {NAN, "-"}};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        char formatted[FORMAT_BYTES];
        format_time_ns(formatted, times[i].ns);
        CHECK_MESSAGE(strcmp(formatted, times[i].text) == 0, "%g ns as %s", times[i].ns, formatted);
    }
}

int main(void)
{
    char path[] = "/tmp/clsa-views-XXXXXX";
    struct trace_writer *writer;
    check_begin();
    int file = mkstemp(path);
    CHECK(file >= 0);
    close(file);
    struct trace_writer_options options = {.path = path};
    CHECK(trace_writer_open(&writer, &options) == 0);
    struct sample_sink sink = trace_writer_sink(writer);
    tui_stream(&sink, &stream);
    CHECK(trace_writer_close(writer) == 0);
    struct state *state = made_state();
    for (int way = 0; way < 3; way++) {
        struct state *replayed = replayed_state(path, way);
        CHECK(state_lost(replayed) == 0);
        test_golden(state, replayed);
        state_close(replayed);
    }
    state_close(state);
    unlink(path);
    test_text();
    test_fuzz();
    return check_end();
}
