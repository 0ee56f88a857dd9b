// engine/cuda/prefill_selected.cu - attention of many prompt rows, each over the keys that were selected for it.
//
// Whole blocks of 128 tokens go to prefill_blocks.cu. Tokens and small units are handled here: a tile of neighbouring
// rows (12 where 5 query heads share a KV head) reads the union of its selections once.
//   1. union_kernel: one block per tile and set marks the selected units in a bit mask per unit in shared memory (one
//      bit per row; a range of units at a time) and writes what is marked as a list: unit, rows that selected it.
//      Ascending.
//   2. tile_kernel: one block per tile and KV head walks that list 64 tokens at a time. Two warps gather keys and
//      values into a ring of stages with 16-byte copies; four warps compute scores = Q K^T on tensor cores (64 rows:
//      all query heads of all rows of the tile), mask them by membership, and add P V to sums in registers.
// Blocks that run together sweep the context side by side, one KV head after the other, so most reads meet the L2
// cache. What a row gets does not depend on its tile's other rows beyond the grouping of its sums, which is fixed:
// deterministic.
//
// Floor: every row reads 2 * head_dim * 2 bytes per selected token and KV head from L2, divided by what the tile
// shares: 131072 rows of 2048 tokens over 4 heads of 128 are at most 550 GB, and 30 TFLOP of products for tiles that
// share nothing.
//
// Measured on an H100, 20 query over 4 KV heads of 128, one layer's prefill of 131072 tokens in steps of 8192 rows
// (four steps, times four), 2048 tokens a row: 70 ms where neighbours share nothing beyond chance, 45 ms where they
// share half, 19 ms where they share 90%; row by row through attention.cu 139 ms. Copies that ask L2 to fetch 256
// bytes: no change.
#include "engine/cuda/prefill_selected.cuh"

enum {
    MASK_ROWS = 16,                  // rows of a tile: bits of a membership mask
    UNION_THREADS = MASK_ROWS * 32,  // a warp per row
    UNION_UNITS = 32768,             // marked at a time: 64 KB of masks, so that three blocks share a multiprocessor
    UNION_READS = 4,                 // units that a lane reads at once
    TILE_TOKENS = 64,
    STAGES = 3,                      // 96 KB at heads of 128: two blocks per multiprocessor
    COMPUTE_WARPS = 4,
    GATHER_WARPS = 2,                // stage by stage in turns: one looks addresses up while the other copies
    TILE_THREADS = (COMPUTE_WARPS + GATHER_WARPS) * 32,
    SLICE_ROWS = 8192                // of one pair of launches; bounds the workspace
};

static const float NO_SCORE = -1e30f;    // finite, so that differences of it are numbers

struct tile_arguments {
    prefill_selected_params p;
    selected_parts s;
    int32_t first_row, tiles, tile_rows;    // of this slice
    int32_t *unit;                          // [tiles][sets][list_stride]
    uint16_t *mask;                         // [tiles][sets][list_stride]
    int32_t *entries;                       // [tiles][sets]
    int64_t list_stride;
};

// Reads the list of one row from `cursor` on, marks what lies in [base, base + size), and moves the cursor behind it.
static __device__ __forceinline__ void mark_row(const int32_t *unit, int count, int &cursor, int base, int size,
                                                int bit, uint32_t *marks)
{
    const int lane = threadIdx.x % 32;
    for (bool more = true; more;) {
        int taken = 0, at[UNION_READS];
#pragma unroll
        for (int i = 0; i < UNION_READS; i++) {
            int index = cursor + i * 32 + lane;
            at[i] = index < count ? unit[index] - base : size;
        }
#pragma unroll
        for (int i = 0; i < UNION_READS; i++) {
            if (at[i] < size) {
                atomicOr(&marks[at[i] / 2], 1u << (at[i] % 2 * MASK_ROWS + bit));
            }
            taken += __popc(__ballot_sync(FULL_MASK, at[i] < size));
        }
        cursor += taken;
        more = taken == UNION_READS * 32;
    }
}

