// tui/settings.h - what the user likes to begin with: a file of "name = value" lines in the configuration folder.
//
// $XDG_CONFIG_HOME/clsa/top.conf, or ~/.config/clsa/top.conf. A file that is not there is no error.
#pragma once

#include "tui/keys.h"

struct settings {
    enum view view;
    enum phase phase;
    int32_t refresh;           // index into ui_refresh_hz
    int32_t theme;
    bool ascii, mouse;
    bool no_braille;           // curves of blocks
};

struct settings settings_default(void);
int settings_path(char *path, size_t bytes);                  // -EINVAL: no home
// -EINVAL names the line and what was expected; *settings then holds what came before it.
int settings_read(struct settings *settings, const char *path);
int settings_write(const struct settings *settings, const char *path);    // makes the folder
