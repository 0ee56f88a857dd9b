// engine/sample.c - the names and units of counters.
#include "engine/sample.h"

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
