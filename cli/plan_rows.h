// cli/plan_rows.h - the rows of a plan: kept by number, in a file as they finish, and printed.
//
// The file is JSON, one object per line: first the question (everything that the rows depend on, with the axes of the
// sweep), then a row with its number, in the order in which they finished. A line that was cut off by a kill is
// dropped. Two files belong together if their questions are equal.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/table.h"

struct plan_rows {
    json_t *question;       // owned
    int64_t n;              // of the whole sweep
    json_t **rows;          // [n] NULL: not computed; owned
    FILE *stream;           // of the file that rows are appended to, or NULL
    const char *path;       // of it; borrowed
};

// The question is the caller's still. Rows are unknown.
int plan_rows_open(struct plan_rows *rows, json_t *question, int64_t n);
// Takes over the rows of the file, if there is one, and appends from now on. -EINVAL: another question's file.
int plan_rows_resume(struct plan_rows *rows, const char *path);
// Adds the rows of a file; the first one into rows that are all zero brings the question.
int plan_rows_read(struct plan_rows *rows, const char *path);
int plan_rows_write(const struct plan_rows *rows, const char *path);    // whole or not at all
// `row` becomes ours. An error is the file's.
int plan_rows_add(struct plan_rows *rows, int64_t index, json_t *row);
int64_t plan_rows_count(const struct plan_rows *rows);
void plan_rows_close(struct plan_rows *rows);

// Printing. What was asked, in a line; a table with the columns of the question, to which rows are added one by one;
// then what the columns do not say, and what they mean.
void plan_rows_head(const struct plan_rows *rows, FILE *out);
struct table *plan_rows_table(const struct plan_rows *rows);    // NULL: no memory
void plan_rows_show(struct table *table, const struct plan_rows *rows, int64_t index);
void plan_rows_show_all(struct table *table, const struct plan_rows *rows);    // in the order of the cases
void plan_rows_notes(const struct plan_rows *rows, FILE *out);
int plan_rows_report(const struct plan_rows *rows, const char *path);    // as HTML
void plan_rows_print_json(const struct plan_rows *rows, FILE *out);
