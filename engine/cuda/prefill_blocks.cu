// engine/cuda/prefill_blocks.cu - attention of many prompt rows over selected blocks of keys, block by block.
//
// The part of prefill_selected.cu for units of whole 128 tokens. A row selects few blocks, but a block is selected by
// many rows, so the selection is turned round: each block is read once and meets all rows that selected it, 12 rows
// of 5 query heads per product. Every (row, block) leaves its own softmax state, and the states of a row are merged
// at the end.
//   1. clear_kernel, count_kernel: how many rows selected each block; each (row, block) draws its place in its list.
//   2. plan_kernel: where each list begins, and which pieces of lists are to be worked on (ITEM_PRODUCTS products
//      each).
//   3. fill_kernel: the lists.
//   4. block_kernel: keys and values of 128 tokens in shared memory; two warpgroups take the products of the piece in
//      turns: Q gathered, scores, softmax in one go (all 128 scores of a row are there), P V, state out.
//   5. merge_kernel: a warp per row and query head.
// The order within a list is the order of arrival, but a row's numbers do not depend on its neighbours in a product,
// and the merge follows the row's own list: results are deterministic.
//
// Floor: the states, head_dim * 2 bytes per (row, block, query head), written and read once: 131072 rows of 16 blocks
// and 20 heads of 128 over 4 sets are 10.7 GB twice.
//
// Measured on an H100, 20 query over 4 KV heads of 128, one layer's prefill of 131072 tokens in steps of 8192 rows
// (four steps, times four), 16 blocks of 128 for each KV head: 20 ms, whatever neighbours share; row by row through
// attention.cu 189 ms.
#include "engine/cuda/prefill_selected.cuh"

enum {
    BLOCK_TOKENS = 128,
    GROUPS = 2,                      // warpgroups of a block
    BLOCK_THREADS = GROUPS * 128,
    ITEM_PRODUCTS = 16,              // of one piece of a list: its keys and values are loaded once
    PLAN_THREADS = 1024,
    MERGE_THREADS = 256,
    SLICE_ROWS = 4096                // of one round of launches; bounds the workspace
};

static const float NO_STATE = -1e30f;    // finite, so that differences of it are numbers

struct block_arguments {
    prefill_selected_params p;
    selected_parts s;
    int32_t first_row, rows;         // of this slice
    int32_t max_units, lists;        // lists: n_seqs * sets * max_units, one per block of tokens
    int32_t subs;                    // tiles of BLOCK_TOKENS in a unit
    int32_t max_items;
    int32_t *count;                  // [lists] rows
    int32_t *begin;                  // [lists] first pair of a list
    int32_t *place;                  // [rows][sets][stride] of a pair in its list
    int32_t *pairs;                  // [rows * sets * stride] sorted by list: index of (row of slice, set, entry)
    int2 *items;                     // [max_items] list, first pair in it
    int32_t *n_items;
    float *lse;                      // [rows][parts][stride][subs][group] in powers of 2
    uint32_t *out;                   // [rows][parts][stride][subs][group][head_dim/2], in the order of the accumulators
};

// The list that a pair belongs to, or -1 where the row selected fewer.
static __device__ __forceinline__ int list_of(const block_arguments &a, int pair)
{
    const selection &s = a.p.selection;
    int entry = pair % s.stride, set = pair / s.stride % s.sets, row = a.first_row + pair / s.stride / s.sets;
    int64_t row_set = (int64_t)row * s.sets + set;
    if (entry >= s.count[row_set]) {
        return -1;
    }
    return (a.p.rows.seq[row] * s.sets + set) * a.max_units + s.unit[row_set * s.stride + entry];
}

__global__ void clear_kernel(const __grid_constant__ block_arguments a)
{
    dependents_may_launch();
    wait_for_predecessor();
    int list = blockIdx.x * blockDim.x + threadIdx.x;
    if (list < a.lists) {
        a.count[list] = 0;
    }
}

