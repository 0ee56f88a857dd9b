// engine/cpu/kv_write.c - keys and values into pages and rings, and the bounds of their units.
#include <string.h>

#include "engine/cpu/context.h"

enum { WRITE_ROWS = 16 };    // rows per item

struct write_task {
    struct backend_context *context;
    const struct batch *batch;
    const struct op_kv_write *op;
};

// Item: WRITE_ROWS rows. A ring takes only the last page_tokens rows of a sequence: no two of them share a place.
static void write_item(void *user, int32_t item, int32_t thread)
{
    const struct write_task *task = user;
    const struct model_shape *shape = &task->context->plan->shape;
    const struct batch *batch = task->batch;
    const struct kv_view *view = &task->op->view;
    (void)thread;
    int64_t head_bytes = (int64_t)shape->head_dim * dtype_bytes(view->dtype),
            row_bytes = shape->n_kv_heads * head_bytes;
    for (int32_t r = item * WRITE_ROWS; r < (item + 1) * WRITE_ROWS && r < batch->all.n; r++) {
        int32_t s = batch->all.seq[r], token = batch->all.position[r];
        const struct batch_seq *seq = &batch->seqs[s];
        if (view->ring && r < seq->first_row + seq->n_rows - view->page_tokens) {
            continue;
        }
        int32_t page = view->ring ? seq->slot : batch->pages[(int64_t)s * batch->max_pages + token / view->page_tokens];
        unsigned char *to = view->data + page * view->page_stride + token % view->page_tokens * view->token_stride;
        const unsigned char *k = (const unsigned char *)task->op->k + r * row_bytes;
        const unsigned char *v = (const unsigned char *)task->op->v + r * row_bytes;
        for (int32_t h = 0; h < shape->n_kv_heads; h++) {
            memcpy(to + h * view->head_stride, k + h * head_bytes, (size_t)head_bytes);
            memcpy(to + h * view->head_stride + view->value_offset, v + h * head_bytes, (size_t)head_bytes);
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
    (void)thread;
    int32_t width = shape->n_kv_heads * shape->head_dim;
    enum dtype dtype = task->op->view.dtype;
    for (int32_t i = 0; i < seq->n_rows; i++) {
        int32_t token = seq->context_tokens + i, first = token / bounds->unit_tokens * bounds->unit_tokens;
        int32_t page = task->batch->pages[(int64_t)s * task->batch->max_pages + first / bounds->page_tokens];
        float *low = (float *)(void *)(bounds->data + page * bounds->page_stride) +
                     (int64_t)(first % bounds->page_tokens / bounds->unit_tokens) * 2 * width;
        const unsigned char *key =
            (const unsigned char *)task->op->k + (int64_t)(seq->first_row + i) * width * dtype_bytes(dtype);
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
