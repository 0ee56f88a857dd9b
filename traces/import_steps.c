// traces/import_steps.c - which steps a recording has, and what ran in which.
//
// Work belongs to the step whose annotation holds the call that enqueued it, the innermost where several do: the host
// runs ahead of a device, so that times on the device say less. Where calls are not recorded, the device's own
// annotations take their place, and without any the gaps.
#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"
#include "traces/import_internal.h"

static const char *name_of(const struct import_events *events, int32_t name)
{
    return events->names.entries[name].text;
}

static const struct import_launch *find_launch(const struct import_events *events, uint32_t correlation)
{
    int64_t low = 0, high = events->n_launches;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (events->launches[middle].correlation < correlation) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool found = correlation > 0 && low < events->n_launches && events->launches[low].correlation == correlation;
    return found ? &events->launches[low] : NULL;
}

static enum phase phase_of(const struct import_step_rule *rule, const int64_t *fields)
{
    if (!rule->automatic) {
        return rule->phase;
    }
    return fields[IMPORT_PROMPTS] == 0 ? PHASE_DECODE : fields[IMPORT_ANSWERS] == 0 ? PHASE_PREFILL : PHASE_MIXED;
}

// The first rule that fits the name, of those that are fallbacks or of those that are not. NULL: none.
static const struct import_step_rule *find_rule(int64_t *fields, const struct import_rules *rules, const char *name,
                                                bool fallback)
{
    for (int32_t r = 0; r < rules->n_steps; r++) {
        if (rules->steps[r].fallback == fallback && import_step_fields(fields, &rules->steps[r], name)) {
            return &rules->steps[r];
        }
    }
    return NULL;
}

// Steps from annotations on the host or on devices. One that a device tells once per stream is one step.
static void take_annotations(struct import_join *join, bool on_device, bool fallback)
{
    const struct import_events *events = join->events;
    int32_t last_name = -1;
    for (int64_t i = 0; i < events->n_annotations; i++) {
        const struct import_annotation *annotation = &events->annotations[i];
        int64_t fields[IMPORT_FIELDS], end_ns = annotation->begin_ns + annotation->duration_ns;
        if (annotation->on_device != on_device) {
            continue;
        }
        const struct import_step_rule *rule =
            find_rule(fields, join->options->rules, name_of(events, annotation->name), fallback);
        struct import_step *last = join->n_steps > 0 ? &join->steps[join->n_steps - 1] : NULL;
        if (!rule || join->n_steps == INT32_MAX) {
            continue;
        }
        if (on_device && last && last_name == annotation->name && annotation->begin_ns < last->end_ns) {
            last->end_ns = end_ns > last->end_ns ? end_ns : last->end_ns;
            continue;
        }
        last_name = annotation->name;
        struct import_step *step = &join->steps[join->n_steps++];
        *step = (struct import_step){annotation->begin_ns, end_ns, phase_of(rule, fields), {0}};
        for (int f = 0; f < IMPORT_FIELDS; f++) {
            step->fields[f] = fields[f];
        }
    }
}

// The innermost step that holds a time. Steps hardly nest: a few before the last that has begun are looked at.
static int32_t step_at(const struct import_join *join, int64_t time_ns)
{
    enum { DEEPEST = 16 };
    int32_t low = 0, high = join->n_steps;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (join->steps[middle].begin_ns <= time_ns) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (int32_t i = low - 1; i >= 0 && i >= low - DEEPEST; i--) {
        if (time_ns < join->steps[i].end_ns) {
            return i;
        }
    }
    return -1;
}

// Puts work into steps by the calls that enqueued it, or by its own time. Returns how much found one.
static int64_t place_all(struct import_join *join, bool by_launch)
{
    int64_t placed = 0;
    for (int64_t i = 0; i < join->events->n_works; i++) {
        struct import_place *place = &join->places[i];
        place->step = -1;
        if (!by_launch || place->launch) {
            place->step = step_at(join, by_launch ? place->launch->begin_ns : place->work->begin_ns);
        }
        placed += place->step >= 0;
    }
    return placed;
}

static bool try_annotations(struct import_join *join, bool fallback)
{
    for (int on_device = 0; on_device < 2; on_device++) {
        join->n_steps = 0;
        take_annotations(join, on_device, fallback);
        if (join->n_steps > 0 && place_all(join, !on_device) > 0) {
            return true;
        }
    }
    join->n_steps = 0;
    return false;
}

static int compare_places(const void *left, const void *right)
{
    const struct import_place *a = left, *b = right;
    if (a->work->device != b->work->device) {
        return a->work->device < b->work->device ? -1 : 1;
    }
    if (a->step != b->step) {
        return a->step < b->step ? -1 : 1;
    }
    return a->work < b->work ? -1 : a->work > b->work;    // works are sorted by begin
}

// Steps where a device rested for long enough. Devices take turns: each has steps of its own. At most one step per
// work.
static void cut_at_gaps(struct import_join *join)
{
    int64_t gap_ns = join->options->gap_ns > 0 ? join->options->gap_ns : IMPORT_GAP_NS;
    for (int64_t i = 0; i < join->events->n_works; i++) {
        struct import_place *place = &join->places[i];
        const struct import_work *work = place->work;
        int64_t end_ns = work->begin_ns + work->duration_ns;
        struct import_step *step = join->n_steps > 0 ? &join->steps[join->n_steps - 1] : NULL;
        bool same_device = i > 0 && join->places[i - 1].work->device == work->device;
        if (!step || !same_device || work->begin_ns - step->end_ns >= gap_ns) {
            step = &join->steps[join->n_steps++];
            *step = (struct import_step){work->begin_ns, end_ns, join->options->phase, {0}};
        }
        step->end_ns = end_ns > step->end_ns ? end_ns : step->end_ns;
        place->step = join->n_steps - 1;
    }
}

int import_find_steps(struct import_join *join)
{
    const struct import_events *events = join->events;
    int64_t most = events->n_annotations > events->n_works ? events->n_annotations : events->n_works;
    join->steps = calloc((size_t)most + 1, sizeof *join->steps);
    join->places = calloc((size_t)events->n_works + 1, sizeof *join->places);
    if (!join->steps || !join->places || events->n_works >= INT32_MAX) {
        return status_fail(-ENOMEM, "out of memory for %lld kernels", (long long)events->n_works);
    }
    for (int64_t i = 0; i < events->n_works; i++) {
        join->places[i] = (struct import_place){.work = &events->works[i],
                                                .step = -1,
                                                .stage = STAGE_COUNT,
                                                .layer = -1,
                                                .launch = find_launch(events, events->works[i].correlation)};
    }
    bool found = try_annotations(join, false) || try_annotations(join, true);
    qsort(join->places, (size_t)events->n_works, sizeof *join->places, compare_places);
    if (!found) {
        for (int64_t i = 0; i < events->n_works; i++) {
            join->places[i].step = -1;
        }
        qsort(join->places, (size_t)events->n_works, sizeof *join->places, compare_places);
        cut_at_gaps(join);
        join->by_gaps = true;
    }
    return 0;
}
