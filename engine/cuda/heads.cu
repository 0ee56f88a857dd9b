// engine/cuda/heads.cu - what happens to heads between projection and attention: norm, rotation, cache writes.
//
// Bound by launch latency in decode, by memory in a prompt. One block per row: it finds the turns of its row once, for
// all heads; a warp keeps a head in registers from its load to its stores, the cache's included. A row's result never
// depends on the rest of the batch. Window attention of single rows does this by itself (attention.cu).
#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/kv_codes.cuh"
#include "engine/cuda/rotary.cuh"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    MAX_HEAD_DIM = 128,    // two pairs of dimensions per lane
    MAX_HEADS = 128,       // of q, k and v together: 32 warps of four
    MAX_INDEX_DIM = 256,
    MAX_PAIRS = 64    // of a rotation: half of the dimensions that turn
};

static __device__ __forceinline__ float warp_add(float value)
{
    for (int i = 16; i; i /= 2) {
        value += __shfl_xor_sync(FULL_MASK, value, i);
    }
    return value;
}

// Where row `row` of a step belongs in a cache; NULL for a row that a ring would lose within the step.
static __device__ __forceinline__ uint8_t *cache_place(const kv_view &view, const gpu_rows &rows, const int32_t *slot,
                                                       const int32_t *context, const int32_t *n_rows, int row)
{
    const int seq = rows.seq[row], token = rows.position[row];
    if (view.ring && token + view.page_tokens < context[seq] + n_rows[seq]) {
        return nullptr;
    }
    const int64_t page = view.ring ? slot[seq] : rows.pages[(int64_t)seq * rows.max_pages + token / view.page_tokens];
    return view.data + page * view.page_stride + token % view.page_tokens * view.token_stride;
}

// A page's place for the scales of one row's head.
static __device__ __forceinline__ uint8_t *scales_place(const kv_view &view, const gpu_rows &rows, int row, int head)
{
    const int token = rows.position[row];
    return scales_at(view, rows.pages[(int64_t)rows.seq[row] * rows.max_pages + token / view.page_tokens],
                     token % view.page_tokens, head);
}

// One head of a warp, two pairs of dimensions in a lane, into fp8 pages. `to`: NULL for a lane without dimensions.
static __device__ __forceinline__ void store_coded(uint8_t *to, uint8_t *scale, uint32_t low, uint32_t high, int half)
{
    const int lane = threadIdx.x % 32;
    const uint32_t byte = scale_byte(__reduce_max_sync(FULL_MASK, max(greatest_of(low), greatest_of(high))));
    if (to) {
        ((uint16_t *)to)[lane] = (uint16_t)encode_pair(low, byte);
        ((uint16_t *)(to + half))[lane] = (uint16_t)encode_pair(high, byte);
    }
    if (lane == 0) {
        *scale = (uint8_t)byte;
    }
}

