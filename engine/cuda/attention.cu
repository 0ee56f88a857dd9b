// engine/cuda/attention.cu - attention of single query rows over selected keys or a window; all keys: attention_all.cu.
//
// Bound by reading keys and values once, and for few rows by the latency of a chain: length, selection, page, keys,
// exchange. Therefore no staging in shared memory and no second kernel. Warps work alone on tiles of 16 tokens
// (attend_tile.cuh): while one tile is computed the next one's keys and values are on their way to registers, and the
// addresses of the one after that are looked up.
//
// An item is a row with one of its selection sets, or with one of its KV heads; a cluster of blocks works on an item.
// Its warps' states meet in shared memory, its blocks' states in each other's: every block owns a share of the output
// (units of 4 dimensions) and is sent what the others know of it. Clusters are as wide as lets all items run at once.
// Blocks are of 8 warps, one per multiprocessor, or of 4, three per multiprocessor: whichever brings more warps to an
// item. Sums run in the order of warps and blocks: the same shape on the same chip gives the same bits.
//
// In a decode step the window's rows are finished on the way: q and the row's own key, as the projection left them, are
// normed and turned, and the key and value kept in the ring. Where params.early allows it, a warp's first keys and
// values are under way before q is there.
//
// Measured on an H100 (3.1 TB/s), 20 query over 4 KV heads of 128, 131072 tokens, 1 / 8 / 32 rows: 2048 selected tokens
// 7.6 / 18.6 / 53.8 us, window of 512 5.4 / 8.4 / 16.5 us; before this version, 16 blocks of 128 for each KV head
// 8.0 / 19.2 / 54.4 us. The kernel of attention_all.cu, which did this once: 10.7 / 22.9 / 60.9, 9.3 / 11.5 / 22.1,
// 13.0 / 24.1 / 63.3 us.
// On an H200 bf16 and fp8: 2048 tokens 6.6 / 16.1 / 43.5 and 6.4 / 16.7 / 47.5 us, 16 blocks of 128 for each KV head
// 6.6 / 15.7 / 41.5 and 6.5 / 15.7 / 42.5 us: what fp8 spares in reading, widening it takes.
// Clusters of 3, 6 and 12 blocks among those to choose from: the same times.
#include "engine/cuda/attend_tile.cuh"
#include "engine/cuda/attention_all.cuh"
#include "engine/cuda/cluster.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/rotary.cuh"

enum { MAX_GROUP = 16 };

// Division of 0 .. 2^31 - 1 by a divisor that does not change: a multiplication.
struct divider {
    uint32_t magic;
    int32_t by, shift;
};

static divider divider_of(int32_t by)
{
    divider d = {0, by, 0};
    while ((int64_t)1 << d.shift < by) {
        d.shift++;
    }
    d.magic = (uint32_t)((((uint64_t)1 << (31 + d.shift)) + (uint64_t)by - 1) / (uint64_t)by);
    return d;
}

static __device__ __forceinline__ int operator/(int n, const divider &d)
{
    return (int)(__umulhi(2u * (unsigned)n, d.magic) >> d.shift);
}

static __device__ __forceinline__ int operator%(int n, const divider &d)
{
    return n - n / d * d.by;
}

// How rows are cut into items.
struct attend_shape {
    int32_t parts;      // items per row
    int32_t group;      // query heads of an item: they share a KV head
    divider by_page;    // page_tokens
    divider by_unit;    // the selection's unit_tokens
    divider by_parts;
    int32_t cluster;          // blocks of an item
    int32_t cluster_shift;    // log2 of it
    int32_t units;            // of 4 dimensions, of an item's output
    int32_t share;            // of them, of one block: unit u is number u / cluster of block u % cluster
    int32_t items;
};

struct attend_arguments {
    attention_params p;
    attend_shape s;
};

// Which list of the selection an item follows.
static __device__ __forceinline__ int list_of(const attend_arguments &a, int item)
{
    const int sets = a.p.selection.sets;
    return item / a.s.by_parts * sets + (sets == 1 ? 0 : item % a.s.by_parts * sets / a.s.parts);
}

static __device__ __forceinline__ int kv_head_of(const attend_arguments &a, int item)
{
    return item % a.s.by_parts * a.p.n_kv_heads / a.s.parts;
}