// Appends what is marked to the tile's list: each warp takes an equal run of words. Returns the list's new length.
static __device__ __forceinline__ int append_marked(const uint32_t *marks, int words, int base, int32_t *unit,
                                                    uint16_t *mask, int length, int *warp_sums)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = UNION_THREADS / 32;
    const int run = (words + warps * 32 - 1) / (warps * 32) * 32, begin = warp * run, end = min(words, begin + run);
    int found = 0;
    for (int i = begin + lane; i < end; i += 32) {
        found += (marks[i] << 16 != 0) + (marks[i] >> 16 != 0);
    }
    for (int i = 16; i; i /= 2) {
        found += __shfl_xor_sync(FULL_MASK, found, i);
    }
    if (lane == 0) {
        warp_sums[warp] = found;
    }
    __syncthreads();
    int at = length, all = length;
    for (int i = 0; i < warps; i++) {
        at += i < warp ? warp_sums[i] : 0;
        all += warp_sums[i];
    }
    for (int i = begin; i < end; i += 32) {
        uint32_t both = i + lane < end ? marks[i + lane] : 0, low = both & 0xffff, high = both >> 16;
        unsigned lows = __ballot_sync(FULL_MASK, low), highs = __ballot_sync(FULL_MASK, high);
        unsigned before = (1u << lane) - 1;
        int to = at + __popc(lows & before) + __popc(highs & before);
        if (low) {
            unit[to] = base + 2 * (i + lane);
            mask[to++] = (uint16_t)low;
        }
        if (high) {
            unit[to] = base + 2 * (i + lane) + 1;
            mask[to] = (uint16_t)high;
        }
        at += __popc(lows) + __popc(highs);
    }
    __syncthreads();
    return all;
}

// Rows of different sequences in one tile each get their own part of the list: an entry's sequence is that of any of
// its rows.
__global__ void __launch_bounds__(UNION_THREADS) union_kernel(const __grid_constant__ tile_arguments a)
{
    extern __shared__ uint32_t marks[];    // [UNION_UNITS / 2]
    __shared__ int row_seq[MASK_ROWS], row_end[MASK_ROWS], warp_sums[UNION_THREADS / 32];
    dependents_may_launch();
    wait_for_predecessor();
    const int warp = threadIdx.x / 32, set = blockIdx.y, first = a.first_row + blockIdx.x * a.tile_rows;
    const int rows = min(a.tile_rows, a.p.rows.n - first);
    const int64_t row_list = (int64_t)(first + min(warp, rows - 1)) * a.p.selection.sets + set;
    const int64_t list = (int64_t)blockIdx.x * a.p.selection.sets + set;
    const int32_t *row_units = a.p.selection.unit + row_list * a.p.selection.stride;
    const int count = warp < rows ? a.p.selection.count[row_list] : 0;
    if (threadIdx.x % 32 == 0) {
        row_seq[warp] = a.p.rows.seq[first + min(warp, rows - 1)];
        row_end[warp] = count > 0 ? row_units[count - 1] + 1 : 0;
    }
    __syncthreads();
    int length = 0, cursor = 0;
    for (int begin = 0, end; begin < rows; begin = end) {
        int units = 0;
        for (end = begin; end < rows && row_seq[end] == row_seq[begin]; end++) {
            units = max(units, row_end[end]);
        }
        for (int base = 0; base < units; base += UNION_UNITS) {
            int size = min(UNION_UNITS, units - base), words = (size + 1) / 2;
            for (int i = threadIdx.x; i < words; i += UNION_THREADS) {
                marks[i] = 0;
            }
            __syncthreads();
            if (warp >= begin && warp < end) {
                mark_row(row_units, count, cursor, base, size, warp, marks);
            }
            __syncthreads();
            length = append_marked(marks, words, base, a.unit + list * a.list_stride, a.mask + list * a.list_stride,
                                   length, warp_sums);
        }
    }
    if (threadIdx.x == 0) {
        a.entries[list] = length;
    }
}

// One row of the tile per lane: what a gathering warp needs of it.
struct tile_rows_state {
    int seq, position, first_position;    // first_position: the least of the tile
};

