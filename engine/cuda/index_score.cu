// engine/cuda/index_score.cu - index queries against every index key of a sequence: one score per token or per block.
//
// Bound by reading the index keys once. The keys of all rows are one list of tiles of 128 tokens, cut into runs, a
// block each: one per multiprocessor, and short ones at the end. One warp streams pages to shared memory with the bulk
// copy engine; groups of eight warps take turns at the tiles, each warp scoring 16 tokens. Keys are the tensor core's
// A operand, queries of the heads its B operand, held in registers. Since any permutation of a key's dimensions that
// query and key share gives the same product, a lane takes 16 consecutive bytes of its token's key at once. fp8
// queries are quantised (index_tile.cuh), one scale per head, and multiply by whole warp groups from shared memory:
// the narrow fp8 instruction is emulated on this chip by conversions that take longer than the keys' way from memory
// (64 heads, 32 x 131072 keys: 380 us with it, 156 without). Blocks of 16 to 128 tokens reduce on the chip: their
// tokens' scores are never stored. Other block sizes take a plainer kernel. The rows of a prompt are a matrix product:
// prefill_dot.cu, prefill_gated.cu.
//
// Measured on an H200 (4.54 TB/s), 131072 keys of 128, 1 / 8 / 32 rows: one bf16 head 11.6 / 71 / 268 us (PyTorch's bmm
// 10.9 / 68 / 254), one fp8 head 10.3 / 44 / 150 us, 64 gated fp8 heads 9.1 / 44 / 156 us, blocks of 128 with 4 heads
// 12 / 70 / 257 us. Later, with short runs at the end of the list and without (H200 at 4.5 TB/s, 8 / 32 rows): bf16
// 69.5 / 262.6 and 71.7 / 269.7 us, blocks 68.1 / 251.0 and 70.9 / 260.6; fp8 49.6 / 156 and 45.1 / 152 us: equal runs.
// Since no lane divides zeros, 1 / 8 / 32 rows: one fp8 head 7.7 / 40.6 / 151 us, with short runs 7.6 / 42.7 / 153,
// with two groups of warps 7.8 / 43.0 / 161; 64 heads 9.2 / 43.8 / 155. Since queries are quantised without divisions
// 64 heads 8.5 / 43.0 / 156, one head 7.7 / 40.5 / 151. bf16 queries that every warp loads cost what shared ones did.
// Keys that leave the L2 first: 64 heads 41.9 / 152 us with 8 / 32 rows, blocks 67.1 / 248 instead of 68.2 / 251. Rings
// of four stages were 0 to 2% slower (blocks, 32 rows: 1% faster), of two up to 13% (one row of bf16: 4 to 6% faster).
// All of that, on an H200 at 4.65 TB/s: bf16 11.9 / 67.7 / 258 us, fp8 7.7 / 39.6 / 148, 64 heads 8.5 / 41.5 / 151,
// blocks 12.6 / 65.9 / 243.
#include "engine/cuda/device.cuh"
#include "engine/cuda/index_tile.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/runs.cuh"
#include "engine/cuda/score_tiles.cuh"

enum {
    TILE_TOKENS = WARPS * 16,
    MAX_DIM = 128,
    MAX_HEADS = 64,
    MAX_STAGES = 12,
    STAGE_SMEM = 200 * 1024,
    PREFILL_ROWS = 48             // fewer rows of one sequence are read about as fast one by one
};

// How the stream is cut. A piece is a run of tokens that never crosses a page.
struct stream_shape {
    int32_t piece_tokens, key_bytes, stage_bytes, stages, longs;
};

struct stream_arguments {
    index_score_params p;
    stream_shape s;
};

struct row_tiles {
    const index_score_params &p;

    __device__ __forceinline__ int operator()(int item) const
    {
        return p.rows.position[p.first + item] / TILE_TOKENS + 1;
    }
};

