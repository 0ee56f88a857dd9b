// engine/cuda/kv_codes.cuh - keys and values in fp8 pages: codes and scales as engine/dtype.h defines them.
//
// Codes become bf16 by moving their bits to where bf16 has its sign, exponent and mantissa, which leaves them 2^-120 of
// their size, and by one multiplication; both are exact. The scale stays outside: kernels multiply scores by a key's
// and probabilities by a value's, in f32, which rounds as if the vectors had been scaled.
#pragma once

#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"

// The codes in bytes 1 and 3 as a pair of bf16; bytes 0 and 2 may hold anything.
static __device__ __forceinline__ uint32_t widen_codes(uint32_t x)
{
    const uint32_t moved = (x & 0x80008000u) | (x >> 4 & 0x07f007f0u), large = 0x7b807b80u, minus_zero = 0x80008000u;
    uint32_t pair;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(moved), "r"(large), "r"(minus_zero));    // * 2^120
    return pair;
}

// Codes 0 and 1, or 2 and 3, of four that lie side by side.
static __device__ __forceinline__ uint32_t widen_first(uint32_t codes)
{
    return widen_codes(__byte_perm(codes, 0, 0x1000));
}

static __device__ __forceinline__ uint32_t widen_last(uint32_t codes)
{
    return widen_codes(__byte_perm(codes, 0, 0x3020));
}

// Codes 0 and 2, or 1 and 3.
static __device__ __forceinline__ uint32_t widen_even(uint32_t codes)
{
    return widen_codes(codes << 8);
}

static __device__ __forceinline__ uint32_t widen_odd(uint32_t codes)
{
    return widen_codes(codes);
}

static __device__ __forceinline__ float scale_of_byte(uint32_t byte)
{
    return __uint_as_float(byte == KV_SCALE_NAN ? 0x7fc00000u : byte << 23);
}

// The two scales of a token and KV head, side by side in memory.
static __device__ __forceinline__ float key_scale(uint32_t scales)
{
    return scale_of_byte(scales & 0xff);
}

static __device__ __forceinline__ float value_scale(uint32_t scales)
{
    return scale_of_byte(scales >> 8 & 0xff);
}

// The larger magnitude of a pair of bf16, as a pattern without its sign.
static __device__ __forceinline__ uint32_t greatest_of(uint32_t pair)
{
    return max(pair & 0x7fffu, pair >> 16 & 0x7fffu);
}

static __device__ __forceinline__ uint32_t scale_byte(uint32_t greatest)
{
    const uint32_t exponent = greatest >> 7;
    return exponent == 255 ? KV_SCALE_NAN : max(exponent, (uint32_t)KV_SCALE_LEAST + 7) - 7;
}

// Two codes, the first in the lower byte, of a pair of bf16.
static __device__ __forceinline__ uint32_t encode_pair(uint32_t pair, uint32_t byte)
{
    const float inverse = __uint_as_float((254 - byte) << 23);
    uint16_t codes = 0;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
        : "=h"(codes)
        : "f"(bf16_high(pair) * inverse), "f"(bf16_low(pair) * inverse));
#else
    __trap();    // the backend refuses fp8 on such a device
#endif
    return byte == KV_SCALE_NAN ? 0 : codes;
}

// Where the scales of a page's token `place` and KV head `head` lie.
static __device__ __forceinline__ uint8_t *scales_at(const kv_view &view, int64_t page, int place, int head)
{
    return view.data + page * view.page_stride + view.scale_offset + place * view.scale_token_stride +
           head * view.scale_head_stride;
}
