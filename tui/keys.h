// tui/keys.h - what the user looks at, and what each key does to it.
//
// Keys change a struct ui; what they ask of whoever runs the engine (or the replay), or of the dashboard itself, comes
// back as a value, a command. No curses, no clock, no files.
#pragma once

#include "tui/beside.h"
#include "tui/input.h"
#include "tui/layout.h"
#include "tui/routing.h"
#include "tui/state.h"
#include "tui/sweep.h"
#include "tui/timeline_look.h"
#include "tui/whatif.h"

enum key {    // beside plain characters
    KEY_NONE = -1,
    KEY_RETURN = '\n', KEY_ESCAPE = 27, KEY_ERASE = 127,
    KEY_ARROW_UP = 0x110000, KEY_ARROW_DOWN, KEY_ARROW_LEFT, KEY_ARROW_RIGHT, KEY_BACK_TAB, KEY_PAGE_FORWARD,
    KEY_PAGE_BACK, KEY_TO_BEGIN, KEY_TO_END, KEY_REMOVE, KEY_POINTER, KEY_QUIT, KEY_HELP_ME
};

enum command {
    COMMAND_NONE,
    // Of the owner of the stream.
    COMMAND_PAUSE,
    COMMAND_RESUME,
    COMMAND_STEP,          // one step, then pause again
    COMMAND_METHOD,        // run `method` only; "": all in turn
    COMMAND_K_UP, COMMAND_K_DOWN,            // double and halve the budget of selected tokens
    COMMAND_BATCH_UP, COMMAND_BATCH_DOWN,    // double and halve the sequences of a batch
    COMMAND_CONTEXT_UP, COMMAND_CONTEXT_DOWN,    // double and halve the prompts
    COMMAND_INDEX_SHARING, // the next number of layers that follow one indexer
    COMMAND_ENGINE,        // `text` is a knob of the engine and its value: "k 512", "device cuda"
    COMMAND_COVERAGE,      // begin or end to measure what selections hold of dense attention
    // Of the dashboard itself; `text` is a path, "": one that it makes up.
    COMMAND_EXPORT,        // the view, to a file
    COMMAND_RECORD,        // begin or end a trace
    COMMAND_REDRAW,        // the whole screen: something else has written on it
    COMMAND_DUMP,          // write the last seconds as a trace
    COMMAND_SAVE_SETTINGS
};

struct request_to_owner {
    enum command command;
    char method[SOURCE_NAME_BYTES];
    char text[INPUT_BYTES];
};

// A button of the mouse went down somewhere, or its wheel was turned.
enum pointer_action { POINTER_NONE, POINTER_PRESS, POINTER_WHEEL_UP, POINTER_WHEEL_DOWN };
struct pointer {
    enum pointer_action action;
    int32_t row, col;
};

struct ui {
    enum view view;
    enum phase phase;              // what Overview and Compare show: prefill or decode
    bool help, quit, paused, reverse;
    bool attached;                 // the engine is another process: it cannot be paused from here
    bool live;                     // an engine runs: k and batch can change
    int32_t pinned;                // the method shown; -1: the one that runs
    int32_t baseline;              // what speed-ups refer to; -1: dense, or the first
    int32_t sort[VIEW_COUNT];      // column; 0: as it comes
    int32_t scroll;                // lines; views clamp it to what there is
    int32_t refresh;               // index into ui_refresh_hz; -1: drawn once
    int64_t dropped;               // samples that the feed lost
    int32_t silent_s;              // a running engine has told nothing for so long
    char origin[64];               // "live", "replay 42%"
    char message[INPUT_BYTES + 64];    // what the last key led to, until the next one; "": nothing to tell
    struct input input;            // the line that is being typed
    char filter[VIEW_COUNT][INPUT_BYTES];    // what a view shows only, or searches for; "": no filter
    int32_t help_scroll;
    struct timeline_look timeline;
    int32_t theme;
    bool recording;
    int32_t tab_ends[VIEW_COUNT];  // columns where the tabs ended when drawn last, for the pointer
    struct rect timeline_columns;  // where its tracks were drawn last, for the pointer
    int32_t timeline_request_rows;
    bool blocks;                   // Routing shows the blocks that would hold most of a selection
    enum sweep_over curves;        // Compare shows them instead of bars
    struct sweep sweep;            // as drawn last
    bool kernels;                  // Stages shows those of the selected stage
    int32_t stage;                 // selected in Stages; -1: the one with the greatest share
    int64_t request;               // selected, by its place in the log; -1: the first shown
    const struct routing_snapshot *routing;    // borrowed; NULL: no selections come
    struct beside *beside;         // borrowed; NULL: one recording, or a live stream
    struct whatif *whatif;         // borrowed; NULL: the view has nothing to show
    struct scenario before_typing; // what comes back when a value is given up
};

enum { UI_REFRESHES = 6 };
extern const int32_t ui_refresh_hz[UI_REFRESHES];

struct ui ui_default(void);

// The method that is shown, and the one that speed-ups refer to; -1 if there is none yet.
int32_t ui_method(const struct ui *ui, const struct state *state);
int32_t ui_baseline(const struct ui *ui, const struct state *state);

struct request_to_owner ui_key(struct ui *ui, const struct state *state, int32_t key);
struct request_to_owner ui_pointer(struct ui *ui, const struct state *state, const struct pointer *pointer);

// What --help and the help overlay list: the keys of everywhere, then those of the view.
struct ui_key_help {
    const char *keys, *does;
    int32_t view;                  // enum view; -1: everywhere
    bool live_only;
};
extern const struct ui_key_help ui_keys[];
extern const int32_t ui_n_keys;
bool ui_key_listed(const struct ui *ui, int32_t index);    // whether help shows it: this view's, and by what was typed

const char *view_name(enum view view);                       // "overview"
const char *view_title(enum view view);                      // "Overview"
const char *view_names(void);                                // "overview, compare, ..."
int view_from_name(enum view *out, const char *name);        // -EINVAL and a text that lists the names
