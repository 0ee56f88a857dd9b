// engine/cuda/prefill_gated.cu - the lightning indexer for many rows: sum over 64 heads of gate * ReLU(q . k), fp8.
//
// A block quantises the queries of 8 rows into shared memory and streams tiles of 256 fp8 keys past them. Each of four
// groups of four warps owns 64 keys of a tile and multiplies them by two rows' heads at a time: keys are the 64 rows of
// the product, heads its columns, so that ReLU, gate and the sum over heads stay within a lane but for four neighbours.
// While one group sums, the others keep the tensor core busy. The blocks of 8 rows share their keys evenly.
// Token scores come with `maxima`, the largest of every 16. Bound by the tensor core at its fp8 rate.
#include "engine/cuda/score_tiles.cuh"

enum {
    TILE_KEYS = 256,
    GROUPS = 4,
    GROUP_KEYS = 64,
    HEADS = 64,
    ROWS = 8,
    ROW_BYTES = HEADS * PANEL,
    STAGES = 4,
    STAGE_BYTES = TILE_KEYS * PANEL + 1024,    // scales of 4 bytes fill the 1024
    QUERY_BYTES = ROWS * ROW_BYTES,
    SMEM_BYTES = QUERY_BYTES + STAGES * STAGE_BYTES + 1024    // dynamic memory may begin anywhere
};

struct gated_shared {
    float factor[ROWS][HEADS];    // gate times the query's scale
    row_segment segments[ROWS];
    uint64_t full[STAGES], empty[STAGES];
    int warp_count[8];
    int n_segments;
};

// Called by the computing warps; heads of rows behind the last are zero.
static __device__ void load_queries(const index_score_params &p, int row0, int n_rows, uint8_t *to, gated_shared &sh)
{
    for (int i = threadIdx.x; i < ROWS * HEADS * 8; i += GROUPS * 128) {
        const int query = i / 8, chunk = i % 8, row = query / HEADS, head = query % HEADS;
        const bool inside = row < n_rows;
        const int64_t at = (int64_t)(row0 + row) * HEADS + head;
        const uint4 *from = (const uint4 *)((const uint8_t *)p.q + at * PANEL * 2) + chunk * 2;
        const uint4 zero = make_uint4(0, 0, 0, 0), raw[2] = {inside ? from[0] : zero, inside ? from[1] : zero};
        uint4 code;
        const float scale = quantise_query(raw, code);
        *(uint4 *)(to + swizzled(query, chunk)) = code;
        if (chunk == 0) {
            sh.factor[row][head] = inside ? scale * p.gate[at] : 0;
        }
    }
    fence_for_group_mma();
    asm volatile("bar.sync 1, %0;" ::"n"(GROUPS * 128) : "memory");
}

// Two rows' heads against a group's 64 keys: sum[r][half] of this lane's heads, for keys g and g + 8 of its warp's 16.
static __device__ __forceinline__ void score_pair(uint32_t queries, uint32_t keys, const float (*factor)[HEADS],
                                                  float (&sum)[2][2])
{
    const int t = threadIdx.x % 4;
    const uint64_t a = swizzled_operand(keys), b = swizzled_operand(queries);
    float c[16][4];
    group_mma_begin();
#pragma unroll
    for (int i = 0; i < PANEL / 32; i++) {
        group_mma_128<true>(c, a + i * (32 >> 4), b + i * (32 >> 4), i == 0);
    }
    group_mma_end();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r][0] = sum[r][1] = 0;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float2 f = *(const float2 *)&factor[r][n * 8 + 2 * t];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                sum[r][half] = fmaf(max_or_nan(c[r * 8 + n][2 * half], 0), f.x, sum[r][half]);
                sum[r][half] = fmaf(max_or_nan(c[r * 8 + n][2 * half + 1], 0), f.y, sum[r][half]);
            }
        }
    }
}

// Stores four rows' scores: lane t holds those of row t, keys g and g + 8.
static __device__ __forceinline__ void store_rows(const index_score_params &p, const float (&value)[2], int token,
                                                  int last, float *scores, float *maxima)
{
    float most = -INFINITY;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (token + half * 8 <= last) {
            scores[token + half * 8] = value[half];
            most = max_or_nan(most, value[half]);
        }
    }
    if (p.maxima) {
        for (int shift = 4; shift <= 16; shift *= 2) {
            most = max_or_nan(most, __shfl_xor_sync(FULL_MASK, most, shift));
        }
        if (threadIdx.x % 32 < 4 && token <= last) {    // lanes of g = 0: the 16 tokens' first
            maxima[token / SCORE_GROUP] = most;
        }
    }
}

