// cli/progress.c - a bar on stderr.
#include "cli/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void progress_begin(struct progress *progress, const char *label, int64_t total)
{
    double now = now_s();
    *progress = (struct progress){.label = label, .total = total, .begin_s = now, .shown_s = now};
}

void progress_update(struct progress *progress, int64_t done)
{
    double now = now_s();
    if (now - progress->begin_s < 1.0 || now - progress->shown_s < 0.1 || !isatty(STDERR_FILENO)) {
        return;
    }
    enum { BAR = 24 };
    char bar[BAR + 1];
    double part = progress->total > 0 ? (double)done / (double)progress->total : 0;
    for (int i = 0; i < BAR; i++) {
        bar[i] = (double)i < part * BAR ? '#' : '.';
    }
    bar[BAR] = 0;
    double left_s = part > 0 ? (now - progress->begin_s) * (1 - part) / part : 0;
    int width = fprintf(stderr, "\r%s [%s] %3.0f%%  %.0f s left", progress->label, bar, 100 * part, left_s);
    fprintf(stderr, "%*s", progress->width > width ? progress->width - width : 0, "");
    fflush(stderr);
    progress->width = width;
    progress->shown_s = now;
}

void progress_end(struct progress *progress)
{
    if (progress->width > 0) {
        fprintf(stderr, "\r%*s\r", progress->width + 8, "");
        fflush(stderr);
        progress->width = 0;
    }
}
