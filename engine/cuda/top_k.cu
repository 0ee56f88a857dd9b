// engine/cuda/top_k.cu - exact, deterministic selection of the k best of up to millions of scores, ascending.
//
// One cluster of blocks per row; every warp owns a contiguous part of the row. Scores become integers of the same order.
// A first read finds a lower bound of the k-th best from group maxima: if at least k groups were seen, the least of their
// maxima has at least k scores above it. A second read, from L2, keeps the scores not below the bound in shared memory,
// in order; a warp whose scores do not fit reads them again each time. Then the interval between bound and maximum is cut into 256
// bins, counted, and narrowed to the bin where the k-th best lies, until that bin holds few scores (ranked directly) or
// a single value. That ends after at most four rounds for any input whatever: no buffer can overflow, all scores may be
// equal. Blocks read each other's counts through distributed shared memory, so each knows how many winners and ties
// stand before its share: winners are written in place, ascending, and the lowest indices win ties. Bound by latency:
// one read of the scores and three cluster barriers.
//
// Measured on an H200, 2048 of 131072, 1 / 8 / 32 rows: 17 / 18 / 34 us (torch.topk 52 / 65 / 99).
#include <cooperative_groups.h>

#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/top_k_rows.cuh"

namespace cg = cooperative_groups;

enum {
    THREADS = 1024,
    WARPS = THREADS / 32,
    BINS = 256,
    FEW = 1024,                    // scores of a bin that are ranked directly
    MAX_CLUSTER = 8,               // what every chip grants; 16 was no faster
    KEPT = 512,                    // scores that a warp keeps in shared memory: 4 bytes of key, 4 of place each
    KEPT_BYTES = WARPS * KEPT * 8,
    BATCH = 8                      // loads in flight per thread
};

struct top_k_shared {
    uint32_t bins[2][BINS];        // this block's counts; two, because peers may still read the last round's
    uint32_t total[BINS];          // of all blocks
    uint32_t few_count;
    uint32_t few[FEW];             // this block's scores in the last bin
    uint32_t all_few[FEW];         // everybody's
    uint32_t bound[3];             // least group maximum, maximum, groups: of this block
    uint32_t warp_low[WARPS], warp_high[WARPS], warp_groups[WARPS];
    uint32_t scan[WARPS];
    uint32_t answer[4];
    uint32_t peer_above[MAX_CLUSTER], peer_equal[MAX_CLUSTER];
    int nan;
};

