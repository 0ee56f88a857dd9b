// engine/cpu/kernels_dots.c - dot products with vectors as they are cached, and weighted sums of them; compiled once
// per instruction set.
//
// What decode spends its time in: weights, keys and values are read once, widened in registers and multiplied for all
// queries at hand. Four vectors at once: their four sums leave through one reduction, and a pair of query vectors in
// registers serves four keys. Bound by memory when the batch is small, so the rest is about having the next lines under
// way in time. Written in the words of vector.h.
#include "engine/cpu/kernels_variant.h"
#include "engine/cpu/vector.h"

enum {
    QUERY_BLOCK = LANES == 16 ? 4 : 2,    // queries that meet four keys at once: as many as the registers hold
    AHEAD_BYTES = 4096,                   // that keys in order are prefetched by
    CACHE_LINE = 64
};

// Adds the products of one pair of dimensions of four keys with n_queries queries. All counts are constants where this
// is inlined: only then do the sums stay in registers.
INLINE void dots_step(vector sum[QUERY_BLOCK][4], const float *queries, int64_t query_stride, int32_t n_queries,
                      const unsigned char *k0, const unsigned char *k1, const unsigned char *k2,
                      const unsigned char *k3, enum dtype dtype)
{
    vector a[4], b[4];
    vector_pair(&a[0], &b[0], k0, dtype);
    vector_pair(&a[1], &b[1], k1, dtype);
    vector_pair(&a[2], &b[2], k2, dtype);
    vector_pair(&a[3], &b[3], k3, dtype);
    UNROLL
    for (int32_t q = 0; q < n_queries; q++) {
        vector qa = vector_load(queries + q * query_stride);
        vector qb = vector_load(queries + q * query_stride + LANES);
        UNROLL
        for (int32_t i = 0; i < 4; i++) {
            sum[q][i] = vector_fma(qa, a[i], sum[q][i]);
            sum[q][i] = vector_fma(qb, b[i], sum[q][i]);
        }
    }
}

// Products of n_queries <= QUERY_BLOCK queries with four keys; n_queries and dtype are constants at each call. `ahead`:
// bytes to prefetch by, 0 for none.
INLINE void dots_four(float *out, int64_t out_stride, int32_t n_out, const float *queries, int64_t query_stride,
                      int32_t n_queries, const unsigned char *const key[4], int32_t dim, enum dtype dtype,
                      int64_t ahead)
{
    vector sum[QUERY_BLOCK][4];
    UNROLL
    for (int32_t q = 0; q < n_queries; q++) {
        UNROLL
        for (int32_t i = 0; i < 4; i++) {
            sum[q][i] = vector_zero();
        }
    }
    const unsigned char *k0 = key[0], *k1 = key[1], *k2 = key[2], *k3 = key[3];
    int32_t d = 0, pair_bytes = PAIR * dtype_bytes(dtype);
    for (; d + PAIR <= dim; d += PAIR) {
        if (ahead) {
            __builtin_prefetch(k0 + ahead);
            __builtin_prefetch(k1 + ahead);
            __builtin_prefetch(k2 + ahead);
            __builtin_prefetch(k3 + ahead);
        }
        dots_step(sum, queries + d, query_stride, n_queries, k0, k1, k2, k3, dtype);
        k0 += pair_bytes;
        k1 += pair_bytes;
        k2 += pair_bytes;
        k3 += pair_bytes;
    }
    if (d < dim) {
        unsigned char rest[4][PAIR * sizeof(float)] = {{0}};
        size_t rest_bytes = (size_t)((dim - d) * dtype_bytes(dtype));
        memcpy(rest[0], k0, rest_bytes);
        memcpy(rest[1], k1, rest_bytes);
        memcpy(rest[2], k2, rest_bytes);
        memcpy(rest[3], k3, rest_bytes);
        dots_step(sum, queries + d, query_stride, n_queries, rest[0], rest[1], rest[2], rest[3], dtype);
    }
    UNROLL
    for (int32_t q = 0; q < n_queries; q++) {
        if (n_out == 4) {
            vector_sum4(out + q * out_stride, sum[q][0], sum[q][1], sum[q][2], sum[q][3]);
            continue;
        }
        float sums[4];
        vector_sum4(sums, sum[q][0], sum[q][1], sum[q][2], sum[q][3]);
        memcpy(out + q * out_stride, sums, (size_t)n_out * sizeof *sums);
    }
}

