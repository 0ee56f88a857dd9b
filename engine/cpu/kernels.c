// engine/cpu/kernels.c - the table of kernels, and those of prefill's tiles, of softmax, of norms; compiled once per
// instruction set.
//
// Written in the words of vector.h. Tiles are bound by multiply-adds: `multiply` keeps a block of c in registers.
#include "engine/cpu/kernels_variant.h"
#include "engine/cpu/vector.h"

// Registers decide how large the block of `multiply` is.
enum { BLOCK_ROWS = 6, BLOCK_VECTORS = LANES == 16 ? 4 : 2 };

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

// The lanes' maximum by memory: rare enough, and the same text for all widths. NaN is passed over.
INLINE float vector_greatest(vector a)
{
    float lanes[LANES], most = -INFINITY;
    vector_store(lanes, a);
    for (int32_t i = 0; i < LANES; i++) {
        most = lanes[i] > most ? lanes[i] : most;
    }
    return most;
}

static float greatest(const float *scores, int32_t n)
{
    vector most = vector_set(-INFINITY), nan = vector_zero(), infinity = vector_set(INFINITY);
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vector score = vector_load(scores + i);
        most = vector_max(score, most);
        // Neither below infinity nor above minus infinity is NaN only; + 0 keeps the sum 0, + NaN does not.
        vector strange = vector_if_less(vector_sub(vector_zero(), infinity), score, vector_zero(), score);
        nan = vector_add(nan, vector_if_less(score, infinity, vector_zero(), strange));
    }
    float result = vector_greatest(most) + vector_sum(nan);
    for (; i < n; i++) {
        result = scores[i] > result || isnan(scores[i]) ? scores[i] : result;
    }
    return result;
}

static float softmax(float *scores, int32_t n, float scale, float *maximum, float *sum)
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
    float last = *maximum, now = vector_greatest(most);
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
    *maximum = now;
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

INLINE void multiply_columns(float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_column,
                             const float *b, int64_t b_stride, int32_t n_rows, int32_t n_vectors, int32_t depth,
                             bool add)
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
    .dots = CPU_VARIANT(cpu_dots),
    .dots_list = CPU_VARIANT(cpu_dots_list),
    .weigh_list = CPU_VARIANT(cpu_weigh_list),
    .softmax = softmax,
    .greatest = greatest,
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
