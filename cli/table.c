// cli/table.c - rows of cells, printed as aligned text or JSON.
#include "cli/table.h"

#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cell {
    double number;    // NaN: unknown
    char *text;       // owned; NULL: a number or unknown
};

struct table {
    const char *name;
    struct table_column *columns;          // owned; their keys and titles are borrowed
    int32_t n_columns, n_rows;
    struct cell *cells;                    // [n_rows][n_columns]
    int *width;                            // [n_columns] of rows printed one by one; owned
    int32_t n_printed;                     // of those; -1: not even the head
};

struct table *table_open(const char *name, const struct table_column *columns, int32_t n_columns)
{
    struct table *table = calloc(1, sizeof *table);
    struct table_column *copy = malloc((size_t)n_columns * sizeof *copy);
    int *width = calloc((size_t)n_columns, sizeof *width);
    if (!table || !copy || !width) {
        free(table);
        free(copy);
        free(width);
        return NULL;
    }
    memcpy(copy, columns, (size_t)n_columns * sizeof *copy);
    *table = (struct table){.name = name, .columns = copy, .n_columns = n_columns, .width = width, .n_printed = -1};
    return table;
}

void table_close(struct table *table)
{
    if (!table) {
        return;
    }
    for (int32_t i = 0; i < table->n_rows * table->n_columns; i++) {
        free(table->cells[i].text);
    }
    free(table->cells);
    free(table->width);
    free(table->columns);
    free(table);
}

void table_row(struct table *table)
{
    size_t n = (size_t)(table->n_rows + 1) * (size_t)table->n_columns;
    struct cell *cells = realloc(table->cells, n * sizeof *cells);
    if (!cells) {
        abort();    // a table is a screenful: the machine is beyond help
    }
    table->cells = cells;
    for (int32_t i = 0; i < table->n_columns; i++) {
        cells[table->n_rows * table->n_columns + i] = (struct cell){.number = NAN};
    }
    table->n_rows++;
}

static struct table_column *find(struct table_column *columns, int32_t n, const char *key)
{
    for (int32_t i = 0; i < n; i++) {
        if (strcmp(columns[i].key, key) == 0) {
            return &columns[i];
        }
    }
    assert(false && "a column that the table does not have");
    return NULL;
}

// In the newest row.
static struct cell *cell_of(struct table *table, const char *key)
{
    int64_t column = find(table->columns, table->n_columns, key) - table->columns;
    return &table->cells[(int64_t)(table->n_rows - 1) * table->n_columns + column];
}

void table_number(struct table *table, const char *key, double value)
{
    cell_of(table, key)->number = value;
}

void table_text(struct table *table, const char *key, const char *value)
{
    struct cell *cell = cell_of(table, key);
    free(cell->text);
    cell->text = strdup(value);
}

// The cell as text; the buffer is used for numbers only.
static const char *render(const struct cell *cell, int32_t decimals, char *buffer, size_t bytes)
{
    if (cell->text) {
        return cell->text;
    }
    if (!isfinite(cell->number)) {
        return "-";
    }
    snprintf(buffer, bytes, "%.*f", decimals < 0 ? 0 : (int)decimals, cell->number);
    return buffer;
}

int32_t table_rows(const struct table *table)
{
    return table->n_rows;
}

int32_t table_columns(const struct table *table)
{
    return table->n_columns;
}

const struct table_column *table_column(const struct table *table, int32_t column)
{
    return &table->columns[column];
}

const char *table_cell_text(const struct table *table, int32_t row, const char *key)
{
    int64_t column = find(table->columns, table->n_columns, key) - table->columns;
    return table->cells[(int64_t)row * table->n_columns + column].text;
}

double table_cell_number(const struct table *table, int32_t row, const char *key)
{
    int64_t column = find(table->columns, table->n_columns, key) - table->columns;
    return table->cells[(int64_t)row * table->n_columns + column].number;
}

const char *table_render(const struct table *table, int32_t row, int32_t column, char *buffer, size_t bytes)
{
    const struct cell *cell = &table->cells[(int64_t)row * table->n_columns + column];
    return render(cell, table->columns[column].decimals, buffer, bytes);
}

