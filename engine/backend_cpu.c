// engine/backend_cpu.c - the fast CPU backend: vector units and threads.
//
// Here: life, memory, and the operators that know no cache; engine/cpu/ holds the rest (engine/cpu/context.h is its
// map). Decode is bound by reading weights and keys, and reads each once per step for all rows; prefill by
// multiply-adds, in a library's matrix product and in tiles of attention.
//
// The instruction set is chosen at run time: avx512_bf16, avx512, avx2, or what the compiler was told (baseline). The
// environment variable CLSA_CPU_ISA asks for one of them by name; one that this machine lacks is an error.
//
// Guarantees: the same inputs give the same bits on any number of threads. Against the reference backend results differ
// by rounding: f32 sums in another order; and where more than CPU_PASS_ROWS rows meet bf16 weights on avx512_bf16, by
// rounding the rows to bf16 first. Selection from given scores is exact. Index scores differ by rounding, so that units
// whose scores nearly tie may be chosen differently.
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cpu/context.h"
#include "engine/sampler.h"
#include "engine/status.h"

enum {
    ALIGNMENT = 64,
    MAPPED_BYTES = 4 << 20,    // from here on memory is mapped by itself, in huge pages where the system has them
    ROW_ITEM = 8               // rows per item of norms and the like
};

// Memory ------------------------------------------------------------------------------------------------------------

// What stands before each block that alloc returns.
struct block_header {
    int64_t mapped_bytes;    // 0: from the heap
    unsigned char fill[ALIGNMENT - sizeof(int64_t)];
};