// One block per row; a warp has up to AT_ONCE heads: of q, of k, then of v. A lane holds two pairs of dimensions.
template <int AT_ONCE, bool FP8>
__global__ void __launch_bounds__(1024) qkv_finish_kernel(const __grid_constant__ qkv_finish_params p)
{
    __shared__ __align__(16) float2 turns[MAX_PAIRS];
    const int row = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32,
              half = p.head_dim / 2;
    const int q_heads = p.q ? p.n_heads : 0, k_heads = p.k ? p.n_kv_heads : 0, v_heads = p.view.data ? p.n_kv_heads : 0;
    const bool turning = p.theta > 0 && (int)threadIdx.x < half, inside = 2 * lane < half;
    const double per_position = turning ? turns_per_position(threadIdx.x, p.head_dim, p.theta) : 0;
    dependents_may_launch();

    uint32_t *head[AT_ONCE], low[AT_ONCE], high[AT_ONCE];
    float2 weight_low[AT_ONCE], weight_high[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {    // weights do not depend on the kernel before
        const int item = warp + i * warps;
        const bool of_q = item < q_heads, of_k = !of_q && item < q_heads + k_heads;
        const int of = of_q ? item : of_k ? item - q_heads : item - q_heads - k_heads;
        uint16_t *tensor = (uint16_t *)(of_q ? p.q : of_k ? p.k : const_cast<void *>(p.v));
        head[i] =
            item < q_heads + k_heads + v_heads && inside
                ? (uint32_t *)(tensor + ((int64_t)row * (of_q ? p.n_heads : p.n_kv_heads) + of) * p.head_dim) + lane
                : nullptr;
        const float *weight = of_q ? p.q_norm : of_k ? p.k_norm : nullptr;
        weight_low[i] = weight && inside ? ((const float2 *)weight)[lane] : make_float2(1, 1);
        weight_high[i] = weight && inside ? ((const float2 *)weight)[lane + half / 2] : make_float2(1, 1);
    }
    wait_for_predecessor();
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
        low[i] = head[i] ? head[i][0] : 0;
        high[i] = head[i] ? head[i][half / 2] : 0;
    }
    uint8_t *place = p.view.data ? cache_place(p.view, p.rows, p.slot, p.context, p.n_rows, row) : nullptr;
    if (turning) {
        turns[threadIdx.x] = turn_at(per_position, p.rows.position[row]);
    }
    __syncthreads();
    float4 turn = make_float4(1, 0, 1, 0);    // cosine, sine of this lane's two pairs
    if (p.theta > 0 && inside) {
        turn = *(const float4 *)&turns[2 * lane];
    }

#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
        const int item = warp + i * warps;
        const bool of_q = item < q_heads, of_k = !of_q && item < q_heads + k_heads;
        if (of_q || of_k) {
            float a = bf16_low(low[i]), b = bf16_high(low[i]), c = bf16_low(high[i]), d = bf16_high(high[i]);
            if (of_q ? p.q_norm : p.k_norm) {
                const float scale = rsqrtf(warp_add(a * a + b * b + c * c + d * d) / (float)p.head_dim + p.eps);
                a *= scale * weight_low[i].x, b *= scale * weight_low[i].y;
                c *= scale * weight_high[i].x, d *= scale * weight_high[i].y;
            }
            low[i] = pack_bf16(a * turn.x - c * turn.y, b * turn.z - d * turn.w);
            high[i] = pack_bf16(c * turn.x + a * turn.y, d * turn.z + b * turn.w);
            if (head[i]) {
                head[i][0] = low[i];
                head[i][half / 2] = high[i];
            }
        }
        if (FP8 && !of_q && item < q_heads + k_heads + v_heads && place) {
            const int of = of_k ? item - q_heads : item - q_heads - k_heads;
            uint8_t *to = place + of * p.view.head_stride + (of_k ? 0 : p.view.value_offset);
            store_coded(head[i] ? to : nullptr, scales_place(p.view, p.rows, row, of) + !of_k, low[i], high[i], half);
        } else if (!of_q && head[i] && place) {
            const int of = of_k ? item - q_heads : item - q_heads - k_heads;
            uint32_t *to = (uint32_t *)(place + of * p.view.head_stride + (of_k ? 0 : p.view.value_offset)) + lane;
            to[0] = low[i];
            to[half / 2] = high[i];
        }
    }
}

// One block per row, one warp per vector in turn.
__global__ void __launch_bounds__(THREADS) index_norm_kernel(const __grid_constant__ index_norm_params p)
{
    constexpr int PER = MAX_INDEX_DIM / 32;
    __shared__ float2 turns[MAX_PAIRS];
    __shared__ float heads[WARPS][MAX_INDEX_DIM];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pairs = p.dim / 4;
    const bool turning = p.theta > 0 && (int)threadIdx.x < pairs;
    const double per_position = turning ? turns_per_position(threadIdx.x, 2 * pairs, p.theta) : 0;
    dependents_may_launch();
    wait_for_predecessor();
    if (turning) {
        turns[threadIdx.x] = turn_at(per_position, p.position[blockIdx.x]);
    }
    __syncthreads();
    for (int h = warp; h < p.heads; h += WARPS) {
        const int64_t at = ((int64_t)blockIdx.x * p.heads + h) * p.dim;
        float v[PER], sum = 0, squares = 0;
#pragma unroll
        for (int j = 0; j < PER; j++) {
            v[j] = lane + 32 * j < p.dim ? load_bf16(p.x, at + lane + 32 * j) : 0;
            sum += v[j];
        }
        if (p.weight) {
            const float mean = warp_add(sum) / (float)p.dim;
#pragma unroll
            for (int j = 0; j < PER; j++) {
                v[j] = lane + 32 * j < p.dim ? v[j] - mean : 0;
                squares = fmaf(v[j], v[j], squares);
            }
            const float scale = rsqrtf(warp_add(squares) / (float)p.dim + p.eps);
#pragma unroll
            for (int j = 0; j < PER; j++) {
                const int d = lane + 32 * j;
                v[j] = d < p.dim ? v[j] * scale * p.weight[d] + (p.bias ? p.bias[d] : 0) : 0;
            }
        }
#pragma unroll
        for (int j = 0; j < PER; j++) {
            heads[warp][lane + 32 * j] = v[j];
        }
        __syncwarp();
        for (int i = lane; p.theta > 0 && i < pairs; i += 32) {
            const float low = heads[warp][i], high = heads[warp][i + pairs];
            heads[warp][i] = low * turns[i].x - high * turns[i].y;
            heads[warp][i + pairs] = high * turns[i].x + low * turns[i].y;
        }
        __syncwarp();
        for (int d = lane; d < p.dim; d += 32) {
            store_bf16(p.x, at + d, heads[warp][d]);
        }
        __syncwarp();
    }
}

