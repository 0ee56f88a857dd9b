// traces/id_map.c - open addressing with linear probing, at most half full.
#include "traces/id_map.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"

// The slot that holds `key`, or the free one where it belongs. The map is never full.
static int64_t slot_of(const struct id_map *map, uint64_t key)
{
    uint64_t hash = key;    // uuids and iids count up: mix, so that they spread
    hash = (hash ^ (hash >> 32)) * 0x9e3779b97f4a7c15u;
    uint64_t mask = (uint64_t)map->capacity - 1, slot = (hash ^ (hash >> 29)) & mask;
    while (map->values[slot] >= 0 && map->keys[slot] != key) {
        slot = (slot + 1) & mask;
    }
    return (int64_t)slot;
}

static int grow(struct id_map *map)
{
    struct id_map wider = {.capacity = map->capacity ? 2 * map->capacity : 16, .n = map->n};
    wider.keys = malloc((size_t)wider.capacity * sizeof *wider.keys);
    wider.values = malloc((size_t)wider.capacity * sizeof *wider.values);
    if (!wider.keys || !wider.values) {
        free(wider.keys);
        free(wider.values);
        return status_fail(-ENOMEM, "out of memory for %lld entries", (long long)wider.capacity);
    }
    for (int64_t i = 0; i < wider.capacity; i++) {
        wider.values[i] = -1;
    }
    for (int64_t i = 0; i < map->capacity; i++) {
        if (map->values[i] >= 0) {
            int64_t slot = slot_of(&wider, map->keys[i]);
            wider.keys[slot] = map->keys[i];
            wider.values[slot] = map->values[i];
        }
    }
    free(map->keys);
    free(map->values);
    *map = wider;
    return 0;
}

int64_t id_map_get(const struct id_map *map, uint64_t key)
{
    return map->n ? map->values[slot_of(map, key)] : -1;
}

int id_map_set(struct id_map *map, uint64_t key, int64_t value)
{
    if (2 * (map->n + 1) > map->capacity) {
        int error = grow(map);
        if (error) {
            return error;
        }
    }
    int64_t slot = slot_of(map, key);
    map->n += map->values[slot] < 0;
    map->keys[slot] = key;
    map->values[slot] = value;
    return 0;
}

void id_map_free(struct id_map *map)
{
    free(map->keys);
    free(map->values);
    *map = (struct id_map){0};
}
