// engine/cpu/kernels.c - the inner loops in the words of vector.h; compiled once per instruction set.
//
// Dot products with cached vectors take four vectors at once: their four sums leave through one reduction, and a pair of
// query vectors in registers serves four keys. Bound by memory when the batch is small, which is why nothing here
// converts into a buffer first. Prefill tiles are bound by multiply-adds: `multiply` keeps a block of c in registers.
#include "engine/cpu/kernels_variant.h"
#include "engine/cpu/vector.h"

// Registers decide how many queries meet four keys at once, and how large the block of `multiply` is.
enum {
    QUERY_BLOCK = LANES == 16 ? 4 : 2,
    BLOCK_ROWS = 6,
    BLOCK_VECTORS = LANES == 16 ? 4 : 2,
    AHEAD_BYTES = 4096,    // that keys in order are prefetched by
    CACHE_LINE = 64
};

// Before loops of a few constant rounds over arrays of vectors: unrolled early, the arrays become registers.
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

static void pack(float *out, const float *in, int32_t n, enum dtype dtype)
{
    int32_t i = 0;
    for (; i < n; i += PAIR) {
        vector a, b;
        if (i + PAIR <= n) {
            a = vector_load(in + i);
            b = vector_load(in + i + LANES);
        } else {
            vector_pair_part(&a, &b, in + i, n - i, DTYPE_F32);
        }
        if (dtype == DTYPE_BF16) {
            vector_split(&a, &b, a, b);
        }
        vector_store(out + i, a);
        vector_store(out + i + LANES, b);
    }
    memset(out + i, 0, (size_t)(cpu_padded(n) - i) * sizeof *out);
}

static void unpack(float *out, const float *in, int32_t n, enum dtype dtype, float scale)
{
    for (int32_t i = 0; i < n; i += PAIR) {
        vector a = vector_load(in + i), b = vector_load(in + i + LANES);
        if (dtype == DTYPE_BF16) {
            vector_weave(&a, &b, a, b);
        }
        float values[PAIR];
        vector_store(values, vector_mul(a, vector_set(scale)));
        vector_store(values + LANES, vector_mul(b, vector_set(scale)));
        memcpy(out + i, values, (size_t)(n - i < PAIR ? n - i : PAIR) * sizeof *out);
    }
}

static void widen(float *out, const void *in, int32_t n, enum dtype dtype)
{
    int32_t i = 0;
    if (dtype == DTYPE_F32) {
        memcpy(out, in, (size_t)n * sizeof *out);
        return;
    }
    if (dtype == DTYPE_BF16) {
        for (; i + LANES <= n; i += LANES) {
            vector_store(out + i, vector_widen_bf16((const uint16_t *)in + i));
        }
    } else {
        for (; i + PAIR <= n; i += PAIR) {
            vector a, b;
            vector_pair_fp8(&a, &b, (const uint8_t *)in + i);
            vector_store(out + i, a);
            vector_store(out + i + LANES, b);
        }
    }
    for (; i < n; i++) {
        out[i] = dtype_load(in, i, dtype);
    }
}

// Adds the products of one pair of dimensions of four keys with n_queries queries. All counts are constants where this
// is inlined: only then do the sums stay in registers.
INLINE void dots_step(vector sum[QUERY_BLOCK][4], const float *queries, int64_t query_stride, int32_t n_queries,
                      const unsigned char *k0, const unsigned char *k1, const unsigned char *k2, const unsigned char *k3,
                      enum dtype dtype)
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
                      int32_t n_queries, const unsigned char *const key[4], int32_t dim, enum dtype dtype, int64_t ahead)
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
                       int32_t n_queries, const unsigned char *const key[4], int32_t dim, enum dtype dtype, int64_t ahead)
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
// does not follow to full speed.
INLINE void dots_in_order(float *out, int64_t out_stride, const float *queries, int64_t query_stride, int32_t n_queries,
                          const unsigned char *keys, int64_t key_stride, int32_t n, int32_t dim, enum dtype dtype)
{
    int64_t group_bytes = 4 * key_stride, ahead = (AHEAD_BYTES + group_bytes - 1) / group_bytes * group_bytes;
    for (int32_t i = 0; i < n; i += 4) {
        const unsigned char *key[4];
        for (int32_t j = 0; j < 4; j++) {
            key[j] = keys + (i + j < n ? i + j : n - 1) * key_stride;    // the last one's repetition is not kept
        }
        dots_block(out + i, out_stride, n - i < 4 ? n - i : 4, queries, query_stride, n_queries, key, dim, dtype, ahead);
    }
}