static __device__ __forceinline__ int item_tokens(const attend_arguments &a, int item)
{
    const int position = a.p.rows.position[item / a.s.by_parts];
    if (a.p.over == ATTEND_WINDOW) {
        return min(position + 1, a.p.window_tokens);
    }
    const int64_t list = list_of(a, item);
    const int count = a.p.selection.count[list], per = a.p.selection.unit_tokens;
    if (per == 1 || count == 0) {
        return count;
    }
    int last = a.p.selection.unit[list * a.p.selection.stride + count - 1] * per;
    return (count - 1) * per + min(per, position + 1 - last);
}

// What a warp needs to find the tokens of an item. A token is found in two steps, each a load
// whose latency hides behind a tile: its number, then its page. Small, for it competes with a tile for registers.
struct finder {
    const uint8_t *cache;     // of the KV head; WINDOW: of the sequence's ring
    int32_t tokens;           // of the item
    int32_t oldest;           // WINDOW: first token; else 0
    int32_t list_or_fresh;    // SELECTED: where the list begins | WINDOW: first token that is fresh
    int32_t pages_or_row;    // SELECTED: where the sequence's pages begin | WINDOW: fresh row of token 0, were it fresh
    int32_t head;
};

static __device__ __forceinline__ finder finder_of(const attend_arguments &a, int item, int tokens)
{
    const attention_params &p = a.p;
    const int row = item / a.s.by_parts, seq = p.rows.seq[row];
    finder f = {};
    f.head = kv_head_of(a, item);
    f.cache = p.view.data + f.head * p.view.head_stride;
    f.tokens = tokens;
    f.pages_or_row = seq * p.rows.max_pages;
    if (p.over == ATTEND_WINDOW) {
        f.oldest = max(0, p.rows.position[row] + 1 - p.window_tokens);
        f.list_or_fresh = p.context[seq];
        f.pages_or_row = p.first_row[seq] - f.list_or_fresh;
        f.cache += p.slot[seq] * p.view.page_stride;
    } else {
        f.list_or_fresh = list_of(a, item) * p.selection.stride;
    }
    return f;
}

// The token that is number `index` of the item. Beyond the end, the last one: what is masked must still be numbers.
static __device__ __forceinline__ int find_token(const attend_arguments &a, const finder &f, int index)
{
    index = min(index, f.tokens - 1);
    if (a.p.over == ATTEND_WINDOW) {
        return f.oldest + index;
    }
    int number = index / a.s.by_unit;
    return (a.p.selection.unit[f.list_or_fresh + number] - number) * a.s.by_unit.by + index;
}

static __device__ __forceinline__ int find_page(const attend_arguments &a, const finder &f, int token)
{
    return a.p.over == ATTEND_WINDOW ? 0 : a.p.rows.pages[f.pages_or_row + token / a.s.by_page];
}

// fp8: `scales` is loaded, for that takes as long as the keys that it is needed with.
template <bool FP8>
static __device__ __forceinline__ void find_address(const attend_arguments &a, const finder &f, int token, int page,
                                                    const uint8_t *&key, const uint8_t *&value, uint32_t &scales)
{
    const attention_params &p = a.p;
    if (p.over == ATTEND_WINDOW && token >= f.list_or_fresh) {
        int64_t at = ((int64_t)(f.pages_or_row + token) * p.n_kv_heads + f.head) * p.head_dim * 2;
        key = (const uint8_t *)p.fresh_k + at;
        value = (const uint8_t *)p.fresh_v + at;
        return;
    }
    key = f.cache + page * p.view.page_stride + token % a.s.by_page * p.view.token_stride;
    value = key + p.view.value_offset;
    if constexpr (FP8) {
        uint16_t both;
        asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];"
                     : "=h"(both)
                     : "l"(scales_at(p.view, page, token % a.s.by_page, f.head)));
        scales = both;
    }
}

// What norms and turns heads on the way, in shared memory; written before the kernel waits for its predecessor.
struct finisher {
    finish_tables query, key;
    uint32_t own_key;    // shared memory: the words of an item's own key, as lanes hold them [4][words]
};

template <int HD> struct finish_memory {
    __align__(16) float2 turns[HD / 2];
    __align__(16) float q_norm[HD], k_norm[HD];
    __align__(16) uint32_t own_key[HD / 2];
};

