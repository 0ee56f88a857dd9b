// engine/cuda/tensor_map.cuh - tiles of a bf16 matrix through the copy engine, and products of such tiles.
//
// A tile is 64 columns (128 bytes) of some rows, laid down in shared memory with the 128-byte swizzle that the tensor
// cores read: row r at 128*r, its 16-byte pieces permuted by r mod 8. Tiles begin at multiples of 1024 bytes. Rows and
// columns outside the matrix arrive as zeros and count as bytes all the same.
#pragma once

#include "engine/cuda/group_mma.cuh"

enum { TILE_COLUMNS = 64, TILE_ROW_BYTES = 2 * TILE_COLUMNS, TILE_ALIGNMENT = 1024 };

// Describes matrix [n_rows][n_columns] bf16 (16-byte aligned, n_columns a multiple of 8) for tiles of `tile_rows` rows.
static inline int tensor_map_new(CUtensorMap *out, const void *matrix, int64_t n_rows, int64_t n_columns, int tile_rows)
{
    // The driver is not linked: its one function that is needed here is asked for through the run-time library.
    static decltype(&cuTensorMapEncodeTiled) encode = nullptr;
    if (!encode) {
        void *found = nullptr;
        cudaDriverEntryPointQueryResult result;
        cudaError_t error =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
        if (error != cudaSuccess || !found) {
            return status_fail(-ENOTSUP, "tensor maps: the driver has none");
        }
        encode = reinterpret_cast<decltype(encode)>(found);
    }
    cuuint64_t size[2] = {(cuuint64_t)n_columns, (cuuint64_t)n_rows}, stride[1] = {(cuuint64_t)n_columns * 2};
    cuuint32_t box[2] = {TILE_COLUMNS, (cuuint32_t)tile_rows}, step[2] = {1, 1};
    CUresult result = encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void *>(matrix), size, stride, box,
                             step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? 0
                                  : status_fail(-EIO, "tensor map of %lld x %lld: driver error %d", (long long)n_rows,
                                                (long long)n_columns, (int)result);
}

// Initialised barriers become visible to the copy engine.
static __device__ __forceinline__ void fence_barrier_init()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// What is read once leaves the L2 cache first.
static __device__ __forceinline__ uint64_t read_once_policy()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap *map, int column, int row,
                                                 uint32_t barrier)
{
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
#endif
}

static __device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap *map, int column, int row,
                                                 uint32_t barrier, uint64_t policy)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
                 : "memory");
#endif
}

// Asks for a tile to be in L2.
static __device__ __forceinline__ void prefetch_tile(const CUtensorMap *map, int column, int row)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(column), "r"(row)
                 : "memory");
#endif
}

// c += a [64][16] * b [8*TILES][16]^T over 16 columns of two tiles.
#define GROUP_MMA_BY_COLUMNS(TILES, COLUMNS, REGISTERS, ACCUMULATORS, A, B)                                            \
    static __device__ __forceinline__ void group_mma_bf16(float(&c)[TILES][4], uint64_t a, uint64_t b)                 \
    {                                                                                                                  \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32.bf16.bf16 {" REGISTERS "}, %" #A ", %" #B   \
                     ", 1, 1, 1, 0, 0;"                                                                                \
                     : ACCUMULATORS(c, 0)                                                                              \
                     : "l"(a), "l"(b));                                                                                \
    }
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
GROUP_MMA_BY_COLUMNS(1, 8, "%0,%1,%2,%3", ACCUMULATOR, 4, 5)
GROUP_MMA_BY_COLUMNS(2, 16, REGISTERS_8, ACCUMULATORS_2, 8, 9)
GROUP_MMA_BY_COLUMNS(4, 32, REGISTERS_16, ACCUMULATORS_4, 16, 17)
GROUP_MMA_BY_COLUMNS(8, 64, REGISTERS_32, ACCUMULATORS_8, 32, 33)
#else
template <int TILES> static __device__ __forceinline__ void group_mma_bf16(float (&)[TILES][4], uint64_t, uint64_t)
{
    __trap();
}
#endif