__global__ void count_kernel(const __grid_constant__ block_arguments a)
{
    dependents_may_launch();
    wait_for_predecessor();
    int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair < a.rows * a.p.selection.sets * a.p.selection.stride) {
        int list = list_of(a, pair);
        if (list >= 0) {
            a.place[pair] = atomicAdd(&a.count[list], 1);
        }
    }
}

// Two running sums over all lists, PLAN_THREADS lists at a time: pairs and items before each.
__global__ void __launch_bounds__(PLAN_THREADS) plan_kernel(const __grid_constant__ block_arguments a)
{
    __shared__ int2 sums[PLAN_THREADS / 32];
    dependents_may_launch();
    wait_for_predecessor();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, item_rows = ITEM_PRODUCTS * a.s.tile_rows;
    int2 before = {0, 0};
    for (int base = 0; base < a.lists; base += PLAN_THREADS) {
        int list = base + threadIdx.x, count = list < a.lists ? a.count[list] : 0;
        int items = (count + item_rows - 1) / item_rows;
        int2 through = {count, items};
        for (int i = 1; i < 32; i *= 2) {
            int x = __shfl_up_sync(FULL_MASK, through.x, i), y = __shfl_up_sync(FULL_MASK, through.y, i);
            through.x += lane >= i ? x : 0;
            through.y += lane >= i ? y : 0;
        }
        if (lane == 31) {
            sums[warp] = through;
        }
        __syncthreads();
        int2 all = before;
        for (int i = 0; i < PLAN_THREADS / 32; i++) {
            before.x += i < warp ? sums[i].x : 0;
            before.y += i < warp ? sums[i].y : 0;
            all.x += sums[i].x;
            all.y += sums[i].y;
        }
        if (list < a.lists) {
            a.begin[list] = before.x + through.x - count;
        }
        for (int i = 0; i < items; i++) {
            a.items[before.y + through.y - items + i] = {list, i * item_rows};
        }
        before = all;
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *a.n_items = before.y;
    }
}

__global__ void fill_kernel(const __grid_constant__ block_arguments a)
{
    dependents_may_launch();
    wait_for_predecessor();
    int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair < a.rows * a.p.selection.sets * a.p.selection.stride) {
        int list = list_of(a, pair);
        if (list >= 0) {
            a.pairs[a.begin[list] + a.place[pair]] = pair;
        }
    }
}

// What a block works on: pairs [begin, end) of a list, tokens [first, first + BLOCK_TOKENS) of its sequence, for one
// part.
struct work {
    const int32_t *pairs;
    int n, first, part, sub, seq;
};

static __device__ __forceinline__ int row_of(const block_arguments &a, int pair)
{
    return a.first_row + pair / a.p.selection.stride / a.p.selection.sets;
}

static __device__ __forceinline__ work work_of(const block_arguments &a)
{
    const int2 item = a.items[blockIdx.x];
    const int unit = item.x % a.max_units, set = item.x / a.max_units % a.p.selection.sets;
    work w;
    w.pairs = a.pairs + a.begin[item.x] + item.y;
    w.n = min(ITEM_PRODUCTS * a.s.tile_rows, a.count[item.x] - item.y);
    w.sub = blockIdx.y % a.subs;
    w.part = set * (a.s.parts / a.p.selection.sets) + blockIdx.y / a.subs;
    w.seq = item.x / a.max_units / a.p.selection.sets;
    w.first = unit * a.p.selection.unit_tokens + w.sub * BLOCK_TOKENS;
    return w;
}

// Starts the copies of the block's keys and values. Tokens behind every row's position, masked for all and perhaps
// never written, are replaced by the last that is not.
template <int HD>
static __device__ __forceinline__ void load_block(const block_arguments &a, const work &w, int latest, uint32_t keys)
{
    constexpr int CHUNKS = HD / 8;
    const int head = (int)((int64_t)w.part * a.p.n_kv_heads / a.s.parts), chunk = threadIdx.x % CHUNKS;
    for (int token = threadIdx.x / CHUNKS; token < BLOCK_TOKENS; token += BLOCK_THREADS / CHUNKS) {
        int64_t key = key_number<HD>(a.p, w.seq, min(w.first + token, latest), head);
        const uint8_t *from = a.p.view.data + key * (HD * 2) + chunk * 16;
        uint32_t to = keys + swizzled(token, chunk, BLOCK_TOKENS);
        copy_16(to, from);
        copy_16(to + BLOCK_TOKENS * HD * 2, from + a.p.view.value_offset);
    }
}

