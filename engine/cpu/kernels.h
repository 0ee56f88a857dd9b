// engine/cpu/kernels.h - the inner loops of the CPU backend: one table per instruction set, chosen at run time.
//
// kernels.c, kernels_dots.c and kernels_select.c are compiled once per instruction set (cpu.cmake); each compilation
// leaves one table. Kernels know raw pointers and sizes only: no batch, no plan, no threads, no allocation, no errors.
//
// Vectors that meet cached keys, values or weights are "packed": reordered to how the dtype at hand is widened (see
// vector.h) and padded with zeros to a multiple of CPU_PAD values, which is also what every packed row's stride must be
// a multiple of.
#pragma once

#include <stdbool.h>

#include "engine/dtype.h"

enum {
    CPU_PAD = 32,            // the widest pair
    CPU_TILE_KEYS = 64,      // keys of a tile in prefill attention and scores
    CPU_TILE_COLUMNS = 32,   // columns of `multiply` come in blocks of this many
    CPU_SELECT_BINS = 2048   // of each of the four histograms of `select`
};

static inline int32_t cpu_padded(int32_t n)
{
    return (n + CPU_PAD - 1) / CPU_PAD * CPU_PAD;
}

// A column of `softmax_columns` may see keys [first, last], as floats: positions stay below 2^24.
struct cpu_columns {
    int32_t n;                         // a multiple of 16
    const float *first, *last;         // [n]
    float *greatest, *sum, *factor;    // [n] running maximum and sum; out: what earlier sums are to be multiplied by
};

// Runs of memory that a later call will read: a list is no stream that hardware foresees, so they are prefetched while
// this call computes. n may be 0.
struct cpu_ahead {
    const unsigned char *const *run;    // [n] of `bytes` each
    int32_t n, bytes;
};

struct cpu_selection {
    const float *scores;               // [n_units]
    int32_t n_units, budget;           // budget >= 1
    int32_t n_local, n_sink;           // always selected: the last and the first so many
    uint32_t *keys, *candidates;       // [n_units] scratch
    uint32_t *bins;                    // [4 * CPU_SELECT_BINS] scratch
    int32_t *unit;                     // out [min(budget, n_units)] ascending
};

struct cpu_kernels {
    const char *name;         // "avx512_bf16"
    bool bf16_matmul;         // the library's bf16 matrix multiplication runs on this instruction set

    // out [padded n] packed from in [n]; and back, multiplied by scale.
    void (*pack)(float *out, const float *in, int32_t n, enum dtype dtype);
    void (*unpack)(float *out, const float *in, int32_t n, enum dtype dtype, float scale);
    // out [n] in plain order.
    void (*widen)(float *out, const void *in, int32_t n, enum dtype dtype);

    // out[q*out_stride + i] = query_q . key_i; queries packed, `query_stride` apart; n_queries and n may be 0. Keys lie
    // `key_stride` bytes apart, or where a list says. The sum of one pair has one order, whatever else is computed.
    void (*dots)(float *out, int64_t out_stride, const float *queries, int64_t query_stride, int32_t n_queries,
                 const void *keys, int64_t key_stride, int32_t n, int32_t dim, enum dtype dtype);
    void (*dots_list)(float *out, int64_t out_stride, const float *queries, int64_t query_stride, int32_t n_queries,
                      const unsigned char *const *keys, int32_t n, int32_t dim, enum dtype dtype,
                      const struct cpu_ahead *ahead);
    // out[q] (packed) += sum over i of weights[q*weight_stride + i] * value_i.
    void (*weigh_list)(float *out, int64_t out_stride, const float *weights, int64_t weight_stride, int32_t n_queries,
                       const unsigned char *const *values, int32_t n, int32_t dim, enum dtype dtype,
                       const struct cpu_ahead *ahead);
    // One step of a running softmax over scores [n], replaced by exponentials of scores*scale - maximum. Values up to
    // the next multiple of 16 are overwritten by zeros. Returns what earlier sums are to be multiplied by.
    float (*softmax)(float *scores, int32_t n, float scale, float *maximum, float *sum);
    // The greatest of scores [n >= 1], or NaN if one is.
    float (*greatest)(const float *scores, int32_t n);

    // c[i*c_stride + j] = (or +=) sum over k of a[i*a_row + k*a_column] * b[k*b_stride + j]; n_columns is a multiple of
    // CPU_TILE_COLUMNS.
    void (*multiply)(float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_column, const float *b,
                     int64_t b_stride, int32_t n_rows, int32_t n_columns, int32_t depth, bool add);
    // The running softmax of many columns over scores [n_keys][stride]; row i is key first_key + i.
    void (*softmax_columns)(float *scores, int64_t stride, int32_t n_keys, int32_t first_key, float scale,
                            const struct cpu_columns *columns);
    // out [rows][stride], row by row, multiplied by factor [n_columns], a multiple of 16.
    void (*scale_columns)(float *out, int64_t stride, int32_t n_rows, int32_t n_columns, const float *factor);
    // out[i] = scale[i] * sum over h of gate[h] * max(products[i*stride + h], 0), for n keys; n_heads a multiple of 16.
    void (*gated_sums)(float *out, const float *products, int64_t stride, int32_t n, const float *gate, int32_t n_heads,
                       const float *scale);

    // Sum over d of max(q*low, q*high).
    float (*bound)(const float *q, const float *low, const float *high, int32_t dim);
    // low and high [n] extended by (`first`: replaced by) key [n].
    void (*extend_bounds)(float *low, float *high, const void *key, int32_t n, enum dtype dtype, bool first);

    // out = in / rms(in) * weight [n] of `dtype`; out may be in.
    void (*rms_norm)(float *out, const float *in, const void *weight, enum dtype dtype, int32_t n, float eps);
    // Rotates pairs (i, i + half) of x by cosine and sine [half].
    void (*rotate)(float *x, const float *cosine, const float *sine, int32_t half);
    void (*silu_product)(float *out, const float *gate, const float *up, int64_t n);    // silu(gate) * up
    void (*to_bf16)(uint16_t *out, const float *in, int64_t n);
    // out [n] = sum over parts of weight[p] * parts[p*stride + i].
    void (*merge)(float *out, const float *parts, int64_t stride, const float *weight, int32_t n_parts, int32_t n);

    // Returns the number of units selected, or -1 - i if the score of unit i (the lowest such) is NaN.
    int32_t (*select)(const struct cpu_selection *selection);
};

// The best table that this machine can run; `name` other than NULL asks for that one ("baseline", "avx2", "avx512",
// "avx512_bf16"). NULL if the machine cannot or the name is unknown.
const struct cpu_kernels *cpu_kernels_choose(const char *name);
// Names of all tables compiled in, best first; NULL beyond the last.
const char *cpu_kernels_name(int32_t index);
