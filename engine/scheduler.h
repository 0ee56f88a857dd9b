// engine/scheduler.h - what runs in the next step: admission, chunked prefill and decode in one batch.
//
// Pure decisions over counts of tokens and pages: no tensors, no clock. The engine carries them out, the simulator runs
// this very code. Policy: first come, first served; sequences that decode go first, one row each; what is left of the
// token budget prefills the oldest prompts in chunks; a request is admitted when a slot and the pages of its prompt are
// free; when pages run out, the youngest running sequence is preempted and later recomputed from its tokens so far.
// With options.prefix a request begins with the pages that earlier prompts left of the same tokens (engine/prefix.h).
#pragma once

#include "engine/kv_pages.h"
#include "engine/prefix.h"

struct scheduler;

struct scheduler_options {
    int32_t max_seqs;           // sequences that run at once
    int32_t max_step_tokens;    // rows per step: the budget for decode rows and prefill chunks
    struct prefix_options prefix;    // .key NULL: every prompt is computed whole
};

struct scheduled {              // one sequence's part of a step
    int64_t request;
    int32_t slot;
    int32_t context_tokens;     // already in the cache
    int32_t new_tokens;         // to process now
    bool wants_logits;          // the last of its rows completes the prompt or decodes: a token follows
    int32_t reused_tokens;      // of context_tokens, found in the cache just now; 0 after a sequence's first part
    int32_t restore_from;       // copy the window rings from this snapshot before the rows run; -1: no
    int32_t snapshot_to;        // copy them to this one after that, before scheduler_complete; -1: no
};

// With options->prefix.key, `pages` begin to keep what prompts leave.
int scheduler_open(struct scheduler **out, const struct scheduler_options *options, struct kv_pages *pages);
void scheduler_close(struct scheduler *scheduler);    // NULL-safe

// A request waits from here on. -EINVAL if prompt + output can never fit into the pages that exist.
int scheduler_submit(struct scheduler *scheduler, int64_t request, int32_t prompt_tokens, int32_t max_output_tokens);

// The same for a request that was begun elsewhere: its last token is the only one of `known_tokens` whose keys and
// values do not come with it. It waits for pages like any other; preempted, it is computed whole.
int scheduler_receive(struct scheduler *scheduler, int64_t request, int32_t known_tokens, int32_t max_output_tokens);

// `request` joins the running `of`, which must be decoding, with as many tokens in a cache of its own and as many still
// to draw: the caller copies what slot *from holds to slot *to. -EAGAIN if no slot or too few pages are free, or others
// wait; -EINVAL if `of` does not decode.
int scheduler_fork(struct scheduler *scheduler, int64_t of, int64_t request, int32_t *from, int32_t *to);

// Plans the next step: fills `out` [max_seqs], grows the page tables, and returns the number of sequences in it; 0 when
// nothing waits or runs. Preempted requests are named in `preempted` [max_seqs]; their pages and slots are gone.
int32_t scheduler_next(struct scheduler *scheduler, struct scheduled *out, int64_t *preempted, int32_t *n_preempted);

// Tells what the step did: every sequence of `done` [n] has its rows in the cache and, if it wanted logits, one token
// more. `ended` [n] marks sequences that stop now (end of text); those at their limit stop by themselves. Requests that
// finished are named in `finished` [max_seqs]; their pages and slots are free.
void scheduler_complete(struct scheduler *scheduler, const struct scheduled *done, const bool *ended, int32_t n,
                        int64_t *finished, int32_t *n_finished);

// Looks ahead without changing anything: if the next step only decodes, one row of every running sequence, fills `out`
// [max_seqs] and *n as scheduler_next would and returns how many steps in a row stay so: in each, everyone's context is
// one token longer, nobody is admitted or preempted, and only in the last may somebody reach its limit. 0 otherwise.
// What is submitted meanwhile waits, unless nobody waited and there was room: then it would have been let in.
int32_t scheduler_steady(const struct scheduler *scheduler, struct scheduled *out, int32_t *n);

// The same as so many rounds of scheduler_next and scheduler_complete in which no text ends by itself. `steps` is at
// most what scheduler_steady has just returned. Which page goes to whom may differ, how many each has does not.
void scheduler_skip(struct scheduler *scheduler, int32_t steps, int64_t *finished, int32_t *n_finished);

int32_t scheduler_running(const struct scheduler *scheduler);
int32_t scheduler_waiting(const struct scheduler *scheduler);
// How many parts of the step that scheduler_next planned last are sequences that decode: its first ones. The others are
// prompts, whose rows may be as few.
int32_t scheduler_decoding(const struct scheduler *scheduler);
