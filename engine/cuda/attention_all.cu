// engine/cuda/attention_all.cu - attention of single query rows over all their keys.
//
// Bound by reading keys and values once. The work of all rows is one list of tiles of tokens, cut into equal runs,
// one run per multiprocessor, so every shape fills the chip: a run may end one row and begin the next. Copying
// warps bring tokens to shared memory (attention_all_copy.cuh): with the bulk copy engine where the heads of a token
// lie side by side (one contiguous run per token), else by 16-byte copies. Eight warps compute
// (attention_all_state.cuh); each owns one KV head and 16 tokens of a tile. Softmax state per query head: running
// maximum m, sum l, out; two states merge as m = max, l = l1*2^(m1-m) + l2*2^(m2-m), likewise out. A row cut into
// several runs leaves its states in the workspace; a second kernel merges them in the order of the runs.
//
// fp8 pages are copied as they are and widened on the way to tensor cores. Where an item has all heads of a token,
// whole runs of tokens are copied, scales included: what scales leave of 16 bytes keeps rows off each other's banks, as
// the pad of bf16 rows does. Elsewhere a computing warp loads the scales of its next tokens itself.
//
// Measured, 20 query over 4 KV heads of 128, 131072 tokens, 1 / 8 / 32 rows: H100 (3.1 TB/s) 104.6 / 736 / 2903 us;
// H200 (4.54 TB/s) 76 / 507 / 1992 us (cuDNN there 70 / 482 / 1879). Later, H200 at 4.66 TB/s: bf16 75.2 / 501 / 1957
// us, fp8 48.8 / 277 / 1053 us, fp8 per KV head, copied 16 bytes at a time, 65.6 / 422 / 1630 us. Merging a quarter of
// a head's dimensions a block: 74.9 us instead of 76.5 at 1 row. Equal runs end unequally: of 8 rows in bf16 the
// quickest multiprocessor is done after 71% of the slowest's time, 93% in the mean. Runs handed out as blocks end do
// not gain that: twice as many no faster, the last eighth to half of the list in 132 to 528 short ones 1 to 5% slower,
// 3 to 21% with one row (a block's start, and its ring, which fills anew); nor do runs that a block takes by tickets
// while its ring stays full: the last sixteenth to quarter in 2 to 8 a block, 0 to 12% slower.
// Rings of all the shared memory there is, 6 stages in bf16 and 12 in fp8, on an H200 at 4.55 TB/s: 75.1 / 513 / 2008
// us, fp8 48.1 / 279 / 1066; of 4 stages 75.1 / 509 / 1993, fp8 45.4 / 278 / 1059; of 2 stages 79 / 526 / 2046 and 59 /
// 376 / 1447. Keys and values that leave the L2 first: 74.3 / 514 / 2008, fp8 47.3 / 279 / 1070. Pages in the order of
// memory instead of shuffled ones: 74.4 / 510 / 2001. A merge that rescales once for eight states: 74.8 us at 1 row.
#include "engine/cuda/attention_all.cuh"
#include "engine/cuda/attention_all_state.cuh"

enum {
    THREADS = (COMPUTE_WARPS + COPY_WARPS) * 32,
    BULK_BYTES = 512,                 // shorter runs would keep the copy engine busy with their number
    WARP_TOKENS = 16,
    STAGES = 4,                       // or two for each group of warps; more bring nothing sooner
    MAX_STAGES = 2 * COMPUTE_WARPS,
    ROW_PAD = 16,                     // bytes after each token in shared memory: the 8 rows of a matrix load then
                                      // start 4 banks apart
    SMEM_BYTES = 227 * 1024,
    MERGE_THREADS = 1024,             // where few blocks merge many states; else a quarter of it
    MERGE_DIMS = 32,                  // of a head that a block then has: 32 states at a time, in as many loads as 8
                                      // states with all dimensions
    MERGE_BATCH = 8                   // states that a thread loads at once
};

