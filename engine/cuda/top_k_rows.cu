// engine/cuda/top_k_rows.cu - exact selection from many long lists at once (prefill): one block per list.
//
// The largest score of every run of 4 to 128 units bounds the k-th best from below: if k runs reach a value, k scores
// do. The maxima come with the scores, or a read of all scores makes them. 256 bins find a value that at least k and
// not many more runs reach; only those runs are read, and what reaches the bound is kept in shared memory, in order. A
// warp whose part does not fit reads its runs again each time. Then the interval between bound and maximum is cut into
// bins until the one that holds the k-th best holds few scores or a single value; winners are written in place by
// counts of those before them. Nothing can overflow, any scores may be equal, the lowest units win ties.
//
// Measured on an H100 80GB HBM3, 2048 of up to 131072 for 131072 rows of one prompt, in tiles of 64 / 128 / 256 MB of
// scores: 35.7 / 22.6 / 19.6 ms with maxima, 45.7 / 32.5 / 28.0 ms without: few rows at a time leave the chip waiting.
#include "engine/cuda/top_k_list.cuh"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    MAX_RUNS = 8192,
    LONGEST_RUN = 7,    // log2: a warp's float4 loads
    KEPT = 512,         // scores that a warp keeps: more than twice what evenly spread ones need for k = 2048
    FEW = 128,          // scores of a bin that are ranked directly
    BATCH = 8,          // loads in flight per lane
    RUN_UNITS = 16,
    LOG_RUN_UNITS = 4    // of an entry of params.maxima
};

struct block_shared {
    union {
        uint32_t run_key[MAX_RUNS];
        struct {
            uint32_t key[WARPS][KEPT];
            int32_t unit[WARPS][KEPT];
        } kept;
    };
    uint16_t reached[MAX_RUNS];    // runs that reach the bound, ascending
    uint32_t bins[2][BINS];
    uint32_t few[FEW];
    uint32_t scan[2][WARPS];
    uint32_t answer[3], few_count;
};

// Runs so long that at least 4k of them are left (a quarter is then read), and few enough for shared memory.
static __device__ void choose_runs(list &l, bool maxima)
{
    l.log_run = 2;
    while ((l.n - 1) >> l.log_run >= MAX_RUNS || l.n >> (l.log_run + 1) >= 4 * l.k) {
        l.log_run++;
    }
    if (maxima && l.n >> LOG_RUN_UNITS >= l.k + l.k / 4) {
        l.log_run = max(l.log_run, (int)LOG_RUN_UNITS);
    }
    l.log_run = min(l.log_run, (int)LONGEST_RUN);
    l.runs = ((l.n - 1) >> l.log_run) + 1;
}

// A read of all scores: the largest key of each run. Returns whether this thread saw a NaN.
static __device__ bool read_runs(const list &l, uint32_t *run_key)
{
    const int quads = (l.n + 3) / 4, lanes = 1 << (l.log_run - 2);
    bool nan = false;
    for (int base = threadIdx.x; base - (int)threadIdx.x % 32 < quads; base += THREADS * BATCH / 2) {
        float4 v[BATCH / 2];
#pragma unroll
        for (int j = 0; j < BATCH / 2; j++) {
            int quad = base + j * THREADS;
            v[j] = quad < quads ? *(const float4 *)(l.scores + 4 * (int64_t)quad) : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int j = 0; j < BATCH / 2; j++) {
            const int unit = 4 * (base + j * THREADS);
            const float s[4] = {v[j].x, v[j].y, v[j].z, v[j].w};
            uint32_t most = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (unit + i < l.n) {
                    nan |= s[i] != s[i];
                    most = max(most, l.key(unit + i, s[i]));
                }
            }
            for (int shift = 1; shift < lanes; shift *= 2) {
                most = max(most, __shfl_xor_sync(FULL_MASK, most, shift));
            }
            if (unit < l.n && (unit & ((1 << l.log_run) - 1)) == 0) {
                run_key[unit >> l.log_run] = most;
            }
        }
    }
    return nan;
}

