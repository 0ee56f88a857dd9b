// tests/cuda/gpu.c - see gpu.h.
#include "tests/cuda/gpu.h"

#include <cuda_profiler_api.h>

bool gpu_small, gpu_tiny;

int32_t gpu_tokens(int32_t tokens, int32_t tiny)
{
    return gpu_tiny && tokens > tiny ? tiny : tokens;
}

// Every file here draws its own numbers; that the seed which is printed brings all of them back, they begin with one.
void gpu_begin(void)
{
    char seed[32];
    check_begin();
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)check_seed);
    setenv("CLSA_TEST_SEED", seed, 1);
}

int gpu_failures(void)
{
    return check_end();
}

void gpu_must(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
        exit(1);
    }
}

struct buffer buffer_new(int64_t bytes)
{
    struct buffer b = {.bytes = bytes};
    b.host = calloc(1, (size_t)bytes);
    gpu_must(cudaMalloc(&b.device, (size_t)bytes + SENTINEL_BYTES), "cudaMalloc");
    buffer_poison(&b);
    return b;
}

void buffer_free(struct buffer *b)
{
    free(b->host);
    cudaFree(b->device);
    memset(b, 0, sizeof *b);
}

void buffer_poison(const struct buffer *b)
{
    gpu_must(cudaMemset(b->device, 0xff, (size_t)b->bytes + SENTINEL_BYTES), "cudaMemset");
    gpu_must(cudaDeviceSynchronize(), "poison");
}

void buffer_up(const struct buffer *b)
{
    gpu_must(cudaMemcpy(b->device, b->host, (size_t)b->bytes, cudaMemcpyHostToDevice), "upload");
}

void buffer_down(const struct buffer *b)
{
    unsigned char tail[SENTINEL_BYTES];
    gpu_must(cudaDeviceSynchronize(), "kernel");
    gpu_must(cudaMemcpy(b->host, b->device, (size_t)b->bytes, cudaMemcpyDeviceToHost), "download");
    gpu_must(cudaMemcpy(tail, (char *)b->device + b->bytes, sizeof tail, cudaMemcpyDeviceToHost), "sentinels");
    for (int i = 0; i < SENTINEL_BYTES; i++) {
        if (tail[i] != 0xff) {
            check_failed(__FILE__, __LINE__, "a kernel wrote %d bytes behind its output", i);
            return;
        }
    }
}

// A cheap normal-like draw: the sum of four uniform ones, variance 1.
static float quick_normal(void)
{
    uint64_t r = check_random();
    float sum = (float)(r & 0xffff) + (float)(r >> 16 & 0xffff) + (float)(r >> 32 & 0xffff) + (float)(r >> 48);
    return (sum * (1.0f / 65536) - 2.0f) * 1.7320508f;
}

void fill_bf16(const struct buffer *b, float scale)
{
    for (int64_t i = 0; i < b->bytes / 2; i++) {
        ((uint16_t *)b->host)[i] = f32_to_bf16(quick_normal() * scale);
    }
    buffer_up(b);
}

void fill_f32(const struct buffer *b, float scale)
{
    for (int64_t i = 0; i < b->bytes / 4; i++) {
        ((float *)b->host)[i] = quick_normal() * scale;
    }
    buffer_up(b);
}

struct buffer device_random(int64_t bytes, float scale)
{
    struct buffer b = {.bytes = bytes};
    int64_t block = bytes < (8 << 20) ? bytes : 8 << 20;
    uint16_t *host = malloc((size_t)block);
    for (int64_t i = 0; i < block / 2; i++) {
        host[i] = f32_to_bf16(quick_normal() * scale);
    }
    gpu_must(cudaMalloc(&b.device, (size_t)bytes + SENTINEL_BYTES), "cudaMalloc");
    for (int64_t at = 0; at < bytes; at += block) {
        int64_t n = bytes - at < block ? bytes - at : block;
        gpu_must(cudaMemcpy((char *)b.device + at, at ? b.device : (void *)host, (size_t)n,
                            at ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice), "fill");
    }
    free(host);
    return b;
}