// One block per row, 16 bytes of a head at a time. A ring keeps only the last page_tokens rows of a sequence.
__global__ void __launch_bounds__(THREADS) kv_write_kernel(const __grid_constant__ kv_write_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    uint8_t *to = cache_place(p.view, p.rows, p.slot, p.context, p.n_rows, blockIdx.x);
    if (!to) {
        return;
    }
    const int head_vectors = p.head_dim / 8, vectors = p.n_kv_heads * head_vectors;
    const int64_t from = (int64_t)blockIdx.x * vectors;
    for (int i = threadIdx.x; i < 2 * vectors; i += THREADS) {
        const bool value = i >= vectors;
        const int j = value ? i - vectors : i;
        uint8_t *at =
            to + j / head_vectors * p.view.head_stride + j % head_vectors * 16 + (value ? p.view.value_offset : 0);
        *(uint4 *)at = ((const uint4 *)(value ? p.v : p.k))[from + j];
    }
}

// The same into fp8 pages: the threads of a head, a power of two of them, find its scale together.
__global__ void __launch_bounds__(THREADS) kv_code_kernel(const __grid_constant__ kv_write_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    uint8_t *to = cache_place(p.view, p.rows, p.slot, p.context, p.n_rows, blockIdx.x);
    const int head_vectors = p.head_dim / 8, vectors = p.n_kv_heads * head_vectors;
    const int64_t from = (int64_t)blockIdx.x * vectors;
    for (int base = 0; base < 2 * vectors; base += THREADS) {
        const int i = base + threadIdx.x, j = i >= vectors ? i - vectors : i, head = j / head_vectors;
        const bool inside = i < 2 * vectors, value = i >= vectors;
        const uint4 v = inside ? ((const uint4 *)(value ? p.v : p.k))[from + j] : make_uint4(0, 0, 0, 0);
        uint32_t most = max(max(greatest_of(v.x), greatest_of(v.y)), max(greatest_of(v.z), greatest_of(v.w)));
        for (int other = head_vectors / 2; other; other /= 2) {
            most = max(most, __shfl_xor_sync(FULL_MASK, most, other));
        }
        if (!inside) {
            continue;
        }
        const uint32_t byte = scale_byte(most);
        uint8_t *at = to + head * p.view.head_stride + j % head_vectors * 8 + (value ? p.view.value_offset : 0);
        *(uint2 *)at = make_uint2(encode_pair(v.x, byte) | encode_pair(v.y, byte) << 16,
                                  encode_pair(v.z, byte) | encode_pair(v.w, byte) << 16);
        if (j % head_vectors == 0) {
            scales_place(p.view, p.rows, blockIdx.x, head)[value] = (uint8_t)byte;
        }
    }
}

// Element d of a row's keys, all heads side by side, as fp8 pages hold it.
static __device__ __forceinline__ float coded_key(const kv_write_params &p, int seq, int token, int d)
{
    const int64_t page = p.rows.pages[(int64_t)seq * p.rows.max_pages + token / p.view.page_tokens];
    const int place = token % p.view.page_tokens, head = d / p.head_dim;
    const uint8_t *key = p.view.data + page * p.view.page_stride + place * p.view.token_stride +
                         head * p.view.head_stride + d % p.head_dim;
    return bf16_high(widen_codes((uint32_t)*key << 24)) * scale_of_byte(*scales_at(p.view, page, place, head));
}