static __device__ __forceinline__ void store_row(const attention_params &p, int row, int head, int dim, float value)
{
    store_bf16(p.out, ((int64_t)row * p.n_heads + head) * p.head_dim + dim, value);
}

// Stores the item's result, or its state where other runs hold the rest.
template <int HD, int NT, bool FP8>
static __device__ __forceinline__ void store_state(const all_arguments &a, const all_state<HD, NT> &s, int item,
                                                   bool whole, int head)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int row = item / a.s.parts, q_head = item % a.s.parts * a.s.q_heads + head * a.s.group;
    float *state = (float *)((char *)a.p.workspace + a.s.states_at) + ((int64_t)blockIdx.x + item) * a.s.part_floats;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int column = n * 8 + 2 * t + i;
            if (column >= a.s.group) {
                continue;
            }
            float l = s.l[n][i], scale = l > 0 ? 1 / l : 0;
            float *to = state + (head * a.s.group + column) * (HD + 2);
#pragma unroll
            for (int d = 0; d < HD / 16; d++) {
                for (int half = 0; half < 2; half++) {
                    int dim = FP8 ? d * 16 + 2 * g + half : d * 16 + half * 8 + g;
                    float value = s.out[n][d][i + 2 * half];
                    if (whole) {
                        store_row(a.p, row, q_head + column, dim, value * scale);
                    } else {
                        to[dim] = value;
                    }
                }
            }
            if (g == 0) {
                if (!whole) {
                    to[HD] = s.m[n][i];
                    to[HD + 1] = l;
                } else if (a.p.lse) {
                    a.p.lse[(int64_t)row * a.p.n_heads + q_head + column] = l > 0 ? (s.m[n][i] + log2f(l)) * 0.69314718f
                                                                                  : -INFINITY;
                }
            }
        }
    }
}

// For the merge: the first and the last run that hold a part of the item.
static __device__ __forceinline__ void note_run(const all_arguments &a, const walk &w)
{
    int32_t *ends = (int32_t *)a.p.workspace + 2 * w.item;
    if (threadIdx.x == 0 && w.first) {
        ends[0] = blockIdx.x;
    }
    if (threadIdx.x == 0 && w.last) {
        ends[1] = blockIdx.x;
    }
}

