// engine/backend_reference.c - the backend in plain scalar C: what every operator means, and what every other backend
// is compared with.
//
// Here: life, memory, and the operators that know no cache. reference_attention.c and reference_index.c hold the rest;
// reference.h says what all of them guarantee. One thread, no vector units, no library. Rotary embeddings turn pairs
// (i, i + dims/2), as Hugging Face models are stored. Not fast, and not meant to be: a simple loop that is right.
#include "engine/reference.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "engine/status.h"

enum { ALIGNMENT = 64 };

double reference_dot(const float *a, const float *b, int32_t n)
{
    double sum[4] = {0, 0, 0, 0};
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (int32_t lane = 0; lane < 4; lane++) {
            sum[lane] += (double)a[i + lane] * (double)b[i + lane];
        }
    }
    for (int32_t lane = 0; i + lane < n; lane++) {
        sum[lane] += (double)a[i + lane] * (double)b[i + lane];
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

void reference_load(float *out, const void *from, enum dtype dtype, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        out[i] = dtype_load(from, i, dtype);
    }
}

void reference_matmul(struct backend_context *context, float *out, const struct matrix *w, const float *x, int32_t n,
                      bool add)
{
    const unsigned char *weights = w->data;
    int64_t row_bytes = (int64_t)w->n_cols * dtype_bytes(w->dtype);
    for (int32_t o = 0; o < w->n_rows; o++) {
        reference_load(context->weight_row, weights + o * row_bytes, w->dtype, w->n_cols);
        for (int32_t r = 0; r < n; r++) {
            float *to = &out[(int64_t)r * w->n_rows + o];
            float product = (float)reference_dot(context->weight_row, x + (int64_t)r * w->n_cols, w->n_cols);
            *to = add ? *to + product : product;
        }
    }
}

void reference_rotation(struct backend_context *context, int32_t position, float theta, int32_t dims)
{
    for (int32_t i = 0; i < dims / 2; i++) {
        double angle = position * pow((double)theta, -2.0 * i / dims);
        context->rotation[2 * i] = cos(angle);
        context->rotation[2 * i + 1] = sin(angle);
    }
}

void reference_rotate(const struct backend_context *context, float *x, int32_t dims)
{
    int32_t half = dims / 2;
    for (int32_t i = 0; i < half; i++) {
        double c = context->rotation[2 * i], s = context->rotation[2 * i + 1];
        double low = (double)x[i], high = (double)x[i + half];
        x[i] = (float)(low * c - high * s);
        x[i + half] = (float)(high * c + low * s);
    }
}

// out [width] = in / rms(in) * weight. out may be in.
static void rms_norm(float *out, const float *in, const struct matrix *weight, int32_t width, float eps)
{
    double scale = 1.0 / sqrt(reference_dot(in, in, width) / width + (double)eps);
    for (int32_t i = 0; i < width; i++) {
        out[i] = (float)((double)in[i] * scale * (double)dtype_load(weight->data, i, weight->dtype));
    }
}

static bool present(const struct matrix *matrix)
{
    return matrix && matrix->data;
}