static int allocate(struct backend_context *context, void **out, int64_t bytes)
{
    (void)context;
    *out = NULL;
    struct block_header *block = NULL;
    int64_t total = bytes + (int64_t)sizeof *block + ALIGNMENT - 1;
    total -= total % ALIGNMENT;
    if (bytes >= MAPPED_BYTES) {
        void *mapped =
            mmap(NULL, (size_t)total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        block = mapped == MAP_FAILED ? NULL : mapped;
        if (block) {
            madvise(mapped, (size_t)total, MADV_HUGEPAGE);    // fewer address translations; a refusal costs only speed
        }
    } else if (bytes >= 0) {
        block = aligned_alloc(ALIGNMENT, (size_t)total);
        if (block) {
            memset(block, 0, (size_t)total);
        }
    }
    if (!block) {
        return status_fail(-ENOMEM, "cannot allocate %.1f MiB of memory", (double)bytes / 0x1p20);
    }
    block->mapped_bytes = bytes >= MAPPED_BYTES ? total : 0;
    *out = block + 1;
    return 0;
}

static void release(struct backend_context *context, void *pointer)
{
    (void)context;
    if (!pointer) {
        return;
    }
    struct block_header *block = (struct block_header *)pointer - 1;
    if (block->mapped_bytes) {
        munmap(block, (size_t)block->mapped_bytes);
    } else {
        free(block);
    }
}

static int copy(struct backend_context *context, void *to, const void *from, int64_t bytes)
{
    (void)context;
    if (bytes > 0) {
        memcpy(to, from, (size_t)bytes);
    }
    return 0;
}

static int weight_load(struct backend_context *context, struct matrix *out, const struct matrix *host)
{
    (void)context;
    *out = *host;
    return 0;
}

struct cpu_scratch cpu_scratch_of(const struct backend_context *context, int32_t thread)
{
    unsigned char *first = context->thread_scratch[thread];
    return (struct cpu_scratch){first, first + context->thread_scratch_bytes};
}

void *cpu_scratch_take(struct cpu_scratch *scratch, int64_t bytes)
{
    unsigned char *block = scratch->next;
    scratch->next += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    assert(scratch->next <= scratch->end);    // what the *_scratch_bytes functions promise
    return block;
}

// Life --------------------------------------------------------------------------------------------------------------

static void close_context(struct backend_context *context)
{
    if (!context) {
        return;
    }
    int32_t threads = context->pool ? thread_pool_threads(context->pool) : 0;
    thread_pool_close(context->pool);
    cpu_gemm_close(context->gemm);
    for (int32_t i = 0; context->thread_scratch && i < threads; i++) {
        release(context, context->thread_scratch[i]);
    }
    free(context->thread_scratch);
    for (int32_t i = 0; i < CPU_ROTATIONS; i++) {
        release(context, context->rotations[i].cosine);
        release(context, context->rotations[i].sine);
    }
    release(context, context->normed);
    release(context, context->inner_gate);
    release(context, context->inner_up);
    release(context, context->fresh_k);
    release(context, context->fresh_v);
    release(context, context->packed);
    release(context, context->rounded);
    release(context, context->partial_sum);
    release(context, context->partial_greatest);
    release(context, context->partial_total);
    release(context, context->single_rows);
    free(context);
}

struct wanted {
    void *slot;          // a pointer variable
    int64_t n, bytes;    // elements and their size
};

static int allocate_scratch(struct backend_context *context)
{
    const struct plan *plan = context->plan;
    const struct model_shape *shape = &plan->shape;
    int64_t rows = context->max_rows, kv = (int64_t)shape->n_kv_heads * shape->head_dim;
    int64_t padded = cpu_padded(shape->head_dim), widest = cpu_widest_input(plan);
    int64_t half = (shape->head_dim > plan->index.dim ? shape->head_dim : plan->index.dim) / 2 + 1;
    const struct wanted wanted[] = {
        {&context->normed, rows * shape->hidden, 4},
        {&context->inner_gate, rows * shape->ffn, 4},
        {&context->inner_up, rows * shape->ffn, 4},
        {&context->fresh_k, rows * kv, 4},
        {&context->fresh_v, rows * kv, 4},
        {&context->packed, CPU_PASS_ROWS * (int64_t)cpu_padded((int32_t)widest), 4},
        {&context->rounded, rows * widest, 2},
        {&context->partial_sum, CPU_SPLITS * shape->n_heads * padded, 4},
        {&context->partial_greatest, CPU_SPLITS * (int64_t)shape->n_heads, 4},
        {&context->partial_total, CPU_SPLITS * (int64_t)shape->n_heads, 4},
        {&context->single_rows, rows, 4},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *block;
        int error = allocate(context, &block, wanted[i].n * wanted[i].bytes);
        if (error) {
            return error;
        }
        memcpy(wanted[i].slot, &block, sizeof block);
    }
    for (int32_t i = 0; i < CPU_ROTATIONS; i++) {
        void *cosine = NULL, *sine = NULL;
        int error = allocate(context, &cosine, rows * half * 4);
        context->rotations[i].cosine = cosine;
        error = error ? error : allocate(context, &sine, rows * half * 4);
        context->rotations[i].sine = sine;
        if (error) {
            return error;
        }
    }
    return 0;
}

static int allocate_thread_scratch(struct backend_context *context)
{
    const struct plan *plan = context->plan;
    int32_t threads = thread_pool_threads(context->pool);
    const int64_t needs[] = {
        cpu_attention_scratch_bytes(plan),
        cpu_prefill_scratch_bytes(plan),
        cpu_index_scratch_bytes(plan, context->max_context),
        CPU_TILE_OUTPUTS * (int64_t)cpu_widest_input(plan) * (int64_t)sizeof(float) + ALIGNMENT,
    };
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        context->thread_scratch_bytes =
            needs[i] > context->thread_scratch_bytes ? needs[i] : context->thread_scratch_bytes;
    }
    context->thread_scratch = calloc((size_t)threads, sizeof *context->thread_scratch);
    if (!context->thread_scratch) {
        return status_fail(-ENOMEM, "no memory for %d threads", threads);
    }
    for (int32_t i = 0; i < threads; i++) {
        void *block;
        int error = allocate(context, &block, context->thread_scratch_bytes);
        if (error) {
            return error;
        }
        context->thread_scratch[i] = block;
    }
    return 0;
}