// Rows of `mask` that may see `token`, and the token moved back to where one of them can, for whom it is masked then:
// what lies behind their positions may never have been written.
static __device__ __forceinline__ uint32_t cut_rows(const tile_rows_state &r, int rows, uint32_t mask, int &token)
{
    uint32_t seen = 0;
    int latest = 0;
    for (int i = 0; i < rows; i++) {
        int position = __shfl_sync(FULL_MASK, r.position, i);
        bool member = mask >> i & 1;
        seen |= (uint32_t)(member && token <= position) << i;
        latest = member ? max(latest, position) : latest;
    }
    token = min(token, latest);
    return seen;
}

// Gathers tokens of the union into stages. Each lane looks up two tokens of a stage, then the lanes copy together.
template <int HD>
static __device__ void gather_tokens(const tile_arguments &a, int first, int rows, int part, int64_t list, int tokens,
                                     uint32_t stages, uint16_t *masks, uint32_t full, uint32_t empty)
{
    const int warp = threadIdx.x / 32 - COMPUTE_WARPS, lane = threadIdx.x % 32, units = a.p.selection.unit_tokens;
    const int head = (int)((int64_t)part * a.p.n_kv_heads / a.s.parts);
    const int tiles = (tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    constexpr int CHUNKS = HD / 8, AT_ONCE = 32 / CHUNKS;    // of 16 bytes per token; tokens of one copy of the warp
    const int32_t *unit = a.unit + list * a.list_stride;
    const uint16_t *mask = a.mask + list * a.list_stride;
    tile_rows_state r;
    r.seq = a.p.rows.seq[first + min(lane, rows - 1)];
    r.position = a.p.rows.position[first + min(lane, rows - 1)];
    r.first_position = __reduce_min_sync(FULL_MASK, r.position);
    for (int tile = warp; tile < tiles; tile += GATHER_WARPS) {
        const int stage = tile % STAGES;
        uint32_t key[TILE_TOKENS / 32], member[TILE_TOKENS / 32];
#pragma unroll
        for (int i = 0; i < TILE_TOKENS / 32; i++) {
            int index = tile * TILE_TOKENS + i * 32 + lane, inside = min(index, tokens - 1);
            int entry = units == 1 ? inside : inside / units;
            int token = units == 1 ? unit[entry] : unit[entry] * units + inside % units;
            uint32_t rows_of = mask[entry];
            int seq = __shfl_sync(FULL_MASK, r.seq, __ffs(rows_of) - 1);
            if (units > 1 && __any_sync(FULL_MASK, token > r.first_position)) {
                rows_of = cut_rows(r, rows, rows_of, token);
            }
            key[i] = key_number<HD>(a.p, seq, token, head);
            member[i] = index < tokens ? rows_of : 0;
        }
        barrier_wait(empty + stage * 8, 1 ^ (tile / STAGES & 1));
        const uint32_t keys = stages + stage * TILE_TOKENS * HD * 4, values = keys + TILE_TOKENS * HD * 2;
#pragma unroll
        for (int i = 0; i < TILE_TOKENS / 32; i++) {
            masks[stage * TILE_TOKENS + i * 32 + lane] = (uint16_t)member[i];
#pragma unroll
            for (int j = 0; j < 32; j += AT_ONCE) {
                int token = j + lane / CHUNKS;
                int64_t at = (int64_t)__shfl_sync(FULL_MASK, key[i], token) * (HD * 2) + lane % CHUNKS * 16;
                const uint8_t *from = a.p.view.data + at;
                uint32_t to = swizzled(i * 32 + token, lane % CHUNKS, TILE_TOKENS);
                copy_16(keys + to, from);
                copy_16(values + to, from + a.p.view.value_offset);
            }
        }
        barrier_arrive(full + stage * 8);
        barrier_arrive_after_copies(full + stage * 8);
    }
}

// Softmax state of one thread: rows warp*16 + g and 8 more, columns of the accumulator layout.
template <int HD> struct row_state {
    float out[HD / 8][4];
    float m[2], l[2];        // running maximum (in powers of 2) and this thread's share of the sum
};

// The queries of the tile as A of the products; zero where the 64 rows are not all in use.
template <int HD>
static __device__ __forceinline__ void load_queries(const tile_arguments &a, int first, int rows, int part,
                                                    uint32_t (&q)[HD / 16][4])
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int at = warp * 16 + i * 8 + g, row = at / a.s.group;
        const uint32_t *from = (const uint32_t *)a.p.q +
            ((int64_t)(first + min(row, rows - 1)) * a.p.n_heads + part * a.s.group + at % a.s.group) * (HD / 2);
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            q[k][i] = row < rows ? from[k * 8 + t] : 0;
            q[k][2 + i] = row < rows ? from[k * 8 + t + 4] : 0;
        }
    }
}

