// engine/cuda/elementwise.cu - the small kernels between the large ones: norms, rows, gates, the greedy draw.
//
// Bound by launch latency in decode, by memory in a prompt: 16 bytes at a time, all loads of a thread before the first
// use. A row's result never depends on the rest of the batch.
#include "engine/cuda/cluster.cuh"
#include "engine/cuda/kernels.h"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    ARGMAX_BLOCKS = 8,    // of a row: one cluster
    ARGMAX_THREADS = 512
};

static __device__ __forceinline__ float warp_add(float value)
{
    for (int i = 16; i; i /= 2) {
        value += __shfl_xor_sync(FULL_MASK, value, i);
    }
    return value;
}

// The same sum in every thread of the block.
static __device__ float block_add(float value)
{
    __shared__ float sums[WARPS];
    value = warp_add(value);
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = value;
    }
    __syncthreads();
    float total = 0;
    for (int i = 0; i < WARPS; i++) {
        total += sums[i];
    }
    return total;
}

// A row stays in registers between its two uses where it fits (VECTORS float4 a thread), else it is read twice.
template <int VECTORS> __global__ void __launch_bounds__(THREADS) rms_norm_kernel(const __grid_constant__ norm_params p)
{
    const int n = p.hidden / 4;
    const float4 *x = (const float4 *)(p.x + (int64_t)blockIdx.x * p.hidden), *weight = (const float4 *)p.weight;
    uint2 *out = (uint2 *)p.out + (int64_t)blockIdx.x * n;
    float4 v[VECTORS], w[VECTORS];
    float squares = 0;
    dependents_may_launch();
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {    // weights do not depend on the kernel before
        const int i = threadIdx.x + j * THREADS;
        w[j] = i < n ? weight[i] : make_float4(0, 0, 0, 0);
    }
    wait_for_predecessor();
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        const int i = threadIdx.x + j * THREADS;
        v[j] = i < n ? x[i] : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        squares += v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z + v[j].w * v[j].w;
    }
    const float scale = rsqrtf(block_add(squares) / (float)p.hidden + p.eps);
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        const int i = threadIdx.x + j * THREADS;
        if (i < n) {
            out[i] = make_uint2(pack_bf16(v[j].x * scale * w[j].x, v[j].y * scale * w[j].y),
                                pack_bf16(v[j].z * scale * w[j].z, v[j].w * scale * w[j].w));
        }
    }
}

__global__ void __launch_bounds__(THREADS) rms_norm_any_kernel(const __grid_constant__ norm_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t at = (int64_t)blockIdx.x * p.hidden;
    float squares = 0;
    for (int i = threadIdx.x; i < p.hidden; i += THREADS) {
        float v = p.x[at + i];
        squares = fmaf(v, v, squares);
    }
    float scale = rsqrtf(block_add(squares) / (float)p.hidden + p.eps);
    for (int i = threadIdx.x; i < p.hidden; i += THREADS) {
        store_bf16(p.out, at + i, p.x[at + i] * scale * p.weight[i]);
    }
}

__global__ void __launch_bounds__(THREADS)
    embed_kernel(float4 *out, const uint4 *table, const int32_t *token, int vectors, float scale)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t from = (int64_t)token[blockIdx.x] * vectors, to = (int64_t)blockIdx.x * vectors;
    for (int i = threadIdx.x; i < vectors; i += THREADS) {
        const uint4 v = table[from + i];
        out[2 * (to + i)] =
            make_float4(bf16_low(v.x) * scale, bf16_high(v.x) * scale, bf16_low(v.y) * scale, bf16_high(v.y) * scale);
        out[2 * (to + i) + 1] =
            make_float4(bf16_low(v.z) * scale, bf16_high(v.z) * scale, bf16_low(v.w) * scale, bf16_high(v.w) * scale);
    }
}