struct paged paged_new(const int32_t *tokens, int32_t n_seqs, int32_t page_tokens)
{
    struct paged p = {.page_tokens = page_tokens};
    int32_t most = 0;
    for (int32_t s = 0; s < n_seqs; s++) {
        int32_t pages = (tokens[s] + page_tokens - 1) / page_tokens;
        p.n_pages += pages;
        most = pages > most ? pages : most;
    }
    p.seq = buffer_new(4 * (int64_t)n_seqs);
    p.position = buffer_new(4 * (int64_t)n_seqs);
    p.pages = buffer_new(4 * (int64_t)n_seqs * most);
    int32_t *order = malloc(sizeof *order * (size_t)p.n_pages), next = 0;
    for (int32_t i = 0; i < p.n_pages; i++) {
        int32_t j = check_range(0, i);
        order[i] = order[j];
        order[j] = i;
    }
    for (int32_t s = 0; s < n_seqs; s++) {
        ((int32_t *)p.seq.host)[s] = s;
        ((int32_t *)p.position.host)[s] = tokens[s] - 1;
        for (int32_t i = 0; i < most; i++) {
            bool there = i < (tokens[s] + page_tokens - 1) / page_tokens;
            ((int32_t *)p.pages.host)[s * most + i] = there ? order[next++] : -1;
        }
    }
    free(order);
    buffer_up(&p.seq);
    buffer_up(&p.position);
    buffer_up(&p.pages);
    p.rows = (struct gpu_rows){.n = n_seqs, .seq = p.seq.device, .position = p.position.device, .pages = p.pages.device,
                               .max_pages = most};
    return p;
}

void paged_free(struct paged *p)
{
    buffer_free(&p->seq);
    buffer_free(&p->position);
    buffer_free(&p->pages);
}

int64_t paged_at(const struct paged *p, int32_t seq, int32_t token, int64_t page_stride, int64_t token_stride)
{
    int32_t page = ((const int32_t *)p->pages.host)[seq * p->rows.max_pages + token / p->page_tokens];
    return page * page_stride + token % p->page_tokens * token_stride;
}

static int compare_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

struct timing time_graph(int (*body)(void *, int, cudaStream_t), void *context, int calls)
{
    enum { REPLAYS = 21 };
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    float ms[REPLAYS];
    gpu_must(cudaStreamCreate(&stream), "stream");
    gpu_must(cudaEventCreate(&begin), "event");
    gpu_must(cudaEventCreate(&end), "event");
    // ncu --profile-from-start off: one call of every row, without replays.
    gpu_must(cudaProfilerStart(), "profiler");
    if (body(context, 0, stream)) {    // sets attributes that a capture may not
        check_failed(__FILE__, __LINE__, "launch: %s", status_text());
    }
    gpu_must(cudaStreamSynchronize(stream), "first launch");
    gpu_must(cudaProfilerStop(), "profiler");
    gpu_must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < calls; i++) {
        if (body(context, i, stream)) {
            check_failed(__FILE__, __LINE__, "launch: %s", status_text());
        }
    }
    gpu_must(cudaStreamEndCapture(stream, &graph), "end of capture");
    gpu_must(cudaGraphInstantiate(&exec, graph, 0), "graph");
    for (int i = 0; i < 2; i++) {
        gpu_must(cudaGraphLaunch(exec, stream), "replay");
    }
    for (int i = 0; i < REPLAYS; i++) {
        gpu_must(cudaEventRecord(begin, stream), "record");
        gpu_must(cudaGraphLaunch(exec, stream), "replay");
        gpu_must(cudaEventRecord(end, stream), "record");
        gpu_must(cudaEventSynchronize(end), "replay");
        gpu_must(cudaEventElapsedTime(&ms[i], begin, end), "elapsed");
    }
    qsort(ms, REPLAYS, sizeof ms[0], compare_float);
    double quartiles_apart = (double)(ms[REPLAYS * 3 / 4] - ms[REPLAYS / 4]), median = (double)ms[REPLAYS / 2];
    struct timing t = {.median_us = median * 1000 / calls, .spread_percent = 100.0 * quartiles_apart / median};
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaStreamDestroy(stream);
    return t;
}
