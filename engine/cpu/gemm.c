// engine/cpu/gemm.c - matrix products of prefill through oneDNN, one thread per tile.
//
// The library is called from the pool's threads, each for tiles of its own, and told to use one thread: so it never
// starts threads of its own beside ours. Kernels are generated per shape and kept. Weights are taken as they lie,
// row-major: blocking them beforehand gains 3% and costs their memory twice.
//
// Why oneDNN: on one core of an AMD EPYC (family 26, AVX-512 with bf16), GFLOP/s for 256 and 512 rows of
// 768x768, 768x2304 and 2304x768, best of 15: oneDNN 2.6.3 bf16 467-497, f32 228-242; OpenBLAS 0.3.21 f32 120-123 (it
// takes the processor for a Haswell), bf16 none. That is near the core's peak for oneDNN in both types.
#include <errno.h>
#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/context.h"
#include "engine/status.h"

enum { MAX_KERNELS = 256, ALIGNMENT = 64 };

struct cpu_gemm_kernel {
    struct cpu_gemm_shape shape;
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t a, b, c, scratch;
};

struct cpu_gemm {
    dnnl_engine_t engine;
    int32_t threads, n_kernels;
    dnnl_stream_t *streams;    // [threads]
    void **scratch;            // [threads] of scratch_bytes each
    size_t scratch_bytes;
    struct cpu_gemm_kernel *kernels[MAX_KERNELS];    // owned
    void (*set_threads)(int);                        // of the library's OpenMP; NULL if it has none
};

static void free_kernel(struct cpu_gemm_kernel *kernel)
{
    if (kernel && kernel->primitive) {
        dnnl_primitive_destroy(kernel->primitive);
    }
    free(kernel);
}

void cpu_gemm_close(struct cpu_gemm *gemm)
{
    if (!gemm) {
        return;
    }
    for (int32_t i = 0; i < gemm->n_kernels; i++) {
        free_kernel(gemm->kernels[i]);
    }
    for (int32_t i = 0; i < gemm->threads; i++) {
        if (gemm->streams && gemm->streams[i]) {
            dnnl_stream_destroy(gemm->streams[i]);
        }
        free(gemm->scratch ? gemm->scratch[i] : NULL);
    }
    if (gemm->engine) {
        dnnl_engine_destroy(gemm->engine);
    }
    free(gemm->streams);
    free(gemm->scratch);
    free(gemm);
}

int cpu_gemm_open(struct cpu_gemm **out, int32_t threads)
{
    *out = NULL;
    struct cpu_gemm *gemm = calloc(1, sizeof *gemm);
    if (!gemm) {
        return status_fail(-ENOMEM, "no memory for the matrix library");
    }
    gemm->threads = threads;
    gemm->streams = calloc((size_t)threads, sizeof(dnnl_stream_t));
    gemm->scratch = calloc((size_t)threads, sizeof *gemm->scratch);
    if (!gemm->streams || !gemm->scratch || dnnl_engine_create(&gemm->engine, dnnl_cpu, 0) != dnnl_success) {
        goto fail;
    }
    for (int32_t i = 0; i < threads; i++) {
        if (dnnl_stream_create(&gemm->streams[i], gemm->engine, dnnl_stream_default_flags) != dnnl_success) {
            goto fail;
        }
    }
    // The library brings its OpenMP along; only the symbol is needed. Copied as bytes, for ISO C has no conversion.
    void *symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&gemm->set_threads, &symbol, sizeof symbol);
    *out = gemm;
    return 0;
fail:
    cpu_gemm_close(gemm);
    return status_fail(-EIO, "oneDNN offers no CPU engine");
}

void cpu_gemm_begin(struct cpu_gemm *gemm)
{
    if (gemm->n_kernels < MAX_KERNELS / 2) {
        return;
    }
    for (int32_t i = 0; i < gemm->n_kernels; i++) {
        free_kernel(gemm->kernels[i]);
    }
    gemm->n_kernels = 0;
}

static bool same_shape(const struct cpu_gemm_shape *a, const struct cpu_gemm_shape *b)
{
    return a->n_rows == b->n_rows && a->n_columns == b->n_columns && a->depth == b->depth &&
           a->c_stride == b->c_stride && a->dtype == b->dtype && a->add == b->add;
}

