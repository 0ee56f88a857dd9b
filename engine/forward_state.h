// engine/forward_state.h - what forward.c and forward_open.c share. Not a public header.
#pragma once

#include "engine/forward.h"

// A stage's cost is split where the stage runs twice: once for the layer itself, once for the memory that is shared by
// the layers above (its keys and values, and the index keys made of it), which every row still writes.
enum part { PART_LAYER, PART_MEMORY, PART_COUNT };

struct forward {
    struct forward_options options;
    const struct kv_cache *cache;  // borrowed
    // Memory of the backend, owned.
    void *x_all;                   // f32 [max_rows][hidden] the residual stream
    void *x_last;                  // f32 [max_logit_rows][hidden] that of the rows that leave logits
    void *normed;                  // [max_rows][hidden]
    void *memory_all;              // [max_rows][hidden] the shared memory's own hidden state
    void *memory_last;             // [max_logit_rows][hidden]
    void *q;                       // [max_rows][n_heads*head_dim]
    void *k, *v;                   // [max_rows][n_kv_heads*head_dim] in plan_fresh_dtype
    void *attended;                // [max_rows][n_heads*head_dim]
    void *index_q;                 // [max_rows][index heads*dim]
    void *index_gate;              // f32 [max_rows][index heads]
    void *index_k;                 // [max_rows][index dim]
    void *scores;                  // f32 [score_capacity] of one tile
    void *logits;                  // f32 [max_logit_rows][vocab]
    struct selection *selections;  // [n_layers] host memory; units and counts the backend's, where an indexer runs
    int64_t score_capacity;
    struct forward_probe *probe;   // owned; NULL: off
    // The pass in progress.
    const struct batch *batch;
    const struct work *work;
    struct stage_cost *costs;      // [1 + n_layers][STAGE_COUNT][PART_COUNT]; the first for what is outside layers
    struct observed_stage stage;   // the one that runs
    bool timed;                    // the observer is told when this pass's stages begin and end
    bool announced;                // the observer is told which stage's work is enqueued
    bool probing;                  // dense attention runs beside every selecting layer's own
    bool replayed;                 // operators are in a recording: the pass only tells what runs
    bool cut;                      // the pass is recorded in pieces
    bool clocked;                  // two marks are around the pass
    int64_t device_ns;             // what lay between them in the last pass
    struct device_stage *on_device;    // [n_on_device] stages of an asynchronous pass, owned; stage i lies between
                                       // marks i and i + 1
    int64_t *mark_ns;              // [n_on_device + 1] when they were told; owned
    int32_t n_on_device, device_capacity;
    const struct rows *rows;       // those that still run: &batch->all, then &batch->last
    float *x;                      // theirs
    void *memory;
};

static inline struct stage_cost *forward_cost(const struct forward *f, int32_t layer, enum stage stage, enum part part)
{
    return &f->costs[((int64_t)(layer + 1) * STAGE_COUNT + stage) * PART_COUNT + part];
}

// Before the attention `op` of a selecting layer: dense attention of the same rows, whose output is thrown away; and
// from then on the layer's queries are kept and `op` leaves its lse in the probe.
int forward_probe_layer(struct forward *forward, int32_t layer, struct op_attention *op);

// Computes the cost of every stage of the batch that forward_begin was given. -ENOMEM.
int forward_price(struct forward *forward);