// One block per sequence and slice of dimensions; a sequence's rows in their order: a unit's first token overwrites.
template <bool FP8>
__global__ void __launch_bounds__(THREADS) bound_write_kernel(const __grid_constant__ kv_write_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int seq = blockIdx.x, width = p.n_kv_heads * p.head_dim, d = blockIdx.y * THREADS + threadIdx.x;
    if (d >= width) {
        return;
    }
    for (int i = 0; i < p.n_rows[seq]; i++) {
        int token = p.context[seq] + i, unit = token / p.bounds.unit_tokens, first = unit * p.bounds.unit_tokens;
        int64_t page = p.rows.pages[(int64_t)seq * p.rows.max_pages + first / p.bounds.page_tokens];
        float *low = (float *)(p.bounds.data + page * p.bounds.page_stride) +
                     (int64_t)(first % p.bounds.page_tokens / p.bounds.unit_tokens) * 2 * width + d;
        float k = FP8 ? coded_key(p, seq, token, d)
                      : load_bf16(p.k, (int64_t)(p.first_row[seq] + i) * width + d);
        low[0] = token == first ? k : fminf(low[0], k);
        low[width] = token == first ? k : fmaxf(low[width], k);
    }
}

static __device__ __forceinline__ uint32_t times(uint32_t pair, float scale)
{
    return pack_bf16(bf16_low(pair) * scale, bf16_high(pair) * scale);
}

// One block per token; a thread has 16 codes.
__global__ void __launch_bounds__(THREADS) kv_widen_kernel(const __grid_constant__ kv_widen_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int token = blockIdx.x, place = token % p.from.page_tokens, head_runs = p.head_dim / 16;
    const int64_t page = p.pages[token / p.from.page_tokens];
    const uint8_t *from = p.from.data + page * p.from.page_stride + place * p.from.token_stride;
    uint8_t *to = p.to.data + token / p.to.page_tokens * p.to.page_stride + place * p.to.token_stride;
    for (int i = threadIdx.x; i < 2 * p.n_kv_heads * head_runs; i += blockDim.x) {
        const int value = i / (p.n_kv_heads * head_runs), j = i % (p.n_kv_heads * head_runs);
        const int head = j / head_runs, at = j % head_runs * 16;
        const uint4 codes =
            *(const uint4 *)(from + head * p.from.head_stride + (value ? p.from.value_offset : 0) + at);
        const float scale = scale_of_byte(scales_at(p.from, page, place, head)[value]);
        uint4 *out = (uint4 *)(to + head * p.to.head_stride + (value ? p.to.value_offset : 0) + at * 2);
        out[0] = make_uint4(times(widen_first(codes.x), scale), times(widen_last(codes.x), scale),
                            times(widen_first(codes.y), scale), times(widen_last(codes.y), scale));
        out[1] = make_uint4(times(widen_first(codes.z), scale), times(widen_last(codes.z), scale),
                            times(widen_first(codes.w), scale), times(widen_last(codes.w), scale));
    }
}

// One warp per row.
__global__ void __launch_bounds__(THREADS) index_write_kernel(const __grid_constant__ index_write_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, dim = p.view.dim;
    if (row >= p.rows.n) {
        return;
    }
    const int token = p.rows.position[row], slot = token % p.view.page_tokens;
    uint8_t *page =
        p.view.data +
        p.rows.pages[(int64_t)p.rows.seq[row] * p.rows.max_pages + token / p.view.page_tokens] * p.view.page_stride;
    if (p.view.dtype == DTYPE_BF16) {
        for (int d = lane; d < dim; d += 32) {
            ((uint16_t *)page)[(int64_t)slot * dim + d] = ((const uint16_t *)p.k)[(int64_t)row * dim + d];
        }
        return;
    }
    float most = 0;
    for (int d = lane; d < dim; d += 32) {
        most = fmaxf(most, fabsf(load_bf16(p.k, (int64_t)row * dim + d)));
    }
    for (int i = 16; i; i /= 2) {
        most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, i));
    }
    float scale = most / 448.0f;
    scale = scale > 0 ? scale : 1.0f;
    for (int d = lane; d < dim; d += 32) {
        float value = load_bf16(p.k, (int64_t)row * dim + d) / scale;
#if __CUDA_ARCH__ >= 890
        uint16_t pair;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(value));
        page[(int64_t)slot * dim + d] = (uint8_t)pair;
