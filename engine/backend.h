// engine/backend.h - the operators of a step: one table, every slot mandatory, one operator per stage.
//
// forward.c calls them top to bottom. `reference` is plain scalar C and defines what each operator means; every other
// backend is compared with it. All tensor pointers are memory of the backend (what alloc returned); the arrays of a
// struct batch are host memory, which begin_step may mirror. Operators take pointers and sizes, never allocate, and
// return 0 or a negative errno with a status text. An operator's row count may be 0: it then does nothing. Operators of
// an asynchronous backend return before their work is done: what they find wrong with the data, end_step says.
//
// Activations (the `void *` of normed, q, index queries and keys, attention output) have activation_bytes per element:
// f32 on CPU backends, the backend's own type elsewhere. The residual stream x, gates, scores, logits and lse are
// always f32. k and v leave op_qkv already rounded to plan_fresh_dtype, so that a key of a window means the same
// whether it is read fresh or from its ring. What fp8 pages hold is made of that by kv_write; attention over pages
// reads pages only.
#pragma once

#include <stddef.h>

#include "engine/plan.h"

enum { BACKEND_ABI = 5 };

// A matrix in memory of the backend. data == NULL: absent. What data points to is the backend's own business once
// weight_load made it (CPU backends may pack); model_file.h fills the same struct with plain row-major host data.
struct matrix {
    const void *data;         // [n_rows][n_cols]
    enum dtype dtype;
    int32_t n_rows, n_cols;   // outputs, inputs. A vector has n_rows == 1
};

struct index_weights {
    struct matrix q;          // [index heads * index dim][hidden]
    struct matrix k;          // [index dim][hidden]
    struct matrix gate;       // [index heads][hidden]; GATED_RELU only
    struct matrix k_norm, k_norm_bias;    // [1][index dim] LayerNorm of the key; GATED_RELU only
};

struct layer_weights {
    struct matrix attention_norm;         // [1][hidden]
    struct matrix q, k, v;                // [n_heads*head_dim][hidden], 2x [n_kv_heads*head_dim][hidden]
    struct matrix output;                 // [hidden][n_heads*head_dim]
    struct matrix q_norm, k_norm;         // [1][head_dim]; absent where the layer has no QK-norm
    struct matrix ffn_norm;               // [1][hidden]
    struct matrix gate, up, down;         // [ffn][hidden] x2, [hidden][ffn]
    struct index_weights index;
};

struct model_weights {
    struct matrix embedding;              // [vocab][hidden]
    struct layer_weights *layers;         // [n_layers]
    struct matrix memory_norm;            // [1][hidden]; YOCO: the kv norm of the shared memory
    struct matrix memory_k, memory_v;     // [n_kv_heads*head_dim][hidden]; YOCO
    struct matrix final_norm;             // [1][hidden]
    struct matrix head;                   // [vocab][hidden]; equals embedding when tied
};

// Where the keys and values of one layer lie. Token t of sequence s lies in page p = pages of s [t / page_tokens] (a
// ring: p = slot of s, and t modulo page_tokens), at
//     data + p*page_stride + (t % page_tokens)*token_stride + head*head_stride          (key; + value_offset: value)
// Strides are bytes. Token-major: one selected token is one contiguous run. Head-major: one block of one head is.
// fp8 (pages only): the scales of (t, head), one byte of the key and one of the value (dtype.h), lie side by side at
//     data + p*page_stride + scale_offset + (t % page_tokens)*scale_token_stride + head*scale_head_stride
// Token-major they end the token's run, which is a multiple of 16 bytes; head-major they end the page.
struct kv_view {
    unsigned char *data;
    enum dtype dtype;
    int32_t page_tokens;
    int64_t page_stride, token_stride, head_stride, value_offset;
    int64_t scale_offset, scale_token_stride, scale_head_stride;
    bool ring;
};

// Index keys of one indexer, in the same pages: data + p*page_stride + (t % page_tokens)*dim*bytes, and for fp8 one f32
// scale per key at data + p*page_stride + scale_offset + (t % page_tokens)*4.
struct index_view {
    unsigned char *data;
    enum dtype dtype;
    int32_t page_tokens, dim;
    int64_t page_stride, scale_offset;
};

