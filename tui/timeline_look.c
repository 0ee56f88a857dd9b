// tui/timeline_look.c - moves over a timeline.
#include "tui/timeline_look.h"

#include <stdio.h>
#include <string.h>

static const int64_t LIVE_WIDTH_NS = 1000000000;    // a second of a running engine
static const int64_t LEAST_WIDTH_NS = 64;           // deeper there is nothing to see

struct timeline_look timeline_look_default(bool live)
{
    return (struct timeline_look){.follow = live, .width_ns = live ? LIVE_WIDTH_NS : 0, .track = TRACK_STAGES,
                                  .step = -1, .span = -1};
}

void timeline_look_window(const struct timeline_look *look, const struct timeline *timeline, int64_t *begin_ns,
                          int64_t *width_ns)
{
    int64_t begin, end;
    timeline_range(timeline, &begin, &end);
    *width_ns = look->width_ns > 0 ? look->width_ns : end - begin;
    *width_ns = *width_ns > 0 ? *width_ns : 1;
    *begin_ns = look->width_ns == 0 ? begin : look->follow ? end - *width_ns : look->begin_ns;
}

const struct timeline_step *timeline_look_step(const struct timeline_look *look, const struct timeline *timeline)
{
    bool kept = look->step >= timeline_first(timeline) && look->step < timeline_end(timeline);
    return kept ? timeline_step(timeline, look->step) : NULL;
}

const struct timeline_span *timeline_look_span(const struct timeline_look *look, const struct timeline *timeline)
{
    const struct timeline_step *step = timeline_look_step(look, timeline);
    return step && look->span >= 0 && look->span < step->n_spans ? timeline_span(timeline, step, look->span) : NULL;
}

// Begin and duration of what is selected; false: nothing.
static bool selected(const struct timeline_look *look, const struct timeline *timeline, int64_t *begin_ns,
                     int64_t *duration_ns)
{
    const struct timeline_step *step = timeline_look_step(look, timeline);
    const struct timeline_span *span = timeline_look_span(look, timeline);
    if (step) {
        *begin_ns = span ? span->begin_ns : step->begin_ns;
        *duration_ns = span ? span->duration_ns : step->duration_ns;
    }
    return step != NULL;
}

// Where the window ends up after any move: inside what there is, with some room beside it.
static void clamp(struct timeline_look *look, const struct timeline *timeline)
{
    int64_t begin, end;
    timeline_range(timeline, &begin, &end);
    if (look->width_ns >= end - begin - (end - begin) / 64) {    // all but what rounding took away
        timeline_look_all(look);
        return;
    }
    int64_t least = begin - look->width_ns / 8, most = end - look->width_ns + look->width_ns / 8;
    look->begin_ns = look->begin_ns < most ? look->begin_ns : most;
    look->begin_ns = look->begin_ns > least ? look->begin_ns : least;
}

// Stops following, with the window where it was.
static void hold(struct timeline_look *look, const struct timeline *timeline)
{
    timeline_look_window(look, timeline, &look->begin_ns, &look->width_ns);
    look->follow = false;
}

// Moves the window so that the selection is seen; a selection that is wider than it shows its begin.
static void reveal(struct timeline_look *look, const struct timeline *timeline)
{
    int64_t begin_ns, duration_ns, window_ns, width_ns;
    if (!selected(look, timeline, &begin_ns, &duration_ns)) {
        return;
    }
    timeline_look_window(look, timeline, &window_ns, &width_ns);
    if (begin_ns >= window_ns && begin_ns + duration_ns <= window_ns + width_ns) {
        return;
    }
    hold(look, timeline);
    look->begin_ns = duration_ns < width_ns ? begin_ns + duration_ns / 2 - width_ns / 2 : begin_ns - width_ns / 16;
    clamp(look, timeline);
}

static bool on_track(const struct timeline_look *look, const struct timeline_span *span)
{
    return look->track == TRACK_STAGES || span->layer == look->track - TRACK_LAYERS;
}

void timeline_look_at(struct timeline_look *look, const struct timeline *timeline, double part)
{
    int64_t begin_ns, width_ns, end = timeline_end(timeline);
    if (timeline_first(timeline) == end) {
        return;
    }
    timeline_look_window(look, timeline, &begin_ns, &width_ns);
    int64_t time_ns = begin_ns + (int64_t)(part * (double)width_ns);
    int64_t at = timeline_find(timeline, time_ns);
    look->step = at < end ? at : end - 1;
    look->span = -1;
    const struct timeline_step *step = timeline_step(timeline, look->step);
    for (int32_t i = 0; i < step->n_spans && look->track != TRACK_STEPS; i++) {
        const struct timeline_span *span = timeline_span(timeline, step, i);
        if (on_track(look, span)) {
            look->span = i;
            if (span->begin_ns + span->duration_ns > time_ns) {
                break;
            }
        }
    }
}

