// tests/check.h - what every test program shares: checks that print and count, comparisons that NaN cannot pass, seeds.
//
// A test is a program: int main(void) { check_begin(); ...; return check_end(); }. Exit 0 passed, 1 failed, 77 skipped
// with a printed reason. The seed comes from CLSA_TEST_SEED or the clock and is printed when a check fails.
#pragma once

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef CHECK_SHARED    // by the files of one helper, of which one defines these
extern int check_failures;
extern uint64_t check_seed, check_state;
#else
static int check_failures;
static uint64_t check_seed, check_state;
#endif

static inline void check_begin(void)
{
    const char *seed = getenv("CLSA_TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    check_seed = seed ? strtoull(seed, NULL, 0) : (uint64_t)now.tv_sec * 1000000007u ^ (uint64_t)now.tv_nsec;
    check_state = check_seed;
}

static inline int check_end(void)
{
    if (check_failures) {
        fprintf(stderr, "%d checks failed; repeat with CLSA_TEST_SEED=%llu\n", check_failures,
                (unsigned long long)check_seed);
    }
    return check_failures ? 1 : 0;
}

static inline int check_skip(const char *reason)
{
    printf("skipped: %s\n", reason);
    return 77;
}

__attribute__((format(printf, 3, 4)))
static inline void check_failed(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (check_failures++ < 20) {
        fprintf(stderr, "%s:%d: ", file, line);
        vfprintf(stderr, format, arguments);
        fputc('\n', stderr);
    }
    va_end(arguments);
}

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            check_failed(__FILE__, __LINE__, "%s", #condition);                                                        \
        }                                                                                                              \
    } while (0)

#define CHECK_MESSAGE(condition, ...)                                                                                  \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            check_failed(__FILE__, __LINE__, __VA_ARGS__);                                                             \
        }                                                                                                              \
    } while (0)

// splitmix64: every draw of a test follows from its one seed.
static inline uint64_t check_random(void)
{
    uint64_t z = (check_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline double check_uniform(void)    // [0, 1)
{
    return (double)(check_random() >> 11) * 0x1p-53;
}

static inline int32_t check_range(int32_t low, int32_t high)    // [low, high]
{
    return low + (int32_t)(check_random() % (uint64_t)(high - low + 1));
}

static inline float check_normal(void)
{
    double u = 1.0 - check_uniform(), v = check_uniform();
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

// Compares n floats: each within absolute + relative * |expected|, and the normalised mean square error within nmse.
// Not-a-number and infinity must stand at the same places first.
static inline bool check_close(const char *what, const float *got, const double *expected, int64_t n, double absolute,
                               double relative, double nmse)
{
    double square = 0, error_square = 0;
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - expected[i]);
        if (isnan(expected[i]) != isnan(got[i]) || isinf(expected[i]) != isinf(got[i]) ||
            (!isnan(expected[i]) && !isinf(expected[i]) && !(error <= absolute + relative * fabs(expected[i])))) {
            check_failed(__FILE__, __LINE__, "%s: [%lld of %lld] got %.9g, expected %.9g", what, (long long)i,
                         (long long)n, (double)got[i], expected[i]);
            return false;
        }
        if (isfinite(expected[i])) {
            square += expected[i] * expected[i];
            error_square += error * error;
        }
    }
    if (!(error_square <= nmse * square)) {
        check_failed(__FILE__, __LINE__, "%s: normalised mean square error %.3g > %.3g", what, error_square / square,
                     nmse);
        return false;
    }
    return true;
}