__global__ void __launch_bounds__((GROUPS * 4 + 1) * 32, 1) gated_kernel(const __grid_constant__ index_score_params p)
{
    extern __shared__ uint8_t raw[];
    __shared__ gated_shared sh;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, group = warp / 4;
    uint8_t *queries = raw + (1024 - (smem_address(raw) & 1023)) % 1024;
    const key_ring ring = {smem_address(queries) + QUERY_BYTES, STAGE_BYTES, smem_address(sh.full),
                           smem_address(sh.empty), STAGES};
    if (threadIdx.x == 0) {
        ring_init(ring, GROUPS * 4);
    }
    dependents_may_launch();
    wait_for_predecessor();
    const int row0 = p.first + blockIdx.y * ROWS, n_rows = min((int)ROWS, p.first + p.n - row0);
    find_segments<TILE_KEYS>(p.rows, row0, n_rows, sh.segments, sh.n_segments, sh.warp_count);
    const int64_t tiles = sh.segments[sh.n_segments - 1].end_tile;
    const int begin = (int)(tiles * blockIdx.x / gridDim.x), end = (int)(tiles * (blockIdx.x + 1) / gridDim.x);
    if (begin == end) {
        return;
    }
    if (warp == GROUPS * 4) {
        copy_keys<1, TILE_KEYS, false>(p.keys, p.rows, sh.segments, sh.n_segments, begin, end, ring);
        return;
    }
    load_queries(p, row0, n_rows, queries, sh);
    int position[ROWS / 4];    // of rows t, 4 + t
#pragma unroll
    for (int i = 0; i < ROWS / 4; i++) {
        position[i] = 4 * i + t < n_rows ? p.rows.position[row0 + 4 * i + t] : -1;
    }
    float *scores = p.scores + (int64_t)(row0 - p.first + t) * p.stride;
    float *maxima = p.maxima + (int64_t)(row0 - p.first + t) * p.maxima_stride;
    ring_place at = {0, 0};
    for_tiles(sh.segments, sh.n_segments, begin, end, [&](const row_segment &segment, int first_row, int tile) {
        barrier_wait(ring.full + at.stage * 8, at.parity);
        const uint32_t keys = ring.keys + at.stage * STAGE_BYTES;
        const int in_tile = warp * 16 + g, token = tile * TILE_KEYS + in_tile;
        const float *scale = (const float *)(queries + QUERY_BYTES + at.stage * STAGE_BYTES + TILE_KEYS * PANEL);
        const float key_scale[2] = {scale[in_tile], scale[in_tile + 8]};
#pragma unroll
        for (int i = 0; i < ROWS / 4; i++) {
            float sum[4][2], value[2];
#pragma unroll
            for (int pair = 0; pair < 2; pair++) {
                const int row = 4 * i + 2 * pair;
                score_pair(smem_address(queries) + row * ROW_BYTES, keys + group * GROUP_KEYS * PANEL, &sh.factor[row],
                           *(float(*)[2][2]) & sum[2 * pair]);
            }
            if (i == ROWS / 4 - 1) {
                barrier_arrive(ring.empty + at.stage * 8);
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                value[half] = key_scale[half] * combine_quad(sum[0][half], sum[1][half], sum[2][half], sum[3][half],
                                                             [](float a, float b) { return a + b; });
            }
            const int row = 4 * i + t, last = row >= first_row && row < segment.end_row ? position[i] : -1;
            store_rows(p, value, token, last, scores + (int64_t)(4 * i) * p.stride,
                       maxima + (int64_t)(4 * i) * p.maxima_stride);
        }
        at.advance(STAGES);
    });
}

int prefill_gated_launch(const index_score_params &p, cudaStream_t stream)
{
    launch_shape shape = {};
    const int row_tiles = (p.n + ROWS - 1) / ROWS;
    shape.grid = dim3(score_shares(row_tiles, (p.max_context + TILE_KEYS - 1) / TILE_KEYS), (unsigned)row_tiles);
    shape.threads = (GROUPS * 4 + 1) * 32;
    shape.smem_bytes = SMEM_BYTES;
    int error = allow_smem("index scores of a prompt", gated_kernel, SMEM_BYTES);
    return error ? error : launch("index scores of a prompt", gated_kernel, shape, stream, p);
}