template <int HD, int NT, bool FP8>
__global__ void __launch_bounds__(THREADS, 1) attention_all_kernel(const __grid_constant__ all_arguments a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ __align__(8) uint64_t barriers[2 * MAX_STAGES];
    const int warp = threadIdx.x / 32;
    const uint32_t full = smem_address(barriers), empty = full + MAX_STAGES * 8;
    const uint32_t stages = smem_address(shared);
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.s.stages; i++) {
            barrier_init(full + i * 8, (FP8 ? a.s.whole : a.s.bulk) ? 1 : COPY_WARPS * 32);
            barrier_init(empty + i * 8, a.s.kv_heads * a.s.tile_subs * 32);    // every lane that read
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    dependents_may_launch();
    wait_for_predecessor();

    const int32_t tiles = all_tiles(item_tiles{a}, a.s.items);
    const run_cut cut = equal_runs(tiles, min(max(1, tiles / a.s.groups), a.s.runs));
    walk w = {};
    if (blockIdx.x >= runs_of(cut)) {
        return;
    }
    walk_begin(item_tiles{a}, a.s.items, w, run_begin(cut, blockIdx.x), run_begin(cut, blockIdx.x + 1));
    if (warp >= COMPUTE_WARPS) {
        if constexpr (FP8) {
            if (a.s.whole) {
                copy_whole_tokens(a, w, stages, full, empty);
                return;
            }
        } else if (a.s.bulk) {
            copy_bulk_tokens(a, w, stages, full, empty);
            return;
        }
        copy_small_tokens<FP8>(a, w, stages, full, empty);
        return;
    }
    const int head = warp % a.s.kv_heads, sub = warp / a.s.kv_heads, group = sub / a.s.tile_subs;
    const int first_token = sub % a.s.tile_subs * WARP_TOKENS, element = FP8 ? 1 : 2;
    const float scale = 1.44269504f * rsqrtf((float)HD);    // exponentials are powers of 2
    float *merge = (float *)(shared + (int64_t)a.s.stages * a.s.tile_tokens * a.s.row_bytes);
    int stage = 0, turn = 0;    // whose turn the current tile is
    uint32_t parity = 0;
    for (; w.left > 0; walk_next_item(item_tiles{a}, w)) {
        int row = w.item / a.s.parts, tokens = item_tokens(a, w.item);
        note_run(a, w);
        uint32_t q[NT][HD / 16][2];
        load_query<HD, NT, FP8>(a, row, w.item % a.s.parts * a.s.q_heads + head * a.s.group, q);
        all_state<HD, NT> s = {};
        for (int n = 0; n < NT; n++) {
            s.m[n][0] = s.m[n][1] = NO_SCORE;
        }
        uint32_t scales[2] = {}, coming[2] = {};    // FP8, not whole: those of the warp's next tokens are on their way
        auto ask_scales = [&](int tile) {
            if (FP8 && !a.s.whole) {
                int token = tile * a.s.tile_tokens + first_token + threadIdx.x % 32 / 4;
                coming[0] = load_scales(a, w.item, head, min(token, tokens - 1));
                coming[1] = load_scales(a, w.item, head, min(token + 8, tokens - 1));
            }
        };
        ask_scales(w.tile);
        for (int tile = w.tile; tile < w.item_end; tile++) {
            if (turn == group) {
                if (FP8 && !a.s.whole) {    // then every tile is every warp's
                    scales[0] = coming[0];
                    scales[1] = coming[1];
                    ask_scales(tile + 1);
                }
                barrier_wait(full + stage * 8, parity);
                uint32_t keys = stages + (stage * a.s.tile_tokens + first_token) * a.s.row_bytes + head * HD * element;
                int valid = tokens - tile * a.s.tile_tokens - first_token;
                if (valid > 0) {
                    if (FP8 && a.s.whole) {
                        uint32_t at = keys - head * HD + 2 * a.s.kv_heads * HD + head * 2;
                        at += threadIdx.x % 32 / 4 * a.s.row_bytes;
                        scales[0] = shared_u16(at);
                        scales[1] = shared_u16(at + 8 * a.s.row_bytes);
                    }
                    attend_tokens<HD, NT, FP8>(a, s, q, keys, keys + a.s.kv_heads * HD * element, valid, scale, scales);
                }
                barrier_arrive(empty + stage * 8);
            }
            turn = turn + 1 == a.s.groups ? 0 : turn + 1;
            if (++stage == a.s.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        merge_warps<HD, NT>(a, s, merge, warp);
        if (sub == 0) {
            store_state<HD, NT, FP8>(a, s, w.item, w.first && w.last, head);
        }
    }
}

// One block per item, query head and part of its dimensions: thread (d, slice) merges dimension d of every SLICES-th
// state, then the slices meet.
__global__ void __launch_bounds__(MERGE_THREADS) merge_kernel(const __grid_constant__ all_arguments a)
{
    __shared__ float sums[MERGE_THREADS], slice_m[MERGE_THREADS], slice_l[MERGE_THREADS];
    dependents_may_launch();
    wait_for_predecessor();
    const int item = blockIdx.x, head = blockIdx.y, hd = a.p.head_dim;
    const int2 ends = ((const int2 *)a.p.workspace)[item];
    const int dims = hd / (int)gridDim.z, own = threadIdx.x % dims, dim = (int)blockIdx.z * dims + own;
    const int states = ends.y - ends.x + 1, slice = threadIdx.x / dims, slices = blockDim.x / dims;
    if (states == 1) {
        return;
    }
    const float *state = (const float *)((const char *)a.p.workspace + a.s.states_at) +
                         ((int64_t)ends.x + item) * a.s.part_floats + head * (hd + 2);
    float m = NO_SCORE, l = 0, out = 0;
    for (int base = slice; base < states; base += slices * MERGE_BATCH) {
        float next_m[MERGE_BATCH], next_l[MERGE_BATCH], next_out[MERGE_BATCH];
#pragma unroll
        for (int i = 0; i < MERGE_BATCH; i++) {
            int at = base + i * slices;
            const float *from = state + (int64_t)at * a.s.part_floats;
            next_m[i] = at < states ? from[hd] : NO_SCORE;
            next_l[i] = at < states ? from[hd + 1] : 0;
            next_out[i] = at < states ? from[dim] : 0;
        }
#pragma unroll
        for (int i = 0; i < MERGE_BATCH; i++) {
            float both = fmaxf(m, next_m[i]), keep = exp2f(m - both), add = exp2f(next_m[i] - both);
            m = both;
            l = l * keep + next_l[i] * add;
            out = out * keep + next_out[i] * add;
        }
    }
    sums[threadIdx.x] = out;
    slice_m[threadIdx.x] = m;
    slice_l[threadIdx.x] = l;
    __syncthreads();
    if (slice > 0) {
        return;
    }
    for (int i = 1; i < slices; i++) {
        int at = i * dims + own;
        float both = fmaxf(m, slice_m[at]), keep = exp2f(m - both), add = exp2f(slice_m[at] - both);
        m = both;
        l = l * keep + slice_l[at] * add;
        out = out * keep + sums[at] * add;
    }
    int row = item / a.s.parts, q_head = item % a.s.parts * a.s.q_heads + head;
    store_row(a.p, row, q_head, dim, l > 0 ? out / l : 0);
    if (dim == 0 && a.p.lse) {
        a.p.lse[(int64_t)row * a.p.n_heads + q_head] = l > 0 ? (m + log2f(l)) * 0.69314718f : -INFINITY;
    }
}

// neighbours: the KV heads of a token lie side by side, so that one copy takes several.
static all_shape shape_of(int32_t n_rows, int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, bool neighbours,
                          bool fp8)
{
    const int32_t head_bytes = head_dim * (fp8 ? 1 : 2);
    all_shape s = {};
    s.kv_heads = neighbours && COMPUTE_WARPS % n_kv_heads == 0 ? n_kv_heads : 1;
    s.parts = n_kv_heads / s.kv_heads;
    s.q_heads = n_heads / s.parts;
    s.group = s.q_heads / s.kv_heads;
    s.whole = fp8 && neighbours && s.parts == 1;
    s.bulk = neighbours && s.kv_heads * head_dim * 2 >= BULK_BYTES && s.whole == fp8;
    s.tile_subs = s.bulk ? 1 : COMPUTE_WARPS / s.kv_heads;
    s.groups = COMPUTE_WARPS / s.kv_heads / s.tile_subs;
    s.tile_tokens = WARP_TOKENS * s.tile_subs;
    s.row_bytes = s.kv_heads * head_bytes * 2 + ROW_PAD;    // fp8: as plan_kv_token_bytes says of up to 8 KV heads
    int32_t merge_bytes = (COMPUTE_WARPS - s.kv_heads) * s.group * (head_dim + 2) * 4;
    int32_t left = SMEM_BYTES - 1024 - merge_bytes;    // 1024: barriers and what the system reserves
    s.stages = left / (s.tile_tokens * s.row_bytes);
    const int32_t enough = s.groups > STAGES / 2 ? 2 * s.groups : STAGES;
    s.stages = s.stages > enough ? enough : s.stages;
    // A barrier's parity tells a phase from the one before it, not from the one before that: who comes to wait for a
    // stage's next use but one is let through. Nobody can where a stage always comes back to the same group of warps,
    // and where what a copying warp waited for at its tile before was a tile of that group, no older than the stage's
    // last.
    s.stages -= s.stages % s.groups;
    s.copiers = s.stages < COPY_WARPS ? s.stages : COPY_WARPS;
    s.items = n_rows * s.parts;
    s.part_floats = s.q_heads * (head_dim + 2);
    s.states_at = ((int64_t)s.items * 8 + 15) / 16 * 16;
    s.runs = multiprocessors();
    return s;
}

int64_t attention_all_workspace_bytes(int32_t n_rows, int32_t n_heads, int32_t n_kv_heads, int32_t head_dim)
{
    int64_t most = 0;
    for (int neighbours = 0; neighbours < 2; neighbours++) {
        all_shape s = shape_of(n_rows, n_heads, n_kv_heads, head_dim, neighbours, false);    // as of fp8
        int64_t bytes = s.states_at + ((int64_t)s.items + s.runs) * s.part_floats * (int64_t)sizeof(float);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static int32_t log2_exact(int32_t n)
{
    int32_t shift = 0;
    while (1 << shift < n) {
        shift++;
    }
    return 1 << shift == n ? shift : -1;
}

// Neighbours among an item's tokens, from a multiple of the answer on, that lie in one page.
static int32_t together(const attention_params *p)
{
    int32_t tokens = WARP_TOKENS;
    while (p->view.page_tokens % tokens != 0) {
        tokens /= 2;
    }
    return tokens;
}

template <int HD, int NT, bool FP8> static int launch_attention(const all_arguments &a, cudaStream_t stream)
{
    launch_shape shape = {};
    shape.grid = dim3((unsigned)a.s.runs);
    shape.threads = THREADS;
    shape.smem_bytes = (size_t)a.s.stages * a.s.tile_tokens * a.s.row_bytes +
                       (size_t)(COMPUTE_WARPS - a.s.kv_heads) * a.s.group * (HD + 2) * 4;
    int error = allow_smem("attention", attention_all_kernel<HD, NT, FP8>, SMEM_BYTES - 1024);
    if (!error) {
        error = launch("attention", attention_all_kernel<HD, NT, FP8>, shape, stream, a);
    }
    if (error) {
        return error;
    }
    launch_shape merge = {};
    merge.grid = dim3((unsigned)a.s.items, (unsigned)a.s.q_heads);
    const bool few = a.s.items * a.s.q_heads <= a.s.runs;
    merge.threads = few ? MERGE_THREADS : MERGE_THREADS / 4;
    merge.grid.z = few && HD > MERGE_DIMS ? HD / MERGE_DIMS : 1;
    return launch("attention merge", merge_kernel, merge, stream, a);
}

template <int HD> static int launch_dim(const all_arguments &a, cudaStream_t stream)
{
    if (a.p.view.dtype == DTYPE_FP8) {
        return a.s.group <= 8 ? launch_attention<HD, 1, true>(a, stream) : launch_attention<HD, 2, true>(a, stream);
    }
    return a.s.group <= 8 ? launch_attention<HD, 1, false>(a, stream) : launch_attention<HD, 2, false>(a, stream);
}

int attention_all_launch(const attention_params *p, cudaStream_t stream)
{
    all_arguments a = {};
    a.p = *p;
    const bool fp8 = p->view.dtype == DTYPE_FP8;
    a.s = shape_of(p->rows.n, p->n_heads, p->n_kv_heads, p->head_dim,
                   p->view.head_stride == p->head_dim * (fp8 ? 1 : 2), fp8);
    if (a.s.whole &&
        (p->view.token_stride != a.s.row_bytes || p->view.scale_offset != 2 * p->n_kv_heads * p->head_dim)) {
        return status_fail(-ENOTSUP, "attention: fp8 tokens of %lld bytes; %d", (long long)p->view.token_stride,
                           a.s.row_bytes);
    }
    a.s.page_shift = log2_exact(p->view.page_tokens);
    a.s.copy_tokens = together(p);
    switch (p->head_dim) {
    case 16: return launch_dim<16>(a, stream);
    case 32: return launch_dim<32>(a, stream);
    case 64: return launch_dim<64>(a, stream);
    case 128: return launch_dim<128>(a, stream);
    default: return status_fail(-ENOTSUP, "attention: heads of %d; 16, 32, 64 or 128", p->head_dim);
    }
}