// Order-preserving: a < b as floats <=> key(a) < key(b) as integers. -0 is first made +0: they are equal scores.
static __device__ __forceinline__ uint32_t key_of(float score)
{
    uint32_t bits = __float_as_uint(score + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// One warp's part of the row: units [first, first + length), of which `count` entries are still in play.
struct warp_part {
    const float *scores;           // of the row
    uint32_t *keys;                // [KEPT] this warp's, in shared memory; NULL: read from scores every time
    int32_t *units;                // [KEPT] of each entry
    int first, length, count;
    int sink, local;               // units below sink and from local on are always selected
};

static __device__ __forceinline__ uint32_t read_key(const warp_part &w, int i, float score)
{
    int unit = w.first + i;
    return unit < w.sink || unit >= w.local ? 0xffffffffu : key_of(score);
}

static __device__ __forceinline__ uint32_t key_at(const warp_part &w, int entry)
{
    return w.keys ? w.keys[entry] : read_key(w, entry, w.scores[w.first + entry]);
}

static __device__ __forceinline__ int unit_at(const warp_part &w, int entry)
{
    return w.keys ? w.units[entry] : w.first + entry;
}

// First read: the maximum of each group of `group` lanes; NaN.
static __device__ void load_part(const warp_part &w, top_k_shared &sh, int group)
{
    const int lane = threadIdx.x % 32;
    uint32_t high = 0;
    bool nan = false;
    for (int base = 0; base < w.length; base += BATCH * 32) {
        float score[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            int i = base + j * 32 + lane;
            score[j] = i < w.length ? w.scores[w.first + i] : 0;
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            int i = base + j * 32 + lane;
            if (i < w.length) {
                nan |= score[j] != score[j];
                uint32_t key = read_key(w, i, score[j]);
                high = max(high, key);
            }
        }
    }
    if (nan) {
        sh.nan = 1;
    }
    uint32_t group_high = high;
    bool any = lane < w.length;    // lane 0 of a group that meets any score meets one
    for (int shift = 1; shift < group; shift *= 2) {
        group_high = max(group_high, __shfl_xor_sync(FULL_MASK, group_high, shift));
    }
    any = any && lane % group == 0;
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
        low = __reduce_min_sync(FULL_MASK, sh.warp_low[lane]);
        high = __reduce_max_sync(FULL_MASK, sh.warp_high[lane]);
        uint32_t all_groups = __reduce_add_sync(FULL_MASK, sh.warp_groups[lane]);
        if (lane == 0) {
            sh.bound[0] = low;
            sh.bound[1] = high;
            sh.bound[2] = all_groups;
        }
    }
}

// After the first cluster barrier: the bounds of the whole row. Fewer groups than k bound nothing.
static __device__ void join_bounds(cg::cluster_group &cluster, top_k_shared &sh, int blocks, uint32_t k, uint32_t &low,
                                   uint32_t &high)
{
    int lane = threadIdx.x % 32;
    uint32_t l = 0xffffffffu, h = 0, groups = 0;
    if (lane < blocks) {
        const top_k_shared *peer = cluster.map_shared_rank(&sh, lane);
        l = peer->bound[0];
        h = peer->bound[1];
        groups = peer->bound[2];
    }
    low = __reduce_min_sync(FULL_MASK, l);
    high = __reduce_max_sync(FULL_MASK, h);
    if (__reduce_add_sync(FULL_MASK, groups) < k) {
        low = 0;
    }
}

// Second read: keeps the entries that are not below `low`, in order. If they are too many, w.keys becomes NULL.
static __device__ void keep_best(warp_part &w, uint32_t low)
{
    const int lane = threadIdx.x % 32;
    const unsigned below = (1u << lane) - 1;
    int kept = 0;
    for (int base = 0; base < w.length && kept <= KEPT; base += BATCH * 32) {
        float score[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            int i = base + j * 32 + lane;
            score[j] = i < w.length ? w.scores[w.first + i] : 0;
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            int i = base + j * 32 + lane;
            uint32_t key = read_key(w, i, score[j]);
            bool keep = i < w.length && key >= low;
            unsigned lanes = __ballot_sync(FULL_MASK, keep);
            int at = kept + __popc(lanes & below);
            if (keep && at < KEPT) {
                w.keys[at] = key;
                w.units[at] = w.first + i;
            }
            kept += __popc(lanes);
        }
    }
    w.keys = kept <= KEPT ? w.keys : nullptr;
    w.count = w.keys ? kept : w.length;
    __syncwarp();
}

// Counts this warp's keys in [low, high] by bins of 2^shift; keys above high were counted in earlier rounds.
static __device__ void count_bins(const warp_part &w, uint32_t *bins, uint32_t low, uint32_t high, int shift)
{
    const int lane = threadIdx.x % 32;
    for (int base = 0; base < w.count; base += 32) {
        uint32_t key = base + lane < w.count ? key_at(w, base + lane) : 0;
        bool inside = base + lane < w.count && key >= low && key <= high;
        // Lanes that meet in one bin (plateaus, equal scores) add once together.
        unsigned active = __ballot_sync(FULL_MASK, inside);
        if (active) {
            uint32_t bin = (key - low) >> shift;
            int leader = __ffs(active) - 1;
            uint32_t first = __shfl_sync(FULL_MASK, bin, leader);
            bool with_leader = inside && bin == first;
            unsigned same = __ballot_sync(FULL_MASK, with_leader);
            if (lane == leader) {
                atomicAdd(&bins[bin], __popc(same));
            } else if (inside && !with_leader) {
                atomicAdd(&bins[bin], 1);
            }
        }
    }
}

// Sums the blocks' bins, finds the bin where the k-th best lies. answer: bin, scores above it, scores in it.
// `bins` of every block is complete (after a cluster barrier).
static __device__ void find_bin(cg::cluster_group &cluster, top_k_shared &sh, int which, int blocks, uint32_t k)
{
    uint32_t *total = sh.total;
    if (threadIdx.x < BINS) {
        total[threadIdx.x] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < BINS * blocks; i += THREADS) {
        uint32_t n = cluster.map_shared_rank(&sh, i / BINS)->bins[which][i % BINS];
        if (n) {
            atomicAdd(&total[i % BINS], n);
        }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        // Lane i owns the bins [255 - 8i - 7, 255 - 8i]: from the highest down.
        int lane = threadIdx.x, top = BINS - 1 - lane * 8;
        uint32_t sum = 0;
        for (int i = 0; i < 8; i++) {
            sum += total[top - i];
        }
        uint32_t through = sum;
        for (int i = 1; i < 32; i *= 2) {
            uint32_t other = __shfl_up_sync(FULL_MASK, through, i);
            through += lane >= i ? other : 0;
        }
        uint32_t above = through - sum;
        if (above < k && k <= through) {
            int bin = top;
            while (above + total[bin] < k) {
                above += total[bin--];
            }
            sh.answer[0] = (uint32_t)bin;
            sh.answer[1] = above;
            sh.answer[2] = total[bin];
        }
    }
    __syncthreads();
}

// Adds to peer_above what each block counted above `bin`, and sets peer_equal to what it counted in it.
static __device__ void note_peers(cg::cluster_group &cluster, top_k_shared &sh, int which, int blocks, int bin)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp < blocks) {
        const uint32_t *bins = cluster.map_shared_rank(&sh, warp)->bins[which];
        uint32_t above = 0;
        for (int i = lane; i < BINS; i += 32) {
            above += i > bin ? bins[i] : 0;
        }
        above = __reduce_add_sync(FULL_MASK, above);
        if (lane == 0) {
            sh.peer_above[warp] += above;
            sh.peer_equal[warp] = bins[bin];
        }
    }
}

