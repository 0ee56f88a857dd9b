// tui/timeline.c - two rings, of steps and of their stages.
//
// Both grow by doubling up to their limit and only then wrap around, so that growing never has to unwrap. Positions are
// counts since the beginning; a slot is the count modulo the capacity.
#include "tui/timeline.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "engine/status.h"
#include "tui/source_names.h"

enum {
    FIRST_SPANS = 4096, FIRST_STEPS = 256,
    SPANS_PER_STEP = 8,        // fewer stages a step than any engine runs: steps never limit before spans do
    LATE_STEPS = 4096          // how far back a step is placed that comes late
};

struct timeline {
    struct timeline_span *spans;           // [span_capacity], owned
    struct timeline_step *steps;           // [step_capacity], owned
    int64_t span_capacity, step_capacity, max_spans;
    int64_t span_end, first, end;
    int64_t pending_begin;                 // spans from here on wait for their step
    int64_t pending_step;
    int32_t pending_source;
    int32_t n_layers;
    struct source_names sources;
    int64_t dropped;
};

static struct timeline_step *step_slot(const struct timeline *timeline, int64_t step)
{
    return &timeline->steps[step & (timeline->step_capacity - 1)];
}

int timeline_open(struct timeline **out, int64_t max_spans)
{
    *out = NULL;
    struct timeline *timeline = calloc(1, sizeof *timeline);
    if (!timeline) {
        return status_fail(-ENOMEM, "out of memory for a timeline");
    }
    timeline->max_spans = FIRST_SPANS;
    while (timeline->max_spans < max_spans) {
        timeline->max_spans *= 2;
    }
    *out = timeline;
    return 0;
}

void timeline_close(struct timeline *timeline)
{
    if (timeline) {
        free(timeline->spans);
        free(timeline->steps);
        free(timeline);
    }
}

static void on_source(void *user, const struct sample_source *source)
{
    source_names_add(&((struct timeline *)user)->sources, source);
}

// Whether begin and duration can be added and subtracted without harm.
static bool sane(int64_t begin_ns, int64_t duration_ns)
{
    return begin_ns >= 0 && begin_ns <= INT64_C(1) << 61 && duration_ns >= 0 && duration_ns <= INT64_C(1) << 50;
}

// The oldest step goes, with its spans.
static void drop_first(struct timeline *timeline)
{
    timeline->first++;
    timeline->dropped++;
}

// A slot for one more span; false: no memory. Spans of dropped steps are overwritten; so are pending ones that alone
// fill the ring, which is a damaged file: their step then holds what is left.
static bool make_span_room(struct timeline *timeline)
{
    if (timeline->span_end < timeline->span_capacity) {
        return true;
    }
    if (timeline->span_capacity < timeline->max_spans) {
        int64_t capacity = timeline->span_capacity ? 2 * timeline->span_capacity : FIRST_SPANS;
        struct timeline_span *grown = realloc(timeline->spans, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return false;
        }
        timeline->spans = grown;
        timeline->span_capacity = capacity;
        return true;
    }
    int64_t oldest = timeline->span_end + 1 - timeline->span_capacity;    // the first that stays whole
    while (timeline->first < timeline->end && step_slot(timeline, timeline->first)->first_span < oldest) {
        drop_first(timeline);
    }
    if (timeline->pending_begin < oldest) {
        timeline->pending_begin = oldest;
    }
    return true;
}

static bool make_step_room(struct timeline *timeline)
{
    if (timeline->end < timeline->step_capacity) {
        return true;
    }
    int64_t most = timeline->max_spans / SPANS_PER_STEP;
    if (timeline->step_capacity < most) {
        int64_t capacity = timeline->step_capacity ? 2 * timeline->step_capacity : FIRST_STEPS;
        struct timeline_step *grown = realloc(timeline->steps, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return false;
        }
        timeline->steps = grown;
        timeline->step_capacity = capacity;
        return true;
    }
    while (timeline->end - timeline->first >= timeline->step_capacity) {
        drop_first(timeline);
    }
    return true;
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct timeline *timeline = user;
    if (source_names_find(&timeline->sources, sample->source) < 0 || (unsigned)sample->stage >= STAGE_COUNT ||
        !sane(sample->begin_ns, sample->duration_ns) || !make_span_room(timeline)) {
        return;
    }
    if (sample->step != timeline->pending_step || sample->source != timeline->pending_source) {
        timeline->pending_begin = timeline->span_end;    // what waited for a step that never came stays unseen
        timeline->pending_step = sample->step;
        timeline->pending_source = sample->source;
    }
    int32_t layer = sample->layer < -1 || sample->layer > INT16_MAX - 1 ? -1 : sample->layer;
    timeline->n_layers = layer >= timeline->n_layers ? layer + 1 : timeline->n_layers;
    timeline->spans[timeline->span_end++ & (timeline->span_capacity - 1)] = (struct timeline_span){
        .begin_ns = sample->begin_ns, .duration_ns = sample->duration_ns, .bytes = sample->bytes,
        .flops = sample->flops, .n_tokens = sample->n_tokens, .layer = (int16_t)layer,
        .stage = (uint8_t)sample->stage,
    };
}

