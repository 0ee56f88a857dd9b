// tui/kernel_table.h - the kernels of one method: per phase, stage and name, how often and how long.
//
// Fed by kernel samples; kept for as long as the method. At most KERNEL_ROWS different ones; what comes beyond is added
// to one row per phase, "(other)". No clock, no I/O.
#pragma once

#include "engine/sample.h"
#include "tui/name_table.h"

enum { KERNEL_ROWS = 256, KERNEL_RECENT = 64 };

struct kernel_row {
    enum phase phase;
    enum stage stage;              // STAGE_COUNT: attributed to none
    enum device_work work;
    const char *name;              // as the compiler mangled it; the table's
    int64_t count, total_ns, bytes;
    int64_t recent_ns[KERNEL_RECENT];    // number n at n modulo KERNEL_RECENT
    int32_t grid[3], block[3], registers, shared_bytes;    // of the last one; shared: static and dynamic
};

struct kernel_table {
    struct kernel_row rows[KERNEL_ROWS];
    int32_t n;
    int64_t total_ns[PHASE_COUNT];
    int64_t steps[PHASE_COUNT];    // that kernels were told of, to divide by
    int64_t last_step[PHASE_COUNT];
};

// `names` keeps the rows' names and must outlive the table.
void kernel_table_add(struct kernel_table *table, struct name_table *names, const struct kernel_sample *sample);

// The rows of a phase and stage (-1: any), those that took longest first; returns their number, at most KERNEL_ROWS.
int32_t kernel_table_list(const struct kernel_table *table, enum phase phase, int32_t stage, int32_t *rows);

double kernel_row_median_ns(const struct kernel_row *row);    // of the recent ones