// Starts the copies of one product's queries by its warpgroup; rows that are not in use are zero.
template <int HD>
static __device__ __forceinline__ void load_queries(const block_arguments &a, const work &w, int product, uint32_t to,
                                                    uint8_t *shared)
{
    constexpr int CHUNKS = HD / 8;
    const int chunk = threadIdx.x % CHUNKS;
    for (int at = threadIdx.x % 128 / CHUNKS; at < 64; at += 128 / CHUNKS) {
        int row = at / a.s.group, pair = product * a.s.tile_rows + row;
        uint32_t offset = swizzled(at, chunk, 64);
        if (row < a.s.tile_rows && pair < w.n) {
            int64_t head = (int64_t)row_of(a, w.pairs[pair]) * a.p.n_heads + w.part * a.s.group + at % a.s.group;
            copy_16(to + offset, (const uint8_t *)a.p.q + head * HD * 2 + chunk * 16);
        } else {
            *(uint4 *)(shared + offset) = make_uint4(0, 0, 0, 0);
        }
    }
}

static __device__ __forceinline__ void wait_for_copies()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// Softmax over the 128 scores of each of a thread's two rows, as A of the next product. last: the last token that the
// row sees, counted from the block's first.
static __device__ __forceinline__ void softmax_block(float (&c)[BLOCK_TOKENS / 8][4], const int (&last)[2], float scale,
                                                     float (&m)[2], float (&l)[2], uint32_t (&p)[BLOCK_TOKENS / 16][4])
{
    const int t = threadIdx.x % 4;
    m[0] = m[1] = -INFINITY;
    if (__any_sync(FULL_MASK, last[0] < BLOCK_TOKENS - 1 || last[1] < BLOCK_TOKENS - 1)) {
#pragma unroll
        for (int n = 0; n < BLOCK_TOKENS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                c[n][i] = n * 8 + 2 * t + i % 2 <= last[i / 2] ? c[n][i] : -INFINITY;
            }
        }
    }
#pragma unroll
    for (int n = 0; n < BLOCK_TOKENS / 8; n++) {
        m[0] = fmaxf(m[0], fmaxf(c[n][0], c[n][1]));
        m[1] = fmaxf(m[1], fmaxf(c[n][2], c[n][3]));
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        m[i] = fmaxf(m[i], __shfl_xor_sync(FULL_MASK, m[i], 1));
        m[i] = fmaxf(m[i], __shfl_xor_sync(FULL_MASK, m[i], 2)) * scale;
        m[i] = m[i] == -INFINITY ? 0 : m[i];    // nothing seen: all probabilities are 0
        l[i] = 0;
    }
#pragma unroll
    for (int n = 0; n < BLOCK_TOKENS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            c[n][i] = power_of_2(c[n][i] * scale - m[i / 2]);
            l[i / 2] += c[n][i];
        }
        p[n / 2][n % 2 * 2] = pack_bf16(c[n][0], c[n][1]);
        p[n / 2][n % 2 * 2 + 1] = pack_bf16(c[n][2], c[n][3]);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        l[i] += __shfl_xor_sync(FULL_MASK, l[i], 1);
        l[i] += __shfl_xor_sync(FULL_MASK, l[i], 2);
    }
}

// Where the state of a row's head lies: index into lse, and times head_dim / 2 into out.
static __device__ __forceinline__ int64_t state_of(const block_arguments &a, int row, int part, int entry, int sub,
                                                   int head)
{
    return ((((int64_t)row * a.s.parts + part) * a.p.selection.stride + entry) * a.subs + sub) * a.s.group + head;
}

