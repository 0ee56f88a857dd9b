// tui/request_list.h - the requests that a view shows: filtered, in the order asked for.
#pragma once

#include <stdbool.h>

#include "tui/request_log.h"

enum request_column {
    REQUEST_COLUMN_NAME, REQUEST_COLUMN_STATE, REQUEST_COLUMN_PROMPT, REQUEST_COLUMN_OUTPUT, REQUEST_COLUMN_QUEUE,
    REQUEST_COLUMN_TTFT, REQUEST_COLUMN_TPOT, REQUEST_COLUMN_TOTAL, REQUEST_COLUMN_RESTARTS, REQUEST_COLUMN_COUNT
};

// Rows of the log into rows [REQUEST_LOG_ROWS]; returns their number. `filter`: part of a method's name, of a state's,
// or a request's number; "": all. The newest first, or by a column, the greatest first; unknown figures last.
int32_t request_list(const struct request_log *log, const char *filter, int32_t column, bool reverse, int64_t *rows);

// Where `row` stands in rows [n]; 0 if it is not among them.
int32_t request_list_find(const int64_t *rows, int32_t n, int64_t row);
