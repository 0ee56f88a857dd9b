// traces/summary.h - where the time of a stream of samples went: statistics per source, phase and stage.
//
// A sink, so that a running engine and a trace file are summarised by the same code. Medians and 95th percentiles are
// exact: every duration is kept (8 bytes a sample), rows are made on demand. For every (source, phase) the rows add up:
// sum of total_ns of its stages + gaps_ns - overlap_ns = staged_ns, the time of those of its steps that told their
// stages. Stages whose step never came (a run that was cut) are left out of all rows and counted. No I/O, no clock.
#pragma once

#include "engine/sample.h"

struct trace_summary;

// The least that a stage could take, in ns: for its bytes, for its operations, and to be launched at all.
struct summary_floor {
    double bytes_ns, flops_ns, launch_ns;
};

// Which of them a stage's floors are made of: the larger of the first two, unless launching takes longer than either.
enum summary_bound { SUMMARY_BANDWIDTH, SUMMARY_COMPUTE, SUMMARY_LATENCY, SUMMARY_BOUNDS };

// Who knows devices' rates says what stages could take; this room knows none. `step_bytes`: of all stages of the step.
// False: no rates are known for that source.
struct summary_pricer {
    void *user;
    bool (*price)(void *user, struct summary_floor *out, const struct sample_source *source,
                  const struct stage_sample *sample, int64_t step_bytes);
};

struct summary_stage {
    int32_t source;             // as in the samples
    enum phase phase;           // of the step that the stage ran in
    enum stage stage;
    int64_t count;              // samples: layers times steps
    int64_t total_ns, median_ns, p95_ns;    // median and percentile of single samples
    int64_t bytes, flops;       // summed; over total_ns: the achieved rates
    double priced_ns;           // of those samples that were priced; 0: none was
    double floor_ns;            // theirs at best, without launches
    enum summary_bound bound;   // of most of that
    // Of those samples whose bytes were counted by the hardware (stage_sample.measured_bytes): these, and the model's.
    int64_t measured_count, measured_bytes, modelled_bytes;
};

struct summary_step {
    int32_t source;
    enum phase phase;
    int64_t count;
    int64_t total_ns, median_ns, p95_ns;
    int64_t staged_count;       // steps that told their stages: all of them, but where a GPU replays steps whole
    int64_t staged_ns;
    int64_t gaps_ns;            // inside those, in no stage
    int64_t overlap_ns;         // counted more than once because stages ran at the same time, or outside their step
    int64_t n_tokens;           // rows, summed over steps
    // Of those that told their stages and were timed as a whole by the device's own events: their time by these, and by
    // their stages on the device, first to last (stages + gaps - overlap). Two clocks that should agree.
    int64_t clocked_count, clocked_ns, clocked_stages_ns;
};

struct summary_loss {
    int64_t dropped, invalid;   // as in struct loss_sample, over all sources
};

int trace_summary_open(struct trace_summary **out);    // *out is NULL on failure
void trace_summary_close(struct trace_summary *summary);    // NULL-safe
struct sample_sink trace_summary_sink(struct trace_summary *summary);
void trace_summary_price(struct trace_summary *summary, const struct summary_pricer *pricer);    // before any sample

// Makes the rows of all that came so far. Returns the first failure since open (-ENOMEM) instead of part of the truth.
int trace_summary_update(struct trace_summary *summary);

// Rows as of the last update, valid until the next; sorted by source in order of announcement, then phase, then stage.
const struct summary_stage *trace_summary_stages(const struct trace_summary *summary, int32_t *n);
const struct summary_step *trace_summary_steps(const struct trace_summary *summary, int32_t *n);

// Sources in order of announcement; one announced again under the same id replaces the old description.
const struct sample_source *trace_summary_sources(const struct trace_summary *summary, int32_t *n);

int64_t trace_summary_orphans(const struct trace_summary *summary);    // stage samples without their step
struct summary_loss trace_summary_loss(const struct trace_summary *summary);
