// cli/table.h - one table, two forms: aligned text for people, JSON for machines.
//
// Columns have a key (JSON, from the one vocabulary) and a title (text, with the unit). Cells are numbers or text; a
// missing number prints as "-" and is null in JSON: unknown is not 0.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct table;

struct table_column {
    const char *key;        // "decode_tokens_per_s"
    const char *title;      // "decode tok/s"
    int32_t decimals;       // for numbers; -1: text, left-aligned
};

struct table *table_open(const char *name, const struct table_column *columns, int32_t n_columns);    // NULL: no memory
void table_close(struct table *table);    // NULL-safe
void table_row(struct table *table);                         // begins a row; its cells are unknown until set
void table_number(struct table *table, const char *key,
                  double value);    // NaN: unknown. An unknown key is our bug: assert
void table_text(struct table *table, const char *key, const char *value);
// What is in it. An unknown key is our bug; a cell without text is NULL, without a number NaN.
int32_t table_rows(const struct table *table);
int32_t table_columns(const struct table *table);
const struct table_column *table_column(const struct table *table, int32_t column);
const char *table_cell_text(const struct table *table, int32_t row, const char *key);
double table_cell_number(const struct table *table, int32_t row, const char *key);
// A cell as table_print shows it; `buffer` is used for numbers.
const char *table_render(const struct table *table, int32_t row, int32_t column, char *buffer, size_t bytes);
void table_print(const struct table *table, FILE *out);      // aligned text
// For rows that come one by one: the head, when called first, and the rows begun since the call before. Columns are as
// wide as their titles and what table_widen asked for; wider cells push the rest aside.
void table_widen(struct table *table, const char *key, int32_t width);
void table_print_new(struct table *table, FILE *out);
void table_print_json(const struct table *table, FILE *out); // {"name": [{key: value, ...}, ...]} and a newline
// For spreadsheets: keys, then rows, with commas; quoted where a text has one. Several tables have an empty line
// between them.
void tables_print_csv(const struct table *const *tables, int32_t n, FILE *out);
void tables_print_json(const struct table *const *tables, int32_t n, FILE *out);    // the same, one object for all
