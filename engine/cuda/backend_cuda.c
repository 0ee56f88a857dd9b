// engine/cuda/backend_cuda.c - the CUDA backend's life and memory, and its table, which the plug-in exports.
//
// One context is one device, one stream. Everything that a step needs is taken when the context opens. What is missing
// (driver, device, cuBLASLt) is said in words; only cuBLASLt can be done without.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/context.h"
#include "engine/status.h"

// What the loader looks for (engine/backend.c): the table, and why it cannot be used here (NULL: it can).
const struct backend *clsa_cuda_backend(void);
const char *clsa_cuda_absent(void);

enum { VECTOR_ALIGNMENT = 16 };

int cuda_status(cudaError_t error, const char *what)
{
    return error == cudaSuccess ? 0 : status_fail(-EIO, "%s: %s", what, cudaGetErrorString(error));
}

static void close_context(struct backend_context *c)
{
    if (!c) {
        return;
    }
    cudaSetDevice(c->device);
    if (c->stream) {
        cudaStreamSynchronize(c->stream);
    }
    for (int32_t i = 0; i < c->n_weights; i++) {
        cudaFree(c->weights[i]);
    }
    free(c->weights);
    gemm_close(c->gemm);
    cuda_step_close(c);
    cudaFreeHost(c->mirror_host);
    cudaFreeHost(c->results_host.nan_row);
    void *const device[] = {c->mirror_device, c->normed, c->inner, c->inner_up, c->next_x, c->next_squares,
                            c->attention, c->widened, c->widened_pages, c->maxima, c->results.nan_row};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) {
        cudaFree(device[i]);
    }
    free(c->logits_host);
    if (c->stream) {
        cudaStreamDestroy(c->stream);
    }
    free(c);
}

// The kernels are made of clusters, the bulk copy engine and products of warp groups (wgmma). Compute capability 8 has
// none of them and would need a second set of kernels; 10 lacks the last, in whose place it has others.
enum { COMPUTE_MAJOR = 9 };

// The device must be there and be one that the kernels were compiled for. name [bytes].
int cuda_choose_device(int32_t device, char *name, size_t bytes)
{
    int count = 0;
    cudaError_t found = cudaGetDeviceCount(&count);
    if (found != cudaSuccess || count == 0) {
        return status_fail(-ENODEV, "no CUDA device: %s",
                           found == cudaSuccess ? "none found" : cudaGetErrorString(found));
    }
    if (device < 0 || device >= count) {
        return status_fail(-EINVAL, "CUDA device %d: this machine has devices 0 to %d", device, count - 1);
    }
    struct cudaDeviceProp properties;
    int error = cuda_status(cudaGetDeviceProperties(&properties, device), "device properties");
    error = error ? error : cuda_status(cudaSetDevice(device), "choosing the device");
    if (error) {
        return error;
    }
    if (properties.major != COMPUTE_MAJOR) {
        return status_fail(-ENODEV, "%s: compute capability %d.%d: needs 9.0 (H100, H200)", properties.name,
                           properties.major, properties.minor);
    }
    snprintf(name, bytes, "%.120s", properties.name);
    return 0;
}

static int check_plan(const struct plan *plan)
{
    int32_t dim = plan->shape.head_dim;
    if (plan->kv_dtype == DTYPE_F32 || (plan->index.budget_tokens && plan->index.key_dtype == DTYPE_F32)) {
        return status_fail(-EINVAL, "the cuda backend keeps keys and values, and index keys, in bf16 or fp8");
    }
    if (dim != 16 && dim != 32 && dim != 64 && dim != 128) {
        return status_fail(-EINVAL, "the cuda backend runs heads of 16, 32, 64 or 128; this model has %d", dim);
    }
    if (plan->shape.hidden % 8 != 0 || plan->shape.ffn % 8 != 0) {
        return status_fail(-EINVAL,
                           "the cuda backend runs hidden and ffn sizes in multiples of 8; this model has %d and %d",
                           plan->shape.hidden, plan->shape.ffn);
    }
    return 0;
}

int cuda_take(void **out, int64_t bytes, const char *what)
{
    cudaError_t error = cudaMalloc(out, (size_t)(bytes > 0 ? bytes : 1));
    if (error != cudaSuccess) {
        size_t left = 0, all = 0;
        *out = NULL;
        cudaGetLastError();
        cudaMemGetInfo(&left, &all);
        return status_fail(-ENOMEM, "%s: cannot allocate %.1f MiB of device memory (%.1f of %.1f MiB free)", what,
                           (double)bytes / 0x1p20, (double)left / 0x1p20, (double)all / 0x1p20);
    }
    return 0;
}