// This warp's keys of the last bin, in any order: ranking does not depend on it.
static __device__ void collect_few(const warp_part &w, top_k_shared &sh, uint32_t low, uint32_t high)
{
    for (int i = threadIdx.x % 32; i < w.count; i += 32) {
        uint32_t key = key_at(w, i);
        if (key >= low && key <= high) {
            sh.few[atomicAdd(&sh.few_count, 1)] = key;
        }
    }
}

// The k-th best among all blocks' few, by counting for each how many are above it. answer[0]: the value.
static __device__ void rank_few(cg::cluster_group &cluster, top_k_shared &sh, int blocks, uint32_t k, uint32_t n)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp < blocks) {
        uint32_t before = 0;
        for (int i = 0; i < warp; i++) {
            before += sh.peer_equal[i];
        }
        const top_k_shared *peer = cluster.map_shared_rank(&sh, warp);
        for (uint32_t i = lane; i < sh.peer_equal[warp]; i += 32) {
            sh.all_few[before + i] = peer->few[i];
        }
    }
    __syncthreads();
    if (threadIdx.x < n) {
        uint32_t mine = sh.all_few[threadIdx.x], above = 0, equal = 0;
        for (uint32_t i = 0; i < n; i++) {
            above += sh.all_few[i] > mine;
            equal += sh.all_few[i] == mine;
        }
        if (above < k && k <= above + equal) {
            sh.answer[0] = mine;
            sh.answer[1] = above;
        }
    }
    __syncthreads();
    if (warp < blocks) {
        uint32_t before = 0, value = sh.answer[0], above = 0, equal = 0;
        for (int i = 0; i < warp; i++) {
            before += sh.peer_equal[i];
        }
        for (uint32_t i = lane; i < sh.peer_equal[warp]; i += 32) {
            above += sh.all_few[before + i] > value;
            equal += sh.all_few[before + i] == value;
        }
        above = __reduce_add_sync(FULL_MASK, above);
        equal = __reduce_add_sync(FULL_MASK, equal);
        __syncwarp();
        if (lane == 0) {
            sh.scan[warp] = equal;
            sh.peer_above[warp] += above;
        }
    }
    __syncthreads();
    if ((int)threadIdx.x < blocks) {
        sh.peer_equal[threadIdx.x] = sh.scan[threadIdx.x];
    }
    __syncthreads();
}

