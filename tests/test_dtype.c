// tests/test_dtype.c - conversions against the formats' definitions in double precision: every code, every tie, and
// random floats of every magnitude.
#include "engine/dtype.h"
#include "engine/status.h"
#include "tests/check.h"

// OCP e4m3 as its specification defines it.
static double fp8_value(int code)
{
    int exponent = code >> 3 & 15, mantissa = code & 7;
    double magnitude = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
    return code & 0x80 ? -magnitude : magnitude;
}

// The code nearest to a finite value by search: among two at the same distance the one with an even mantissa.
static int fp8_nearest(double value)
{
    int sign = signbit(value) ? 0x80 : 0, best = 0;
    for (int code = 1; code <= 0x7e; code++) {
        double distance = fabs(fabs(value) - fp8_value(code)), least = fabs(fabs(value) - fp8_value(best));
        if (distance < least || (distance == least && code % 2 == 0)) {
            best = code;
        }
    }
    return sign | best;
}

static float random_float(void)
{
    uint32_t bits = (uint32_t)check_random();
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void check_fp8(float value)
{
    int got = f32_to_fp8(value);
    int expected = isnan(value) ? 0x7f | (signbit(value) ? 0x80 : 0) : fp8_nearest((double)value);
    CHECK_MESSAGE(got == expected, "f32_to_fp8(%a) is 0x%02x, expected 0x%02x", (double)value, (unsigned)got,
                  (unsigned)expected);
}

static void test_fp8_codes(void)
{
    for (int code = 0; code < 256; code++) {
        float value = fp8_to_f32((uint8_t)code);
        if ((code & 0x7f) == 0x7f) {
            CHECK(isnan(value));
            CHECK(isnan(fp8_to_f32(f32_to_fp8(value))));
            continue;
        }
        CHECK_MESSAGE((double)value == fp8_value(code), "code 0x%02x is %g, not %g", (unsigned)code, (double)value,
                      fp8_value(code));
        CHECK(!signbit(value) == !(code & 0x80));
        CHECK_MESSAGE(f32_to_fp8(value) == code, "code 0x%02x does not come back", (unsigned)code);
    }
}

static void test_fp8_rounding(void)
{
    for (int code = 0; code < 0x7e; code++) {
        float tie = (float)((fp8_value(code) + fp8_value(code + 1)) / 2);    // exact: one more bit than e4m3 has
        for (int sign = -1; sign <= 1; sign += 2) {
            check_fp8((float)sign * tie);
            check_fp8((float)sign * nextafterf(tie, 0));
            check_fp8((float)sign * nextafterf(tie, 1e9f));
        }
    }
    const float edges[] = {0.0f, -0.0f, 448,  449,       464,      465,    1e30f,
                           INFINITY, -INFINITY, NAN, 0x1p-149f, 0x1p-10f, -1e-20f};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        check_fp8(edges[i]);
    }
    CHECK(f32_to_fp8(1e9f) == 0x7e && f32_to_fp8(-INFINITY) == 0xfe);
    CHECK(fp8_to_f32(0x7e) == (float)FP8_MAX);
    for (int i = 0; i < 20000; i++) {
        check_fp8(random_float());
        check_fp8((float)(check_normal() * exp2(check_uniform() * 22 - 12)));
    }
}

static void test_bf16(void)
{
    for (int i = 0; i < 200000; i++) {
        float value = random_float();
        uint16_t got = f32_to_bf16(value);
        if (isnan(value)) {
            CHECK(isnan(bf16_to_f32(got)));
            continue;
        }
        // The two neighbours by truncation; the one above the largest finite value stands at 2^128.
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint16_t low = (uint16_t)(bits >> 16), high = (uint16_t)(low + 1);
        double below = (double)bf16_to_f32(low), above = (double)bf16_to_f32(high);
        above = isinf(above) ? copysign(0x1p128, (double)value) : above;
        double down = fabs((double)value - below), up = fabs(above - (double)value);
        uint16_t expected = isinf(value) || down < up || (down == up && low % 2 == 0) ? low : high;
        CHECK_MESSAGE(got == expected, "f32_to_bf16(%a) is 0x%04x, expected 0x%04x", (double)value, got, expected);
    }
}

static void test_load_store(void)
{
    for (int d = 0; d < DTYPE_COUNT; d++) {
        enum dtype dtype = (enum dtype)d, named = DTYPE_COUNT;
        CHECK(dtype_from_name(&named, dtype_name(dtype)) == 0 && named == dtype);
        float buffer[4] = {7, 7, 7, 7};
        dtype_store(buffer, 1, dtype, 1.5f);
        CHECK(dtype_load(buffer, 1, dtype) == 1.5f);
        unsigned char bytes[sizeof buffer];
        float untouched[4] = {7, 7, 7, 7};
        memcpy(bytes, buffer, sizeof bytes);
        size_t size = (size_t)dtype_bytes(dtype);
        CHECK(memcmp(bytes, untouched, size) == 0);    // element 0
        CHECK(memcmp(bytes + 2 * size, (unsigned char *)untouched + 2 * size, sizeof bytes - 2 * size) == 0);
    }
    enum dtype unchanged = DTYPE_BF16;
    CHECK(dtype_from_name(&unchanged, "fp16") < 0 && unchanged == DTYPE_BF16);
    CHECK(strstr(status_text(), "fp16") && strstr(status_text(), "bf16"));
}

// Vectors of all sizes: the scale puts the greatest into [128, 256), codes are the nearest, and code times scale is a
// bf16 number.
static void test_cached_vectors(void)
{
    for (int i = 0; i < 3000; i++) {
        uint16_t values[24];
        uint8_t codes[24];
        double greatest = 0;
        int32_t n = check_range(1, 24), size = check_range(-126, 127);
        for (int32_t j = 0; j < n; j++) {
            values[j] = f32_to_bf16((float)(ldexp(check_uniform() - 0.5, size - 10 * (check_range(0, 3) == 0))));
            greatest = fmax(greatest, fabs((double)bf16_to_f32(values[j])));
        }
        double scale = (double)kv_scale_to_f32(kv_quantise(codes, values, n));
        bool small = greatest < ldexp(1, -110);
        CHECK_MESSAGE(small ? scale == ldexp(1, -117) : greatest / scale >= 128 && greatest / scale < 256,
                      "greatest %a, scale %a", greatest, scale);
        for (int32_t j = 0; j < n; j++) {
            double value = (double)bf16_to_f32(values[j]), cached = (double)fp8_to_f32(codes[j]) * scale;
            CHECK(codes[j] == fp8_nearest(value / scale));
            CHECK(cached == (double)bf16_to_f32(f32_to_bf16((float)cached)));
        }
    }
    const float strange[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        uint16_t values[2] = {f32_to_bf16(1), f32_to_bf16(strange[i])};
        uint8_t codes[2] = {1, 1};
        CHECK(kv_quantise(codes, values, 2) == KV_SCALE_NAN && codes[0] == 0 && codes[1] == 0);
        CHECK(isnan(kv_scale_to_f32(KV_SCALE_NAN)));
    }
    uint16_t zeros[3] = {0, 0x8000, 0};
    uint8_t codes[3];
    CHECK(kv_quantise(codes, zeros, 3) == KV_SCALE_LEAST && codes[0] == 0 && codes[1] == 0x80);
}

int main(void)
{
    check_begin();
    test_fp8_codes();
    test_fp8_rounding();
    test_bf16();
    test_load_store();
    test_cached_vectors();
    return check_end();
}
