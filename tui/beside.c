// tui/beside.c - reading and aligning.
#include "tui/beside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/status.h"
#include "traces/trace.h"

int beside_add(struct beside *beside, const char *path)
{
    struct trace_stats stats = {0};
    const char *slash = strrchr(path, '/');
    if (beside->n == BESIDE_MAX) {
        return status_fail(-EINVAL, "%s: no room for more than %d traces beside the first", path, BESIDE_MAX);
    }
    struct beside_file *file = &beside->files[beside->n];
    *file = (struct beside_file){.timeline = NULL};
    snprintf(file->name, sizeof file->name, "%s", slash ? slash + 1 : path);
    int error = timeline_open(&file->timeline, TIMELINE_SPANS);
    if (error) {
        return error;
    }
    struct sample_sink sink = timeline_sink(file->timeline);
    error = trace_read(path, &sink, &stats);
    bool empty = timeline_first(file->timeline) == timeline_end(file->timeline);
    error = error && stats.truncated && !empty ? 0 : error;
    if (!error && empty) {
        error = status_fail(-EINVAL, "%s: no steps in it; clsa profile writes traces that have some", path);
    }
    if (error) {
        timeline_close(file->timeline);
        return error;
    }
    beside->n++;
    beside->step = -1;
    return 0;
}

void beside_close(struct beside *beside)
{
    for (int32_t i = 0; i < beside->n; i++) {
        timeline_close(beside->files[i].timeline);
    }
    beside->n = 0;
}

void beside_align(struct beside *beside, const struct timeline *timeline, int64_t step)
{
    const struct timeline_step *on = timeline_step(timeline, step);
    beside->step = step;
    for (int32_t i = 0; i < beside->n; i++) {
        struct beside_file *file = &beside->files[i];
        int64_t same = timeline_first(file->timeline), end = timeline_end(file->timeline);
        for (int64_t s = same; s < end; s++) {
            if (timeline_step(file->timeline, s)->number == on->number) {
                same = s;
                break;
            }
        }
        file->step = same;
        file->offset_ns = on->begin_ns - timeline_step(file->timeline, same)->begin_ns;
    }
}
