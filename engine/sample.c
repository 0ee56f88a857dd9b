// engine/sample.c - what a plan says of a source; the names and units of counters.
#include "engine/sample.h"

#include <stdio.h>

struct sample_source sample_source_of(const struct plan *plan)
{
    bool selects = plan->index.budget_tokens > 0;
    struct sample_source source = {
        .n_layers = plan->shape.n_layers,
        .top_k = plan->index.budget_tokens,
        .unit_tokens = selects ? plan->index.unit_tokens : 0,
        .index_sets = selects ? plan->index.sets : 0,
        .window_tokens = plan->shape.window_tokens,
        .page_tokens = plan->page_tokens,
        .weight_dtype = plan->weight_dtype,
        .kv_dtype = plan->kv_dtype,
        .index_dtype = plan->index.key_dtype,
    };
    snprintf(source.model, sizeof source.model, "%s", plan->shape.name);
    snprintf(source.method, sizeof source.method, "%s", plan->method);
    return source;
}

static const struct {
    const char *name, *unit;
} counters[COUNTER_COUNT] = {
    [COUNTER_TOKENS_PER_S] = {"tokens/s", "1/s"},
    [COUNTER_KV_BYTES] = {"KV bytes", "B"},
    [COUNTER_BATCH] = {"batch", "sequences"},
    [COUNTER_QUEUE] = {"queue", "requests"},
};

const char *counter_name(enum counter counter)
{
    return counters[counter].name;
}

const char *counter_unit(enum counter counter)
{
    return counters[counter].unit;
}
