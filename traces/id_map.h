// traces/id_map.h - a hash map from 64-bit numbers (interned names, track uuids, requests) to indices.
//
// Open addressing, grows by doubling, entries are never removed. A zeroed struct is an empty map.
#pragma once

#include <stdint.h>

struct id_map {
    uint64_t *keys;      // [capacity], owned
    int64_t *values;     // [capacity], -1: free slot
    int64_t n, capacity;
};

int64_t id_map_get(const struct id_map *map, uint64_t key);                // -1: not there
int id_map_set(struct id_map *map, uint64_t key, int64_t value);           // value >= 0; 0 or -ENOMEM
void id_map_free(struct id_map *map);                                      // leaves an empty map
