// tests/terminal.h - a program on a real terminal: tmux on a socket of its own, keys in, screens out.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct terminal;

bool terminal_available(void);    // whether tmux is there and works

// Runs `command` (a shell line) on a terminal of that size, with LC_ALL=locale. What it prints after the program
// ends stays on the screen. NULL on failure.
struct terminal *terminal_open(const char *command, const char *locale, int32_t rows, int32_t cols);
void terminal_close(struct terminal *terminal);    // NULL-safe; ends the server and all that runs in it

void terminal_keys(struct terminal *terminal, const char *keys);    // as tmux names them: "q", "Tab", "F10"
void terminal_bytes(struct terminal *terminal, const char *hex);     // as they are: "1b 5b 4d"
void terminal_print(struct terminal *terminal, const char *text);     // as if another program wrote there
void terminal_resize(struct terminal *terminal, int32_t rows, int32_t cols);
char *terminal_screen(struct terminal *terminal);                  // lines without trailing spaces; to be freed

// Waits until the screen shows `text`, or does not.
bool terminal_shows(struct terminal *terminal, const char *text, int32_t timeout_ms);
bool terminal_hides(struct terminal *terminal, const char *text, int32_t timeout_ms);

// What tmux says of the terminal: "alternate_on", "cursor_flag", "pane_pid".
int64_t terminal_number(struct terminal *terminal, const char *variable);