// All threads of a block, which then meet.
template <int HD, int WARPS>
static __device__ __forceinline__ finisher fill_finisher(const attend_arguments &a, finish_memory<HD> &memory, int item)
{
    const head_finish &f = a.p.finish;
    const int position = a.p.rows.position[item / a.s.by_parts];
    for (int i = threadIdx.x; i < HD; i += WARPS * 32) {
        if (i < HD / 2) {
            memory.turns[i] = f.theta > 0 ? turn_at(turns_per_position(i, HD, f.theta), position) : make_float2(1, 0);
        }
        memory.q_norm[i] = f.q_norm ? f.q_norm[i] : 1;
        memory.k_norm[i] = f.k_norm ? f.k_norm[i] : 1;
    }
    __syncthreads();
    return {{f.q_norm ? memory.q_norm : nullptr, memory.turns, f.eps},
            {f.k_norm ? memory.k_norm : nullptr, memory.turns, f.eps},
            smem_address(memory.own_key)};
}

// Where the item's own token belongs in the ring: in place of a token that no row attends any more.
static __device__ __forceinline__ uint8_t *ring_place(const attend_arguments &a, const finder &f)
{
    return const_cast<uint8_t *>(f.cache) + (f.oldest + f.tokens - 1) % a.s.by_page * a.p.view.token_stride;
}

// The item's own key, that of its last token: finished, into shared memory and into the ring. By one warp.
template <int HD>
static __device__ __forceinline__ void finish_own_key(const attend_arguments &a, const finder &f, int item,
                                                      const finisher &finish)
{
    constexpr int run = lane_words<HD>::key_run, words = lane_words<HD>::key;
    const int row = item / a.s.by_parts, t = threadIdx.x % 4;
    uint8_t *to = ring_place(a, f) + t * run * 4;
    uint32_t key[words];
    load_key<HD>(key, (const uint8_t *)a.p.fresh_k + ((int64_t)row * a.p.n_kv_heads + f.head) * HD * 2);
    finish_words<HD>(key, finish.key);
    if (threadIdx.x % 32 < 4) {
#pragma unroll
        for (int w = 0; w < words; w += run) {
            save_words<run>(finish.own_key + (t * words + w) * 4, key + w);
#pragma unroll
            for (int i = 0; i < run; i++) {
                ((uint32_t *)(to + w * 16))[i] = key[w + i];
            }
        }
    }
    __syncwarp();
}

// That key in the place of what was loaded for it.
template <int HD>
static __device__ __forceinline__ void take_own_key(const finder &f, token_tile<HD> &tile, uint32_t own_key)
{
    constexpr int run = lane_words<HD>::key_run, words = lane_words<HD>::key;
    const int own = (f.tokens - 1) % TILE_TOKENS, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (own == g + i * 8) {
#pragma unroll
            for (int w = 0; w < words; w += run) {
                fetch_words<run>(tile.key[i] + w, own_key + (t * words + w) * 4);
            }
        }
    }
}

// The item's own value into the ring, by one warp.
template <int HD>
static __device__ __forceinline__ void keep_own_value(const attend_arguments &a, const finder &f, int item)
{
    const int row = item / a.s.by_parts, lane = threadIdx.x % 32;
    if (lane < HD / 8) {
        const uint4 *from = (const uint4 *)a.p.fresh_v + ((int64_t)row * a.p.n_kv_heads + f.head) * (HD / 8);
        ((uint4 *)(ring_place(a, f) + a.p.view.value_offset))[lane] = from[lane];
    }
}