// The four lanes of a row write 64 bytes side by side: their columns of four neighbouring groups of 8 dimensions.
template <int HD>
static __device__ __forceinline__ void store_state(const block_arguments &a, const work &w, int pair, int head, int i,
                                                   const float (&out)[HD / 8][4], float m, float l)
{
    const int t = threadIdx.x % 4, stride = a.p.selection.stride;
    int64_t state = state_of(a, pair / stride / a.p.selection.sets, w.part, pair % stride, w.sub, head);
    float scale = l > 0 ? 1 / l : 0;
    uint4 *to = (uint4 *)(a.out + state * (HD / 2)) + t;
#pragma unroll
    for (int d = 0; d < HD / 8; d += 4) {
        to[d] = make_uint4(pack_bf16(out[d][2 * i] * scale, out[d][2 * i + 1] * scale),
                           pack_bf16(out[d + 1][2 * i] * scale, out[d + 1][2 * i + 1] * scale),
                           pack_bf16(out[d + 2][2 * i] * scale, out[d + 2][2 * i + 1] * scale),
                           pack_bf16(out[d + 3][2 * i] * scale, out[d + 3][2 * i + 1] * scale));
    }
    if (t == 0) {
        a.lse[state] = l > 0 ? m + log2f(l) : -INFINITY;
    }
}

// One product of a warpgroup: its queries are in shared memory; those of its next product are on their way when it
// returns.
template <int HD>
static __device__ __forceinline__ void attend_product(const block_arguments &a, const work &w, int product,
                                                      uint32_t keys, uint32_t queries, uint8_t *queries_at)
{
    const int warp = threadIdx.x % 128 / 32, g = threadIdx.x % 32 / 4, group = threadIdx.x / 128;
    const uint32_t values = keys + BLOCK_TOKENS * HD * 2;
    const float scale = 1.44269504f * rsqrtf((float)HD);    // exponentials are powers of 2
    int pair[2], last[2];
    for (int i = 0; i < 2; i++) {
        int row = (warp * 16 + i * 8 + g) / a.s.group, at = product * a.s.tile_rows + row;
        pair[i] = row < a.s.tile_rows && at < w.n ? w.pairs[at] : -1;
        last[i] = pair[i] >= 0 ? a.p.rows.position[row_of(a, pair[i])] - w.first : BLOCK_TOKENS;
    }
    float m[2], l[2];
    uint32_t p[BLOCK_TOKENS / 16][4];
    {
        float c[BLOCK_TOKENS / 8][4];
        group_mma_begin();
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            group_mma_bf16(c, tile_descriptor(queries + k / 4 * 64 * 128 + k % 4 * 32, 64),
                           tile_descriptor(keys + k / 4 * BLOCK_TOKENS * 128 + k % 4 * 32, BLOCK_TOKENS), k > 0);
        }
        group_mma_end();
        asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");    // all four warps have read the queries
        if ((product + GROUPS) * a.s.tile_rows < w.n) {
            load_queries<HD>(a, w, product + GROUPS, queries, queries_at);
        }
        softmax_block(c, last, scale, m, l, p);
    }
    float out[HD / 8][4] = {};
    group_mma_begin();
#pragma unroll
    for (int k = 0; k < BLOCK_TOKENS / 16; k++) {
        group_mma_bf16_by_rows(out, p[k], tile_descriptor(values + k * 16 * 128, BLOCK_TOKENS));
    }
    group_mma_end();
    for (int i = 0; i < 2; i++) {
        if (pair[i] >= 0) {
            store_state<HD>(a, w, pair[i], (warp * 16 + i * 8 + g) % a.s.group, i, out, m[i], l[i]);
        }
    }
}

