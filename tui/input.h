// tui/input.h - a line that is being typed: a filter, a command, a figure.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { INPUT_BYTES = 128 };

enum input_mode { INPUT_NONE, INPUT_FILTER, INPUT_COMMAND, INPUT_VALUE, INPUT_HELP };

struct input {
    enum input_mode mode;
    char text[INPUT_BYTES];    // ASCII
    int32_t length, cursor;
};

enum input_result { INPUT_IGNORED, INPUT_TYPED, INPUT_DONE, INPUT_CANCELLED };

void input_begin(struct input *input, enum input_mode mode, const char *text);    // `text` is there already
void input_end(struct input *input);

// What the key did. Return ends the line, Escape gives it up; the text stays until input_end.
enum input_result input_key(struct input *input, int32_t key);