// This warp's tiles of an item: `tile`, tile + step, ... below `end`. query: shared memory of this warp. Waits for the
// kernel before where it must: at once, or (params.early) before q, or before a first tile that holds fresh tokens.
template <int HD, int HALVES, bool FP8>
static __device__ __forceinline__ void attend(const attend_arguments &a, attend_state<HD, HALVES> &s, uint32_t query,
                                              int item, int tokens, int tile, int end, int step, const finisher &finish)
{
    clear_state(s);
    if (tile >= end || tokens == 0) {
        wait_for_predecessor();
        return;
    }
    const int lane_token = threadIdx.x % TILE_TOKENS;
    const float scale = 1.44269504f * rsqrtf((float)HD);    // exponentials are powers of 2
    const finder f = finder_of(a, item, tokens);
    const bool old = a.p.early && (a.p.over != ATTEND_WINDOW || f.oldest + (tile + 1) * TILE_TOKENS <= f.list_or_fresh);
    if (!old) {
        wait_for_predecessor();
    }
    const uint8_t *key, *value;
    token_tile<HD, FP8> now;
    uint32_t scales = 0;    // FP8: of the keys in `now`, of the token that this lane looked up
    int token = find_token(a, f, tile * TILE_TOKENS + lane_token);
    int next = find_token(a, f, (tile + step) * TILE_TOKENS + lane_token);
    int page = find_page(a, f, token);
    find_address<FP8>(a, f, token, page, key, value, scales);
    load_keys<HD>(now, key);
    load_values<HD>(now, value);
    if (old) {
        wait_for_predecessor();
    }
    int64_t q_head = (int64_t)(item / a.s.by_parts) * a.p.n_heads + item % a.s.by_parts * a.s.group;
    place_query<HD, HALVES>(query, (const uint8_t *)a.p.q + q_head * HD * 2, a.s.group, finish.query);
    if (!FP8 && a.p.finishes && (end - 1 - tile) % step == 0) {    // the last tile will be this warp's
        finish_own_key<HD>(a, f, item, finish);
        keep_own_value<HD>(a, f, item);
    }
    token = next;
    page = find_page(a, f, token);
    next = find_token(a, f, (tile + 2 * step) * TILE_TOKENS + lane_token);
    for (; tile < end; tile += step) {
        bool more = tile + step < end;
        float c[2][4];
        if constexpr (!FP8) {
            if (a.p.finishes && tile == end - 1) {
                take_own_key<HD>(f, now, finish.own_key);
            }
        }
        score_tokens<HD, HALVES>(c, query, now);
        const uint32_t scales_now = scales;
        if (more) {
            find_address<FP8>(a, f, token, page, key, value, scales);
            load_keys<HD>(now, key);
        }
        uint32_t p[HALVES][2];
        softmax_tokens<HD, HALVES, FP8>(s, p, c, tokens - tile * TILE_TOKENS, scale, scales_now);
        add_values<HD, HALVES>(s, p, now);
        if (more) {
            load_values<HD>(now, value);
            token = next;
            page = find_page(a, f, token);
            next = find_token(a, f, (tile + 3 * step) * TILE_TOKENS + lane_token);
        }
    }
}

// The last step of 4 dimensions of one query head.
template <int HD>
static __device__ __forceinline__ void store_unit(const attend_arguments &a, int item, int unit, const merged &s)
{
    int row = item / a.s.by_parts, head = item % a.s.by_parts * a.s.group + unit / (HD / 4), quad = unit % (HD / 4);
    float scale = s.l > 0 ? 1 / s.l : 0;
    uint2 *out = (uint2 *)a.p.out + ((int64_t)row * a.p.n_heads + head) * (HD / 4) + quad;
    *out = make_uint2(pack_bf16(s.out.x * scale, s.out.y * scale), pack_bf16(s.out.z * scale, s.out.w * scale));
    if (quad == 0 && a.p.lse) {
        a.p.lse[(int64_t)row * a.p.n_heads + head] = s.l > 0 ? (s.m + log2f(s.l)) * 0.69314718f : -INFINITY;
    }
}

// Shared memory of a block.
struct block_memory {
    uint8_t *out;         // [warps][warp_bytes] of each warp its query, later its state [group][HD]
    float2 *ml;           // [warps][group]
    float4 *inbox_out;    // [cluster][share]
    float2 *inbox_ml;     // [cluster][share]
};

template <int HD, int HALVES> static __host__ __device__ __forceinline__ int warp_bytes(int group)
{
    int state = group * HD * 4;
    return state > query_place<HD, HALVES>::bytes ? state : query_place<HD, HALVES>::bytes;
}

template <int HD, int HALVES> static int block_memory_bytes(const attend_shape &s, int warps)
{
    return warps * (warp_bytes<HD, HALVES>(s.group) + s.group * 8) + s.cluster * s.share * 24;
}