static void close_context(struct backend_context *context)
{
    if (!context) {
        return;
    }
    free(context->weight_row);
    free(context->normed);
    free(context->inner_gate);
    free(context->inner_up);
    free(context->kv);
    free(context->rotation);
    free(context->vector);
    free(context->index_query);
    free(context->query_scale);
    free(context->sum);
    free(context->score);
    free(context->token);
    free(context->heap);
    free(context->chosen);
    free(context);
}

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int open_context(struct backend_context **out, const struct backend_options *options)
{
    *out = NULL;
    const struct model_shape *shape = &options->plan->shape;
    const struct index_spec *index = &options->plan->index;
    size_t rows = (size_t)options->max_rows, tokens = (size_t)options->max_context;
    size_t head = (size_t)larger(shape->head_dim, index->dim);
    size_t input = (size_t)larger(larger(shape->hidden, shape->ffn), shape->n_heads * shape->head_dim);
    struct backend_context *context = calloc(1, sizeof *context);
    if (!context) {
        goto fail;
    }
    context->plan = options->plan;
    context->max_rows = options->max_rows;
    context->max_context = options->max_context;
    context->weight_row = calloc(input, sizeof(float));
    context->normed = calloc(rows * (size_t)shape->hidden, sizeof(float));
    context->inner_gate = calloc(rows * (size_t)shape->ffn, sizeof(float));
    context->inner_up = calloc(rows * (size_t)shape->ffn, sizeof(float));
    context->kv = calloc(rows * (size_t)(shape->n_kv_heads * shape->head_dim), sizeof(float));
    context->rotation = calloc(head + 1, sizeof(double));
    context->vector = calloc(head, sizeof(float));
    context->index_query = calloc((size_t)index->heads * (size_t)index->dim + 1, sizeof(float));
    context->query_scale = calloc((size_t)index->heads + 1, sizeof(float));
    context->sum = calloc((size_t)shape->head_dim, sizeof(double));
    context->score = calloc(tokens, sizeof(float));
    context->token = calloc(tokens, sizeof(int32_t));
    context->heap = calloc(tokens, sizeof(int32_t));
    context->chosen = calloc(tokens, 1);
    if (!context->weight_row || !context->normed || !context->inner_gate || !context->inner_up || !context->kv ||
        !context->rotation || !context->vector || !context->index_query || !context->query_scale || !context->sum ||
        !context->score || !context->token || !context->heap || !context->chosen) {
        goto fail;
    }
    *out = context;
    return 0;
fail:
    close_context(context);
    return status_fail(-ENOMEM, "no memory for the reference backend's scratch of %d rows and %d tokens",
                       options->max_rows, options->max_context);
}

static void describe(const struct backend_context *context, char *device, char *variant, size_t bytes)
{
    (void)context;
    snprintf(device, bytes, "one CPU thread");
    snprintf(variant, bytes, "scalar");
}

// calloc, because large blocks then come as untouched zero pages: a cache that is never filled costs nothing. The
// block's own address stands in front of the aligned one, for free.
static int alloc(struct backend_context *context, void **out, int64_t bytes)
{
    (void)context;
    *out = NULL;
    unsigned char *block = bytes < 0 ? NULL : calloc(1, (size_t)bytes + ALIGNMENT + sizeof(void *));
    if (!block) {
        return status_fail(-ENOMEM, "cannot allocate %.1f MiB of memory", (double)bytes / 0x1p20);
    }
    uintptr_t first = (uintptr_t)block + sizeof(void *);
    unsigned char *aligned = block + sizeof(void *) + (ALIGNMENT - first % ALIGNMENT) % ALIGNMENT;
    memcpy(aligned - sizeof(void *), &block, sizeof block);
    *out = aligned;
    return 0;
}

