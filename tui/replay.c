// tui/replay.c - a trace in memory and the clock that plays it.
#include "tui/replay.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"
#include "traces/trace.h"
#include "tui/event.h"
#include "tui/name_table.h"

struct replay {
    struct event *events;                // [n_events], owned
    int64_t *due_ns;                     // [n_events], owned; ascending
    int64_t n_events, capacity, next;
    struct sample_source *sources;       // [n_sources], owned
    int64_t n_sources, source_capacity;
    struct name_table *names;            // owned
    double speed;
    int64_t clock_ns;                    // of the file
    int64_t last_now_ns;
    bool started, paused, cut, out_of_memory;
};

static void add(struct replay *replay, const struct event *event)
{
    if (replay->n_events == replay->capacity) {
        int64_t capacity = replay->capacity ? 2 * replay->capacity : 4096;
        struct event *grown = realloc(replay->events, (size_t)capacity * sizeof *grown);
        if (!grown) {
            replay->out_of_memory = true;
            return;
        }
        replay->events = grown;
        replay->capacity = capacity;
    }
    replay->events[replay->n_events++] = *event;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct replay *replay = user;
    if (replay->n_sources == replay->source_capacity) {
        int64_t capacity = replay->source_capacity ? 2 * replay->source_capacity : 16;
        struct sample_source *grown = realloc(replay->sources, (size_t)capacity * sizeof *grown);
        if (!grown) {
            replay->out_of_memory = true;
            return;
        }
        replay->sources = grown;
        replay->source_capacity = capacity;
    }
    replay->sources[replay->n_sources] = *source;
    add(replay, &(struct event){.kind = EVENT_SOURCE, .of.source = replay->n_sources++});
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    add(user, &(struct event){.kind = EVENT_STAGE, .of.stage = *sample});
}

static void on_step(void *user, const struct step_sample *sample)
{
    add(user, &(struct event){.kind = EVENT_STEP, .of.step = *sample});
}

static void on_request(void *user, const struct request_sample *sample)
{
    add(user, &(struct event){.kind = EVENT_REQUEST, .of.request = *sample});
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct replay *replay = user;
    struct event event = {.kind = EVENT_KERNEL, .of.kernel = *sample};
    event.of.kernel.name = name_table_keep(replay->names, sample->name);
    add(replay, &event);
}

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    struct replay *replay = user;
    struct event event = {.kind = EVENT_GAUGE, .of.gauge = *sample};
    event.of.gauge.name = name_table_keep(replay->names, sample->name);
    event.of.gauge.unit = name_table_keep(replay->names, sample->unit);
    add(replay, &event);
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    add(user, &(struct event){.kind = EVENT_COUNTER, .of.counter = *sample});
}

// The file's order stays: it puts stages before their step. A sample that is older than one before it is due with that.
static int make_due(struct replay *replay)
{
    replay->due_ns = malloc((size_t)(replay->n_events + 1) * sizeof *replay->due_ns);
    if (!replay->due_ns || replay->out_of_memory) {
        return status_fail(-ENOMEM, "out of memory for the trace's %lld samples", (long long)replay->n_events);
    }
    int64_t due_ns = INT64_MIN;
    for (int64_t i = 0; i < replay->n_events; i++) {
        int64_t time_ns = event_time_ns(&replay->events[i]);
        due_ns = time_ns > due_ns ? time_ns : due_ns;
        replay->due_ns[i] = due_ns;
    }
    return 0;
}

int replay_open(struct replay **out, const char *path, double speed)
{
    *out = NULL;
    struct replay *replay = calloc(1, sizeof *replay);
    if (!replay) {
        return status_fail(-ENOMEM, "out of memory for a replay");
    }
    replay->speed = speed;
    struct sample_sink sink = {.user = replay, .source = on_source, .stage = on_stage, .step = on_step,
                               .request = on_request, .counter = on_counter, .kernel = on_kernel, .gauge = on_gauge};
    struct trace_stats stats = {0};
    int error = name_table_open(&replay->names);
    error = error ? error : trace_read(path, &sink, &stats);
    if (error && stats.truncated && replay->n_events > 0) {
        replay->cut = true;
        error = 0;
    }
    if (!error && replay->n_events == 0) {
        error = status_fail(-EINVAL, "%s: no samples in it; clsa profile writes traces that have some", path);
    }
    error = error ? error : make_due(replay);
    if (error) {
        replay_close(replay);
        return error;
    }
    *out = replay;
    return 0;
}

void replay_close(struct replay *replay)
{
    if (replay) {
        free(replay->events);
        free(replay->due_ns);
        free(replay->sources);
        name_table_close(replay->names);
        free(replay);
    }
}

bool replay_cut(const struct replay *replay)
{
    return replay->cut;
}

const struct sample_source *replay_first_source(const struct replay *replay)
{
    return replay->n_sources > 0 ? &replay->sources[0] : NULL;
}

static const struct event *hand_on(struct replay *replay, const struct sample_sink *to)
{
    const struct event *event = &replay->events[replay->next++];
    event_deliver(event, event->kind == EVENT_SOURCE ? &replay->sources[event->of.source] : NULL, to);
    return event;
}

int64_t replay_advance(struct replay *replay, int64_t now_ns, int64_t max, const struct sample_sink *to)
{
    int64_t passed_ns = now_ns - replay->last_now_ns, begin = replay->next;
    replay->last_now_ns = now_ns;
    if (!replay->started) {    // the clock starts where the first sample that has a time is due
        int64_t first = 0;
        while (first + 1 < replay->n_events && replay->due_ns[first] == INT64_MIN) {
            first++;
        }
        replay->clock_ns = replay->due_ns[first];
        replay->started = true;
        passed_ns = 0;
    }
    if (replay->paused) {
        return 0;
    }
    double clock_ns = (double)replay->clock_ns + (double)passed_ns * replay->speed;
    replay->clock_ns = clock_ns < 0x1p62 ? (int64_t)clock_ns : INT64_MAX;
    while (replay->next < replay->n_events && replay->next - begin < max &&
           (replay->speed <= 0 || replay->due_ns[replay->next] <= replay->clock_ns)) {
        hand_on(replay, to);
    }
    return replay->next - begin;
}

int64_t replay_all(struct replay *replay, const struct sample_sink *to)
{
    int64_t begin = replay->next;
    while (replay->next < replay->n_events) {
        hand_on(replay, to);
    }
    return replay->next - begin;
}

void replay_pause(struct replay *replay, bool pause)
{
    replay->paused = pause;
}

int64_t replay_step(struct replay *replay, const struct sample_sink *to)
{
    int64_t begin = replay->next;
    while (replay->next < replay->n_events && hand_on(replay, to)->kind != EVENT_STEP) {
    }
    if (replay->next > 0 && replay->due_ns[replay->next - 1] > replay->clock_ns) {
        replay->clock_ns = replay->due_ns[replay->next - 1];
    }
    return replay->next - begin;
}

double replay_part(const struct replay *replay)
{
    return (double)replay->next / (double)replay->n_events;
}
