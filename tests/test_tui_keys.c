// tests/test_tui_keys.c - every key of the help overlay does on a real terminal what the help says of it.
//
// The help's own table (ui_keys) is gone through: a key without a check here fails, and so does a check for a key that
// is no longer there.
#include <sys/stat.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/terminal.h"
#include "tests/tui_stream.h"
#include "traces/trace.h"
#include "tui/keys.h"

enum { PATIENCE_MS = 20000, STEPS = 26 };    // sanitizer builds on a busy machine

// Keys as tmux names them, or "#" and bytes in hexadecimal; then what is to be seen: a text; "!" and a text that is
// gone; "~" something else than before; "=" the screen as it was when the check began; "^" and a file that is there.
struct step {
    const char *keys, *expect;
};

// One line of the help. `rows` and `cols`: of the screen, 0: 40 x 120.
struct check {
    const char *keys;
    int32_t view;
    struct step steps[STEPS];
    int32_t rows, cols;
};

static const struct check checks[] = {
    {"q, F10", -1, {{"q", "status=0"}, {"RESTART", ""}, {"F10", "status=0"}, {"RESTART", ""}}, 0, 0},
    {"?, h, F1", -1, {{"?", "Keys; type to search"}, {"base", "Keys with \"base\""}, {"", "next baseline"},
                      {"", "!next method"}, {"Escape", "="}, {"h", "Keys; type to search"}, {"Escape", "="},
                      {"F1", "Keys; type to search"}, {"Escape", "="}}, 0, 0},
    {"Tab, 1 - 8", -1, {{"Tab", "Methods on the same work"}, {"Tab", "Stages of"}, {"Tab", "Timeline: all of"},
                        {"Tab", "Roofline: decode"}, {"Tab", "What if"}, {"Tab", "Requests: 6 of 6"},
                        {"Tab", "A trace holds no selections"}, {"Tab", "="}, {"BTab", "A trace holds no selections"},
                        {"2", "Methods on the same work"}, {"3", "Stages of"}, {"4", "Timeline: all of"},
                        {"5", "Roofline: decode"}, {"6", "What if"}, {"7", "Requests: 6 of 6"},
                        {"8", "A trace holds no selections"}, {"1", "="}}, 0, 0},
    {"p, s", -1, {{"p", "PAUSED"}, {"s", " PAUSED"}, {"p", "!PAUSED"}}, 0, 0},    // and test_live
    {"m", -1, {{"3", "Stages of block"}, {"m", "Stages of clsa"}, {"m", "Stages of dense"}, {"m", "Stages of block"},
               {"m", "Stages of block"}}, 0, 0},
    {"b", -1, {{"2", "x dense"}, {"b", "block, the baseline, decodes fastest"}, {"b", "x clsa"}, {"b", "x dense"}},
     0, 0},
    {"f", -1, {{"f", "Where a prefill step goes"}, {"f", "Where a decode step goes"}}, 0, 0},
    {"< > R", -1, {{"3", "stage\u25b2"}, {">", "share\u25bc"}, {">", "per step\u25bc"}, {"R", "per step\u25b2"},
                   {"R", "per step\u25bc"}, {"<", "share\u25bc"}, {"<", "stage\u25b2"}}, 0, 0},
    {"r", -1, {{":record rec.pftrace", ":record"}, {"Enter", "Recording, until r: rec.pftrace"}, {"", "REC"},
               {"r", "The recording ends"}, {"", "^rec.pftrace"}, {"r", "Recording, until r: clsa-"},
               {"r", "!REC"}}, 0, 0},
    {"D", -1, {{":dump dump.pftrace", ":dump"}, {"Enter", "The last 30 s: dump.pftrace"}, {"", "^dump.pftrace"},
               {"D", "The last 30 s: clsa-"}}, 0, 0},
    {"e", -1, {{"e", "Written: clsa-overview.txt"}, {"", "^clsa-overview.txt"}, {":export some.csv", ":export"},
               {"Enter", "Written: some.csv"}, {"", "^some.csv"}}, 0, 0},
    {":", -1, {{":the", ":the"}, {"Tab", ":theme"}, {"li", ":theme li"}, {"Tab", ":theme light"}, {"Enter", "!:theme"},
               {":vi", ":vi"}, {"Tab", ":view"}, {"roof", ":view roof"}, {"Tab", ":view roofline"},
               {"Enter", "Roofline: decode"}, {":nonsense", ":nonsense"}, {"Enter", "no such command: nonsense"},
               {":view", ":view"}, {"Escape", "!:view"}}, 0, 0},
    // A press on the second tab; the wheel turned down, and up; a press beside everything.
    {"mouse", -1, {{"# 1b 5b 4d 20 2f 21", "Methods on the same work"}, {"# 1b 5b 4d 23 2f 21", ""},
                   {"3", "Stages of"}, {"# 1b 5b 4d 61 30 30", "~"},
                   {"# 1b 5b 4d 60 30 30", "~"}, {"# 1b 5b 4d 20 23 21", "decode tok/s"}}, 20, 0},
    {"j k, arrows", -1, {{"3", "decode  80"}, {"j", "!decode  80"}, {"k", "decode  80"}, {"Down", "!decode  80"},
                         {"Up", "decode  80"}, {"NPage", "!decode  80"}, {"PPage", "decode  80"}}, 20, 0},
    {"+ -", -1, {{"+", "20/s"}, {"+", "30/s"}, {"-", "20/s"}, {"-", "10/s"}, {"-", "5/s"}, {"+", "10/s"}}, 0, 0},
    {"Ctrl-L", -1, {{"SCRIBBLE", "scribble"}, {"C-l", "="}}, 0, 0},
    {"left, right", VIEW_STAGES, {{"", "\u25b8ffn"}, {"Right", "\u25b8head"}, {"Left", "\u25b8ffn"},
                                  {"Left", "\u25b8output"}, {"Right", "\u25b8ffn"}}, 0, 0},
    {"Enter", VIEW_STAGES, {{"Enter", "/ffn"}, {"", "Timeline: "}, {"", "ffn of layer"}, {":filter", ":filter"},
                            {"Enter", "!/ffn"}, {"Escape", "Timeline: all of"}}, 0, 0},
    {"d, Esc", VIEW_STAGES, {{"d", "kernel"}, {"Escape", "="}, {"d", "kernel"}, {"d", "="}}, 0, 0},
    {"/", VIEW_STAGES, {{"/index", "/index"}, {"Enter", "index_score"}, {"", "!qkv"}, {"/", "!q quit"},
                        {"Escape", "="}}, 0, 0},
    {"/", VIEW_COMPARE, {{"/cls", "/cls"}, {"Enter", "!  dense          103"}, {"", "clsa"}, {"/", "!q quit"},
                         {"Escape", "="}}, 0, 0},
    {"v", VIEW_COMPARE, {{"v", "tokens/s over the context"}, {"v", "tokens/s over the batch"}, {"v", "="}}, 0, 0},
    {"left, right", VIEW_TIMELINE, {{"w", "Selected"}, {"Right", "~"}, {"Right", "~"}, {"Left", "~"},
                                    {"Left", "Selected"}}, 0, 0},
    {"up, down", VIEW_TIMELINE, {{"Up", "steps    \u25b8"}, {"Down", "stages   \u25b8"}, {"Down", "layer 0  \u25b8"},
                                 {"Up", "stages   \u25b8"}}, 0, 0},
    {"+ -, Enter", VIEW_TIMELINE, {{"+", "Timeline: 293 ms"}, {"+", "Timeline: 146 ms"}, {"-", "Timeline: 293 ms"},
                                   {"-", "Timeline: all of"}, {"w", "Selected"}, {"Enter", "Timeline: 30.7 ms"},
                                   {"Escape", "Timeline: all of"}}, 0, 0},
    {"< >, PgUp", VIEW_TIMELINE, {{"+", "293 ms from 0.1"}, {"+", "146 ms from 0.2"}, {"<", "146 ms from 0.1"},
                                  {">", "146 ms from 0.2"}, {"PPage", "146 ms from 0.0"}, {"NPage", "146 ms from 0.2"},
                                  {"Escape", "Timeline: all of"}}, 0, 0},
    {"Home, End", VIEW_TIMELINE, {{"+", "293 ms from 0.1"}, {"Home", "293 ms from 0.0"}, {"End", "293 ms from 0.2"},
                                  {"", "following"}, {"Escape", "!following"}}, 0, 0},
    {"Esc", VIEW_TIMELINE, {{"+", "293 ms from"}, {"Escape", "Timeline: all of"}}, 0, 0},
    {"w", VIEW_TIMELINE, {{"w", "step 89"}, {"", "Selected"}, {"w", "!step 89:"}, {"", "Selected"}}, 0, 0},
    {"/ n N", VIEW_TIMELINE, {{"/score", "/score"}, {"Enter", "index_score of layer"}, {"n", "~"},
                              {"", "index_score of layer"}, {"N", "~"}, {"", "index_score of layer"},
                              {":filter", ":filter"}, {"Enter", "!/score"}}, 0, 0},
    {"A", VIEW_TIMELINE, {{"", "here,"}, {"A", "Aligned at step 0."}, {"w", "step 89"}, {"A", "Aligned at step 89."}},
     0, 0},
    {"j k, arrows", VIEW_ROOFLINE, {{"j", " qkv: "}, {"j", " kv_write: "}, {"k", " qkv: "}, {"Down", " kv_write: "},
                                    {"Up", " qkv: "}, {"k", " embed: "}}, 0, 0},
    {"up, down", VIEW_WHATIF, {{"", "\u25b8paper-4b"}, {"Down", "\u25b8clsa"}, {"Up", "\u25b8paper-4b"},
                               {"j", "\u25b8clsa"}, {"k", "\u25b8paper-4b"}}, 0, 0},
    {"left, right", VIEW_WHATIF, {{"Down", "\u25b8clsa"}, {"Right", "\u25b8clsa-block"}, {"Left", "\u25b8clsa"},
                                  {"Up", "\u25b8paper-4b"}}, 0, 0},
    {"Enter", VIEW_WHATIF, {{"Down", "\u25b8clsa"}, {"Enter", "method ="}, {"dens", "method = dens"},
                            {"Enter", "dense, H100"}, {"Enter", "method ="}, {"xyz", "method = xyz"},
                            {"Enter", "xyz: no value for method"}, {"Enter", "method ="},
                            {"clsa", "method = clsa"}, {"Enter", "\u25b8clsa"}, {"Up", "\u25b8paper-4b"}}, 0, 0},
    {"a, d", VIEW_WHATIF, {{"", "Pinned: a keeps"}, {"a", "!Pinned: a keeps"}, {"d", "Pinned: a keeps"}}, 0, 0},
    {"c", VIEW_WHATIF, {{"c", "Nothing to take"}}, 0, 0},    // a made-up model; test_live takes over a known one
    {"w, x", VIEW_WHATIF, {{"w", "!w simulates"}, {"x", "reasoning: "}}, 0, 0},
    {"P", VIEW_WHATIF, {{"P", "an hour"}}, 0, 0},
    {"j k, arrows", VIEW_REQUESTS, {{"", "\u25b8 21"}, {"j", "\u25b8 20"}, {"k", "\u25b8 21"}, {"Down", "\u25b8 20"},
                                    {"Up", "\u25b8 21"}, {"End", "\u25b8 0 "}, {"Home", "\u25b8 21"}}, 0, 0},
    {"Enter", VIEW_REQUESTS, {{"Enter", "Timeline: 9"}, {"Escape", "Timeline: all of"}}, 0, 0},
    {"/", VIEW_REQUESTS, {{"/dense", "/dense"}, {"Enter", "Requests: 2 of 6"}, {"/", "!q quit"},
                          {"Escape", "Requests: 6 of 6"}}, 0, 0},
};
enum { N_CHECKS = sizeof checks / sizeof checks[0] };

