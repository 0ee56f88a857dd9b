// cli/paper.h - the experiment of arXiv 2606.06467 on this machine: prefill, decode and end-to-end throughput of
// several methods at several contexts and batches, beside the paper's own figures.
#pragma once

#include "cli/command.h"
#include "cli/table.h"
#include "sim/device.h"

enum { PAPER_CONTEXTS = 3, PAPER_MAX_METHODS = 16 };

struct paper_method {
    const struct plan *plan;
    struct model_file *model;
};

// One method at one context and batch.
struct paper_point {
    const struct plan *plan;
    int32_t context, batch;
    double prefill_s;                    // of one prompt; NaN but with the first batch
    double step_s, spread_s;        // of a decode step: median, interquartile range
    double floor_s;                 // bytes and operations over rates
    double stage_s[STAGE_COUNT];    // of a step that told its stages: each over all layers; 0: it has no such stage
    double end_to_end;                   // output tokens per second; NaN but with the largest batch
};

struct paper_options {
    struct paper_method methods[PAPER_MAX_METHODS];
    int32_t n_methods;
    const char *backend;
    int32_t device, threads, chunk_tokens;
    int32_t contexts[PAPER_CONTEXTS];    // tokens, ascending
    int32_t output_tokens;               // of a request, for end-to-end throughput
    int32_t max_batch;                   // the largest that is tried
    const int32_t *text;                 // [n_text], repeated
    int32_t n_text;
    const struct device *rates;          // floors are made from these
    void (*point)(void *user, const struct paper_point *point);    // each as it comes; may be NULL
    void *user;
};

enum { PAPER_MEASURED, PAPER_SLOW_SELECTION, PAPER_PUBLISHED, PAPER_TABLES };

// Runs all of it. Each request of a batch has a cache of its own: one prompt is prefilled, the others are its forks.
// tables [PAPER_TABLES] are owned by the caller, also after a failure (NULL where not made).
int paper_run(struct table **tables, const struct paper_options *options);
