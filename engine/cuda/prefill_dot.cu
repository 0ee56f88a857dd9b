// engine/cuda/prefill_dot.cu - dot products of many rows' index queries with the keys of their sequences (prefill).
//
// Rows times keys is a matrix product. A block holds a tile of up to 256 queries (rows x heads) in shared memory and
// streams tiles of 128 keys past them; each group of four warps multiplies 64 queries by a tile and, while the other
// groups keep the tensor core busy, stores its scores or pools them. Keys are placed so that a lane owns four
// consecutive ones of a row: scores leave as 16-byte stores. The blocks of a row tile share its keys evenly,
// whatever its rows' contexts. Only units that begin at or before a row's position are written.
//
// Token scores come with `maxima`: the largest of every 16 consecutive scores, with which the selection passes over
// most of them unread. Blocks of tokens are pooled in registers; their tokens' scores are never stored. NaN pass on
// everywhere. Bound by writing the scores (tokens) or by the tensor core (blocks).
//
// Measured on an H100 80GB HBM3, all rows of one prompt of 131072 tokens, bf16 keys of 128, in tiles whose scores fit
// 64 / 256 MB: one head per token 21.8 / 18.4 ms (119 TFLOP/s), fp8 keys 20.8 / 17.3 ms; 4 heads pooled to blocks of
// 128 in 64 MB 18.5 ms (476 TFLOP/s).
#include "engine/cuda/score_tiles.cuh"

enum { TILE_KEYS = 128, GROUP_QUERIES = 64, MAX_STAGES = 6, SMEM_BYTES = 224 * 1024 };

template <int GROUPS> struct dot_shared {
    row_segment segments[GROUPS * GROUP_QUERIES];
    float query_scale[GROUPS * GROUP_QUERIES];    // fp8
    uint64_t full[MAX_STAGES], empty[MAX_STAGES];
    int warp_count[8];
    int n_segments;
};

struct dot_arguments {
    index_score_params p;
    int32_t stages, stage_bytes;
};

// The queries of the tile into swizzled shared memory, zeros behind the last; fp8 quantises. Called by computing warps.
template <bool FP8, int PANELS, int GROUPS>
static __device__ void load_queries(const index_score_params &p, int64_t first_query, int n_queries, uint8_t *to,
                                    float *scale)
{
    constexpr int LANES = FP8 ? 8 : PANELS * 8;    // per query, each making one chunk of 16 bytes
    for (int i = threadIdx.x; i < GROUPS * GROUP_QUERIES * LANES; i += GROUPS * 128) {
        const int query = i / LANES, chunk = i % LANES;
        const uint4 *from =
            (const uint4 *)((const uint8_t *)p.q + (first_query + query) * p.keys.dim * 2) + chunk * (FP8 ? 2 : 1);
        const bool inside = query < n_queries;
        const uint4 zero = make_uint4(0, 0, 0, 0);
        uint4 out = inside ? from[0] : zero;
        if constexpr (FP8) {
            const uint4 raw[2] = {out, inside ? from[1] : zero};
            float s = quantise_query(raw, out);
            if (chunk == 0) {
                scale[query] = s;
            }
        }
        *(uint4 *)(to + chunk / 8 * GROUPS * GROUP_QUERIES * PANEL + swizzled(query, chunk % 8)) = out;
    }
    fence_for_group_mma();
    asm volatile("bar.sync 1, %0;" ::"n"(GROUPS * 128) : "memory");
}

// What one lane knows of its two queries (rows g and g + 8 of its warp's 16).
struct lane_queries {
    int last[2];    // position; -1: not in the current segment
    float scale[2];
    float *scores[2];
    float *maxima[2];
};

// The largest of each 16 keys of one query, from a lane's four of each: lane t gets those of runs t and 4 + t.
template <typename Combine>
static __device__ __forceinline__ void run_values(const float (&c)[16][4], int half, float (&value)[2],
                                                  const Combine &combine)
{
    float part[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        part[j] = combine(combine(c[2 * j][2 * half], c[2 * j][2 * half + 1]),
                          combine(c[2 * j + 1][2 * half], c[2 * j + 1][2 * half + 1]));
    }
    value[0] = combine_quad(part[0], part[1], part[2], part[3], combine);
    value[1] = combine_quad(part[4], part[5], part[6], part[7], combine);
}

// Keys behind a query's own position become `none`.
static __device__ __forceinline__ void hide_later(float (&c)[16][4], const lane_queries &lane, int first_key,
                                                  float none)
{
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int key = first_key + i / 2 * 16 + 4 * t + i % 2 * 2;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            c[i][j] = key + j % 2 <= lane.last[j / 2] ? c[i][j] : none;
        }
    }
}

