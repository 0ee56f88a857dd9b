// engine/cuda/top_k.cu - exact, deterministic selection of the k best of up to millions of scores, ascending.
//
// One cluster of blocks per row; every warp owns a contiguous part of the row. Scores become integers of the same order
// (keys), read once and kept in registers, or in shared memory where many long rows leave few blocks for each; a row
// too long for that is read again in each step. A lower bound of the k-th best comes from group maxima: if at least k
// groups were seen, the least of their maxima has at least k scores above it. The interval between bound and maximum is
// cut into 256 bins, counted, and narrowed to the bin where the k-th best lies, until that bin holds few scores (ranked
// directly) or a single value. That ends after at most four rounds for any input whatever: no buffer can overflow, all
// scores may be equal. Blocks send each other bounds, counts and last candidates (cluster.cuh), so each knows how many
// winners and ties stand before its share: winners are written in place, ascending, and the lowest indices win ties.
// Bound by latency: one read of the scores and three exchanges. Rows of prompts: top_k_rows.cu.
//
// Measured on an H100: 2048 of 131072, 1 / 8 / 32 rows 12.0 / 15.3 / 37.0 us (torch.topk 52 / 65 / 100); 16 of 1024
// blocks for each of 4 sets, 1 / 8 rows 4.9 / 4.9 us. Clusters of 8 run 30 at once; since 32 rows are cut among 7
// blocks each instead of taking two waves, on an H200 11.4 / 14.7 / 28.2 us (35.3 in two waves).
// 128 scores ranked each against each at most, not 1024: 128 of 576 units for each of 20 sets, one always kept,
// 1 / 8 / 32 rows 7.0 / 8.5 / 14.4 us instead of 8.8 / 11.8 / 19.8.
#include "engine/cuda/cluster.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/top_k_keys.cuh"
#include "engine/cuda/top_k_rows.cuh"

enum {
    FEW = 128,                     // scores of a bin that are ranked directly, each against each
    RUN = 4,                       // neighbouring scores of a lane: one load
    CACHE_BYTES = 64 << 10,        // of keys in shared memory: two blocks fit a multiprocessor
    WIDE_CACHE_BYTES = 84 << 10,   // the most of which that is true, in clusters of up to 7
    MOST_SMEM = 2 * WIDEST_CLUSTER * BINS * 4 + WIDE_CACHE_BYTES
};

// Shared memory of a block. What peers write has two buffers or is written once.
struct top_k_shared {
    __align__(16) uint32_t bins[BINS];    // this block's counts
    uint32_t total[BINS];          // of all blocks
    uint32_t few_count;
    uint32_t few[FEW];             // this block's scores in the last bin
    __align__(16) uint32_t all_few[FEW];    // everybody's, by block
    uint4 bound[WIDEST_CLUSTER];   // least group maximum, maximum, groups: of each block
    uint32_t warp_low[32], warp_high[32], warp_groups[32];
    uint2 scan[32];
    uint32_t answer[3];
    uint32_t above[WIDEST_CLUSTER], equal[WIDEST_CLUSTER];    // scores of each block above the last bin, and in it
};

// One warp's part of the row: units [first, end), in pieces of KEYS per lane. Lane l holds in place i of a piece the
// unit number i / RUN * 32 * RUN + l * RUN + i % RUN of it.
struct warp_part {
    const float *scores;           // of the row
    int first, end;
    int sink, local;               // units below sink and from local on are always selected
    bool whole_runs;               // scores may be loaded RUN at a time
    uint32_t *cache;               // shared memory for all its keys; NULL: there is too little
};

template <int KEYS> static __device__ __forceinline__ int unit_of(int piece, int i)
{
    return piece + i / RUN * 32 * RUN + threadIdx.x % 32 * RUN + i % RUN;
}