void timeline_look_move(struct timeline_look *look, const struct timeline *timeline, int32_t by)
{
    const struct timeline_step *step = timeline_look_step(look, timeline);
    if (!step) {
        timeline_look_at(look, timeline, 0.5);
        reveal(look, timeline);
        return;
    }
    int64_t at = look->step;
    int32_t span = look->span;
    while (look->track != TRACK_STEPS) {
        span += by;
        if (span < 0 || span >= step->n_spans) {
            at += by;
            if (at < timeline_first(timeline) || at >= timeline_end(timeline)) {
                reveal(look, timeline);    // it stays where it is
                return;
            }
            step = timeline_step(timeline, at);
            span = by > 0 ? -1 : step->n_spans;
        } else if (on_track(look, timeline_span(timeline, step, span))) {
            look->step = at;
            look->span = span;
            reveal(look, timeline);
            return;
        }
    }
    if (at + by >= timeline_first(timeline) && at + by < timeline_end(timeline)) {
        look->step = at + by;
        look->span = -1;
    }
    reveal(look, timeline);
}

// The selection moves to the other track at the same time.
void timeline_look_track(struct timeline_look *look, const struct timeline *timeline, int32_t by)
{
    int32_t tracks = TRACK_LAYERS + timeline_layers(timeline);
    int32_t track = look->track + by;
    int64_t begin_ns, duration_ns, window_ns, width_ns;
    look->track = track < 0 ? 0 : track < tracks ? track : tracks - 1;
    if (selected(look, timeline, &begin_ns, &duration_ns)) {
        timeline_look_window(look, timeline, &window_ns, &width_ns);
        timeline_look_at(look, timeline, (double)(begin_ns - window_ns) / (double)width_ns);
    }
}

void timeline_look_pan(struct timeline_look *look, const struct timeline *timeline, double windows)
{
    if (look->width_ns == 0) {
        return;    // everything is seen
    }
    hold(look, timeline);
    look->begin_ns += (int64_t)(windows * (double)look->width_ns);
    clamp(look, timeline);
}

void timeline_look_zoom(struct timeline_look *look, const struct timeline *timeline, double factor)
{
    int64_t begin_ns, width_ns, center_ns, duration_ns;
    bool follow = look->follow;
    timeline_look_window(look, timeline, &begin_ns, &width_ns);
    bool inside = selected(look, timeline, &center_ns, &duration_ns) && center_ns >= begin_ns &&
                  center_ns + duration_ns <= begin_ns + width_ns;
    double part = inside ? (double)(center_ns + duration_ns / 2 - begin_ns) / (double)width_ns : 0.5;
    double wanted = (double)width_ns * factor;
    hold(look, timeline);
    look->width_ns = wanted < (double)LEAST_WIDTH_NS ? LEAST_WIDTH_NS : (int64_t)wanted;
    look->begin_ns = begin_ns + (int64_t)(part * ((double)width_ns - (double)look->width_ns));
    look->follow = follow && !inside;
    clamp(look, timeline);
}

// The window from begin to end, with a little beside it.
void timeline_look_show(struct timeline_look *look, const struct timeline *timeline, int64_t begin_ns, int64_t end_ns)
{
    int64_t duration_ns = end_ns - begin_ns, beside_ns = duration_ns / 16;
    look->follow = false;
    look->width_ns = duration_ns + 2 * beside_ns;
    look->width_ns = look->width_ns > LEAST_WIDTH_NS ? look->width_ns : LEAST_WIDTH_NS;
    look->begin_ns = begin_ns - beside_ns;
    clamp(look, timeline);
}

void timeline_look_enter(struct timeline_look *look, const struct timeline *timeline)
{
    int64_t begin_ns, duration_ns;
    if (!selected(look, timeline, &begin_ns, &duration_ns)) {
        timeline_look_at(look, timeline, 0.5);
    }
    if (selected(look, timeline, &begin_ns, &duration_ns)) {
        timeline_look_show(look, timeline, begin_ns, begin_ns + duration_ns);
    }
}

void timeline_look_back(struct timeline_look *look)
{
    if (look->width_ns == 0) {
        look->step = -1;
    }
    timeline_look_all(look);
}

void timeline_look_all(struct timeline_look *look)
{
    look->follow = false;
    look->width_ns = look->begin_ns = 0;
}

void timeline_look_to_begin(struct timeline_look *look, const struct timeline *timeline)
{
    int64_t end;
    hold(look, timeline);
    timeline_range(timeline, &look->begin_ns, &end);
    clamp(look, timeline);
}

void timeline_look_to_end(struct timeline_look *look, const struct timeline *timeline)
{
    if (look->width_ns == 0) {
        int64_t begin, end;
        timeline_range(timeline, &begin, &end);
        look->width_ns = end - begin < LIVE_WIDTH_NS ? 0 : LIVE_WIDTH_NS;
    }
    look->follow = true;
    look->step = -1;
}

