// engine/cuda/page_bound.cu - Quest's scores: for every unit and query head the largest q . k that its bounds allow.
//
// score = sum over d of max(q*low, q*high) = max(q, 0) . high + min(q, 0) . low: two products. Bounds are least and
// largest elements of bf16 keys, so as bf16 they lose nothing and products of tensor cores are exact; sums run in f32.
// A warp has 16 units of one KV head as the rows of A, packed to registers once, and goes through columns of B: the
// query heads that share the KV head, of one row of a step, or of up to TILE_ROWS neighbours of one sequence (prompts),
// which so read the bounds together. A lane loads 16 bytes; they count as the elements that the fragment wants from it,
// the query's words are placed in the same order. The row's own unit scores plus infinity: its bounds may already hold
// later tokens of the same step. A NaN in a query reaches every score through min(q, 0).
//
// Bound by reading the bounds once (decode) or by writing the scores (prompts). Measured on an H100 (3.1 TB/s), 8192
// units of 16 tokens, 20 heads, 8 / 32 rows: 113 / 431 us, 78% / 82% of that rate; multiplied out without tensor cores
// and one KV head to a block, 134 / 510 us. On an H200 (4.54 TB/s) 83 / 311 us; pages looked up a turn ahead, 85 / 320.
#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"

enum {
    WARPS = 8,
    WARP_UNITS = 16,
    MAX_GROUP = 16,
    TILE_ROWS = 16,      // of a prompt that share a read of the bounds
    COLUMNS = 8,         // of a product
    STEP = 16,           // dimensions of a product
    BLOCKS_PER_SM = 2    // 128 registers: most of a lane's loads are under way at once
};

struct bound_shape {
    int32_t group;           // query heads of one KV head
    int32_t kv_heads;        // of a block: its warps take them in turn, so that what they read lies side by side
    int32_t column_tiles;    // of COLUMNS columns, for the most rows of a tile
};

// One warp's words of 8 query heads: [steps][lane] {max(q, 0), min(q, 0)} of the lane's four dimensions.
struct __align__(16) query_words
{
    uint32_t above[2], below[2];
};

template <int HD> static __host__ __device__ constexpr int steps_of()
{
    return (HD + STEP - 1) / STEP;
}

static __device__ __forceinline__ float above_zero(float q)
{
    return q > 0 ? q : 0.0f;
}

static __device__ __forceinline__ float below_zero(float q)
{
    return q > 0 ? 0.0f : q;
}

// Columns of `rows` rows from `first`: row by row, the heads that share a KV head. Columns beyond them are zeros.
template <int HD>
static __device__ void place_queries(const page_bound_params &p, const bound_shape &s, query_words *words,
                                     int first_kv_head, int first, int rows)
{
    constexpr int STEPS = steps_of<HD>();
    const int tiles = (rows * s.group + COLUMNS - 1) / COLUMNS, all = s.kv_heads * tiles * STEPS * 32;
    for (int i = threadIdx.x; i < all; i += WARPS * 32) {
        const int lane = i % 32, step = i / 32 % STEPS, tile = i / 32 / STEPS % tiles, kv = i / 32 / STEPS / tiles;
        const int column = tile * COLUMNS + lane / 4, dim = step * STEP + lane % 4 * 4;
        uint2 q = make_uint2(0, 0);
        if (column < rows * s.group && dim < HD) {
            const int row = first + column / s.group, head = (first_kv_head + kv) * s.group + column % s.group;
            q = *(const uint2 *)((const uint16_t *)p.q + ((int64_t)row * p.n_heads + head) * HD + dim);
        }
        const float v[4] = {bf16_low(q.x), bf16_high(q.x), bf16_low(q.y), bf16_high(q.y)};
        query_words w;
        w.above[0] = pack_bf16(above_zero(v[0]), above_zero(v[1]));
        w.above[1] = pack_bf16(above_zero(v[2]), above_zero(v[3]));
        w.below[0] = pack_bf16(below_zero(v[0]), below_zero(v[1]));
        w.below[1] = pack_bf16(below_zero(v[2]), below_zero(v[3]));
        words[((kv * s.column_tiles + tile) * STEPS + step) * 32 + lane] = w;
    }
}