// The same from maxima of 16.
static __device__ bool load_runs(const list &l, const float *maxima, uint32_t *run_key)
{
    const int each = 1 << (l.log_run - LOG_RUN_UNITS), all = (l.n + RUN_UNITS - 1) / RUN_UNITS;
    bool nan = false;
    for (int run = threadIdx.x; run < l.runs; run += THREADS) {
        uint32_t most = 0;
        for (int i = run * each; i < min((run + 1) * each, all); i++) {
            float v = maxima[i];
            nan |= v != v;
            most = max(most, key_of(v));
        }
        const bool forced = run << l.log_run < l.sink || (run + 1) << l.log_run > l.local;
        run_key[run] = forced ? 0xffffffffu : most;
    }
    return nan;
}

// One warp's share of something that has keys: visit(key, unit, present) is called by whole warps, in ascending order.
struct run_source {    // the runs' own keys
    const uint32_t *run_key;
    int begin, end;

    template <typename Visit> __device__ __forceinline__ void each(const Visit &visit) const
    {
        for (int base = begin; base < end; base += 32) {
            int i = base + (int)threadIdx.x % 32;
            visit(i < end ? run_key[i] : 0, i, i < end);
        }
    }
};

struct score_source {    // scores of the runs that reach the bound: kept ones, or all, read again
    const list &l;
    const uint16_t *reached;    // this warp's runs
    int n_reached;
    const uint32_t *key;    // [n_kept]; NULL: read again
    const int32_t *unit;
    int n_kept;

    template <typename Visit> __device__ __forceinline__ void read(const Visit &visit) const
    {
        const int entries = n_reached << l.log_run, lane = threadIdx.x % 32, within = (1 << l.log_run) - 1;
        for (int base = 0; base < entries; base += BATCH * 32) {
            float score[BATCH];
            int at[BATCH];
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                int entry = base + j * 32 + lane;
                at[j] = entry < entries ? reached[entry >> l.log_run] << l.log_run | (entry & within) : l.n;
                score[j] = at[j] < l.n ? l.scores[at[j]] : 0;
            }
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                if (base + j * 32 < entries) {
                    visit(l.key(at[j], score[j]), at[j], at[j] < l.n);
                }
            }
        }
    }

    template <typename Visit> __device__ __forceinline__ void each(const Visit &visit) const
    {
        if (!key) {
            read(visit);
            return;
        }
        for (int base = 0; base < n_kept; base += 32) {
            int i = base + (int)threadIdx.x % 32;
            visit(i < n_kept ? key[i] : 0, i < n_kept ? unit[i] : 0, i < n_kept);
        }
    }
};

// Counts the keys within [low, high] by bins of 2^shift. Lanes that meet in one bin (plateaus) add once together.
template <typename Source>
static __device__ __forceinline__ void count_bins(const Source &source, uint32_t *bins, uint32_t low, uint32_t high,
                                                  int shift)
{
    source.each([&](uint32_t key, int, bool present) {
        const bool inside = present && key >= low && key <= high;
        const unsigned active = __ballot_sync(FULL_MASK, inside);
        if (active) {
            const uint32_t bin = (key - low) >> shift;
            const int leader = __ffs(active) - 1, lane = threadIdx.x % 32;
            const uint32_t first = __shfl_sync(FULL_MASK, bin, leader);
            const bool with_leader = inside && bin == first;
            const unsigned same = __ballot_sync(FULL_MASK, with_leader);
            if (lane == leader) {
                atomicAdd(&bins[bin], __popc(same));
            } else if (inside && !with_leader) {
                atomicAdd(&bins[bin], 1);
            }
        }
    });
}

struct interval {
    uint32_t low, high;    // the k-th largest key lies within
    uint32_t k;            // what is left of k: keys above `high` are taken off
    uint32_t inside;
};

// Narrows to one bin of 256. Both sets of bins are zero before and after; called by the whole block.
template <typename Source>
static __device__ __forceinline__ void narrow(const Source &source, block_shared &sh, interval &v, int &round)
{
    uint32_t *bins = sh.bins[round & 1], *others = sh.bins[++round & 1];
    const uint32_t span = v.high - v.low;
    const int shift = span < BINS ? 0 : 32 - __clz(span) - 8;
    count_bins(source, bins, v.low, v.high, shift);
    __syncthreads();
    if (threadIdx.x < 32) {
        find_bin(bins, v.k, sh.answer);
    }
    others[threadIdx.x] = 0;    // the round before last's: nobody reads them any more
    __syncthreads();
    v.k -= sh.answer[1];
    v.inside = sh.answer[2];
    v.low += sh.answer[0] << shift;
    v.high = v.low + min(v.high - v.low, (1u << shift) - 1);
}