// Elementwise bounds of the attention keys of each unit (Quest), f32, [page][units per page][min,
// max][n_kv_heads*head_dim]. A unit's first token overwrites, later ones extend. Keys count as the pages hold them.
struct bound_view {
    unsigned char *data;
    int32_t page_tokens, unit_tokens;
    int64_t page_stride;
};

struct batch_seq {
    int32_t slot;             // of the window rings
    int32_t first_row, n_rows;
    int32_t context_tokens;   // before this step: the first row's position
};

// Rows are tokens; rows of a sequence are contiguous and ascending.
struct rows {
    int32_t n;
    const int32_t *token;     // [n]
    const int32_t *seq;       // [n] index into batch.seqs
    const int32_t *position;  // [n]
    const int32_t *source;    // [n] for `last`: the row's index in `all`; for `all`: 0, 1, 2, ...
};

struct batch {
    int32_t n_seqs;
    const struct batch_seq *seqs;      // [n_seqs]
    const int32_t *pages;              // [n_seqs][max_pages] page numbers; -1 beyond what a sequence holds
    int32_t max_pages;
    struct rows all;                   // every row of this step
    struct rows last;                  // those that leave logits (all of them when every position runs every layer)
    int32_t context_bound;             // no position of this step reaches it; sizes scores and launches
    int64_t step;                      // for error texts and random numbers
};

// What index_select leaves and attention follows: for row r and set s, count[r*sets + s] units at
// unit + (r*sets + s)*stride, ascending; unit u covers tokens [u*unit_tokens, (u+1)*unit_tokens), cut at the row's own
// position.
struct selection {
    int32_t *unit;            // [n_rows][sets][stride]
    int32_t *count;           // [n_rows][sets]
    int32_t sets, unit_tokens, stride;
};

struct sampling {             // of one row
    float temperature;        // 0: greedy, the lowest token among equal logits
    float top_p;              // (0, 1]
    uint64_t seed;            // with the request's number and position it fixes the draw, whatever the batch
    int64_t request;
};

// What a device does at best, measured on the spot.
struct backend_rates {
    char name[128];
    double read_bytes_per_s;           // a plain read of much memory
    double bf16_flops_per_s;           // a large product of matrices
    double launch_s;                   // one more kernel that does nothing, in a recorded step
    int64_t memory_bytes;
};

struct backend_context;

struct backend_options {
    const struct plan *plan;           // borrowed until close
    int32_t threads;                   // 0: all that the process may use
    int32_t device;                    // GPU number
    int32_t max_rows, max_seqs, max_context;
};



struct op_qkv {
    const float *x;                    // [n][hidden] residual stream
    const struct matrix *norm;         // RMSNorm before the projections
    const struct matrix *q, *k, *v;    // absent ones are skipped (cross layers have no k, v; the memory has no q)
    const struct matrix *q_norm, *k_norm;    // per head, before RoPE; absent: none
    float rope_theta;                  // base of the rotation of pairs (i, i + head_dim/2); 0: no rotation
    const int32_t *position;           // [n] the batch's all.position or last.position
    int32_t n;
    void *normed;                      // out [n][hidden] x after the norm; may be NULL
    void *q_out;                       // out [n][n_heads*head_dim]
    void *k_out, *v_out;               // out [n][n_kv_heads*head_dim] in plan_fresh_dtype
};

struct op_window_attention {           // keys and values: older ones from the ring, those of this step fresh
    const void *q;                     // [all.n][n_heads*head_dim]
    const void *k, *v;                 // [all.n][n_kv_heads*head_dim] in plan_fresh_dtype
    struct kv_view ring;
    void *out;                         // [all.n][n_heads*head_dim]
};

struct op_kv_write {                   // a ring takes only the last page_tokens rows of each sequence
    const void *k, *v;                 // [all.n][n_kv_heads*head_dim] in plan_fresh_dtype
    struct kv_view view;
    struct bound_view bounds;          // data == NULL: none
};

