// tui/source_names.c - ids to places.
#include "tui/source_names.h"

#include <stdio.h>
#include <string.h>

static void name_of(char *name, const struct sample_source *source)
{
    int length = snprintf(name, SOURCE_NAME_BYTES, "%.*s", SOURCE_NAME_BYTES - 16, source->method);
    if (source->top_k > 0) {
        snprintf(name + length, SOURCE_NAME_BYTES - (size_t)length, " k=%d", source->top_k);
    }
}

int32_t source_names_find_name(const struct source_names *names, const struct sample_source *source)
{
    char name[SOURCE_NAME_BYTES];
    name_of(name, source);
    for (int32_t place = 0; place < names->n; place++) {
        if (strcmp(names->names[place], name) == 0) {
            return place;
        }
    }
    return -1;
}

void source_names_add(struct source_names *names, const struct sample_source *source)
{
    char name[SOURCE_NAME_BYTES];
    int32_t place = source_names_find_name(names, source);
    place = place >= 0 ? place : names->n;
    name_of(name, source);
    if (place == SOURCE_NAMES) {    // the last place takes all that find none
        place--;
        snprintf(names->names[place], SOURCE_NAME_BYTES, "others");
    } else if (place == names->n) {
        memcpy(names->names[place], name, sizeof name);
        names->n++;
    }
    uint32_t slot = (uint32_t)source->id % SOURCE_IDS;
    names->ids[slot].id = source->id;
    names->ids[slot].place = (uint8_t)place;
    names->ids[slot].used = true;
}

int32_t source_names_find(const struct source_names *names, int32_t id)
{
    uint32_t slot = (uint32_t)id % SOURCE_IDS;
    return names->ids[slot].used && names->ids[slot].id == id ? names->ids[slot].place : -1;
}
