// engine/reference.h - what the files of the reference backend share: its context and the few primitives whose order
// of operations defines every result.
//
// backend_reference.c holds life, memory and the dense operators, reference_attention.c the caches and attention,
// reference_index.c the indexer. Guarantees: activations are f32; every sum runs in a fixed order in double
// accumulators; the result of a row depends on that row and its sequence alone, never on the rest of the batch. Equal
// inputs therefore give equal bits, however the work was cut into steps. Not a public header: only these files use it.
#pragma once

#include "engine/backend.h"

struct backend_context {
    const struct plan *plan;    // borrowed
    int32_t max_rows, max_context;
    // Scratch, owned. The slices of a step are not kept: each operator begins anew.
    float *weight_row;          // [widest matrix input] one row of weights in f32
    float *normed;              // [max_rows][hidden]
    float *inner_gate;          // [max_rows][ffn]
    float *inner_up;            // [max_rows][ffn]
    float *kv;                  // [max_rows][n_kv_heads*head_dim] keys or values before they are rounded
    double *rotation;           // [widest head / 2][cos, sin] of one position
    float *vector;              // [widest head] one key, value or index key in f32
    float *index_query;         // [index heads*dim] one row's index queries as they are scored
    float *query_scale;         // [index heads]
    double *sum;                // [head_dim]
    float *score;               // [max_context]
    int32_t *token;             // [max_context] the keys that a row attends to, ascending
    int32_t *heap;              // [max_context] the best units so far, the worst of them first
    unsigned char *chosen;      // [max_context]
};

// a . b over n: four partial sums (elements i, i+4, i+8, ...), added as (0+1)+(2+3).
double reference_dot(const float *a, const float *b, int32_t n);

// out [n] = the n values at `from`.
void reference_load(float *out, const void *from, enum dtype dtype, int32_t n);

// out [n][w.n_rows] = x [n][w.n_cols] * w^T; added to what is there if `add`.
void reference_matmul(struct backend_context *context, float *out, const struct matrix *w, const float *x, int32_t n,
                      bool add);

// Fills context->rotation for `position`: pair i turns by position * theta^(-2i/dims), i < dims/2.
void reference_rotation(struct backend_context *context, int32_t position, float theta, int32_t dims);

// Rotates the first `dims` values of x by context->rotation, pairs (i, i + dims/2).
void reference_rotate(const struct backend_context *context, float *x, int32_t dims);

// Where token t of a row's sequence lies in a view; for a ring `seq` gives the slot, else the page.
static inline unsigned char *reference_key(const struct kv_view *view, const struct batch *batch, int32_t seq,
                                           int32_t token, int32_t head)
{
    int32_t page = view->ring ? batch->seqs[seq].slot
                              : batch->pages[(int64_t)seq * batch->max_pages + token / view->page_tokens];
    return view->data + page * view->page_stride + (token % view->page_tokens) * view->token_stride +
           head * view->head_stride;
}

// The scales of that token and head in fp8 pages: of its key, then of its value.
static inline uint8_t *reference_scales(const struct kv_view *view, const struct batch *batch, int32_t seq,
                                        int32_t token, int32_t head)
{
    int64_t page = batch->pages[(int64_t)seq * batch->max_pages + token / view->page_tokens];
    return view->data + page * view->page_stride + view->scale_offset +
           (token % view->page_tokens) * view->scale_token_stride + head * view->scale_head_stride;
}

// The bounds [min, max][n_kv_heads*head_dim] of the unit that holds `token`; they lie in the page of its first token.
static inline float *reference_bounds(const struct bound_view *view, const struct batch *batch, int32_t seq,
                                      int32_t token, int32_t kv_width)
{
    int32_t first = token / view->unit_tokens * view->unit_tokens;
    int32_t page = batch->pages[(int64_t)seq * batch->max_pages + first / view->page_tokens];
    int64_t unit = first % view->page_tokens / view->unit_tokens;
    return (float *)(void *)(view->data + page * view->page_stride) + unit * 2 * kv_width;
}

int reference_window_attention(struct backend_context *, const struct batch *, const struct op_window_attention *);
int reference_kv_write(struct backend_context *, const struct batch *, const struct op_kv_write *);
int reference_attention(struct backend_context *, const struct batch *, const struct op_attention *);
int reference_index_write(struct backend_context *, const struct batch *, const struct op_index_write *);
int reference_index_project(struct backend_context *, const struct batch *, const struct op_index_project *);
int reference_index_score(struct backend_context *, const struct batch *, const struct op_index_score *);
int reference_index_select(struct backend_context *, const struct batch *, const struct op_index_select *);