// Engines run their stages one after the other: this only moves what another clock or a second stream has mixed up.
static void sort_spans(struct timeline *timeline, int64_t begin, int64_t end)
{
    int64_t mask = timeline->span_capacity - 1;
    for (int64_t i = begin + 1; i < end; i++) {
        struct timeline_span moved = timeline->spans[i & mask];
        int64_t at = i;
        for (; at > begin && i - at < LATE_STEPS && timeline->spans[(at - 1) & mask].begin_ns > moved.begin_ns; at--) {
            timeline->spans[at & mask] = timeline->spans[(at - 1) & mask];
        }
        timeline->spans[at & mask] = moved;
    }
}

// Puts the step behind the last one that does not begin later.
static void place_step(struct timeline *timeline, const struct timeline_step *step)
{
    int64_t at = timeline->end, least = at - LATE_STEPS > timeline->first ? at - LATE_STEPS : timeline->first;
    while (at > least && step_slot(timeline, at - 1)->begin_ns > step->begin_ns) {
        at--;
    }
    if (at == least && at > timeline->first && step_slot(timeline, at - 1)->begin_ns > step->begin_ns) {
        timeline->dropped++;
        return;
    }
    for (int64_t i = timeline->end; i > at; i--) {
        *step_slot(timeline, i) = *step_slot(timeline, i - 1);
    }
    *step_slot(timeline, at) = *step;
    timeline->end++;
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct timeline *timeline = user;
    int32_t source = source_names_find(&timeline->sources, sample->source);
    if (source < 0 || (unsigned)sample->phase >= PHASE_COUNT ||
        !sane(sample->begin_ns, sample->duration_ns) || !make_step_room(timeline)) {
        return;
    }
    if (sample->step != timeline->pending_step || sample->source != timeline->pending_source) {
        timeline->pending_begin = timeline->span_end;
    }
    struct timeline_step step = {
        .number = sample->step, .begin_ns = sample->begin_ns, .duration_ns = sample->duration_ns,
        .first_span = timeline->pending_begin, .n_spans = (int32_t)(timeline->span_end - timeline->pending_begin),
        .n_seqs = sample->n_seqs, .n_tokens = sample->n_tokens, .context_tokens = sample->context_tokens,
        .phase = (uint8_t)sample->phase, .source = (uint8_t)source,
    };
    sort_spans(timeline, timeline->pending_begin, timeline->span_end);
    for (int32_t i = 0; i < step.n_spans; i++) {
        const struct timeline_span *span = timeline_span(timeline, &step, i);
        step.stage_ns[span->stage] += (float)span->duration_ns;
    }
    timeline->pending_begin = timeline->span_end;
    place_step(timeline, &step);
}

struct sample_sink timeline_sink(struct timeline *timeline)
{
    return (struct sample_sink){.user = timeline, .source = on_source, .stage = on_stage, .step = on_step};
}

int64_t timeline_first(const struct timeline *timeline)
{
    return timeline->first;
}

int64_t timeline_end(const struct timeline *timeline)
{
    return timeline->end;
}

const struct timeline_step *timeline_step(const struct timeline *timeline, int64_t step)
{
    return step_slot(timeline, step);
}

const struct timeline_span *timeline_span(const struct timeline *timeline, const struct timeline_step *step,
                                          int32_t index)
{
    return &timeline->spans[(step->first_span + index) & (timeline->span_capacity - 1)];
}

const char *timeline_source_name(const struct timeline *timeline, int32_t source)
{
    return timeline->sources.names[source];
}

int32_t timeline_find_source(const struct timeline *timeline, const struct sample_source *source)
{
    return source_names_find_name(&timeline->sources, source);
}

int32_t timeline_layers(const struct timeline *timeline)
{
    return timeline->n_layers;
}

int64_t timeline_dropped(const struct timeline *timeline)
{
    return timeline->dropped;
}

void timeline_range(const struct timeline *timeline, int64_t *begin_ns, int64_t *end_ns)
{
    *begin_ns = *end_ns = 0;
    if (timeline->first < timeline->end) {
        const struct timeline_step *last = step_slot(timeline, timeline->end - 1);
        *begin_ns = step_slot(timeline, timeline->first)->begin_ns;
        *end_ns = last->begin_ns + last->duration_ns;
    }
}

int64_t timeline_find(const struct timeline *timeline, int64_t time_ns)
{
    int64_t low = timeline->first, high = timeline->end;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const struct timeline_step *step = step_slot(timeline, middle);
        if (step->begin_ns + step->duration_ns > time_ns) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

int64_t timeline_slowest(const struct timeline *timeline, int64_t below_ns)
{
    int64_t slowest = -1, most_ns = -1;
    for (int64_t i = timeline->first; i < timeline->end; i++) {
        int64_t duration_ns = step_slot(timeline, i)->duration_ns;
        if (duration_ns < below_ns && duration_ns > most_ns) {
            most_ns = duration_ns;
            slowest = i;
        }
    }
    return slowest;
}
