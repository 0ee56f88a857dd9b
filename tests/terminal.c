// tests/terminal.c - tmux through its command line.
#include "tests/terminal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct terminal {
    char folder[64];    // of the socket
};

bool terminal_available(void)
{
    // Installed is not enough: without a mounted /dev/pts it cannot open a terminal.
    char probe[256];
    snprintf(probe, sizeof probe,
             "TMUX= tmux -L clsa-probe-%ld -f /dev/null new-session -d 'sleep 5' \\; kill-server >/dev/null 2>&1",
             (long)getpid());
    return system(probe) == 0;
}

// Runs a tmux command; returns what it printed, to be freed.
static char *tmux(const struct terminal *terminal, const char *arguments)
{
    size_t bytes = 1 << 17, length = 0;
    char *command = malloc(strlen(arguments) + 256), *output = malloc(bytes);
    if (!command || !output) {
        abort();
    }
    sprintf(command, "TMUX= tmux -S %s/socket -f /dev/null %s 2>/dev/null", terminal->folder, arguments);
    FILE *stream = popen(command, "r");
    if (stream) {
        length = fread(output, 1, bytes - 1, stream);
        pclose(stream);
    }
    output[length] = 0;
    free(command);
    return output;
}

struct terminal *terminal_open(const char *command, const char *locale, int32_t rows, int32_t cols)
{
    struct terminal *terminal = calloc(1, sizeof *terminal);
    char *arguments = malloc(strlen(command) + 512), path[128];
    if (!terminal || !arguments) {
        abort();
    }
    strcpy(terminal->folder, "/tmp/clsa-terminal-XXXXXX");
    if (!mkdtemp(terminal->folder)) {
        abort();
    }
    // The line goes through a file: tmux and the shell would each want it quoted.
    snprintf(path, sizeof path, "%s/line", terminal->folder);
    FILE *line = fopen(path, "w");
    if (!line) {
        abort();
    }
    fprintf(line, "export LC_ALL=%s\n%s\nsleep 1000\n", locale, command);
    fclose(line);
    sprintf(arguments, "-u new-session -d -x %d -y %d 'exec sh %s' \\; set -g status off \\; set -g escape-time 0",
            cols, rows, path);
    free(tmux(terminal, arguments));
    terminal_resize(terminal, rows, cols);    // the status line took a row
    free(arguments);
    return terminal;
}

void terminal_close(struct terminal *terminal)
{
    if (terminal) {
        char path[128];
        free(tmux(terminal, "kill-server"));
        snprintf(path, sizeof path, "%s/line", terminal->folder);
        unlink(path);
        snprintf(path, sizeof path, "%s/socket", terminal->folder);
        unlink(path);
        rmdir(terminal->folder);
        free(terminal);
    }
}

void terminal_keys(struct terminal *terminal, const char *keys)
{
    char arguments[1024];
    snprintf(arguments, sizeof arguments, "send-keys -- '%s'", keys);
    free(tmux(terminal, arguments));
}

void terminal_bytes(struct terminal *terminal, const char *hex)
{
    char arguments[256];
    snprintf(arguments, sizeof arguments, "send-keys -H %s", hex);
    free(tmux(terminal, arguments));
}

void terminal_print(struct terminal *terminal, const char *text)
{
    char *path = tmux(terminal, "display-message -p '#{pane_tty}'");
    path[strcspn(path, "\n")] = 0;
    FILE *stream = *path ? fopen(path, "we") : NULL;
    if (stream) {
        fputs(text, stream);
        fclose(stream);
    }
    free(path);
}

void terminal_resize(struct terminal *terminal, int32_t rows, int32_t cols)
{
    char arguments[64];
    snprintf(arguments, sizeof arguments, "resize-window -x %d -y %d", cols, rows);
    free(tmux(terminal, arguments));
}

char *terminal_screen(struct terminal *terminal)
{
    return tmux(terminal, "capture-pane -p");
}

static bool wait_for(struct terminal *terminal, const char *text, bool shown, int32_t timeout_ms)
{
    struct timespec pause = {.tv_nsec = 30000000};    // 30 ms: tmux itself takes a few
    for (int32_t waited = 0; waited <= timeout_ms; waited += 30) {
        char *screen = terminal_screen(terminal);
        bool found = strstr(screen, text) != NULL;
        free(screen);
        if (found == shown) {
            return true;
        }
        nanosleep(&pause, NULL);
    }
    return false;
}

bool terminal_shows(struct terminal *terminal, const char *text, int32_t timeout_ms)
{
    return wait_for(terminal, text, true, timeout_ms);
}

bool terminal_hides(struct terminal *terminal, const char *text, int32_t timeout_ms)
{
    return wait_for(terminal, text, false, timeout_ms);
}

int64_t terminal_number(struct terminal *terminal, const char *variable)
{
    char arguments[128];
    snprintf(arguments, sizeof arguments, "display-message -p '#{%s}'", variable);
    char *output = tmux(terminal, arguments);
    int64_t value = *output ? strtoll(output, NULL, 10) : -1;
    free(output);
    return value;
}