// Two bf16 out of two f32 that hold such.
static __device__ __forceinline__ uint32_t pack_exact(uint32_t low, uint32_t high)
{
    return __byte_perm(low, high, 0x7632);
}

// 16 units as operands A: [0], [1] the lane's words of unit g, [2], [3] of unit g + 8.
template <int HD> struct unit_words {
    uint32_t low[steps_of<HD>()][4], high[steps_of<HD>()][4];
};

template <int HD>
static __device__ __forceinline__ void load_units(unit_words<HD> &a, const float *const (&at)[2], int width)
{
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < steps_of<HD>(); k++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float *from = at[i] + k * STEP + 4 * t;
            const uint4 low = load_streaming(from), high = load_streaming(from + width);
            a.low[k][2 * i] = pack_exact(low.x, low.y);
            a.low[k][2 * i + 1] = pack_exact(low.z, low.w);
            a.high[k][2 * i] = pack_exact(high.x, high.y);
            a.high[k][2 * i + 1] = pack_exact(high.z, high.w);
        }
    }
}

// The scores of 16 units from `first_unit` for the columns of `rows` rows.
template <int HD>
static __device__ __forceinline__ void score_units(const page_bound_params &p, const bound_shape &s,
                                                   const unit_words<HD> &a, const query_words *words, int kv_head,
                                                   int first_row, int rows, int first_unit)
{
    constexpr int STEPS = steps_of<HD>();
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int tile = 0; tile * COLUMNS < rows * s.group; tile++) {
        float c[4] = {};
        const query_words *q = words + tile * STEPS * 32 + lane;
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            const query_words w = q[k * 32];
            mma_bf16(c, a.high[k][0], a.high[k][2], a.high[k][1], a.high[k][3], w.above[0], w.above[1]);
            mma_bf16(c, a.low[k][0], a.low[k][2], a.low[k][1], a.low[k][3], w.below[0], w.below[1]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = tile * COLUMNS + 2 * t + i % 2, row = column / s.group,
                      unit = first_unit + g + i / 2 * 8;
            if (row < rows) {
                const int own = p.rows.position[p.first + first_row + row] / p.bounds.unit_tokens;
                float *to = p.scores +
                            ((int64_t)(first_row + row) * p.n_heads + kv_head * s.group + column % s.group) * p.stride;
                if (unit <= own) {
                    to[unit] = unit == own ? INFINITY : c[i];
                }
            }
        }
    }
}

