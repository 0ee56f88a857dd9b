// engine/cuda/linear.cu - out = x * weight^T for 1 to 64 rows: the projections of a decode step.
//
// Bound by reading the weights once. A block owns 128 outputs: one thread keeps a ring of weight tiles in shared memory
// filled through the copy engine, two groups of four warps multiply them (weights as the tensor cores' A, rows of x as
// B). Where outputs are few, the blocks of a cluster share n_in and add up their parts in the order of their ranks.
// Weights do not depend on the kernel before: a ring fills as soon as its block is resident, x follows later.
//
// Measured on an H100 (read stream 3148 GB/s: the floor of 2560 -> 15360 is 25.0 us), microseconds at 1 / 8 / 16 / 32 /
// 64 rows: 2560 -> 15360 26.5 / 26.9 / 27.2 / 28.2 / 29.6; 2560 -> 3584 8.2 / 8.3 / 8.7 / 9.7 / 11.4; 7680 -> 2560,
// added, 16.0 / 16.3 / 16.5 / 17.6 / 19.5. A layer's four products in a chain, 47.5 us of reading: 57.5 / 58.1 / 59.3 /
// 63.5 / 72.0. Asking L2 for tiles beyond the ring was slower everywhere, as was asking it for the first tiles of the
// product that follows (3 to 10 of each block; clsa's whole step on an H200 2.09 to 2.26 ms, without 1.95). Sums sent
// to their owner's barrier instead of fetched after a cluster's: 55.3 / 57.4 / 59.3 / 65.7 / 82.9, with blocks of 64
// outputs 54.1 / 56.5 / 64.9 / 69.3 / 93.5. Rings of a half or a third, so that blocks of the next product live
// beside these: 65.1 / 65.9 / 78.1 at 1 / 8 / 32 rows, and 63.5 / 64.8 / 71.2. On an H200 7680 -> 2560 keeps its
// multiprocessors busy 69% of the time: 160 blocks for 132; 140, 120 or 100 blocks take 12.6, 12.9 and 13.1 us instead
// of 12.6 at 1 row, 15.0, 14.6 and 14.1 instead of 14.2 at 32. There 2560 -> 3584 in 140 blocks of 8 tiles of n_in
// takes 6.4 / 6.5 / 6.7 / 7.4 / 10.1 us, in 224 blocks of 5 tiles 6.7 / 7.1 / 7.4 / 8.4 / 10.2.
#include "engine/cuda/cluster.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/tensor_map.cuh"

enum {
    GROUP_OUTPUTS = 64,    // of a warp group
    WARPS = 8,             // that multiply: two groups; one more loads
    TILE = 128,            // weight rows of a block; SWIGLU: half gate, half up
    PITCH = TILE + 4,      // of sums: 4, so that neighbouring rows start 4 banks apart
    MAX_CLUSTER = 8,
    WANTED_BLOCKS = 240,        // about two per multiprocessor
    FEW_TILES = 8,              // with fewer a block pays for its start and for the exchange: then rather
    FEWER_BLOCKS = 140,         // about one per multiprocessor, where there would be many more
    RING_BYTES = 108 * 1024,    // two such rings fit on a multiprocessor
    SUMS_BARRIER = 1
};

struct linear_shape {
    int cluster;    // blocks that share n_in
    int stages;     // of the ring: tiles of weights and of x
};

struct linear_args {
    CUtensorMap weight[LINEAR_MAX_SEGMENTS], x;
    linear_params p;
    linear_shape shape;
};

// A block's share of the product.
struct share {
    int segment, first, n_out;    // outputs from `first` of a segment
    int begin, tiles;             // of n_in
    int rank;                     // in the cluster
};