// Keys of a running engine.
static const struct check live_checks[] = {
    {"] [", -1, {{"2", "Methods on the same"}, {"]", "From the next batch on: k 32"}, {"", "clsa k=32"},
                 {"[", "From the next batch on: k 16"}, {":k 32", ":k 32"},
                 {"Enter", "From the next batch on: k 32"}}, 0, 0},
    {"} {", -1, {{"}", "batch on: batch 2"}, {"", "batch, queue          2, 0"}, {"{", "batch on: batch 1"},
                 {"", "batch, queue          1, 0"}, {"{", "batch: from 1 to"}}, 0, 0},
    {") (", -1, {{")", "batch on: context 128"}, {"", "context                1"}, {"(", "batch on: context 64"},
                 {":context 4G", ":context"}, {"Enter", "context: from 1 to"}, {":device abacus", ":device"},
                 {"Enter", "!:device"}}, 0, 0},
    {"i", -1, {{"i", "batch on: index-every 1"}, {"i", "index-every 2"}, {"i", "index-every 4"}, {"i", "index-every 8"},
               {"i", "each method's own index sharing"}}, 0, 0},
    {"c", VIEW_ROUTING, {{"c", "holds last step"}, {"c", "!holds last step"}}, 0, 0},
    {"u", VIEW_ROUTING, {{"u", "Blocks of 64"}, {"u", "Selected by"}}, 0, 0},
    {"p, s", -1, {{"p", "PAUSED"}, {"s", "PAUSED"}, {"p", "!PAUSED"}}, 0, 0},
    {"c", VIEW_WHATIF, {{"c", "Taken from what is shown."}}, 0, 0},
};
enum { N_LIVE_CHECKS = sizeof live_checks / sizeof live_checks[0] };

