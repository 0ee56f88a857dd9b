// tui/script.h - keys written as text: "4++<Right>/ffn<Enter>".
//
// A character stands for itself, a name in angle brackets for a key that has no character; "<lt>" for "<".
#pragma once

#include <stdint.h>

// Takes one key off the text; KEY_NONE at its end or where an unknown name stands.
int32_t script_next(const char **text);
int script_check(const char *text);    // -EINVAL names what is unknown, and lists the names
