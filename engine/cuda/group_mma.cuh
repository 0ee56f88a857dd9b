// engine/cuda/group_mma.cuh - products of a warp group in bf16, and boxes of tensors brought by the copy engine.
//
// A warp group (four warps, the first a multiple of 4) multiplies 64 rows of A with B in shared memory into f32
// registers, asynchronously: group_mma_begin(), products, group_mma_commit(), and group_mma_wait<N>() until at most N
// later commits are under way; then settle() the accumulators before they are read. Warp w of the group holds rows
// 16w..16w+15, laid out as device.cuh says of m16n8, c[j] covering columns 8j..8j+7.
//
// Matrices in shared memory are panels of up to 64 columns (16, 32 or 64: row_bytes 32, 64 or 128), rows one behind
// the other, swizzled by the copy engine within 8 rows; a panel begins at a multiple of 1024 bytes. Both the
// operands of a product along the columns (keys) and along the rows (values) are read from such panels in place.
#pragma once

#include <cuda.h>

#include "engine/cuda/device.cuh"

// Which of the hardware's swizzles belongs to rows of that many bytes.
static __host__ __device__ constexpr uint64_t swizzle_code(int row_bytes)
{
    return row_bytes == 128 ? 1 : row_bytes == 64 ? 2 : 3;
}

// An operand whose columns are summed over: rows of A or B, each 8 of them ROW_BYTES * 8 apart. Adding 2 moves by 16
// columns.
template <int ROW_BYTES> static __device__ __forceinline__ uint64_t operand_by_columns(uint32_t address)
{
    return (uint64_t)(address >> 4) | (uint64_t)1 << 16 | (uint64_t)(ROW_BYTES * 8 >> 4) << 32 |
           swizzle_code(ROW_BYTES) << 62;
}

// An operand B whose rows are summed over; its next panel lies panel_bytes further on. Adding ROW_BYTES moves by 16
// rows.
template <int ROW_BYTES>
static __device__ __forceinline__ uint64_t operand_by_rows(uint32_t address, uint32_t panel_bytes)
{
    return (uint64_t)(address >> 4) | (uint64_t)(panel_bytes >> 4) << 16 | (uint64_t)(ROW_BYTES * 8 >> 4) << 32 |
           swizzle_code(ROW_BYTES) << 62;
}

#define ACCUMULATOR(c, i) "+f"((c)[i][0]), "+f"((c)[i][1]), "+f"((c)[i][2]), "+f"((c)[i][3])
#define ACCUMULATORS_2(c, i) ACCUMULATOR(c, i), ACCUMULATOR(c, (i) + 1)
#define ACCUMULATORS_4(c, i) ACCUMULATORS_2(c, i), ACCUMULATORS_2(c, (i) + 2)
#define ACCUMULATORS_8(c, i) ACCUMULATORS_4(c, i), ACCUMULATORS_4(c, (i) + 4)
#define ACCUMULATORS_16(c, i) ACCUMULATORS_8(c, i), ACCUMULATORS_8(c, (i) + 8)
#define REGISTERS_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define REGISTERS_16 REGISTERS_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define REGISTERS_32 REGISTERS_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define REGISTERS_64                                                                                                   \
    REGISTERS_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,"   \
                 "%56,%57,%58,%59,%60,%61,%62,%63"

// c = (add ? c : 0) + A * B^T over 16 columns: A [64][16] and B [128][16] in shared memory.
static __device__ __forceinline__ void group_mma_bf16(float (&c)[16][4], uint64_t a, uint64_t b, bool add)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("{\n .reg .pred add;\n setp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64
                 "}, %64, %65, add, 1, 1, 0, 0;\n}"
                 : ACCUMULATORS_16(c, 0)
                 : "l"(a), "l"(b), "r"((int)add));
#else
    __trap();
#endif
}