static char folder[] = "/tmp/clsa-keys-XXXXXX";
static char binary[512];

static void write_trace(const char *name, uint64_t seed)
{
    char path[96];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    struct trace_writer_options options = {.path = path};
    struct stream_options stream = {.seed = seed, .decode_steps = 40, .prefill_steps = 4, .requests = 2};
    struct trace_writer *writer;
    CHECK(trace_writer_open(&writer, &options) == 0);
    struct sample_sink sink = trace_writer_sink(writer);
    tui_stream(&sink, &stream);
    CHECK(trace_writer_close(writer) == 0);
}

static struct terminal *start(bool live, int32_t rows, int32_t cols)
{
    char line[1500];
    snprintf(line, sizeof line, "trap : INT; export XDG_CONFIG_HOME=/nowhere TERM=screen; cd %s;"
             " %s top %s --no-color 2>talk; echo status=$?", folder, binary,
             live ? "--model tiny --device reference --context 64 --output 16 --method clsa,dense"
                  : "--replay one.pftrace --replay two.pftrace --speed max --sim-device H100");
    struct terminal *terminal = terminal_open(line, "C.UTF-8", rows, cols);
    CHECK(terminal_shows(terminal, live ? "decode tok/s" : "replay ended", PATIENCE_MS));
    CHECK(terminal_shows(terminal, "Where a decode step goes", PATIENCE_MS) || rows < 24);
    return terminal;
}

