// tui/keys.h - what the user looks at, and what each key does to it.
//
// Keys change a struct ui; what they ask of whoever runs the engine (or the replay) comes back as a value, a command.
// No curses, no clock.
#pragma once

#include "tui/layout.h"
#include "tui/state.h"

enum key {    // beside plain characters
    KEY_NONE = -1,
    KEY_ARROW_UP = 0x110000, KEY_ARROW_DOWN, KEY_BACK_TAB, KEY_PAGE_FORWARD, KEY_PAGE_BACK, KEY_QUIT, KEY_HELP_ME
};

enum command {
    COMMAND_NONE,
    COMMAND_PAUSE,
    COMMAND_RESUME,
    COMMAND_STEP,          // one step, then pause again
    COMMAND_METHOD,        // run `method` only; "": all in turn
    COMMAND_K_UP, COMMAND_K_DOWN,            // double and halve the budget of selected tokens
    COMMAND_BATCH_UP, COMMAND_BATCH_DOWN     // double and halve the sequences of a batch
};

struct request_to_owner {
    enum command command;
    char method[SOURCE_NAME_BYTES];
};

struct ui {
    enum view view;
    enum phase phase;              // what Overview and Compare show: prefill or decode
    bool help, quit, paused, reverse;
    bool live;                     // an engine runs: k and batch can change
    int32_t pinned;                // the method shown; -1: the one that runs
    int32_t baseline;              // what speed-ups refer to; -1: dense, or the first
    int32_t sort[VIEW_COUNT];      // column; 0: as it comes
    int32_t scroll;                // lines; views clamp it to what there is
    int32_t refresh;               // index into ui_refresh_hz; -1: drawn once
    int64_t dropped;               // samples that the feed lost
    char origin[64];               // "live", "replay 42%"
};

enum { UI_REFRESHES = 6 };
extern const int32_t ui_refresh_hz[UI_REFRESHES];

struct ui ui_default(void);

// The method that is shown, and the one that speed-ups refer to; -1 if there is none yet.
int32_t ui_method(const struct ui *ui, const struct state *state);
int32_t ui_baseline(const struct ui *ui, const struct state *state);

struct request_to_owner ui_key(struct ui *ui, const struct state *state, int32_t key);

// What --help and the help overlay list.
struct ui_key_help {
    const char *keys, *does;
    bool live_only;
};
extern const struct ui_key_help ui_keys[];
extern const int32_t ui_n_keys;

const char *view_name(enum view view);                       // "overview"
int view_from_name(enum view *out, const char *name);        // -EINVAL and a text that lists the names