// A key that at least k runs reach, and not many more. Fewer runs than k bound nothing.
static __device__ uint32_t bound_of(const list &l, block_shared &sh, uint32_t &highest, int &round)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const run_source source = {sh.run_key, l.runs * warp / WARPS, l.runs * (warp + 1) / WARPS};
    uint32_t low = 0xffffffffu, high = 0;
    source.each([&](uint32_t key, int, bool present) {
        low = present ? min(low, key) : low;
        high = max(high, key);
    });
    low = __reduce_min_sync(FULL_MASK, low);
    high = __reduce_max_sync(FULL_MASK, high);
    if (lane == 0) {
        sh.scan[0][warp] = low;
        sh.scan[1][warp] = high;
    }
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        low = min(low, sh.scan[0][w]);
        high = max(high, sh.scan[1][w]);
    }
    highest = high;
    if (l.runs < l.k) {
        return 0;
    }
    interval v = {low, high, (uint32_t)l.k, (uint32_t)l.runs};
    do {
        narrow(source, sh, v, round);
    } while (v.inside > (uint32_t)l.k / 16 + 32 && v.low < v.high);
    return v.low;
}

// The sums of `value` (equal in all lanes of a warp) over the warps before this one, and over all.
static __device__ __forceinline__ uint32_t warps_before(uint32_t (&scan)[WARPS], uint32_t value, uint32_t &all)
{
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        scan[threadIdx.x / 32] = value;
    }
    __syncthreads();
    uint32_t before = 0;
    all = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        before += w < (int)threadIdx.x / 32 ? scan[w] : 0;
        all += scan[w];
    }
    return before;
}

// Lists the runs that reach `low`; returns how many.
static __device__ int list_reached(const list &l, block_shared &sh, uint32_t low)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const run_source source = {sh.run_key, l.runs * warp / WARPS, l.runs * (warp + 1) / WARPS};
    uint32_t count = 0, all = 0;
    source.each(
        [&](uint32_t key, int, bool present) { count += __popc(__ballot_sync(FULL_MASK, present && key >= low)); });
    uint32_t at = warps_before(sh.scan[0], count, all);
    source.each([&](uint32_t key, int run, bool present) {
        const unsigned lanes = __ballot_sync(FULL_MASK, present && key >= low);
        if (lanes >> lane & 1) {
            sh.reached[at + __popc(lanes & ((1u << lane) - 1))] = (uint16_t)run;
        }
        at += __popc(lanes);
    });
    __syncthreads();
    return (int)all;
}

// Keeps this warp's scores that reach `low`, in order, if they fit.
static __device__ void keep_best(score_source &source, uint32_t *key, int32_t *unit, uint32_t low)
{
    const unsigned below = (1u << threadIdx.x % 32) - 1;
    int kept = 0;
    source.read([&](uint32_t k, int u, bool present) {
        const bool keep = present && k >= low;
        const unsigned lanes = __ballot_sync(FULL_MASK, keep);
        const int at = kept + __popc(lanes & below);
        if (keep && at < KEPT) {
            key[at] = k;
            unit[at] = u;
        }
        kept += __popc(lanes);
    });
    if (kept <= KEPT) {
        source.key = key;
        source.unit = unit;
        source.n_kept = kept;
    }
    __syncwarp();
}

// The key of the k-th best, and how many equal to it are taken.
static __device__ void find_value(const score_source &source, block_shared &sh, interval v, int &round, uint32_t &value,
                                  uint32_t &ties)
{
    do {
        narrow(source, sh, v, round);
    } while (v.inside > FEW && v.low < v.high);
    value = v.low;
    ties = v.k;
    if (v.low == v.high) {
        return;
    }
    source.each([&](uint32_t key, int, bool present) {
        if (present && key >= v.low && key <= v.high) {
            sh.few[atomicAdd(&sh.few_count, 1)] = key;
        }
    });
    __syncthreads();
    if (threadIdx.x < v.inside) {
        const uint32_t mine = sh.few[threadIdx.x];
        uint32_t above = 0, equal = 0;
        for (uint32_t i = 0; i < v.inside; i++) {
            above += sh.few[i] > mine;
            equal += sh.few[i] == mine;
        }
        if (above < v.k && v.k <= above + equal) {
            sh.answer[0] = mine;
            sh.answer[1] = above;
        }
    }
    __syncthreads();
    value = sh.answer[0];
    ties = v.k - sh.answer[1];
}