// Word: 16 bytes where rows allow it, else 4.
template <typename Word>
__global__ void __launch_bounds__(THREADS)
    take_rows_kernel(Word *out, const Word *in, const int32_t *source, int64_t words)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t from = source[blockIdx.x] * words, to = blockIdx.x * words;
    for (int64_t i = threadIdx.x; i < words; i += THREADS) {
        out[to + i] = in[from + i];
    }
}

static __device__ __forceinline__ float gated(float gate, float up)
{
    return gate / (1.0f + __expf(-gate)) * up;
}

static __device__ __forceinline__ uint32_t gated_pair(uint32_t gate, uint32_t up)
{
    return pack_bf16(gated(bf16_low(gate), bf16_low(up)), gated(bf16_high(gate), bf16_high(up)));
}

// Eight values a thread; the last thread of the grid takes what eight leave over.
__global__ void __launch_bounds__(THREADS) swiglu_kernel(void *out, const void *gate, const void *up, int64_t n)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n / 8) {
        const uint4 g = ((const uint4 *)gate)[i], u = ((const uint4 *)up)[i];
        ((uint4 *)out)[i] =
            make_uint4(gated_pair(g.x, u.x), gated_pair(g.y, u.y), gated_pair(g.z, u.z), gated_pair(g.w, u.w));
    } else if (i == n / 8) {
        for (int64_t j = 8 * i; j < n; j++) {
            store_bf16(out, j, gated(load_bf16(gate, j), load_bf16(up, j)));
        }
    }
}

__global__ void __launch_bounds__(THREADS) scale_kernel(float *x, int64_t n, float scale)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) {
        x[i] *= scale;
    }
}

// The better of two logits: the larger, then the lower token; NaN beats everything, so that it is found.
static __device__ __forceinline__ bool better(float a, int i, float b, int j)
{
    bool a_nan = a != a, b_nan = b != b;
    return a_nan || b_nan ? a_nan && (!b_nan || i < j) : a > b || (a == b && i < j);
}

// The best of a warp's lanes, in all of them.
static __device__ __forceinline__ void best_of_warp(float &value, int &place)
{
    for (int shift = 16; shift; shift /= 2) {
        const float other = __shfl_xor_sync(FULL_MASK, value, shift);
        const int its_place = __shfl_xor_sync(FULL_MASK, place, shift);
        if (better(other, its_place, value, place)) {
            value = other;
            place = its_place;
        }
    }
}

// A cluster of ARGMAX_BLOCKS per row. -1 where a logit is not a number.
__global__ void __launch_bounds__(ARGMAX_THREADS) argmax_kernel(int32_t *token, const float *logits, int vocab)
{
    __shared__ float values[32];
    __shared__ int places[32];
    __shared__ uint32_t block_value[ARGMAX_BLOCKS], block_place[ARGMAX_BLOCKS];    // of the first block: pushed by all
    cluster_arrive();
    dependents_may_launch();
    wait_for_predecessor();
    const int rank = blockIdx.x % ARGMAX_BLOCKS, row = blockIdx.x / ARGMAX_BLOCKS,
              stride = ARGMAX_BLOCKS * ARGMAX_THREADS;
    const float *from = logits + (int64_t)row * vocab;
    float best = -INFINITY;
    int at = vocab;
    const auto consider = [&](float value, int i) {
        if (better(value, i, best, at)) {
            best = value;
            at = i;
        }
    };
    const int quads = vocab % 4 == 0 ? vocab / 4 : 0;    // rows of another length do not begin at 16 bytes
#pragma unroll 4
    for (int i = rank * ARGMAX_THREADS + threadIdx.x; i < quads; i += stride) {
        const float4 v = ((const float4 *)from)[i];
        consider(v.x, 4 * i);
        consider(v.y, 4 * i + 1);
        consider(v.z, 4 * i + 2);
        consider(v.w, 4 * i + 3);
    }
    for (int i = 4 * quads + rank * ARGMAX_THREADS + threadIdx.x; i < vocab; i += stride) {
        consider(from[i], i);
    }
    best_of_warp(best, at);
    if (threadIdx.x % 32 == 0) {
        values[threadIdx.x / 32] = best;
        places[threadIdx.x / 32] = at;
    }
    __syncthreads();
    cluster_wait();    // the peers have begun
    if (threadIdx.x < 32) {
        const bool filled = threadIdx.x < ARGMAX_THREADS / 32;
        best = filled ? values[threadIdx.x] : -INFINITY;
        at = filled ? places[threadIdx.x] : vocab;
        best_of_warp(best, at);
        if (threadIdx.x == 0) {
            push(peer_address(smem_address(&block_value[rank]), 0), __float_as_uint(best));
            push(peer_address(smem_address(&block_place[rank]), 0), (uint32_t)at);
        }
        __syncwarp();
    }
    cluster_arrive();
    cluster_wait();
    if (rank == 0 && threadIdx.x < 32) {
        const bool filled = threadIdx.x < ARGMAX_BLOCKS;
        best = filled ? __uint_as_float(block_value[threadIdx.x]) : -INFINITY;
        at = filled ? (int)block_place[threadIdx.x] : vocab;
        best_of_warp(best, at);
        if (threadIdx.x == 0) {
            token[row] = best != best ? -1 : at;
        }
    }
}

