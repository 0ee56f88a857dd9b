// engine/cuda/page_bound.cu - Quest's scores: for every unit and query head the largest q . k that its bounds allow.
//
// score = sum over d of max(q*low, q*high) = sum of max(q, 0)*high + min(q, 0)*low. Bound by reading the bounds (f32, 8
// bytes per dimension and KV head) once. A warp owns one KV head of one unit at a time: each lane keeps its dimensions of
// the group's queries in registers, and the group's sums meet by shuffles. The row's own unit scores plus infinity: its
// bounds may already hold later tokens of the same step.
#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"

enum { WARPS = 8, MAX_GROUP = 16, MAX_LANE_DIMS = 4 };

// GROUP: query heads per KV head, rounded up to a power of two; heads beyond the real group score nothing.
template <int GROUP>
__global__ void __launch_bounds__(WARPS * 32) page_bound_kernel(const __grid_constant__ page_bound_params p)
{
    dependents_may_launch();
    wait_for_predecessor();
    const int row = p.first + blockIdx.y, kv_head = blockIdx.z, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = p.n_heads / p.n_kv_heads, width = p.n_kv_heads * p.head_dim;
    const int own = p.rows.position[row] / p.bounds.unit_tokens;
    const int32_t *pages = p.rows.pages + (int64_t)p.rows.seq[row] * p.rows.max_pages;
    float positive[GROUP][MAX_LANE_DIMS], negative[GROUP][MAX_LANE_DIMS];
#pragma unroll
    for (int h = 0; h < GROUP; h++) {
#pragma unroll
        for (int i = 0; i < MAX_LANE_DIMS; i++) {
            int d = i * 32 + lane;
            int64_t at = ((int64_t)row * p.n_heads + kv_head * group + h) * p.head_dim + d;
            float q = h < group && d < p.head_dim ? load_bf16(p.q, at) : 0;
            positive[h][i] = q > 0 || q != q ? q : 0;
            negative[h][i] = q < 0 ? q : 0;
        }
    }
    float *scores = p.scores + ((int64_t)blockIdx.y * p.n_heads + kv_head * group) * p.stride;
    for (int unit = blockIdx.x * WARPS + warp; unit <= own; unit += gridDim.x * WARPS) {
        int token = unit * p.bounds.unit_tokens;
        const float *low = (const float *)(p.bounds.data + pages[token / p.bounds.page_tokens] * p.bounds.page_stride) +
                           (int64_t)(token % p.bounds.page_tokens / p.bounds.unit_tokens) * 2 * width + kv_head * p.head_dim;
        float sum[GROUP] = {};
#pragma unroll
        for (int i = 0; i < MAX_LANE_DIMS; i++) {
            int d = i * 32 + lane;
            float least = d < p.head_dim ? low[d] : 0, most = d < p.head_dim ? low[width + d] : 0;
#pragma unroll
            for (int h = 0; h < GROUP; h++) {
                sum[h] = fmaf(positive[h][i], most, fmaf(negative[h][i], least, sum[h]));
            }
        }
        float mine = 0;
#pragma unroll
        for (int h = 0; h < GROUP; h++) {
            for (int shift = 16; shift; shift /= 2) {
                sum[h] += __shfl_xor_sync(FULL_MASK, sum[h], shift);
            }
            mine = lane == h ? sum[h] : mine;
        }
        if (lane < group) {
            scores[(int64_t)lane * p.stride + unit] = unit == own ? INFINITY : mine;
        }
    }
}

extern "C" int page_bound_launch(const page_bound_params *p, cudaStream_t stream)
{
    int32_t group = p->n_heads / p->n_kv_heads;
    if (group > MAX_GROUP || p->head_dim > MAX_LANE_DIMS * 32) {
        return status_fail(-ENOTSUP, "page bounds: %d query heads per KV head of %d", group, p->head_dim);
    }
    int64_t units = (p->max_context + p->bounds.unit_tokens - 1) / p->bounds.unit_tokens, most = (units + WARPS - 1) / WARPS;
    int64_t fill = (int64_t)multiprocessors() * 8, rows = (int64_t)p->n * p->n_kv_heads;
    if (rows == 0) {
        return 0;
    }
    int64_t blocks = (fill + rows - 1) / rows;
    launch_shape shape = {};
    shape.grid = dim3((unsigned)(blocks < most ? blocks : most), (unsigned)p->n, (unsigned)p->n_kv_heads);
    shape.threads = WARPS * 32;
    return group == 1  ? launch("page bounds", page_bound_kernel<1>, shape, stream, *p)
           : group <= 2 ? launch("page bounds", page_bound_kernel<2>, shape, stream, *p)
           : group <= 4 ? launch("page bounds", page_bound_kernel<4>, shape, stream, *p)
           : group <= 8 ? launch("page bounds", page_bound_kernel<8>, shape, stream, *p)
                        : launch("page bounds", page_bound_kernel<16>, shape, stream, *p);
}