static void release(struct backend_context *context, void *pointer)
{
    (void)context;
    if (pointer) {
        void *block;
        memcpy(&block, (unsigned char *)pointer - sizeof(void *), sizeof block);
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

static int begin_step(struct backend_context *context, const struct batch *batch)
{
    (void)context;
    (void)batch;
    return 0;
}

static int end_step(struct backend_context *context)
{
    (void)context;
    return 0;
}

static int embed(struct backend_context *context, const struct batch *batch, const struct matrix *table, float *x)
{
    const struct model_shape *shape = &context->plan->shape;
    const unsigned char *rows = table->data;
    int64_t row_bytes = (int64_t)table->n_cols * dtype_bytes(table->dtype);
    float scale = shape->backbone == BACKBONE_YOCO ? sqrtf((float)shape->hidden) : 1.0f;
    for (int32_t r = 0; r < batch->all.n; r++) {
        float *to = x + (int64_t)r * shape->hidden;
        reference_load(to, rows + batch->all.token[r] * row_bytes, table->dtype, shape->hidden);
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

// Heads [n][n_heads][head_dim]: norm per head, then rotation by the row's position.
static void finish_heads(struct backend_context *context, const struct op_qkv *op, float *heads, int32_t n_heads,
                         const struct matrix *norm)
{
    const struct model_shape *shape = &context->plan->shape;
    int32_t dim = shape->head_dim;
    for (int32_t r = 0; r < op->n; r++) {
        if (op->rope_theta > 0) {
            reference_rotation(context, op->position[r], op->rope_theta, dim);
        }
        for (int32_t h = 0; h < n_heads; h++) {
            float *head = heads + ((int64_t)r * n_heads + h) * dim;
            if (present(norm)) {
                rms_norm(head, head, norm, dim, shape->norm_eps);
            }
            if (op->rope_theta > 0) {
                reference_rotate(context, head, dim);
            }
        }
    }
}

static void round_values(void *out, const float *in, enum dtype dtype, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        dtype_store(out, i, dtype, in[i]);
    }
}

static int qkv(struct backend_context *context, const struct batch *batch, const struct op_qkv *op)
{
    (void)batch;
    const struct model_shape *shape = &context->plan->shape;
    enum dtype kv_dtype = plan_fresh_dtype(context->plan);
    int64_t kv_values = (int64_t)op->n * shape->n_kv_heads * shape->head_dim;
    for (int32_t r = 0; r < op->n; r++) {
        int64_t at = (int64_t)r * shape->hidden;
        rms_norm(context->normed + at, op->x + at, op->norm, shape->hidden, shape->norm_eps);
    }
    if (op->normed) {
        copy(context, op->normed, context->normed, (int64_t)op->n * shape->hidden * (int64_t)sizeof(float));
    }
    if (present(op->q)) {
        reference_matmul(context, op->q_out, op->q, context->normed, op->n, false);
        finish_heads(context, op, op->q_out, shape->n_heads, op->q_norm);
    }
    if (present(op->k)) {
        reference_matmul(context, context->kv, op->k, context->normed, op->n, false);
        finish_heads(context, op, context->kv, shape->n_kv_heads, op->k_norm);
        round_values(op->k_out, context->kv, kv_dtype, kv_values);
    }
    if (present(op->v)) {
        reference_matmul(context, context->kv, op->v, context->normed, op->n, false);
        round_values(op->v_out, context->kv, kv_dtype, kv_values);
    }
    return 0;
}

static int output(struct backend_context *context, const struct batch *batch, const struct op_output *op)
{
    (void)batch;
    reference_matmul(context, op->x, op->weight, op->attention, op->n, true);
    return 0;
}

static int ffn(struct backend_context *context, const struct batch *batch, const struct op_ffn *op)
{
    (void)batch;
    const struct model_shape *shape = &context->plan->shape;
    for (int32_t r = 0; r < op->n; r++) {
        int64_t at = (int64_t)r * shape->hidden;
        rms_norm(context->normed + at, op->x + at, op->norm, shape->hidden, shape->norm_eps);
    }
    reference_matmul(context, context->inner_gate, op->gate, context->normed, op->n, false);
    reference_matmul(context, context->inner_up, op->up, context->normed, op->n, false);
    for (int64_t i = 0; i < (int64_t)op->n * shape->ffn; i++) {
        float gate = context->inner_gate[i];
        context->inner_up[i] *= gate / (1.0f + expf(-gate));    // silu(gate) * up
    }
    reference_matmul(context, op->x, op->down, context->inner_up, op->n, true);
    return 0;
}

static int head(struct backend_context *context, const struct batch *batch, const struct op_head *op)
{
    (void)batch;
    const struct model_shape *shape = &context->plan->shape;
    for (int32_t r = 0; r < op->n; r++) {
        int64_t at = (int64_t)r * shape->hidden;
        rms_norm(context->normed + at, op->x + at, op->norm, shape->hidden, shape->norm_eps);
    }
    reference_matmul(context, op->logits, op->weight, context->normed, op->n, false);
    return 0;
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

const struct backend backend_reference = {
    .abi = BACKEND_ABI,
    .name = "reference",
    .activation_bytes = (int32_t)sizeof(float),
    .open = open_context,
    .close = close_context,
    .describe = describe,
    .alloc = alloc,
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
    .window_attention = reference_window_attention,
    .kv_write = reference_kv_write,
    .index_write = reference_index_write,
    .index_project = reference_index_project,
    .index_score = reference_index_score,
    .index_select = reference_index_select,
    .attention = reference_attention,
    .output = output,
    .ffn = ffn,
    .head = head,
    .sample = sample,
};
