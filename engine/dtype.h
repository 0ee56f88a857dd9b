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
