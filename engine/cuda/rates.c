// engine/cuda/rates.c - what a GPU does at best: floors and predictions are made from these figures.
//
// The best of a few runs each, timed by events: reading 2 GiB, a product of 8192-row matrices through cuBLASLt (0 where
// that is missing), and one kernel more in a graph of kernels that do nothing.
#include <string.h>

#include "engine/cuda/context.h"
#include "engine/status.h"

enum { RUNS = 10, IDLE_KERNELS = 256, PRODUCT = 8192 };

static const int64_t READ_BYTES = (int64_t)2 << 30;    // 40 times the L2 cache

struct bench {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    cudaGraphExec_t idle;
    struct gemm *gemm;
    void *memory;
};

static int read_memory(struct bench *b)
{
    return stream_launch(b->memory, READ_BYTES, b->memory, b->stream);
}

static int multiply(struct bench *b)
{
    const int64_t matrix_bytes = (int64_t)PRODUCT * PRODUCT * 2;
    char *at = b->memory;
    return gemm_run(b->gemm, at, at + matrix_bytes, at + 2 * matrix_bytes, PRODUCT, PRODUCT, PRODUCT, false, false,
                    b->stream);
}

static int idle(struct bench *b)
{
    return cuda_status(cudaGraphLaunch(b->idle, b->stream), "idle kernels");
}

// Seconds of the fastest run.
static int best_of(double *seconds, struct bench *b, int (*run)(struct bench *))
{
    float best_ms = 0;
    for (int i = 0; i < RUNS; i++) {
        float ms = 0;
        int error = cuda_status(cudaEventRecord(b->begin, b->stream), "rates");
        error = error ? error : run(b);
        error = error ? error : cuda_status(cudaEventRecord(b->end, b->stream), "rates");
        error = error ? error : cuda_status(cudaStreamSynchronize(b->stream), "rates");
        error = error ? error : cuda_status(cudaEventElapsedTime(&ms, b->begin, b->end), "rates");
        if (error) {
            return error;
        }
        best_ms = i == 0 || ms < best_ms ? ms : best_ms;
    }
    *seconds = (double)best_ms * 1e-3;
    return 0;
}

static int record_idle(struct bench *b)
{
    cudaGraph_t graph = NULL;
    int error = idle_launch(b->stream);    // loads it: not inside a capture
    error = error ? error : cuda_status(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal), "rates");
    if (error) {
        return error;
    }
    for (int i = 0; i < IDLE_KERNELS && !error; i++) {
        error = idle_launch(b->stream);
    }
    cudaError_t ended = cudaStreamEndCapture(b->stream, &graph);
    error = error ? error : cuda_status(ended, "rates");
    error = error ? error : cuda_status(cudaGraphInstantiate(&b->idle, graph, 0), "rates");
    if (graph) {
        cudaGraphDestroy(graph);
    }
    return error;
}

// Random bits are no numbers to multiply: small odd integers, alternating in sign, are.
static int fill(struct bench *b)
{
    static uint16_t block[1 << 16];
    for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
        uint32_t mixed = (uint32_t)i * 2654435761u;
        block[i] = (uint16_t)(0x3f80u | (mixed >> 24 & 0x7fu) | (mixed >> 8 & 0x8000u));    // 1 to 2, either sign
    }
    int error = 0;
    for (int64_t at = 0; at < READ_BYTES && !error; at += (int64_t)sizeof block) {
        char *to = (char *)b->memory + at;
        error = cuda_status(cudaMemcpyAsync(to, block, sizeof block, cudaMemcpyHostToDevice, b->stream), "rates");
    }
    return error;
}

static int measure(struct backend_rates *out, struct bench *b)
{
    double read_s = 0, product_s = 0, idle_s = 0;
    size_t left = 0, all = 0;
    int error = cuda_take(&b->memory, READ_BYTES, "rates");
    error = error ? error : cuda_status(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking), "rates");
    error = error ? error : cuda_status(cudaEventCreate(&b->begin), "rates");
    error = error ? error : cuda_status(cudaEventCreate(&b->end), "rates");
    error = error ? error : fill(b);
    error = error ? error : record_idle(b);
    error = error ? error : best_of(&read_s, b, read_memory);
    error = error ? error : best_of(&idle_s, b, idle);
    b->gemm = error ? NULL : gemm_open();
    error = error || !b->gemm ? error : best_of(&product_s, b, multiply);
    error = error ? error : cuda_status(cudaMemGetInfo(&left, &all), "rates");
    if (error) {
        return error;
    }
    out->read_bytes_per_s = (double)READ_BYTES / read_s;
    out->bf16_flops_per_s = b->gemm ? 2.0 * PRODUCT * PRODUCT * PRODUCT / product_s : 0;
    out->launch_s = idle_s / IDLE_KERNELS;
    out->memory_bytes = (int64_t)all;
    return 0;
}

int cuda_rates(struct backend_rates *out, int32_t device)
{
    struct bench b = {0};
    memset(out, 0, sizeof *out);
    int error = cuda_choose_device(device, out->name, sizeof out->name);
    if (error) {
        return error;
    }
    error = measure(out, &b);
    gemm_close(b.gemm);
    if (b.idle) {
        cudaGraphExecDestroy(b.idle);
    }
    if (b.end) {
        cudaEventDestroy(b.end);
    }
    if (b.begin) {
        cudaEventDestroy(b.begin);
    }
    if (b.stream) {
        cudaStreamDestroy(b.stream);
    }
    cudaFree(b.memory);
    return error;
}