// Loads the piece that begins at unit `piece`. Places beyond the end hold key 0, which no score has: a NaN is one of
// the highest. Returns whether a score was NaN.
template <int KEYS>
static __device__ __forceinline__ bool load_piece(const warp_part &w, int piece, uint32_t (&key)[KEYS])
{
    const bool full = w.whole_runs && piece + 32 * KEYS <= w.end;
    uint32_t high = 0;
    if (full) {
#pragma unroll
        for (int i = 0; i < KEYS; i += RUN) {
            uint4 v = __ldg((const uint4 *)(w.scores + unit_of<KEYS>(piece, i)));
            key[i] = v.x;
            key[i + 1] = v.y;
            key[i + 2] = v.z;
            key[i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < KEYS; i++) {
            int unit = unit_of<KEYS>(piece, i);
            key[i] = unit < w.end ? __float_as_uint(__ldg(w.scores + unit)) : 0;
        }
    }
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        key[i] = key_of(__uint_as_float(key[i]));
        high = max(high, key[i]);
    }
    if (!full || w.first < w.sink || w.end > w.local) {
#pragma unroll
        for (int i = 0; i < KEYS; i++) {
            int unit = unit_of<KEYS>(piece, i);
            key[i] = unit < w.sink || unit >= w.local ? 0xffffffffu : key[i];
            key[i] = unit < w.end ? key[i] : 0;
        }
    }
    return high > key_of(INFINITY);
}

// The first exchange: bounds of the row's k-th best and its best. groups of `group` lanes give a maximum each.
static __device__ __forceinline__ void find_bounds(const warp_part &w, top_k_shared &sh, int group, int rank,
                                                   int blocks, uint32_t best)
{
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    uint32_t high = best, group_high = best;
    for (int shift = 1; shift < group; shift *= 2) {
        group_high = max(group_high, __shfl_xor_sync(FULL_MASK, group_high, shift));
    }
    bool any = lane % group == 0 && w.first + lane * RUN < w.end;    // lane 0 of a group that meets any score meets one
    uint32_t low = __reduce_min_sync(FULL_MASK, any ? group_high : 0xffffffffu);
    high = __reduce_max_sync(FULL_MASK, high);
    unsigned groups = __ballot_sync(FULL_MASK, any);
    if (lane == 0) {
        sh.warp_low[threadIdx.x / 32] = low;
        sh.warp_high[threadIdx.x / 32] = high;
        sh.warp_groups[threadIdx.x / 32] = __popc(groups);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        low = __reduce_min_sync(FULL_MASK, lane < warps ? sh.warp_low[lane] : 0xffffffffu);
        high = __reduce_max_sync(FULL_MASK, lane < warps ? sh.warp_high[lane] : 0);
        uint32_t all_groups = __reduce_add_sync(FULL_MASK, lane < warps ? sh.warp_groups[lane] : 0);
        if (lane < blocks) {
            push(peer_address(smem_address(&sh.bound[rank]), lane), make_uint4(low, high, all_groups, 0));
        }
    }
}

// Of the whole row. Fewer groups than k bound nothing.
static __device__ __forceinline__ void join_bounds(const top_k_shared &sh, int blocks, uint32_t k, uint32_t &low,
                                                   uint32_t &high)
{
    const int lane = threadIdx.x % 32;
    uint4 bound = make_uint4(0xffffffffu, 0, 0, 0);
    if (lane < blocks) {
        bound = sh.bound[lane];
    }
    low = __reduce_min_sync(FULL_MASK, bound.x);
    high = __reduce_max_sync(FULL_MASK, bound.y);
    low = __reduce_add_sync(FULL_MASK, bound.z) < k ? 0 : low;
    low = max(low, 1u);    // 0 is no score
}

// Counts keys in [low, high] by bins of 2^shift; keys above high were counted in earlier rounds. Lanes that meet in one
// bin (plateaus, equal scores) are added at once: the chip does that where the addend is 1.
template <int KEYS>
static __device__ __forceinline__ void count_bins(const uint32_t (&key)[KEYS], uint32_t *bins, uint32_t low,
                                                  uint32_t high, int shift)
{
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        if (key[i] - low <= high - low) {
            atomicAdd(&bins[(key[i] - low) >> shift], 1u);
        }
    }
}