// N rows of x are multiplied (8, 16, 32 or 64).
template <int N, bool SWIGLU> struct linear_block {
    static constexpr int OUTPUTS = SWIGLU ? TILE / 2 : TILE;
    static constexpr int PER = OUTPUTS / 32;    // outputs of a lane where a warp has a row
    static constexpr int ROWS = N / WARPS;      // rows of a warp at most
    static constexpr uint32_t WEIGHT_BYTES = TILE * TILE_ROW_BYTES, STAGE_BYTES = WEIGHT_BYTES + N * TILE_ROW_BYTES;

    const linear_args &a;
    const linear_params &p;
    share own;
    uint32_t base, full, empty;    // shared addresses: the ring, and its barriers
    float *sums;                   // [N][PITCH], over the ring once it is used up

    __device__ linear_block(const linear_args &args, void *ring) : a(args), p(args.p)
    {
        const int tiles = (p.n_in + TILE_COLUMNS - 1) / TILE_COLUMNS, cluster = a.shape.cluster;
        int block = blockIdx.x / cluster;
        own.rank = blockIdx.x % cluster;
        own.segment = 0;
        while (!SWIGLU && own.segment + 1 < p.n_segments &&
               block >= (p.segments[own.segment].n_out + OUTPUTS - 1) / OUTPUTS) {
            block -= (p.segments[own.segment].n_out + OUTPUTS - 1) / OUTPUTS;
            own.segment++;
        }
        own.first = block * OUTPUTS;
        own.n_out = p.segments[own.segment].n_out;
        own.begin = tiles * own.rank / cluster;
        own.tiles = tiles * (own.rank + 1) / cluster - own.begin;
        base = smem_address(ring);
        full = base + a.shape.stages * STAGE_BYTES;
        empty = full + a.shape.stages * 8;
        sums = (float *)ring;
    }

    __device__ __forceinline__ void load_weights(int tile, int stage, uint64_t policy) const
    {
        const uint32_t to = base + stage * STAGE_BYTES, barrier = full + 8 * stage;
        const int column = (own.begin + tile) * TILE_COLUMNS;
        barrier_arrive_expect(barrier, STAGE_BYTES);
        copy_tile(to, &a.weight[own.segment], column, own.first, barrier, policy);
        if (SWIGLU) {
            copy_tile(to + WEIGHT_BYTES / 2, &a.weight[1], column, own.first, barrier, policy);
        }
    }

    __device__ __forceinline__ void load_x(int tile, int stage) const
    {
        copy_tile(base + stage * STAGE_BYTES + WEIGHT_BYTES, &a.x, (own.begin + tile) * TILE_COLUMNS, 0,
                  full + 8 * stage);
    }

    // One thread, before anything is waited for.
    __device__ __forceinline__ void begin_loading(uint64_t policy) const
    {
        for (int s = 0; s < a.shape.stages; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, WARPS);
        }
        fence_barrier_init();
        const int at_once = min(a.shape.stages, own.tiles);
        for (int i = 0; i < at_once; i++) {
            load_weights(i, i, policy);
        }
    }

    // The same thread, once x is there.
    __device__ __forceinline__ void load(uint64_t policy) const
    {
        const int at_once = min(a.shape.stages, own.tiles);
        for (int i = 0; i < at_once; i++) {
            load_x(i, i);
        }
        dependents_may_launch();    // only now: they may then read whatever is older than this kernel
        for (int i = at_once, stage = 0, parity = 0; i < own.tiles; i++) {
            barrier_wait(empty + 8 * stage, parity);
            load_weights(i, stage, policy);
            load_x(i, stage);
            if (++stage == a.shape.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }

    // The other warps.
    __device__ __forceinline__ void multiply() const
    {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const uint64_t weights = operand_by_columns<TILE_ROW_BYTES>(base + warp / 4 * GROUP_OUTPUTS * TILE_ROW_BYTES);
        const uint64_t x = operand_by_columns<TILE_ROW_BYTES>(base + WEIGHT_BYTES);
        float c[N / 8][4] = {};
        for (int i = 0, stage = 0, parity = 0; i < own.tiles; i++) {
            const uint32_t at = stage * STAGE_BYTES;
            barrier_wait(full + 8 * stage, parity);
            group_mma_begin();
#pragma unroll
            for (int k = 0; k < TILE_COLUMNS / 16; k++) {
                group_mma_bf16(c, weights + (at >> 4) + 2 * k, x + (at >> 4) + 2 * k);
            }
            group_mma_commit();
            group_mma_wait<0>();
            settle(c);
            if (lane == 0) {
                barrier_arrive(empty + 8 * stage);
            }
            if (++stage == a.shape.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        named_barrier_sync(SUMS_BARRIER, WARPS * 32);    // the ring is used up
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            float *at = sums + (n * 8 + 2 * (lane % 4)) * PITCH + warp * 16 + lane / 4;
            at[0] = c[n][0];
            at[PITCH] = c[n][1];
            at[8] = c[n][2];
            at[PITCH + 8] = c[n][3];
        }
    }

    // The i-th row of this warp in the epilogue: the cluster's warps take rows in turn.
    __device__ __forceinline__ int row_of(int i) const
    {
        return own.rank + a.shape.cluster * ((int)threadIdx.x / 32 + i * WARPS);
    }

    __device__ __forceinline__ int output() const
    {
        return own.first + PER * (threadIdx.x % 32);
    }

    // What the epilogue needs from memory, asked for before the blocks of the cluster meet.
    __device__ __forceinline__ void load_rows(float (&residual)[ROWS][PER], float (&squares)[ROWS]) const
    {
        const int n_squares = (p.n_in + LINEAR_SQUARES - 1) / LINEAR_SQUARES;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int row = row_of(i);
            squares[i] = 0;
            for (int j = threadIdx.x % 32; p.squares && row < p.n_rows && j < n_squares; j += 32) {
                squares[i] += p.squares[(int64_t)row * n_squares + j];
            }
#pragma unroll
            for (int j = 0; j < PER; j++) {
                residual[i][j] = 0;
            }
            if (!SWIGLU && p.epilogue == LINEAR_ADD_F32 && row < p.n_rows) {
                load_outputs(residual[i],
                             (const float *)p.segments[own.segment].out + (int64_t)row * own.n_out + output());
            }
        }
    }

    // This lane's consecutive outputs, as one access where their address allows it.
    __device__ __forceinline__ void load_outputs(float (&v)[PER], const float *from) const
    {
        if (PER == 4 && own.n_out % 4 == 0) {
            if (output() < own.n_out) {
                float4 quad = *(const float4 *)from;
                v[0] = quad.x, v[1 % PER] = quad.y, v[2 % PER] = quad.z, v[3 % PER] = quad.w;
            }
            return;
        }
        for (int j = 0; j < PER; j++) {
            v[j] = output() + j < own.n_out ? from[j] : 0;
        }
    }

    __device__ __forceinline__ void store_outputs(float *to, const float (&v)[PER]) const
    {
        if (PER == 4 && own.n_out % 4 == 0) {
            if (output() < own.n_out) {
                *(float4 *)to = make_float4(v[0], v[1 % PER], v[2 % PER], v[3 % PER]);
            }
            return;
        }
        for (int j = 0; j < PER; j++) {
            if (output() + j < own.n_out) {
                to[j] = v[j];
            }
        }
    }

    __device__ __forceinline__ void store_outputs(__nv_bfloat16 *to, const float (&v)[PER]) const
    {
        if (PER > 1 && own.n_out % PER == 0) {
            if (output() < own.n_out) {
                for (int j = 0; j < PER; j += 2) {
                    ((uint32_t *)to)[j / 2] = pack_bf16(v[j], v[(j + 1) % PER]);
                }
            }
            return;
        }
        for (int j = 0; j < PER; j++) {
            if (output() + j < own.n_out) {
                to[j] = __float2bfloat16_rn(v[j]);
            }
        }
    }

    // This lane's sums of a row, added over the cluster; `from`: its first within the row.
    __device__ __forceinline__ void add_parts(float (&sum)[PER], int row, int from) const
    {
        const uint32_t at = smem_address(sums + row * PITCH + from);
#pragma unroll
        for (int r = 0; r < MAX_CLUSTER; r++) {
            if (r < a.shape.cluster) {
                float part[PER];
                fetch(part, peer_address(at, r));
#pragma unroll
                for (int j = 0; j < PER; j++) {
                    sum[j] = r == 0 ? part[j] : sum[j] + part[j];
                }
            }
        }
    }

    // A finished row of the residual stream, made ready for the product after the next norm.
    __device__ __forceinline__ void store_next(int row, const float (&v)[PER]) const
    {
        constexpr int LANES = 32 * LINEAR_SQUARES / TILE;    // that hold LINEAR_SQUARES outputs
        const int lane = threadIdx.x % 32, n_squares = (own.n_out + LINEAR_SQUARES - 1) / LINEAR_SQUARES;
        const int place = (own.first + lane / LANES * LINEAR_SQUARES) / LINEAR_SQUARES;
        float weighted[PER], squares = 0;
        for (int j = 0; j < PER; j++) {
            bool inside = output() + j < own.n_out;
            weighted[j] = inside ? v[j] * p.next_norm[output() + j] : 0;
            squares += inside ? v[j] * v[j] : 0;
        }
        store_outputs((__nv_bfloat16 *)p.next_x + (int64_t)row * own.n_out + output(), weighted);
        squares = add_lanes<LANES>(squares);
        if (lane % LANES == 0 && place < n_squares) {
            p.next_squares[(int64_t)row * n_squares + place] = squares;
        }
    }

    template <int LANES> static __device__ __forceinline__ float add_lanes(float value)
    {
        for (int i = LANES / 2; i; i /= 2) {
            value += __shfl_xor_sync(FULL_MASK, value, i);
        }
        return value;
    }

    __device__ __forceinline__ void finish_row(int row, const float (&residual)[PER], float squares) const
    {
        const float scale = p.squares ? rsqrtf(add_lanes<32>(squares) / (float)p.n_in + p.norm_eps) : 1.0f;
        const int64_t place = (int64_t)row * own.n_out + output();
        void *out = p.segments[own.segment].out;
        float v[PER];
        add_parts(v, row, PER * (threadIdx.x % 32));
        if constexpr (SWIGLU) {
            float up[PER];
            add_parts(up, row, TILE / 2 + PER * (threadIdx.x % 32));
            for (int j = 0; j < PER; j++) {
                v[j] *= scale;
                v[j] = v[j] / (1.0f + __expf(-v[j])) * (up[j] * scale);
            }
            store_outputs((__nv_bfloat16 *)out + place, v);
        } else {
            for (int j = 0; j < PER; j++) {
                v[j] = v[j] * scale + residual[j];
            }
            if (p.epilogue == LINEAR_STORE_BF16) {
                store_outputs((__nv_bfloat16 *)out + place, v);
            } else {
                store_outputs((float *)out + place, v);
            }
            if (p.next_norm) {
                store_next(row, v);
            }
        }
    }
};

template <int N, bool SWIGLU>
__global__ void __launch_bounds__(WARPS * 32 + 32) linear_kernel(const __grid_constant__ linear_args a)
{
    using block_type = linear_block<N, SWIGLU>;
    extern __shared__ __align__(TILE_ALIGNMENT) uint8_t ring[];
    const block_type block(a, ring);
    const int warp = threadIdx.x / 32;
    const bool loader = warp == WARPS && threadIdx.x % 32 == 0;
    const uint64_t policy = read_once_policy();
    float residual[block_type::ROWS][block_type::PER], squares[block_type::ROWS];
    if (loader) {
        block.begin_loading(policy);
    }
    __syncthreads();
    wait_for_predecessor();
    if (loader) {
        block.load(policy);
    }
    __syncwarp();
    if (warp < WARPS) {
        block.multiply();
        block.load_rows(residual, squares);
    }
    if (a.shape.cluster > 1) {
        cluster_arrive();
        cluster_wait();
    } else if (warp < WARPS) {
        named_barrier_sync(SUMS_BARRIER, WARPS * 32);
    }
    if (warp < WARPS) {
#pragma unroll
        for (int i = 0; i < block_type::ROWS; i++) {
            if (block.row_of(i) < a.p.n_rows) {
                block.finish_row(block.row_of(i), residual[i], squares[i]);
            }
        }
    }
    if (a.shape.cluster > 1) {    // others may still be reading this block's part
        cluster_arrive_relaxed();
        cluster_wait();
    }
}

// How many blocks share n_in, and how long the rings are.
static linear_shape choose(const linear_params *p, int blocks, int stage_bytes)
{
    const int tiles = (p->n_in + TILE_COLUMNS - 1) / TILE_COLUMNS;
    linear_shape s = {};
    s.cluster = (WANTED_BLOCKS + blocks / 2) / blocks;
    s.cluster = s.cluster > MAX_CLUSTER ? MAX_CLUSTER : s.cluster;
    if (tiles < s.cluster * FEW_TILES && s.cluster * blocks > FEWER_BLOCKS * 3 / 2) {
        s.cluster = (FEWER_BLOCKS + blocks / 2) / blocks;
    }
    s.cluster = s.cluster < 1 ? 1 : s.cluster > tiles ? tiles : s.cluster;
    s.stages = RING_BYTES / stage_bytes;
    return s;
}

template <int N, bool SWIGLU> static int launch_as(const linear_params *p, cudaStream_t stream)
{
    using block_type = linear_block<N, SWIGLU>;
    linear_args args = {};
    launch_shape shape = {};
    int error = tensor_map_new(&args.x, p->x, p->n_rows, p->n_in, N), blocks = 0;
    for (int s = 0; s < p->n_segments && !error; s++) {
        blocks += SWIGLU && s > 0 ? 0 : (p->segments[s].n_out + block_type::OUTPUTS - 1) / block_type::OUTPUTS;
        error =
            tensor_map_new(&args.weight[s], p->segments[s].weight, p->segments[s].n_out, p->n_in, block_type::OUTPUTS);
    }
    args.p = *p;
    args.shape = choose(p, blocks, block_type::STAGE_BYTES);
    shape.grid = dim3((unsigned)(blocks * args.shape.cluster));
    shape.threads = WARPS * 32 + 32;
    shape.smem_bytes = (size_t)args.shape.stages * (block_type::STAGE_BYTES + 16);    // and two barriers each
    shape.cluster = args.shape.cluster > 1 ? (unsigned)args.shape.cluster : 0;
    error = error ? error : allow_smem("linear", linear_kernel<N, SWIGLU>, shape.smem_bytes);
    return error ? error : launch("linear", linear_kernel<N, SWIGLU>, shape, stream, args);
}

template <bool SWIGLU> static int launch_rows(const linear_params *p, cudaStream_t stream)
{
    return p->n_rows <= 8    ? launch_as<8, SWIGLU>(p, stream)
           : p->n_rows <= 16 ? launch_as<16, SWIGLU>(p, stream)
           : p->n_rows <= 32 ? launch_as<32, SWIGLU>(p, stream)
                             : launch_as<64, SWIGLU>(p, stream);
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
    return p->epilogue == LINEAR_SWIGLU ? launch_rows<true>(p, stream) : launch_rows<false>(p, stream);
}
