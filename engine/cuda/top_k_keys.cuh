// engine/cuda/top_k_keys.cuh - what selections share: scores as integers of the same order, counts by bins.
#pragma once

#include "engine/cuda/device.cuh"

enum { BINS = 256 };

// Order-preserving: a < b as floats <=> key(a) < key(b) as integers. -0 is first made +0: they are equal scores.
static __device__ __forceinline__ uint32_t key_of(float score)
{
    uint32_t bits = __float_as_uint(score + 0.0f);
    return bits ^ (uint32_t)((int32_t)bits >> 31 | 0x80000000);
}

// One warp, the block's first: the bin where the k-th largest lies. answer: bin, keys above it, keys in it.
static __device__ __forceinline__ void find_bin(const uint32_t *bins, uint32_t k, uint32_t (&answer)[3])
{
    const int lane = threadIdx.x, top = BINS - 1 - lane * 8;    // lane i owns eight bins, from the highest down
    uint32_t count[8], sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        count[i] = bins[top - i];
        sum += count[i];
    }
    uint32_t through = sum;
    for (int i = 1; i < 32; i *= 2) {
        uint32_t other = __shfl_up_sync(FULL_MASK, through, i);
        through += lane >= i ? other : 0;
    }
    uint32_t above = through - sum;
    if (above < k && k <= through) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (above < k && k <= above + count[i]) {
                answer[0] = (uint32_t)(top - i);
                answer[1] = above;
                answer[2] = count[i];
            }
            above += count[i];
        }
    }
}