// Sends this block's counts to all; four bins a time.
static __device__ __forceinline__ void send_bins(const top_k_shared &sh, uint4 *inbox, int rank, int blocks)
{
    enum { PIECES = BINS / 4 };
    for (int i = threadIdx.x; i < PIECES * blocks; i += blockDim.x) {
        uint4 counts = ((const uint4 *)sh.bins)[i % PIECES];
        push(peer_address(smem_address(inbox + rank * PIECES + i % PIECES), i / PIECES), counts);
    }
}

// Sums the blocks' counts, finds the bin where the k-th best lies, and adds what each block has above it to sh.above.
// answer: bin, scores above it, scores in it.
static __device__ __forceinline__ void join_bins(top_k_shared &sh, const uint32_t *inbox, int blocks, uint32_t k)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (threadIdx.x < BINS) {
        uint32_t sum = 0;
        for (int i = 0; i < blocks; i++) {
            sum += inbox[i * BINS + threadIdx.x];
        }
        sh.total[threadIdx.x] = sum;
        sh.bins[threadIdx.x] = 0;    // for the next round; what was counted has been sent
    }
    __syncthreads();
    if (warp == 0) {
        find_bin(sh.total, k, sh.answer);
    }
    __syncthreads();
    for (int block = warp; block < blocks; block += blockDim.x / 32) {
        const int bin = (int)sh.answer[0];
        uint32_t above = 0;
        for (int i = lane; i < BINS; i += 32) {
            above += i > bin ? inbox[block * BINS + i] : 0;
        }
        above = __reduce_add_sync(FULL_MASK, above);
        if (lane == 0) {
            sh.above[block] += above;
            sh.equal[block] = inbox[block * BINS + bin];
        }
    }
}

// This warp's keys of the last bin, in any order: ranking does not depend on it.
template <int KEYS>
static __device__ __forceinline__ void collect_few(const uint32_t (&key)[KEYS], top_k_shared &sh, uint32_t low,
                                                   uint32_t high)
{
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        if (key[i] - low <= high - low) {
            sh.few[atomicAdd(&sh.few_count, 1)] = key[i];
        }
    }
}

static __device__ __forceinline__ uint32_t equal_before(const top_k_shared &sh, int block)
{
    uint32_t before = 0;
    for (int i = 0; i < block; i++) {
        before += sh.equal[i];
    }
    return before;
}

// Everybody knows how many of the last bin each block holds, so each knows where its own go.
static __device__ __forceinline__ void send_few(top_k_shared &sh, int rank, int blocks)
{
    const uint32_t mine = sh.equal[rank], before = equal_before(sh, rank);
    for (uint32_t i = threadIdx.x; i < mine * (uint32_t)blocks; i += blockDim.x) {
        push(peer_address(smem_address(&sh.all_few[before + i % mine]), (int)(i / mine)), sh.few[i % mine]);
    }
}

// The k-th best of n in all_few, by counting for each how many are above it. answer[0]: the value, [1]: scores above
// it. Corrects above and equal of the blocks.
static __device__ __forceinline__ void rank_few(top_k_shared &sh, int blocks, uint32_t k, uint32_t n)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (uint32_t at = threadIdx.x; at < n; at += blockDim.x) {
        uint32_t mine = sh.all_few[at], above = 0, equal = 0;
        for (uint32_t i = 0; i < n; i += 4) {
            uint4 other = *(const uint4 *)&sh.all_few[i];    // 0 beyond n
            above += (other.x > mine) + (other.y > mine) + (other.z > mine) + (other.w > mine);
            equal += (other.x == mine) + (other.y == mine) + (other.z == mine) + (other.w == mine);
        }
        if (above < k && k <= above + equal) {
            sh.answer[0] = mine;
            sh.answer[1] = above;
        }
    }
    __syncthreads();
    for (int block = warp; block < blocks; block += warps) {
        uint32_t before = equal_before(sh, block), value = sh.answer[0], above = 0, equal = 0;
        for (uint32_t i = lane; i < sh.equal[block]; i += 32) {
            above += sh.all_few[before + i] > value;
            equal += sh.all_few[before + i] == value;
        }
        above = __reduce_add_sync(FULL_MASK, above);
        equal = __reduce_add_sync(FULL_MASK, equal);
        if (lane == 0) {
            sh.scan[block] = make_uint2(above, equal);
        }
    }
    __syncthreads();
    if ((int)threadIdx.x < blocks) {
        sh.above[threadIdx.x] += sh.scan[threadIdx.x].x;
        sh.equal[threadIdx.x] = sh.scan[threadIdx.x].y;
    }
    __syncthreads();
}

