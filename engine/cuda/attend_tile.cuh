// engine/cuda/attend_tile.cuh - one warp, 16 tokens, the query heads of one KV head: scores, softmax, values.
//
// Keys and values go from memory straight into the registers that tensor cores read. That works because a product does
// not care in which order its inner index runs: a lane loads 16 bytes side by side and they count as the elements that
// the fragment layout wants from it, as long as the query (for keys) and the result (for values) use the same order.
// Scores are query x key^T with query heads as the 16 rows; their accumulators are then, unmoved, the second operand of
// value^T x probability^T, whose rows are dimensions. Groups of up to 8 heads (HALVES = 1) leave the upper rows of the
// first product empty, groups of up to 16 (HALVES = 2) use them.
//
// Of fp8 pages a lane loads the codes of the same elements and widens them when they are multiplied; a token's two
// scales wait in the lane that looked it up.
//
// In a lane g = lane / 4, t = lane % 4. Softmax state per query head: running maximum m (of scores in powers of 2),
// sum l, out; a state without tokens has m = NO_SCORE, l = 0.
#pragma once

#include "engine/cuda/kv_codes.cuh"

enum { TILE_TOKENS = 16 };

#define NO_SCORE (-1e30f)    // finite, so that differences of it are numbers

// Words (pairs of elements) that a lane holds of each key and of each value, and how many lie side by side.
template <int HD> struct lane_words {
    static constexpr int key = HD / 8, value = HD / 16;
    static constexpr int key_run = key < 4 ? key : 4, value_run = value < 4 ? value : 4;
};

template <int HD, bool FP8 = false> struct token_tile {
    uint32_t key[2][lane_words<HD>::key];        // of tokens g and g + 8
    uint32_t value[4][lane_words<HD>::value];    // of tokens 2t, 2t + 1, 2t + 8, 2t + 9
};

template <int HD> struct token_tile<HD, true> {    // codes of the same elements
    uint32_t key[2][lane_words<HD>::key / 2];
    uint32_t value[4][lane_words<HD>::value > 1 ? lane_words<HD>::value / 2 : 1];    // HD 16: two codes
};

template <int HD, int HALVES> struct attend_state {
    float out[HALVES][HD / 16][4];    // heads 2t, 2t + 1 of 8: [0], [1] of one dimension, [2], [3] of the next
    float m[HALVES], l[HALVES];       // of head g; l is this lane's part of the sum
};

// The first of the two dimensions of value word w in this lane.
template <int HD> static __device__ __forceinline__ int dim_of_word(int w)
{
    constexpr int run = lane_words<HD>::value_run;
    return w / run * 16 * run + threadIdx.x % 32 / 4 * 2 * run + w % run * 2;
}

template <int N> static __device__ __forceinline__ void load_words(uint32_t *r, const uint8_t *from)
{
    if constexpr (N == 4) {
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "l"(from));
    } else if constexpr (N == 2) {
        asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "l"(from));
    } else {
        asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(r[0]) : "l"(from));
    }
}

// This lane's words of one key, or of one query head.
template <int HD>
static __device__ __forceinline__ void load_key(uint32_t (&r)[lane_words<HD>::key], const uint8_t *key)
{
    constexpr int run = lane_words<HD>::key_run;
    const uint8_t *from = key + threadIdx.x % 4 * run * 4;
#pragma unroll
    for (int w = 0; w < lane_words<HD>::key; w += run) {
        load_words<run>(r + w, from + w / run * run * 16);
    }
}

// This lane's codes of one key.
template <int HD>
static __device__ __forceinline__ void load_key(uint32_t (&r)[lane_words<HD>::key / 2], const uint8_t *key)
{
    constexpr int run = lane_words<HD>::key_run / 2;
    const uint8_t *from = key + threadIdx.x % 4 * run * 4;
#pragma unroll
    for (int w = 0; w < lane_words<HD>::key / 2; w += run) {
        load_words<run>(r + w, from + w / run * run * 16);
    }
}

// Lane i of 16 knows where token i lies.
static __device__ __forceinline__ const uint8_t *address_from(const uint8_t *mine, int token)
{
    return (const uint8_t *)__shfl_sync(FULL_MASK, (unsigned long long)mine, token);
}

template <int HD, bool FP8>
static __device__ __forceinline__ void load_keys(token_tile<HD, FP8> &tile, const uint8_t *mine)
{
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        load_key<HD>(tile.key[i], address_from(mine, g + i * 8));
    }
}

