// tui/export.h - what a view shows, as a file: the screen as text, its figures as CSV or JSON.
//
// The ending of the path decides. Files appear whole or not at all. Unknown figures are empty in CSV, null in JSON.
#pragma once

#include "tui/keys.h"

// `screen` is the view as text, for .txt. -EINVAL for another ending, or a view that has no figures.
int export_view(const char *path, const struct state *state, const struct ui *ui, const char *screen);
