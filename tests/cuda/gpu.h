// tests/cuda/gpu.h - device buffers with poison and sentinels, random bf16 data, paged caches, timing by graph replay.
//
// Every buffer starts as 0xff bytes on the device (NaN in every float type), so that what a kernel does not write
// shows; 256 bytes behind it must still be 0xff when it is read back.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/cuda/kernels.h"
#include "engine/status.h"
#include "tests/check.h"

enum { SENTINEL_BYTES = 256 };

struct buffer {
    void *host, *device;
    int64_t bytes;
};

void gpu_must(cudaError_t error, const char *what);      // prints and exits: a test cannot go on without its device
struct buffer buffer_new(int64_t bytes);                 // poisoned on the device, zero on the host
void buffer_free(struct buffer *buffer);
void buffer_up(const struct buffer *buffer);
void buffer_poison(const struct buffer *buffer);
void buffer_down(const struct buffer *buffer);           // and checks the sentinels

void fill_bf16(const struct buffer *buffer, float scale);    // normal values, host and device
void fill_f32(const struct buffer *buffer, float scale);
struct buffer device_random(int64_t bytes, float scale);     // bf16 on the device only, a random block repeated
static inline float at_bf16(const struct buffer *buffer, int64_t i)
{
    return bf16_to_f32(((const uint16_t *)buffer->host)[i]);
}

// Rows of decode: one per sequence, contexts as given, pages handed out in random order.
struct paged {
    struct buffer seq, position, pages;
    struct gpu_rows rows;
    int32_t n_pages, page_tokens;
};
struct paged paged_new(const int32_t *tokens, int32_t n_seqs, int32_t page_tokens);
void paged_free(struct paged *paged);
int64_t paged_at(const struct paged *paged, int32_t seq, int32_t token, int64_t page_stride, int64_t token_stride);

// Median and spread (interquartile, percent of the median) in microseconds of one launch of `body`, called `calls`
// times in a captured graph with call = 0, 1, ... so that it can rotate its inputs past L2.
struct timing {
    double median_us, spread_percent;
};
struct timing time_graph(int (*body)(void *context, int call, cudaStream_t stream), void *context, int calls);

// The checks: each seeds its own file's random numbers and returns how many checks failed in that file.
int test_linear(void);
int test_elementwise(void);
int test_attention(void);
int test_prefill_attention(void);
int test_prefill_selected(void);
int test_index(void);
int test_page_bound(void);
int test_top_k(void);
int test_top_k_rows(void);
void gpu_begin(void);    // seeds the helpers
extern bool gpu_small;    // a small run: for tools that make kernels a hundred times slower
extern bool gpu_tiny;     // a smaller one, for those that make them many thousand times slower; then gpu_small, too
int32_t gpu_tokens(int32_t tokens, int32_t tiny);    // `tokens`, in a tiny run `tiny` at most
int gpu_failures(void);  // of the helpers: sentinels, launches
int bench(const char *filter, const char *tsv);
void bench_prefill(const char *filter, FILE *tsv, const char *device);    // tsv may be NULL

// For the files of the benchmark: one row, timed and printed, and whether the filter wants it.
void bench_report(const char *name, int32_t sequences, int64_t bytes, int (*body)(void *, int, cudaStream_t),
                  void *context, int calls);
bool bench_wanted(const char *name);
void bench_selected(void);
void bench_score(const char *filter, FILE *tsv, const char *device);    // the rows of scoring and selecting for prompts
