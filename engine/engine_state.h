// engine/engine_state.h - what engine.c, engine_room.c and engine_step.c share. Not a public header.
#pragma once

#include "engine/engine.h"
#include "engine/forward.h"
#include "engine/scheduler.h"
#include "engine/step_batch.h"

struct request {
    int64_t id;
    int32_t *tokens;         // [n_prompt + max_output] owned: the prompt and what followed
    int32_t *forced;         // [max_output] owned, or NULL; of outputs [.., forced_end)
    int32_t n_prompt, n_output, max_output, forced_end;
    uint64_t *keys;          // [n_prompt / page_tokens] owned: of the prompt up to each page's end; NULL unless reused
    int32_t reused_tokens;   // when it first began
    struct sampling sampling;
    bool stop_at_end, started;
};

struct engine {
    struct plan plan;
    struct engine_options options;    // with the defaults filled in; plan is the copy above
    const struct backend *backend;
    struct backend_context *context;
    struct model_weights weights;     // as the backend made them; .layers owned
    struct kv_pages *pages;
    struct scheduler *scheduler;
    struct kv_cache *cache;
    struct forward *forward;
    int32_t max_logit_rows, failed;
    int64_t steps, prompt_tokens, output_tokens, preemptions, reused_tokens;

    struct request **requests;        // [n_requests] by id; NULL once finished
    int64_t n_requests, requests_capacity;

    // The step in progress, or the last one.
    struct step_batch batch;
    struct scheduled *scheduled;      // [max_seqs]
    int32_t *last_row;                // [max_seqs] each sequence's last logit row, -1: none
    struct sampling *sampling;        // [max_logit_rows]
    int32_t *drawn;                   // [max_logit_rows]
    bool *ended;                      // [max_seqs]
    int64_t *preempted, *finished;    // [max_seqs]
    struct engine_output *outputs;    // [max_seqs]
    bool staged;                      // the observer is told its stages
    bool keep_logits;
    float *logits;                    // [max_logit_rows][vocab] on the host, once kept
    int32_t *units;                   // [budget units] the selection last asked for
};

void engine_free_request(struct request *request);    // NULL-safe

// Tells the observer, if there is one, that a request changed its state in `step`, -1 before any.
void engine_tell_request(const struct engine *engine, const struct request *request, enum request_state state,
                         int64_t step);

// engine_room.c. Each returns -ENOMEM with the sizes in words where memory is short.
// Before the weights are brought: whether they, the windows and n_pages could have room at all, and if not, what would.
// What a step needs beside is not counted.
int engine_check_room(const struct engine *engine, int64_t n_pages);
// Pages that fit into what is free once everything else has its memory. -EINVAL: no backend with memory of its own.
int engine_pages_that_fit(int32_t *n_pages, const struct engine *engine);
// Opens the cache; where memory is short, tries how much would fit and says so.
int engine_open_cache(struct engine *engine, int32_t n_pages);