// Rows [first_row, first_row + rows) of the launch: neighbours of one sequence. Called by the whole block.
template <int HD>
static __device__ __forceinline__ void score_rows(const page_bound_params &p, const bound_shape &s, query_words *words,
                                                  int first_row, int rows)
{
    const int kv = threadIdx.x / 32 % s.kv_heads, first_kv_head = blockIdx.z * s.kv_heads, g = threadIdx.x % 32 / 4;
    const int width = p.n_kv_heads * HD, last = p.rows.position[p.first + first_row + rows - 1] / p.bounds.unit_tokens;
    const int groups = WARPS / s.kv_heads, step = gridDim.x * groups * WARP_UNITS;
    const int32_t *pages = p.rows.pages + (int64_t)p.rows.seq[p.first + first_row] * p.rows.max_pages;
    place_queries<HD>(p, s, words, first_kv_head, p.first + first_row, rows);
    __syncthreads();
    for (int first = (blockIdx.x * groups + threadIdx.x / 32 / s.kv_heads) * WARP_UNITS; first <= last; first += step) {
        const float *at[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {    // beyond the end, the last unit once more
            const int token = min(first + g + i * 8, last) * p.bounds.unit_tokens;
            at[i] = (const float *)(p.bounds.data + pages[token / p.bounds.page_tokens] * p.bounds.page_stride) +
                    (int64_t)(token % p.bounds.page_tokens / p.bounds.unit_tokens) * 2 * width +
                    (first_kv_head + kv) * HD;
        }
        unit_words<HD> a;
        load_units<HD>(a, at, width);
        score_units<HD>(p, s, a, words + kv * s.column_tiles * steps_of<HD>() * 32, first_kv_head + kv, first_row, rows,
                        first);
    }
    __syncthreads();    // the words may be written again
}

template <int HD>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS_PER_SM)
    page_bound_kernel(const __grid_constant__ page_bound_params p, bound_shape s, int tile_rows)
{
    extern __shared__ __align__(16) uint8_t shared[];
    const int end = min((blockIdx.y + 1) * tile_rows, p.n);
    dependents_may_launch();
    wait_for_predecessor();
    for (int first = blockIdx.y * tile_rows; first < end;) {
        int rows = 1;
        while (first + rows < end && p.rows.seq[p.first + first + rows] == p.rows.seq[p.first + first]) {
            rows++;
        }
        score_rows<HD>(p, s, (query_words *)shared, first, rows);
        first += rows;
    }
}

template <int HD> static int launch_dim(const page_bound_params *p, cudaStream_t stream)
{
    bound_shape s = {p->n_heads / p->n_kv_heads, 1, 0};
    const int64_t units = (p->max_context + p->bounds.unit_tokens - 1) / p->bounds.unit_tokens;
    const int tile_rows = p->n >= 4 * TILE_ROWS ? TILE_ROWS : 1;    // few rows are those of decode: nothing is shared
    while (tile_rows == 1 && 2 * s.kv_heads <= WARPS && p->n_kv_heads % (2 * s.kv_heads) == 0) {
        s.kv_heads *= 2;
    }
    const int64_t slices = p->n_kv_heads / s.kv_heads, row_tiles = (p->n + tile_rows - 1) / tile_rows;
    const int64_t most = (units - 1) / (WARPS / s.kv_heads * WARP_UNITS) + 1;
    const int64_t wanted = (int64_t)multiprocessors() * BLOCKS_PER_SM / (slices * row_tiles);
    const int64_t blocks = wanted < 1 ? 1 : wanted < most ? wanted : most;
    s.column_tiles = (tile_rows * s.group + COLUMNS - 1) / COLUMNS;
    launch_shape shape = {};
    shape.grid = dim3((unsigned)blocks, (unsigned)row_tiles, (unsigned)slices);
    shape.threads = WARPS * 32;
    shape.smem_bytes = (size_t)(s.kv_heads * s.column_tiles * steps_of<HD>()) * 32 * sizeof(query_words);
    int error = allow_smem("page bounds", page_bound_kernel<HD>, shape.smem_bytes);
    return error ? error : launch("page bounds", page_bound_kernel<HD>, shape, stream, *p, s, tile_rows);
}

extern "C" int page_bound_launch(const page_bound_params *p, cudaStream_t stream)
{
    if (p->n_heads > MAX_GROUP * p->n_kv_heads || p->n_heads % p->n_kv_heads != 0) {
        return status_fail(-ENOTSUP, "page bounds: %d query heads over %d KV heads; groups to %d", p->n_heads,
                           p->n_kv_heads, MAX_GROUP);
    }
    if (p->n == 0) {
        return 0;
    }
    switch (p->head_dim) {
    case 16: return launch_dim<16>(p, stream);
    case 32: return launch_dim<32>(p, stream);
    case 64: return launch_dim<64>(p, stream);
    case 128: return launch_dim<128>(p, stream);
    default: return status_fail(-ENOTSUP, "page bounds: heads of %d; 16, 32, 64 or 128", p->head_dim);
    }
}
