// engine/cpu/kv_write.c - keys and values into pages and rings, and the bounds of their units.
#include <string.h>

#include "engine/cpu/context.h"

enum { WRITE_ROWS = 16 };    // rows per item

struct write_task {
    struct backend_context *context;
    const struct batch *batch;
    const struct op_kv_write *op;
};

// Puts one vector [head_dim] of the step's own where it belongs; `scale` is its place in fp8 pages.
static void store_vector(unsigned char *to, uint8_t *scale, const unsigned char *from, enum dtype dtype, int32_t dim)
{
    if (dtype == DTYPE_FP8) {
        *scale = kv_quantise(to, (const uint16_t *)(const void *)from, dim);
    } else {
        memcpy(to, from, (size_t)(dim * dtype_bytes(dtype)));
    }
}

// Item: WRITE_ROWS rows. A ring takes only the last page_tokens rows of a sequence: no two of them share a place.
static void write_item(void *user, int32_t item, int32_t thread)
{
    const struct write_task *task = user;
    const struct plan *plan = task->context->plan;
    const struct batch *batch = task->batch;
    const struct kv_view *view = &task->op->view;
    (void)thread;
    int32_t dim = plan->shape.head_dim, n_heads = plan->shape.n_kv_heads;
    int64_t head_bytes = (int64_t)dim * dtype_bytes(plan_fresh_dtype(plan)), row_bytes = n_heads * head_bytes;
    for (int32_t r = item * WRITE_ROWS; r < (item + 1) * WRITE_ROWS && r < batch->all.n; r++) {
        int32_t s = batch->all.seq[r], token = batch->all.position[r];
        const struct batch_seq *seq = &batch->seqs[s];
        if (view->ring && r < seq->first_row + seq->n_rows - view->page_tokens) {
            continue;
        }
        int32_t page = view->ring ? seq->slot : batch->pages[(int64_t)s * batch->max_pages + token / view->page_tokens];
        int32_t place = token % view->page_tokens;
        unsigned char *to = view->data + page * view->page_stride + place * view->token_stride;
        uint8_t *scales = view->data + page * view->page_stride + view->scale_offset + place * view->scale_token_stride;
        const unsigned char *k = (const unsigned char *)task->op->k + r * row_bytes;
        const unsigned char *v = (const unsigned char *)task->op->v + r * row_bytes;
        for (int32_t h = 0; h < n_heads; h++, scales += view->scale_head_stride, to += view->head_stride) {
            store_vector(to, scales, k + h * head_bytes, view->dtype, dim);
            store_vector(to + view->value_offset, scales + 1, v + h * head_bytes, view->dtype, dim);
        }
    }
}

// f32 [n_kv_heads*head_dim]: one token's keys as fp8 pages hold them.
static void load_cached(const struct write_task *task, float *out, int32_t s, int32_t token)
{
    const struct model_shape *shape = &task->context->plan->shape;
    struct cpu_keys keys = {.batch = task->batch, .view = &task->op->view, .seq = s, .first_fresh = INT32_MAX};
    struct cpu_tile tile;
    float scale;
    for (int32_t h = 0; h < shape->n_kv_heads; h++, out += shape->head_dim) {
        cpu_locate(&tile, &keys, token, 1, h);
        cpu_scales(&scale, &tile, keys.view, h, false);
        task->context->kernels->widen(out, tile.key[0], shape->head_dim, DTYPE_FP8);
        for (int32_t d = 0; d < shape->head_dim; d++) {
            out[d] *= scale;
        }
    }
}

// Item: one sequence, whose tokens extend their units' bounds in order.
static void bounds_item(void *user, int32_t s, int32_t thread)
{
    const struct write_task *task = user;
    const struct model_shape *shape = &task->context->plan->shape;
    const struct bound_view *bounds = &task->op->bounds;
    const struct batch_seq *seq = &task->batch->seqs[s];
    struct cpu_scratch scratch = cpu_scratch_of(task->context, thread);
    int32_t width = shape->n_kv_heads * shape->head_dim;
    bool fp8 = task->op->view.dtype == DTYPE_FP8;
    float *cached = fp8 ? cpu_scratch_take(&scratch, width * (int64_t)sizeof *cached) : NULL;
    enum dtype dtype = fp8 ? DTYPE_F32 : task->op->view.dtype;
    int64_t row_bytes = width * dtype_bytes(plan_fresh_dtype(task->context->plan));
    for (int32_t i = 0; i < seq->n_rows; i++) {
        int32_t token = seq->context_tokens + i, first = token / bounds->unit_tokens * bounds->unit_tokens;
        int32_t page = task->batch->pages[(int64_t)s * task->batch->max_pages + first / bounds->page_tokens];
        float *low = (float *)(void *)(bounds->data + page * bounds->page_stride) +
                     (int64_t)(first % bounds->page_tokens / bounds->unit_tokens) * 2 * width;
        const void *key = (const unsigned char *)task->op->k + (seq->first_row + i) * row_bytes;
        if (fp8) {
            load_cached(task, cached, s, token);
            key = cached;
        }
        task->context->kernels->extend_bounds(low, low + width, key, width, dtype, token == first);
    }
}

int cpu_kv_write(struct backend_context *context, const struct batch *batch, const struct op_kv_write *op)
{
    struct write_task task = {context, batch, op};
    thread_pool_run(context->pool, write_item, &task, (batch->all.n + WRITE_ROWS - 1) / WRITE_ROWS);
    if (op->bounds.data) {
        thread_pool_run(context->pool, bounds_item, &task, batch->n_seqs);
    }
    return 0;
}