// Writes the units whose key is above `value`, and of those equal to it the first `ties`.
static __device__ void write_units(const score_source &source, block_shared &sh, uint32_t value, uint32_t ties,
                                   int32_t *out)
{
    const unsigned below = (1u << threadIdx.x % 32) - 1;
    uint32_t above = 0, equal = 0, all;
    source.each([&](uint32_t key, int, bool present) {
        above += __popc(__ballot_sync(FULL_MASK, present && key > value));
        equal += __popc(__ballot_sync(FULL_MASK, present && key == value));
    });
    uint32_t above_at = warps_before(sh.scan[0], above, all), equal_at = warps_before(sh.scan[1], equal, all);
    source.each([&](uint32_t key, int unit, bool present) {
        const bool is_above = present && key > value, is_equal = present && key == value;
        const unsigned a = __ballot_sync(FULL_MASK, is_above), e = __ballot_sync(FULL_MASK, is_equal);
        const uint32_t tie = equal_at + __popc(e & below);
        if (is_above || (is_equal && tie < ties)) {
            out[above_at + __popc(a & below) + min(tie, ties)] = unit;
        }
        above_at += __popc(a);
        equal_at += __popc(e);
    });
}

__global__ void __launch_bounds__(THREADS, 4) block_kernel(const __grid_constant__ top_k_params p)
{
    extern __shared__ __align__(16) uint8_t raw[];
    block_shared &sh = *(block_shared *)raw;
    const int warp = threadIdx.x / 32;
    for (int i = threadIdx.x; i < 2 * BINS; i += THREADS) {
        sh.bins[i / BINS][i % BINS] = 0;
    }
    if (threadIdx.x == 0) {
        sh.few_count = 0;
    }
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t index = blockIdx.x, at = (int64_t)p.first * p.sets + index;
    list l = list_of(p, index);
    int32_t *out = p.out.unit + at * p.out.stride;
    __syncthreads();
    choose_runs(l, p.maxima != nullptr);
    const bool loaded = p.maxima && l.log_run >= LOG_RUN_UNITS;
    const bool nan = loaded ? load_runs(l, p.maxima + index * p.maxima_stride, sh.run_key) : read_runs(l, sh.run_key);
    if (nan) {
        atomicMax(p.nan_row, (int)(p.first + index / p.sets) + 1);
    }
    if (threadIdx.x == 0) {
        p.out.count[at] = l.k;
    }
    if (l.k == l.n) {
        for (int i = threadIdx.x; i < l.n; i += THREADS) {
            out[i] = i;
        }
        return;
    }
    __syncthreads();
    int round = 0;
    uint32_t high, value, ties;
    const uint32_t low = bound_of(l, sh, high, round);
    const int reached = list_reached(l, sh, low);
    const int first = reached * warp / WARPS;
    score_source source = {l, sh.reached + first, reached * (warp + 1) / WARPS - first, nullptr, nullptr, 0};
    keep_best(source, sh.kept.key[warp], sh.kept.unit[warp], low);
    find_value(source, sh, {low, high, (uint32_t)l.k, 0}, round, value, ties);
    write_units(source, sh, value, ties, out);
}

bool top_k_rows_fit(const top_k_params &p)
{
    const int64_t lists = (int64_t)p.n * p.sets;
    const bool aligned = p.stride % 4 == 0 && (uintptr_t)p.scores % 16 == 0;
    return p.max_units <= SHORTEST_LONG ? lists >= TOP_K_SHORT
                                        : lists >= TOP_K_ROWS && aligned && p.max_units <= MAX_RUNS << LONGEST_RUN;
}

int top_k_rows_launch(const top_k_params &p, cudaStream_t stream)
{
    const int64_t lists = (int64_t)p.n * p.sets;
    if (p.max_units <= SHORTEST_LONG) {
        return top_k_short_launch(p, stream);
    }
    launch_shape shape = {};
    shape.grid = dim3((unsigned)lists);
    shape.threads = THREADS;
    shape.smem_bytes = sizeof(block_shared);
    int error = allow_smem("top-k of rows", block_kernel, sizeof(block_shared));
    return error ? error : launch("top-k of rows", block_kernel, shape, stream, p);
}
