// tests/test_tui_terminal.c - the dashboard on a real terminal: keys, sizes, and how it gives the terminal back.
#include <signal.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/terminal.h"
#include "tests/tui_stream.h"
#include "traces/trace.h"

enum { PATIENCE_MS = 20000 };    // sanitizer builds on a busy machine

static char folder[] = "/tmp/clsa-tui-XXXXXX";
static char trace_path[64], binary[512];

static void write_trace(void)
{
    struct trace_writer_options options = {.path = trace_path};
    struct stream_options stream = {.seed = 1, .decode_steps = 40, .prefill_steps = 4, .requests = 2};
    struct trace_writer *writer;
    int error = trace_writer_open(&writer, &options);
    CHECK_MESSAGE(error == 0, "cannot write %s", trace_path);
    if (!error) {
        struct sample_sink sink = trace_writer_sink(writer);
        tui_stream(&sink, &stream);
        CHECK(trace_writer_close(writer) == 0);
    }
}

// Starts the dashboard between two looks at the terminal's settings.
static struct terminal *start(const char *before, const char *arguments, const char *locale, int32_t rows, int32_t cols)
{
    char line[2048];
    snprintf(line, sizeof line,
             "trap : INT; export XDG_CONFIG_HOME=/nowhere;"
             " stty -g >%s/stty-before; %s %s top --replay %s --speed max %s; echo status=$?;"
             "stty -g >%s/stty-after; cmp %s/stty-before %s/stty-after && echo settings are back",
             folder, before, binary, trace_path, arguments, folder, folder, folder);
    return terminal_open(line, locale, rows, cols);
}

#define CHECK_SHOWS(terminal, text)                                                                                    \
    do {                                                                                                               \
        if (!terminal_shows(terminal, text, PATIENCE_MS)) {                                                            \
            char *seen = terminal_screen(terminal);                                                                    \
            check_failed(__FILE__, __LINE__, "the screen does not show \"%s\" but\n%s", text, seen);                   \
            free(seen);                                                                                                \
        }                                                                                                              \
    } while (0)

static void check_given_back(struct terminal *terminal, const char *status)
{
    CHECK_SHOWS(terminal, status);
    CHECK_SHOWS(terminal, "settings are back");
    CHECK(terminal_number(terminal, "alternate_on") == 0);
    CHECK(terminal_number(terminal, "cursor_flag") == 1);
}

static void test_keys_and_sizes(void)
{
    struct terminal *terminal = start("", "--no-color", "C.UTF-8", 24, 80);
    CHECK_SHOWS(terminal, "Where a decode step goes");
    CHECK_SHOWS(terminal, "replay ended");
    CHECK_SHOWS(terminal, "\u256d");
    terminal_keys(terminal, "2");
    CHECK_SHOWS(terminal, "Methods on the same work");
    terminal_keys(terminal, "Tab");
    CHECK_SHOWS(terminal, "Stages of block");
    terminal_keys(terminal, "m");
    CHECK_SHOWS(terminal, "Stages of clsa");
    terminal_keys(terminal, ">");
    CHECK_SHOWS(terminal, "share\u25bc");
    terminal_keys(terminal, "?");
    CHECK_SHOWS(terminal, "Keys; type to search");
    terminal_keys(terminal, "base");
    CHECK_SHOWS(terminal, "Keys with \"base\"");
    CHECK_SHOWS(terminal, "next baseline");
    CHECK(terminal_hides(terminal, "next method", PATIENCE_MS));
    terminal_keys(terminal, "Escape");
    CHECK(terminal_hides(terminal, "next baseline", PATIENCE_MS));
    terminal_keys(terminal, "p");
    CHECK_SHOWS(terminal, "PAUSED");
    terminal_keys(terminal, "p");
    CHECK(terminal_hides(terminal, "PAUSED", PATIENCE_MS));
    terminal_keys(terminal, "+");
    CHECK_SHOWS(terminal, "20/s");
    terminal_keys(terminal, "1");
    CHECK_SHOWS(terminal, "Where a decode step goes");
    terminal_resize(terminal, 12, 40);
    CHECK_SHOWS(terminal, "KV bytes");
    CHECK(terminal_hides(terminal, "Where a decode step goes", PATIENCE_MS));
    terminal_resize(terminal, 4, 15);
    CHECK_SHOWS(terminal, "terminal too s");
    terminal_resize(terminal, 40, 120);
    CHECK_SHOWS(terminal, "Where a decode step goes");
    CHECK_SHOWS(terminal, "requests            2 of 2");
    terminal_keys(terminal, "q");
    check_given_back(terminal, "status=0");
    terminal_close(terminal);
}

