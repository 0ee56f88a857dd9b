// cupti/number_map.h - a table from numbers to numbers: graph nodes to stages, calls to the steps that made them.
//
// Open addressing, never more than half full, grows as needed; entries can be taken out. Not for two threads at once.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct number_map {
    struct number_entry {
        uint64_t key, value;
        bool used;
    } *entries;              // [capacity] owned; a zeroed map is an empty one
    uint32_t capacity, n;    // capacity: 0 or a power of two
};

int number_map_put(struct number_map *map, uint64_t key, uint64_t value);    // replaces; -ENOMEM: nothing changed
bool number_map_get(const struct number_map *map, uint64_t key, uint64_t *value);
void number_map_remove(struct number_map *map, uint64_t key);                // no matter if it is not there
void number_map_clear(struct number_map *map);                               // keeps its memory
void number_map_free(struct number_map *map);                                // an empty map again
