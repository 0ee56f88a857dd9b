// tui/draw.h - cells on a terminal: the only part that knows curses.
//
// One terminal per process. Whatever ends the program, the terminal is given back as it was: close, exit(), and fatal
// signals restore it. SIGINT, SIGTERM and SIGHUP only set a flag while it is open. Without colour (NO_COLOR,
// --no-color, a terminal that has none) roles show as bold and reverse; without UTF-8, glyphs as ASCII.
#pragma once

#include "tui/cells.h"
#include "tui/keys.h"

struct draw_options {
    bool ascii, no_color, mouse;
};

// -EINVAL if the terminal cannot place its cursor (TERM=dumb) or is unknown; the text says what to do.
int draw_open(const struct draw_options *options);
void draw_close(void);    // harmless when not open

bool draw_color(void);
void draw_theme(int32_t theme);    // theme.h
void draw_size(int32_t *rows, int32_t *cols);
void draw_again(void);    // the next draw_cells writes every cell, whatever the terminal is thought to show
void draw_cells(const struct cells *cells);

// Waits for a key until `timeout_ms` have passed, the terminal has another size, or a signal came. A character or an
// enum key; KEY_NONE if there was none.
int32_t draw_key(int32_t timeout_ms);

struct pointer draw_pointer(void);    // after KEY_POINTER

bool draw_interrupted(void);    // a signal asks to quit, or the terminal is gone