// Sums of two values (equal in all lanes of a warp) over the warps before this one.
static __device__ __forceinline__ uint2 warps_before(top_k_shared &sh, uint2 value)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) {
        sh.scan[warp] = value;
    }
    __syncthreads();
    uint2 other = lane < warp ? sh.scan[lane] : make_uint2(0, 0);
    return make_uint2(__reduce_add_sync(FULL_MASK, other.x), __reduce_add_sync(FULL_MASK, other.y));
}

// A piece's winners in place: above_at and equal_at are the counts before it and become those after it. Counts of four
// runs fit one word, for a run of a warp has 128 places at most and no scan of it goes beyond.
template <int KEYS>
static __device__ __forceinline__ void write_piece(const uint32_t (&key)[KEYS], int piece, uint32_t value,
                                                   uint32_t ties, uint32_t &above_at, uint32_t &equal_at, int32_t *out)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int base = 0; base < KEYS; base += RUN) {
        uint32_t above = 0, equal = 0;
#pragma unroll
        for (int i = base; i < base + RUN; i++) {
            above += key[i] > value;
            equal += key[i] == value;
        }
        if (__any_sync(FULL_MASK, above + equal)) {
            uint32_t both = above << 16 | equal, through = both;
            for (int i = 1; i < 32; i *= 2) {
                uint32_t other = __shfl_up_sync(FULL_MASK, through, i);
                through += lane >= i ? other : 0;
            }
            uint32_t before = through - both, a = above_at + (before >> 16), e = equal_at + (before & 0xffff);
#pragma unroll
            for (int i = base; i < base + RUN; i++) {
                bool wins = key[i] > value, ties_with = key[i] == value;
                if (wins || (ties_with && e < ties)) {
                    out[a + min(e, ties)] = unit_of<KEYS>(piece, i);
                }
                a += wins;
                e += ties_with;
            }
            uint32_t all = __shfl_sync(FULL_MASK, through, 31);
            above_at += all >> 16;
            equal_at += all & 0xffff;
        }
    }
}

// Does something with all keys of the warp, which load_all has met: from registers where one piece is all, else piece
// by piece from shared memory, where each lane finds what it left itself, or once more from the scores.
template <int KEYS, typename Work>
static __device__ __forceinline__ void each_piece(const warp_part &w, uint32_t (&key)[KEYS], Work work)
{
    const bool one = w.end - w.first <= 32 * KEYS;
#pragma unroll 1
    for (int piece = w.first; piece == w.first || piece < w.end; piece += 32 * KEYS) {
        if (!one && w.cache) {
#pragma unroll
            for (int i = 0; i < KEYS; i += RUN) {
                uint4 v = *(const uint4 *)(w.cache + unit_of<KEYS>(piece, i) - w.first);
                key[i] = v.x;
                key[i + 1] = v.y;
                key[i + 2] = v.z;
                key[i + 3] = v.w;
            }
        } else if (!one) {
            load_piece<KEYS>(w, piece, key);
        }
        work(piece);
    }
}