// Masks and exponentiates 64 columns of scores, moves the state to the new maxima, and packs the probabilities as A
// of the next product. `bit`: of this thread's two rows in a mask.
template <int HD>
static __device__ __forceinline__ void softmax_tile(row_state<HD> &s, float (&c)[TILE_TOKENS / 8][4],
                                                    const uint32_t *masks, const uint32_t (&bit)[2], float scale,
                                                    uint32_t (&p)[TILE_TOKENS / 16][4])
{
    const int t = threadIdx.x % 4;
    float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < TILE_TOKENS / 8; n++) {
        uint32_t pair = masks[n * 4 + t];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            c[n][2 * i] = pair & bit[i] ? c[n][2 * i] : -INFINITY;
            c[n][2 * i + 1] = pair & bit[i] << 16 ? c[n][2 * i + 1] : -INFINITY;
            most[i] = fmaxf(most[i], fmaxf(c[n][2 * i], c[n][2 * i + 1]));
        }
    }
    float shrink[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        most[i] = fmaxf(most[i], __shfl_xor_sync(FULL_MASK, most[i], 1));
        most[i] = fmaxf(most[i], __shfl_xor_sync(FULL_MASK, most[i], 2));
        float m = fmaxf(s.m[i], most[i] * scale);
        shrink[i] = power_of_2(s.m[i] - m);
        s.m[i] = m;
        s.l[i] *= shrink[i];
    }
    if (__any_sync(FULL_MASK, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
        for (int d = 0; d < HD / 8; d++) {
            s.out[d][0] *= shrink[0];
            s.out[d][1] *= shrink[0];
            s.out[d][2] *= shrink[1];
            s.out[d][3] *= shrink[1];
        }
    }
#pragma unroll
    for (int n = 0; n < TILE_TOKENS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            c[n][i] = power_of_2(c[n][i] * scale - s.m[i / 2]);
            s.l[i / 2] += c[n][i];
        }
        p[n / 2][n % 2 * 2] = pack_bf16(c[n][0], c[n][1]);
        p[n / 2][n % 2 * 2 + 1] = pack_bf16(c[n][2], c[n][3]);
    }
}

template <int HD>
static __device__ __forceinline__ void store_rows(const tile_arguments &a, row_state<HD> &s, int first, int rows,
                                                  int part)
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float l = s.l[i];
        l += __shfl_xor_sync(FULL_MASK, l, 1);
        l += __shfl_xor_sync(FULL_MASK, l, 2);
        int at = warp * 16 + i * 8 + g, row = at / a.s.group;
        if (row >= rows) {
            continue;
        }
        int64_t head = (int64_t)(first + row) * a.p.n_heads + part * a.s.group + at % a.s.group;
        uint32_t *to = (uint32_t *)a.p.out + head * (HD / 2) + t;
        float scale = l > 0 ? 1 / l : 0;
#pragma unroll
        for (int d = 0; d < HD / 8; d++) {
            to[d * 4] = pack_bf16(s.out[d][2 * i] * scale, s.out[d][2 * i + 1] * scale);
        }
        if (t == 0 && a.p.lse) {
            a.p.lse[head] = l > 0 ? (s.m[i] + log2f(l)) * 0.69314718f : -INFINITY;
        }
    }
}

