// engine/cuda/kernels.h - the launchers of our CUDA kernels: plain C, one per operator.
//
// A launcher takes a parameter struct and a stream. Every pointer in a struct is device memory unless its comment says
// otherwise. Launchers check shapes, never allocate and never synchronise; they return 0, -ENOTSUP for a shape that no
// kernel here covers (with a status text that names it) or -EIO when the driver refuses. Work follows the lengths that
// lie in device memory at the time the kernel runs, so a captured graph stays right while contexts grow.
//
// Every kernel is launched as a programmatic dependent of the one before it in the stream: its prologue overlaps the
// predecessor's tail, and it waits for the predecessor's results before it touches any. Results are deterministic: the
// order of every sum is fixed by the shape and the number of multiprocessors.
#pragma once

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/backend.h"

// Rows of a step, mirrored on the device.
struct gpu_rows {
    int32_t n;
    const int32_t *seq;         // [n]
    const int32_t *position;    // [n]
    const int32_t *pages;       // [n_seqs][max_pages]
    int32_t max_pages;
};

// ---- linear.cu: out = x * weight^T for few rows ---------------------------------------------------------------------
enum linear_epilogue {
    LINEAR_STORE_BF16,    // out bf16
    LINEAR_STORE_F32,     // out f32
    LINEAR_ADD_F32,       // out f32 += (the residual stream)
    LINEAR_SWIGLU         // out bf16 = silu(x * segments[0].weight^T) * (x * segments[1].weight^T)
};

enum { LINEAR_MAX_ROWS = 64, LINEAR_MAX_SEGMENTS = 3, LINEAR_SQUARES = 64 };

struct linear_segment {
    const void *weight;       // [n_out][n_in] bf16
    void *out;                // [n_rows][n_out]; SWIGLU: that of segment 0
    int32_t n_out;
};

// Matrices that share an input go in one launch (q, k and v): up to three segments.
//
// RMSNorm needs no launch of its own between two products: the one that completes the residual stream (ADD_F32) leaves
// the rows multiplied by the next norm's weight, and the sum of squares of every LINEAR_SQUARES of its outputs; the
// next product takes those rows as x and is scaled by 1/rms afterwards.
struct linear_params {
    const void *x;            // [n_rows][n_in] bf16
    int32_t n_rows, n_in;     // n_rows <= LINEAR_MAX_ROWS, n_in a multiple of 8
    int32_t n_segments;
    struct linear_segment segments[LINEAR_MAX_SEGMENTS];
    enum linear_epilogue epilogue;
    const float *squares;     // [n_rows][ceil(n_in / LINEAR_SQUARES)]; NULL: x is as it is
    float norm_eps;           // of the norm that `squares` belongs to
    const float *next_norm;   // [n_out] weight of the norm that follows; NULL: none. ADD_F32 of one segment only
    void *next_x;             // out [n_rows][n_out] bf16
    float *next_squares;      // out [n_rows][ceil(n_out / LINEAR_SQUARES)]
};
int linear_launch(const struct linear_params *params, cudaStream_t stream);

// ---- attention.cu: one query row over all, selected, or windowed keys -----------------------------------------------
enum attend_over {
    ATTEND_ALL,               // positions [0, own]
    ATTEND_SELECTED,          // the units of `selection`, cut at the row's own position
    ATTEND_WINDOW             // the last window_tokens positions, older ones from a ring, this step's own from fresh_*
};

// What happens to heads of q and k between projection and attention.
struct head_finish {
    const float *q_norm, *k_norm;     // [head_dim]; NULL: no norm
    float eps, theta;                 // theta 0: no turn
};

struct attention_params {
    struct gpu_rows rows;
    const void *q;                    // [rows.n][n_heads*head_dim] bf16
    struct kv_view view;              // bf16; pages also fp8
    enum attend_over over;
    struct selection selection;       // ATTEND_SELECTED
    const void *fresh_k, *fresh_v;    // ATTEND_WINDOW: [rows.n][n_kv_heads*head_dim] bf16
    const int32_t *slot;              // ATTEND_WINDOW: [n_seqs] ring of a sequence
    const int32_t *first_row;         // ATTEND_WINDOW: [n_seqs]
    const int32_t *context;           // ATTEND_WINDOW: [n_seqs] tokens before this step
    int32_t window_tokens;
    bool finishes;                    // ATTEND_WINDOW, one row per sequence: q and fresh_k are as projected. They are
    struct head_finish finish;        // normed and turned on the way, and the row's key and value also go to its ring
    bool early;                       // everything but q and fresh_* is older than the kernel before this one, which
                                      // let this one begin only once it had waited itself: keys are read before q is
                                      // there
    int32_t n_heads, n_kv_heads, head_dim;
    void *out;                        // [rows.n][n_heads*head_dim] bf16
    float *lse;                       // [rows.n][n_heads]; may be NULL
    void *workspace;                  // attention_workspace_bytes of the largest rows.n ever passed
};
int64_t attention_workspace_bytes(int32_t n_rows, int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t sets);
int attention_launch(const struct attention_params *params, cudaStream_t stream);

