// tui/source_names.h - short names for the sources of a stream: "clsa k=256", the same for an engine announced again.
//
// For stores that outlive state's methods. A place is a small number that stays what it is. Zero-initialise.
#pragma once

#include "engine/sample.h"

enum { SOURCE_NAMES = 64, SOURCE_IDS = 256 };    // ids: the recent ones; an engine announced again takes a new one

struct source_names {
    int32_t n;
    char names[SOURCE_NAMES][SOURCE_NAME_BYTES];
    struct { int32_t id; uint8_t place; bool used; } ids[SOURCE_IDS];    // by id modulo SOURCE_IDS
};

void source_names_add(struct source_names *names, const struct sample_source *source);
int32_t source_names_find(const struct source_names *names, int32_t id);    // the source's place; -1: unknown
int32_t source_names_find_name(const struct source_names *names, const struct sample_source *source);
