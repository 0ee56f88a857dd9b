// tui/dashboard.h - the dashboard: a stream of samples in, a screen out, until the user quits.
//
// Runs in the caller's thread. It asks the stream for what has come at most as often as it redraws, and redraws only
// when something changed. Where the samples come from (a running engine, a file) is the stream's business.
#pragma once

#include <stddef.h>

#include "tui/settings.h"

struct dashboard_stream {
    void *user;
    // Hands over what is there by now; returns the number of samples, or a negative errno that ends the dashboard.
    int64_t (*pump)(void *user, int64_t now_ns, const struct sample_sink *to);
    // `told` [told_bytes] gets what is different from now on ("k 512"), or why nothing is, which begins with a '!'; ""
    // where nobody need be told.
    void (*command)(void *user, const struct request_to_owner *request, const struct sample_sink *to, char *told,
                    size_t told_bytes);
    bool (*notice)(void *user, char *text, size_t bytes);  // something to be told since; may be NULL
    int64_t (*dropped)(void *user);                        // samples lost on the way; may be NULL
    void (*origin)(void *user, char *text, size_t bytes);  // "live", "replay 42%"
    // Where options.device is NULL: the device, once it is known; until then NULL. Asked once a frame. May be NULL.
    const struct device *(*device)(void *user);
};

struct dashboard_options {
    const struct device *device;    // for floors and predictions; NULL: unknown
    struct settings settings;       // to begin with
    bool live, attached, no_color;  // attached: the engine is another process
    struct beside *beside;          // recordings beside the one that is played; borrowed. NULL: none
    struct routing *routing;        // selections of the running engine; borrowed. NULL: none
    const char *script;             // keys to press before the user does (script.h); NULL: none
};

// 0 when the user quits, by key or signal; -EINVAL if there is no terminal to draw on.
int dashboard_run(const struct dashboard_stream *stream, const struct dashboard_options *options);

struct snapshot_options {
    const char *script;    // keys pressed before (script.h); NULL: none
    int32_t rows, cols;
    bool ascii, no_braille;
    bool color;            // with colours of the ui's theme (ansi.h)
};

// One view of a state as text, to be freed by the caller.
int dashboard_snapshot(char **out, const struct state *state, const struct ui *ui,
                       const struct snapshot_options *options);