// `whole`: every lane's keys all count.
static __device__ __forceinline__ void store_tokens(const index_score_params &p, float (&c)[16][4],
                                                    const lane_queries &lane, int tile, bool whole)
{
    const int t = threadIdx.x % 4, first_key = tile * TILE_KEYS;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float *to = lane.scores[half] + first_key + 4 * t;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float4 v = make_float4(c[2 * j][2 * half], c[2 * j][2 * half + 1], c[2 * j + 1][2 * half],
                                   c[2 * j + 1][2 * half + 1]);
            int rest = lane.last[half] - (first_key + j * 16 + 4 * t);
            if (whole || rest >= 3) {
                *(float4 *)(to + j * 16) = v;
            } else if (rest >= 0) {
                to[j * 16] = v.x;
                if (rest >= 1) {
                    to[j * 16 + 1] = v.y;
                }
                if (rest >= 2) {
                    to[j * 16 + 2] = v.z;
                }
            }
        }
    }
    if (p.maxima) {
        if (!whole) {
            hide_later(c, lane, first_key, -INFINITY);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float value[2];
            run_values(c, half, value, max_or_nan);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int run = tile * (TILE_KEYS / SCORE_GROUP) + 4 * i + t;
                if (whole || run * SCORE_GROUP <= lane.last[half]) {
                    lane.maxima[half][run] = value[i];
                }
            }
        }
    }
}

// Units of 16 to 128 tokens.
template <bool MEAN>
static __device__ __forceinline__ void store_pooled(const index_score_params &p, float (&c)[16][4],
                                                    const lane_queries &lane, int tile, bool whole)
{
    const int t = threadIdx.x % 4, span = p.unit_tokens / 16, first_key = tile * TILE_KEYS;
    const auto combine = [](float a, float b) { return MEAN ? a + b : max_or_nan(a, b); };
    if (!whole) {
        hide_later(c, lane, first_key, MEAN ? 0 : -INFINITY);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float value[2];
        run_values(c, half, value, combine);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            for (int shift = 1; shift < min(span, 4); shift *= 2) {
                value[i] = combine(value[i], __shfl_xor_sync(FULL_MASK, value[i], shift));
            }
        }
        if (span == 8) {
            value[0] = combine(value[0], value[1]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int begin = first_key + (4 * i + t) * 16, tokens = min(p.unit_tokens, lane.last[half] + 1 - begin);
            if ((4 * i + t) % span == 0 && tokens > 0) {
                lane.scores[half][begin / p.unit_tokens] = MEAN ? value[i] / (float)tokens : value[i];
            }
        }
    }
}

template <bool FP8, int PANELS, int GROUPS>
static __device__ __forceinline__ void multiply_tile(float (&c)[16][4], uint32_t queries, uint32_t keys)
{
    group_mma_begin();
#pragma unroll
    for (int panel = 0; panel < PANELS; panel++) {
        const uint64_t a = swizzled_operand(queries + panel * GROUPS * GROUP_QUERIES * PANEL);
        const uint64_t b = swizzled_operand(keys + panel * TILE_KEYS * PANEL);
#pragma unroll
        for (int i = 0; i < PANEL / 32; i++) {
            group_mma_128<FP8>(c, a + i * (32 >> 4), b + i * (32 >> 4), panel + i == 0);
        }
    }
    group_mma_end();
}

enum unit_kind { UNIT_TOKENS, UNIT_MAX, UNIT_MEAN };