// What prompts need that attend to selections of their own.
static int64_t selected_workspace(const struct backend_context *c, int32_t max_seqs, int32_t max_context)
{
    const struct plan *plan = c->plan;
    const struct index_spec *index = &plan->index;
    if (index->budget_tokens == 0) {
        return 0;
    }
    int32_t units = (max_context - 1) / index->unit_tokens + 1, budget = plan_budget_units(plan);
    struct prefill_selected_params p = {
        .rows = {.n = c->max_rows, .max_pages = (max_context - 1) / plan->page_tokens + 1}, .n_seqs = max_seqs,
        .view = {.dtype = DTYPE_BF16, .page_tokens = plan->page_tokens},    // fp8 is widened
        .selection = {.sets = index->sets, .unit_tokens = index->unit_tokens,
                      .stride = budget < units ? budget : units},
        .n_heads = plan->shape.n_heads, .n_kv_heads = plan->shape.n_kv_heads, .head_dim = plan->shape.head_dim};
    return prefill_selected_workspace_bytes(&p);
}

// Prompts of the Transformer read their own pages, which kernels of many rows want in bf16. YOCO's prompts stop below
// the layers that read pages; where every position runs them all, rows go one by one.
static int take_widened(struct backend_context *c, int32_t max_context)
{
    const struct plan *plan = c->plan;
    int32_t pages = (max_context - 1) / plan->page_tokens + 1;
    if (plan->kv_dtype != DTYPE_FP8 || plan->shape.backbone != BACKBONE_TRANSFORMER) {
        return 0;
    }
    int64_t page_bytes = 4 * (int64_t)plan->shape.n_kv_heads * plan->shape.head_dim * plan->page_tokens;
    int error = cuda_take(&c->widened, pages * page_bytes, "fp8 keys and values as bf16, of one sequence");
    error = error ? error : cuda_take((void **)&c->widened_pages, pages * (int64_t)sizeof(int32_t), "scratch");
    int32_t *numbers = error ? NULL : malloc((size_t)pages * sizeof *numbers);
    if (!error && !numbers) {
        return status_fail(-ENOMEM, "no memory to number %d pages", pages);
    }
    for (int32_t i = 0; i < pages && !error; i++) {
        numbers[i] = i;
    }
    error = error ? error
                  : cuda_status(cudaMemcpy(c->widened_pages, numbers, (size_t)pages * sizeof *numbers,
                                           cudaMemcpyHostToDevice), "scratch");
    free(numbers);
    return error;
}

static int take_scratch(struct backend_context *c, int32_t max_seqs, int32_t max_context)
{
    const struct model_shape *shape = &c->plan->shape;
    int64_t rows = c->max_rows;
    int32_t sets = c->plan->index.sets > 1 ? c->plan->index.sets : 1;
    int64_t workspace = 0;
    for (int32_t s = 1; s <= sets; s += sets > 1 ? sets - 1 : 1) {
        int64_t bytes = attention_workspace_bytes(c->max_rows, shape->n_heads, shape->n_kv_heads, shape->head_dim, s);
        workspace = bytes > workspace ? bytes : workspace;
    }
    int64_t selected = selected_workspace(c, max_seqs, max_context);
    workspace = selected > workspace ? selected : workspace;
    int error = cuda_take(&c->normed, rows * shape->hidden * 2, "scratch");
    error = error ? error : cuda_take(&c->inner, rows * shape->ffn * 2, "scratch");
    error = error ? error : cuda_take(&c->inner_up, rows * shape->ffn * 2, "scratch");
    error = error ? error : cuda_take(&c->attention, workspace, "attention workspace");
    error = error ? error : take_widened(c, max_context);
    int64_t squares = (shape->hidden + LINEAR_SQUARES - 1) / LINEAR_SQUARES * LINEAR_MAX_ROWS;
    error = error ? error : cuda_take(&c->next_x, (int64_t)LINEAR_MAX_ROWS * shape->hidden * 2, "scratch");
    error = error ? error : cuda_take((void **)&c->next_squares, squares * (int64_t)sizeof *c->next_squares, "scratch");
    int64_t results = (shape->n_layers + rows) * (int64_t)sizeof(int32_t);
    error = error ? error : cuda_take((void **)&c->results.nan_row, results, "scratch");
    error = error ? error : cuda_status(cudaMemset(c->results.nan_row, 0, (size_t)results), "scratch");
    error = error ? error : cuda_status(cudaMallocHost((void **)&c->results_host.nan_row, (size_t)results),
                                        "pinned memory");
    c->results.token = c->results.nan_row + shape->n_layers;
    c->results_host.token = c->results_host.nan_row + shape->n_layers;
    c->logits_host = malloc((size_t)shape->vocab * sizeof *c->logits_host);
    return error || c->logits_host ? error : status_fail(-ENOMEM, "no memory for a row of logits");
}

