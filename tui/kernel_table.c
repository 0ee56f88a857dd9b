// tui/kernel_table.c - rows found by a linear search: kernels come in the order of a step, so the row behind the last
// one is most often the right one.
#include "tui/kernel_table.h"

#include <stdlib.h>
#include <string.h>

#include "tui/window.h"

static bool is_row(const struct kernel_row *row, const struct kernel_sample *sample)
{
    return row->phase == sample->phase && row->stage == sample->stage && row->work == sample->work &&
           strcmp(row->name, sample->name) == 0;
}

static struct kernel_row *new_row(struct kernel_table *table, struct name_table *names,
                                  const struct kernel_sample *sample)
{
    // The last PHASE_COUNT rows are for what has no row of its own.
    bool own = table->n < KERNEL_ROWS - PHASE_COUNT;
    if (!own) {
        for (int32_t i = KERNEL_ROWS - PHASE_COUNT; i < table->n; i++) {
            if (table->rows[i].phase == sample->phase) {
                return &table->rows[i];
            }
        }
    }
    struct kernel_row *row = &table->rows[table->n++];
    *row = (struct kernel_row){
        .phase = sample->phase, .stage = own ? sample->stage : STAGE_COUNT, .work = sample->work,
        .name = own ? name_table_keep(names, sample->name) : "(other)",
    };
    return row;
}

static struct kernel_row *find_row(struct kernel_table *table, struct name_table *names,
                                   const struct kernel_sample *sample)
{
    for (int32_t i = 0; i < table->n; i++) {
        if (is_row(&table->rows[i], sample)) {
            return &table->rows[i];
        }
    }
    return new_row(table, names, sample);
}

void kernel_table_add(struct kernel_table *table, struct name_table *names, const struct kernel_sample *sample)
{
    struct kernel_row *row = find_row(table, names, sample);
    row->recent_ns[row->count++ % KERNEL_RECENT] = sample->duration_ns;
    row->total_ns += sample->duration_ns;
    row->bytes += sample->bytes;
    memcpy(row->grid, sample->grid, sizeof row->grid);
    memcpy(row->block, sample->block, sizeof row->block);
    row->registers = sample->registers;
    row->shared_bytes = sample->static_shared_bytes + sample->dynamic_shared_bytes;
    table->total_ns[sample->phase] += sample->duration_ns;
    if (table->steps[sample->phase] == 0 || table->last_step[sample->phase] != sample->step) {
        table->steps[sample->phase]++;
        table->last_step[sample->phase] = sample->step;
    }
}

static int longest_first(const void *left, const void *right, void *user)
{
    const struct kernel_table *table = user;
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    int64_t x = table->rows[a].total_ns, y = table->rows[b].total_ns;
    return x != y ? (x < y) - (x > y) : a - b;
}

int32_t kernel_table_list(const struct kernel_table *table, enum phase phase, int32_t stage, int32_t *rows)
{
    int32_t n = 0;
    for (int32_t i = 0; i < table->n; i++) {
        if (table->rows[i].phase == phase && (stage < 0 || (int32_t)table->rows[i].stage == stage)) {
            rows[n++] = i;
        }
    }
    qsort_r(rows, (size_t)n, sizeof *rows, longest_first, (void *)table);
    return n;
}

double kernel_row_median_ns(const struct kernel_row *row)
{
    double values[KERNEL_RECENT];
    int32_t n = row->count < KERNEL_RECENT ? (int32_t)row->count : KERNEL_RECENT;
    for (int32_t i = 0; i < n; i++) {
        values[i] = (double)row->recent_ns[i];
    }
    return window_percentile(values, n, 0.5);
}
