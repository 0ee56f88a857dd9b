// engine/cuda/attention_all_state.cuh - the computing warps of attention_all.cu: 16 tokens of a tile into the softmax
// state of one KV head, and the states of the warps that share a head into one.
//
// scores^T = K q^T and out^T += V^T p^T on tensor cores, with tokens (and then dimensions) as the 16 rows and the query
// heads of the group as columns, NT tiles of 8, so groups of 1 to 16 waste little. HD: head_dim.
#pragma once

#include "engine/cuda/attention_all_copy.cuh"
#include "engine/cuda/kv_codes.cuh"

static const float NO_SCORE = -1e30f;    // finite, so that differences of it are numbers

// Softmax state of one warp: columns (query heads) 2t and 2t+1 of each tile of 8.
template <int HD, int NT> struct all_state {
    float out[NT][HD / 16][4];    // rows: dimensions g, g + 8 of each 16
    float m[NT][2], l[NT][2];
};

// FP8: in the order in which four codes that lie side by side are widened, 0 and 2, 1 and 3.
template <int HD, int NT, bool FP8>
static __device__ __forceinline__ void load_query(const all_arguments &a, int row, int q_head,
                                                  uint32_t (&q)[NT][HD / 16][2])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int n = 0; n < NT; n++) {
        int head = n * 8 + g;
        const uint32_t *from = (const uint32_t *)a.p.q + ((int64_t)row * a.p.n_heads + q_head + head) * (HD / 2);
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            if constexpr (FP8) {
                const uint32_t first = head < a.s.group ? from[k * 8 + 2 * t] : 0;
                const uint32_t second = head < a.s.group ? from[k * 8 + 2 * t + 1] : 0;
                q[n][k][0] = __byte_perm(first, second, 0x5410);
                q[n][k][1] = __byte_perm(first, second, 0x7632);
            } else {
                q[n][k][0] = head < a.s.group ? from[k * 8 + t] : 0;
                q[n][k][1] = head < a.s.group ? from[k * 8 + t + 4] : 0;
            }
        }
    }
}

// c += keys x query. `keys`: shared memory, where this lane's row of a matrix load begins.
template <int HD, int NT, bool FP8>
static __device__ __forceinline__ void score(float (&c)[NT][4], const uint32_t (&q)[NT][HD / 16][2], uint32_t keys)
{
    if constexpr (FP8) {    // a matrix load brings the codes of two products
#pragma unroll
        for (int k = 0; k < HD / 16; k += 2) {
            uint32_t f[4];
            load_matrix(f, keys + k * 16);
#pragma unroll
            for (int i = 0; i < 2 && k + i < HD / 16; i++) {
                const uint32_t low = f[2 * i], high = f[2 * i + 1];
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    mma_bf16(c[n], widen_even(low), widen_even(high), widen_odd(low), widen_odd(high), q[n][k + i][0],
                             q[n][k + i][1]);
                }
            }
        }
    } else {
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            uint32_t f[4];
            load_matrix(f, keys + k * 32);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                mma_bf16(c[n], f[0], f[1], f[2], f[3], q[n][k][0], q[n][k][1]);
            }
        }
    }
}

// s.out += values^T x probability. FP8: rows g and g + 8 of a product are dimensions 2g and 2g + 1 of its 16.
template <int HD, int NT, bool FP8>
static __device__ __forceinline__ void add_values(all_state<HD, NT> &s, const uint32_t (&probability)[NT][2],
                                                  uint32_t values)
{
    if constexpr (FP8) {
#pragma unroll
        for (int d = 0; d < HD / 16; d += 2) {
            uint32_t f[4];
            load_matrix_transposed(f, values + d * 16);
#pragma unroll
            for (int i = 0; i < 2 && d + i < HD / 16; i++) {
                const uint32_t low = f[i], high = f[i + 2];
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    mma_bf16(s.out[n][d + i], widen_even(low), widen_odd(low), widen_even(high), widen_odd(high),
                             probability[n][0], probability[n][1]);
                }
            }
        }
    } else {
#pragma unroll
        for (int d = 0; d < HD / 16; d++) {
            uint32_t f[4];
            load_matrix_transposed(f, values + d * 32);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                mma_bf16(s.out[n][d], f[0], f[1], f[2], f[3], probability[n][0], probability[n][1]);
            }
        }
    }
}

