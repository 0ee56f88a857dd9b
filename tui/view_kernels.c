// tui/view_kernels.c - Stages, one level deeper: the kernels of the selected stage.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "traces/kernel_name.h"
#include "tui/views.h"

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};

enum column { COLUMN_NAME, COLUMN_SHARE, COLUMN_STEP, COLUMN_MEDIAN, COLUMN_COUNT_OF, COLUMN_GRID, COLUMN_BLOCK,
              COLUMN_REGISTERS, COLUMN_SHARED, N_COLUMNS };
static const struct view_column columns[N_COLUMNS] = {
    {"kernel", 28, 0}, {"share", 6, 1}, {"per step", 8, 2}, {"median", 8, 3}, {"calls", 6, 4}, {"blocks", 11, 5},
    {"threads", 7, 6}, {"regs", 4, 8}, {"shared", 9, 7},
};

// "132x4": extents of one are left out behind the first.
static void format_extent(char *text, const int32_t *extent)
{
    int length = snprintf(text, FORMAT_BYTES, "%d", extent[0]);
    for (int i = 1; i < 3 && (extent[1] > 1 || extent[2] > 1) && length < FORMAT_BYTES; i++) {
        length += snprintf(text + length, (size_t)(FORMAT_BYTES - length), "x%d", extent[i]);
    }
}

static void put_row(struct cells *cells, struct rect clip, int32_t line, const bool *shown,
                    const struct kernel_table *table, const struct kernel_row *row)
{
    char texts[N_COLUMNS][FORMAT_BYTES] = {""}, name[256];
    double steps = (double)table->steps[row->phase];
    kernel_short_name(name, sizeof name, row->name);
    format_percent(texts[COLUMN_SHARE], (double)row->total_ns / (double)table->total_ns[row->phase]);
    format_time_ns(texts[COLUMN_STEP], (double)row->total_ns / steps);
    format_time_ns(texts[COLUMN_MEDIAN], kernel_row_median_ns(row));
    format_number(texts[COLUMN_COUNT_OF], (double)row->count / steps);
    if (row->work == WORK_KERNEL) {
        format_extent(texts[COLUMN_GRID], row->grid);
        format_whole(texts[COLUMN_BLOCK], row->block[0] * (double)row->block[1] * row->block[2]);
        format_whole(texts[COLUMN_REGISTERS], row->registers);
        format_bytes(texts[COLUMN_SHARED], row->shared_bytes);
    }
    view_columns_row(cells, clip, line, columns, N_COLUMNS, shown, texts, text_pen);
    cells_text_fit(cells, clip, line, 0, columns[0].width, text_pen, name);
}

void view_kernels(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui,
                  int32_t method, enum phase phase, int32_t stage)
{
    struct rect inside = layout_inside(layout, layout->table);
    char title[SOURCE_NAME_BYTES + 128], label[SOURCE_NAME_BYTES];
    const struct kernel_table *table = state_kernels(state, method);
    int32_t rows[KERNEL_ROWS], n = table ? kernel_table_list(table, phase, stage, rows) : 0;
    bool shown[N_COLUMNS];
    state_label(state, method, label, sizeof label);
    snprintf(title, sizeof title, "Kernels of %s, %s, %s; share of all kernel time; Esc: stages", label,
             phase_name(phase), stage_name((enum stage)stage));
    if (layout->framed) {
        cells_frame(cells, layout->table, title);
    }
    if (n == 0) {
        cells_text_fit(cells, inside, 0, 0, inside.cols, dim_pen,
                       table && table->n > 0 ? "No kernels of this stage; left and right select another."
                                             : "None were told: clsa profile --collect kernel records them on a GPU.");
        return;
    }
    view_columns_fit(columns, N_COLUMNS, inside.cols, shown);
    view_columns_title(cells, inside, columns, N_COLUMNS, shown, -1, false);
    int32_t most = n > inside.rows - 1 ? n - inside.rows + 1 : 0;
    ui->scroll = ui->scroll < most ? ui->scroll : most;
    for (int32_t i = ui->scroll; i < n && i - ui->scroll + 1 < inside.rows; i++) {
        put_row(cells, inside, i - ui->scroll + 1, shown, table, &table->rows[rows[i]]);
    }
}