static int open_context(struct backend_context **out, const struct backend_options *options)
{
    *out = NULL;
    int error = check_plan(options->plan);
    struct backend_context *c = error ? NULL : calloc(1, sizeof *c);
    if (!c) {
        return error ? error : status_fail(-ENOMEM, "no memory for a context");
    }
    c->plan = options->plan;
    c->max_rows = options->max_rows;
    c->device = options->device;
    error = cuda_choose_device(c->device, c->name, sizeof c->name);
    error = error ? error : cuda_status(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "stream");
    error = error ? error : take_scratch(c, options->max_seqs, options->max_context);
    if (error) {
        close_context(c);
        return error;
    }
    c->gemm = gemm_open();
    snprintf(c->variant, sizeof c->variant, "sm_90a, %s", c->gemm ? "cuBLASLt" : "no cuBLASLt");
    *out = c;
    return 0;
}

static void describe(const struct backend_context *c, char *device, char *variant, size_t bytes)
{
    snprintf(device, bytes, "%s", c->name);
    snprintf(variant, bytes, "%s", c->variant);
}

static int alloc(struct backend_context *c, void **out, int64_t bytes)
{
    int error = cuda_status(cudaSetDevice(c->device), "choosing the device");
    *out = NULL;
    error = error ? error : cuda_take(out, bytes, "memory");
    if (!error && bytes > 0) {
        error = cuda_status(cudaMemsetAsync(*out, 0, (size_t)bytes, c->stream), "clearing memory");
        error = error ? error : cuda_status(cudaStreamSynchronize(c->stream), "clearing memory");
    }
    if (error) {
        cudaFree(*out);
        *out = NULL;
    }
    return error;
}

static void release(struct backend_context *c, void *pointer)
{
    cudaSetDevice(c->device);
    cudaFree(pointer);
}

static int copy(struct backend_context *c, void *to, const void *from, int64_t bytes, enum cudaMemcpyKind kind)
{
    int error = cuda_status(cudaSetDevice(c->device), "choosing the device");
    if (!error && bytes > 0) {
        error = cuda_status(cudaMemcpyAsync(to, from, (size_t)bytes, kind, c->stream), "copy");
        error = error ? error : cuda_status(cudaStreamSynchronize(c->stream), "copy");
    }
    return error;
}

static int upload(struct backend_context *c, void *to, const void *host, int64_t bytes)
{
    return copy(c, to, host, bytes, cudaMemcpyHostToDevice);
}

static int download(struct backend_context *c, void *host, const void *from, int64_t bytes)
{
    int error = cuda_settle(c);
    return error ? error : copy(c, host, from, bytes, cudaMemcpyDeviceToHost);
}

static int copy_within(struct backend_context *c, void *to, const void *from, int64_t bytes)
{
    return copy(c, to, from, bytes, cudaMemcpyDeviceToDevice);
}

static int memory(struct backend_context *c, int64_t *free_bytes, int64_t *total_bytes)
{
    size_t left = 0, all = 0;
    int error = cuda_status(cudaSetDevice(c->device), "choosing the device");
    error = error ? error : cuda_status(cudaMemGetInfo(&left, &all), "memory");
    *free_bytes = (int64_t)left;
    *total_bytes = (int64_t)all;
    return error;
}

static int keep_weight(struct backend_context *c, void *data)
{
    if (c->n_weights == c->weight_capacity) {
        int32_t capacity = c->weight_capacity ? 2 * c->weight_capacity : 256;
        void **weights = realloc(c->weights, (size_t)capacity * sizeof *weights);
        if (!weights) {
            cudaFree(data);
            return status_fail(-ENOMEM, "no memory to list the weights");
        }
        c->weights = weights;
        c->weight_capacity = capacity;
    }
    c->weights[c->n_weights++] = data;
    return 0;
}

