// tui/name_table.h - names that outlive the samples that brought them.
//
// A kernel_sample's name is borrowed for the call; what keeps samples as values (event.h) keeps names here. A name that
// was handed out stays where it is until the table is closed, so another thread may read it. One thread adds. No I/O.
#pragma once

struct name_table;

int name_table_open(struct name_table **out);    // -ENOMEM
void name_table_close(struct name_table *table); // NULL-safe

// The table's copy of `name`. Where no more names can be kept, one name for all further ones, "(other)".
const char *name_table_keep(struct name_table *table, const char *name);