// The same for any number of queries and n_out <= 4 keys. Only the first queries prefetch.
INLINE void dots_block(float *out, int64_t out_stride, int32_t n_out, const float *queries, int64_t query_stride,
                       int32_t n_queries, const unsigned char *const key[4], int32_t dim, enum dtype dtype,
                       int64_t ahead)
{
    int32_t q = 0;
    for (; q + QUERY_BLOCK <= n_queries; q += QUERY_BLOCK) {
        dots_four(out + q * out_stride, out_stride, n_out, queries + q * query_stride, query_stride, QUERY_BLOCK, key,
                  dim, dtype, q ? 0 : ahead);
    }
    ahead = q ? 0 : ahead;
    out += q * out_stride;
    queries += q * query_stride;
    switch (n_queries - q) {
    case 3:
        dots_four(out, out_stride, n_out, queries, query_stride, QUERY_BLOCK == 4 ? 3 : 0, key, dim, dtype, ahead);
        break;
    case 2:
        dots_four(out, out_stride, n_out, queries, query_stride, QUERY_BLOCK == 4 ? 2 : 0, key, dim, dtype, ahead);
        break;
    case 1: dots_four(out, out_stride, n_out, queries, query_stride, 1, key, dim, dtype, ahead); break;
    default: break;
    }
}

// Keys lie one after the other: memory is read in order, but by four at a time, which the hardware's own prefetching
// does not follow to full speed. What lies behind the last key is likely to be another thread's.
INLINE void dots_in_order(float *out, int64_t out_stride, const float *queries, int64_t query_stride, int32_t n_queries,
                          const unsigned char *keys, int64_t key_stride, int32_t n, int32_t dim, enum dtype dtype)
{
    int64_t group_bytes = 4 * key_stride, ahead = (AHEAD_BYTES + group_bytes - 1) / group_bytes * group_bytes;
    for (int64_t at = 0; at < ahead && at < n * key_stride; at += CACHE_LINE) {
        __builtin_prefetch(keys + at);
    }
    for (int32_t i = 0; i < n; i += 4) {
        const unsigned char *key[4];
        for (int32_t j = 0; j < 4; j++) {
            key[j] = keys + (i + j < n ? i + j : n - 1) * key_stride;    // the last one's repetition is not kept
        }
        dots_block(out + i, out_stride, n - i < 4 ? n - i : 4, queries, query_stride, n_queries, key, dim, dtype,
                   i * key_stride + ahead < n * key_stride ? ahead : 0);
    }
}

// Where prefetching stands: line `at` of run `run`.
struct cursor {
    int32_t run, at, lines_per_vector;
};

// So many lines a vector that all runs are asked for by the end of a call over n vectors.
INLINE struct cursor begin_ahead(const struct cpu_ahead *ahead, int32_t n)
{
    int32_t lines = ahead->n * ((ahead->bytes + CACHE_LINE - 1) / CACHE_LINE);
    return (struct cursor){.lines_per_vector = (lines + n - 1) / n};
}

// To the second cache: a tile may be as large as the first.
INLINE void prefetch_ahead(const struct cpu_ahead *ahead, struct cursor *cursor, int32_t n_vectors)
{
    for (int32_t i = 0; i < n_vectors * cursor->lines_per_vector && cursor->run < ahead->n; i++) {
        __builtin_prefetch(ahead->run[cursor->run] + cursor->at, 0, 2);
        cursor->at += CACHE_LINE;
        if (cursor->at >= ahead->bytes) {
            cursor->at = 0;
            cursor->run++;
        }
    }
}

