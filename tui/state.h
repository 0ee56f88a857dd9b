// tui/state.h - what the dashboard knows: windows of recent steps and stages per method, fed by samples.
//
// A sink. Sources that differ only in their id are one method: an engine that is announced again goes on where it was.
// For each method and phase the last STATE_STEPS steps are kept, split into their stages, and for each stage the last
// STATE_CALLS single samples. Summaries are made on demand and add up: stages + gaps - overlap = step. Floors follow
// from a sample's bytes and flops and the device's rates. No curses, no clock (time comes in the samples), no I/O.
// Unknown figures are NaN, never 0.
#pragma once

#include "engine/sample.h"
#include "sim/predict.h"
#include "tui/kernel_table.h"
#include "tui/request_log.h"
#include "tui/timeline.h"

enum {
    STATE_METHODS = 16,     // the presets and a few of their variants; the one unseen for longest makes room
    STATE_STEPS = 256,      // recent steps per method and phase
    STATE_CALLS = 512,      // recent samples per method, phase and stage
    STATE_REQUESTS = 64     // requests in flight whose times are remembered, per method
};

struct state;

// One stage of one phase, over the window.
struct stage_summary {
    int64_t calls;              // samples ever, not only in the window
    int64_t window_calls;
    double mean_ns;             // per step, summed over layers
    double share;               // of the step, [0, 1]
    double median_ns, p95_ns;   // of single samples
    double bytes_per_s, flops_per_s;
    double floor_ns;            // per step
    double floor_part;          // floor / measured: 1 is the device's limit
    enum bound bound;           // what sets the floor; meaningful where floor_ns is known
};

struct phase_summary {
    int64_t steps;              // ever
    int32_t window_steps;
    double mean_ns, median_ns;  // of a step
    double gaps_ns, overlap_ns; // per step
    double floor_ns, floor_part;
    double tokens_per_s;        // rows over the time of their steps
    int32_t n_seqs, context_tokens;    // of the last step
    struct stage_summary stages[STAGE_COUNT];
};

// What requests and counters told of a method.
struct method_summary {
    struct sample_source source;
    double ttft_s;              // last answer: submitted -> first token
    double prefill_s;           // median of recent answers: running -> first token
    int32_t prompt_tokens, output_tokens;    // of the last request that reached its first token / finished; 0: unknown
    int64_t submitted, running, finished;
    double kv_peak_bytes, batch, queue;    // counters; NaN where none came
    double predicted_prefill_s, predicted_tokens_per_s;
    int64_t last_ns;            // of its latest sample
};

// `device` gives floors and predictions; NULL: unknown. Copied. -ENOMEM.
int state_open(struct state **out, const struct device *device);
void state_close(struct state *state);    // NULL-safe
// Rates that became known later: what is in the windows gets its floors and predictions by them. Copied. NULL: unknown
// from now on.
void state_set_device(struct state *state, const struct device *device);
struct sample_sink state_sink(struct state *state);

// Changes that the user made, for history and timeline: what became different, at the time of the latest sample. The
// last STATE_MARKS are kept; state_mark(n) is the n-th of them, oldest first, NULL behind the last.
enum { STATE_MARKS = 64, MARK_BYTES = 40 };
struct state_mark {
    int64_t time_ns;
    char text[MARK_BYTES];    // "k 512"
};
void state_add_mark(struct state *state, const char *text);
const struct state_mark *state_mark(const struct state *state, int32_t n);

// Readings of what exists beside the engine, by the vendor's name: the last one. NaN: none came.
double state_gauge(const struct state *state, const char *name);

// Forgets all figures but keeps the methods: the work has changed, and old figures do not compare with new ones.
void state_forget(struct state *state);

int32_t state_method_count(const struct state *state);
int32_t state_current_method(const struct state *state);    // of the latest sample; -1: none yet
void state_method(const struct state *state, int32_t method, struct method_summary *out);
int32_t state_find_method(const struct state *state, const char *name);    // first with that name, or -1

// "clsa", or "clsa k=512" where another method of that name differs.
void state_label(const struct state *state, int32_t method, char *label, int32_t bytes);

// False, with *out unknown throughout, if no step of that phase came.
bool state_phase(const struct state *state, int32_t method, enum phase phase, struct phase_summary *out);

// Durations of the most recent steps, oldest first; returns their number, at most `n`.
int32_t state_history(const struct state *state, int32_t method, enum phase phase, double *duration_ns, int32_t n);
// When the i-th of the most recent n of them began.
int64_t state_history_begin(const struct state *state, int32_t method, enum phase phase, int32_t i, int32_t n);

// What one stage did in each of the recent steps that told it, oldest first; returns their number, at most `n`.
int32_t state_stage_history(const struct state *state, int32_t method, enum phase phase, enum stage stage,
                            double *bytes_per_s, double *flops_per_s, int32_t n);

// The kernels that were told of a method; NULL: none.
const struct kernel_table *state_kernels(const struct state *state, int32_t method);

// Samples that belonged to no known source, stages whose step never came, samples lost for want of memory.
int64_t state_lost(const struct state *state);
const struct device *state_device(const struct state *state);    // NULL: unknown
int64_t state_last_ns(const struct state *state);                // of the latest sample

// What lies in time: every recent step, and every recent request, of all methods; borrowed. They are not forgotten.
const struct timeline *state_timeline(const struct state *state);
const struct request_log *state_requests(const struct state *state);
