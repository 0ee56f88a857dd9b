// engine/forward.h - one forward pass over a batch, from tokens to drawn tokens, on any backend under any plan.
//
// Owns the activations. Knows no requests and no clock: engine/engine.c decides what is in a batch, the observer is
// told of every stage. In YOCO only the rows that leave logits run the layers above the shared memory; a batch whose
// `last` is all rows runs every row through every layer.
#pragma once

#include "engine/cost.h"
#include "engine/kv_cache.h"
#include "engine/observer.h"

struct forward;

struct forward_options {
    const struct backend *backend;            // all pointers borrowed until close
    struct backend_context *context;
    const struct plan *plan;
    const struct model_weights *weights;      // as weight_load made them
    const struct observer *observer;          // NULL: none
    int32_t max_rows, max_logit_rows, max_context;
    int32_t stage_every;                      // asynchronous backends: stages of one decode step in so many; 0: none
    bool eager;                               // asynchronous backends: steps that decode are not recorded either
};

// -EINVAL for a plan that the engine cannot run, -ENOMEM with what was asked for. *out is NULL on failure.
int forward_open(struct forward **out, const struct forward_options *options);
void forward_close(struct forward *forward);    // NULL-safe

// Sets the cache that passes read and write, before the first of them; borrowed until close. It comes after open,
// because it may take what memory the activations leave.
void forward_use_cache(struct forward *forward, const struct kv_cache *cache);

// From the next pass on another observer is told, or NULL; returns the one before.
const struct observer *forward_observe(struct forward *forward, const struct observer *observer);

// Whether the observer is told the stages of step `step`: always if it has slots for them, but of steps that decode
// (one row of each sequence, all leaving logits) on an asynchronous backend, one in stage_every. An observer that is
// told what is enqueued, and not how long the device took, is told all.
bool forward_tells_stages(const struct forward *forward, int64_t step, bool decodes);

// Host work before a pass: hands the batch to the backend. work [n_seqs] describes the same batch, to price its stages.
// Both are borrowed until forward_end.
int forward_begin(struct forward *forward, const struct batch *batch, const struct work *work);

// The pass. sampling and token [last.n] are host memory; tokens are there after forward_end. A failure names the layer.
int forward_run(struct forward *forward, const struct sampling *sampling, int32_t *token);
int forward_end(struct forward *forward);

// What the last pass took on the device, by its own clock; 0: not measured (observer.h's in_pieces).
int64_t forward_device_ns(const struct forward *forward);

// From the next pass on, passes that decode (one row of each sequence) also run dense attention beside every selecting
// layer's own and keep what engine.h's probe asks for. -ENOMEM.
int forward_set_probe(struct forward *forward, bool on);

// Of the last pass, in memory of the backend, rows as in its `last`. False if it was not probed or the layer does not
// select.
struct probed_layer {
    const void *q;                            // [n][n_heads*head_dim]
    const float *lse_selected, *lse_dense;    // [n][n_heads]
};
bool forward_probed(const struct forward *forward, int32_t layer, struct probed_layer *out);

// Of the last pass, in memory of the backend: [last.n][vocab]; and what the indexer of layer `index_from` selected, one
// row per row that ran that layer. NULL if that layer runs none.
const float *forward_logits(const struct forward *forward);
const struct selection *forward_selection(const struct forward *forward, int32_t index_from);

// Whether the rows of that selection are `last` (true) or `all` of the batch.
bool forward_selects_last(const struct forward *forward, int32_t index_from);