// The sum of `value` (equal in all lanes of a warp) over the warps before this one.
static __device__ uint32_t warps_before(top_k_shared &sh, uint32_t value)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();
    if (lane == 0) {
        sh.scan[warp] = value;
    }
    __syncthreads();
    return __reduce_add_sync(FULL_MASK, lane < warp ? sh.scan[lane] : 0);
}

// Writes the units whose key is above `value`, and of those equal to it the first `ties` of the row. Ballots keep the
// order of each warp's entries.
static __device__ void write_units(const warp_part &w, top_k_shared &sh, uint32_t value, uint32_t ties, int rank, int32_t *out)
{
    uint32_t above_before = 0, equal_before = 0;
    for (int i = 0; i < rank; i++) {
        above_before += sh.peer_above[i];
        equal_before += sh.peer_equal[i];
    }
    const int lane = threadIdx.x % 32;
    uint32_t above = 0, equal = 0;
    for (int i = lane; i < w.count; i += 32) {
        uint32_t key = key_at(w, i);
        above += key > value;
        equal += key == value;
    }
    above = __reduce_add_sync(FULL_MASK, above);
    equal = __reduce_add_sync(FULL_MASK, equal);
    uint32_t above_at = above_before + warps_before(sh, above);
    uint32_t equal_at = equal_before + warps_before(sh, equal);
    const unsigned below = (1u << lane) - 1;
    for (int base = 0; base < w.count; base += 32) {
        int i = base + lane;
        uint32_t key = i < w.count ? key_at(w, i) : 0;
        bool is_above = i < w.count && key > value, is_equal = i < w.count && key == value;
        unsigned a = __ballot_sync(FULL_MASK, is_above), e = __ballot_sync(FULL_MASK, is_equal);
        if (a | e) {
            uint32_t tie = equal_at + __popc(e & below);
            if (is_above || (is_equal && tie < ties)) {
                out[above_at + __popc(a & below) + min(tie, ties)] = unit_at(w, i);
            }
            above_at += __popc(a);
            equal_at += __popc(e);
        }
    }
}

// The value of the k-th best, and how many equal to it are taken. Leaves peer_above and peer_equal for write_units.
static __device__ void find_value(cg::cluster_group &cluster, const warp_part &w, top_k_shared &sh, int blocks,
                                  uint32_t low, uint32_t high, uint32_t k, uint32_t &value, uint32_t &ties)
{
    for (int round = 0;; round++) {
        int which = round & 1;
        uint32_t span = high - low;
        int shift = span < BINS ? 0 : 32 - __clz(span) - 8;
        count_bins(w, sh.bins[which], low, high, shift);
        cluster.sync();
        find_bin(cluster, sh, which, blocks, k);
        uint32_t bin = sh.answer[0], above = sh.answer[1], inside = sh.answer[2];
        note_peers(cluster, sh, which, blocks, (int)bin);
        __syncthreads();
        k -= above;
        low += bin << shift;
        if (shift == 0) {
            value = low;
            ties = k;
            return;
        }
        high = low + min(high - low, (1u << shift) - 1);    // not min(high, low + ...): that sum may pass 2^32
        if (inside <= FEW) {
            collect_few(w, sh, low, high);
            cluster.sync();
            rank_few(cluster, sh, blocks, k, inside);
            value = sh.answer[0];
            ties = k - sh.answer[1];
            return;
        }
        // The other counters: no peer reads them any more, since all passed this round's barrier.
        if (threadIdx.x < BINS) {
            sh.bins[which ^ 1][threadIdx.x] = 0;
        }
        __syncthreads();
    }
}

// Units of one warp: a multiple of 32.
static __host__ __device__ __forceinline__ int part_length(int n, int blocks)
{
    int warps = blocks * WARPS;
    return (n + warps * 32 - 1) / (warps * 32) * 32;
}