// Reads all scores. best: the largest key of this lane. Returns whether a score was NaN.
template <int KEYS>
static __device__ __forceinline__ bool load_all(const warp_part &w, uint32_t (&key)[KEYS], uint32_t &best)
{
    bool nan = false;
    best = 0;
#pragma unroll 2
    for (int piece = w.first; piece == w.first || piece < w.end; piece += 32 * KEYS) {
        nan |= load_piece<KEYS>(w, piece, key);
#pragma unroll
        for (int i = 0; i < KEYS; i++) {
            best = max(best, key[i]);
        }
        if (w.cache) {
#pragma unroll
            for (int i = 0; i < KEYS; i += RUN) {
                *(uint4 *)(w.cache + unit_of<KEYS>(piece, i) - w.first) =
                    make_uint4(key[i], key[i + 1], key[i + 2], key[i + 3]);
            }
        }
    }
    return nan;
}

static __device__ __forceinline__ void exchange(int blocks)
{
    if (blocks > 1) {
        __syncwarp();
        cluster_arrive();
        cluster_wait();
    } else {
        __syncthreads();
    }
}

// The value of the k-th best, and how many equal to it are taken. Leaves sh.above and sh.equal for the writing.
template <int KEYS>
static __device__ __forceinline__ void find_value(const warp_part &w, uint32_t (&key)[KEYS], top_k_shared &sh,
                                                  uint32_t *inbox, int rank, int blocks, uint32_t low, uint32_t high,
                                                  uint32_t k, uint32_t &value, uint32_t &ties)
{
    for (int round = 0;; round++) {
        uint32_t span = high - low, *received = inbox + (round & 1) * blocks * BINS;
        int shift = span < BINS ? 0 : 32 - __clz(span) - 8;
        each_piece<KEYS>(w, key, [&](int) { count_bins<KEYS>(key, sh.bins, low, high, shift); });
        __syncthreads();
        send_bins(sh, (uint4 *)received, rank, blocks);
        exchange(blocks);
        join_bins(sh, received, blocks, k);
        uint32_t bin = sh.answer[0], inside = sh.answer[2];
        k -= sh.answer[1];
        low += bin << shift;
        if (shift == 0) {
            value = low;
            ties = k;
            __syncthreads();
            return;
        }
        high = low + min(high - low, (1u << shift) - 1);    // not min(high, low + ...): that sum may pass 2^32
        if (inside <= FEW) {
            each_piece<KEYS>(w, key, [&](int) { collect_few<KEYS>(key, sh, low, high); });
            __syncthreads();
            send_few(sh, rank, blocks);
            exchange(blocks);
            rank_few(sh, blocks, k, inside);
            value = sh.answer[0];
            ties = k - sh.answer[1];
            return;
        }
        __syncthreads();    // sh.answer and the sums are read before the next round writes them
    }
}

template <int KEYS>
static __device__ __forceinline__ void write_units(const warp_part &w, uint32_t (&key)[KEYS], top_k_shared &sh,
                                                   uint32_t value, uint32_t ties, int rank, int32_t *out)
{
    uint32_t above = 0, equal = 0;
    each_piece<KEYS>(w, key, [&](int) {
#pragma unroll
        for (int i = 0; i < KEYS; i++) {
            above += key[i] > value;
            equal += key[i] == value;
        }
    });
    uint2 before = warps_before(
        sh, make_uint2(__reduce_add_sync(FULL_MASK, above), __reduce_add_sync(FULL_MASK, equal)));
    for (int i = 0; i < rank; i++) {
        before.x += sh.above[i];
        before.y += sh.equal[i];
    }
    each_piece<KEYS>(w, key, [&](int piece) { write_piece<KEYS>(key, piece, value, ties, before.x, before.y, out); });
}

// Units of one warp: whole runs of all lanes.
static __host__ __device__ __forceinline__ int part_length(int n, int warps)
{
    return (n + warps * 32 * RUN - 1) / (warps * 32 * RUN) * 32 * RUN;
}

