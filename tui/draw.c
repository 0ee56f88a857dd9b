// tui/draw.c - ncursesw: cells out, keys in.
//
// The sequences that restore a terminal are fetched when it is opened, so that a handler of a fatal signal needs only
// write() and tcsetattr(), which are safe there.
#include "tui/draw.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define NCURSES_WIDECHAR 1
#include <curses.h>
#include <term.h>

#include "engine/status.h"
#include "tui/keys.h"
#include "tui/theme.h"

static const int quit_signals[] = {SIGINT, SIGTERM, SIGHUP};
static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
enum { N_QUIT = 3, N_FATAL = 5 };

static struct {
    volatile sig_atomic_t open, interrupted;
    SCREEN *screen;
    bool ascii, color, at_exit;
    int32_t theme;
    struct pointer pointer;
    struct sigaction old_quit[N_QUIT], old_fatal[N_FATAL];
    struct termios before;
    char restore[128];
    size_t restore_bytes;
} terminal;

static void on_quit(int signal_number)
{
    (void)signal_number;
    terminal.interrupted = 1;
}

static void on_fatal(int signal_number)
{
    if (terminal.open) {
        terminal.open = 0;
        ssize_t written = write(STDOUT_FILENO, terminal.restore, terminal.restore_bytes);
        (void)written;    // nothing could be done about it here
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal.before);
    }
    for (int i = 0; i < N_FATAL; i++) {
        if (fatal_signals[i] == signal_number) {
            sigaction(signal_number, &terminal.old_fatal[i], NULL);
        }
    }
    raise(signal_number);    // delivered to whoever had it before, once this handler returns
}

static void add_text(const char *text)
{
    if (terminal.restore_bytes + strlen(text) <= sizeof terminal.restore) {
        memcpy(terminal.restore + terminal.restore_bytes, text, strlen(text));
        terminal.restore_bytes += strlen(text);
    }
}

static void add_sequence(const char *capability)
{
    const char *sequence = tigetstr((NCURSES_CONST char *)capability);
    if (sequence && sequence != (const char *)-1) {
        add_text(sequence);
    }
}

static void catch_signals(void)
{
    struct sigaction quit = {.sa_handler = on_quit}, fatal = {.sa_handler = on_fatal};    // no SA_RESTART: waits end
    terminal.interrupted = 0;
    for (int i = 0; i < N_QUIT; i++) {
        sigaction(quit_signals[i], &quit, &terminal.old_quit[i]);
    }
    for (int i = 0; i < N_FATAL; i++) {
        sigaction(fatal_signals[i], &fatal, &terminal.old_fatal[i]);
    }
}

static void set_colors(bool wanted)
{
    const char *no_color = getenv("NO_COLOR");
    terminal.color = wanted && !(no_color && *no_color) && has_colors() && start_color() == OK;
    if (!terminal.color) {
        return;
    }
    use_default_colors();
    terminal.theme = -1;
    draw_theme(0);
}

void draw_theme(int32_t theme)
{
    if (!terminal.color || theme == terminal.theme) {
        return;
    }
    for (short role = 0; role < ROLE_COUNT; role++) {
        init_pair((short)(role + 1), theme_color(theme, (enum role)role, COLORS >= 256), -1);
    }
    terminal.theme = theme;
}

// Why curses cannot work here, or NULL.
static const char *what_is_missing(void)
{
    const char *address = tigetstr((NCURSES_CONST char *)"cup");
    return !address || address == (const char *)-1 ? "this terminal cannot place its cursor" : NULL;
}

int draw_open(const struct draw_options *options)
{
    setlocale(LC_CTYPE, "");
    const char *name = getenv("TERM");
    if (tcgetattr(STDIN_FILENO, &terminal.before) != 0) {
        return status_fail(-EINVAL, "standard input is no terminal; use --snapshot overview");
    }
    terminal.screen = newterm(NULL, stdout, stdin);
    const char *missing = terminal.screen ? what_is_missing() : "this terminal is not known here";
    if (missing) {
        if (terminal.screen) {
            endwin();
            delscreen(terminal.screen);
        }
        return status_fail(-EINVAL, "TERM=%s: %s; try TERM=xterm-256color, or --snapshot overview", name ? name : "",
                           missing);
    }
    terminal.restore_bytes = 0;
    add_sequence("sgr0");
    add_sequence("cnorm");
    add_sequence("rmkx");
    add_text("\033[?1000l\033[?1006l");    // the mouse as it was, for terminals that were asked for it
    add_sequence("rmcup");
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, true);
    nodelay(stdscr, true);
    curs_set(0);
    set_escdelay(25);    // ms: a lone Escape is told from a key's sequence at once
    if (options->mouse) {
        mousemask(BUTTON1_PRESSED | BUTTON4_PRESSED | BUTTON5_PRESSED, NULL);
        mouseinterval(0);    // a press is told at once, not kept for the click that it may become
    }
    set_colors(!options->no_color);
    terminal.ascii = options->ascii || strcmp(nl_langinfo(CODESET), "UTF-8") != 0;
    catch_signals();
    terminal.open = 1;
    if (!terminal.at_exit) {
        terminal.at_exit = atexit(draw_close) == 0;
    }
    return 0;
}