// Merges the states of the warps, then of the blocks, and stores the block's share. Every thread of the cluster calls.
template <int HD, int HALVES, int WARPS>
static __device__ __forceinline__ void join(const attend_arguments &a, const block_memory &memory, int item, int rank)
{
    const int cluster = a.s.cluster, share = a.s.share;
    __syncthreads();
    for (int unit = threadIdx.x; unit < a.s.units; unit += WARPS * 32) {
        int head = unit / (HD / 4), place = quad_place<HD>(head, unit % (HD / 4));
        merged s = merge_states(WARPS, [&](int warp) {
            float2 ml = memory.ml[warp * a.s.group + head];
            const float4 *out = (const float4 *)(memory.out + warp * warp_bytes<HD, HALVES>(a.s.group));
            return merged{ml.x, ml.y, out[head * (HD / 4) + place]};
        });
        if (cluster == 1) {
            store_unit<HD>(a, item, unit, s);
            continue;
        }
        int slot = unit >> a.s.cluster_shift, owner = unit & (cluster - 1), at = rank * share + slot;
        push(peer_address(smem_address(memory.inbox_out + at), owner), s.out);
        push(peer_address(smem_address(memory.inbox_ml + at), owner), make_float2(s.m, s.l));
    }
    if (cluster == 1) {
        return;
    }
    __syncwarp();
    cluster_arrive();
    cluster_wait();
    for (int slot = threadIdx.x; slot * cluster + rank < a.s.units; slot += WARPS * 32) {
        merged s = merge_states(cluster, [&](int n) {
            float2 ml = memory.inbox_ml[n * share + slot];
            return merged{ml.x, ml.y, memory.inbox_out[n * share + slot]};
        });
        store_unit<HD>(a, item, slot * cluster + rank, s);
    }
}

