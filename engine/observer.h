// engine/observer.h - what the engine tells of itself while it runs: nothing about traces, CUPTI or screens.
//
// Calls come from the thread that runs the engine, nested as request > step > layer > stage, begin and end in pairs.
// No clock is read here: the observer takes the time that it wants. A NULL observer costs one comparison per stage.
#pragma once

#include "engine/sample.h"

struct plan;

struct observed_step {
    int64_t step;
    enum phase phase;
    int32_t n_seqs, n_tokens, context_tokens;    // longest context, new rows included
    int32_t n_outputs;                           // tokens that it draws
    int64_t device_ns;                           // at step_end: see in_pieces; 0: not measured
};

struct observed_stage {
    enum stage stage;
    int32_t layer;
    int32_t n_seqs, n_tokens, context_tokens;
    int64_t bytes, flops;
};

// A stage that ran on a device with a clock of its own; nanoseconds after the pass's first stage began.
struct device_stage {
    struct observed_stage stage;
    int64_t begin_ns, end_ns;
};

struct observer {
    void *user;
    void (*step_begin)(void *user, const struct observed_step *step);
    void (*step_end)(void *user, const struct observed_step *step);
    void (*layer_begin)(void *user, int32_t layer);
    void (*layer_end)(void *user, int32_t layer);
    void (*stage_begin)(void *user, const struct observed_stage *stage);
    void (*stage_end)(void *user, const struct observed_stage *stage);
    // The stages of a pass on an asynchronous device, in order, told once the pass has ended, instead of stage_begin
    // and stage_end. Steps that are replayed whole tell none but every stage_every-th (engine.h). NULL: nothing is
    // marked.
    void (*device_stages)(void *user, const struct device_stage *stages, int32_t n);
    // On an asynchronous device: from begin to end the calling thread enqueues the work of `stage`, which runs when it
    // will. Told in the order of the pass, in every step. `replayed`: the work was enqueued before, as part of a
    // recording that an earlier pass made while it told the same stages in the same order; this only says what they
    // cost this time. Work that a step enqueues outside of stages is the host's: copies of the batch and of what it
    // gave.
    void (*enqueue_begin)(void *user, const struct observed_stage *stage, bool replayed);
    void (*enqueue_end)(void *user, const struct observed_stage *stage, bool replayed);
    // Each kernel is followed, which makes a recording slow to launch: it is launched in pieces, so that the device
    // begins with the first while the host still launches the others. The device also times the pass as a whole, by a
    // pair of marks around all of it (observed_step.device_ns): a clock that knows nothing of those who follow.
    bool in_pieces;
    // A request changed its state; the source and the time are the collector's to fill.
    void (*request)(void *user, const struct request_sample *request);
    void (*counter)(void *user, enum counter counter, double value);
};
