// engine/cpu/prefill.c - attention of many rows of one sequence, tile by tile.
//
// Bound by multiply-adds. A tile of queries (rows times the heads of one KV head's group, the columns) meets tiles of
// 64 keys, which are widened to f32 once for all columns. Everything is kept transposed, one column per vector lane:
//     scores [key][column] = K [key][d] * Q^T [d][column]
//     softmax down the columns, no sums across lanes
//     out^T [d][column] += V^T [d][key] * scores [key][column]
// so that both products are the same kernel and no key is ever transposed; the queries are, once per tile, and the
// output back, once.
#include <math.h>

#include "engine/cpu/context.h"

enum { COLUMNS = 128 };    // queries per tile: widening a key tile costs a tenth of multiplying it

struct prefill_task {
    struct backend_context *context;
    const struct cpu_run *run;
    int32_t head_dim, n_heads, group, rows_per_tile, n_tiles;
};

// One thread's buffers, rows of COLUMNS floats unless said otherwise.
struct prefill_buffers {
    float *query;      // [head_dim]
    float *scores;     // [CPU_TILE_KEYS]
    float *sum;        // [head_dim]
    float *vectors;    // [CPU_TILE_KEYS][head_dim] keys, then values, of a tile
    float *first, *last, *greatest, *total, *factor;
};

bool cpu_prefill_fits(const struct plan *plan)
{
    return plan_group(plan) <= COLUMNS;
}

int64_t cpu_prefill_scratch_bytes(const struct plan *plan)
{
    int64_t dim = plan->shape.head_dim;
    return ((2 * dim + CPU_TILE_KEYS + 5) * COLUMNS + CPU_TILE_KEYS * dim) * (int64_t)sizeof(float) + 1024;
}

static struct prefill_buffers take_buffers(const struct prefill_task *task, int32_t thread)
{
    struct cpu_scratch scratch = cpu_scratch_of(task->context, thread);
    int64_t row = COLUMNS * (int64_t)sizeof(float);
    return (struct prefill_buffers){
        .query = cpu_scratch_take(&scratch, task->head_dim * row),
        .scores = cpu_scratch_take(&scratch, CPU_TILE_KEYS * row),
        .sum = cpu_scratch_take(&scratch, task->head_dim * row),
        .vectors = cpu_scratch_take(&scratch, (int64_t)CPU_TILE_KEYS * task->head_dim * (int64_t)sizeof(float)),
        .first = cpu_scratch_take(&scratch, row),
        .last = cpu_scratch_take(&scratch, row),
        .greatest = cpu_scratch_take(&scratch, row),
        .total = cpu_scratch_take(&scratch, row),
        .factor = cpu_scratch_take(&scratch, row),
    };
}

// Column c is head c % group of row first_row + c / group. Columns beyond the last row see no key.
static void load_queries(const struct prefill_task *task, const struct prefill_buffers *buffers, int32_t first_row,
                         int32_t n_rows, int32_t kv_head)
{
    const struct cpu_run *run = task->run;
    for (int32_t c = 0; c < COLUMNS; c++) {
        int32_t row = first_row + c / task->group;
        bool used = c < n_rows * task->group;
        int32_t position = used ? run->rows->position[row] : -1;
        int64_t head = (int64_t)row * task->n_heads + kv_head * task->group + c % task->group;
        for (int32_t d = 0; d < task->head_dim; d++) {
            buffers->query[d * COLUMNS + c] = used ? run->q[head * task->head_dim + d] : 0.0f;
            buffers->sum[d * COLUMNS + c] = 0;
        }
        buffers->first[c] = position >= run->window ? (float)(position - run->window + 1) : 0.0f;
        buffers->last[c] = (float)position;
        buffers->greatest[c] = -INFINITY;
        buffers->total[c] = 0;
    }
}

