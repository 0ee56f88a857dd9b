// cupti/counters.h - what hardware counts while an engine runs, as gauges of its stream and as averages per stage.
//
// On a GPU: the sampler of performance monitors (cupti/pm_sampling.h) and NVML's slow gauges, read by a thread of their
// own and handed to the sink from the engine's, after each step. On a CPU: cycles, instructions and cache misses around
// each stage. Whatever is not there or not permitted is left out, with one line that says why and what to do.
#pragma once

#include "cupti/counters_api.h"
#include "engine/observer.h"
#include "engine/sample.h"

struct counters;

enum { COUNTERS_METRICS = 16 };

struct counters_options {
    bool gpu;                   // what the engine runs on
    int32_t device;             // its number
    double readings_per_s;      // of NVML. 0: 10
    int64_t interval_ns;        // of the sampler. 0: 250 us
    struct sample_sink sink;    // is told the gauges; copied
    struct counters_libraries libraries;
    const char *nvml_library;    // NULL: the system's
};

// Before the engine is opened: threads that it starts are counted, too; and CUPTI wants to be in the process before
// steps are recorded that it will see replayed.
int counters_open(struct counters **out, const struct counters_options *options);
// After the engine is closed; tells what is pending. Averages and notes are valid until close.
void counters_stop(struct counters *counters);
void counters_close(struct counters *counters);    // NULL-safe; stops

// Must see the stream of the engine that runs, before the sink of the options or after: steps give the rhythm.
struct sample_sink counters_sink(struct counters *counters);
// Stands between the engine and `inner`, which may be the result where nothing is counted around stages. Borrowed.
const struct observer *counters_observer(struct counters *counters, const struct observer *inner);

// The i-th line on what is missing and why; NULL after the last.
const char *counters_note(const struct counters *counters, int32_t i);

// A stage's averages over the time in which it alone ran: on a GPU over whole samples inside it, so that stages shorter
// than the interval have none. value [counters_metrics]: sums and counts are per second, percentages are means.
struct counters_average {
    enum phase phase;
    enum stage stage;
    int64_t n;    // samples, or runs of the stage
    double seconds;
    double value[COUNTERS_METRICS];
};
int32_t counters_metrics(const struct counters *counters);
const char *counters_metric(const struct counters *counters, int32_t i, const char **unit);    // the vendor's name
// The i-th average; false after the last.
bool counters_average(const struct counters *counters, int32_t i, struct counters_average *out);
