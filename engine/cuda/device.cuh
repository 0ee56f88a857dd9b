// engine/cuda/device.cuh - what every kernel here uses: 16-byte loads, tensor-core instructions, barriers, launches.
//
// Thin names for single instructions, so that kernels read as algorithms. Fragment layouts are those of the PTX manual:
// in a warp, g = lane / 4 and t = lane % 4; an accumulator of m16n8 holds rows g and g + 8, columns 2t and 2t + 1.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cuda_bf16.h>

extern "C" {
#include "engine/status.h"
}

#define FULL_MASK 0xffffffffu

static __device__ __forceinline__ uint32_t smem_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

// Lets the next kernel of the stream start its prologue.
static __device__ __forceinline__ void dependents_may_launch()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits for everything before this kernel in the stream. No input is read and no output written before it.
static __device__ __forceinline__ void wait_for_predecessor()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A read that passes the L1 cache by: data used once.
static __device__ __forceinline__ uint4 load_streaming(const void *pointer)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(pointer));
    return v;
}

static __device__ __forceinline__ void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma_fp8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                               uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    __trap();    // launchers refuse fp8 keys on such a device
#endif
}

// Four warps multiply their 64 rows of A (registers, laid out as for m16n8k32) with B [8 or 64][32 bytes] in shared
// memory. `b`: descriptor of B. Starts from zero if `first`. Waiting is up to the caller.
static __device__ __forceinline__ void group_mma_fp8(float (&c)[1][4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                     uint32_t a3, uint64_t b, bool first)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("{\n .reg .pred add;\n setp.eq.b32 add, %9, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, add, 1, 1;\n}"
                 : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"((int)first));
#else
    __trap();
#endif
}

static __device__ __forceinline__ void group_mma_fp8(float (&c)[8][4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                     uint32_t a3, uint64_t b, bool first)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("{\n .reg .pred add;\n setp.eq.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,"
                 "%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, add, 1, 1;\n}"
                 : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
                   "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
                   "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
                   "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
                   "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
                   "+f"(c[7][2]), "+f"(c[7][3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"((int)first));
#else
    __trap();
#endif
}

static __device__ __forceinline__ void group_mma_begin()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

static __device__ __forceinline__ void group_mma_end()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.commit_group.sync.aligned;\n wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}

// Shared memory written by ordinary stores is about to be read by group_mma or the copy engine.
static __device__ __forceinline__ void fence_for_group_mma()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

static __device__ __forceinline__ void load_matrix(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

static __device__ __forceinline__ void load_matrix_transposed(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Transposes an 8x8 matrix of 16-bit values that lies across a warp.
static __device__ __forceinline__ uint32_t transpose_8x8(uint32_t value)
{
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(value));
    return out;
}

// The larger of two; NaN if either is.
static __device__ __forceinline__ float max_or_nan(float a, float b)
{
    float out;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
    return out;
}

static __device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

static __device__ __forceinline__ float bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

static __device__ __forceinline__ float bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

static __device__ __forceinline__ float load_bf16(const void *array, int64_t index)
{
    return __bfloat162float(static_cast<const __nv_bfloat16 *>(array)[index]);
}

static __device__ __forceinline__ void store_bf16(void *array, int64_t index, float value)
{
    static_cast<__nv_bfloat16 *>(array)[index] = __float2bfloat16_rn(value);
}

// Barriers in shared memory that count arrivals and, where the copy engine fills memory, bytes.
static __device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier) : "memory");
}

static __device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1; }" ::"r"(barrier), "r"(bytes)
                 : "memory");
#endif
}

static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n .reg .pred done;\n again:\n mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                 " @done bra.uni out;\n bra.uni again;\n out:\n }" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
#else
    uint32_t done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!done);
#endif
}

// One contiguous run (a multiple of 16 bytes, both ends aligned to 16) from global to shared memory. copy_bulk_once: of
// what nobody reads again soon, so that it leaves the L2 before all else.
static __device__ __forceinline__ void copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
#endif
}

static __device__ __forceinline__ void copy_bulk_once(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
#if __CUDA_ARCH__ >= 900
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
                 "[%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
                 : "memory");
#endif
}

// 16 bytes from global to shared memory, asynchronously; the barrier then counts this thread's arrival once they are
// there.
static __device__ __forceinline__ void copy_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

static __device__ __forceinline__ void barrier_arrive_after_copies(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

static inline int gpu_status(cudaError_t error, const char *what)
{
    return error == cudaSuccess ? 0 : status_fail(-EIO, "%s: %s", what, cudaGetErrorString(error));
}

struct launch_shape {
    dim3 grid;
    unsigned threads;
    size_t smem_bytes;
    unsigned cluster;    // blocks per cluster; 0: none
};

// Launches as a programmatic dependent, so the kernel must begin with wait_for_predecessor().
template <typename... Parameters, typename... Arguments>
static int launch(const char *what, void (*kernel)(Parameters...), const launch_shape &shape, cudaStream_t stream,
                  Arguments... arguments)
{
    if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) {
        return 0;
    }
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = dim3(shape.threads);
    config.dynamicSmemBytes = shape.smem_bytes;
    config.stream = stream;
    config.attrs = attributes;
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    config.numAttrs = 1;
    if (shape.cluster) {
        attributes[1].id = cudaLaunchAttributeClusterDimension;
        attributes[1].val.clusterDim.x = shape.cluster;
        attributes[1].val.clusterDim.y = 1;
        attributes[1].val.clusterDim.z = 1;
        config.numAttrs = 2;
    }
    return gpu_status(cudaLaunchKernelEx(&config, kernel, arguments...), what);
}

// Raises a kernel's limit of dynamic shared memory.
template <typename Kernel> static int allow_smem(const char *what, Kernel kernel, size_t bytes)
{
    return gpu_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), what);
}

// Tests lower it, so that a few tokens give a block many tiles: see kernels.h.
extern "C" int32_t most_multiprocessors;

static inline int multiprocessors()
{
    static int count = 0;
    if (!count) {
        int device = 0;
        if (cudaGetDevice(&device) != cudaSuccess ||
            cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
            count = 1;
        }
    }
    return most_multiprocessors > 0 && most_multiprocessors < count ? most_multiprocessors : count;
}