struct op_index_write {
    const void *k;                     // [all.n][dim]
    struct index_view view;
};

struct op_index_project {
    const void *hidden;                // [n][hidden] normed layer input, or the shared memory
    const struct index_weights *weights;
    const int32_t *position;           // [n]; GATED_RELU rotates the first half of dim (half-split pairs)
    int32_t n;
    void *q;                           // out [n][heads][dim]; NULL: keys only
    float *gate;                       // out [n][heads], scaled by heads^-1/2 * dim^-1/2; NULL unless GATED_RELU
    void *k;                           // out [n][dim]; NULL: queries only
};

// Scores of a run of rows. Unit u of row r and set s: scores[((r - first)*sets + s)*stride + u], written for all units
// that begin at or before the row's position; the rest is left untouched. Of a unit only tokens up to the row's
// position count. PAGE_BOUND: the row's own unit scores plus infinity, because its bounds may hold later tokens of the
// same step.
struct op_index_score {
    const struct rows *rows;
    int32_t first, n;                  // rows [first, first + n)
    const void *q;                     // [rows.n][heads][dim]; indexed by row, not from `first`
    const float *gate;                 // [rows.n][heads]; indexed by row, not from `first`
    struct index_view keys;            // DOT, GATED_RELU
    struct bound_view bounds;          // PAGE_BOUND: q is the attention query [rows.n][n_heads][head_dim]
    float *scores;
    int32_t stride;
};

// Exact and deterministic: the budget's highest scores (all units if fewer), the lower unit among equals; forced local
// and sink units count inside the budget. -0 equals 0. A NaN score is -EDOM with layer and position in the text.
struct op_index_select {
    int32_t layer;                     // for error texts
    const struct rows *rows;
    int32_t first, n;
    const float *scores;
    int32_t stride;
    struct selection out;              // indexed by row, not from `first`
};

struct op_attention {                  // a row that selects no key: out is 0, lse minus infinity
    const struct rows *rows;
    const void *q;                     // [rows.n][n_heads*head_dim]
    struct kv_view view;
    const struct selection *selection; // NULL: every position up to the row's own
    void *out;                         // [rows.n][n_heads*head_dim]
    float *lse;                        // out [rows.n][n_heads] natural log of the sum of exponentials; may be NULL
};

struct op_output {                     // x += attention * output^T
    const void *attention;             // [n][n_heads*head_dim]
    const struct matrix *weight;
    int32_t n;
    float *x;                          // [n][hidden]
    const struct matrix *next_norm;    // of the operator that reads x next: its work may begin here
};

struct op_ffn {                        // x += down(silu(gate(norm x)) * up(norm x))
    const struct matrix *norm, *gate, *up, *down;
    int32_t n;
    float *x;                          // [n][hidden]
    const struct matrix *next_norm;    // as in op_output
};

struct op_head {
    const float *x;                    // [n][hidden]
    const struct matrix *norm, *weight;
    int32_t n;
    float *logits;                     // out [n][vocab]
};

struct op_sample {                     // the host memory is borrowed until end_step, which has the tokens in place
    const float *logits;               // [last.n][vocab]
    const struct sampling *sampling;   // [last.n] host memory
    int32_t *token;                    // out [last.n] host memory
};

// Recordings of a step: as it is; with marks in it; in pieces that are launched one after the other.
enum record { RECORD_PLAIN, RECORD_MARKED, RECORD_PIECES, RECORD_KINDS };

struct backend {
    int32_t abi;                       // BACKEND_ABI
    const char *name;                  // "reference", "cpu", "cuda"
    int32_t activation_bytes;
    bool asynchronous;                 // see the slots behind the operators

    // Life. describe: what runs, for samples and `clsa devices` ("AMD EPYC 9575F, 2 threads, avx512_bf16").
    int (*open)(struct backend_context **out, const struct backend_options *options);
    void (*close)(struct backend_context *context);    // NULL-safe
    void (*describe)(const struct backend_context *context, char *device, char *variant, size_t bytes);