// cache_units: of shared memory, per warp.
template <int THREADS, int KEYS, int PER_SM>
__global__ void __launch_bounds__(THREADS, PER_SM)
    top_k_kernel(const __grid_constant__ top_k_params p, int blocks, int cache_units)
{
    extern __shared__ __align__(16) uint32_t inbox[];    // [2][blocks][BINS]
    __shared__ top_k_shared sh;
    const int rank = blockIdx.x % blocks, list = blockIdx.x / blocks, row = p.first + list / p.sets;
    if (threadIdx.x < BINS) {
        sh.bins[threadIdx.x] = 0;
    }
    for (int i = threadIdx.x; i < FEW; i += THREADS) {
        sh.all_few[i] = 0;
    }
    if (threadIdx.x < WIDEST_CLUSTER) {
        sh.above[threadIdx.x] = 0;
    }
    if (threadIdx.x == 0) {
        sh.few_count = 0;
    }
    if (blocks > 1) {
        __syncwarp();
        cluster_arrive();
    }
    dependents_may_launch();
    wait_for_predecessor();
    const int n = p.rows.position[row] / p.unit_tokens + 1, k = min(p.k, n);
    const int64_t at = (int64_t)row * p.sets + list % p.sets;
    int32_t *out = p.out.unit + at * p.out.stride;
    const int warps = blocks * (THREADS / 32), length = part_length(n, warps);
    warp_part w;
    w.scores = p.scores + (int64_t)list * p.stride;
    w.first = min((rank * (THREADS / 32) + (int)threadIdx.x / 32) * length, n);
    w.end = min(w.first + length, n);
    w.local = n - min(p.keep_local, k);
    w.sink = min(p.keep_sink, k - (n - w.local));
    w.whole_runs = p.stride % RUN == 0 && (uintptr_t)p.scores % (RUN * sizeof(float)) == 0;
    // A lane's slots reach to the end of its last piece.
    const int slots = (length + 32 * KEYS - 1) / (32 * KEYS) * 32 * KEYS;
    const bool caches = length > 32 * KEYS && slots <= cache_units;
    w.cache = caches ? inbox + 2 * blocks * BINS + threadIdx.x / 32 * slots : nullptr;
    uint32_t key[KEYS], best;
    bool nan = load_all<KEYS>(w, key, best);
    if (nan) {
        atomicMax(p.nan_row, row + 1);
    }
    if (rank == 0 && threadIdx.x == 0) {
        p.out.count[at] = k;
    }
    if (k == n) {
        for (int i = w.first + threadIdx.x % 32; i < w.end; i += 32) {
            out[i] = i;
        }
        if (blocks > 1) {
            cluster_wait();
        }
        return;
    }
    // The widest groups of lanes that still make k groups.
    int group = 1;
    while (group < 32 && n / (length / 32) / (2 * group) >= k) {
        group *= 2;
    }
    if (blocks > 1) {
        cluster_wait();    // the peers have begun
    }
    find_bounds(w, sh, group, rank, blocks, best);
    exchange(blocks);
    uint32_t low, high, value, ties;
    join_bounds(sh, blocks, (uint32_t)k, low, high);
    find_value<KEYS>(w, key, sh, inbox, rank, blocks, low, high, (uint32_t)k, value, ties);
    write_units<KEYS>(w, key, sh, value, ties, rank, out);
}

template <int THREADS, int KEYS, int PER_SM>
static int launch_top_k(const top_k_params *p, int64_t lists, int blocks, int cache_bytes, cudaStream_t stream)
{
    launch_shape shape = {};
    shape.grid = dim3((unsigned)(lists * blocks));
    shape.threads = THREADS;
    shape.cluster = (unsigned)blocks;
    shape.smem_bytes = (size_t)2 * shape.cluster * BINS * 4 + (size_t)cache_bytes;
    return launch("top-k", top_k_kernel<THREADS, KEYS, PER_SM>, shape, stream, *p, (int)shape.cluster,
                  cache_bytes / (THREADS / 32) / 4);
}

