// engine/cuda/cluster.cuh - blocks that write into each other's shared memory: barriers, stores, launch limits.
//
// The protocol that all kernels but the linear one follow is push only: a block writes into its peers, a barrier,
// everybody reads its own memory. Nobody reads a peer, so a block may end after the last barrier without waiting for
// the others; the first push needs a barrier before it, which says that the peers have begun. Memory that is written
// again takes two buffers: a peer still reads the one while the other fills, and two barriers lie between two uses of
// the same.
#pragma once

#include "engine/cuda/device.cuh"

enum { WIDEST_CLUSTER_SHIFT = 4, WIDEST_CLUSTER = 1 << WIDEST_CLUSTER_SHIFT };    // what an H100 grants on request

// All threads of a cluster: what they wrote before arriving can be read after waiting.
static __device__ __forceinline__ void cluster_arrive()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

// Orders no memory: enough to say that this thread has read what it wanted.
static __device__ __forceinline__ void cluster_arrive_relaxed()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

static __device__ __forceinline__ void cluster_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The address of the same shared variable in another block.
static __device__ __forceinline__ uint32_t peer_address(uint32_t address, int rank)
{
    uint32_t out = address;
#if __CUDA_ARCH__ >= 900
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(out) : "r"(address), "r"(rank));
#endif
    return out;
}

static __device__ __forceinline__ void fetch(float (&v)[2], uint32_t peer)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("ld.shared::cluster.v2.f32 {%0,%1}, [%2];" : "=f"(v[0]), "=f"(v[1]) : "r"(peer) : "memory");
#endif
}

static __device__ __forceinline__ void fetch(float (&v)[4], uint32_t peer)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
                 : "r"(peer)
                 : "memory");
#endif
}

static __device__ __forceinline__ void push(uint32_t peer, uint32_t value)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(peer), "r"(value) : "memory");
#endif
}

static __device__ __forceinline__ void push(uint32_t peer, float2 v)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1,%2};" ::"r"(peer), "f"(v.x), "f"(v.y) : "memory");
#endif
}

static __device__ __forceinline__ void push(uint32_t peer, float4 v)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(peer), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
#endif
}

static __device__ __forceinline__ void push(uint32_t peer, uint4 v)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("st.shared::cluster.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(peer), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
#endif
}

// How many clusters of block.cluster blocks run at once; 0 where the device refuses.
template <typename Kernel> static int clusters_at_once(Kernel kernel, const launch_shape &block)
{
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = block.cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(block.cluster);
    config.blockDim = dim3(block.threads);
    config.dynamicSmemBytes = block.smem_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) {
        cudaGetLastError();
        clusters = 0;
    }
    return clusters;
}

// The same for 1, 2, 4, 8 and 16 blocks. Asked once per kernel.
struct cluster_room {
    int clusters[5];
};

template <typename Kernel> static cluster_room room_for_clusters(Kernel kernel, const launch_shape &block)
{
    cluster_room room = {};
    cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    for (int i = 0; i < 5; i++) {
        launch_shape shape = block;
        shape.cluster = 1u << i;
        room.clusters[i] = clusters_at_once(kernel, shape);
    }
    return room;
}