// 16 tokens: scores, softmax, values. `valid` of them count. FP8: `scales` of tokens g and g + 8.
template <int HD, int NT, bool FP8>
static __device__ __forceinline__ void attend_tokens(const all_arguments &a, all_state<HD, NT> &s,
                                                     const uint32_t (&q)[NT][HD / 16][2], uint32_t keys,
                                                     uint32_t values, int valid, float scale,
                                                     const uint32_t (&scales)[2])
{
    const int lane = threadIdx.x % 32, g = lane / 4;
    float c[NT][4] = {};
    score<HD, NT, FP8>(c, q, keys + ((lane % 8) + (lane / 8 % 2) * 8) * a.s.row_bytes + (lane / 16) * 16);
    float scale_low = scale, scale_high = scale;
    if constexpr (FP8) {
        scale_low *= key_scale(scales[0]);
        scale_high *= key_scale(scales[1]);
    }
    uint32_t probability[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float low = g < valid ? c[n][i] * scale_low : NO_SCORE;
            float high = g + 8 < valid ? c[n][i + 2] * scale_high : NO_SCORE;
            float m = fmaxf(low, high);
            m = fmaxf(m, __shfl_xor_sync(FULL_MASK, m, 4));
            m = fmaxf(m, __shfl_xor_sync(FULL_MASK, m, 8));
            m = fmaxf(m, __shfl_xor_sync(FULL_MASK, m, 16));
            m = fmaxf(m, s.m[n][i]);
            float shrink = exp2f(s.m[n][i] - m);
            s.m[n][i] = m;
            c[n][i] = g < valid ? exp2f(low - m) : 0;
            c[n][i + 2] = g + 8 < valid ? exp2f(high - m) : 0;
            s.l[n][i] = s.l[n][i] * shrink + c[n][i] + c[n][i + 2];
#pragma unroll
            for (int d = 0; d < HD / 16; d++) {
                s.out[n][d][i] *= shrink;
                s.out[n][d][i + 2] *= shrink;
            }
            if constexpr (FP8) {
                c[n][i] = g < valid ? c[n][i] * value_scale(scales[0]) : 0;
                c[n][i + 2] = g + 8 < valid ? c[n][i + 2] * value_scale(scales[1]) : 0;
            }
        }
        probability[n][0] = transpose_8x8(pack_bf16(c[n][0], c[n][1]));
        probability[n][1] = transpose_8x8(pack_bf16(c[n][2], c[n][3]));
    }
    add_values<HD, NT, FP8>(s, probability,
                            values + ((lane % 8) + (lane / 16) * 8) * a.s.row_bytes + (lane / 8 % 2) * 16);
}

static __device__ __forceinline__ uint32_t shared_u16(uint32_t address)
{
    uint16_t value;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(address) : "memory");
    return value;
}

// The scales of one token, for a KV head of an item, from where it lies.
static __device__ __forceinline__ uint32_t load_scales(const all_arguments &a, int item, int head, int token)
{
    const attention_params &p = a.p;
    const int row = item / a.s.parts, of_item = (int)((int64_t)(item % a.s.parts) * p.n_kv_heads / a.s.parts);
    const int place = token % p.view.page_tokens;
    int64_t page = p.rows.pages[(int64_t)p.rows.seq[row] * p.rows.max_pages + token / p.view.page_tokens];
    return *(const uint16_t *)scales_at(p.view, page, place, of_item + head);
}

// Merges the states of the warps that share a KV head, in the order of their tokens, into the first of them.
template <int HD, int NT>
static __device__ __forceinline__ void merge_warps(const all_arguments &a, all_state<HD, NT> &s, float *shared,
                                                   int warp)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, subs = COMPUTE_WARPS / a.s.kv_heads;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            for (int shift = 4; shift <= 16; shift *= 2) {
                s.l[n][i] += __shfl_xor_sync(FULL_MASK, s.l[n][i], shift);
            }
        }
    }
    if (subs == 1) {
        return;
    }
    const int pitch = HD + 2, head = warp % a.s.kv_heads, sub = warp / a.s.kv_heads;
    if (sub > 0) {
        float *to = shared + (int64_t)((sub - 1) * a.s.kv_heads + head) * a.s.group * pitch;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int column = n * 8 + 2 * t + i;
                if (column < a.s.group) {
#pragma unroll
                    for (int d = 0; d < HD / 16; d++) {
                        to[column * pitch + d * 16 + g] = s.out[n][d][i];
                        to[column * pitch + d * 16 + g + 8] = s.out[n][d][i + 2];
                    }
                    if (g == 0) {
                        to[column * pitch + HD] = s.m[n][i];
                        to[column * pitch + HD + 1] = s.l[n][i];
                    }
                }
            }
        }
    }
    asm volatile("bar.sync 1, %0;" ::"n"(COMPUTE_WARPS * 32) : "memory");
    for (int other = 1; sub == 0 && other < subs; other++) {
        const float *from = shared + (int64_t)((other - 1) * a.s.kv_heads + head) * a.s.group * pitch;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int column = n * 8 + 2 * t + i;
                if (column < a.s.group) {
                    float m2 = from[column * pitch + HD], m = fmaxf(s.m[n][i], m2);
                    float keep = exp2f(s.m[n][i] - m), add = exp2f(m2 - m);
                    s.m[n][i] = m;
                    s.l[n][i] = s.l[n][i] * keep + from[column * pitch + HD + 1] * add;
#pragma unroll
                    for (int d = 0; d < HD / 16; d++) {
                        s.out[n][d][i] = s.out[n][d][i] * keep + from[column * pitch + d * 16 + g] * add;
                        s.out[n][d][i + 2] = s.out[n][d][i + 2] * keep + from[column * pitch + d * 16 + g + 8] * add;
                    }
                }
            }
        }
    }
    asm volatile("bar.sync 1, %0;" ::"n"(COMPUTE_WARPS * 32) : "memory");    // the next item may write again
}
