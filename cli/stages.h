// cli/stages.h - the stage tables that several subcommands print.
#pragma once

#include "cli/table.h"
#include "traces/summary.h"

// One row per (source, phase, stage) with count, median, P95, share, GB/s, GFLOP/s, then rows "gaps", "overlap", "step":
// stages + gaps - overlap = step. NULL: no memory.
struct table *stages_of_all(const char *name, const struct trace_summary *summary);

// Stages down, methods across: mean us per step in decode, ms in all in prefill. `names` and `sources` [n] in the order
// of the columns; names are borrowed until the table is closed.
struct table *stages_by_method(const char *name, const struct trace_summary *summary, enum phase phase,
                               const char *const *names, const int32_t *sources, int32_t n);