template <int HD, bool FP8>
static __device__ __forceinline__ void load_values(token_tile<HD, FP8> &tile, const uint8_t *mine)
{
    constexpr int run = FP8 ? lane_words<HD>::value_run / 2 : lane_words<HD>::value_run;
    constexpr int words = FP8 ? lane_words<HD>::value / 2 : lane_words<HD>::value;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint8_t *from = address_from(mine, 2 * t + i % 2 + i / 2 * 8);
        if constexpr (words == 0) {    // two codes
            uint16_t codes;
            asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(codes) : "l"(from + g * 2));
            tile.value[i][0] = codes;
        } else {
            from += g * run * 4;
#pragma unroll
            for (int w = 0; w < words; w += run) {
                load_words<run>(tile.value[i] + w, from + w / run * run * 32);
            }
        }
    }
}

// What scores and probabilities of this lane's tokens 2t, 2t + 1, 2t + 8, 2t + 9 are multiplied by.
static __device__ __forceinline__ void find_scales(float (&key)[4], float (&value)[4], uint32_t mine)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t scales = __shfl_sync(FULL_MASK, mine, i / 2 * 8 + 2 * (threadIdx.x % 4) + i % 2);
        key[i] = key_scale(scales);
        value[i] = value_scale(scales);
    }
}

template <int HD, int HALVES> static __device__ __forceinline__ void clear_state(attend_state<HD, HALVES> &s)
{
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
        s.m[h] = NO_SCORE;
        s.l[h] = 0;
#pragma unroll
        for (int w = 0; w < HD / 16; w++) {
            s.out[h][w][0] = s.out[h][w][1] = s.out[h][w][2] = s.out[h][w][3] = 0;
        }
    }
}

// A warp's query heads wait in shared memory: for 128 dimensions registers would not hold them beside a tile. [words of
// a lane by runs][lane][run], so that lanes lie side by side.
template <int HD, int HALVES> struct query_place {
    static constexpr int run = lane_words<HD>::key_run, runs = lane_words<HD>::key / run;
    static constexpr int bytes = HALVES * runs * 32 * run * 4;
};

template <int N> static __device__ __forceinline__ void save_words(uint32_t address, const uint32_t *r)
{
    if constexpr (N == 4) {
        asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                     : "memory");
    } else {
        asm volatile("st.shared.v2.u32 [%0], {%1,%2};" ::"r"(address), "r"(r[0]), "r"(r[1]) : "memory");
    }
}

template <int N> static __device__ __forceinline__ void fetch_words(uint32_t *r, uint32_t address)
{
    if constexpr (N == 4) {
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address));
    } else {
        asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address));
    }
}

// The first of the two dimensions of key word w in this lane.
template <int HD> static __device__ __forceinline__ int dim_of_key_word(int w)
{
    constexpr int run = lane_words<HD>::key_run;
    return w / run * 8 * run + threadIdx.x % 4 * 2 * run + w % run * 2;
}

// Shared memory that finishes heads: weights of the norm, cosine and sine of every pair (i, i + HD/2).
struct finish_tables {
    const float *norm;      // [HD]; NULL: no norm
    const float2 *turns;    // [HD/2]; NULL: heads are ready
    float eps;
};

// Norms and turns the heads whose words lie in the four lanes of each g. Every lane of a warp calls it.
template <int HD>
static __device__ __forceinline__ void finish_words(uint32_t (&r)[lane_words<HD>::key], finish_tables f)
{
    constexpr int words = lane_words<HD>::key;
    float v[2 * words], squares = 0;
#pragma unroll
    for (int w = 0; w < words; w++) {
        v[2 * w] = bf16_low(r[w]);
        v[2 * w + 1] = bf16_high(r[w]);
        squares += v[2 * w] * v[2 * w] + v[2 * w + 1] * v[2 * w + 1];
    }
    if (f.norm) {
        squares += __shfl_xor_sync(FULL_MASK, squares, 1);
        squares += __shfl_xor_sync(FULL_MASK, squares, 2);
        const float scale = rsqrtf(squares / (float)HD + f.eps);
#pragma unroll
        for (int w = 0; w < words; w++) {
            const float2 weight = *(const float2 *)(f.norm + dim_of_key_word<HD>(w));
            v[2 * w] *= scale * weight.x;
            v[2 * w + 1] *= scale * weight.y;
        }
    }
#pragma unroll
    for (int w = 0; w < (HD >= 64 ? words / 2 : words); w++) {
        const int dim = dim_of_key_word<HD>(w);
        const float4 turn = *(const float4 *)(f.turns + dim % (HD / 2));
        if constexpr (HD >= 64) {    // the other dimension of a pair lies in the same lane
            const int o = w + words / 2;
            r[w] = pack_bf16(v[2 * w] * turn.x - v[2 * o] * turn.y, v[2 * w + 1] * turn.z - v[2 * o + 1] * turn.w);
            r[o] = pack_bf16(v[2 * o] * turn.x + v[2 * w] * turn.y, v[2 * o + 1] * turn.z + v[2 * w + 1] * turn.w);
        } else {    // or two lanes on
            const float sign = dim < HD / 2 ? -1.0f : 1.0f;
            const float x = __shfl_xor_sync(FULL_MASK, v[2 * w], 2), y = __shfl_xor_sync(FULL_MASK, v[2 * w + 1], 2);
            r[w] = pack_bf16(v[2 * w] * turn.x + sign * x * turn.y, v[2 * w + 1] * turn.z + sign * y * turn.w);
        }
    }
}