// What stands on a terminal is what --snapshot prints, but for the tabs' line, which names how it is drawn.
static void test_same_as_snapshot(void)
{
    char line[1024], *shown, *printed = calloc(1, 1 << 16);
    struct terminal *terminal = start("", "--no-color", "C.UTF-8", 30, 100);
    CHECK_SHOWS(terminal, "replay ended");
    shown = terminal_screen(terminal);
    snprintf(line, sizeof line, "%s top --replay %s --snapshot overview --rows 30 --cols 100", binary, trace_path);
    FILE *stream = popen(line, "r");
    CHECK(stream && printed && fread(printed, 1, (1 << 16) - 1, stream) > 0);
    CHECK(stream && pclose(stream) == 0);
    const char *from_shown = strchr(shown, '\n'), *from_printed = strchr(printed, '\n');
    CHECK_MESSAGE(from_shown && from_printed && strcmp(from_shown, from_printed) == 0, "shown:\n%s\nprinted:\n%s",
                  shown, printed);
    terminal_keys(terminal, "F10");
    check_given_back(terminal, "status=0");
    CHECK(terminal_hides(terminal, "Where a decode step goes", PATIENCE_MS));
    terminal_close(terminal);
    free(shown);
    free(printed);
}

static void test_ascii(void)
{
    struct terminal *terminal = start("", "", "C", 24, 80);
    CHECK_SHOWS(terminal, "replay ended");
    char *screen = terminal_screen(terminal);
    for (const char *byte = screen; *byte; byte++) {
        CHECK_MESSAGE((unsigned char)*byte < 0x80, "byte %02x where the locale has only ASCII", (unsigned char)*byte);
    }
    free(screen);
    terminal_keys(terminal, "C-c");
    check_given_back(terminal, "status=0");
    terminal_close(terminal);
}

// Signals: asked to end, it ends well; killed by a fault, it still gives the terminal back.
static void test_signals(void)
{
    static const struct { const char *name, *status; } signals[] = {
        {"TERM", "status=0"}, {"HUP", "status=0"}, {"INT", "status=0"}, {"SEGV", "status="}, {"ABRT", "status="},
        {"BUS", "status="}, {"FPE", "status="}, {"ILL", "status="}};
    static const int numbers[] = {SIGTERM, SIGHUP, SIGINT, SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL};
    for (int i = 0; i < 8; i++) {
        char before[256], path[128];
        snprintf(path, sizeof path, "%s/pid", folder);
        snprintf(before, sizeof before, "sh -c 'echo $$ >%s; exec \"$0\" \"$@\"' ", path);
        struct terminal *terminal = start(before, "", "C.UTF-8", 24, 80);
        CHECK_SHOWS(terminal, "replay ended");
        FILE *stream = fopen(path, "r");
        int pid = 0;
        CHECK(stream && fscanf(stream, "%d", &pid) == 1 && pid > 1);
        if (stream) {
            fclose(stream);
        }
        if (pid > 1) {
            kill(pid, numbers[i]);
        }
        check_given_back(terminal, signals[i].status);
        terminal_close(terminal);
        unlink(path);
    }
}

