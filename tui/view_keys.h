// tui/view_keys.h - keys that mean something special in one view. Part of keys.
#pragma once

#include "tui/keys.h"

// False: the key means there what it means everywhere.
bool view_key(struct ui *ui, const struct state *state, int32_t key);

bool view_has_filter(enum view view);

// A text was typed to the end: a search begins, a figure is taken.
void view_typed(struct ui *ui, const struct state *state);

// A text is being typed: what it says so far is shown at once. `ends`: it was given up, and nothing of it stays.
void view_typing(struct ui *ui, bool ends);