static int choose_kernels(struct backend_context *context)
{
    const char *name = getenv("CLSA_CPU_ISA");
    context->kernels = cpu_kernels_choose(name && *name ? name : NULL);
    if (!context->kernels) {
        return status_fail(-EINVAL,
                           "CLSA_CPU_ISA is '%s': expected one of avx512_bf16, avx512, avx2, baseline that this "
                           "machine has",
                           name);
    }
    return 0;
}

static int open_context(struct backend_context **out, const struct backend_options *options)
{
    *out = NULL;
    struct backend_context *context = calloc(1, sizeof *context);
    if (!context) {
        return status_fail(-ENOMEM, "no memory for the CPU backend");
    }
    context->plan = options->plan;
    context->max_rows = options->max_rows;
    context->max_context = options->max_context;
    int32_t threads = options->threads ? options->threads : thread_pool_processors();
    int error = choose_kernels(context);
    error = error ? error : thread_pool_open(&context->pool, threads);
    error = error ? error : cpu_gemm_open(&context->gemm, threads);
    error = error ? error : allocate_scratch(context);
    error = error ? error : allocate_thread_scratch(context);
    if (error) {
        close_context(context);
        return error;
    }
    *out = context;
    return 0;
}

// The processor's name as the system tells it, or "CPU".
static void processor_name(char *out, size_t bytes)
{
    snprintf(out, bytes, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (colon) {
            line[strcspn(line, "\n")] = 0;
            snprintf(out, bytes, "%s", colon + 1 + strspn(colon + 1, " "));
            break;
        }
    }
    if (file) {
        fclose(file);
    }
}

static void describe(const struct backend_context *context, char *device, char *variant, size_t bytes)
{
    char name[64];
    int32_t threads = thread_pool_threads(context->pool);
    processor_name(name, sizeof name);
    snprintf(device, bytes, "%s, %d thread%s", name, threads, threads == 1 ? "" : "s");
    snprintf(variant, bytes, "%s", context->kernels->name);
}

static int begin_step(struct backend_context *context, const struct batch *batch)
{
    (void)batch;
    for (int32_t i = 0; i < CPU_ROTATIONS; i++) {
        context->rotations[i].position = NULL;
    }
    return 0;
}

static int end_step(struct backend_context *context)
{
    (void)context;
    return 0;
}

// Operators ---------------------------------------------------------------------------------------------------------

struct rows_task {
    struct backend_context *context;
    int32_t n;
    const float *x;
    const struct matrix *norm;
    const struct op_qkv *qkv;
    const struct cpu_rotation *rotation;    // NULL: no position
};

static void norm_item(void *user, int32_t item, int32_t thread)
{
    const struct rows_task *task = user;
    const struct model_shape *shape = &task->context->plan->shape;
    (void)thread;
    for (int32_t r = item * ROW_ITEM; r < (item + 1) * ROW_ITEM && r < task->n; r++) {
        int64_t at = (int64_t)r * shape->hidden;
        task->context->kernels->rms_norm(task->context->normed + at, task->x + at, task->norm->data, task->norm->dtype,
                                         shape->hidden, shape->norm_eps);
    }
}

// context->normed [n] = the norm of x.
static void norm_rows(struct backend_context *context, const float *x, const struct matrix *norm, int32_t n)
{
    struct rows_task task = {.context = context, .n = n, .x = x, .norm = norm};
    thread_pool_run(context->pool, norm_item, &task, (n + ROW_ITEM - 1) / ROW_ITEM);
}

