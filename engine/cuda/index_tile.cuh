// engine/cuda/index_tile.cuh - what index_score.cu multiplies: a row's queries in registers or, fp8 ones of all heads,
// in shared memory; a lane's two keys; and their products, 16 tokens of a warp or 64 of a warp group at a time.
#pragma once

#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/score_tiles.cuh"

enum { WARPS = 8 };    // that score the tokens of one tile

// One lane's share of a query: head `head`, the same dimensions as its shares of keys. KC: 64-byte chunks of a key.
// Returns the scale by which products of fp8 queries are multiplied; 1 for bf16.
template <bool FP8, int KC>
static __device__ __forceinline__ float load_query(const index_score_params &p, int row, int head, uint32_t (&q)[KC][4])
{
    const int t = threadIdx.x % 4;
    // Beyond the last head the last once more, masked where it matters: dividing zeros takes a path that costs a
    // microsecond in all.
    const bool inside = head < p.heads;
    const int64_t from_head = (int64_t)row * p.heads + min(head, p.heads - 1);
    const __nv_bfloat16 *from = (const __nv_bfloat16 *)p.q + from_head * p.keys.dim;
    if (!FP8) {
#pragma unroll
        for (int c = 0; c < KC; c++) {
            int d = c * 32 + t * 8;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                q[c][i] = inside && d < p.keys.dim ? *(const uint32_t *)(from + d + 2 * i) : 0;
            }
        }
        return 1.0f;
    }
    const uint32_t keep = inside ? ~0u : 0;
    uint32_t pair[KC][8];
    float most = 0;
#pragma unroll
    for (int c = 0; c < KC; c++) {
        int d = c * 64 + t * 16;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            pair[c][i] = d < p.keys.dim ? *(const uint32_t *)(from + d + 2 * i) : 0;
            most = fmaxf(most, fmaxf(fabsf(bf16_low(pair[c][i])), fabsf(bf16_high(pair[c][i]))));
        }
    }
    most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, 1));
    most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, 2));
    // Quotients by a reciprocal, put right once: of every bf16 x and `most` the same code as a division's (all were
    // tried on a CPU), without a division's checks, which took 0.8 us of one row's 9.3 with 64 heads. `lift` keeps
    // remainders of tiny queries from underflowing.
    float scale = most > 0 ? most / FP8_LARGEST : 1.0f;
    const float lift = most < 0x1p-60f ? 0x1p64f : 1.0f, by = scale * lift, inverse = 1 / by;
    auto quotient = [&](float x) {
        const float near = x * lift * inverse;
        return fmaf(fmaf(-near, by, x * lift), inverse, near);
    };
#pragma unroll
    for (int c = 0; c < KC; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            q[c][i] = keep & pack_fp8(quotient(bf16_low(pair[c][2 * i])), quotient(bf16_high(pair[c][2 * i])),
                                      quotient(bf16_low(pair[c][2 * i + 1])), quotient(bf16_high(pair[c][2 * i + 1])));
        }
    }
    return scale;
}

// The lane's two keys (tokens g and g + 8 of a tile) and their scales.
template <bool FP8, int KC> struct key_pair {
    uint4 key[2][KC];
    float scale[2];
};

template <bool FP8, int KC>
static __device__ __forceinline__ void load_keys(const index_score_params &p, const int32_t *pages, int first, int last,
                                                 key_pair<FP8, KC> &k)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int key_bytes = p.keys.dim * (FP8 ? 1 : 2);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int token = min(first + half * 8 + g, last), at = token % p.keys.page_tokens;
        const uint8_t *page = p.keys.data + (int64_t)pages[token / p.keys.page_tokens] * p.keys.page_stride;
        const uint8_t *from = page + (int64_t)at * key_bytes + t * 16;
#pragma unroll
        for (int c = 0; c < KC; c++) {
            k.key[half][c] = c * 64 + t * 16 < key_bytes ? load_streaming(from + c * 64) : make_uint4(0, 0, 0, 0);
        }
        k.scale[half] = FP8 ? *(const float *)(page + p.keys.scale_offset + (int64_t)at * 4) : 1.0f;
    }
}

template <bool FP8, int KC>
static __device__ __forceinline__ void dot(float (&c)[4], const key_pair<FP8, KC> &k, const uint32_t (&q)[KC][4])
{
#pragma unroll
    for (int i = 0; i < KC; i++) {
        if (FP8) {
            mma_fp8(c, k.key[0][i].x, k.key[1][i].x, k.key[0][i].y, k.key[1][i].y, q[i][0], q[i][1]);
            mma_fp8(c, k.key[0][i].z, k.key[1][i].z, k.key[0][i].w, k.key[1][i].w, q[i][2], q[i][3]);
        } else {
            mma_bf16(c, k.key[0][i].x, k.key[1][i].x, k.key[0][i].y, k.key[1][i].y, q[i][0], q[i][1]);
            mma_bf16(c, k.key[0][i].z, k.key[1][i].z, k.key[0][i].w, k.key[1][i].w, q[i][2], q[i][3]);
        }
    }
}

static __device__ __forceinline__ void add_gated(const float (&c)[4], const float (&factor)[2], float (&sum)[2])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum[i / 2] = fmaf(max_or_nan(c[i], 0), factor[i % 2], sum[i / 2]);
    }
}

// The heads of a token lie in four lanes.
static __device__ __forceinline__ void finish_gated(float (&sum)[2], const float (&key_scale)[2], float (&score)[2][2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(FULL_MASK, sum[half], 1);
        sum[half] += __shfl_xor_sync(FULL_MASK, sum[half], 2);
        score[half][0] = sum[half] * key_scale[half];
        score[half][1] = 0;
    }
}