// The widest clusters of which all lists' run at once, but no wider than leaves each thread a few scores.
template <int THREADS, int KEYS, int PER_SM> static int widest(const top_k_params *p, int64_t lists, int cache_bytes)
{
    static cluster_room room;
    if (!room.clusters[0]) {
        launch_shape shape = {};
        shape.threads = THREADS;
        shape.smem_bytes = 2 * WIDEST_CLUSTER * BINS * 4 + (size_t)cache_bytes;
        const size_t most = cache_bytes ? MOST_SMEM : shape.smem_bytes;
        if (allow_smem("top-k", top_k_kernel<THREADS, KEYS, PER_SM>, most) == 0) {
            room = room_for_clusters(top_k_kernel<THREADS, KEYS, PER_SM>, shape);
        }
    }
    int shift = 0;
    while (shift < WIDEST_CLUSTER_SHIFT && lists <= room.clusters[shift + 1] && p->max_units > THREADS * RUN << shift) {
        shift++;
    }
    return shift;
}

// What a block of a cluster keeps in shared memory of rows of so many units.
template <int THREADS, int KEYS> static int cache_bytes_of(int units, int blocks)
{
    const int warps = THREADS / 32;
    const int64_t length = part_length(units, blocks * warps), piece = 32 * KEYS;
    const int64_t bytes = (length + piece - 1) / piece * piece * warps * 4;
    return bytes < INT32_MAX ? (int)bytes : INT32_MAX;
}

// How many clusters of up to 7 blocks with the widest cache run at once.
template <int THREADS, int KEYS, int PER_SM> static int odd_clusters(int blocks)
{
    static int known[8];    // plus 1; 0: not asked yet
    if (!known[blocks]) {
        launch_shape shape = {};
        shape.threads = THREADS;
        shape.cluster = (unsigned)blocks;
        shape.smem_bytes = (size_t)2 * shape.cluster * BINS * 4 + WIDE_CACHE_BYTES;
        int error = allow_smem("top-k", top_k_kernel<THREADS, KEYS, PER_SM>, MOST_SMEM);
        known[blocks] = 1 + (error ? 0 : clusters_at_once(top_k_kernel<THREADS, KEYS, PER_SM>, shape));
    }
    return known[blocks] - 1;
}

extern "C" int top_k_launch(const top_k_params *p, cudaStream_t stream)
{
    const int64_t lists = (int64_t)p->n * p->sets;
    if (p->k < 1 || p->out.stride < p->k) {
        return status_fail(-ENOTSUP, "top-k: %d units into lists of %d", p->k, p->out.stride);
    }
    if (lists == 0) {
        return 0;
    }
    if (top_k_rows_fit(*p)) {
        return top_k_rows_launch(*p, stream);
    }
    if (p->max_units <= 256 * 4) {
        return launch_top_k<256, 4, 4>(p, lists, 1, 0, stream);
    }
    if (p->max_units <= 512 * 16) {
        return launch_top_k<512, 16, 2>(p, lists, 1, 0, stream);
    }
    // Few lists: their keys fit the registers of two blocks per multiprocessor.
    int shift = widest<512, 16, 2>(p, lists, 0);
    if (p->max_units <= 512 * 16 << shift) {
        return launch_top_k<512, 16, 2>(p, lists, 1 << shift, 0, stream);
    }
    // Else shared memory keeps them. Where clusters of a power of two would take a second wave, others may not.
    const int at_once = widest<512, 8, 2>(p, lists, CACHE_BYTES);
    shift = at_once;
    while (shift < WIDEST_CLUSTER_SHIFT && p->max_units > CACHE_BYTES / 4 << shift) {
        shift++;
    }
    for (int blocks = shift == 3 ? 7 : 0; blocks > 1 << at_once; blocks--) {
        const int bytes = cache_bytes_of<512, 8>(p->max_units, blocks);
        if (bytes <= WIDE_CACHE_BYTES && lists <= odd_clusters<512, 8, 2>(blocks)) {
            return launch_top_k<512, 8, 2>(p, lists, blocks, bytes, stream);
        }
    }
    return launch_top_k<512, 8, 2>(p, lists, 1 << shift, CACHE_BYTES, stream);
}