// Matrices become bf16; a vector f32 with a bf16 copy behind.
static int weight_load(struct backend_context *c, struct matrix *out, const struct matrix *host)
{
    int64_t n = (int64_t)host->n_rows * host->n_cols;
    int64_t vector = host->n_rows == 1 ? (n * 4 + VECTOR_ALIGNMENT - 1) / VECTOR_ALIGNMENT * VECTOR_ALIGNMENT : 0;
    void *data = NULL, *staged = NULL;
    *out = (struct matrix){0};
    if (!host->data) {
        return 0;
    }
    int error = alloc(c, &data, vector + n * 2);
    error = error ? error : keep_weight(c, data);
    if (error) {
        return error;
    }
    if (vector || host->dtype != DTYPE_BF16) {
        staged = calloc(1, (size_t)(vector + n * 2));
        if (!staged) {
            return status_fail(-ENOMEM, "no memory to convert a weight of %.1f MiB", (double)n * 2 / 0x1p20);
        }
        for (int64_t i = 0; i < n; i++) {
            float value = dtype_load(host->data, i, host->dtype);
            ((uint16_t *)((char *)staged + vector))[i] = f32_to_bf16(value);
            if (vector) {
                ((float *)staged)[i] = value;
            }
        }
    }
    error = upload(c, data, staged ? staged : host->data, vector + n * 2);
    free(staged);
    *out = (struct matrix){.data = data, .dtype = vector ? DTYPE_F32 : DTYPE_BF16, .n_rows = host->n_rows,
                           .n_cols = host->n_cols};
    return error;
}

static const struct backend table = {
    .abi = BACKEND_ABI,
    .name = "cuda",
    .activation_bytes = 2,
    .asynchronous = true,
    .open = open_context,
    .close = close_context,
    .describe = describe,
    .alloc = alloc,
    .free = release,
    .upload = upload,
    .download = download,
    .copy = copy_within,
    .memory = memory,
    .weight_load = weight_load,
    .begin_step = cuda_begin_step,
    .end_step = cuda_end_step,
    .embed = cuda_embed,
    .take_rows = cuda_take_rows,
    .qkv = cuda_qkv,
    .window_attention = cuda_window_attention,
    .kv_write = cuda_kv_write,
    .index_write = cuda_index_write,
    .index_project = cuda_index_project,
    .index_score = cuda_index_score,
    .index_select = cuda_index_select,
    .attention = cuda_attention,
    .output = cuda_output,
    .ffn = cuda_ffn,
    .head = cuda_head,
    .sample = cuda_sample,
    .rates = cuda_rates,
    .mark = cuda_mark,
    .marks = cuda_marks,
    .replay = cuda_replay,
    .record_begin = cuda_record_begin,
    .record_cut = cuda_record_cut,
    .record_end = cuda_record_end,
};

const struct backend *clsa_cuda_backend(void)
{
    return &table;
}

// NULL if the kernels run on one of the devices.
static const char *unfit_devices(int count)
{
    static char reason[160];
    for (int device = 0; device < count; device++) {
        struct cudaDeviceProp properties;
        int major = 0, minor = 0;
        if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
            major == COMPUTE_MAJOR) {
            return NULL;    // whoever opens it is told what is wrong
        }
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
        bool named = cudaGetDeviceProperties(&properties, device) == cudaSuccess;
        snprintf(reason, sizeof reason, "%.80s: compute capability %d.%d: needs 9.0 (H100, H200)",
                 named ? properties.name : "the GPU", major, minor);
    }
    return reason;
}

// Without a driver, cudaDriverGetVersion says 0; one that is too old says which CUDA it knows.
const char *clsa_cuda_absent(void)
{
    static char reason[160];
    int count = 0, driver = 0, needed = 0;
    cudaError_t found = cudaGetDeviceCount(&count);
    if (found == cudaSuccess) {
        return count == 0 ? "no CUDA device" : unfit_devices(count);
    }
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) {
        return "no NVIDIA driver";
    }
    if (cudaRuntimeGetVersion(&needed) == cudaSuccess && driver / 1000 < needed / 1000) {
        snprintf(reason, sizeof reason,
                 "the NVIDIA driver knows CUDA %d.%d; this plug-in needs one for CUDA %d.0 or later: update it",
                 driver / 1000, driver % 1000 / 10, needed / 1000);
        return reason;
    }
    return cudaGetErrorString(found);
}