static bool screen_differs(struct terminal *terminal, const char *from, bool differs)
{
    struct timespec moment = {.tv_nsec = 20000000};
    for (int32_t waited = 0; waited < PATIENCE_MS; waited += 20) {
        char *screen = terminal_screen(terminal);
        bool met = (strcmp(screen, from) != 0) == differs;
        free(screen);
        if (met) {
            return true;
        }
        nanosleep(&moment, NULL);
    }
    return false;
}

static bool file_is_there(const char *name)
{
    char path[128];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (int32_t i = 0; i < 200; i++) {
        if (stat(path, &info) == 0 && info.st_size > 0) {
            return true;
        }
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return false;
}

static bool seen(struct terminal *terminal, const char *expect, const char *before, const char *first)
{
    switch (expect[0]) {
    case '!': return terminal_hides(terminal, expect + 1, PATIENCE_MS);
    case '~': return screen_differs(terminal, before, true);
    case '=': return screen_differs(terminal, first, false);
    case '^': return file_is_there(expect + 1);
    default: return terminal_shows(terminal, expect, PATIENCE_MS);
    }
}

static void run_check(struct terminal **terminal, const struct check *check, bool live)
{
    int32_t rows = check->rows ? check->rows : 40, cols = check->cols ? check->cols : 120;
    enum view view = check->view < 0 ? VIEW_OVERVIEW : (enum view)check->view;
    char view_key[2] = {(char)('1' + view), 0};
    if (!*terminal) {
        *terminal = start(live, rows, cols);
    }
    terminal_resize(*terminal, rows, cols);
    terminal_keys(*terminal, "Escape");
    terminal_keys(*terminal, view_key);
    for (int i = 0; i < (check->view == VIEW_TIMELINE ? 2 : 0); i++) {
        terminal_keys(*terminal, "Escape");    // nothing is selected
    }
    CHECK(terminal_shows(*terminal, view_title(view), PATIENCE_MS));
    nanosleep(&(struct timespec){.tv_nsec = 250000000}, NULL);    // the size and the view are on the screen by then
    char *first = terminal_screen(*terminal);
    for (const struct step *step = check->steps; step->keys; step++) {
        if (strcmp(step->keys, "RESTART") == 0) {
            terminal_close(*terminal);
            *terminal = start(live, rows, cols);
            continue;
        }
        char *before = terminal_screen(*terminal);
        if (strcmp(step->keys, "SCRIBBLE") == 0) {    // something that is not the dashboard writes on its terminal
            terminal_print(*terminal, "\033[Hscribble");
        } else if (step->keys[0] == '#') {
            terminal_bytes(*terminal, step->keys + 1);
        } else if (step->keys[0]) {
            terminal_keys(*terminal, step->keys);
        }
        if (!seen(*terminal, step->expect, before, first)) {
            char *screen = terminal_screen(*terminal);
            check_failed(__FILE__, __LINE__, "\"%s\" of %s: after \"%s\" expected \"%s\" but saw\n%s", check->keys,
                         check->view < 0 ? "everywhere" : view_name(view), step->keys, step->expect, screen);
            free(screen);
        }
        free(before);
    }
    free(first);
}

static bool in_help(const struct check *check, bool live)
{
    bool found = false;
    for (int32_t i = 0; i < ui_n_keys; i++) {
        found = found || (strcmp(ui_keys[i].keys, check->keys) == 0 && ui_keys[i].view == check->view &&
                          (live || !ui_keys[i].live_only));
    }
    return found;
}

static const struct check *find_check(const struct check *list, int32_t n, const struct ui_key_help *help)
{
    for (int32_t i = 0; i < n; i++) {
        if (strcmp(list[i].keys, help->keys) == 0 && list[i].view == help->view) {
            return &list[i];
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct terminal *terminal = NULL;
    check_begin();
    const char *path = getenv("CLSA_BINARY");
    if (!path || !terminal_available()) {
        return check_skip(path ? "tmux is missing or cannot open a terminal here"
                               : "CLSA_BINARY does not name the program");
    }
    snprintf(binary, sizeof binary, "%s", path);
    CHECK(mkdtemp(folder) != NULL);
    write_trace("one.pftrace", 1);
    write_trace("two.pftrace", 2);
    for (int32_t i = 0; i < ui_n_keys; i++) {
        const struct check *check = ui_keys[i].live_only ? find_check(live_checks, N_LIVE_CHECKS, &ui_keys[i])
                                                         : find_check(checks, N_CHECKS, &ui_keys[i]);
        CHECK_MESSAGE(check != NULL, "the help's key \"%s\" (%s) has no check", ui_keys[i].keys, ui_keys[i].does);
    }
    for (int32_t i = 0; i < N_CHECKS; i++) {
        CHECK_MESSAGE(in_help(&checks[i], false), "\"%s\" is not in the help", checks[i].keys);
        if (argc < 2 || strcmp(argv[1], checks[i].keys) == 0) {
            run_check(&terminal, &checks[i], false);
        }
    }
    terminal_close(terminal);
    terminal = NULL;
    for (int32_t i = 0; i < N_LIVE_CHECKS; i++) {
        CHECK_MESSAGE(in_help(&live_checks[i], true), "\"%s\" is not in the help", live_checks[i].keys);
        if (argc < 2 || strcmp(argv[1], live_checks[i].keys) == 0) {
            run_check(&terminal, &live_checks[i], true);
        }
    }
    terminal_close(terminal);
    char line[64];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    CHECK(system(line) == 0);
    return check_end();
}
