// tui/name_table.c - open addressing over owned copies; nothing is ever removed.
#include "tui/name_table.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"

// A program has some hundred kernels; a trace of another engine some thousand. Half of the slots stay free.
enum { SLOTS = 1 << 14, MOST = SLOTS / 2 };

struct name_table {
    char *names[SLOTS];    // owned
    int32_t n;
};

int name_table_open(struct name_table **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : status_fail(-ENOMEM, "out of memory for names");
}

void name_table_close(struct name_table *table)
{
    for (int32_t i = 0; table && i < SLOTS; i++) {
        free(table->names[i]);
    }
    free(table);
}

static uint32_t hash(const char *name)    // FNV-1a
{
    uint32_t value = 2166136261u;
    for (; *name; name++) {
        value = (value ^ (unsigned char)*name) * 16777619u;
    }
    return value;
}

const char *name_table_keep(struct name_table *table, const char *name)
{
    uint32_t slot = hash(name) % SLOTS;
    for (; table->names[slot]; slot = (slot + 1) % SLOTS) {
        if (strcmp(table->names[slot], name) == 0) {
            return table->names[slot];
        }
    }
    char *copy = table->n < MOST ? strdup(name) : NULL;
    if (!copy) {
        return "(other)";
    }
    table->names[slot] = copy;
    table->n++;
    return copy;
}