    // Memory. Zero-filled, aligned to 64 bytes; free is NULL-safe. -ENOMEM says how much was asked for.
    int (*alloc)(struct backend_context *context, void **out, int64_t bytes);
    void (*free)(struct backend_context *context, void *pointer);
    int (*upload)(struct backend_context *context, void *to, const void *host, int64_t bytes);
    int (*download)(struct backend_context *context, void *host, const void *from, int64_t bytes);
    int (*copy)(struct backend_context *context, void *to, const void *from, int64_t bytes);    // both the backend's
    // Makes a weight usable: CPU backends may borrow host->data, which outlives the context.
    int (*weight_load)(struct backend_context *context, struct matrix *out, const struct matrix *host);

    // A step: begin_step sees the batch (borrowed until end_step); end_step returns once the step's work is done.
    int (*begin_step)(struct backend_context *context, const struct batch *batch);
    int (*end_step)(struct backend_context *context);

    // Operators, in the order of enum stage. `batch` is the one of begin_step.
    // YOCO scales by sqrt(hidden).
    int (*embed)(struct backend_context *, const struct batch *, const struct matrix *table, float *x);
    // out[i] = in[last.source[i]]
    int (*take_rows)(struct backend_context *, const struct batch *, void *out, const void *in, int64_t row_bytes);
    int (*qkv)(struct backend_context *, const struct batch *, const struct op_qkv *);
    int (*window_attention)(struct backend_context *, const struct batch *, const struct op_window_attention *);
    int (*kv_write)(struct backend_context *, const struct batch *, const struct op_kv_write *);
    int (*index_write)(struct backend_context *, const struct batch *, const struct op_index_write *);
    int (*index_project)(struct backend_context *, const struct batch *, const struct op_index_project *);
    int (*index_score)(struct backend_context *, const struct batch *, const struct op_index_score *);
    int (*index_select)(struct backend_context *, const struct batch *, const struct op_index_select *);
    int (*attention)(struct backend_context *, const struct batch *, const struct op_attention *);
    int (*output)(struct backend_context *, const struct batch *, const struct op_output *);
    int (*ffn)(struct backend_context *, const struct batch *, const struct op_ffn *);
    int (*head)(struct backend_context *, const struct batch *, const struct op_head *);
    int (*sample)(struct backend_context *, const struct batch *, const struct op_sample *);

    // The rest is NULL unless the backend is asynchronous.
    int (*rates)(struct backend_rates *out, int32_t device);    // in about a second; needs 2 GiB that are free
    // Bytes of device memory that alloc could still hand out, and all that there is.
    int (*memory)(struct backend_context *context, int64_t *free_bytes, int64_t *total_bytes);
    // mark notes the moment at which the work enqueued so far ends. After end_step, marks tells those of marks [0, n)
    // in nanoseconds after mark 0; they ascend.
    int (*mark)(struct backend_context *context, int32_t id);
    int (*marks)(struct backend_context *context, int64_t *ns, int32_t n);
    // Steps that decode are recorded and replayed. Between begin_step and end_step, replay runs the recording of an
    // earlier step of the same shape (sequences, context_bound) and kind on this step's batch and returns 1; 0: there
    // is none. Then record_begin returns 1 if the operators that follow are recorded, 0 if they just run (the first
    // step of a shape), and record_end, only after a 1, runs what was recorded, or drops it where `error` is set.
    // record_cut, in between and for RECORD_PIECES: what follows will be launched by itself.
    int (*replay)(struct backend_context *context, const struct op_sample *sample, enum record kind);
    int (*record_begin)(struct backend_context *context, enum record kind);
    int (*record_cut)(struct backend_context *context);
    int (*record_end)(struct backend_context *context, int error);
};

extern const struct backend backend_reference;
extern const struct backend backend_cpu;

// "reference", "cpu", or "cuda" (loads the plug-in). -EINVAL with a text that lists what there is.
int backend_find(const struct backend **out, const char *name);