// The same with A in registers (laid out as for m16n8k16) and B [64][16].
static __device__ __forceinline__ void group_mma_bf16(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b, bool add)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("{\n .reg .pred add;\n setp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_32
                 "}, {%32,%33,%34,%35}, %36, add, 1, 1, 0;\n}"
                 : ACCUMULATORS_8(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
#else
    __trap();
#endif
}

// c += A * B over 16 rows of B: A [64][16] in registers (laid out as for m16n8k16), B [16][16, 32, 64 or 128] by rows.
#define GROUP_MMA_BY_ROWS(TILES, COLUMNS, REGISTERS, ACCUMULATORS, A0, A1, A2, A3, B)                                  \
    static __device__ __forceinline__ void group_mma_bf16_by_rows(float(&c)[TILES][4], const uint32_t(&a)[4],          \
                                                                  uint64_t b)                                          \
    {                                                                                                                  \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32.bf16.bf16 {" REGISTERS "}, {%" #A0 ",%" #A1 \
                     ",%" #A2 ",%" #A3 "}, %" #B ", 1, 1, 1, 1;"                                                       \
                     : ACCUMULATORS(c, 0)                                                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                            \
    }
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
GROUP_MMA_BY_ROWS(2, 16, REGISTERS_8, ACCUMULATORS_2, 8, 9, 10, 11, 12)
GROUP_MMA_BY_ROWS(4, 32, REGISTERS_16, ACCUMULATORS_4, 16, 17, 18, 19, 20)
GROUP_MMA_BY_ROWS(8, 64, REGISTERS_32, ACCUMULATORS_8, 32, 33, 34, 35, 36)
GROUP_MMA_BY_ROWS(16, 128, REGISTERS_64, ACCUMULATORS_16, 64, 65, 66, 67, 68)
#else
template <int TILES>
static __device__ __forceinline__ void group_mma_bf16_by_rows(float (&)[TILES][4], const uint32_t (&)[4], uint64_t)
{
    __trap();
}
#endif

static __device__ __forceinline__ void group_mma_commit()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int LATER> static __device__ __forceinline__ void group_mma_wait()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LATER) : "memory");
#endif
}

// Keeps the compiler from using accumulators before the wait that stands above, or changing them after the begin below.
template <int TILES> static __device__ __forceinline__ void settle(float (&c)[TILES][4])
{
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            asm volatile("" : "+f"(c[i][j])::"memory");
        }
    }
}

// One box of a tensor of four dimensions to shared memory; what lies outside the tensor becomes zero.
static __device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int x0, int x1, int x2, int x3,
                                                uint32_t barrier)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
                 "l"(map), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(barrier)
                 : "memory");
#endif
}

// Waits until all `threads` that use this barrier of the block (1..15) have come.
static __device__ __forceinline__ void named_barrier_sync(int barrier, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

static __device__ __forceinline__ void named_barrier_arrive(int barrier, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// A tensor of bf16, [extent 2][extent 1][extent 0][columns], strides in bytes, and boxes of [1][1][box_rows]
// [box_columns], swizzled for group products. -EIO if the driver refuses.
struct tensor_shape {
    const void *data;
    uint64_t columns, extent[3], stride[3];
    uint32_t box_columns, box_rows;
};

static inline int tensor_map(CUtensorMap *out, const tensor_shape &shape)
{
    using encode_function = decltype(&cuTensorMapEncodeTiled);
    static encode_function encode = NULL;
    if (!encode) {    // the driver is not linked to: found when first needed
        void *found = NULL;
        cudaDriverEntryPointQueryResult result;
        cudaError_t error =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
        if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) {
            return status_fail(-EIO, "cuTensorMapEncodeTiled: not in this driver");
        }
        encode = (encode_function)found;
    }
    uint64_t extents[4] = {shape.columns, shape.extent[0], shape.extent[1], shape.extent[2]};
    uint32_t box[4] = {shape.box_columns, shape.box_rows, 1, 1}, steps[4] = {1, 1, 1, 1};
    CUtensorMapSwizzle swizzle = shape.box_columns == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                 : shape.box_columns == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                           : CU_TENSOR_MAP_SWIZZLE_32B;
    CUresult refused = encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void *>(shape.data), extents,
                              shape.stride, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return refused == CUDA_SUCCESS ? 0 : status_fail(-EIO, "cuTensorMapEncodeTiled: error %d", (int)refused);
}
