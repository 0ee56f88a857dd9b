// engine/cuda/elementwise.cu - the small kernels between the large ones: norms, rotary embedding, cache writes, rows.
//
// Bound by launch latency in decode. One block per row, or one warp per head, so that a row's result never depends on
// the rest of the batch. Rotary embeddings turn pairs (i, i + dims/2) by position * theta^(-2i/dims).
#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"

enum { THREADS = 256, WARPS = THREADS / 32, MAX_HEAD_DIM = 256 };

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

__global__ void __launch_bounds__(THREADS) rms_norm_kernel(const __grid_constant__ norm_params p)
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

// A head's values, one lane owning dimensions lane, lane + 32, ...: rotates the first `dims`, pairs (i, i + dims/2).
static __device__ __forceinline__ void rotate(float *head, int dims, int position, float theta)
{
    const int lane = threadIdx.x % 32;
    __syncwarp();
    for (int i = lane; i < dims / 2; i += 32) {
        // Double precision where the angle is large: position times frequency to 1e6 radians.
        double angle = position * exp2(-2.0 * i / dims * log2((double)theta)), s, c;
        sincos(angle, &s, &c);
        float low = head[i], high = head[i + dims / 2];
        head[i] = (float)(low * c - high * s);
        head[i + dims / 2] = (float)(high * c + low * s);
    }
    __syncwarp();
}

__global__ void __launch_bounds__(THREADS) head_norm_kernel(const __grid_constant__ head_norm_params p)
{
    __shared__ float heads[WARPS][MAX_HEAD_DIM];
    dependents_may_launch();
    wait_for_predecessor();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t item = (int64_t)blockIdx.x * WARPS + warp;
    if (item >= (int64_t)p.n * p.n_heads) {
        return;
    }
    float *head = heads[warp], squares = 0;
    for (int d = lane; d < p.head_dim; d += 32) {
        head[d] = load_bf16(p.x, item * p.head_dim + d);
        squares = fmaf(head[d], head[d], squares);
    }
    if (p.weight) {
        float scale = rsqrtf(warp_add(squares) / (float)p.head_dim + p.eps);
        for (int d = lane; d < p.head_dim; d += 32) {
            head[d] *= scale * p.weight[d];
        }
    }
    if (p.theta > 0) {
        rotate(head, p.head_dim, p.position[item / p.n_heads], p.theta);
    }
    for (int d = lane; d < p.head_dim; d += 32) {
        store_bf16(p.x, item * p.head_dim + d, head[d]);
    }
}

__global__ void __launch_bounds__(THREADS) index_norm_kernel(const __grid_constant__ index_norm_params p)
{
    __shared__ float heads[WARPS][MAX_HEAD_DIM];
    dependents_may_launch();
    wait_for_predecessor();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t item = (int64_t)blockIdx.x * WARPS + warp;
    if (item >= (int64_t)p.n * p.heads) {
        return;
    }
    float *head = heads[warp], sum = 0, squares = 0;
    for (int d = lane; d < p.dim; d += 32) {
        head[d] = load_bf16(p.x, item * p.dim + d);
        sum += head[d];
    }
    if (p.weight) {
        float mean = warp_add(sum) / (float)p.dim;
        for (int d = lane; d < p.dim; d += 32) {
            squares = fmaf(head[d] - mean, head[d] - mean, squares);
        }
        float scale = rsqrtf(warp_add(squares) / (float)p.dim + p.eps);
        for (int d = lane; d < p.dim; d += 32) {
            head[d] = (head[d] - mean) * scale * p.weight[d] + (p.bias ? p.bias[d] : 0);
        }
    }
    if (p.theta > 0) {
        rotate(head, p.dim / 4 * 2, p.position[item / p.heads], p.theta);
    }
    for (int d = lane; d < p.dim; d += 32) {
        store_bf16(p.x, item * p.dim + d, head[d]);
    }
}

// One block per row. A ring keeps only the last page_tokens rows of a sequence.
__global__ void __launch_bounds__(THREADS) kv_write_kernel(const __grid_constant__ kv_write_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int row = blockIdx.x, seq = p.rows.seq[row], token = p.rows.position[row], width = p.n_kv_heads * p.head_dim;
    if (p.view.ring && token + p.view.page_tokens < p.context[seq] + p.n_rows[seq]) {
        return;
    }
    const int64_t page = p.view.ring ? p.slot[seq] : p.rows.pages[(int64_t)seq * p.rows.max_pages + token / p.view.page_tokens];
    uint8_t *to = p.view.data + page * p.view.page_stride + token % p.view.page_tokens * p.view.token_stride;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        uint8_t *at = to + i / p.head_dim * p.view.head_stride + i % p.head_dim * 2;
        *(uint16_t *)at = ((const uint16_t *)p.k)[(int64_t)row * width + i];
        *(uint16_t *)(at + p.view.value_offset) = ((const uint16_t *)p.v)[(int64_t)row * width + i];
    }
}

// One block per sequence and slice of dimensions; a sequence's rows in their order, since a unit's first token overwrites.
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
        float k = load_bf16(p.k, (int64_t)(p.first_row[seq] + i) * width + d);
        low[0] = token == first ? k : fminf(low[0], k);
        low[width] = token == first ? k : fmaxf(low[width], k);
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
    uint8_t *page = p.view.data +
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

