// traces/import_stages.c - stages and layers of one step's work on one device, stream by stream.
#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"
#include "traces/import_internal.h"

// Attributed to what follows.
static const enum stage STAGE_NEXT = (enum stage)(STAGE_COUNT + 1);

static bool fits(struct import_join *join, int32_t rule, int32_t name)
{
    const struct import_rules *rules = join->options->rules;
    int8_t *known = &join->fits[(int64_t)name * rules->n_kernels + rule];
    if (*known < 0) {
        *known = import_pattern_fits(&rules->kernels[rule].pattern, join->events->names.entries[name].text);
    }
    return *known;
}

// Where one stream of the step stands.
struct stream {
    int32_t number;
    int32_t label;
    int64_t *last;     // [rules] the last place that each rule with `last` fits, owned by the caller; -1: none
};

static const struct import_kernel_rule *find_rule(struct import_join *join, const struct stream *stream, int64_t at,
                                                  int32_t name)
{
    const struct import_rules *rules = join->options->rules;
    for (int32_t r = 0; r < rules->n_kernels; r++) {
        const struct import_kernel_rule *rule = &rules->kernels[r];
        if ((rule->after == 0 || (rule->after >> stream->label & 1)) && (!rule->last || stream->last[r] == at) &&
            fits(join, r, name)) {
            return rule;
        }
    }
    return NULL;
}

static void find_last(struct import_join *join, const struct stream *stream, const struct import_place *places,
                      int64_t n)
{
    const struct import_rules *rules = join->options->rules;
    for (int32_t r = 0; r < rules->n_kernels; r++) {
        stream->last[r] = -1;
        for (int64_t i = n - 1; i >= 0 && rules->kernels[r].last && stream->last[r] < 0; i--) {
            if (places[i].work->stream == stream->number && fits(join, r, places[i].work->name)) {
                stream->last[r] = i;
            }
        }
    }
}

static bool outside_layers(enum stage stage)
{
    return stage == STAGE_EMBED || stage >= STAGE_HEAD;
}

static void walk(struct import_join *join, struct stream *stream, struct import_place *places, int64_t n)
{
    const struct import_rules *rules = join->options->rules;
    int32_t layer = -1;
    for (int64_t i = 0; i < n; i++) {
        struct import_place *place = &places[i];
        if (place->work->stream != stream->number) {
            continue;
        }
        const struct import_kernel_rule *rule = find_rule(join, stream, i, place->work->name);
        place->stage = !rule ? STAGE_COUNT : rule->next ? STAGE_NEXT : rule->stage;
        if (rule && !rule->next && rule->label >= 0) {
            layer += rule->label == rules->layer_label && stream->label != rules->layer_label;
            stream->label = rule->label;
        }
        place->layer = outside_layers(place->stage) ? -1 : layer;
    }
    // What feeds another takes its stage; at the end of the stream there is nothing to feed.
    enum stage stage = STAGE_COUNT;
    layer = -1;
    for (int64_t i = n - 1; i >= 0; i--) {
        struct import_place *place = &places[i];
        if (place->work->stream == stream->number && place->stage == STAGE_NEXT) {
            place->stage = stage;
            place->layer = layer;
        } else if (place->work->stream == stream->number && place->stage < STAGE_COUNT && place->stage != STAGE_HOST) {
            stage = place->stage;
            layer = place->layer;
        }
    }
}

int import_find_stages(struct import_join *join, struct import_place *places, int64_t n)
{
    int64_t *last = malloc((size_t)join->options->rules->n_kernels * sizeof *last);
    if (!last) {
        return status_fail(-ENOMEM, "out of memory for the rules of a step");
    }
    for (int64_t i = 0; i < n; i++) {
        bool seen = false;    // a step has a handful of streams
        for (int64_t j = i - 1; j >= 0 && !seen; j--) {
            seen = places[j].work->stream == places[i].work->stream;
        }
        if (!seen) {
            struct stream stream = {.number = places[i].work->stream, .label = IMPORT_LABEL_START, .last = last};
            find_last(join, &stream, places, n);
            walk(join, &stream, places, n);
        }
    }
    free(last);
    return 0;
}