template <int HD>
__global__ void __launch_bounds__(BLOCK_THREADS, 2) block_kernel(const __grid_constant__ block_arguments a)
{
    extern __shared__ __align__(1024) uint8_t shared[];    // the swizzle goes by address: keys, values, queries
    __shared__ int latest_of[BLOCK_THREADS / 32];
    dependents_may_launch();
    wait_for_predecessor();
    if (blockIdx.x >= *a.n_items) {
        return;
    }
    const work w = work_of(a);
    int latest = 0;
    for (int i = threadIdx.x; i < w.n; i += BLOCK_THREADS) {
        latest = max(latest, a.p.rows.position[row_of(a, w.pairs[i])]);
    }
    latest = __reduce_max_sync(FULL_MASK, latest);
    if (threadIdx.x % 32 == 0) {
        latest_of[threadIdx.x / 32] = latest;
    }
    __syncthreads();
    for (int i = 0; i < BLOCK_THREADS / 32; i++) {
        latest = max(latest, latest_of[i]);
    }
    const int group = threadIdx.x / 128, queries_at = BLOCK_TOKENS * HD * 4 + group * 64 * HD * 2;
    const uint32_t keys = smem_address(shared), queries = keys + queries_at;
    load_block<HD>(a, w, latest, keys);
    if (group * a.s.tile_rows < w.n) {
        load_queries<HD>(a, w, group, queries, shared + queries_at);
    }
    wait_for_copies();
    fence_for_group_mma();
    __syncthreads();
    for (int product = group; product * a.s.tile_rows < w.n; product += GROUPS) {
        attend_product<HD>(a, w, product, keys, queries, shared + queries_at);
        wait_for_copies();
        fence_for_group_mma();
        asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
    }
}

// A warp per row and query head. A lane owns HD / 64 words of each state; word w of a state holds the two dimensions
// ((w / 16 * 4 + w % 4) * 8 + w / 4 % 4 * 2) and one more.
template <int HD>
__global__ void __launch_bounds__(MERGE_THREADS) merge_kernel(const __grid_constant__ block_arguments a)
{
    dependents_may_launch();
    wait_for_predecessor();
    constexpr int WORDS = HD / 64;
    const int lane = threadIdx.x % 32, at = blockIdx.x * (MERGE_THREADS / 32) + threadIdx.x / 32;
    const int row = at / a.p.n_heads, q_head = at % a.p.n_heads, part = q_head / a.s.group;
    if (row >= a.rows) {
        return;
    }
    const int64_t list = (int64_t)(a.first_row + row) * a.p.selection.sets + part * a.p.selection.sets / a.s.parts;
    const int states = a.p.selection.count[list] * a.subs;
    const int64_t first = state_of(a, row, part, 0, 0, q_head % a.s.group);
    const float *lse = a.lse + first;
    const uint32_t *out = a.out + first * (HD / 2) + lane * WORDS;
    float most = NO_STATE, sum = 0, merged[2 * WORDS] = {};
    for (int i = lane; i < states; i += 32) {
        most = fmaxf(most, lse[(int64_t)i * a.s.group]);
    }
    for (int i = 16; i; i /= 2) {
        most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, i));
    }
#pragma unroll 8
    for (int i = 0; i < states; i++) {
        float weight = power_of_2(lse[(int64_t)i * a.s.group] - most);
        sum += weight;
#pragma unroll
        for (int j = 0; j < WORDS; j++) {
            uint32_t pair = out[(int64_t)i * a.s.group * (HD / 2) + j];
            merged[2 * j] += weight * bf16_low(pair);
            merged[2 * j + 1] += weight * bf16_high(pair);
        }
    }
    const int64_t head = (int64_t)(a.first_row + row) * a.p.n_heads + q_head;
    float scale = sum > 0 ? 1 / sum : 0;
#pragma unroll
    for (int j = 0; j < WORDS; j++) {
        int word = lane * WORDS + j, dim = (word / 16 * 4 + word % 4) * 8 + word / 4 % 4 * 2;
        ((uint32_t *)a.p.out)[(head * HD + dim) / 2] = pack_bf16(merged[2 * j] * scale, merged[2 * j + 1] * scale);
    }
    if (lane == 0 && a.p.lse) {
        a.p.lse[head] = sum > 0 ? (most + log2f(sum)) * 0.69314718f : -INFINITY;
    }
}

