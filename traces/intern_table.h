// traces/intern_table.h - texts with a few numbers, numbered in the order in which they come. Private to this room.
#pragma once

#include "traces/id_map.h"

enum { INTERN_NUMBERS = 6 };

struct intern_key {
    const char *text;
    int32_t numbers[INTERN_NUMBERS];    // unused ones are 0
};

struct intern_entry {
    char *text;                         // owned
    int32_t numbers[INTERN_NUMBERS];
    int64_t next;                       // another entry of the same hash, -1: none
    uint64_t value;                     // the owner's, 0 at first
};

struct intern_table {
    struct id_map first;                // hash -> index of the first entry
    struct intern_entry *entries;       // [n], owned
    int64_t n, capacity;
};

// The entry of that key, made if there is none. NULL: out of memory. Valid until the next call.
struct intern_entry *intern_table_find(struct intern_table *table, const struct intern_key *key);
void intern_table_free(struct intern_table *table);
