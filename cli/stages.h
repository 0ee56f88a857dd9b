// cli/stages.h - the stage tables that several subcommands print.
#pragma once

#include "cli/table.h"
#include "traces/summary.h"

enum stages_sort { STAGES_BY_ORDER, STAGES_BY_TIME, STAGES_BY_COUNT, STAGES_BY_MEDIAN, STAGES_BY_ROOFLINE };

// One row per (source, phase, stage): count, time, share of the steps that told their stages, rates, and where the
// summary was priced the share of the roofline and what bounds it; measured bytes where hardware counted them. Then
// rows "gaps", "overlap", "step": stages + gaps - overlap = step. method NULL: all sources. NULL: no memory.
struct table *stages_of_all(const char *name, const struct trace_summary *summary, const char *method,
                            enum stages_sort sort);

// Two lines on what the columns mean.
extern const char *const stages_definitions;

// Stages down, methods across: mean us per step in decode, ms in all in prefill. `names` and `sources` [n] in the order
// of the columns; names are borrowed until the table is closed.
struct table *stages_by_method(const char *name, const struct trace_summary *summary, enum phase phase,
                               const char *const *names, const int32_t *sources, int32_t n);