// The description of the product, with c added to where the shape says so and scratch memory that we provide.
static dnnl_status_t make_primitive(struct cpu_gemm *gemm, struct cpu_gemm_kernel *kernel)
{
    const struct cpu_gemm_shape *shape = &kernel->shape;
    dnnl_data_type_t type = shape->dtype == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
    dnnl_dims_t a = {shape->n_rows, shape->depth}, b = {shape->depth, shape->n_columns};
    dnnl_dims_t c = {shape->n_rows, shape->n_columns}, c_strides = {shape->c_stride, 1};
    dnnl_matmul_desc_t product;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_post_ops_t after = NULL;
    dnnl_primitive_desc_t description = NULL;
    dnnl_status_t status = dnnl_memory_desc_init_by_tag(&kernel->a, 2, a, type, dnnl_ab);
    status = status ? status : dnnl_memory_desc_init_by_tag(&kernel->b, 2, b, type, dnnl_ba);
    status = status ? status : dnnl_memory_desc_init_by_strides(&kernel->c, 2, c, dnnl_f32, c_strides);
    status = status ? status : dnnl_matmul_desc_init(&product, &kernel->a, &kernel->b, NULL, &kernel->c);
    status = status ? status : dnnl_primitive_attr_create(&attributes);
    status = status ? status : dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user);
    if (!status && shape->add) {
        status = dnnl_post_ops_create(&after);
        status = status ? status : dnnl_post_ops_append_sum(after, 1.0f);
        status = status ? status : dnnl_primitive_attr_set_post_ops(attributes, after);
    }
    status = status ? status : dnnl_primitive_desc_create(&description, &product, attributes, gemm->engine, NULL);
    if (!status) {
        kernel->scratch = *dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
        status = dnnl_primitive_create(&kernel->primitive, description);
    }
    if (description) {
        dnnl_primitive_desc_destroy(description);
    }
    if (after) {
        dnnl_post_ops_destroy(after);
    }
    if (attributes) {
        dnnl_primitive_attr_destroy(attributes);
    }
    return status;
}

static int grow_scratch(struct cpu_gemm *gemm, size_t bytes)
{
    if (bytes <= gemm->scratch_bytes) {
        return 0;
    }
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    gemm->scratch_bytes = 0;
    for (int32_t i = 0; i < gemm->threads; i++) {
        free(gemm->scratch[i]);
        gemm->scratch[i] = aligned_alloc(ALIGNMENT, rounded);
        if (!gemm->scratch[i]) {
            return status_fail(-ENOMEM, "no memory for %zu bytes of matrix scratch", rounded);
        }
    }
    gemm->scratch_bytes = rounded;
    return 0;
}

static void one_thread(const struct cpu_gemm *gemm)
{
    if (gemm->set_threads) {
        gemm->set_threads(1);    // holds for the calling thread only
    }
}

int cpu_gemm_kernel(struct cpu_gemm *gemm, const struct cpu_gemm_shape *shape, const struct cpu_gemm_kernel **out)
{
    for (int32_t i = 0; i < gemm->n_kernels; i++) {
        if (same_shape(&gemm->kernels[i]->shape, shape)) {
            *out = gemm->kernels[i];
            return 0;
        }
    }
    if (gemm->n_kernels == MAX_KERNELS) {
        return status_fail(-ENOMEM, "more than %d shapes of matrix products in one operator", MAX_KERNELS);
    }
    struct cpu_gemm_kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) {
        return status_fail(-ENOMEM, "no memory for a matrix product");
    }
    kernel->shape = *shape;
    one_thread(gemm);    // the number of threads is fixed when a kernel is made
    dnnl_status_t status = make_primitive(gemm, kernel);
    int error = status ? status_fail(-EIO, "oneDNN has no %s product of %dx%dx%d (status %d)", dtype_name(shape->dtype),
                                     shape->n_rows, shape->n_columns, shape->depth, (int)status)
                       : grow_scratch(gemm, dnnl_memory_desc_get_size(&kernel->scratch));
    if (error) {
        free_kernel(kernel);
        return error;
    }
    gemm->kernels[gemm->n_kernels++] = kernel;
    *out = kernel;
    return 0;
}

int cpu_gemm_run(struct cpu_gemm *gemm, const struct cpu_gemm_kernel *kernel, int32_t thread, const void *a,
                 const void *b, float *c)
{
    // The library's handles know no const; it reads a and b only.
    union {
        const void *in;
        void *out;
    } pa = {.in = a}, pb = {.in = b};
    struct {
        int argument;
        const dnnl_memory_desc_t *description;
        void *data;
    } parts[] = {
        {DNNL_ARG_SRC, &kernel->a, pa.out},
        {DNNL_ARG_WEIGHTS, &kernel->b, pb.out},
        {DNNL_ARG_DST, &kernel->c, c},
        {DNNL_ARG_SCRATCHPAD, &kernel->scratch, gemm->scratch[thread]},
    };
    enum { N_PARTS = sizeof parts / sizeof *parts };
    dnnl_exec_arg_t arguments[N_PARTS] = {{0}};
    dnnl_status_t status = dnnl_success;
    one_thread(gemm);
    for (int i = 0; i < N_PARTS; i++) {
        arguments[i].arg = parts[i].argument;
        status = status ? status
                        : dnnl_memory_create(&arguments[i].memory, parts[i].description, gemm->engine, parts[i].data);
    }
    status = status ? status : dnnl_primitive_execute(kernel->primitive, gemm->streams[thread], N_PARTS, arguments);
    status = status ? status : dnnl_stream_wait(gemm->streams[thread]);
    for (int i = 0; i < N_PARTS; i++) {
        if (arguments[i].memory) {
            dnnl_memory_destroy(arguments[i].memory);
        }
    }
    return status ? -EIO : 0;
}