static int embed(struct backend_context *context, const struct batch *batch, const struct matrix *table, float *x)
{
    const struct model_shape *shape = &context->plan->shape;
    float scale = shape->backbone == BACKBONE_YOCO ? sqrtf((float)shape->hidden) : 1.0f;
    for (int32_t r = 0; r < batch->all.n; r++) {
        float *to = x + (int64_t)r * shape->hidden;
        const unsigned char *row = (const unsigned char *)table->data +
                                   (int64_t)batch->all.token[r] * shape->hidden * dtype_bytes(table->dtype);
        context->kernels->widen(to, row, shape->hidden, table->dtype);
        for (int32_t i = 0; i < shape->hidden; i++) {
            to[i] *= scale;
        }
    }
    return 0;
}

static int take_rows(struct backend_context *context, const struct batch *batch, void *out, const void *in,
                     int64_t row_bytes)
{
    (void)context;
    for (int32_t r = 0; r < batch->last.n; r++) {
        memcpy((unsigned char *)out + r * row_bytes, (const unsigned char *)in + batch->last.source[r] * row_bytes,
               (size_t)row_bytes);
    }
    return 0;
}

static bool present(const struct matrix *matrix)
{
    return matrix && matrix->data;
}

// Norm per head, then rotation, of one row's heads [n_heads][head_dim].
static void finish_heads(const struct rows_task *task, float *heads, int32_t n_heads, const struct matrix *norm,
                         int32_t row)
{
    const struct cpu_kernels *kernels = task->context->kernels;
    const struct model_shape *shape = &task->context->plan->shape;
    int32_t dim = shape->head_dim, half = dim / 2;
    for (int32_t h = 0; h < n_heads; h++) {
        float *head = heads + (int64_t)h * dim;
        if (present(norm)) {
            kernels->rms_norm(head, head, norm->data, norm->dtype, dim, shape->norm_eps);
        }
        if (task->rotation) {
            kernels->rotate(head, task->rotation->cosine + (int64_t)row * half,
                            task->rotation->sine + (int64_t)row * half, half);
        }
    }
}

// [row][n] of `out` = x [n], rounded to dtype.
static void round_row(const struct backend_context *context, void *out, int32_t row, const float *x, int32_t n,
                      enum dtype dtype)
{
    if (dtype == DTYPE_BF16) {
        context->kernels->to_bf16((uint16_t *)out + (int64_t)row * n, x, n);
    } else {
        memcpy((float *)out + (int64_t)row * n, x, (size_t)n * sizeof *x);
    }
}

static void finish_item(void *user, int32_t item, int32_t thread)
{
    const struct rows_task *task = user;
    const struct op_qkv *op = task->qkv;
    struct backend_context *context = task->context;
    const struct model_shape *shape = &context->plan->shape;
    (void)thread;
    int32_t q_width = shape->n_heads * shape->head_dim, kv_width = shape->n_kv_heads * shape->head_dim;
    enum dtype dtype = plan_fresh_dtype(context->plan);
    for (int32_t r = item * ROW_ITEM; r < (item + 1) * ROW_ITEM && r < task->n; r++) {
        if (present(op->q)) {
            finish_heads(task, (float *)op->q_out + (int64_t)r * q_width, shape->n_heads, op->q_norm, r);
        }
        if (present(op->k)) {
            float *k = context->fresh_k + (int64_t)r * kv_width;
            finish_heads(task, k, shape->n_kv_heads, op->k_norm, r);
            round_row(context, op->k_out, r, k, kv_width, dtype);
        }
        if (present(op->v)) {
            round_row(context, op->v_out, r, context->fresh_v + (int64_t)r * kv_width, kv_width, dtype);
        }
    }
}

