// engine/cpu/context.h - what the files of the CPU backend share: its context and the steps that several operators use.
//
// backend_cpu.c holds life, memory and the dense operators; linear.c matrix products; gemm.c the library under them;
// kv_write.c the caches; attention.c and prefill.c attention; index.c the indexer. Not a public header: only these
// files use it.
//
// Work is cut into items by sizes alone, never by the number of threads, and each item's sums run in one order: equal
// inputs give equal bits on every number of threads.
#pragma once

#include "engine/backend.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/thread_pool.h"

enum {
    // Up to so many rows share one pass over the weights in plain f32; more go to the library. At 8 rows a pass is
    // about as much bound by arithmetic as by memory.
    CPU_PASS_ROWS = 8,
    CPU_TILE_OUTPUTS = 128,    // weight rows per tile of the library: 768 columns and a copy fit into 1 MB
    CPU_ROTATIONS = 4,         // tables of cosines and sines kept within a step: two bases, all and last rows
    CPU_SPLITS = 64            // a few rows' attention is cut into about so many items
};

// Cosines and sines of a step's rows for one base, kept until the step ends.
struct cpu_rotation {
    const int32_t *position;    // whose they are; NULL: free
    int32_t n, dims;
    float theta;
    float *cosine, *sine;       // [max_rows][dims / 2] owned
};

struct backend_context {
    const struct plan *plan;                // borrowed
    const struct cpu_kernels *kernels;
    struct thread_pool *pool;
    struct cpu_gemm *gemm;
    int32_t max_rows, max_context;
    // Scratch, owned.
    float *normed;                          // [max_rows][hidden]
    float *inner_gate, *inner_up;           // [max_rows][ffn]
    float *fresh_k, *fresh_v;               // [max_rows][n_kv_heads*head_dim] before rounding
    float *packed;                          // [CPU_PASS_ROWS][padded widest input]
    uint16_t *rounded;                      // [max_rows][widest input] bf16
    struct cpu_rotation rotations[CPU_ROTATIONS];
    float *partial_sum;                     // [CPU_SPLITS][n_heads][padded head_dim]
    float *partial_greatest, *partial_total;    // [CPU_SPLITS][n_heads]
    int32_t *single_rows;                   // [max_rows] rows of one attention that are no part of a run
    unsigned char **thread_scratch;         // [threads] of thread_scratch_bytes
    int64_t thread_scratch_bytes;
};

// Blocks of one thread's scratch, taken one after the other; each aligned to 64 bytes.
struct cpu_scratch {
    unsigned char *next, *end;
};
struct cpu_scratch cpu_scratch_of(const struct backend_context *context, int32_t thread);
void *cpu_scratch_take(struct cpu_scratch *scratch, int64_t bytes);

// Bytes of scratch per thread that the operators of each file need.
int64_t cpu_attention_scratch_bytes(const struct plan *plan);
int64_t cpu_prefill_scratch_bytes(const struct plan *plan);
int64_t cpu_index_scratch_bytes(const struct plan *plan, int32_t max_context);

// linear.c ------------------------------------------------------------------------------------------------------------

struct cpu_product {
    const struct matrix *weight;    // NULL or without data: skipped
    float *out;                     // [n][weight->n_rows]
    bool add;
};

// out = (or +=) x [n][n_cols] * weight^T for products [n_products] of the same input.
int cpu_products(struct backend_context *context, const float *x, int32_t n, const struct cpu_product *products,
                 int32_t n_products);
int32_t cpu_widest_input(const struct plan *plan);

// The table for these rows; computed if this step has not needed it yet.
const struct cpu_rotation *cpu_rotation_for(struct backend_context *context, const int32_t *position, int32_t n,
                                            float theta, int32_t dims);

// gemm.c --------------------------------------------------------------------------------------------------------------

// c [n_rows][c_stride] = (or +=) a [n_rows][depth] * (b [n_columns][depth])^T; a and b f32 or both bf16; c f32.
struct cpu_gemm_shape {
    int32_t n_rows, n_columns, depth;
    int64_t c_stride;
    enum dtype dtype;
    bool add;
};
struct cpu_gemm;
struct cpu_gemm_kernel;

int cpu_gemm_open(struct cpu_gemm **out, int32_t threads);
void cpu_gemm_close(struct cpu_gemm *gemm);    // NULL-safe
// The kernel for that shape, made on first use (about a millisecond). Valid until the next cpu_gemm_begin. Not from the
// pool's threads.
int cpu_gemm_kernel(struct cpu_gemm *gemm, const struct cpu_gemm_shape *shape, const struct cpu_gemm_kernel **out);
// Lets go of kernels if too many have gathered.
void cpu_gemm_begin(struct cpu_gemm *gemm);
// From any one thread of the pool at a time per `thread`. Returns 0 or -EIO, without a text.
int cpu_gemm_run(struct cpu_gemm *gemm, const struct cpu_gemm_kernel *kernel, int32_t thread, const void *a,
                 const void *b, float *c);

// attention.c, prefill.c, index.c -------------------------------------------------------------------------------------

// Where one sequence's keys and values lie: in a view, and for window attention, from position first_fresh on, in the
// rows of this step.
struct cpu_keys {
    const struct batch *batch;
    const struct kv_view *view;
    int32_t seq;
    const unsigned char *fresh_k, *fresh_v;    // [row][n_kv_heads*head_dim]; row of position first_fresh
    int32_t first_fresh;                       // INT32_MAX: none
    int64_t fresh_row_bytes, fresh_head_bytes;
};

// Keys and values of one KV head, as addresses; the other heads' are head_stride bytes on.
struct cpu_tile {
    int32_t n;
    int64_t head_stride;
    const unsigned char *key[CPU_TILE_KEYS], *value[CPU_TILE_KEYS];
    const unsigned char *scales[CPU_TILE_KEYS];    // fp8: those of KV head 0
    const unsigned char *token[CPU_TILE_KEYS];    // attention.c: the keys of KV head 0
};

// The scales of a tile's keys (value: values) for one KV head, f32 [tile->n].
void cpu_scales(float *out, const struct cpu_tile *tile, const struct kv_view *view, int32_t kv_head, bool value);

// Tokens from `token` on, at most n and a tile's worth, all of one source. tile->n says how many.
void cpu_locate(struct cpu_tile *tile, const struct cpu_keys *keys, int32_t token, int32_t n, int32_t kv_head);

// Rows [first, first + n) of one sequence, with the keys that each sees: from its own position - window + 1 to its own.
struct cpu_run {
    const struct rows *rows;
    int32_t first, n;
    int32_t window;                            // INT32_MAX: all keys
    struct cpu_keys keys;
    const float *q;                            // [rows.n][n_heads*head_dim]
    float *out, *lse;                          // lse may be NULL
};

// Attention of many rows of one sequence, tile by tile.
void cpu_prefill_attention(struct backend_context *context, const struct cpu_run *run);
bool cpu_prefill_fits(const struct plan *plan);    // false: groups so large that tiles hold no row

int cpu_window_attention(struct backend_context *, const struct batch *, const struct op_window_attention *);
int cpu_kv_write(struct backend_context *, const struct batch *, const struct op_kv_write *);
int cpu_attention(struct backend_context *, const struct batch *, const struct op_attention *);
int cpu_index_write(struct backend_context *, const struct batch *, const struct op_index_write *);
int cpu_index_project(struct backend_context *, const struct batch *, const struct op_index_project *);
int cpu_index_score(struct backend_context *, const struct batch *, const struct op_index_score *);
int cpu_index_select(struct backend_context *, const struct batch *, const struct op_index_select *);