template <int HD>
static __device__ void attend_union(const tile_arguments &a, int first, int rows, int part, int tokens, uint32_t stages,
                                    const uint16_t *masks, uint32_t full, uint32_t empty)
{
    const float scale = 1.44269504f * rsqrtf((float)HD);    // exponentials are powers of 2
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    uint32_t bit[2], q[HD / 16][4];
    for (int i = 0; i < 2; i++) {
        int row = (warp * 16 + i * 8 + g) / a.s.group;
        bit[i] = row < rows ? 1u << row : 0;
    }
    load_queries<HD>(a, first, rows, part, q);
    row_state<HD> s = {};
    s.m[0] = s.m[1] = NO_SCORE;
    int stage = 0;
    uint32_t parity = 0;
    for (int tile = 0; tile * TILE_TOKENS < tokens; tile++) {
        const uint32_t keys = stages + stage * TILE_TOKENS * HD * 4, values = keys + TILE_TOKENS * HD * 2;
        float c[TILE_TOKENS / 8][4];
        uint32_t p[TILE_TOKENS / 16][4];
        barrier_wait(full + stage * 8, parity);
        fence_for_group_mma();
        group_mma_begin();
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            uint32_t at = keys + k / 4 * TILE_TOKENS * 128 + k % 4 * 32;
            group_mma_bf16(c, q[k], tile_descriptor(at, TILE_TOKENS), k > 0);
        }
        group_mma_end();
        softmax_tile<HD>(s, c, (const uint32_t *)(masks + stage * TILE_TOKENS), bit, scale, p);
        group_mma_begin();
#pragma unroll
        for (int k = 0; k < TILE_TOKENS / 16; k++) {
            group_mma_bf16_by_rows(s.out, p[k], tile_descriptor(values + k * 16 * 128, TILE_TOKENS));
        }
        group_mma_end();
        barrier_arrive(empty + stage * 8);
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
    store_rows<HD>(a, s, first, rows, part);
}

template <int HD>
__global__ void __launch_bounds__(TILE_THREADS, 2) tile_kernel(const __grid_constant__ tile_arguments a)
{
    extern __shared__ __align__(1024) uint8_t shared[];    // the swizzle goes by address
    __shared__ __align__(8) uint64_t barriers[2 * STAGES];
    __shared__ __align__(8) uint16_t masks[STAGES * TILE_TOKENS];
    const uint32_t full = smem_address(barriers), empty = full + STAGES * 8;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i * 8, 64);    // each lane of the gathering warp: its masks, its copies
            barrier_init(empty + i * 8, COMPUTE_WARPS * 32);    // every lane that read masks
        }
#if __CUDA_ARCH__ >= 900
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
    }
    __syncthreads();
    dependents_may_launch();
    wait_for_predecessor();
    const int tile = blockIdx.x % a.tiles, part = blockIdx.x / a.tiles, first = a.first_row + tile * a.tile_rows;
    const int rows = min(a.tile_rows, a.p.rows.n - first);
    const int64_t list = (int64_t)tile * a.p.selection.sets + (int64_t)part * a.p.selection.sets / a.s.parts;
    const int tokens = a.entries[list] * a.p.selection.unit_tokens;
    if (threadIdx.x / 32 >= COMPUTE_WARPS) {
        gather_tokens<HD>(a, first, rows, part, list, tokens, smem_address(shared), masks, full, empty);
    } else {
        attend_union<HD>(a, first, rows, part, tokens, smem_address(shared), masks, full, empty);
    }
}

// Rows of a tile: what fills the 64 rows of a product, as far as a mask has bits.
static int32_t tile_rows_of(const prefill_selected_params *p)
{
    int32_t rows = selected_parts_of(p).tile_rows;
    return rows < MASK_ROWS ? rows : MASK_ROWS;
}

// Tiles of the longest slice, and the workspace cut for them. Returns its bytes.
static int64_t cut_workspace(const prefill_selected_params *p, tile_arguments *a)
{
    a->tile_rows = tile_rows_of(p);
    int32_t most = SLICE_ROWS / a->tile_rows, tiles = (p->rows.n + a->tile_rows - 1) / a->tile_rows;
    a->tiles = tiles < most ? tiles : most;
    a->list_stride = (int64_t)a->tile_rows * p->selection.stride;
    int64_t lists = (int64_t)a->tiles * p->selection.sets, units = round_up(lists * a->list_stride * 4);
    int64_t masks = round_up(lists * a->list_stride * 2);
    a->unit = (int32_t *)p->workspace;
    a->mask = (uint16_t *)((char *)p->workspace + units);
    a->entries = (int32_t *)((char *)p->workspace + units + masks);
    return units + masks + round_up(lists * 4);
}