static int qkv(struct backend_context *context, const struct batch *batch, const struct op_qkv *op)
{
    (void)batch;
    const struct model_shape *shape = &context->plan->shape;
    norm_rows(context, op->x, op->norm, op->n);
    if (op->normed) {
        copy(context, op->normed, context->normed, (int64_t)op->n * shape->hidden * (int64_t)sizeof(float));
    }
    const struct cpu_product products[] = {
        {op->q, op->q_out, false}, {op->k, context->fresh_k, false}, {op->v, context->fresh_v, false}};
    int error = cpu_products(context, context->normed, op->n, products, 3);
    if (error) {
        return error;
    }
    struct rows_task task = {.context = context, .n = op->n, .qkv = op};
    if (op->rope_theta > 0) {
        task.rotation = cpu_rotation_for(context, op->position, op->n, op->rope_theta, shape->head_dim);
    }
    thread_pool_run(context->pool, finish_item, &task, (op->n + ROW_ITEM - 1) / ROW_ITEM);
    return 0;
}

static int output(struct backend_context *context, const struct batch *batch, const struct op_output *op)
{
    (void)batch;
    const struct cpu_product product = {op->weight, op->x, true};
    return cpu_products(context, op->attention, op->n, &product, 1);
}

static void silu_item(void *user, int32_t item, int32_t thread)
{
    const struct rows_task *task = user;
    struct backend_context *context = task->context;
    (void)thread;
    int64_t ffn = context->plan->shape.ffn, first = (int64_t)item * ROW_ITEM;
    int64_t n = (task->n - first < ROW_ITEM ? task->n - first : ROW_ITEM) * ffn;
    context->kernels->silu_product(context->inner_up + first * ffn, context->inner_gate + first * ffn,
                                   context->inner_up + first * ffn, n);
}

static int ffn(struct backend_context *context, const struct batch *batch, const struct op_ffn *op)
{
    (void)batch;
    norm_rows(context, op->x, op->norm, op->n);
    const struct cpu_product inner[] = {{op->gate, context->inner_gate, false}, {op->up, context->inner_up, false}};
    int error = cpu_products(context, context->normed, op->n, inner, 2);
    if (error) {
        return error;
    }
    struct rows_task task = {.context = context, .n = op->n};
    thread_pool_run(context->pool, silu_item, &task, (op->n + ROW_ITEM - 1) / ROW_ITEM);
    const struct cpu_product down = {op->down, op->x, true};
    return cpu_products(context, context->inner_up, op->n, &down, 1);
}

static int head(struct backend_context *context, const struct batch *batch, const struct op_head *op)
{
    (void)batch;
    norm_rows(context, op->x, op->norm, op->n);
    const struct cpu_product product = {op->weight, op->logits, false};
    return cpu_products(context, context->normed, op->n, &product, 1);
}

static int sample(struct backend_context *context, const struct batch *batch, const struct op_sample *op)
{
    int32_t vocab = context->plan->shape.vocab;
    for (int32_t r = 0; r < batch->last.n; r++) {
        int32_t position = batch->last.position[r];
        int32_t token = sampler_draw(op->logits + (int64_t)r * vocab, vocab, &op->sampling[r], position);
        if (token < 0) {
            return status_fail(token, "position %d: a logit is not a number", position);
        }
        op->token[r] = token;
    }
    return 0;
}

const struct backend backend_cpu = {
    .abi = BACKEND_ABI,
    .name = "cpu",
    .activation_bytes = (int32_t)sizeof(float),
    .open = open_context,
    .close = close_context,
    .describe = describe,
    .alloc = allocate,
    .free = release,
    .upload = copy,
    .download = copy,
    .copy = copy,
    .weight_load = weight_load,
    .begin_step = begin_step,
    .end_step = end_step,
    .embed = embed,
    .take_rows = take_rows,
    .qkv = qkv,
    .window_attention = cpu_window_attention,
    .kv_write = cpu_kv_write,
    .index_write = cpu_index_write,
    .index_project = cpu_index_project,
    .index_score = cpu_index_score,
    .index_select = cpu_index_select,
    .attention = cpu_attention,
    .output = output,
    .ffn = ffn,
    .head = head,
    .sample = sample,
};
