// engine/cuda/linear.cu - out = x * weight^T for 1 to 64 rows: the projections of a decode step.
//
// Bound by reading the weights once. Weights are the tensor core's A operand (16 outputs at a time), rows of x its B
// operand (8 at a time). Since both operands are read along n_in, any permutation of n_in that both share gives the same
// product: each lane takes 8 consecutive elements (one 16-byte load) of its row, which feed two k16 instructions. No
// shared memory on the way in, every weight read exactly once, straight into the register that multiplies it. The warps
// of a block split n_in in an interleaved manner and meet in shared memory, in a fixed order.
//
// Measured on an H200 (4.54 TB/s), one row: 2560 -> 15360 21.6 us (80% of that rate), 2560 -> 3584 6.8, 7680 -> 2560 14.8,
// 2560 -> 131072 163 us; cuBLAS through PyTorch 21.3, 8.0, 15.0, 164. From 16 rows on cuBLAS is faster.
#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"

enum { LONG_INPUT = 4096, MANY_OUTPUTS = 65536 };

// MT: tiles of 16 outputs of a block; NT: tiles of 8 rows of x.
template <int MT, int NT, int WARPS, bool SWIGLU>
__global__ void __launch_bounds__(WARPS * 32) linear_kernel(const __grid_constant__ linear_params p)
{
    extern __shared__ float partial[];    // [WARPS][NT*8][MT*16 + 4]
    constexpr int PITCH = MT * 16 + 4;    // 4: neighbouring rows of x start 4 banks apart
    constexpr int UNROLL = NT == 1 ? 4 : 2;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

    // Which segment and which outputs. SWIGLU: tile 0 is of gate, tile 1 of up, at the same outputs.
    int block = blockIdx.x, s = 0;
    constexpr int OUTPUTS = SWIGLU ? 16 : MT * 16;
    if (!SWIGLU) {
        while (s + 1 < p.n_segments && block >= (p.segments[s].n_out + OUTPUTS - 1) / OUTPUTS) {
            block -= (p.segments[s].n_out + OUTPUTS - 1) / OUTPUTS;
            s++;
        }
    }
    const int first = block * OUTPUTS, n_out = p.segments[s].n_out;
    const uint8_t *weight[MT][2];
    for (int m = 0; m < MT; m++) {
        for (int half = 0; half < 2; half++) {
            int row = min(first + (SWIGLU ? 0 : m * 16) + half * 8 + g, n_out - 1);
            weight[m][half] = (const uint8_t *)p.segments[SWIGLU ? m : s].weight + ((int64_t)row * p.n_in + 8 * t) * 2;
        }
    }
    const uint8_t *x[NT];
    for (int n = 0; n < NT; n++) {
        x[n] = (const uint8_t *)p.x + ((int64_t)min(n * 8 + g, p.n_rows - 1) * p.n_in + 8 * t) * 2;
    }

    float c[MT][NT][4] = {};
    const int blocks = (p.n_in + 31) / 32;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    dependents_may_launch();
    bool waited = false;
    for (int kb = warp; kb < blocks; kb += WARPS * UNROLL) {
        uint4 w[UNROLL][MT][2], v[UNROLL][NT];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int k = kb + u * WARPS;
            bool inside = k * 32 + 8 * t < p.n_in;
#pragma unroll
            for (int m = 0; m < MT; m++) {
                w[u][m][0] = inside ? load_streaming(weight[m][0] + k * 64) : zero;
                w[u][m][1] = inside ? load_streaming(weight[m][1] + k * 64) : zero;
            }
        }
        if (!waited) {    // weights do not depend on the kernel before: the first of them travel while it ends
            wait_for_predecessor();
            waited = true;
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int k = kb + u * WARPS;
            bool inside = k * 32 + 8 * t < p.n_in;
#pragma unroll
            for (int n = 0; n < NT; n++) {
                v[u][n] = inside ? *(const uint4 *)(x[n] + k * 64) : zero;
            }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    mma_bf16(c[m][n], w[u][m][0].x, w[u][m][1].x, w[u][m][0].y, w[u][m][1].y, v[u][n].x, v[u][n].y);
                    mma_bf16(c[m][n], w[u][m][0].z, w[u][m][1].z, w[u][m][0].w, w[u][m][1].w, v[u][n].z, v[u][n].w);
                }
            }
        }
    }
    if (!waited) {
        wait_for_predecessor();
    }

    for (int m = 0; m < MT; m++) {
        for (int n = 0; n < NT; n++) {
            float *at = partial + (warp * NT * 8 + n * 8 + 2 * t) * PITCH + m * 16 + g;
            at[0] = c[m][n][0];
            at[PITCH] = c[m][n][1];
            at[8] = c[m][n][2];
            at[PITCH + 8] = c[m][n][3];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.n_rows * OUTPUTS; i += WARPS * 32) {
        int row = i / OUTPUTS, o = i % OUTPUTS;
        if (first + o >= n_out) {
            continue;
        }
        float sum = 0, up = 0;
        for (int w = 0; w < WARPS; w++) {
            sum += partial[(w * NT * 8 + row) * PITCH + o];
            if (SWIGLU) {
                up += partial[(w * NT * 8 + row) * PITCH + 16 + o];
            }
        }
        int64_t at = (int64_t)row * n_out + first + o;
        if (SWIGLU) {
            store_bf16(p.segments[0].out, at, sum / (1.0f + __expf(-sum)) * up);
        } else if (p.epilogue == LINEAR_STORE_BF16) {
            store_bf16(p.segments[s].out, at, sum);
        } else if (p.epilogue == LINEAR_STORE_F32) {
            ((float *)p.segments[s].out)[at] = sum;
        } else {
            ((float *)p.segments[s].out)[at] += sum;
        }
    }
}

