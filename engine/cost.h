// engine/cost.h - what one stage of one layer moves and computes, in closed form.
//
// The same formulas price a stage for the simulator, label a trace slice, and give a benchmark its floor. They count
// what an ideal kernel must do: weights, cached keys and values, index keys and scores each read once and written once;
// activations stay on the chip. No state, no allocation, no I/O. Formulas: the README's "Cost model", after the
// complexity table of arXiv 2606.06467 and the layouts of engine/kv_cache.h.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/plan.h"
#include "engine/stage.h"

struct stage_cost {
    int64_t bytes;    // to and from memory
    int64_t flops;    // a multiply-add counts as 2
};

// One sequence's share of a forward pass.
struct work {
    int32_t context_tokens;    // tokens already in the cache
    int32_t new_tokens;        // rows of this pass: 1 in decode
    int32_t logit_rows;        // rows that leave logits: 0 (a chunk before the last), 1, or new_tokens (every position)
};

// Cost of `stage` in layer `layer` for a pass over `work` [n_seqs]. Stages outside layers (embed, head, sample) take
// layer -1. In YOCO the projection and the writing of the shared memory belong to plan_memory_layer(): its qkv and
// kv_write hold both. A stage that this layer does not have costs {0, 0}. Returns 0; -EINVAL for a layer out of range.
int stage_cost(struct stage_cost *out, const struct plan *plan, enum stage stage, int32_t layer,
               const struct work *work, int32_t n_seqs);

// Sum of all stages and layers: the floor of a step.
struct stage_cost step_cost(const struct plan *plan, const struct work *work, int32_t n_seqs);

// The three parts of the memory layer's cost that run at different times (see engine/forward.c): its own window
// attention's projection, and the shared memory's. For other layers `memory` is {0, 0}.
void qkv_cost_parts(struct stage_cost *own, struct stage_cost *memory, const struct plan *plan, int32_t layer,
                    const struct work *work, int32_t n_seqs);

// Memory. Bytes of weights; of cache per token of context (pages: keys, values, index keys, page bounds); and of cache
// per sequence whatever its length (window rings).
int64_t plan_weight_bytes(const struct plan *plan);
int64_t plan_parameters(const struct plan *plan);
int64_t plan_kv_bytes_per_token(const struct plan *plan);
int64_t plan_kv_bytes_per_sequence(const struct plan *plan);
// What an engine keeps of each row of a step, in 16 bits: it has room for as many rows as a step may have. Without what
// kernels work in.
int64_t plan_row_bytes(const struct plan *plan);
// Units that `tokens` tokens fill, the last one perhaps in part; 0 if the plan selects nothing.
int32_t plan_units(const struct plan *plan, int32_t tokens);
// Index scores are made and consumed in tiles of rows, so that a long prompt does not need rows times context of
// memory. A GPU needs many rows at once to be busy: `token` takes 4.49 s for a prompt of 131072 tokens of paper-4b on
// an H200 in tiles of 256 MiB, 4.26 s in 512 MiB, 4.15 s in 1 GiB. An engine keeps a tile at most: the scores of `rows`
// rows, or of the `logit_rows` that leave logits where the layers that select share a memory, over `context_tokens`.
enum { SCORE_TILE_BYTES = 64 << 20, DEVICE_SCORE_TILE_BYTES = 1 << 30 };
enum { SCORE_ALIGNMENT = 16 };    // in floats: rows of scores begin at 64 bytes
int64_t plan_score_bytes(const struct plan *plan, int32_t rows, int32_t logit_rows, int32_t context_tokens,
                         int64_t tile_bytes);