// Keys lie anywhere.
INLINE void dots_by_list(float *out, int64_t out_stride, const float *queries, int64_t query_stride, int32_t n_queries,
                         const unsigned char *const *keys, int32_t n, int32_t dim, enum dtype dtype,
                         const struct cpu_ahead *ahead)
{
    struct cursor cursor = begin_ahead(ahead, n);
    for (int32_t i = 0; i < n; i += 4) {
        const unsigned char *key[4];
        for (int32_t j = 0; j < 4; j++) {
            key[j] = keys[i + j < n ? i + j : n - 1];
        }
        prefetch_ahead(ahead, &cursor, 4);
        dots_block(out + i, out_stride, n - i < 4 ? n - i : 4, queries, query_stride, n_queries, key, dim, dtype, 0);
    }
}

void CPU_VARIANT(cpu_dots)(float *out, int64_t out_stride, const float *queries, int64_t query_stride,
                           int32_t n_queries, const void *keys, int64_t key_stride, int32_t n, int32_t dim,
                           enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        dots_in_order(out, out_stride, queries, query_stride, n_queries, keys, key_stride, n, dim, DTYPE_F32);
        break;
    case DTYPE_BF16:
        dots_in_order(out, out_stride, queries, query_stride, n_queries, keys, key_stride, n, dim, DTYPE_BF16);
        break;
    default:
        dots_in_order(out, out_stride, queries, query_stride, n_queries, keys, key_stride, n, dim, DTYPE_FP8);
        break;
    }
}

void CPU_VARIANT(cpu_dots_list)(float *out, int64_t out_stride, const float *queries, int64_t query_stride,
                                int32_t n_queries, const unsigned char *const *keys, int32_t n, int32_t dim,
                                enum dtype dtype, const struct cpu_ahead *ahead)
{
    switch (dtype) {
    case DTYPE_F32:
        dots_by_list(out, out_stride, queries, query_stride, n_queries, keys, n, dim, DTYPE_F32, ahead);
        break;
    case DTYPE_BF16:
        dots_by_list(out, out_stride, queries, query_stride, n_queries, keys, n, dim, DTYPE_BF16, ahead);
        break;
    default: dots_by_list(out, out_stride, queries, query_stride, n_queries, keys, n, dim, DTYPE_FP8, ahead); break;
    }
}

// n_pairs <= 2 pairs of dimensions of n_queries <= QUERY_BLOCK sums over all values: two, where there are two, so that
// enough sums are in flight. `ahead` is NULL or prefetched along the way. `rest` < PAIR where the one pair is the last.
INLINE void weigh_pairs(float *out, int64_t out_stride, const float *weights, int64_t weight_stride, int32_t n_queries,
                        const unsigned char *const *values, int64_t offset, int32_t n, int32_t n_pairs, int32_t rest,
                        enum dtype dtype, const struct cpu_ahead *ahead)
{
    vector sum[QUERY_BLOCK][4], value[4];
    struct cursor cursor = {0};
    int32_t n_vectors = 2 * n_pairs;
    if (ahead) {
        cursor = begin_ahead(ahead, n);
    }
    UNROLL
    for (int32_t q = 0; q < n_queries; q++) {
        UNROLL
        for (int32_t v = 0; v < n_vectors; v++) {
            sum[q][v] = vector_load(out + q * out_stride + v * LANES);
        }
    }
    for (int32_t i = 0; i < n; i++) {
        if (ahead) {
            prefetch_ahead(ahead, &cursor, 1);
        }
        if (rest == PAIR) {
            vector_pair(&value[0], &value[1], values[i] + offset, dtype);
        } else {
            vector_pair_part(&value[0], &value[1], values[i] + offset, rest, dtype);
        }
        if (n_pairs == 2) {
            vector_pair(&value[2], &value[3], values[i] + offset + PAIR * dtype_bytes(dtype), dtype);
        }
        UNROLL
        for (int32_t q = 0; q < n_queries; q++) {
            vector weight = vector_set(weights[q * weight_stride + i]);
            UNROLL
            for (int32_t v = 0; v < n_vectors; v++) {
                sum[q][v] = vector_fma(weight, value[v], sum[q][v]);
            }
        }
    }
    UNROLL
    for (int32_t q = 0; q < n_queries; q++) {
        UNROLL
        for (int32_t v = 0; v < n_vectors; v++) {
            vector_store(out + q * out_stride + v * LANES, sum[q][v]);
        }
    }
}

