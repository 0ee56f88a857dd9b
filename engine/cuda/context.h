// engine/cuda/context.h - what the files of the CUDA backend share: its context, and the dense products.
//
// backend_cuda.c holds life, memory and steps, operators.c the operators, gemm.c products through cuBLASLt. All work of a
// context runs on one stream. Unless CLSA_CUDA_ASYNC is set, each operator is waited for, so that the time between its
// call and its return is its own and stages can be told apart; then the host adds a few microseconds to each. Weights are
// bf16 on the device, vectors f32; activations are bf16. Not a public header.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/backend.h"
#include "engine/cuda/kernels.h"

struct gemm;    // cuBLASLt, its workspace, and the algorithms found so far

// Device copies of a batch's arrays.
struct mirror {
    int32_t *token, *seq, *position;                       // [all.n]
    int32_t *last_seq, *last_position, *last_source;       // [last.n]
    int32_t *pages;                                        // [n_seqs][max_pages]
    int32_t *slot, *first_row, *context, *n_rows;          // [n_seqs]
};

struct backend_context {
    const struct plan *plan;            // borrowed
    int32_t device, max_rows;
    bool async;
    char name[128], variant[64];
    cudaStream_t stream;
    struct gemm *gemm;                  // owned; NULL where cuBLASLt is not
    const struct batch *batch;          // borrowed during a step
    struct mirror mirror;               // into mirror_device
    int32_t *mirror_host, *mirror_device;    // owned; host pinned
    int64_t mirror_capacity;            // in int32_t
    void **weights;                     // [n_weights] owned
    int32_t n_weights, weight_capacity;
    void *normed, *inner, *inner_up;    // owned scratch: [max_rows][hidden], 2x [max_rows][ffn] bf16
    void *attention;                    // owned workspace
    int32_t *nan_row, *tokens;          // owned; [1], [max_rows]
    int32_t *tokens_host;               // owned, pinned: [max_rows + 1]
    float *logits_host;                 // owned: [vocab]
};

int cuda_status(cudaError_t error, const char *what);    // 0, or -EIO with what the driver says

// Waits for the operator just launched, unless the context runs asynchronously. Passes an earlier error on.
int cuda_settle(struct backend_context *context, int error);

// NULL where cuBLASLt cannot be loaded.
struct gemm *gemm_open(void);
void gemm_close(struct gemm *gemm);    // NULL-safe

// out [n][n_out] = x [n][n_in] * weight [n_out][n_in]^T, bf16 in; out bf16 or f32, added to if `add` (f32 only).
int gemm_run(struct gemm *gemm, void *out, const void *x, const void *weight, int32_t n, int32_t n_in, int32_t n_out,
             bool f32, bool add, cudaStream_t stream);

int cuda_embed(struct backend_context *, const struct batch *, const struct matrix *table, float *x);
int cuda_take_rows(struct backend_context *, const struct batch *, void *out, const void *in, int64_t row_bytes);
int cuda_qkv(struct backend_context *, const struct batch *, const struct op_qkv *);
int cuda_window_attention(struct backend_context *, const struct batch *, const struct op_window_attention *);
int cuda_kv_write(struct backend_context *, const struct batch *, const struct op_kv_write *);
int cuda_index_write(struct backend_context *, const struct batch *, const struct op_index_write *);
int cuda_index_project(struct backend_context *, const struct batch *, const struct op_index_project *);
int cuda_index_score(struct backend_context *, const struct batch *, const struct op_index_score *);
int cuda_index_select(struct backend_context *, const struct batch *, const struct op_index_select *);
int cuda_attention(struct backend_context *, const struct batch *, const struct op_attention *);
int cuda_output(struct backend_context *, const struct batch *, const struct op_output *);
int cuda_ffn(struct backend_context *, const struct batch *, const struct op_ffn *);
int cuda_head(struct backend_context *, const struct batch *, const struct op_head *);
int cuda_sample(struct backend_context *, const struct batch *, const struct op_sample *);
