// engine/cpu/vector.h - one small vocabulary of float vectors, spelled for AVX-512, for AVX2 with FMA and F16C, and for
// any 16-byte unit the compiler knows.
//
// The kernels are written once in these words and compiled once per instruction set; the flags of the compilation
// choose. A vector has LANES floats. A "pair" is 2*LANES consecutive values of an array as two vectors: f32 and fp8 in
// order, bf16 as its even and its odd elements, because splitting 32-bit words costs one shift and one mask. Whoever
// multiplies pairs keeps the other operand in the same order (the kernels' pack and unpack). Little-endian only.
//
// NaN: max and min return their second operand if either is NaN; vector_exp passes NaN on.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "engine/dtype.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

// Before loops of a few constant rounds over arrays of vectors: unrolled early, the arrays become registers.
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#if defined(__AVX512F__)

enum { LANES = 16 };
typedef __m512 vector;

INLINE vector vector_zero(void) { return _mm512_setzero_ps(); }
INLINE vector vector_set(float x) { return _mm512_set1_ps(x); }
INLINE vector vector_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vector_store(float *p, vector a) { _mm512_storeu_ps(p, a); }
INLINE vector vector_add(vector a, vector b) { return _mm512_add_ps(a, b); }
INLINE vector vector_sub(vector a, vector b) { return _mm512_sub_ps(a, b); }
INLINE vector vector_mul(vector a, vector b) { return _mm512_mul_ps(a, b); }
INLINE vector vector_div(vector a, vector b) { return _mm512_div_ps(a, b); }
INLINE vector vector_fma(vector a, vector b, vector c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vector vector_max(vector a, vector b) { return _mm512_max_ps(a, b); }
INLINE vector vector_min(vector a, vector b) { return _mm512_min_ps(a, b); }
INLINE vector vector_round(vector a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vector vector_scale2(vector a, vector n) { return _mm512_scalef_ps(a, n); }    // a * 2^n for whole n

// x < bound ? a : b, lane by lane; false where one is NaN.
INLINE vector vector_if_less(vector x, vector bound, vector a, vector b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, bound, _CMP_LT_OQ), b, a);
}

INLINE void vector_pair_bf16(vector *a, vector *b, const void *p)
{
    __m512i words = _mm512_loadu_si512(p);
    *a = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
    *b = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u)));
}

// even and odd = those elements of a followed by b; a and b = the elements of even and odd in turn.
INLINE void vector_split(vector *even, vector *odd, vector a, vector b)
{
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, evens, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), b);
}

INLINE void vector_weave(vector *a, vector *b, vector even, vector odd)
{
    const __m512i lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *a = _mm512_permutex2var_ps(even, lower, odd);
    *b = _mm512_permutex2var_ps(even, _mm512_add_epi32(lower, _mm512_set1_epi32(8)), odd);
}

INLINE vector vector_widen_bf16(const void *p)    // LANES values in order
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

// fp8 e4m3 widened to f16 fields is 2^-8 too small; f16 holds its subnormals as they are.
INLINE vector vector_fp8(__m128i codes)
{
    __m256i wide = _mm256_cvtepu8_epi16(codes);
    __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7);
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, rest)), _mm512_set1_ps(256.0f));
}

INLINE void vector_pair_fp8(vector *a, vector *b, const void *p)
{
    *a = vector_fp8(_mm_loadu_si128((const __m128i *)p));
    *b = vector_fp8(_mm_loadu_si128((const __m128i *)p + 1));
}

// out [4] = the sums of a, b, c, d over their lanes.
INLINE void vector_sum4(float *out, vector a, vector b, vector c, vector d)
{
    vector ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vector cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    vector all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), upper);
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

#elif defined(__AVX2__)

enum { LANES = 8 };
typedef __m256 vector;