// The live engine obeys: a pause holds its steps, m keeps it at one method, k and the batch change what it runs.
static void test_live(void)
{
    char line[1024];
    snprintf(line, sizeof line,
             "trap : INT; export XDG_CONFIG_HOME=/nowhere;"
             " stty -g >%s/stty-before; %s top --model tiny --device reference --context 64"
             " --output 16 --method clsa,dense 2>%s/talk; echo status=$?; cat %s/talk; stty -g >%s/stty-after;"
             "cmp %s/stty-before %s/stty-after && echo settings are back",
             folder, binary, folder, folder, folder, folder, folder);
    struct terminal *terminal = terminal_open(line, "C.UTF-8", 24, 80);
    CHECK_SHOWS(terminal, "Where a decode step goes");
    terminal_keys(terminal, "2");
    CHECK_SHOWS(terminal, "dense");
    CHECK_SHOWS(terminal, " base ");
    terminal_keys(terminal, "m");
    CHECK_SHOWS(terminal, "\u25b8 clsa");
    terminal_keys(terminal, "8");
    terminal_keys(terminal, "c");
    CHECK_SHOWS(terminal, "holds last step");
    terminal_keys(terminal, "c");
    terminal_keys(terminal, "2");
    terminal_keys(terminal, "]");
    CHECK_SHOWS(terminal, "clsa k=32");
    terminal_keys(terminal, "}");
    terminal_keys(terminal, "1");
    CHECK_SHOWS(terminal, "batch, queue          2, 0");
    terminal_keys(terminal, "p");
    CHECK_SHOWS(terminal, "PAUSED");
    struct timespec moment = {.tv_nsec = 400000000};    // what was on its way is on the screen by then
    nanosleep(&moment, NULL);
    char *before = terminal_screen(terminal);
    nanosleep(&moment, NULL);
    char *after = terminal_screen(terminal);
    CHECK_MESSAGE(strcmp(before, after) == 0, "paused, but\n%s\nbecame\n%s", before, after);
    free(before);
    free(after);
    terminal_keys(terminal, "p");
    CHECK(terminal_hides(terminal, "PAUSED", PATIENCE_MS));
    terminal_keys(terminal, "p");
    CHECK_SHOWS(terminal, "PAUSED");
    terminal_keys(terminal, "q");    // also out of a pause
    check_given_back(terminal, "status=0");
    terminal_close(terminal);
}

// A method that memory does not hold, though it holds another one at the same work, is left out; the other goes on.
static void test_left_out(void)
{
#ifdef CLSA_MOCK_SMALL
    char line[1024];
    snprintf(line, sizeof line,
             "trap : INT; export XDG_CONFIG_HOME=/nowhere;"
             " stty -g >%s/stty-before; LD_LIBRARY_PATH=%s %s top --model tiny --device cuda --sim-device H100"
             " --context 16 --output 2000000 --method clsa,dense 2>%s/talk; echo status=$?; cat %s/talk;"
             " stty -g >%s/stty-after;"
             "cmp %s/stty-before %s/stty-after && echo settings are back",
             folder, CLSA_MOCK_SMALL, binary, folder, folder, folder, folder, folder);
    struct terminal *terminal = terminal_open(line, "C.UTF-8", 24, 80);
    CHECK_SHOWS(terminal, "Where a decode step goes");
    terminal_keys(terminal, ")");    // dense has its turn, with a longer context and then with clsa's
    CHECK_SHOWS(terminal, "Left out: no memory for a KV cache");
    terminal_keys(terminal, "]");
    CHECK_SHOWS(terminal, "clsa k=32");
    terminal_keys(terminal, ":device reference");    // what --sim-device names stays
    terminal_keys(terminal, "Enter");
    CHECK_SHOWS(terminal, "device reference");
    terminal_keys(terminal, "2");
    terminal_keys(terminal, "v");
    CHECK_SHOWS(terminal, "Predicted decode tokens/s over the context");
    terminal_keys(terminal, "q");
    check_given_back(terminal, "status=0");
    terminal_close(terminal);
#endif
}