static __device__ void copy_pages(const stream_arguments &a, walk w, uint32_t stages, uint32_t full, uint32_t empty)
{
    const index_score_params &p = a.p;
    const int lane = threadIdx.x % 32;
    const bool fp8 = p.keys.dtype == DTYPE_FP8;
    int stage = 0;
    uint32_t parity = 1;    // a fresh barrier counts as having completed the phase before its first
    for (; w.left > 0; walk_next_item(row_tiles{p}, w)) {
        const int row = p.first + w.item, last = p.rows.position[row];
        const int32_t *pages = p.rows.pages + (int64_t)p.rows.seq[row] * p.rows.max_pages;
        for (int tile = w.tile; tile < w.item_end; tile++) {
            int token = tile * TILE_TOKENS + lane * a.s.piece_tokens;
            bool mine = lane * a.s.piece_tokens < TILE_TOKENS && token <= last;
            int at = token % p.keys.page_tokens;
            const uint8_t *page = p.keys.data + (mine ? pages[token / p.keys.page_tokens] * p.keys.page_stride : 0);
            int pieces = __popc(__ballot_sync(FULL_MASK, mine));
            barrier_wait(empty + stage * 8, parity);
            if (lane == 0) {
                barrier_arrive_expect(full + stage * 8,
                                      (uint32_t)(pieces * a.s.piece_tokens * (a.s.key_bytes + (fp8 ? 4 : 0))));
            }
            __syncwarp();
            if (mine) {
                uint32_t to = stages + stage * a.s.stage_bytes;
                copy_bulk_once(to + lane * a.s.piece_tokens * a.s.key_bytes, page + (int64_t)at * a.s.key_bytes,
                               a.s.piece_tokens * a.s.key_bytes, full + stage * 8);
                if (fp8) {
                    copy_bulk_once(to + TILE_TOKENS * a.s.key_bytes + lane * a.s.piece_tokens * 4,
                                   page + p.keys.scale_offset + (int64_t)at * 4, a.s.piece_tokens * 4,
                                   full + stage * 8);
                }
            }
            if (++stage == a.s.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
}

// The lane's two keys from a stage. Odd tokens read their 64-byte chunks in swapped order: the keys of neighbouring
// tokens lie a multiple of 128 bytes apart and would meet in the same banks.
template <bool FP8, int KC>
static __device__ __forceinline__ void stage_keys(const uint8_t *stage, int key_bytes, int warp, key_pair<FP8, KC> &k)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const bool odd = g & 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int token = warp * 16 + half * 8 + g;
        const uint8_t *from = stage + token * key_bytes + t * 16;
        uint4 chunk[KC];
#pragma unroll
        for (int c = 0; c < KC; c++) {
            int place = KC == 1 ? c : c ^ odd;
            chunk[c] = place * 64 + t * 16 < key_bytes ? *(const uint4 *)(from + place * 64) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int c = 0; c < KC; c++) {
            k.key[half][c] = KC > 1 && odd ? chunk[c ^ 1] : chunk[c];
        }
        k.scale[half] = FP8 ? *(const float *)(stage + TILE_TOKENS * key_bytes + token * 4) : 1.0f;
    }
}

// Reduces the 16 tokens of each warp, then the warps of each block of tokens. pool [WARPS][8 sets]; callers alternate
// between two, so that one barrier of the group per tile is enough.
static __device__ __forceinline__ void pool_tile(const index_score_params &p, const float (&score)[2][2], int tile,
                                                 int last, float (*pool)[8], float *scores)
{
    const int warp = threadIdx.x / 32 % WARPS, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const bool mean = p.pooling == POOLING_MEAN;
    const int first = tile * TILE_TOKENS + warp * 16;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float low = first + g <= last ? score[0][i] : mean ? 0 : -INFINITY;
        float high = first + 8 + g <= last ? score[1][i] : mean ? 0 : -INFINITY;
        float v = mean ? low + high : max_or_nan(low, high);
        for (int shift = 4; shift <= 16; shift *= 2) {
            float other = __shfl_xor_sync(FULL_MASK, v, shift);
            v = mean ? v + other : max_or_nan(v, other);
        }
        if (g == 0) {
            pool[warp][2 * t + i] = v;
        }
    }
    asm volatile("bar.sync %0, %1;" ::"r"(1 + (int)threadIdx.x / (WARPS * 32)), "n"(WARPS * 32) : "memory");
    const int warps = p.unit_tokens / 16, set = threadIdx.x % 8, unit = threadIdx.x % (WARPS * 32) / 8;
    if (unit < WARPS / warps && set < p.sets) {
        int begin = tile * TILE_TOKENS + unit * p.unit_tokens, tokens = min(p.unit_tokens, last + 1 - begin);
        if (tokens > 0) {
            float v = pool[unit * warps][set];
            for (int i = 1; i < warps; i++) {
                float other = pool[unit * warps + i][set];
                v = mean ? v + other : max_or_nan(v, other);
            }
            scores[(int64_t)set * p.stride + begin / p.unit_tokens] = mean ? v / (float)tokens : v;
        }
    }
}