// Brings vectors [first, end) of a list, as far as there are so many, to the second cache.
INLINE void prefetch_list(const struct cpu_ahead *ahead, int32_t first, int32_t end, int32_t bytes)
{
    for (int32_t i = first; i < end && i < ahead->n; i++) {
        for (int32_t line = 0; line < bytes; line += CACHE_LINE) {
            __builtin_prefetch(ahead->vector[i] + line, 0, 2);
        }
    }
}

// Keys lie anywhere.
INLINE void dots_by_list(float *out, int64_t out_stride, const float *queries, int64_t query_stride, int32_t n_queries,
                         const unsigned char *const *keys, int32_t n, int32_t dim, enum dtype dtype,
                         const struct cpu_ahead *ahead)
{
    for (int32_t i = 0; i < n; i += 4) {
        const unsigned char *key[4];
        for (int32_t j = 0; j < 4; j++) {
            key[j] = keys[i + j < n ? i + j : n - 1];
        }
        prefetch_list(ahead, i, i + 4, dim * dtype_bytes(dtype));
        dots_block(out + i, out_stride, n - i < 4 ? n - i : 4, queries, query_stride, n_queries, key, dim, dtype, 0);
    }
}

static void dots(float *out, int64_t out_stride, const float *queries, int64_t query_stride, int32_t n_queries,
                 const void *keys, int64_t key_stride, int32_t n, int32_t dim, enum dtype dtype)
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

static void dots_list(float *out, int64_t out_stride, const float *queries, int64_t query_stride, int32_t n_queries,
                      const unsigned char *const *keys, int32_t n, int32_t dim, enum dtype dtype,
                      const struct cpu_ahead *ahead)
{
    if (dtype == DTYPE_BF16) {
        dots_by_list(out, out_stride, queries, query_stride, n_queries, keys, n, dim, DTYPE_BF16, ahead);
    } else {
        dots_by_list(out, out_stride, queries, query_stride, n_queries, keys, n, dim, DTYPE_F32, ahead);
    }
}

// One pair of dimensions of n_queries <= QUERY_BLOCK sums over all values; `ahead` NULL or prefetched along the way.
INLINE void weigh_pair(float *out, int64_t out_stride, const float *weights, int64_t weight_stride, int32_t n_queries,
                       const unsigned char *const *values, int64_t offset, int32_t n, int32_t rest, enum dtype dtype,
                       const struct cpu_ahead *ahead, int32_t ahead_bytes)
{
    vector sum_a[QUERY_BLOCK], sum_b[QUERY_BLOCK];
    UNROLL
    for (int32_t q = 0; q < n_queries; q++) {
        sum_a[q] = vector_load(out + q * out_stride);
        sum_b[q] = vector_load(out + q * out_stride + LANES);
    }
    for (int32_t i = 0; i < n; i++) {
        vector a, b;
        if (ahead) {
            prefetch_list(ahead, i, i + 1, ahead_bytes);
        }
        if (rest == PAIR) {
            vector_pair(&a, &b, values[i] + offset, dtype);
        } else {
            vector_pair_part(&a, &b, values[i] + offset, rest, dtype);
        }
        UNROLL
        for (int32_t q = 0; q < n_queries; q++) {
            vector weight = vector_set(weights[q * weight_stride + i]);
            sum_a[q] = vector_fma(weight, a, sum_a[q]);
            sum_b[q] = vector_fma(weight, b, sum_b[q]);
        }
    }
    UNROLL
    for (int32_t q = 0; q < n_queries; q++) {
        vector_store(out + q * out_stride, sum_a[q]);
        vector_store(out + q * out_stride + LANES, sum_b[q]);
    }
}

INLINE void weigh_block(float *out, int64_t out_stride, const float *weights, int64_t weight_stride, int32_t n_queries,
                        const unsigned char *const *values, int32_t n, int32_t dim, enum dtype dtype,
                        const struct cpu_ahead *ahead)
{
    int32_t d = 0, bytes = dtype_bytes(dtype);
    for (; d + PAIR <= dim; d += PAIR) {
        weigh_pair(out + d, out_stride, weights, weight_stride, n_queries, values, (int64_t)d * bytes, n, PAIR, dtype,
                   d ? NULL : ahead, dim * bytes);
    }
    if (d < dim) {
        weigh_pair(out + d, out_stride, weights, weight_stride, n_queries, values, (int64_t)d * bytes, n, dim - d, dtype,
                   d ? NULL : ahead, dim * bytes);
    }
}