// heads: of the first of `group` query heads, [group][HD] bf16.
template <int HD, int HALVES>
static __device__ __forceinline__ void place_query(uint32_t place, const uint8_t *heads, int group,
                                                   finish_tables finish)
{
    using at = query_place<HD, HALVES>;
    const int lane = threadIdx.x % 32, g = lane / 4;
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
        uint32_t q[lane_words<HD>::key] = {};
        if (h * 8 + g < group) {
            load_key<HD>(q, heads + (h * 8 + g) * HD * 2);
        }
        if (finish.turns) {
            finish_words<HD>(q, finish);
        }
#pragma unroll
        for (int r = 0; r < at::runs; r++) {
            save_words<at::run>(place + ((h * at::runs + r) * 32 + lane) * at::run * 4, q + r * at::run);
        }
    }
}

// c[n]: scores of tokens 8n + 2t, 8n + 2t + 1; [0], [1] of head g, [2], [3] of head g + 8.
template <int HD, int HALVES, bool FP8>
static __device__ __forceinline__ void score_tokens(float (&c)[2][4], uint32_t query, const token_tile<HD, FP8> &tile)
{
    using at = query_place<HD, HALVES>;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 2; n++) {
        c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
    }
#pragma unroll
    for (int r = 0; r < at::runs; r++) {
        uint32_t q[2][at::run] = {};
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            fetch_words<at::run>(q[h], query + ((h * at::runs + r) * 32 + lane) * at::run * 4);
        }
#pragma unroll
        for (int w = 0; w < at::run; w += 2) {
#pragma unroll
            for (int n = 0; n < 2; n++) {
                if constexpr (FP8) {
                    const uint32_t codes = tile.key[n][(r * at::run + w) / 2];
                    mma_bf16(c[n], q[0][w], q[1][w], q[0][w + 1], q[1][w + 1], widen_first(codes), widen_last(codes));
                } else {
                    const uint32_t *key = tile.key[n] + r * at::run + w;
                    mma_bf16(c[n], q[0][w], q[1][w], q[0][w + 1], q[1][w + 1], key[0], key[1]);
                }
            }
        }
    }
}

// Turns scores into probabilities p (the second operand of the next product) and brings the state to their maximum.
// The first `valid` tokens count. FP8: `scales` are those of the token that this lane looked up.
template <int HD, int HALVES, bool FP8>
static __device__ __forceinline__ void softmax_tokens(attend_state<HD, HALVES> &s, uint32_t (&p)[HALVES][2],
                                                      const float (&c)[2][4], int valid, float scale, uint32_t scales)
{
    const int t = threadIdx.x % 4;
    float of_key[4], of_value[4];
    if constexpr (FP8) {
        find_scales(of_key, of_value, scales);
    }
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
        float x[4], most = s.m[h];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float score = c[i / 2][2 * h + i % 2] * scale;
            if constexpr (FP8) {
                score *= of_key[i];
            }
            x[i] = i / 2 * 8 + 2 * t + i % 2 < valid ? score : -INFINITY;
            most = fmaxf(most, x[i]);
        }
        most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, 2));
        float shrink = exp2f(s.m[h] - most), sum = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[i] = exp2f(x[i] - most);
            sum += x[i];
            if constexpr (FP8) {
                x[i] *= of_value[i];
            }
        }
        p[h][0] = pack_bf16(x[0], x[1]);
        p[h][1] = pack_bf16(x[2], x[3]);
        s.l[h] = s.l[h] * shrink + sum;
        bool grown = most != s.m[h];
        s.m[h] = most;
        if (__any_sync(FULL_MASK, grown)) {
            float even = __shfl_sync(FULL_MASK, shrink, 8 * t), odd = __shfl_sync(FULL_MASK, shrink, 8 * t + 4);
#pragma unroll
            for (int w = 0; w < HD / 16; w++) {
                s.out[h][w][0] *= even;
                s.out[h][w][1] *= odd;
                s.out[h][w][2] *= even;
                s.out[h][w][3] *= odd;
            }
        }
    }
}

// Code number `code` of two words side by side in one product's operand.
static __device__ __forceinline__ uint32_t widen_both(uint32_t first, uint32_t second, int code)
{
    return widen_codes(__byte_perm(first, second, (uint32_t)(4 + code) << 12 | (uint32_t)code << 4));
}