template <int MT, int NT, int WARPS, bool SWIGLU> static int launch_shape_of(const linear_params *p, cudaStream_t stream)
{
    constexpr int OUTPUTS = SWIGLU ? 16 : MT * 16;
    unsigned blocks = 0;
    for (int s = 0; s < (SWIGLU ? 1 : p->n_segments); s++) {
        blocks += (unsigned)((p->segments[s].n_out + OUTPUTS - 1) / OUTPUTS);
    }
    launch_shape shape = {};
    shape.grid = dim3(blocks);
    shape.threads = WARPS * 32;
    shape.smem_bytes = (size_t)WARPS * NT * 8 * (MT * 16 + 4) * sizeof(float);
    int error = shape.smem_bytes > 48 * 1024 ? allow_smem("linear", linear_kernel<MT, NT, WARPS, SWIGLU>, shape.smem_bytes) : 0;
    return error ? error : launch("linear", linear_kernel<MT, NT, WARPS, SWIGLU>, shape, stream, *p);
}

template <int NT> static int launch_rows(const linear_params *p, cudaStream_t stream)
{
    if (p->epilogue == LINEAR_SWIGLU) {
        return launch_shape_of<2, NT, 8, true>(p, stream);
    }
    int64_t outputs = 0;
    for (int s = 0; s < p->n_segments; s++) {
        outputs += p->segments[s].n_out;
    }
    // Measured: narrow tiles where inputs are long (more blocks, each with much to do) or outputs very many.
    return p->n_in > LONG_INPUT || outputs > MANY_OUTPUTS ? launch_shape_of<1, NT, 8, false>(p, stream)
                                                           : launch_shape_of<2, NT, 8, false>(p, stream);
}

extern "C" int linear_launch(const linear_params *p, cudaStream_t stream)
{
    if (p->n_rows > LINEAR_MAX_ROWS || p->n_in % 8 != 0 || p->n_segments > LINEAR_MAX_SEGMENTS) {
        return status_fail(-ENOTSUP, "linear: %d rows of %d inputs; at most %d rows, inputs a multiple of 8", p->n_rows,
                           p->n_in, LINEAR_MAX_ROWS);
    }
    if (p->n_rows == 0) {
        return 0;
    }
    return p->n_rows <= 8 ? launch_rows<1>(p, stream) : p->n_rows <= 16 ? launch_rows<2>(p, stream)
         : p->n_rows <= 32 ? launch_rows<4>(p, stream) : launch_rows<8>(p, stream);
}
