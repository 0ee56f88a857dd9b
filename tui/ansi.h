// tui/ansi.h - a grid of cells as text with colours: what a terminal of 256 colours would show.
//
// ECMA-48 sequences (SGR), so that `cat`, `less -R` and documentation can show a snapshot as the dashboard looks.
#pragma once

#include "tui/cells.h"

// Lines without trailing spaces, each beginning and ending in the terminal's own colours; to be freed by the caller.
// NULL: no memory.
char *ansi_of(const struct cells *cells, bool ascii, int32_t theme);