#else
        __trap();    // launchers refuse fp8 keys on such a device
#endif
    }
    if (lane == 0) {
        *(float *)(page + p.view.scale_offset + (int64_t)slot * 4) = scale;
    }
}

static launch_shape blocks_of(int64_t blocks, unsigned threads)
{
    launch_shape shape = {};
    shape.grid = dim3((unsigned)blocks);
    shape.threads = threads;
    return shape;
}

extern "C" int qkv_finish_launch(const qkv_finish_params *p, cudaStream_t stream)
{
    const int items = (p->q ? p->n_heads : 0) + (p->k ? p->n_kv_heads : 0) + (p->view.data ? p->n_kv_heads : 0);
    if (p->head_dim > MAX_HEAD_DIM || p->head_dim % 4 != 0 || items > MAX_HEADS) {
        return status_fail(-ENOTSUP, "heads: %d of %d; at most %d, of a multiple of 4 up to %d", items, p->head_dim,
                           MAX_HEADS, MAX_HEAD_DIM);
    }
    if (items == 0) {
        return 0;
    }
    // In decode every head has a warp of its own; in a prompt four share one, so that more rows are under way.
    const bool fp8 = p->view.data && p->view.dtype == DTYPE_FP8;
    if (items <= 32 && p->rows.n <= multiprocessors()) {
        const int warps = items < 2 ? 2 : items;    // 2: the turns of a row take up to 64 threads
        return launch("heads", fp8 ? qkv_finish_kernel<1, true> : qkv_finish_kernel<1, false>,
                      blocks_of(p->rows.n, (unsigned)warps * 32), stream, *p);
    }
    const int warps = (items + 3) / 4 < 2 ? 2 : (items + 3) / 4;
    return launch("heads", fp8 ? qkv_finish_kernel<4, true> : qkv_finish_kernel<4, false>,
                  blocks_of(p->rows.n, (unsigned)warps * 32), stream, *p);
}

extern "C" int index_norm_launch(const index_norm_params *p, cudaStream_t stream)
{
    if (p->dim > MAX_INDEX_DIM) {
        return status_fail(-ENOTSUP, "index norm: vectors of %d; at most %d", p->dim, MAX_INDEX_DIM);
    }
    return launch("index norm", index_norm_kernel, blocks_of(p->n, THREADS), stream, *p);
}

extern "C" int kv_write_launch(const kv_write_params *p, cudaStream_t stream)
{
    if (p->head_dim % 8 != 0) {
        return status_fail(-ENOTSUP, "kv write: heads of %d; a multiple of 8", p->head_dim);
    }
    const bool fp8 = p->view.dtype == DTYPE_FP8;
    const int head_vectors = p->head_dim / 8;
    if (fp8 && (p->view.ring || head_vectors > 32 || (head_vectors & (head_vectors - 1)) != 0)) {
        return status_fail(-ENOTSUP, "kv write: heads of %d into fp8 pages; a power of two up to 256", p->head_dim);
    }
    int error = launch("kv write", fp8 ? kv_code_kernel : kv_write_kernel, blocks_of(p->rows.n, THREADS), stream, *p);
    if (error || !p->bounds.data) {
        return error;
    }
    launch_shape shape = blocks_of(p->n_seqs, THREADS);
    shape.grid.y = (unsigned)((p->n_kv_heads * p->head_dim + THREADS - 1) / THREADS);
    return launch("bound write", fp8 ? bound_write_kernel<true> : bound_write_kernel<false>, shape, stream, *p);
}

extern "C" int kv_widen_launch(const kv_widen_params *p, cudaStream_t stream)
{
    if (p->head_dim % 16 != 0 || p->from.page_tokens != p->to.page_tokens) {
        return status_fail(-ENOTSUP, "kv widen: heads of %d; a multiple of 16", p->head_dim);
    }
    const int vectors = 2 * p->n_kv_heads * p->head_dim / 16;
    const int threads = vectors < THREADS ? (vectors + 31) / 32 * 32 : THREADS;
    return launch("kv widen", kv_widen_kernel, blocks_of(p->n_tokens, (unsigned)threads), stream, *p);
}

extern "C" int index_write_launch(const index_write_params *p, cudaStream_t stream)
{
    return launch("index write", index_write_kernel, blocks_of((p->rows.n + WARPS - 1) / WARPS, THREADS), stream, *p);
}