INLINE vector vector_zero(void) { return _mm256_setzero_ps(); }
INLINE vector vector_set(float x) { return _mm256_set1_ps(x); }
INLINE vector vector_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vector_store(float *p, vector a) { _mm256_storeu_ps(p, a); }
INLINE vector vector_add(vector a, vector b) { return _mm256_add_ps(a, b); }
INLINE vector vector_sub(vector a, vector b) { return _mm256_sub_ps(a, b); }
INLINE vector vector_mul(vector a, vector b) { return _mm256_mul_ps(a, b); }
INLINE vector vector_div(vector a, vector b) { return _mm256_div_ps(a, b); }
INLINE vector vector_fma(vector a, vector b, vector c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vector vector_max(vector a, vector b) { return _mm256_max_ps(a, b); }
INLINE vector vector_min(vector a, vector b) { return _mm256_min_ps(a, b); }
INLINE vector vector_round(vector a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// a * 2^n for whole n, where neither a nor the result is subnormal.
INLINE vector vector_scale2(vector a, vector n)
{
    __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
}

INLINE vector vector_if_less(vector x, vector bound, vector a, vector b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, bound, _CMP_LT_OQ));
}

INLINE void vector_pair_bf16(vector *a, vector *b, const void *p)
{
    __m256i words = _mm256_loadu_si256((const __m256i *)p);
    *a = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    *b = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000u)));
}

INLINE void vector_split(vector *even, vector *odd, vector a, vector b)
{
    __m256d lower = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    __m256d upper = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(lower, 0xd8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(upper, 0xd8));
}

INLINE void vector_weave(vector *a, vector *b, vector even, vector odd)
{
    vector low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    *a = _mm256_permute2f128_ps(low, high, 0x20);
    *b = _mm256_permute2f128_ps(low, high, 0x31);
}

INLINE vector vector_widen_bf16(const void *p)
{
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

INLINE vector vector_fp8(__m128i codes)    // the lower 8
{
    __m128i wide = _mm_cvtepu8_epi16(codes);
    __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    __m128i rest = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x7f)), 7);
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, rest)), _mm256_set1_ps(256.0f));
}

INLINE void vector_pair_fp8(vector *a, vector *b, const void *p)
{
    __m128i codes = _mm_loadu_si128((const __m128i *)p);
    *a = vector_fp8(codes);
    *b = vector_fp8(_mm_srli_si128(codes, 8));
}