static launch_shape blocks_of(int64_t blocks, unsigned threads)
{
    launch_shape shape = {};
    shape.grid = dim3((unsigned)blocks);
    shape.threads = threads;
    return shape;
}

extern "C" int rms_norm_launch(const norm_params *p, cudaStream_t stream)
{
    const launch_shape shape = blocks_of(p->n, THREADS);
    if (p->hidden % 4 != 0 || p->hidden > 8 * 4 * THREADS) {
        return launch("rms norm", rms_norm_any_kernel, shape, stream, *p);
    }
    return p->hidden <= 4 * THREADS       ? launch("rms norm", rms_norm_kernel<1>, shape, stream, *p)
           : p->hidden <= 3 * 4 * THREADS ? launch("rms norm", rms_norm_kernel<3>, shape, stream, *p)
                                          : launch("rms norm", rms_norm_kernel<8>, shape, stream, *p);
}

extern "C" int embed_launch(float *out, const void *table, const int32_t *token, int32_t n, int32_t hidden, float scale,
                            cudaStream_t stream)
{
    if (hidden % 8 != 0) {
        return status_fail(-ENOTSUP, "embed: rows of %d; a multiple of 8", hidden);
    }
    return launch("embed", embed_kernel, blocks_of(n, THREADS), stream, (float4 *)out, (const uint4 *)table, token,
                  hidden / 8, scale);
}

extern "C" int take_rows_launch(void *out, const void *in, const int32_t *source, int32_t n, int64_t row_bytes,
                                cudaStream_t stream)
{
    if (row_bytes % 16 == 0) {
        return launch("take rows", take_rows_kernel<uint4>, blocks_of(n, THREADS), stream, (uint4 *)out,
                      (const uint4 *)in, source, row_bytes / 16);
    }
    return launch("take rows", take_rows_kernel<uint32_t>, blocks_of(n, THREADS), stream, (uint32_t *)out,
                  (const uint32_t *)in, source, row_bytes / 4);
}

extern "C" int swiglu_launch(void *out, const void *gate, const void *up, int64_t n, cudaStream_t stream)
{
    return launch("swiglu", swiglu_kernel, blocks_of((n / 8 + THREADS) / THREADS, THREADS), stream, out, gate, up, n);
}

extern "C" int scale_launch(float *x, int64_t n, float scale, cudaStream_t stream)
{
    return launch("scale", scale_kernel, blocks_of((n + THREADS - 1) / THREADS, THREADS), stream, x, n, scale);
}

extern "C" int argmax_launch(int32_t *token, const float *logits, int32_t n, int32_t vocab, cudaStream_t stream)
{
    launch_shape shape = blocks_of((int64_t)n * ARGMAX_BLOCKS, ARGMAX_THREADS);
    shape.cluster = ARGMAX_BLOCKS;
    return launch("argmax", argmax_kernel, shape, stream, token, logits, vocab);
}
