// engine/dtype.c - names of the element types, and fp8 e4m3 in integer arithmetic.
#include "engine/dtype.h"

#include <errno.h>
#include <stddef.h>

#include "engine/status.h"

static const char *const names[DTYPE_COUNT] = {[DTYPE_F32] = "f32", [DTYPE_BF16] = "bf16", [DTYPE_FP8] = "fp8"};

const char *dtype_name(enum dtype dtype)
{
    return names[dtype];
}

int dtype_from_name(enum dtype *out, const char *name)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(names[i], name) == 0) {
            *out = (enum dtype)i;
            return 0;
        }
    }
    return status_fail(-EINVAL, "unknown element type '%s': expected f32, bf16 or fp8", name);
}

// One byte is sign, 4 bits of exponent (bias 7), 3 of mantissa. Exponent 0 counts in steps of 2^-9.
float fp8_to_f32(uint8_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x80u) << 24;
    uint32_t magnitude = bits & 0x7fu;
    uint32_t wide;
    if (magnitude == 0x7fu) {
        wide = 0x7fc00000u;
    } else if (magnitude >= 8) {
        wide = (magnitude + ((127 - 7) << 3)) << 20;    // the same fields, rebiased and widened
    } else {
        float value = (float)magnitude * 0x1p-9f;       // exact
        memcpy(&wide, &value, sizeof wide);
    }
    wide |= sign;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

uint8_t f32_to_fp8(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    uint32_t sign = (wide >> 24) & 0x80u;
    wide &= 0x7fffffffu;
    uint32_t magnitude;
    if (wide > 0x7f800000u) {
        magnitude = 0x7fu;                              // NaN
    } else if (wide >= 0x43e00000u) {
        magnitude = 0x7eu;                              // 448 and everything above it, infinity included
    } else if (wide >= 0x3c800000u) {                   // 2^-6, the least normal number
        magnitude = ((wide + 0x7ffffu + ((wide >> 20) & 1u)) >> 20) - ((127 - 7) << 3);
    } else {
        // Below: the significand, 24 bits at 2^(exponent - 150), counted in steps of 2^-9.
        uint32_t shift = 141u - (wide >> 23);
        uint32_t significand = (wide & 0x7fffffu) | 0x800000u;
        magnitude = 0;                                  // less than half a step, subnormal f32 included
        if (shift <= 24) {
            uint32_t odd = (significand >> shift) & 1u;
            magnitude = (significand + (1u << (shift - 1)) - 1u + odd) >> shift;
        }
    }
    return (uint8_t)(sign | magnitude);
}

uint8_t kv_quantise(uint8_t *codes, const uint16_t *values, int32_t n)
{
    uint16_t greatest = 0;
    for (int32_t i = 0; i < n; i++) {
        uint16_t magnitude = values[i] & 0x7fffu;
        greatest = magnitude > greatest ? magnitude : greatest;
    }
    uint8_t byte = kv_scale_of(greatest);
    float scale = kv_scale_to_f32(byte);
    for (int32_t i = 0; i < n; i++) {
        codes[i] = byte == KV_SCALE_NAN ? 0 : f32_to_fp8(bf16_to_f32(values[i]) / scale);
    }
    return byte;
}