template <typename T> static void take(T *&array, int64_t n, char *&at)
{
    array = (T *)at;
    at += round_up(n * (int64_t)sizeof(T));
}

// Cuts the workspace for slices of a->rows rows. Returns its bytes.
static int64_t cut_workspace(const prefill_selected_params *p, block_arguments *a)
{
    const selection *s = &p->selection;
    a->p = *p;
    a->s = selected_parts_of(p);
    a->rows = p->rows.n < SLICE_ROWS ? p->rows.n : SLICE_ROWS;
    a->max_units = (int32_t)(((int64_t)p->rows.max_pages * p->view.page_tokens - 1) / s->unit_tokens + 1);
    a->lists = p->n_seqs * s->sets * a->max_units;
    a->subs = s->unit_tokens / BLOCK_TOKENS;
    int64_t pairs = (int64_t)a->rows * s->sets * s->stride, used = pairs < a->lists ? pairs : a->lists;
    a->max_items = (int32_t)(used + pairs / (ITEM_PRODUCTS * a->s.tile_rows));
    int64_t states = (int64_t)a->rows * a->s.parts * s->stride * a->subs * a->s.group;
    char *at = (char *)p->workspace;
    take(a->count, a->lists, at);
    take(a->begin, a->lists, at);
    take(a->place, pairs, at);
    take(a->pairs, pairs, at);
    take(a->items, a->max_items, at);
    take(a->n_items, 1, at);
    take(a->lse, states, at);
    take(a->out, states * (p->head_dim / 2), at);
    return at - (char *)p->workspace;
}

int64_t prefill_blocks_workspace_bytes(const prefill_selected_params *p)
{
    block_arguments a;
    return cut_workspace(p, &a);
}

template <int HD> static int launch_slice(const block_arguments &a, cudaStream_t stream)
{
    const int32_t pairs = a.rows * a.p.selection.sets * a.p.selection.stride, warps = MERGE_THREADS / 32;
    launch_shape shape = {};
    shape.threads = 256;
    shape.grid = dim3((unsigned)((a.lists + 255) / 256));
    int error = launch("prefill blocks clear", clear_kernel, shape, stream, a);
    shape.grid = dim3((unsigned)((pairs + 255) / 256));
    error = error ? error : launch("prefill blocks count", count_kernel, shape, stream, a);
    launch_shape plan = {};
    plan.threads = PLAN_THREADS;
    plan.grid = dim3(1);
    error = error ? error : launch("prefill blocks plan", plan_kernel, plan, stream, a);
    error = error ? error : launch("prefill blocks fill", fill_kernel, shape, stream, a);
    launch_shape attend = {};
    attend.threads = BLOCK_THREADS;
    attend.grid = dim3((unsigned)a.max_items, (unsigned)(a.s.parts / a.p.selection.sets * a.subs));
    attend.smem_bytes = BLOCK_TOKENS * HD * 4 + GROUPS * 64 * HD * 2;
    error = error ? error : allow_smem("prefill blocks", block_kernel<HD>, attend.smem_bytes);
    error = error ? error : launch("prefill blocks", block_kernel<HD>, attend, stream, a);
    launch_shape merge = {};
    merge.threads = MERGE_THREADS;
    merge.grid = dim3((unsigned)((a.rows * a.p.n_heads + warps - 1) / warps));
    return error ? error : launch("prefill blocks merge", merge_kernel<HD>, merge, stream, a);
}

int prefill_blocks_launch(const prefill_selected_params *p, cudaStream_t stream)
{
    block_arguments a = {};
    cut_workspace(p, &a);
    const int32_t most = a.rows;
    for (int32_t row = 0; row < p->rows.n; row += most) {
        a.first_row = row;
        a.rows = p->rows.n - row < most ? p->rows.n - row : most;
        int error = p->head_dim == 128 ? launch_slice<128>(a, stream) : launch_slice<64>(a, stream);
        if (error) {
            return error;
        }
    }
    return 0;
}