INLINE void vector_sum4(float *out, vector a, vector b, vector c, vector d)
{
    vector all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

#else

enum { LANES = 4 };
typedef float vector __attribute__((vector_size(16)));
typedef uint32_t vector_bits __attribute__((vector_size(16)));

INLINE vector vector_set(float x) { return (vector){x, x, x, x}; }
INLINE vector vector_zero(void) { return vector_set(0); }
INLINE vector vector_load(const float *p) { vector a; memcpy(&a, p, sizeof a); return a; }
INLINE void vector_store(float *p, vector a) { memcpy(p, &a, sizeof a); }
INLINE vector vector_add(vector a, vector b) { return a + b; }
INLINE vector vector_sub(vector a, vector b) { return a - b; }
INLINE vector vector_mul(vector a, vector b) { return a * b; }
INLINE vector vector_div(vector a, vector b) { return a / b; }
INLINE vector vector_fma(vector a, vector b, vector c) { return a * b + c; }

INLINE vector vector_if_less(vector x, vector bound, vector a, vector b)
{
    vector_bits mask = (vector_bits)(x < bound);
    return (vector)((mask & (vector_bits)a) | (~mask & (vector_bits)b));
}

INLINE vector vector_max(vector a, vector b) { return vector_if_less(b, a, a, b); }
INLINE vector vector_min(vector a, vector b) { return vector_if_less(a, b, a, b); }

// Adding 1.5 * 2^23 leaves the whole number in the lower bits; good for |a| < 2^22.
INLINE vector vector_round(vector a) { return (a + vector_set(12582912.0f)) - vector_set(12582912.0f); }

INLINE vector vector_scale2(vector a, vector n)
{
    vector_bits exponent = (vector_bits)(n + vector_set(12582912.0f)) << 23;
    return (vector)((vector_bits)a + exponent);
}

INLINE void vector_pair_bf16(vector *a, vector *b, const void *p)
{
    vector_bits words;
    memcpy(&words, p, sizeof words);
    *a = (vector)(words << 16);
    *b = (vector)(words & 0xffff0000u);
}

INLINE void vector_split(vector *even, vector *odd, vector a, vector b)
{
    *even = (vector){a[0], a[2], b[0], b[2]};
    *odd = (vector){a[1], a[3], b[1], b[3]};
}

INLINE void vector_weave(vector *a, vector *b, vector even, vector odd)
{
    *a = (vector){even[0], odd[0], even[1], odd[1]};
    *b = (vector){even[2], odd[2], even[3], odd[3]};
}

INLINE vector vector_widen_bf16(const void *p)
{
    const uint16_t *v = p;
    return (vector){bf16_to_f32(v[0]), bf16_to_f32(v[1]), bf16_to_f32(v[2]), bf16_to_f32(v[3])};
}

INLINE void vector_pair_fp8(vector *a, vector *b, const void *p)
{
    const uint8_t *codes = p;
    *a = (vector){fp8_to_f32(codes[0]), fp8_to_f32(codes[1]), fp8_to_f32(codes[2]), fp8_to_f32(codes[3])};
    *b = (vector){fp8_to_f32(codes[4]), fp8_to_f32(codes[5]), fp8_to_f32(codes[6]), fp8_to_f32(codes[7])};
}

INLINE void vector_sum4(float *out, vector a, vector b, vector c, vector d)
{
    out[0] = (a[0] + a[1]) + (a[2] + a[3]);
    out[1] = (b[0] + b[1]) + (b[2] + b[3]);
    out[2] = (c[0] + c[1]) + (c[2] + c[3]);
    out[3] = (d[0] + d[1]) + (d[2] + d[3]);
}

#endif

enum { PAIR = 2 * LANES };

INLINE float vector_sum(vector a)
{
    float sums[4];
    vector_sum4(sums, a, a, a, a);
    return sums[0];
}

// The first n < LANES values at p, zeros beyond.
INLINE vector vector_load_part(const float *p, int32_t n)
{
    float buffer[LANES] = {0};
    memcpy(buffer, p, (size_t)n * sizeof *p);
    return vector_load(buffer);
}

INLINE void vector_store_part(float *p, vector a, int32_t n)
{
    float buffer[LANES];
    vector_store(buffer, a);
    memcpy(p, buffer, (size_t)n * sizeof *p);
}

// `dtype` is a constant where this is called, so that one branch remains.
INLINE void vector_pair(vector *a, vector *b, const void *p, enum dtype dtype)
{
    if (dtype == DTYPE_BF16) {
        vector_pair_bf16(a, b, p);
    } else if (dtype == DTYPE_FP8) {
        vector_pair_fp8(a, b, p);
    } else {
        *a = vector_load((const float *)p);
        *b = vector_load((const float *)p + LANES);
    }
}

// A pair of which only the first n < PAIR values exist; zeros beyond.
INLINE void vector_pair_part(vector *a, vector *b, const void *p, int32_t n, enum dtype dtype)
{
    unsigned char buffer[PAIR * sizeof(float)] = {0};
    memcpy(buffer, p, (size_t)(n * dtype_bytes(dtype)));
    vector_pair(a, b, buffer, dtype);
}

// e^x, relative error below 3e-7; 0 below -87.3, the largest power of e that fits above 88.
INLINE vector vector_exp(vector x)
{
    vector clamped = vector_min(vector_set(88.0f), vector_max(vector_set(-88.0f), x));
    vector n = vector_round(vector_mul(clamped, vector_set(1.44269504f)));
    // ln 2 in two parts, of which n times the first is exact.
    vector r = vector_fma(n, vector_set(-0.693359375f), clamped);
    r = vector_fma(n, vector_set(2.12194440e-4f), r);
    vector p = vector_set(1.0f / 720);
    p = vector_fma(p, r, vector_set(1.0f / 120));
    p = vector_fma(p, r, vector_set(1.0f / 24));
    p = vector_fma(p, r, vector_set(1.0f / 6));
    p = vector_fma(p, r, vector_set(0.5f));
    p = vector_fma(p, r, vector_set(1.0f));
    p = vector_fma(p, r, vector_set(1.0f));
    return vector_if_less(x, vector_set(-87.3f), vector_zero(), vector_scale2(p, n));
}
