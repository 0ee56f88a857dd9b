// traces/intern_table.c - a hash of the key leads to a chain of entries; entries never move out of order.
#include "traces/intern_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"

static uint64_t hash_of(const struct intern_key *key)
{
    uint64_t hash = 0xcbf29ce484222325u;    // FNV-1a
    for (const char *at = key->text; *at; at++) {
        hash = (hash ^ (unsigned char)*at) * 0x100000001b3u;
    }
    for (int32_t i = 0; i < INTERN_NUMBERS; i++) {
        hash = (hash ^ (uint32_t)key->numbers[i]) * 0x100000001b3u;
    }
    return hash;
}

static int grow(struct intern_table *table)
{
    int64_t capacity = table->capacity ? 2 * table->capacity : 16;
    struct intern_entry *grown = realloc(table->entries, (size_t)capacity * sizeof *grown);
    if (!grown) {
        return status_fail(-ENOMEM, "out of memory for %lld names", (long long)capacity);
    }
    table->entries = grown;
    table->capacity = capacity;
    return 0;
}

struct intern_entry *intern_table_find(struct intern_table *table, const struct intern_key *key)
{
    uint64_t hash = hash_of(key);
    int64_t first = id_map_get(&table->first, hash);
    for (int64_t i = first; i >= 0; i = table->entries[i].next) {
        struct intern_entry *entry = &table->entries[i];
        if (strcmp(entry->text, key->text) == 0 && memcmp(entry->numbers, key->numbers, sizeof key->numbers) == 0) {
            return entry;
        }
    }
    if (table->n == table->capacity && grow(table)) {
        return NULL;
    }
    char *text = strdup(key->text);
    if (!text || id_map_set(&table->first, hash, table->n)) {
        free(text);
        status_fail(-ENOMEM, "out of memory for a name");
        return NULL;
    }
    struct intern_entry *entry = &table->entries[table->n++];
    *entry = (struct intern_entry){.text = text, .next = first};
    memcpy(entry->numbers, key->numbers, sizeof entry->numbers);
    return entry;
}

void intern_table_free(struct intern_table *table)
{
    for (int64_t i = 0; i < table->n; i++) {
        free(table->entries[i].text);
    }
    free(table->entries);
    id_map_free(&table->first);
    *table = (struct intern_table){0};
}