// What stands on the terminal is what the program thinks stands there: drawn anew from nothing it looks the same.
static void check_cells(struct terminal *terminal, int32_t round)
{
    struct timespec moment = {.tv_nsec = 150000000};    // the last keys and the last size are on the screen by then
    nanosleep(&moment, NULL);
    char *before = terminal_screen(terminal);
    terminal_keys(terminal, "C-l");
    nanosleep(&moment, NULL);
    char *after = terminal_screen(terminal);
    for (int32_t i = 0; i < 40 && strcmp(before, after) != 0; i++) {    // a busy machine has not drawn it yet
        free(before);
        before = after;
        terminal_keys(terminal, "C-l");
        nanosleep(&moment, NULL);
        after = terminal_screen(terminal);
        if (i == 39) {
            check_failed(__FILE__, __LINE__, "round %d: the screen was\n%s\nand drawn anew is\n%s", round, before,
                         after);
        }
    }
    free(before);
    free(after);
}

// Whatever is typed, however fast the window changes: it lives, no cell is wrong, and it gives the terminal back.
static void test_storm(void)
{
    enum { ROUNDS = 100, KEYS = 99 };    // and a named one each: 10,000
    // Without what writes files, leaves, or simulates for long; with what begins a line, and what ends it.
    static const char keys[] = "12345678?hjknNmbfR<>+-=,./:ps ac{}[]()idxvA";
    static const char *const named[] = {"Tab", "Enter", "Escape", "Up", "Down", "Left", "Right", "NPage", "PPage",
                                        "Home", "End", "BSpace", "DC", "BTab"};
    struct terminal *terminal = start("", "", "C.UTF-8", 24, 80);
    CHECK_SHOWS(terminal, "replay ended");
    for (int32_t round = 0; round < ROUNDS; round++) {
        char typed[KEYS + 1] = "";
        for (int i = 0; i < KEYS; i++) {
            typed[i] = keys[check_range(0, (int32_t)sizeof keys - 2)];
        }
        terminal_keys(terminal, typed);
        terminal_keys(terminal, named[check_range(0, (int32_t)(sizeof named / sizeof named[0]) - 1)]);
        terminal_resize(terminal, check_range(1, 70), check_range(1, 220));
        if (round % 10 == 9) {
            terminal_keys(terminal, "Escape");
            check_cells(terminal, round);
        }
    }
    for (int32_t size = 0; size < 200; size++) {    // and sizes alone, as a window is dragged
        terminal_resize(terminal, 10 + size % 50, 30 + size * 7 % 170);
    }
    check_cells(terminal, ROUNDS);
    terminal_resize(terminal, 24, 80);
    terminal_keys(terminal, "Escape");
    terminal_keys(terminal, "F10");
    check_given_back(terminal, "status=0");
    terminal_close(terminal);
}

static void test_refused(void)
{
    char line[1024];
    struct terminal *terminal = start("TERM=dumb", "", "C.UTF-8", 24, 80);
    check_given_back(terminal, "status=2");
    terminal_close(terminal);
    snprintf(line, sizeof line, "%s top --replay %s </dev/null >/dev/null 2>&1", binary, trace_path);
    CHECK(WEXITSTATUS(system(line)) == 2);
    snprintf(line, sizeof line, "%s top --replay %s/none --snapshot stages >/dev/null 2>&1", binary, folder);
    CHECK(WEXITSTATUS(system(line)) == 2);
}

int main(void)
{
    check_begin();
    const char *path = getenv("CLSA_BINARY");
    if (!path || !terminal_available()) {
        return check_skip(path ? "tmux is missing or cannot open a terminal here"
                               : "CLSA_BINARY does not name the program");
    }
    snprintf(binary, sizeof binary, "%s", path);
    CHECK(mkdtemp(folder) != NULL);
    snprintf(trace_path, sizeof trace_path, "%s/trace.pftrace", folder);
    write_trace();
    test_keys_and_sizes();
    test_same_as_snapshot();
    test_ascii();
    test_signals();
    test_live();
    test_left_out();
    test_storm();
    test_refused();
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    CHECK(system(line) == 0);
    return check_end();
}
