// cli/eval.h - what a method does to answers: questions with known answers, text with known continuations, selections.
//
// A run is one method with one budget at one context. Its documents and questions (workloads/tasks.h) depend on the
// seed alone, so that all runs, and all devices, are asked the same. Every method prefills its own documents: a
// Transformer's prompt already depends on method and budget, only YOCO's does not. A document is prefilled once and
// forked for each of its questions. The question is forced; the answer is drawn greedily.
#pragma once

#include "cli/command.h"
#include "cli/progress.h"
#include "engine/sample.h"
#include "workloads/tasks.h"

enum { EVAL_MAX_DEPTHS = TASK_MAX_QUESTIONS };

struct eval_options {             // what all runs share
    const char *filler, *text;    // [n_filler], [n_text]: the same text, as a filler and as it is
    size_t n_filler, n_text;
    enum task tasks[TASK_COUNT];
    double depths[EVAL_MAX_DEPTHS];
    int32_t n_tasks, n_depths;
    int32_t samples;           // of each task
    int32_t batch;             // documents that are prefilled together; 0: one on a CPU, on a GPU what fills it
    int32_t probes;            // of each task: questions at whose answers the selections are measured
    int32_t text_documents;    // for bits per byte
    int32_t threads;
    uint64_t seed;
    bool leads;    // keep them: logits come to the host at every step
};

struct eval_answer {
    bool done, right;
    double depth;    // NaN: none
    int32_t n;
    int32_t tokens[TASK_TEXT_BYTES];
    float lead[TASK_TEXT_BYTES];    // how far each token's logit is above the next best one's; 0 where it is not kept
};

struct eval_mean {
    double sum;
    int64_t n;
};

// Where an answer's first byte is drawn, [0, 1], in the mean over layers and sets.
struct eval_routing {
    struct eval_mean coverage;          // of dense attention's mass, what the selection holds
    struct eval_mean exact_coverage;    // and what as many tokens of greatest mean mass would hold
    struct eval_mean iou;               // of the selection's tokens and those
    struct eval_mean same_as_before;    // units selected for the second byte that were selected for the first
    struct eval_mean same_as_first;     // units of an indexer that the lowest one selected too
};

struct eval_run {
    const struct plan *plan;    // borrowed, like the model
    struct model_file *model;
    int32_t context_tokens;
    struct eval_answer *answers[TASK_COUNT];    // [options.samples] owned; eval_run_free
    struct eval_routing routing;
    int32_t n_probes;
    double text_bits;    // of text_bytes
    int64_t text_bytes;
    struct sample_source source;    // where it ran
};

// Asks all tasks. -EINTR after a signal: what is done stays. `progress` advances by one per question.
int eval_ask(struct eval_run *run, const char *device, const struct eval_options *options, struct progress *progress,
             int64_t *advanced);
// Reads text with teacher forcing. `progress` advances by one per document.
int eval_read(struct eval_run *run, const char *device, const struct eval_options *options, struct progress *progress,
              int64_t *advanced);
void eval_run_free(struct eval_run *run);    // NULL-safe

// What is known of one row of the probed step that was just taken, added to `out`. context_tokens: the engine's.
// `before` is the caller's memory from an answer's first byte to its second (NULL at first), to be freed with
// eval_probe_free.
struct eval_probe;
int eval_probe_row(struct eval_routing *out, struct eval_probe **before, struct engine *engine, int32_t row,
                   int32_t context_tokens, bool first_byte);
void eval_probe_free(struct eval_probe *probe);    // NULL-safe

// The Wilson interval of `right` out of n at 95%, [0, 1]. NaN for n = 0.
void eval_interval(double *low, double *high, int64_t right, int64_t n);

double eval_mean(const struct eval_mean *mean);    // NaN of nothing