INLINE void weigh_block(float *out, int64_t out_stride, const float *weights, int64_t weight_stride, int32_t n_queries,
                        const unsigned char *const *values, int32_t n, int32_t dim, enum dtype dtype,
                        const struct cpu_ahead *ahead)
{
    int32_t d = 0, bytes = dtype_bytes(dtype);
    for (; d + 2 * PAIR <= dim; d += 2 * PAIR) {
        weigh_pairs(out + d, out_stride, weights, weight_stride, n_queries, values, (int64_t)d * bytes, n, 2, PAIR,
                    dtype, d ? NULL : ahead);
    }
    for (; d + PAIR <= dim; d += PAIR) {
        weigh_pairs(out + d, out_stride, weights, weight_stride, n_queries, values, (int64_t)d * bytes, n, 1, PAIR,
                    dtype, d ? NULL : ahead);
    }
    if (d < dim) {
        weigh_pairs(out + d, out_stride, weights, weight_stride, n_queries, values, (int64_t)d * bytes, n, 1, dim - d,
                    dtype, d ? NULL : ahead);
    }
}

INLINE void weigh_any(float *out, int64_t out_stride, const float *weights, int64_t weight_stride, int32_t n_queries,
                      const unsigned char *const *values, int32_t n, int32_t dim, enum dtype dtype,
                      const struct cpu_ahead *ahead)
{
    int32_t q = 0;
    for (; q + QUERY_BLOCK <= n_queries; q += QUERY_BLOCK) {
        weigh_block(out + q * out_stride, out_stride, weights + q * weight_stride, weight_stride, QUERY_BLOCK, values,
                    n, dim, dtype, q ? NULL : ahead);
    }
    ahead = q ? NULL : ahead;
    out += q * out_stride;
    weights += q * weight_stride;
    switch (n_queries - q) {
    case 3:
        weigh_block(out, out_stride, weights, weight_stride, QUERY_BLOCK == 4 ? 3 : 0, values, n, dim, dtype, ahead);
        break;
    case 2:
        weigh_block(out, out_stride, weights, weight_stride, QUERY_BLOCK == 4 ? 2 : 0, values, n, dim, dtype, ahead);
        break;
    case 1: weigh_block(out, out_stride, weights, weight_stride, 1, values, n, dim, dtype, ahead); break;
    default: break;
    }
}

void CPU_VARIANT(cpu_weigh_list)(float *out, int64_t out_stride, const float *weights, int64_t weight_stride,
                                 int32_t n_queries, const unsigned char *const *values, int32_t n, int32_t dim,
                                 enum dtype dtype, const struct cpu_ahead *ahead)
{
    switch (dtype) {
    case DTYPE_F32:
        weigh_any(out, out_stride, weights, weight_stride, n_queries, values, n, dim, DTYPE_F32, ahead);
        break;
    case DTYPE_BF16:
        weigh_any(out, out_stride, weights, weight_stride, n_queries, values, n, dim, DTYPE_BF16, ahead);
        break;
    default: weigh_any(out, out_stride, weights, weight_stride, n_queries, values, n, dim, DTYPE_FP8, ahead); break;
    }
}