// ---- prefill_attention.cu: prompt rows, thousands at a time, over all or windowed keys ------------------------------
struct prefill_attention_params {
    struct gpu_rows rows;             // seq and position are not read
    const struct batch_seq *seqs;     // [n_seqs] host memory, read during the call
    int32_t n_seqs;
    const void *q;                    // [rows.n][n_heads*head_dim] bf16
    enum attend_over over;            // ATTEND_ALL: the pages hold this step's keys already. ATTEND_WINDOW: the ring
                                      // does not
    struct kv_view view;              // bf16; a ring has at least window_tokens slots
    const void *fresh_k, *fresh_v;    // ATTEND_WINDOW: [rows.n][n_kv_heads*head_dim] bf16
    int32_t window_tokens;
    int32_t n_heads, n_kv_heads, head_dim;
    void *out;                        // [rows.n][n_heads*head_dim] bf16
    float *lse;                       // [rows.n][n_heads]; may be NULL
};
// Unlike the others it works from the host's lengths: not for captured graphs whose contexts grow. -ENOTSUP (compute
// capability other than 9, page_tokens no multiple of 8): attention_launch covers those.
int prefill_attention_launch(const struct prefill_attention_params *params, cudaStream_t stream);

// ---- prefill_selected.cu: many prompt rows, each over what was selected for it --------------------------------------
// The same result as attention_launch with ATTEND_SELECTED, made for neighbouring rows of long prompts: keys and values
// are read once for several rows. Any order of rows is right, but neighbours of one sequence should be neighbours here.
// Head sizes other than 64 and 128, and devices of a compute capability other than 9, go to attention_launch.
struct prefill_selected_params {
    struct gpu_rows rows;
    int32_t n_seqs;                   // of rows.pages
    const void *q;                    // [rows.n][n_heads*head_dim] bf16
    struct kv_view view;              // bf16
    struct selection selection;       // indexed by row; its stride bounds the counts and sizes the workspace
    int32_t n_heads, n_kv_heads, head_dim;
    void *out;                        // [rows.n][n_heads*head_dim] bf16
    float *lse;                       // [rows.n][n_heads]; may be NULL
    void *workspace;                  // prefill_selected_workspace_bytes of the largest launch
};
// Reads rows.n, rows.max_pages, n_seqs, view.dtype and .page_tokens, the sizes of `selection`, and the heads.
int64_t prefill_selected_workspace_bytes(const struct prefill_selected_params *params);
int prefill_selected_launch(const struct prefill_selected_params *params, cudaStream_t stream);

// ---- index_score.cu: one or more index queries against every index key ----------------------------------------------
struct index_score_params {
    struct gpu_rows rows;
    int32_t first, n;                 // rows [first, first + n)
    const void *q;                    // [rows.n][heads][dim] bf16
    const float *gate;                // [rows.n][heads]; GATED_RELU
    struct index_view keys;           // bf16, or fp8 with one f32 scale per key
    enum index_score score;           // DOT: heads == sets; GATED_RELU: sets == 1
    int32_t heads, sets, unit_tokens;
    enum pooling pooling;
    int32_t max_context;              // sizes the grid only
    float *scores;                    // [n][sets][stride]
    int32_t stride;
    float *maxima;                    // [n][sets][maxima_stride]; may be NULL. Where index_score_maxima says so: the
    int32_t maxima_stride;            // largest of every 16 consecutive scores, NaN if one of them is
    bool decode;                      // rows of many sequences with few rows each: never taken for a prompt's
};
int index_score_launch(const struct index_score_params *params, cudaStream_t stream);
// Whether a launch with these parameters writes maxima, when it is given a place for them.
bool index_score_maxima(const struct index_score_params *params);

// ---- page_bound.cu: Quest's upper bound of every unit for every query head ------------------------------------------
struct page_bound_params {
    struct gpu_rows rows;
    int32_t first, n;
    const void *q;                    // [rows.n][n_heads*head_dim] bf16
    struct bound_view bounds;
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t max_context;
    float *scores;                    // [n][n_heads][stride]
    int32_t stride;
};
int page_bound_launch(const struct page_bound_params *params, cudaStream_t stream);

// ---- top_k.cu: exact selection --------------------------------------------------------------------------------------
struct top_k_params {
    struct gpu_rows rows;
    int32_t first, n;                 // rows [first, first + n)
    const float *scores;              // [n][sets][stride]
    int32_t stride, sets, unit_tokens;
    const float *maxima;              // [n][sets][maxima_stride] as index_score_launch wrote them; NULL: none
    int32_t maxima_stride;
    int32_t k;                        // units
    int32_t keep_local, keep_sink;    // units that are always selected, inside k
    int32_t max_units;                // no row has more; chooses the launch shape
    struct selection out;             // indexed by row, not from `first`
    int32_t *nan_row;                 // the highest row + 1 that held a NaN is stored here by atomicMax; never cleared
};
int top_k_launch(const struct top_k_params *params, cudaStream_t stream);

