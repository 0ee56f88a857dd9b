// tui/window.h - the recent steps of one method in one phase, and what they add up to.
//
// Part of state. A step enters with all its stages at once; gaps and overlap follow from the stages' intervals, clipped
// to the step, so that sum of stages + gaps - overlap = step, exactly. No allocation.
#pragma once

#include "tui/state.h"

struct window_call {            // one stage sample of the step that is being added
    enum stage stage;
    int64_t begin_ns, duration_ns;
    double bytes, flops;
};

struct window_stage {           // one stage of one step, summed over layers
    int64_t duration_ns;
    int64_t calls;
    double bytes, flops;
    double memory_ns, compute_ns, floor_ns;    // by the device's rates; floor: sum over calls of the greater one
};

struct window_step {
    int64_t begin_ns, duration_ns, gaps_ns, overlap_ns;
    bool staged;                           // it told its stages; a GPU replays most steps whole
    int32_t n_seqs, n_tokens, context_tokens;
    struct window_stage stages[STAGE_COUNT];
};

struct phase_window {
    struct window_step steps[STATE_STEPS];                  // step number n at n modulo STATE_STEPS
    int64_t n_steps;                                        // ever
    int64_t calls_ns[STAGE_COUNT][STATE_CALLS];             // likewise
    int64_t n_calls[STAGE_COUNT];
    struct phase_summary summary;    // as of step summary_steps: a frame asks for it several times
    int64_t summary_steps;
};

// Adds a step with its `calls` [n], which are sorted by begin in place. `device` may be NULL.
void window_add(struct phase_window *window, const struct step_sample *step, struct window_call *calls, int64_t n,
                const struct device *device, enum dtype dtype);

const struct window_step *window_last(const struct phase_window *window);    // of a window with a step

// Floors of the steps that are there, by rates that became known after them: by the sums of each stage of each step,
// which is less by a trifle where calls of one stage are bound differently. `window` may be NULL.
void window_reprice(struct phase_window *window, const struct device *device, enum dtype dtype);

// window may be NULL: false, and *out unknown throughout.
bool window_summary(struct phase_window *window, const struct device *device, struct phase_summary *out);
int32_t window_history(const struct phase_window *window, double *duration_ns, int32_t n);

// Nearest rank: the smallest value that at least `part` of `values` [n <= STATE_CALLS] do not exceed. NaN if n is 0.
double window_percentile(const double *values, int32_t n, double part);
