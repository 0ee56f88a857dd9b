// tests/operators_bench.h - the reference and a backend under test side by side: what comparisons of operators share.
//
// Index 0 is the reference, 1 the backend under test. Inputs are the same host bytes on either side; every output is
// poison before and has a sentinel behind. What an operator took is released after it. Memory that fails ends the
// program: there is nothing left to compare.
#pragma once

#include "engine/kv_cache.h"
#include "engine/step_batch.h"
#define CHECK_SHARED    // one count of failures and one stream of random numbers for these files
#include "tests/check.h"
#include "tests/operators.h"

enum { SENTINEL_BYTES = 256, POISON = 0xff, MAX_BUFFERS = 256 };    // as floats, 0xff is NaN

struct bench {
    const struct operators_options *options;
    const struct plan *plan;
    const struct backend *backend[2];
    struct backend_context *context[2];
    struct kv_cache *cache[2];
    struct step_batch batch;
    int32_t n_pages;
    void *buffers[2][MAX_BUFFERS];    // of the current operator, released after it
    int32_t n_buffers[2];
    const char *operator;
};

struct weight {
    void *host;    // owned by the caller, free with free()
    struct matrix matrix[2];
};

void bench_open(struct bench *b);     // options, plan and backends are set
void bench_close(struct bench *b);
void bench_must(int error);

void *bench_take(struct bench *b, int side, int64_t bytes);
void *bench_place(struct bench *b, int side, const void *host, int64_t bytes);
void *bench_place_activations(struct bench *b, int side, const float *values, int64_t n);
void *bench_poisoned(struct bench *b, int side, int64_t bytes);
void *bench_fetch(struct bench *b, int side, const void *memory, int64_t bytes, bool sentinel);    // to free
void bench_release(struct bench *b);
void bench_fill(struct bench *b, void *const memory[2], int64_t bytes, enum dtype dtype);
void bench_fill_view(struct bench *b, const struct kv_view view[2], int64_t bytes);    // what a cache can hold
void bench_fill_bounds(struct bench *b, const struct bound_view bounds[2]);

float *bench_floats(const struct bench *b, int64_t n, double deviation);    // owned by the caller
struct weight bench_weight(struct bench *b, int32_t n_rows, int32_t n_cols, double centre, double deviation);
struct weight bench_matrix(struct bench *b, int32_t n_rows, int32_t n_cols);
struct weight bench_norm(struct bench *b, int32_t n);
void bench_batch(struct bench *b);

// Values [n] of the two sides within the tolerances of the options; `slack` scales them.
void bench_compare(struct bench *b, const char *what, void *const out[2], const enum dtype dtype[2], int64_t n,
                   double slack);
void bench_compare_floats(struct bench *b, const char *what, void *const out[2], int64_t n);
void bench_compare_activations(struct bench *b, const char *what, void *const out[2], int64_t n);
void bench_compare_cached(struct bench *b, const char *what, void *const out[2], int64_t n);    // plan_fresh_dtype
void bench_compare_memory(struct bench *b, const char *what, void *const memory[2], int64_t bytes);    // bit for bit

// Runs an expression on both sides; both must succeed.
#define RUN(side, call)                                                                                               \
    do {                                                                                                              \
        int error_ = (call);                                                                                          \
        CHECK_MESSAGE(!error_, "%s, %s: %s", b->operator, b->backend[side]->name, status_text());                     \
    } while (0)

// tests/operators_index.c
void operators_check_indexer(struct bench *b);
