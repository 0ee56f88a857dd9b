// engine/dtype.h - the element types of weights, caches and index keys, and their exact conversions.
//
// Conversions round to nearest, ties to even, in integer arithmetic, so that every backend can reproduce them bit for
// bit. fp8 is OCP e4m3 (no infinity, 0x7f is NaN, largest value 448) and saturates.
#pragma once

#include <stdint.h>
#include <string.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_FP8, DTYPE_COUNT };

static inline int32_t dtype_bytes(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 4 : dtype == DTYPE_BF16 ? 2 : 1;
}

const char *dtype_name(enum dtype dtype);                  // "f32", "bf16", "fp8"
int dtype_from_name(enum dtype *out, const char *name);    // -EINVAL and a text that lists the names

static inline float bf16_to_f32(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t f32_to_bf16(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if ((wide & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((wide >> 16) | 0x40u);    // keep NaN a NaN: rounding could carry it to infinity
    }
    return (uint16_t)((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16);
}

float fp8_to_f32(uint8_t bits);
uint8_t f32_to_fp8(float value);
enum { FP8_MAX = 448 };

// Cached keys and values in fp8: a vector (key or value of one token and KV head) is e4m3 codes and one scale, a power
// of two as OCP writes it (E8M0: 2^(byte - 127)) that puts the greatest magnitude into [128, 256). A power of two,
// because code times scale is then a bf16 number, exactly, and a product rounds alike wherever the scale is multiplied
// in. Scales keep to [2^-117, 2^120]. A vector that holds NaN or infinity has the scale NaN (byte 255) and codes 0.
enum { KV_SCALE_LEAST = 10, KV_SCALE_NAN = 255 };

// greatest: the greatest of the vector's bf16 patterns without their signs, as integers.
static inline uint8_t kv_scale_of(uint16_t greatest)
{
    int32_t exponent = greatest >> 7;
    int32_t byte = exponent < KV_SCALE_LEAST + 7 ? KV_SCALE_LEAST : exponent - 7;
    return (uint8_t)(exponent == 255 ? KV_SCALE_NAN : byte);
}

static inline float kv_scale_to_f32(uint8_t byte)
{
    uint32_t bits = byte == KV_SCALE_NAN ? 0x7fc00000u : (uint32_t)byte << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

// codes [n] from values [n], bf16; returns the scale.
uint8_t kv_quantise(uint8_t *codes, const uint16_t *values, int32_t n);

// One value of an array of any dtype (fp8 without its scale).
static inline float dtype_load(const void *array, int64_t index, enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32: return ((const float *)array)[index];
    case DTYPE_BF16: return bf16_to_f32(((const uint16_t *)array)[index]);
    default: return fp8_to_f32(((const uint8_t *)array)[index]);
    }
}

static inline void dtype_store(void *array, int64_t index, enum dtype dtype, float value)
{
    switch (dtype) {
    case DTYPE_F32: ((float *)array)[index] = value; break;
    case DTYPE_BF16: ((uint16_t *)array)[index] = f32_to_bf16(value); break;
    default: ((uint8_t *)array)[index] = f32_to_fp8(value); break;
    }
}
