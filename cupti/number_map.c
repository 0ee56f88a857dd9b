// cupti/number_map.c - open addressing with linear probing; what is taken out lets its followers move up.
#include "cupti/number_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 1024 };

// Spreads numbers that count up, as ids do (Fibonacci hashing: 2^64 over the golden ratio).
static uint32_t home_of(const struct number_map *map, uint64_t key)
{
    return (uint32_t)((key * 0x9E3779B97F4A7C15u) >> 32) & (map->capacity - 1);
}

// The key's entry, or the free one where it belongs. The map has room.
static uint32_t find(const struct number_map *map, uint64_t key)
{
    uint32_t at = home_of(map, key);
    while (map->entries[at].used && map->entries[at].key != key) {
        at = (at + 1) & (map->capacity - 1);
    }
    return at;
}

static int grow(struct number_map *map)
{
    struct number_map grown = {.capacity = map->capacity ? 2 * map->capacity : FIRST_CAPACITY, .n = map->n};
    grown.entries = grown.capacity ? calloc(grown.capacity, sizeof *grown.entries) : NULL;
    if (!grown.entries) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < map->capacity; i++) {
        if (map->entries[i].used) {
            grown.entries[find(&grown, map->entries[i].key)] = map->entries[i];
        }
    }
    free(map->entries);
    *map = grown;
    return 0;
}

int number_map_put(struct number_map *map, uint64_t key, uint64_t value)
{
    int error = map->n >= map->capacity / 2 ? grow(map) : 0;
    if (!error) {
        struct number_entry *entry = &map->entries[find(map, key)];
        map->n += !entry->used;
        *entry = (struct number_entry){key, value, true};
    }
    return error;
}

bool number_map_get(const struct number_map *map, uint64_t key, uint64_t *value)
{
    const struct number_entry *entry = map->capacity ? &map->entries[find(map, key)] : NULL;
    if (!entry || !entry->used) {
        return false;
    }
    *value = entry->value;
    return true;
}

void number_map_remove(struct number_map *map, uint64_t key)
{
    uint32_t mask = map->capacity - 1, hole = map->capacity ? find(map, key) : 0;
    if (!map->capacity || !map->entries[hole].used) {
        return;
    }
    // An entry may move into the hole unless its own home lies behind the hole.
    for (uint32_t at = (hole + 1) & mask; map->entries[at].used; at = (at + 1) & mask) {
        uint32_t home = home_of(map, map->entries[at].key);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            map->entries[hole] = map->entries[at];
            hole = at;
        }
    }
    map->entries[hole].used = false;
    map->n--;
}

void number_map_clear(struct number_map *map)
{
    if (map->n > 0) {
        memset(map->entries, 0, map->capacity * sizeof *map->entries);
    }
    map->n = 0;
}

void number_map_free(struct number_map *map)
{
    free(map->entries);
    *map = (struct number_map){0};
}
