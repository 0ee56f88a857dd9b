// engine/engine.h - a running model: requests in, tokens out, one step at a time.
//
// One engine runs one plan on one backend. It is driven by one thread: nothing here locks. Requests are batched by
// engine/scheduler.h; each step is one forward pass (engine/forward.c), told to the observer stage by stage.
#pragma once

#include "engine/model_file.h"
#include "engine/observer.h"

struct engine;

enum { CACHE_ALL_FREE = -1 };        // cache_tokens: as many as the device's free memory holds

struct engine_options {
    const struct plan *plan;         // copied
    struct model_file *model;        // borrowed until close
    const char *backend;             // NULL: "cpu"
    int32_t threads;                 // 0: all that the process may use
    int32_t device;
    int32_t max_seqs;                // 0: 1
    int32_t max_context;             // tokens of one sequence, prompt and output. 0: 8192
    int32_t max_step_tokens;         // rows of one step: the prefill chunk. 0: 512
    int32_t cache_tokens;            // tokens in pages for all sequences. 0: max_seqs * max_context; or CACHE_ALL_FREE,
                                     // where the backend has memory of its own
    bool reuse_prefixes;             // prompts begin with the pages that earlier ones left of the same tokens
    int32_t prefix_tokens;           // ... in multiples of so many tokens, whole pages and units. 0: one
    int32_t snapshots;               // with that: prompts whose windows are remembered. 0: PREFIX_SNAPSHOTS
    bool every_position;             // run all rows through all layers and keep all logits (evaluation; no early exit)
    const struct observer *observer; // borrowed until close; NULL: none
    int32_t stage_every;             // on a GPU, decode steps are replayed whole: the observer is told of the stages of
                                     // one in so many. 0: 64; negative: none. On a CPU and in prefill, of every step's
    bool eager;                      // on a GPU, decode steps are not replayed either: slower, but each stage's work is
                                     // enqueued between the observer's enqueue_begin and enqueue_end (hardware
                                     // counters)
};

struct engine_request {
    const int32_t *prompt;           // [n_prompt], copied
    int32_t n_prompt;
    int32_t max_output_tokens;
    bool stop_at_end;                // finish at TOKEN_END
    float temperature, top_p;        // 0 and 0: greedy
    uint64_t seed;
    const int32_t *forced;           // [max_output_tokens], copied: these follow whatever was drawn (agreement is
                                     // measured on one and the same text). NULL: the drawn tokens follow
};

// A token came out of a step. logits [vocab] are in host memory until the next step; NULL unless engine_keep_logits.
struct engine_output {
    int64_t request;
    int32_t token;                   // as drawn, also when another was forced
    int32_t index;                   // 0 for the first token of the answer
    bool finished;
    const float *logits;
};

struct engine_stats {
    int64_t steps, prompt_tokens, output_tokens;
    int64_t kv_bytes_used, kv_bytes_allocated, weight_bytes;
    int32_t cache_tokens;        // that the cache's pages hold, all sequences together
    int32_t running, waiting;
    int64_t preemptions;         // times that a running request lost its pages and had to start over
    int64_t reused_tokens;       // found in the cache by requests as they (re)started, and not computed
};

// *out is NULL on failure. A model that does not fit is -ENOMEM with the sizes that would.
int engine_open(struct engine **out, const struct engine_options *options);
void engine_close(struct engine *engine);    // NULL-safe

// Runs made-up steps, which nobody is told of, so that no request pays for what is loaded, chosen or recorded when a
// shape first comes: prompts of all lengths up to the step's, an eighth of an octave apart, and on a GPU batches of
// every size that decode contexts from `least_context` tokens to the engine's, powers of two, at most 256 of them.
// Steps that an observer wants timed or in pieces have recordings of their own, which are still made when the first of
// them comes.
// -EINVAL after the first request, also a finished one; any other failure is that of a step.
int engine_warm(struct engine *engine, int32_t least_context);

int engine_submit(struct engine *engine, const struct engine_request *request, int64_t *id);

// A request that goes on from where `of` stands: the same tokens so far, with a cache of its own. `of` must have its
// first token; nobody may wait. -EAGAIN if there is no room for its pages.
int engine_fork(struct engine *engine, int64_t of, int64_t *id);

// From its next output on, `request` goes on with tokens [n], copied, whatever is drawn, and after them with what is
// drawn: a question that is put to a text, or to its forks. Replaces what was forced before. -EINVAL if it does not run
// or wait, or has fewer outputs left.
int engine_force(struct engine *engine, int64_t request, const int32_t *tokens, int32_t n);

// Runs one step. Returns the number of outputs in *outputs (borrowed until the next call), 0 if the step drew none (a
// chunk of a prompt), -ENODATA if there was nothing to do, or another negative errno: the engine is then only good for
// closing.
int engine_step(struct engine *engine, const struct engine_output **outputs);

// Copies logits to the host after each step; with every_position, engine_logits has all rows of the last step.
void engine_keep_logits(struct engine *engine, bool keep);
const float *engine_logits(const struct engine *engine, int32_t *n_rows);    // [n_rows][vocab]

// Selections of the last step, for metrics and tests: units of (row of the last step's logit rows or, with
// every_position, any row; set) for the indexer that `layer` follows. Returns the count, or 0 if the plan selects
// nothing.
int32_t engine_selection(const struct engine *engine, int32_t layer, int32_t row, int32_t set, const int32_t **units);

// Tokens of its prompt that a request found in the cache when it first began; 0 before that. Until it has finished.
int32_t engine_reused(const struct engine *engine, int64_t request);

// How much the selections of the next steps miss: beside every selecting layer's attention, steps that only decode (one
// row of each sequence) also run dense attention, and keep the queries. Outputs stay the same; steps take longer.
// -ENOMEM.
int engine_probe(struct engine *engine, bool on);

// Of the last step, if it was probed, for one of its logit rows: what part of dense attention's mass the keys that
// `layer` selected hold, exp(lse selected - lse dense), in the mean over the layer's heads. NaN if the step was not
// probed or the layer does not select.
double engine_coverage(const struct engine *engine, int32_t layer, int32_t row);

// The mass that dense attention gives to each token, [0, 1], in the mean over all layers and heads that follow set
// `set` of the indexer in layer `index_from`: mass [context of the row], which the caller has made as long as the
// engine's context.
// *n_tokens is how long it is. Worked out on the host from kept queries and cached keys: for evaluation, not for speed.
// -EINVAL if the last step was not probed, or there is no such row or indexer.
int engine_dense_mass(const struct engine *engine, int32_t index_from, int32_t row, int32_t set, float *mass,
                      int32_t *n_tokens);

struct engine_stats engine_stats(const struct engine *engine);
// What the device's driver says is in use, by anybody; 0 where the backend has no memory of its own.
int64_t engine_device_bytes(const struct engine *engine);
void engine_source(const struct engine *engine, struct sample_source *out);    // describes this engine; id 0
const struct plan *engine_plan(const struct engine *engine);