template <int HD> static int launch_slice(const tile_arguments &a, cudaStream_t stream)
{
    launch_shape mark = {}, attend = {};
    mark.grid = dim3((unsigned)a.tiles, (unsigned)a.p.selection.sets);
    mark.threads = UNION_THREADS;
    mark.smem_bytes = UNION_UNITS * 2;
    attend.grid = dim3((unsigned)(a.tiles * a.s.parts));
    attend.threads = TILE_THREADS;
    attend.smem_bytes = STAGES * TILE_TOKENS * HD * 4;
    int error = allow_smem("prefill selected", union_kernel, mark.smem_bytes);
    error = error ? error : allow_smem("prefill selected", tile_kernel<HD>, attend.smem_bytes);
    error = error ? error : launch("prefill selected union", union_kernel, mark, stream, a);
    return error ? error : launch("prefill selected", tile_kernel<HD>, attend, stream, a);
}

static int launch_tiles(const prefill_selected_params *p, cudaStream_t stream)
{
    tile_arguments a = {};
    a.p = *p;
    a.s = selected_parts_of(p);
    cut_workspace(p, &a);
    const int32_t most = a.tiles;
    for (int32_t row = 0; row < p->rows.n; row += most * a.tile_rows) {
        int32_t tiles = (p->rows.n - row + a.tile_rows - 1) / a.tile_rows;
        a.first_row = row;
        a.tiles = tiles < most ? tiles : most;
        int error = p->head_dim == 128 ? launch_slice<128>(a, stream) : launch_slice<64>(a, stream);
        if (error) {
            return error;
        }
    }
    return 0;
}

// Products of a warpgroup are Hopper's.
static bool is_hopper()
{
    static int major = 0;
    int device = 0;
    if (!major && (cudaGetDevice(&device) != cudaSuccess ||
                   cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess)) {
        return false;
    }
    return major == 9;
}

static bool covered(const prefill_selected_params *p)
{
    selected_parts s = selected_parts_of(p);
    const struct kv_view *v = &p->view;
    const int64_t key_bytes = p->head_dim * 2;
    const bool whole_keys =
        v->page_stride % key_bytes == 0 && v->token_stride % key_bytes == 0 && v->head_stride % key_bytes == 0;
    return is_hopper() && v->dtype == DTYPE_BF16 && whole_keys && (p->head_dim == 64 || p->head_dim == 128) &&
        s.group >= 1 &&
           s.group <= 16 && s.group * s.parts == p->n_heads;
}

static bool whole_blocks(const prefill_selected_params *p)
{
    return p->selection.unit_tokens % 128 == 0;
}

extern "C" int64_t prefill_selected_workspace_bytes(const prefill_selected_params *p)
{
    tile_arguments a;
    if (!covered(p)) {
        return attention_workspace_bytes(p->rows.n, p->n_heads, p->n_kv_heads, p->head_dim, p->selection.sets);
    }
    return whole_blocks(p) ? prefill_blocks_workspace_bytes(p) : cut_workspace(p, &a);
}

extern "C" int prefill_selected_launch(const prefill_selected_params *p, cudaStream_t stream)
{
    if (p->rows.n == 0) {
        return 0;
    }
    if (covered(p)) {
        return whole_blocks(p) ? prefill_blocks_launch(p, stream) : launch_tiles(p, stream);
    }
    attention_params rows = {};
    rows.rows = p->rows;
    rows.q = p->q;
    rows.view = p->view;
    rows.over = ATTEND_SELECTED;
    rows.selection = p->selection;
    rows.n_heads = p->n_heads;
    rows.n_kv_heads = p->n_kv_heads;
    rows.head_dim = p->head_dim;
    rows.out = p->out;
    rows.lse = p->lse;
    rows.workspace = p->workspace;
    return attention_launch(&rows, stream);
}
