// tui/theme.h - which colour a role has, by theme and by what the terminal can show.
#pragma once

#include "tui/cells.h"

enum { THEME_COUNT = 3 };

const char *theme_name(int32_t theme);         // "dark", "light", "contrast"
int32_t theme_find(const char *name);          // -1: none
// A colour of the 256-colour palette, or of the 8 that every colour terminal has; -1: the terminal's own.
int16_t theme_color(int32_t theme, enum role role, bool many);