__global__ void __launch_bounds__(THREADS) embed_kernel(float *out, const void *table, const int32_t *token, int hidden, float scale)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t from = (int64_t)token[blockIdx.x] * hidden, to = (int64_t)blockIdx.x * hidden;
    for (int i = threadIdx.x; i < hidden; i += THREADS) {
        out[to + i] = load_bf16(table, from + i) * scale;
    }
}

__global__ void __launch_bounds__(THREADS) take_rows_kernel(uint32_t *out, const uint32_t *in, const int32_t *source, int64_t words)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t from = source[blockIdx.x] * words, to = blockIdx.x * words;
    for (int64_t i = threadIdx.x; i < words; i += THREADS) {
        out[to + i] = in[from + i];
    }
}

__global__ void __launch_bounds__(THREADS) swiglu_kernel(void *out, const void *gate, const void *up, int64_t n)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) {
        float g = load_bf16(gate, i);
        store_bf16(out, i, g / (1.0f + __expf(-g)) * load_bf16(up, i));
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

// -1 where a logit is not a number.
__global__ void __launch_bounds__(1024) argmax_kernel(int32_t *token, const float *logits, int vocab)
{
    __shared__ float values[32];
    __shared__ int places[32];
    dependents_may_launch();
    wait_for_predecessor();
    const float *row = logits + (int64_t)blockIdx.x * vocab;
    float best = -INFINITY;
    int at = vocab;
    for (int i = threadIdx.x; i < vocab; i += 1024) {
        if (better(row[i], i, best, at)) {
            best = row[i];
            at = i;
        }
    }
    for (int stage = 0; stage < 2; stage++) {
        for (int shift = 16; shift; shift /= 2) {
            float other = __shfl_xor_sync(FULL_MASK, best, shift);
            int place = __shfl_xor_sync(FULL_MASK, at, shift);
            if (better(other, place, best, at)) {
                best = other;
                at = place;
            }
        }
        if (stage == 0) {
            if (threadIdx.x % 32 == 0) {
                values[threadIdx.x / 32] = best;
                places[threadIdx.x / 32] = at;
            }
            __syncthreads();
            best = values[threadIdx.x % 32];
            at = places[threadIdx.x % 32];
        }
    }
    if (threadIdx.x == 0) {
        token[blockIdx.x] = best != best ? -1 : at;
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
    return launch("rms norm", rms_norm_kernel, blocks_of(p->n, THREADS), stream, *p);
}

extern "C" int head_norm_launch(const head_norm_params *p, cudaStream_t stream)
{
    if (p->head_dim > MAX_HEAD_DIM) {
        return status_fail(-ENOTSUP, "head norm: heads of %d; at most %d", p->head_dim, MAX_HEAD_DIM);
    }
    int64_t items = (int64_t)p->n * p->n_heads;
    return launch("head norm", head_norm_kernel, blocks_of((items + WARPS - 1) / WARPS, THREADS), stream, *p);
}

extern "C" int index_norm_launch(const index_norm_params *p, cudaStream_t stream)
{
    if (p->dim > MAX_HEAD_DIM) {
        return status_fail(-ENOTSUP, "index norm: vectors of %d; at most %d", p->dim, MAX_HEAD_DIM);
    }
    int64_t items = (int64_t)p->n * p->heads;
    return launch("index norm", index_norm_kernel, blocks_of((items + WARPS - 1) / WARPS, THREADS), stream, *p);
}

extern "C" int kv_write_launch(const kv_write_params *p, cudaStream_t stream)
{
    int error = launch("kv write", kv_write_kernel, blocks_of(p->rows.n, THREADS), stream, *p);
    if (error || !p->bounds.data) {
        return error;
    }
    launch_shape shape = blocks_of(p->n_seqs, THREADS);
    shape.grid.y = (unsigned)((p->n_kv_heads * p->head_dim + THREADS - 1) / THREADS);
    return launch("bound write", bound_write_kernel, shape, stream, *p);
}

extern "C" int index_write_launch(const index_write_params *p, cudaStream_t stream)
{
    return launch("index write", index_write_kernel, blocks_of((p->rows.n + WARPS - 1) / WARPS, THREADS), stream, *p);
}

extern "C" int embed_launch(float *out, const void *table, const int32_t *token, int32_t n, int32_t hidden, float scale,
                            cudaStream_t stream)
{
    return launch("embed", embed_kernel, blocks_of(n, THREADS), stream, out, table, token, hidden, scale);
}

extern "C" int take_rows_launch(void *out, const void *in, const int32_t *source, int32_t n, int64_t row_bytes, cudaStream_t stream)
{
    return launch("take rows", take_rows_kernel, blocks_of(n, THREADS), stream, (uint32_t *)out, (const uint32_t *)in, source,
                  row_bytes / 4);
}

extern "C" int swiglu_launch(void *out, const void *gate, const void *up, int64_t n, cudaStream_t stream)
{
    return launch("swiglu", swiglu_kernel, blocks_of((n + THREADS - 1) / THREADS, THREADS), stream, out, gate, up, n);
}

extern "C" int scale_launch(float *x, int64_t n, float scale, cudaStream_t stream)
{
    return launch("scale", scale_kernel, blocks_of((n + THREADS - 1) / THREADS, THREADS), stream, x, n, scale);
}

extern "C" int argmax_launch(int32_t *token, const float *logits, int32_t n, int32_t vocab, cudaStream_t stream)
{
    return launch("argmax", argmax_kernel, blocks_of(n, 1024), stream, token, logits, vocab);
}
