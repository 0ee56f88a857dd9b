// tui/request_list.c - a filter and an order.
#include "tui/request_list.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct order {
    const struct request_log *log;
    int32_t column;
    bool reverse;
};

static double value_of(const struct request_row *row, int32_t column)
{
    switch (column) {
    case REQUEST_COLUMN_STATE: return -(double)row->phase;    // who waits comes first
    case REQUEST_COLUMN_PROMPT: return row->prompt_tokens;
    case REQUEST_COLUMN_OUTPUT: return row->output_tokens > 0 ? (double)row->output_tokens : (double)NAN;
    case REQUEST_COLUMN_QUEUE: return request_queue_s(row);
    case REQUEST_COLUMN_TTFT: return request_ttft_s(row);
    case REQUEST_COLUMN_TPOT: return request_tpot_s(row);
    case REQUEST_COLUMN_TOTAL: return request_total_s(row);
    case REQUEST_COLUMN_RESTARTS: return row->restarts;
    default: return 0;
    }
}

static int compare(const void *left, const void *right, void *user)
{
    const struct order *order = user;
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    double x = value_of(request_log_row(order->log, a), order->column);
    double y = value_of(request_log_row(order->log, b), order->column);
    if (isnan(x) || isnan(y)) {
        return isnan(x) != isnan(y) ? isnan(x) - isnan(y) : (a < b) - (a > b);
    }
    int by_value = (x < y) - (x > y), by_age = (a < b) - (a > b);
    by_value = by_value ? by_value : order->column == REQUEST_COLUMN_NAME ? by_age : 0;
    return by_value ? (order->reverse ? -by_value : by_value) : by_age;
}

static bool matches(const struct request_log *log, const struct request_row *row, const char *filter)
{
    char number[32];
    snprintf(number, sizeof number, "%lld", (long long)row->request);
    return !*filter || strstr(request_log_source_name(log, row->source), filter) ||
           strstr(request_phase_name(row->phase), filter) || strcmp(number, filter) == 0;
}

int32_t request_list(const struct request_log *log, const char *filter, int32_t column, bool reverse, int64_t *rows)
{
    struct order order = {log, column, reverse};
    int32_t n = 0;
    for (int64_t i = request_log_first(log); i < request_log_end(log); i++) {
        if (matches(log, request_log_row(log, i), filter)) {
            rows[n++] = i;
        }
    }
    qsort_r(rows, (size_t)n, sizeof *rows, compare, &order);
    return n;
}

int32_t request_list_find(const int64_t *rows, int32_t n, int64_t row)
{
    for (int32_t i = 0; i < n; i++) {
        if (rows[i] == row) {
            return i;
        }
    }
    return 0;
}