INLINE void weigh_any(float *out, int64_t out_stride, const float *weights, int64_t weight_stride, int32_t n_queries,
                      const unsigned char *const *values, int32_t n, int32_t dim, enum dtype dtype,
                      const struct cpu_ahead *ahead)
{
    int32_t q = 0;
    for (; q + QUERY_BLOCK <= n_queries; q += QUERY_BLOCK) {
        weigh_block(out + q * out_stride, out_stride, weights + q * weight_stride, weight_stride, QUERY_BLOCK, values, n,
                    dim, dtype, q ? NULL : ahead);
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

static void weigh_list(float *out, int64_t out_stride, const float *weights, int64_t weight_stride, int32_t n_queries,
                       const unsigned char *const *values, int32_t n, int32_t dim, enum dtype dtype,
                       const struct cpu_ahead *ahead)
{
    if (dtype == DTYPE_BF16) {
        weigh_any(out, out_stride, weights, weight_stride, n_queries, values, n, dim, DTYPE_BF16, ahead);
    } else {
        weigh_any(out, out_stride, weights, weight_stride, n_queries, values, n, dim, DTYPE_F32, ahead);
    }
}

// The lanes' maximum by memory: rare enough, and the same text for all widths.
INLINE float vector_greatest(vector a)
{
    float lanes[LANES], greatest;
    vector_store(lanes, a);
    greatest = lanes[0];
    for (int32_t i = 1; i < LANES; i++) {
        greatest = lanes[i] > greatest ? lanes[i] : greatest;
    }
    return greatest;
}

static float softmax(float *scores, int32_t n, float scale, float *greatest, float *sum)
{
    int32_t end = (n + 15) / 16 * 16;
    for (int32_t i = n; i < end; i++) {
        scores[i] = -INFINITY;
    }
    vector most = vector_set(-INFINITY);
    for (int32_t i = 0; i < end; i += LANES) {
        vector scaled = vector_mul(vector_load(scores + i), vector_set(scale));
        vector_store(scores + i, scaled);
        most = vector_max(scaled, most);    // a NaN score is passed over here and returns as its exponential
    }
    float last = *greatest, now = vector_greatest(most);
    now = last > now ? last : now;
    vector total = vector_zero();
    for (int32_t i = 0; i < end; i += LANES) {
        vector e = vector_exp(vector_sub(vector_load(scores + i), vector_set(now)));
        vector_store(scores + i, e);
        total = vector_add(total, e);
    }
    for (int32_t i = n; i < end; i++) {
        scores[i] = 0;
    }
    float factor = last == now ? 1.0f : expf(last - now);
    *greatest = now;
    *sum = *sum * factor + vector_sum(total);
    return factor;
}

// c [n_rows <= BLOCK_ROWS][n_vectors * LANES]; n_rows and n_vectors are constants at each call.
INLINE void multiply_block(float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_column, const float *b,
                           int64_t b_stride, int32_t n_rows, int32_t n_vectors, int32_t depth, bool add)
{
    vector sum[BLOCK_ROWS][BLOCK_VECTORS];
    UNROLL
    for (int32_t i = 0; i < n_rows; i++) {
        UNROLL
        for (int32_t v = 0; v < n_vectors; v++) {
            sum[i][v] = add ? vector_load(c + i * c_stride + v * LANES) : vector_zero();
        }
    }
    for (int32_t k = 0; k < depth; k++) {
        vector row[BLOCK_VECTORS];
        UNROLL
        for (int32_t v = 0; v < n_vectors; v++) {
            row[v] = vector_load(b + k * b_stride + v * LANES);
        }
        UNROLL
        for (int32_t i = 0; i < n_rows; i++) {
            vector factor = vector_set(a[i * a_row + k * a_column]);
            UNROLL
            for (int32_t v = 0; v < n_vectors; v++) {
                sum[i][v] = vector_fma(factor, row[v], sum[i][v]);
            }
        }
    }
    UNROLL
    for (int32_t i = 0; i < n_rows; i++) {
        UNROLL
        for (int32_t v = 0; v < n_vectors; v++) {
            vector_store(c + i * c_stride + v * LANES, sum[i][v]);
        }
    }
}

INLINE void multiply_columns(float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_column, const float *b,
                             int64_t b_stride, int32_t n_rows, int32_t n_vectors, int32_t depth, bool add)
{
    int32_t i = 0;
    for (; i + BLOCK_ROWS <= n_rows; i += BLOCK_ROWS) {
        multiply_block(c + i * c_stride, c_stride, a + i * a_row, a_row, a_column, b, b_stride, BLOCK_ROWS, n_vectors,
                       depth, add);
    }
    c += i * c_stride;
    a += i * a_row;
    switch (n_rows - i) {
    case 5: multiply_block(c, c_stride, a, a_row, a_column, b, b_stride, 5, n_vectors, depth, add); break;
    case 4: multiply_block(c, c_stride, a, a_row, a_column, b, b_stride, 4, n_vectors, depth, add); break;
    case 3: multiply_block(c, c_stride, a, a_row, a_column, b, b_stride, 3, n_vectors, depth, add); break;
    case 2: multiply_block(c, c_stride, a, a_row, a_column, b, b_stride, 2, n_vectors, depth, add); break;
    case 1: multiply_block(c, c_stride, a, a_row, a_column, b, b_stride, 1, n_vectors, depth, add); break;
    default: break;
    }
}

static void multiply(float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_column, const float *b,
                     int64_t b_stride, int32_t n_rows, int32_t n_columns, int32_t depth, bool add)
{
    int32_t j = 0;
    for (; j + BLOCK_VECTORS * LANES <= n_columns; j += BLOCK_VECTORS * LANES) {
        multiply_columns(c + j, c_stride, a, a_row, a_column, b + j, b_stride, n_rows, BLOCK_VECTORS, depth, add);
    }
    if (BLOCK_VECTORS == 4 && j < n_columns) {    // half a block remains
        multiply_columns(c + j, c_stride, a, a_row, a_column, b + j, b_stride, n_rows, 2, depth, add);
    }
}

// Scaled scores of keys [first_key, first_key + n_keys) for LANES columns, minus infinity where a column does not see
// the key; and the columns' new maxima.
INLINE vector mask_columns(float *scores, int64_t stride, int32_t n_keys, int32_t first_key, float scale, vector first,
                           vector last, vector greatest)
{
    vector nothing = vector_set(-INFINITY);
    for (int32_t i = 0; i < n_keys; i++) {
        vector key = vector_set((float)(first_key + i));
        vector score = vector_mul(vector_load(scores + i * stride), vector_set(scale));
        score = vector_if_less(last, key, nothing, vector_if_less(key, first, nothing, score));
        vector_store(scores + i * stride, score);
        greatest = vector_max(score, greatest);
    }
    return greatest;
}

static void softmax_columns(float *scores, int64_t stride, int32_t n_keys, int32_t first_key, float scale,
                            const struct cpu_columns *columns)
{
    for (int32_t j = 0; j < columns->n; j += LANES) {
        vector before = vector_load(columns->greatest + j);
        vector greatest = mask_columns(scores + j, stride, n_keys, first_key, scale, vector_load(columns->first + j),
                                       vector_load(columns->last + j), before);
        // A column that has seen no key yet: any finite maximum will do, and 0 makes all its exponentials 0.
        vector shift = vector_if_less(greatest, vector_set(-3e38f), vector_zero(), greatest);
        vector total = vector_zero();
        for (int32_t i = 0; i < n_keys; i++) {
            vector e = vector_exp(vector_sub(vector_load(scores + i * stride + j), shift));
            vector_store(scores + i * stride + j, e);
            total = vector_add(total, e);
        }
        vector factor = vector_exp(vector_sub(before, shift));
        vector_store(columns->greatest + j, greatest);
        vector_store(columns->factor + j, factor);
        vector_store(columns->sum + j, vector_fma(vector_load(columns->sum + j), factor, total));
    }
}

static void scale_columns(float *out, int64_t stride, int32_t n_rows, int32_t n_columns, const float *factor)
{
    for (int32_t i = 0; i < n_rows; i++) {
        for (int32_t j = 0; j < n_columns; j += LANES) {
            float *at = out + i * stride + j;
            vector_store(at, vector_mul(vector_load(at), vector_load(factor + j)));
        }
    }
}

static void gated_sums(float *out, const float *products, int64_t stride, int32_t n, const float *gate, int32_t n_heads,
                       const float *scale)
{
    for (int32_t i = 0; i < n; i += 4) {
        vector sum[4];
        float sums[4];
        for (int32_t j = 0; j < 4; j++) {
            const float *product = products + (i + j < n ? i + j : n - 1) * stride;
            sum[j] = vector_zero();
            for (int32_t h = 0; h < n_heads; h += LANES) {
                vector positive = vector_max(vector_zero(), vector_load(product + h));
                sum[j] = vector_fma(vector_load(gate + h), positive, sum[j]);
            }
        }
        vector_sum4(sums, sum[0], sum[1], sum[2], sum[3]);
        for (int32_t j = 0; j < 4 && i + j < n; j++) {
            out[i + j] = sums[j] * scale[i + j];
        }
    }
}

static float bound(const float *q, const float *low, const float *high, int32_t dim)
{
    vector sum = vector_zero();
    int32_t d = 0;
    for (; d < dim; d += LANES) {
        int32_t rest = dim - d;
        vector v = rest < LANES ? vector_load_part(q + d, rest) : vector_load(q + d);
        vector a = vector_mul(v, rest < LANES ? vector_load_part(low + d, rest) : vector_load(low + d));
        vector b = vector_mul(v, rest < LANES ? vector_load_part(high + d, rest) : vector_load(high + d));
        sum = vector_add(sum, vector_max(a, b));
    }
    return vector_sum(sum);
}

static void extend_bounds(float *low, float *high, const void *key, int32_t n, enum dtype dtype, bool first)
{
    for (int32_t i = 0; i < n; i++) {
        float value = dtype_load(key, i, dtype);
        low[i] = first || value < low[i] || isnan(value) ? value : low[i];
        high[i] = first || value > high[i] || isnan(value) ? value : high[i];
    }
}

static void rms_norm(float *out, const float *in, const void *weight, enum dtype dtype, int32_t n, float eps)
{
    vector squares[2] = {vector_zero(), vector_zero()};
    int32_t i = 0;
    for (; i + PAIR <= n; i += PAIR) {
        vector a = vector_load(in + i), b = vector_load(in + i + LANES);
        squares[0] = vector_fma(a, a, squares[0]);
        squares[1] = vector_fma(b, b, squares[1]);
    }
    float sum = vector_sum(vector_add(squares[0], squares[1]));
    for (; i < n; i++) {
        sum += in[i] * in[i];
    }
    float scale = (float)(1.0 / sqrt((double)sum / n + (double)eps));
    i = 0;
    for (; i + LANES <= n; i += LANES) {
        vector w = dtype == DTYPE_BF16 ? vector_widen_bf16((const uint16_t *)weight + i)
                                       : vector_load((const float *)weight + i);
        vector_store(out + i, vector_mul(vector_mul(vector_load(in + i), vector_set(scale)), w));
    }
    for (; i < n; i++) {
        out[i] = in[i] * scale * dtype_load(weight, i, dtype);
    }
}

static void rotate(float *x, const float *cosine, const float *sine, int32_t half)
{
    for (int32_t i = 0; i < half; i++) {
        float low = x[i], high = x[i + half];
        x[i] = low * cosine[i] - high * sine[i];
        x[i + half] = high * cosine[i] + low * sine[i];
    }
}

static void silu_product(float *out, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        int32_t rest = n - i < LANES ? (int32_t)(n - i) : LANES;
        vector g = rest < LANES ? vector_load_part(gate + i, rest) : vector_load(gate + i);
        vector u = rest < LANES ? vector_load_part(up + i, rest) : vector_load(up + i);
        vector denominator = vector_add(vector_set(1.0f), vector_exp(vector_sub(vector_zero(), g)));
        vector product = vector_mul(u, vector_div(g, denominator));
        if (rest < LANES) {
            vector_store_part(out + i, product, rest);
        } else {
            vector_store(out + i, product);
        }
    }
}

static void to_bf16(uint16_t *out, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = f32_to_bf16(in[i]);
    }
}

static void merge(float *out, const float *parts, int64_t stride, const float *weight, int32_t n_parts, int32_t n)
{
    memset(out, 0, (size_t)n * sizeof *out);
    for (int32_t p = 0; p < n_parts; p++) {
        for (int32_t i = 0; i < n; i++) {
            out[i] += weight[p] * parts[p * stride + i];
        }
    }
}

const struct cpu_kernels CPU_VARIANT(cpu_kernels) = {
    .name = CPU_VARIANT_NAME,
    .bf16_matmul = CPU_BF16_MATMUL,
    .pack = pack,
    .unpack = unpack,
    .widen = widen,
    .dots = dots,
    .dots_list = dots_list,
    .weigh_list = weigh_list,
    .softmax = softmax,
    .multiply = multiply,
    .softmax_columns = softmax_columns,
    .scale_columns = scale_columns,
    .gated_sums = gated_sums,
    .bound = bound,
    .extend_bounds = extend_bounds,
    .rms_norm = rms_norm,
    .rotate = rotate,
    .silu_product = silu_product,
    .to_bf16 = to_bf16,
    .merge = merge,
    .select = CPU_VARIANT(cpu_select),
};