// Scores of one tile of 16 tokens. DOT: score[half][i] is head 2t + i, token g + 8*half. GATED: score[half][0] is the
// sum over heads, in every lane of the token.
template <bool FP8, int KC, int NT, bool GATED>
static __device__ __forceinline__ void score_tile(const key_pair<FP8, KC> &k, const uint32_t (&q)[NT][KC][4],
                                                  const float (&factor)[NT][2], float (&score)[2][2])
{
    if (!GATED) {
        float c[4] = {};
        dot<FP8, KC>(c, k, q[0]);
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 2; i++) {
                score[half][i] = c[2 * half + i] * (FP8 ? factor[0][i] * k.scale[half] : 1.0f);
            }
        }
        return;
    }
    float sum[2] = {};
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float c[4] = {};
        dot<FP8, KC>(c, k, q[n]);
        add_gated(c, factor[n], sum);
    }
    finish_gated(sum, k.scale, score);
}

// factor[n][i]: what the products of head n*8 + 2t + i are multiplied with: its query's scale, and its gate.
template <bool FP8, int KC, int NT, bool GATED>
static __device__ __forceinline__ void load_queries(const index_score_params &p, int row, uint32_t (&q)[NT][KC][4],
                                                    float (&factor)[NT][2])
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float scale = load_query<FP8, KC>(p, row, n * 8 + g, q[n]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int head = n * 8 + 2 * t + i;
            factor[n][i] = __shfl_sync(FULL_MASK, scale, (2 * t + i) * 4);
            if (GATED) {
                factor[n][i] *= head < p.heads ? p.gate[(int64_t)row * p.heads + head] : 0;
            }
        }
    }
}

// fp8 queries of one row for all computing warps: each quantises a share, all read the result. bf16 queries, to which
// nothing is done, every warp loads by itself: shared in the same way they were no faster, and racecheck in one run of
// two told of reads without order, which the second barrier orders.
// wide: the operand of group_mma_fp8, per 32 dimensions cores of 8 heads x 16 bytes: [2*KC][NT][2][8][16 bytes].
template <int KC, int NT> struct shared_queries {
    static constexpr bool WIDE = NT == 8 || NT == 1;
    union {
        uint4 q[NT][KC][32];
        __align__(128) uint32_t wide[2 * KC][NT][2][8][4];
    };
    float scale[NT][8];
};

template <int KC, int NT, bool GATED>
static __device__ __forceinline__ void share_queries(const index_score_params &p, int row, shared_queries<KC, NT> &sh,
                                                     uint32_t (&q)[NT][KC][4], float (&factor)[NT][2])
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    asm volatile("bar.sync 3, %0;" ::"n"(WARPS * 32) : "memory");    // all are done with the row before
    if (warp < NT) {
        uint32_t mine[KC][4];
        float scale = load_query<true, KC>(p, row, warp * 8 + g, mine);
#pragma unroll
        for (int c = 0; c < KC; c++) {
            if constexpr (shared_queries<KC, NT>::WIDE) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    sh.wide[2 * c + i / 2][warp][i % 2][g][t] = mine[c][i];
                }
                fence_for_group_mma();
            } else {
                sh.q[warp][c][lane] = make_uint4(mine[c][0], mine[c][1], mine[c][2], mine[c][3]);
            }
        }
        if (t == 0) {
            int head = warp * 8 + g;
            sh.scale[warp][g] = GATED ? (head < p.heads ? scale * p.gate[(int64_t)row * p.heads + head] : 0) : scale;
        }
    }
    asm volatile("bar.sync 3, %0;" ::"n"(WARPS * 32) : "memory");
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int c = 0; c < KC && !shared_queries<KC, NT>::WIDE; c++) {
            uint4 v = sh.q[n][c][lane];
            q[n][c][0] = v.x;
            q[n][c][1] = v.y;
            q[n][c][2] = v.z;
            q[n][c][3] = v.w;
        }
        factor[n][0] = sh.scale[n][2 * t];
        factor[n][1] = sh.scale[n][2 * t + 1];
    }
}

// The same scores by warp groups: 64 tokens of four warps with all heads.
template <int KC, int NT, bool GATED>
static __device__ __forceinline__ void score_tile_wide(const key_pair<true, KC> &k, const uint32_t *wide,
                                                       const float (&factor)[NT][2], float (&score)[2][2])
{
    // Distance of cores along the dimensions 128 bytes, along the heads 256; no swizzle.
    const uint64_t layout = (uint64_t)(128 >> 4) << 16 | (uint64_t)(256 >> 4) << 32;
    const uint32_t address = smem_address(wide);
    float c[NT][4];
    group_mma_begin();
#pragma unroll
    for (int i = 0; i < KC; i++) {
        uint64_t b = layout | ((address + i * 2 * NT * 256) & 0x3ffff) >> 4;
        group_mma_fp8(c, k.key[0][i].x, k.key[1][i].x, k.key[0][i].y, k.key[1][i].y, b, i == 0);
        group_mma_fp8(c, k.key[0][i].z, k.key[1][i].z, k.key[0][i].w, k.key[1][i].w, b + (NT * 256 >> 4), false);
    }
    group_mma_end();
    if (!GATED) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            score[i / 2][i % 2] = c[0][i] * factor[0][i % 2] * k.scale[i / 2];
        }
        return;
    }
    float sum[2] = {};
#pragma unroll
    for (int n = 0; n < NT; n++) {
        add_gated(c[n], factor[n], sum);
    }
    finish_gated(sum, k.scale, score);
}