static void store_outputs(const struct prefill_task *task, const struct prefill_buffers *buffers, int32_t first_row,
                          int32_t n_rows, int32_t kv_head)
{
    const struct cpu_run *run = task->run;
    for (int32_t c = 0; c < n_rows * task->group; c++) {
        int64_t head = (int64_t)(first_row + c / task->group) * task->n_heads + kv_head * task->group + c % task->group;
        float scale = 1.0f / buffers->total[c];
        for (int32_t d = 0; d < task->head_dim; d++) {
            run->out[head * task->head_dim + d] = buffers->sum[d * COLUMNS + c] * scale;
        }
        if (run->lse) {
            run->lse[head] = buffers->greatest[c] + logf(buffers->total[c]);
        }
    }
}

// The tile's keys, or values, in f32.
static void widen_tile(const struct prefill_task *task, float *out, const struct cpu_tile *tile, int32_t kv_head,
                       bool value)
{
    const struct kv_view *view = task->run->keys.view;
    int32_t dim = task->head_dim;
    float scale[CPU_TILE_KEYS];
    if (view->dtype == DTYPE_FP8) {
        cpu_scales(scale, tile, view, kv_head, value);
    }
    for (int32_t i = 0; i < tile->n; i++, out += dim) {
        task->context->kernels->widen(out, value ? tile->value[i] : tile->key[i], dim, view->dtype);
        for (int32_t d = 0; view->dtype == DTYPE_FP8 && d < dim; d++) {
            out[d] *= scale[i];
        }
    }
}

// Item: (query tile, KV head), the tiles with the most keys first, so that threads end together.
static void prefill_item(void *user, int32_t item, int32_t thread)
{
    const struct prefill_task *task = user;
    const struct cpu_kernels *kernels = task->context->kernels;
    const struct cpu_run *run = task->run;
    int32_t n_kv_heads = task->n_heads / task->group, kv_head = item % n_kv_heads, dim = task->head_dim;
    int32_t offset = (task->n_tiles - 1 - item / n_kv_heads) * task->rows_per_tile;
    int32_t n_rows = run->n - offset < task->rows_per_tile ? run->n - offset : task->rows_per_tile;
    struct prefill_buffers buffers = take_buffers(task, thread);
    load_queries(task, &buffers, run->first + offset, n_rows, kv_head);
    int32_t n_columns = (n_rows * task->group + CPU_TILE_COLUMNS - 1) / CPU_TILE_COLUMNS * CPU_TILE_COLUMNS;
    struct cpu_columns columns = {n_columns,        buffers.first, buffers.last,
                                  buffers.greatest, buffers.total, buffers.factor};
    int32_t end = run->rows->position[run->first + offset + n_rows - 1] + 1;
    float scale = (float)(1.0 / sqrt((double)dim));
    struct cpu_tile tile;
    for (int32_t token = (int32_t)buffers.first[0]; token < end; token += tile.n) {
        cpu_locate(&tile, &run->keys, token, end - token, kv_head);
        widen_tile(task, buffers.vectors, &tile, kv_head, false);
        kernels->multiply(buffers.scores, COLUMNS, buffers.vectors, dim, 1, buffers.query, COLUMNS, tile.n, n_columns,
                          dim, false);
        kernels->softmax_columns(buffers.scores, COLUMNS, tile.n, token, scale, &columns);
        kernels->scale_columns(buffers.sum, COLUMNS, dim, n_columns, buffers.factor);
        widen_tile(task, buffers.vectors, &tile, kv_head, true);
        kernels->multiply(buffers.sum, COLUMNS, buffers.vectors, 1, dim, buffers.scores, COLUMNS, dim, n_columns,
                          tile.n, true);
    }
    store_outputs(task, &buffers, run->first + offset, n_rows, kv_head);
}

void cpu_prefill_attention(struct backend_context *context, const struct cpu_run *run)
{
    const struct model_shape *shape = &context->plan->shape;
    struct prefill_task task = {
        .context = context,
        .run = run,
        .head_dim = shape->head_dim,
        .n_heads = shape->n_heads,
        .group = shape->n_heads / shape->n_kv_heads,
    };
    task.rows_per_tile = COLUMNS / task.group;
    task.n_tiles = (run->n + task.rows_per_tile - 1) / task.rows_per_tile;
    thread_pool_run(context->pool, prefill_item, &task, task.n_tiles * shape->n_kv_heads);
}