template <int GROUPS, bool FP8, int KC, int NT, bool GATED>
__global__ void __launch_bounds__((GROUPS * WARPS + 1) * 32, 1)
    stream_kernel(const __grid_constant__ stream_arguments a)
{
    extern __shared__ __align__(128) uint8_t stages[];
    __shared__ shared_queries<KC, NT> queries;    // fp8
    __shared__ float pool[GROUPS][2][WARPS][8];
    __shared__ __align__(8) uint64_t barriers[2 * MAX_STAGES];
    const index_score_params &p = a.p;
    const int warp = threadIdx.x / 32 % WARPS, group = threadIdx.x / 32 / WARPS;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint32_t full = smem_address(barriers), empty = full + MAX_STAGES * 8;
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.s.stages; i++) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, WARPS * 32);    // every lane that read
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    dependents_may_launch();
    wait_for_predecessor();
    const int32_t tiles = all_tiles(row_tiles{p}, p.n);
    const run_cut cut = FP8 ? equal_runs(tiles, a.s.longs) : long_and_short_runs(tiles, a.s.longs);
    if (blockIdx.x >= runs_of(cut)) {
        return;
    }
    walk w = {};
    walk_begin(row_tiles{p}, p.n, w, run_begin(cut, blockIdx.x), run_begin(cut, blockIdx.x + 1));
    if (group == GROUPS) {
        copy_pages(a, w, smem_address(stages), full, empty);
        return;
    }
    int stage = 0, turn = 0;    // whose turn the current tile is
    uint32_t parity = 0, round = 0;
    for (; w.left > 0; walk_next_item(row_tiles{p}, w)) {
        const int row = p.first + w.item, last = p.rows.position[row];
        uint32_t q[NT][KC][4];
        float factor[NT][2];
        if constexpr (FP8) {
            share_queries<KC, NT, GATED>(p, row, queries, q, factor);
        } else {
            load_queries<FP8, KC, NT, GATED>(p, row, q, factor);
        }
        float *scores = p.scores + (int64_t)w.item * p.sets * p.stride;
        for (int tile = w.tile; tile < w.item_end; tile++) {
            if (turn == group) {
                barrier_wait(full + stage * 8, parity);
                key_pair<FP8, KC> k;
                stage_keys<FP8, KC>(stages + stage * a.s.stage_bytes, a.s.key_bytes, warp, k);
                barrier_arrive(empty + stage * 8);
                float score[2][2];
                if constexpr (FP8 && shared_queries<KC, NT>::WIDE) {
                    score_tile_wide<KC, NT, GATED>(k, &queries.wide[0][0][0][0][0], factor, score);
                } else {
                    score_tile<FP8, KC, NT, GATED>(k, q, factor, score);
                }
                if (p.unit_tokens > 1) {
                    pool_tile(p, score, tile, last, pool[group][round++ & 1], scores);
                } else {
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        int token = tile * TILE_TOKENS + warp * 16 + half * 8 + g;
#pragma unroll
                        for (int i = 0; i < (GATED ? 1 : 2); i++) {
                            if (token <= last && 2 * t + i < p.sets) {
                                scores[(int64_t)(2 * t + i) * p.stride + token] = score[half][i];
                            }
                        }
                    }
                }
            }
            turn = turn + 1 == GROUPS ? 0 : turn + 1;
            if (++stage == a.s.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
}

// One warp per block of tokens.
template <bool FP8, int KC, int NT, bool GATED>
__global__ void __launch_bounds__(WARPS * 32) unit_kernel(const __grid_constant__ index_score_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int row = p.first + blockIdx.y, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int last = p.rows.position[row];
    const int32_t *pages = p.rows.pages + (int64_t)p.rows.seq[row] * p.rows.max_pages;
    uint32_t q[NT][KC][4];
    float factor[NT][2];
    load_queries<FP8, KC, NT, GATED>(p, row, q, factor);
    float *scores = p.scores + (int64_t)blockIdx.y * p.sets * p.stride;
    const bool mean = p.pooling == POOLING_MEAN;
    for (int unit = blockIdx.x * WARPS + threadIdx.x / 32; unit * p.unit_tokens <= last; unit += gridDim.x * WARPS) {
        int end = min((unit + 1) * p.unit_tokens, last + 1);
        float pooled[2] = {mean ? 0 : -INFINITY, mean ? 0 : -INFINITY};
        for (int first = unit * p.unit_tokens; first < end; first += 16) {
            key_pair<FP8, KC> k;
            load_keys<FP8, KC>(p, pages, first, last, k);
            float score[2][2];
            score_tile<FP8, KC, NT, GATED>(k, q, factor, score);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                bool inside = first + half * 8 + g < end;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float s = score[half][i];
                    pooled[i] = mean ? pooled[i] + (inside ? s : 0) : inside ? max_or_nan(pooled[i], s) : pooled[i];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            for (int shift = 4; shift <= 16; shift *= 2) {
                float other = __shfl_xor_sync(FULL_MASK, pooled[i], shift);
                pooled[i] = mean ? pooled[i] + other : max_or_nan(pooled[i], other);
            }
            int set = 2 * t + i;
            if (g == 0 && set < p.sets && (!GATED || i == 0)) {
                scores[(int64_t)set * p.stride + unit] =
                    mean ? pooled[i] / (float)(end - unit * p.unit_tokens) : pooled[i];
            }
        }
    }
}

template <bool FP8, int KC, int NT, bool GATED>
static int launch_stream(const index_score_params &p, cudaStream_t stream)
{
    stream_arguments a = {};
    a.p = p;
    a.s.piece_tokens = TILE_TOKENS;
    while (p.keys.page_tokens % a.s.piece_tokens != 0) {
        a.s.piece_tokens /= 2;
    }
    a.s.key_bytes = p.keys.dim * (FP8 ? 1 : 2);
    a.s.stage_bytes = TILE_TOKENS * (a.s.key_bytes + (FP8 ? 4 : 0));
    a.s.stages = STAGE_SMEM / a.s.stage_bytes;
    a.s.stages = a.s.stages > MAX_STAGES ? MAX_STAGES : a.s.stages;
    constexpr int GROUPS = NT == 1 && !FP8 ? 2 : 1;    // many heads need the registers of both, fp8 gained nothing
    a.s.stages -= a.s.stages % GROUPS;    // a stage always comes back to the same warps: see attention_all.cu
    a.s.longs = multiprocessors();
    if (a.s.piece_tokens < 8 || p.keys.page_stride % 16 != 0 || p.keys.scale_offset % 16 != 0) {
        return status_fail(-ENOTSUP, "index scores: pages of %d tokens; a multiple of 8", p.keys.page_tokens);
    }
    launch_shape shape = {};
    const int64_t most_tiles = (int64_t)p.n * ((p.max_context - 1) / TILE_TOKENS + 1);
    shape.grid = dim3((unsigned)(a.s.longs * (!FP8 && has_short_runs(most_tiles, a.s.longs) ? 2 : 1)));
    shape.threads = (GROUPS * WARPS + 1) * 32;
    shape.smem_bytes = (size_t)a.s.stages * a.s.stage_bytes;
    int error = allow_smem("index scores", stream_kernel<GROUPS, FP8, KC, NT, GATED>, STAGE_SMEM);
    return error ? error : launch("index scores", stream_kernel<GROUPS, FP8, KC, NT, GATED>, shape, stream, a);
}

template <bool FP8, int KC, int NT, bool GATED>
static int launch_kernel(const index_score_params &p, cudaStream_t stream)
{
    if (p.unit_tokens == 1 || (p.unit_tokens >= 16 && TILE_TOKENS % p.unit_tokens == 0)) {
        return launch_stream<FP8, KC, NT, GATED>(p, stream);
    }
    // Enough blocks to fill the chip over all rows, none that could find no work.
    int64_t units = (p.max_context + p.unit_tokens - 1) / p.unit_tokens;
    int64_t most = (units + WARPS - 1) / WARPS, blocks = ((int64_t)multiprocessors() * 4 + p.n - 1) / p.n;
    launch_shape shape = {};
    shape.grid = dim3((unsigned)(blocks < most ? blocks : most), (unsigned)p.n);
    shape.threads = WARPS * 32;
    return launch("block scores", unit_kernel<FP8, KC, NT, GATED>, shape, stream, p);
}

template <bool FP8, int KC> static int launch_heads(const index_score_params &p, cudaStream_t stream)
{
    if (p.score == INDEX_DOT) {
        return launch_kernel<FP8, KC, 1, false>(p, stream);
    }
    return p.heads <= 8    ? launch_kernel<FP8, KC, 1, true>(p, stream)
           : p.heads <= 16 ? launch_kernel<FP8, KC, 2, true>(p, stream)
           : p.heads <= 32 ? launch_kernel<FP8, KC, 4, true>(p, stream)
                           : launch_kernel<FP8, KC, 8, true>(p, stream);
}

// Whether the launch goes to the kernels for a prompt's rows: they need whole warps of keys in a page, rows of keys
// that are panels of their operands, and a chip with warp-group multiplication.
static bool is_prefill(const index_score_params *p)
{
    const bool fp8 = p->keys.dtype == DTYPE_FP8, tokens = p->unit_tokens == 1;
    const bool panels = fp8 ? p->keys.dim == 128 && p->keys.scale_offset % 16 == 0
                            : p->keys.dim == 64 || p->keys.dim == 128;
    const bool keys = panels && p->keys.page_tokens % 16 == 0 && p->keys.page_stride % 16 == 0 &&
                      (uintptr_t)p->keys.data % 16 == 0;
    const bool scores = !tokens || (p->stride % 4 == 0 && (uintptr_t)p->scores % 16 == 0);
    const bool dot = p->score == INDEX_DOT && p->heads == p->sets && p->heads <= 8 && 8 % p->heads == 0 &&
                     (tokens || (p->unit_tokens >= 16 && 128 % p->unit_tokens == 0));
    const bool gated = p->score == INDEX_GATED_RELU && fp8 && p->heads == 64 && p->sets == 1 && tokens;
    return !p->decode && p->n >= PREFILL_ROWS && keys && scores && (dot || gated) && (uintptr_t)p->q % 16 == 0 &&
           group_mma_here();
}

extern "C" bool index_score_maxima(const index_score_params *p)
{
    return p->unit_tokens == 1 && is_prefill(p);
}

extern "C" int index_score_launch(const index_score_params *p, cudaStream_t stream)
{
    bool fp8 = p->keys.dtype == DTYPE_FP8, dot = p->score == INDEX_DOT;
    int32_t dim = p->keys.dim;
    bool covered = (fp8 || p->keys.dtype == DTYPE_BF16) && dim % (fp8 ? 16 : 8) == 0 && dim <= MAX_DIM &&
                   p->heads <= (dot ? 8 : MAX_HEADS) && p->sets == (dot ? p->heads : 1) && p->score != INDEX_PAGE_BOUND;
    if (!covered) {
        return status_fail(-ENOTSUP, "index scores: %d heads of %d in %d sets, units of %d", p->heads, dim, p->sets,
                           p->unit_tokens);
    }
    if (p->n == 0) {
        return 0;
    }
    if (is_prefill(p)) {
        return p->score == INDEX_DOT ? prefill_dot_launch(*p, stream) : prefill_gated_launch(*p, stream);
    }
    int chunks = (dim * (fp8 ? 1 : 2) + 63) / 64;
    if (fp8) {
        return chunks == 1 ? launch_heads<true, 1>(*p, stream) : launch_heads<true, 2>(*p, stream);
    }
    return chunks == 1 ? launch_heads<false, 1>(*p, stream) : chunks == 2 ? launch_heads<false, 2>(*p, stream)
                                                                           : launch_heads<false, 4>(*p, stream);
}