void timeline_look_slowest(struct timeline_look *look, const struct timeline *timeline)
{
    const struct timeline_step *step = timeline_look_step(look, timeline);
    int64_t slowest = -1;
    if (step && look->span < 0 && look->track == TRACK_STEPS) {
        slowest = timeline_slowest(timeline, step->duration_ns);
    }
    slowest = slowest >= 0 ? slowest : timeline_slowest(timeline, INT64_MAX);
    if (slowest >= 0) {
        look->track = TRACK_STEPS;
        look->step = slowest;
        look->span = -1;
        reveal(look, timeline);
    }
}

struct pattern {
    bool stages[STAGE_COUNT], phases[PHASE_COUNT];
    const char *text;
    long long number;          // of a step; -1: the text is none
};

static bool step_matches(const struct pattern *pattern, const struct timeline *timeline,
                         const struct timeline_step *step)
{
    return pattern->phases[step->phase] || (pattern->number >= 0 && step->number == pattern->number) ||
           strstr(timeline_source_name(timeline, step->source), pattern->text) != NULL;
}

// One place further: a step as a whole comes before its spans. Goes around at the ends.
static void advance(const struct timeline *timeline, int64_t *step, int32_t *span, int32_t by)
{
    int64_t first = timeline_first(timeline), end = timeline_end(timeline);
    *span += by;
    if (*span < -1) {
        *step = *step > first ? *step - 1 : end - 1;
        *span = timeline_step(timeline, *step)->n_spans - 1;
    } else if (*span >= timeline_step(timeline, *step)->n_spans) {
        *step = *step + 1 < end ? *step + 1 : first;
        *span = -1;
    }
}

static void pattern_make(struct pattern *pattern, const char *text)
{
    char rest;
    *pattern = (struct pattern){.text = text, .number = -1};
    if (sscanf(text, "%lld%c", &pattern->number, &rest) != 1 &&
        sscanf(text, "step %lld%c", &pattern->number, &rest) != 1) {
        pattern->number = -1;
    }
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        pattern->stages[stage] = strstr(stage_name((enum stage)stage), text) != NULL;
    }
    for (int phase = 0; phase < PHASE_COUNT; phase++) {
        pattern->phases[phase] = strstr(phase_name((enum phase)phase), text) != NULL;
    }
}

static void select_found(struct timeline_look *look, const struct timeline *timeline, int64_t step, int32_t span)
{
    look->step = step;
    look->span = span;
    if (span < 0) {
        look->track = TRACK_STEPS;
    } else if (!on_track(look, timeline_span(timeline, timeline_step(timeline, step), span))) {
        look->track = TRACK_STAGES;
    }
    reveal(look, timeline);
}

bool timeline_look_search(struct timeline_look *look, const struct timeline *timeline, const char *text, int32_t by)
{
    struct pattern pattern;
    int64_t first = timeline_first(timeline), end = timeline_end(timeline), places = 0;
    if (!*text || first == end) {
        return false;
    }
    pattern_make(&pattern, text);
    for (int64_t i = first; i < end; i++) {
        places += timeline_step(timeline, i)->n_spans + 1;
    }
    const struct timeline_step *from = timeline_look_step(look, timeline);
    int64_t step = from ? look->step : by > 0 ? end - 1 : first;
    int32_t span = from ? look->span : by > 0 ? timeline_step(timeline, step)->n_spans - 1 : -1;
    for (; places > 0; places--) {
        advance(timeline, &step, &span, by);
        const struct timeline_step *at = timeline_step(timeline, step);
        if (span < 0 ? step_matches(&pattern, timeline, at)
                     : pattern.stages[timeline_span(timeline, at, span)->stage]) {
            select_found(look, timeline, step, span);
            return true;
        }
    }
    return false;
}

bool timeline_look_slowest_stage(struct timeline_look *look, const struct timeline *timeline,
                                 const struct sample_source *source, enum phase phase, enum stage stage)
{
    int32_t name = timeline_find_source(timeline, source), worst_span = -1;
    int64_t worst_ns = -1, worst_step = -1;
    for (int64_t i = timeline_first(timeline); i < timeline_end(timeline); i++) {
        const struct timeline_step *step = timeline_step(timeline, i);
        for (int32_t j = 0; step->source == name && step->phase == phase && j < step->n_spans; j++) {
            const struct timeline_span *span = timeline_span(timeline, step, j);
            if (span->stage == stage && span->duration_ns > worst_ns) {
                worst_ns = span->duration_ns;
                worst_step = i;
                worst_span = j;
            }
        }
    }
    if (worst_step < 0) {
        return false;
    }
    select_found(look, timeline, worst_step, worst_span);
    const struct timeline_step *step = timeline_step(timeline, worst_step);
    timeline_look_show(look, timeline, step->begin_ns, step->begin_ns + step->duration_ns);
    return true;
}
