// cli/progress.h - one line on the terminal while work lasts longer than a second; nothing when stderr is no terminal.
#pragma once

#include <stdint.h>

struct progress {
    const char *label;       // "clsa: prefill"; borrowed
    int64_t total;
    double begin_s, shown_s;
    int width;               // of the line on the screen, 0: none
};

void progress_begin(struct progress *progress, const char *label, int64_t total);
void progress_update(struct progress *progress, int64_t done);    // at most ten times a second
void progress_end(struct progress *progress);                     // clears the line
