// sim/host_kernels.c - reads and multiply-adds by vector width; this file alone knows instruction sets.
//
// Each version is compiled for its own instruction set by a function attribute, so that the program as a whole runs on
// processors that lack it.
#include "sim/host_kernels.h"

#include <stdbool.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static uint64_t read_portable(const void *data, size_t n)
{
    const uint64_t *word = data;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < n / 8; i += 8) {
        for (size_t j = 0; j < 8; j++) {
            sum[j] ^= word[i + j];
        }
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

static double fma_portable(int rounds, volatile float *sink)
{
    float a[8] = {0, 1, 2, 3, 4, 5, 6, 7}, x = *sink, y = *sink;
    for (int i = 0; i < rounds; i++) {
        for (int j = 0; j < 8; j++) {
            a[j] = a[j] * x + y;
        }
    }
    for (int j = 0; j < 8; j++) {
        *sink += a[j];
    }
    return 2.0 * 8 * rounds;
}

#if defined(__x86_64__)
// One line per chain: the compiler must keep each in a register of its own. Each begins with another value, for equal
// chains would be computed once.
#define CHAINS_12(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define CHAINS_16(DO) CHAINS_12(DO) DO(12) DO(13) DO(14) DO(15)

__attribute__((target("avx2"))) static uint64_t read_avx2(const void *data, size_t n)
{
    const __m256i *vector = data;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i < n / 32; i += 4) {
        a = _mm256_xor_si256(a, _mm256_load_si256(vector + i));
        b = _mm256_xor_si256(b, _mm256_load_si256(vector + i + 1));
        c = _mm256_xor_si256(c, _mm256_load_si256(vector + i + 2));
        d = _mm256_xor_si256(d, _mm256_load_si256(vector + i + 3));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) ^ (uint64_t)_mm256_extract_epi64(a, 3);
}

__attribute__((target("avx512f"))) static uint64_t read_avx512(const void *data, size_t n)
{
    const __m512i *vector = data;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < n / 64; i += 4) {
        a = _mm512_xor_si512(a, _mm512_load_si512(vector + i));
        b = _mm512_xor_si512(b, _mm512_load_si512(vector + i + 1));
        c = _mm512_xor_si512(c, _mm512_load_si512(vector + i + 2));
        d = _mm512_xor_si512(d, _mm512_load_si512(vector + i + 3));
    }
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    return (uint64_t)_mm512_reduce_add_epi64(a);
}

__attribute__((target("avx2,fma"))) static double fma_avx2(int rounds, volatile float *sink)
{
    const __m256 x = _mm256_set1_ps(*sink), y = x;
#define BEGIN(i) __m256 a##i = _mm256_set1_ps((float)i);
#define STEP(i) a##i = _mm256_fmadd_ps(a##i, x, y);
#define END(i) *sink += _mm256_cvtss_f32(a##i);
    CHAINS_12(BEGIN)
    for (int i = 0; i < rounds; i++) {
        CHAINS_12(STEP)
    }
    CHAINS_12(END)
#undef BEGIN
#undef STEP
#undef END
    return 2.0 * 8 * 12 * rounds;
}

__attribute__((target("avx512f"))) static double fma_avx512(int rounds, volatile float *sink)
{
    const __m512 x = _mm512_set1_ps(*sink), y = x;
#define BEGIN(i) __m512 a##i = _mm512_set1_ps((float)i);
#define STEP(i) a##i = _mm512_fmadd_ps(a##i, x, y);
#define END(i) *sink += _mm512_cvtss_f32(a##i);
    CHAINS_16(BEGIN)
    for (int i = 0; i < rounds; i++) {
        CHAINS_16(STEP)
    }
    CHAINS_16(END)
#undef BEGIN
#undef STEP
#undef END
    return 2.0 * 16 * 16 * rounds;
}

// Pairs of bf16 products are added to one f32: 32 multiply-adds per instruction.
__attribute__((target("avx512f,avx512bf16"))) static double fma_bf16(int rounds, volatile float *sink)
{
    const __m512bh x = (__m512bh)_mm512_castps_si512(_mm512_set1_ps(*sink));
#define BEGIN(i) __m512 a##i = _mm512_set1_ps((float)i);
#define STEP(i) a##i = _mm512_dpbf16_ps(a##i, x, x);
#define END(i) *sink += _mm512_cvtss_f32(a##i);
    CHAINS_16(BEGIN)
    for (int i = 0; i < rounds; i++) {
        CHAINS_16(STEP)
    }
    CHAINS_16(END)
#undef BEGIN
#undef STEP
#undef END
    return 2.0 * 32 * 16 * rounds;
}
// Tiles of 16 rows of 64 bytes: one instruction multiplies 16 x 32 by 32 x 16. All are zero, which takes no less time.
// Two of either operand feed four sums, as many as hide the unit's latency.
__attribute__((target("amx-tile,amx-bf16"))) static double tiles_bf16(int rounds, volatile float *sink)
{
    _Alignas(64) const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shape);    // which zeroes them
    for (int i = 0; i < rounds; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    *sink += 0;
    return 2.0 * 4 * 16 * 16 * 32 * rounds;
}

// Whether there are tiles that multiply bf16, and the kernel lets this process have them: their state is large, and
// asked for once, before there are threads.
static bool take_tiles(void)
{
    enum { BF16 = 1 << 22, TILE = 1 << 24, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned eax, ebx, ecx, edx = 0;
    bool has = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & BF16) && (edx & TILE);
    return has && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

struct host_kernels host_kernels_choose(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        bool bf16 = __builtin_cpu_supports("avx512bf16");
        if (bf16 && take_tiles()) {
            return (struct host_kernels){"amx_bf16", read_avx512, fma_avx512, tiles_bf16};
        }
        return (struct host_kernels){bf16 ? "avx512_bf16" : "avx512", read_avx512, fma_avx512, bf16 ? fma_bf16 : NULL};
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return (struct host_kernels){"avx2", read_avx2, fma_avx2, NULL};
    }
#endif
    return (struct host_kernels){"portable", read_portable, fma_portable, NULL};
}
