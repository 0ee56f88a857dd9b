// cupti/grow.h - room for one more item in an array that only grows.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// `items` [*capacity] of `bytes` each, of which n are in use, or its larger successor; NULL: no memory, nothing
// changed.
static inline void *grow_for_one(void *items, int64_t n, int64_t *capacity, size_t bytes)
{
    if (n < *capacity) {
        return items;
    }
    int64_t wanted = *capacity ? 2 * *capacity : 1024;    // the stages of a step of a 100-layer model
    void *grown = realloc(items, (size_t)wanted * bytes);
    *capacity = grown ? wanted : *capacity;
    return grown;
}