void draw_close(void)
{
    if (!terminal.open) {
        return;
    }
    terminal.open = 0;
    endwin();
    delscreen(terminal.screen);
    terminal.screen = NULL;
    for (int i = 0; i < N_QUIT; i++) {
        sigaction(quit_signals[i], &terminal.old_quit[i], NULL);
    }
    for (int i = 0; i < N_FATAL; i++) {
        sigaction(fatal_signals[i], &terminal.old_fatal[i], NULL);
    }
}

bool draw_color(void)
{
    return terminal.color;
}

void draw_size(int32_t *rows, int32_t *cols)
{
    *rows = (int32_t)getmaxy(stdscr);
    *cols = (int32_t)getmaxx(stdscr);
}

void draw_cells(const struct cells *cells)
{
    for (int32_t row = 0; row < cells->rows; row++) {
        for (int32_t col = 0; col < cells->cols; col++) {
            const struct cell *cell = &cells->cell[(int64_t)row * cells->cols + col];
            wchar_t text[2] = {(wchar_t)(terminal.ascii ? cells_ascii(cell->glyph) : cell->glyph), 0};
            attr_t attributes = (cell->attributes & ATTRIBUTE_BOLD ? A_BOLD : A_NORMAL) |
                                (cell->attributes & ATTRIBUTE_REVERSE ? A_REVERSE : A_NORMAL) |
                                (cell->attributes & ATTRIBUTE_UNDERLINE ? A_UNDERLINE : A_NORMAL);
            cchar_t character;
            if (setcchar(&character, text, attributes, terminal.color ? (short)(cell->role + 1) : 0, NULL) == OK) {
                mvadd_wch(row, col, &character);
            }
        }
    }
    refresh();
}

void draw_again(void)
{
    clearok(curscr, true);
}

static int32_t translate_mouse(void)
{
    MEVENT event;
    if (getmouse(&event) != OK) {
        return KEY_NONE;
    }
    terminal.pointer = (struct pointer){
        .action = event.bstate & BUTTON1_PRESSED   ? POINTER_PRESS
                  : event.bstate & BUTTON4_PRESSED ? POINTER_WHEEL_UP
                  : event.bstate & BUTTON5_PRESSED ? POINTER_WHEEL_DOWN : POINTER_NONE,
        .row = event.y, .col = event.x};
    return KEY_POINTER;
}

struct pointer draw_pointer(void)
{
    return terminal.pointer;
}

static int32_t translate(int key)
{
    switch (key) {
    case KEY_MOUSE: return translate_mouse();
    case KEY_UP: return KEY_ARROW_UP;
    case KEY_DOWN: return KEY_ARROW_DOWN;
    case KEY_BTAB: return KEY_BACK_TAB;
    case KEY_LEFT: return KEY_ARROW_LEFT;
    case KEY_RIGHT: return KEY_ARROW_RIGHT;
    case KEY_HOME: return KEY_TO_BEGIN;
    case KEY_END: return KEY_TO_END;
    case KEY_DC: return KEY_REMOVE;
    case KEY_BACKSPACE: case '\b': return KEY_ERASE;
    case KEY_ENTER: case '\r': return KEY_RETURN;
    case KEY_NPAGE: return KEY_PAGE_FORWARD;
    case KEY_PPAGE: return KEY_PAGE_BACK;
    case KEY_F(10): return KEY_QUIT;
    case KEY_F(1): return KEY_HELP_ME;
    default: return key > 0 && key <= KEY_ERASE ? key : KEY_NONE;    // a resize has done its work inside getch
    }
}

int32_t draw_key(int32_t timeout_ms)
{
    int key = getch();    // first what curses holds back already
    if (key == ERR && timeout_ms > 0) {
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&input, 1, timeout_ms) > 0 && (input.revents & (POLLHUP | POLLERR | POLLNVAL)) &&
            !(input.revents & POLLIN)) {
            terminal.interrupted = 1;    // the terminal is gone: waiting for it would spin
            return KEY_NONE;
        }
        key = getch();
    }
    return translate(key);
}

bool draw_interrupted(void)
{
    return terminal.interrupted != 0;
}