__global__ void __launch_bounds__(THREADS, 1) top_k_kernel(const __grid_constant__ top_k_params p, int blocks)
{
    extern __shared__ uint32_t share[];
    __shared__ top_k_shared sh;
    cg::cluster_group cluster = cg::this_cluster();
    const int rank = blockIdx.x % blocks, list = blockIdx.x / blocks, row = p.first + list / p.sets;
    for (int i = threadIdx.x; i < 2 * BINS; i += THREADS) {
        sh.bins[i / BINS][i % BINS] = 0;
    }
    if (threadIdx.x < MAX_CLUSTER) {
        sh.peer_above[threadIdx.x] = sh.peer_equal[threadIdx.x] = 0;
    }
    if (threadIdx.x == 0) {
        sh.few_count = 0;
        sh.nan = 0;
    }
    dependents_may_launch();
    wait_for_predecessor();
    const int n = p.rows.position[row] / p.unit_tokens + 1, k = min(p.k, n);
    const int64_t at = (int64_t)row * p.sets + list % p.sets;
    int32_t *out = p.out.unit + at * p.out.stride;
    const int length = part_length(n, blocks), warp = threadIdx.x / 32;
    warp_part w;
    w.scores = p.scores + (int64_t)list * p.stride;
    w.first = min((rank * WARPS + warp) * length, n);
    w.length = w.count = min(length, n - w.first);
    w.local = n - min(p.keep_local, k);
    w.sink = min(p.keep_sink, k - (n - w.local));
    w.keys = share + warp * KEPT;
    w.units = (int32_t *)(share + WARPS * KEPT) + warp * KEPT;
    __syncthreads();

    // The widest groups of lanes that still make k groups.
    int group = 1;
    while (group < 32 && n / (length / 32) / (2 * group) >= k) {
        group *= 2;
    }
    load_part(w, sh, group);
    cluster.sync();
    if (sh.nan && threadIdx.x == 0) {
        atomicMax(p.nan_row, row + 1);
    }
    if (k == n) {
        for (int i = threadIdx.x % 32; i < w.length; i += 32) {
            out[w.first + i] = w.first + i;
        }
    } else {
        uint32_t low, high, value, ties;
        join_bounds(cluster, sh, blocks, (uint32_t)k, low, high);
        keep_best(w, low);
        find_value(cluster, w, sh, blocks, low, high, (uint32_t)k, value, ties);
        write_units(w, sh, value, ties, rank, out);
    }
    if (rank == 0 && threadIdx.x == 0) {
        p.out.count[at] = k;
    }
    cluster.sync();    // peers may still read this block's counts
}

// Blocks per row: a power of two, as many as rows leave, fewer where each would see little. Half of the chip, because
// clusters never fill all of it and a second wave would double the time.
static unsigned cluster_of(int64_t lists, int32_t max_units)
{
    unsigned blocks = MAX_CLUSTER;
    while (blocks > 1 && (lists * blocks > multiprocessors() / 2 || (int64_t)(blocks / 2) * THREADS * 4 >= max_units)) {
        blocks /= 2;
    }
    return blocks;
}

extern "C" int top_k_launch(const top_k_params *p, cudaStream_t stream)
{
    int64_t lists = (int64_t)p->n * p->sets;
    if (p->k < 1 || p->out.stride < p->k) {
        return status_fail(-ENOTSUP, "top-k: %d units into lists of %d", p->k, p->out.stride);
    }
    if (lists == 0) {
        return 0;
    }
    if (top_k_rows_fit(*p)) {
        return top_k_rows_launch(*p, stream);
    }
    unsigned blocks = cluster_of(lists, p->max_units);
    launch_shape shape = {};
    shape.grid = dim3((unsigned)(lists * blocks));
    shape.threads = THREADS;
    shape.smem_bytes = KEPT_BYTES;
    shape.cluster = blocks;
    int error = allow_smem("top-k", top_k_kernel, KEPT_BYTES);
    return error ? error : launch("top-k", top_k_kernel, shape, stream, *p, (int)blocks);
}