template <int HD, int HALVES>
static __device__ __forceinline__ void add_values(attend_state<HD, HALVES> &s, const uint32_t (&p)[HALVES][2],
                                                  const token_tile<HD, true> &tile)
{
#pragma unroll
    for (int w = 0; w < HD / 16; w++) {
        const int code = w % 2 * 2;
        const uint32_t *v[4] = {tile.value[0] + w / 2, tile.value[1] + w / 2, tile.value[2] + w / 2,
                                tile.value[3] + w / 2};
        uint32_t low0 = widen_both(*v[0], *v[1], code), high0 = widen_both(*v[0], *v[1], code + 1);
        uint32_t low1 = widen_both(*v[2], *v[3], code), high1 = widen_both(*v[2], *v[3], code + 1);
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            mma_bf16(s.out[h][w], low0, high0, low1, high1, p[h][0], p[h][1]);
        }
    }
}

template <int HD, int HALVES>
static __device__ __forceinline__ void add_values(attend_state<HD, HALVES> &s, const uint32_t (&p)[HALVES][2],
                                                  const token_tile<HD, false> &tile)
{
#pragma unroll
    for (int w = 0; w < HD / 16; w++) {
        // Two tokens' words hold two dimensions each: low halves are the first, high halves the second.
        uint32_t low0 = __byte_perm(tile.value[0][w], tile.value[1][w], 0x5410);
        uint32_t high0 = __byte_perm(tile.value[0][w], tile.value[1][w], 0x7632);
        uint32_t low1 = __byte_perm(tile.value[2][w], tile.value[3][w], 0x5410);
        uint32_t high1 = __byte_perm(tile.value[2][w], tile.value[3][w], 0x7632);
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            mma_bf16(s.out[h][w], low0, high0, low1, high1, p[h][0], p[h][1]);
        }
    }
}

// Float4 number `quad` of a head's output in shared memory: the order is chosen so that the lanes of save_state meet no
// bank twice.
template <int HD> static __device__ __forceinline__ int quad_place(int head, int quad)
{
    return (quad ^ ((head / 2 & 1) | (head / 2 & 2) << 1)) & (HD / 4 - 1);
}

// Saves the state of this warp's first `group` heads: out [group][HD] in the order of quad_place, ml [group].
template <int HD, int HALVES>
static __device__ __forceinline__ void save_state(attend_state<HD, HALVES> &s, int group, float *out, float2 *ml)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
        float l = s.l[h];
        l += __shfl_xor_sync(FULL_MASK, l, 1);
        l += __shfl_xor_sync(FULL_MASK, l, 2);
        if (t == 0 && h * 8 + g < group) {
            ml[h * 8 + g] = make_float2(s.m[h], l);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int head = h * 8 + 2 * t + i;
            if (head >= group) {
                continue;
            }
#pragma unroll
            for (int w = 0; w < HD / 16; w += 2) {
                int dim = dim_of_word<HD>(w);
                float *to = out + head * HD + quad_place<HD>(head, dim / 4) * 4;
                if constexpr (HD == 16) {
                    *(float2 *)(to + dim % 4) = make_float2(s.out[h][w][i], s.out[h][w][i + 2]);
                } else {
                    *(float4 *)to =
                        make_float4(s.out[h][w][i], s.out[h][w][i + 2], s.out[h][w + 1][i], s.out[h][w + 1][i + 2]);
                }
            }
        }
    }
}

// What many states say together about 4 dimensions of one head.
struct merged {
    float m, l;
    float4 out;
};

// Merges n states in their order, a few at a time so that their reads overlap. `get`: number -> struct merged.
template <typename Get> static __device__ __forceinline__ merged merge_states(int n, Get get)
{
    enum { BATCH = 4 };
    merged all = {NO_SCORE, 0, make_float4(0, 0, 0, 0)};
    for (int base = 0; base < n; base += BATCH) {
        merged next[BATCH];
        float most = all.m;
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            next[i] = {NO_SCORE, 0, make_float4(0, 0, 0, 0)};
            if (base + i < n) {
                next[i] = get(base + i);
            }
            most = fmaxf(most, next[i].m);
        }
        float keep = exp2f(all.m - most);
        all.m = most;
        all.l *= keep;
        all.out = make_float4(all.out.x * keep, all.out.y * keep, all.out.z * keep, all.out.w * keep);
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            float add = exp2f(next[i].m - most);
            all.l += next[i].l * add;
            all.out.x += next[i].out.x * add;
            all.out.y += next[i].out.y * add;
            all.out.z += next[i].out.z * add;
            all.out.w += next[i].out.w * add;
        }
    }
    return all;
}
