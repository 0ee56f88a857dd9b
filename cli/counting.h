// cli/counting.h - --collect counters: what hardware counts beside a run, and in a pass before it, as tables.
#pragma once

#include "cli/table.h"
#include "cupti/counters.h"
#include "cupti/stage_counts.h"

// Of one run. Both may be NULL: nothing can be counted.
struct counting {
    struct counters *counters;      // beside the run
    struct stage_counts *counts;    // of a GPU: bytes of each stage, from the pass before
};

// Opens the counters beside a run on a GPU or on the CPU, before the engine; gauges go to `sink`. Lines on stderr say
// what is missing and why.
int counting_open(struct counting *out, bool gpu, int32_t device, const struct sample_sink *sink);
// After the engine has closed: hands over what is pending.
void counting_stop(struct counting *counting);
void counting_close(struct counting *counting);

// Tables of several runs, one after the other: `counted` holds bytes by the model and by the GPU, `sampled` rates and
// shares per stage. NULL: no memory.
enum { COUNTING_COUNTED, COUNTING_SAMPLED, COUNTING_TABLES };
int counting_tables_open(struct table **tables, bool gpu);
void counting_tables_add(struct table *const *tables, const char *method, const struct counting *counting);