// ---- heads.cu: heads between projection and attention ---------------------------------------------------------------
// Between the projection and the attention, in one launch: every head of q and k is normed and turned in place (weights
// may be NULL; theta 0: no turn), and k and v go to a cache as kv_write_launch would put them. Into a ring they may go
// before the attention only where no sequence has more than one row: a step's later rows overwrite what its first still
// sees.
struct qkv_finish_params {
    struct gpu_rows rows;             // seq and pages: only with a cache
    void *q;                          // [rows.n][n_heads*head_dim] bf16; NULL: none
    void *k;                          // [rows.n][n_kv_heads*head_dim] bf16; NULL: none
    const void *v;                    // likewise; only read, for the cache
    const float *q_norm, *k_norm;     // [head_dim]
    int32_t n_heads, n_kv_heads, head_dim;
    float eps, theta;
    struct kv_view view;              // bf16, pages also fp8; data == NULL: no cache
    const int32_t *slot, *context, *n_rows;    // [n_seqs]; rings
};
int qkv_finish_launch(const struct qkv_finish_params *params, cudaStream_t stream);

struct kv_write_params {
    struct gpu_rows rows;
    const void *k, *v;                // [rows.n][n_kv_heads*head_dim] bf16
    struct kv_view view;              // bf16; pages also fp8
    struct bound_view bounds;         // data == NULL: none
    const int32_t *slot;              // [n_seqs]; rings
    const int32_t *first_row, *context, *n_rows;    // [n_seqs]
    int32_t n_seqs;
    int32_t n_kv_heads, head_dim;
};
int kv_write_launch(const struct kv_write_params *params, cudaStream_t stream);

// fp8 pages of one sequence as bf16 pages, page i of the sequence to page i: what kernels of many rows read, exactly.
struct kv_widen_params {
    struct kv_view from, to;          // fp8 and bf16, pages of as many tokens
    const int32_t *pages;             // [pages that n_tokens take] of `from`
    int32_t n_tokens;
    int32_t n_kv_heads, head_dim;     // a multiple of 16
};
int kv_widen_launch(const struct kv_widen_params *params, cudaStream_t stream);

struct index_write_params {
    struct gpu_rows rows;
    const void *k;                    // [rows.n][dim] bf16
    struct index_view view;
};
int index_write_launch(const struct index_write_params *params, cudaStream_t stream);

struct index_norm_params {            // LayerNorm with bias (k_norm NULL: none), then RoPE over the first half of dim
    void *x;                          // [n][heads][dim] bf16, in place
    const float *weight, *bias;       // [dim]; may be NULL
    const int32_t *position;
    int32_t n, heads, dim;
    float eps, theta;                 // theta 0: no rotation
};
int index_norm_launch(const struct index_norm_params *params, cudaStream_t stream);

// ---- elementwise.cu: the small kernels between the large ones -------------------------------------------------------
struct norm_params {                  // out = x / rms(x) * weight
    const float *x;                   // [n][hidden]
    const float *weight;              // [hidden]
    void *out;                        // [n][hidden] bf16
    int32_t n, hidden;
    float eps;
};
int rms_norm_launch(const struct norm_params *params, cudaStream_t stream);

// out[i] = table[token[i]] * scale, from bf16 to f32.
int embed_launch(float *out, const void *table, const int32_t *token, int32_t n, int32_t hidden, float scale,
                 cudaStream_t stream);
// out[i] = in[source[i]], rows of row_bytes (a multiple of 4).
int take_rows_launch(void *out, const void *in, const int32_t *source, int32_t n, int64_t row_bytes,
                     cudaStream_t stream);
// out = silu(gate) * up, all bf16.
int swiglu_launch(void *out, const void *gate, const void *up, int64_t n, cudaStream_t stream);
// out[i] = scale * in[i], in place; the gates of an indexer.
int scale_launch(float *x, int64_t n, float scale, cudaStream_t stream);
// stream.cu: grids are made as for a device of so many multiprocessors; 0: for the device's own number. Only tests set
// it, before any launch: results may differ in their last bits, workspaces in their sizes.
extern int32_t most_multiprocessors;
// stream.cu: reads `bytes` (a multiple of 16) once; writes 4 bytes to `out` or, all but surely, nothing.
int stream_launch(const void *in, int64_t bytes, void *out, cudaStream_t stream);
// A kernel of as many blocks as there are multiprocessors that does nothing.
int idle_launch(cudaStream_t stream);
// The lowest token among equal largest logits of each row.
int argmax_launch(int32_t *token, const float *logits, int32_t n, int32_t vocab, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