template <bool FP8, int PANELS, int GROUPS, unit_kind KIND>
__global__ void __launch_bounds__((GROUPS * 4 + 1) * 32, 1) dot_kernel(const __grid_constant__ dot_arguments a)
{
    extern __shared__ uint8_t raw[];
    __shared__ dot_shared<GROUPS> sh;
    const index_score_params &p = a.p;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, group = warp / 4;
    uint8_t *queries = raw + (1024 - (smem_address(raw) & 1023)) % 1024;
    const key_ring ring = {smem_address(queries) + PANELS * GROUPS * GROUP_QUERIES * PANEL, (uint32_t)a.stage_bytes,
                           smem_address(sh.full), smem_address(sh.empty), a.stages};
    if (threadIdx.x == 0) {
        ring_init(ring, GROUPS * 4);
    }
    dependents_may_launch();
    wait_for_predecessor();
    const int tile_rows = GROUPS * GROUP_QUERIES / p.heads, row0 = p.first + blockIdx.y * tile_rows;
    const int n_rows = min(tile_rows, p.first + p.n - row0);
    find_segments<TILE_KEYS>(p.rows, row0, n_rows, sh.segments, sh.n_segments, sh.warp_count);
    const int64_t tiles = sh.segments[sh.n_segments - 1].end_tile;
    const int begin = (int)(tiles * blockIdx.x / gridDim.x), end = (int)(tiles * (blockIdx.x + 1) / gridDim.x);
    if (begin == end) {
        return;
    }
    if (warp == GROUPS * 4) {
        copy_keys<PANELS, TILE_KEYS, true>(p.keys, p.rows, sh.segments, sh.n_segments, begin, end, ring);
        return;
    }
    load_queries<FP8, PANELS, GROUPS>(p, (int64_t)row0 * p.heads, n_rows * p.heads, queries, sh.query_scale);
    lane_queries mine;
    int row[2], position[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = warp * 16 + half * 8 + g;
        const int64_t list = (int64_t)(row0 - p.first) * p.heads + query;
        row[half] = query / p.heads;
        position[half] = row[half] < n_rows ? p.rows.position[row0 + row[half]] : -1;
        mine.scale[half] = FP8 ? sh.query_scale[query] : 1.0f;
        mine.scores[half] = p.scores + list * p.stride;
        mine.maxima[half] = p.maxima + list * p.maxima_stride;
    }
    ring_place at = {0, 0};
    for_tiles(sh.segments, sh.n_segments, begin, end, [&](const row_segment &segment, int first_row, int tile) {
        float c[16][4];
        barrier_wait(ring.full + at.stage * 8, at.parity);
        const uint32_t keys = ring.keys + at.stage * ring.stage_bytes;
        multiply_tile<FP8, PANELS, GROUPS>(c, smem_address(queries) + group * GROUP_QUERIES * PANEL, keys);
        if constexpr (FP8) {
            const float4 *scale =
                (const float4 *)(queries + (keys - smem_address(queries)) + PANELS * TILE_KEYS * PANEL);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float4 s = scale[j * 4 + threadIdx.x % 4];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    c[2 * j][2 * half] *= mine.scale[half] * s.x;
                    c[2 * j][2 * half + 1] *= mine.scale[half] * s.y;
                    c[2 * j + 1][2 * half] *= mine.scale[half] * s.z;
                    c[2 * j + 1][2 * half + 1] *= mine.scale[half] * s.w;
                }
            }
        }
        barrier_arrive(ring.empty + at.stage * 8);
        at.advance(ring.stages);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            mine.last[half] = row[half] >= first_row && row[half] < segment.end_row ? position[half] : -1;
        }
        const int last_key = tile * TILE_KEYS + TILE_KEYS - 1;
        const bool whole = __all_sync(FULL_MASK, min(mine.last[0], mine.last[1]) >= last_key);
        if constexpr (KIND == UNIT_TOKENS) {
            store_tokens(p, c, mine, tile, whole);
        } else {
            store_pooled<KIND == UNIT_MEAN>(p, c, mine, tile, whole);
        }
    });
}

template <bool FP8, int PANELS, int GROUPS> static int launch_dot(const index_score_params &p, cudaStream_t stream)
{
    dot_arguments a = {p, 0, PANELS * TILE_KEYS * PANEL + (FP8 ? TILE_KEYS * 4 : 0)};
    a.stage_bytes = (a.stage_bytes + 1023) / 1024 * 1024;
    const int queries = PANELS * GROUPS * GROUP_QUERIES * PANEL + 1024;    // dynamic memory may begin anywhere
    a.stages = (SMEM_BYTES - (int)sizeof(dot_shared<GROUPS>) - queries) / a.stage_bytes;
    a.stages = a.stages > MAX_STAGES ? MAX_STAGES : a.stages;
    launch_shape shape = {};
    const int tile_rows = GROUPS * GROUP_QUERIES / p.heads, row_tiles = (p.n + tile_rows - 1) / tile_rows;
    shape.grid = dim3(score_shares(row_tiles, (p.max_context + TILE_KEYS - 1) / TILE_KEYS), (unsigned)row_tiles);
    shape.threads = (GROUPS * 4 + 1) * 32;
    shape.smem_bytes = (size_t)queries + (size_t)a.stages * a.stage_bytes;
    auto kernel = p.unit_tokens == 1          ? dot_kernel<FP8, PANELS, GROUPS, UNIT_TOKENS>
                  : p.pooling == POOLING_MEAN ? dot_kernel<FP8, PANELS, GROUPS, UNIT_MEAN>
                                              : dot_kernel<FP8, PANELS, GROUPS, UNIT_MAX>;
    int error = allow_smem("index scores of a prompt", kernel, shape.smem_bytes);
    return error ? error : launch("index scores of a prompt", kernel, shape, stream, a);
}

int prefill_dot_launch(const index_score_params &p, cudaStream_t stream)
{
    const bool wide = (int64_t)p.n * p.heads > 128;
    if (p.keys.dtype == DTYPE_FP8) {
        return wide ? launch_dot<true, 1, 4>(p, stream) : launch_dot<true, 1, 2>(p, stream);
    }
    if (p.keys.dim == 64) {
        return wide ? launch_dot<false, 1, 4>(p, stream) : launch_dot<false, 1, 2>(p, stream);
    }
    return wide ? launch_dot<false, 2, 4>(p, stream) : launch_dot<false, 2, 2>(p, stream);
}