template <int HD, int HALVES, int WARPS, bool FP8>
__global__ void __launch_bounds__(WARPS * 32, WARPS == 8 ? 1 : 3)
    attention_kernel(const __grid_constant__ attend_arguments a)
{
    extern __shared__ __align__(16) uint8_t shared[];
    __shared__ finish_memory<HD> tables;
    const int cluster = a.s.cluster, rank = blockIdx.x & (cluster - 1), item = blockIdx.x >> a.s.cluster_shift,
              warp = threadIdx.x / 32;
    block_memory memory;
    memory.inbox_out = (float4 *)shared;
    memory.out = (uint8_t *)(memory.inbox_out + cluster * a.s.share);
    memory.inbox_ml = (float2 *)(memory.out + WARPS * warp_bytes<HD, HALVES>(a.s.group));
    memory.ml = memory.inbox_ml + cluster * a.s.share;
    uint8_t *mine = memory.out + warp * warp_bytes<HD, HALVES>(a.s.group);
    if (cluster > 1) {
        cluster_arrive();
    }
    dependents_may_launch();
    if (!a.p.early) {
        wait_for_predecessor();
    }
    finisher finish = {};
    if (!FP8 && a.p.finishes) {
        finish = fill_finisher<HD, WARPS>(a, tables, item);
    }
    attend_state<HD, HALVES> s;
    const int tokens = item_tokens(a, item), tiles = (tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    attend<HD, HALVES, FP8>(a, s, smem_address(mine), item, tokens, rank * WARPS + warp, tiles, WARPS * cluster,
                            finish);
    save_state<HD, HALVES>(s, a.s.group, (float *)mine, memory.ml + warp * a.s.group);
    if (cluster > 1) {
        __syncwarp();
        cluster_wait();    // the peers have begun
    }
    join<HD, HALVES, WARPS>(a, memory, item, rank);
}

static void set_cluster(attend_shape *s, int32_t shift)
{
    s->cluster_shift = shift;
    s->cluster = 1 << shift;
    s->share = (s->units + s->cluster - 1) / s->cluster;
}

// The widest clusters of which all items' run at once, if every warp gets a tile.
static int32_t item_cluster(const cluster_room &room, const attend_shape &s, int32_t warps, int32_t most_tokens)
{
    int32_t best = 0, tiles = (most_tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    for (int32_t shift = 1; shift <= WIDEST_CLUSTER_SHIFT && warps << shift <= tiles; shift++) {
        best = s.items <= room.clusters[shift] ? shift : best;
    }
    return best;
}

// The room for clusters of this kernel, asked when more shared memory is needed than ever before.
template <int HD, int HALVES, int WARPS, bool FP8> static int room_for(const cluster_room **out, attend_shape s)
{
    static cluster_room room;
    static size_t asked;    // bytes of shared memory
    launch_shape shape = {};
    shape.threads = WARPS * 32;
    set_cluster(&s, WIDEST_CLUSTER_SHIFT);    // takes most
    shape.smem_bytes = (size_t)block_memory_bytes<HD, HALVES>(s, WARPS);
    *out = &room;
    if (shape.smem_bytes <= asked) {
        return 0;
    }
    int error = allow_smem("attention", attention_kernel<HD, HALVES, WARPS, FP8>, shape.smem_bytes);
    if (!error) {
        room = room_for_clusters(attention_kernel<HD, HALVES, WARPS, FP8>, shape);
        asked = shape.smem_bytes;
    }
    return error;
}

template <int HD, int HALVES, int WARPS, bool FP8>
static int launch_blocks(attend_arguments &a, int32_t cluster_shift, cudaStream_t stream)
{
    set_cluster(&a.s, cluster_shift);
    launch_shape shape = {};
    shape.grid = dim3((unsigned)a.s.items << cluster_shift);
    shape.threads = WARPS * 32;
    shape.cluster = (unsigned)a.s.cluster;
    shape.smem_bytes = (size_t)block_memory_bytes<HD, HALVES>(a.s, WARPS);
    return launch("attention", attention_kernel<HD, HALVES, WARPS, FP8>, shape, stream, a);
}

template <int HD, bool FP8> static int launch_kind(attend_arguments &a, int32_t most_tokens, cudaStream_t stream)
{
    const cluster_room *eight, *four;
    if (a.s.group > 8) {
        int error = room_for<HD, 2, 8, FP8>(&eight, a.s);
        return error ? error : launch_blocks<HD, 2, 8, FP8>(a, item_cluster(*eight, a.s, 8, most_tokens), stream);
    }
    int error = room_for<HD, 1, 8, FP8>(&eight, a.s);
    error = error ? error : room_for<HD, 1, 4, FP8>(&four, a.s);
    if (error) {
        return error;
    }
    int32_t of_eight = item_cluster(*eight, a.s, 8, most_tokens), of_four = item_cluster(*four, a.s, 4, most_tokens);
    return 4 << of_four > 8 << of_eight ? launch_blocks<HD, 1, 4, FP8>(a, of_four, stream)
                                        : launch_blocks<HD, 1, 8, FP8>(a, of_eight, stream);
}

template <int HD> static int launch_dim(attend_arguments &a, int32_t most_tokens, cudaStream_t stream)
{
    return a.p.view.dtype == DTYPE_FP8 ? launch_kind<HD, true>(a, most_tokens, stream)
                                       : launch_kind<HD, false>(a, most_tokens, stream);
}

extern "C" int64_t attention_workspace_bytes(int32_t n_rows, int32_t n_heads, int32_t n_kv_heads, int32_t head_dim,
                                             int32_t sets)
{
    (void)sets;    // selections need none
    return attention_all_workspace_bytes(n_rows, n_heads, n_kv_heads, head_dim);
}

extern "C" int attention_launch(const attention_params *p, cudaStream_t stream)
{
    const bool window = p->over == ATTEND_WINDOW;
    const int32_t sets = p->over == ATTEND_SELECTED ? p->selection.sets : 1;
    attend_arguments a = {};
    a.p = *p;
    a.s.parts = sets > p->n_kv_heads ? sets : p->n_kv_heads;
    a.s.group = p->n_heads / a.s.parts;
    if (p->rows.n == 0) {
        return 0;
    }
    const bool pages = !window && p->view.dtype == DTYPE_FP8;
    if ((p->view.dtype != DTYPE_BF16 && !pages) || a.s.group > MAX_GROUP || a.s.group * a.s.parts != p->n_heads ||
        (!window && (int64_t)p->rows.n * sets * p->selection.stride > INT32_MAX)) {
        return status_fail(
            -ENOTSUP,
            "attention: %d rows of %d query heads over %d KV heads in %d sets; bf16 or fp8 pages, bf16 rings, groups "
            "to %d", p->rows.n, p->n_heads, p->n_kv_heads, sets, MAX_GROUP);
    }
    if (p->over == ATTEND_ALL) {
        return attention_all_launch(p, stream);
    }
    a.s.items = p->rows.n * a.s.parts;
    a.s.units = a.s.group * p->head_dim / 4;
    a.s.by_parts = divider_of(a.s.parts);
    a.s.by_page = divider_of(p->view.page_tokens);
    a.s.by_unit = divider_of(window ? 1 : p->selection.unit_tokens);
    const int32_t most_tokens = window ? p->window_tokens : p->selection.stride * p->selection.unit_tokens;
    switch (p->head_dim) {
    case 16: return launch_dim<16>(a, most_tokens, stream);
    case 32: return launch_dim<32>(a, most_tokens, stream);
    case 64: return launch_dim<64>(a, most_tokens, stream);
    case 128: return launch_dim<128>(a, most_tokens, stream);
    default: return status_fail(-ENOTSUP, "attention: heads of %d; 16, 32, 64 or 128", p->head_dim);
    }
}
