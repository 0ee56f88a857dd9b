// engine/cuda/context.h - what the files of the CUDA backend share: its context, and the dense products.
//
// backend_cuda.c holds life and memory, step.c what happens around the operators of a step, operators.c the operators,
// gemm.c products through cuBLASLt. All work of a context runs on one stream, in order; only end_step and the copies
// wait for it. Weights are bf16 on the device, vectors f32; activations are bf16. Not a public header.
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

// The residual stream as the product that completed it left it for the norm that reads it next (struct linear_params):
// in next_x and next_squares. x == NULL: nothing is prepared.
struct prepared {
    const float *x;
    const void *norm;                   // its weight
    int32_t n;
};

// What a step leaves for the host, one block so that one copy brings it.
struct results {
    int32_t *nan_row;                   // [n_layers] the highest row + 1 with a NaN among its index scores
    int32_t *token;                     // [max_rows] drawn greedily; -1: a logit is not a number
};

// A recorded step that decodes.
enum { MAX_PIECES = 6 };

struct recording {
    int32_t n_seqs, context_bound;      // its shape
    cudaGraphExec_t exec[RECORD_KINDS][MAX_PIECES];    // owned; one after the other up to NULL. First NULL: none yet
    int64_t used;                       // when last, in steps
};

enum { MAX_RECORDINGS = 256 };          // shapes kept: 64 sequences at four powers of two of the longest context

struct backend_context {
    const struct plan *plan;            // borrowed
    int32_t device, max_rows;
    char name[128], variant[64];
    cudaStream_t stream;
    struct gemm *gemm;                  // owned; NULL where cuBLASLt is not
    void **weights;                     // [n_weights] owned
    int32_t n_weights, weight_capacity;
    void *normed, *inner, *inner_up;    // owned scratch: [max_rows][hidden], 2x [max_rows][ffn] bf16
    void *next_x;                       // owned: [LINEAR_MAX_ROWS][hidden] bf16
    float *next_squares;                // owned: [LINEAR_MAX_ROWS][ceil(hidden / LINEAR_SQUARES)]
    void *attention;                    // owned workspace
    void *widened;                      // owned: fp8 pages of one sequence as bf16, for prompts; NULL: not needed
    int32_t *widened_pages;             // owned: [pages of the longest context] 0, 1, 2, ...
    float *maxima;                      // owned, [maxima_floats]: of every 16 scores of a tile; grows with the tiles
    int64_t maxima_floats;
    float *logits_host;                 // owned: [vocab]

    // The step in progress.
    const struct batch *batch;          // borrowed
    struct op_sample draw;              // what `sample` was asked for; token NULL: nothing
    struct prepared prepared;
    struct qkv_finish_params heads;     // norm and turn of q and k that wait, because a cache write may join them
    bool heads_wait;
    bool qkv_last;                      // nothing was launched since the products of cuda_qkv
    const void *ring_written;           // data of the ring that has this step's keys already
    bool has_maxima;                    // of the tile of scores that was made last
    int32_t maxima_stride;
    struct mirror mirror;               // into mirror_device
    int32_t *mirror_host, *mirror_device;    // owned; host pinned
    int64_t mirror_capacity;            // in int32_t
    int64_t mirrored_pages;             // page numbers at the mirror's begin that the device has
    struct results results, results_host;    // owned; on the host pinned

    cudaEvent_t *marks;                 // [n_marks] owned
    int32_t n_marks;
    struct recording recordings[MAX_RECORDINGS];
    int32_t n_recordings;
    struct recording *open;             // the one that is being recorded
    enum record open_kind;
    int32_t open_pieces;                // that are complete
    int64_t steps;
};

int cuda_status(cudaError_t error, const char *what);    // 0, or -EIO with what the driver says

int cuda_take(void **out, int64_t bytes, const char *what);    // device memory; -ENOMEM with the sizes

int cuda_choose_device(int32_t device, char *name, size_t bytes);    // makes it current; -ENODEV, -EINVAL
int cuda_rates(struct backend_rates *out, int32_t device);           // rates.c

// step.c
int cuda_begin_step(struct backend_context *, const struct batch *);
int cuda_end_step(struct backend_context *);
int cuda_mark(struct backend_context *, int32_t id);
int cuda_marks(struct backend_context *, int64_t *ns, int32_t n);
int cuda_replay(struct backend_context *, const struct op_sample *, enum record kind);
int cuda_record_begin(struct backend_context *, enum record kind);
int cuda_record_cut(struct backend_context *);
int cuda_record_end(struct backend_context *, int error);
void cuda_step_close(struct backend_context *);    // what the functions above took

// Does what operators have put off, so that what they wrote can be read.
int cuda_settle(struct backend_context *context);
struct gpu_rows cuda_rows(const struct backend_context *, const struct rows *);    // where the device finds them

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