// Columns that a terminal shows for UTF-8 text without combining or wide characters.
static int shown(const char *text)
{
    int n = 0;
    for (; *text; text++) {
        n += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return n;
}

static void print_cell(FILE *out, const char *text, int width, bool left, bool last)
{
    int pad = width > shown(text) ? width - shown(text) : 0;
    if (!left) {
        fprintf(out, "%*s", pad, "");
    }
    fputs(text, out);
    if (!last) {
        fprintf(out, "%*s", (left ? pad : 0) + 2, "");
    }
}

// Rows from `begin` on; -1 is the head.
static void print_rows(const struct table *table, const int *width, int32_t begin, FILE *out)
{
    char buffer[64];
    for (int32_t r = begin; r < table->n_rows; r++) {
        for (int32_t c = 0; c < table->n_columns; c++) {
            const struct table_column *column = &table->columns[c];
            const char *text =
                r < 0 ? column->title
                      : render(&table->cells[r * table->n_columns + c], column->decimals, buffer, sizeof buffer);
            print_cell(out, text, width[c], column->decimals < 0, c + 1 == table->n_columns);
        }
        fputc('\n', out);
    }
}

void table_print(const struct table *table, FILE *out)
{
    int *width = calloc((size_t)table->n_columns, sizeof *width);
    if (!width) {
        abort();
    }
    char buffer[64];
    for (int32_t c = 0; c < table->n_columns; c++) {
        width[c] = shown(table->columns[c].title);
        for (int32_t r = 0; r < table->n_rows; r++) {
            int cell = shown(
                render(&table->cells[r * table->n_columns + c], table->columns[c].decimals, buffer, sizeof buffer));
            width[c] = cell > width[c] ? cell : width[c];
        }
    }
    print_rows(table, width, -1, out);
    free(width);
}

void table_widen(struct table *table, const char *key, int32_t width)
{
    int32_t c = (int32_t)(find(table->columns, table->n_columns, key) - table->columns);
    table->width[c] = width > table->width[c] ? width : table->width[c];
}

void table_print_new(struct table *table, FILE *out)
{
    for (int32_t c = 0; c < table->n_columns && table->n_printed < 0; c++) {
        int title = shown(table->columns[c].title);
        table->width[c] = title > table->width[c] ? title : table->width[c];
    }
    print_rows(table, table->width, table->n_printed, out);
    table->n_printed = table->n_rows;
}

static void print_field(FILE *out, const char *text)
{
    bool quoted = strpbrk(text, ",\"\n\r") != NULL;
    if (quoted) {
        fputc('"', out);
    }
    for (; *text; text++) {
        if (*text == '"') {
            fputc('"', out);
        }
        fputc(*text, out);
    }
    if (quoted) {
        fputc('"', out);
    }
}

static void print_csv(const struct table *table, FILE *out)
{
    for (int32_t c = 0; c < table->n_columns; c++) {
        fprintf(out, "%s%s", c ? "," : "", table->columns[c].key);
    }
    fputc('\n', out);
    for (int32_t r = 0; r < table->n_rows; r++) {
        for (int32_t c = 0; c < table->n_columns; c++) {
            const struct cell *cell = &table->cells[r * table->n_columns + c];
            fputs(c ? "," : "", out);
            if (cell->text) {
                print_field(out, cell->text);
            } else if (isfinite(cell->number)) {
                fprintf(out, "%.10g", cell->number);
            }
        }
        fputc('\n', out);
    }
}

void tables_print_csv(const struct table *const *tables, int32_t n, FILE *out)
{
    for (int32_t i = 0; i < n; i++) {
        if (i) {
            fputc('\n', out);
        }
        print_csv(tables[i], out);
    }
}

static json_t *rows_json(const struct table *table)
{
    json_t *rows = json_array();
    for (int32_t r = 0; r < table->n_rows; r++) {
        json_t *row = json_object();
        for (int32_t c = 0; c < table->n_columns; c++) {
            const struct cell *cell = &table->cells[r * table->n_columns + c];
            json_t *value = cell->text               ? json_string(cell->text)
                            : isfinite(cell->number) ? json_real(cell->number)
                                                     : json_null();
            json_object_set_new(row, table->columns[c].key, value);
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

void tables_print_json(const struct table *const *tables, int32_t n, FILE *out)
{
    json_t *root = json_object();
    for (int32_t i = 0; i < n; i++) {
        json_object_set_new(root, tables[i]->name, rows_json(tables[i]));
    }
    json_dumpf(root, out, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
    fputc('\n', out);
    json_decref(root);
}

void table_print_json(const struct table *table, FILE *out)
{
    tables_print_json(&table, 1, out);
}
