// engine/cpu/index.c - the indexer: projections, index keys, scores, selection.
//
// Scores of few rows are bound by reading the index keys, each once for all heads: items are chunks of about 1024
// tokens, whole units. Plain dot products add up over the heads of a set before they meet a key, since the sum is
// linear in the query. Gated heads are not: their products with a tile of keys are a small matrix product, the keys
// widened once for several rows. Pooling follows within the item. fp8 queries are rounded as the cached keys are.
// Selection: one item per row and set (kernels_select.c).
#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/cpu/context.h"
#include "engine/status.h"

enum {
    CHUNK_TOKENS = 1024,    // per item, rounded to whole units: 128 KB of bf16 keys of 64
    BLOCK_QUERIES = 16,     // queries of a plain block: their scores of a chunk stay within a cache of 64 KB
    BLOCK_COLUMNS = 128,    // columns of a gated block: heads of several rows
    LANES_MOST = 16,        // heads of a row are padded to whole vectors of any width
    WRITE_ROWS = 16,
    BOUND_UNITS = 256    // units per item of bounds
};
static const double KEY_NORM_EPS = 1e-5;

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t padded_heads(const struct index_spec *index)
{
    return (index->heads + LANES_MOST - 1) / LANES_MOST * LANES_MOST;
}

static int32_t chunk_tokens(const struct index_spec *index)
{
    return (CHUNK_TOKENS + index->unit_tokens - 1) / index->unit_tokens * index->unit_tokens;
}

// Rows that are scored together.
static int32_t block_rows(const struct index_spec *index)
{
    int32_t rows = index->score == INDEX_GATED_RELU ? BLOCK_COLUMNS / padded_heads(index) : BLOCK_QUERIES / index->sets;
    return rows > 1 ? rows : 1;
}

static int32_t block_columns(const struct index_spec *index)
{
    int32_t columns = block_rows(index) * padded_heads(index);
    return (columns + CPU_TILE_COLUMNS - 1) / CPU_TILE_COLUMNS * CPU_TILE_COLUMNS;
}

int64_t cpu_index_scratch_bytes(const struct plan *plan, int32_t max_context)
{
    const struct index_spec *index = &plan->index;
    if (index->budget_tokens == 0) {
        return 0;
    }
    int64_t padded = cpu_padded(index->dim), chunk = chunk_tokens(index);
    int64_t scores = (int64_t)block_rows(index) * index->sets * chunk;
    int64_t queries = index->score == INDEX_GATED_RELU
                          ? block_columns(index) * (padded + 1 + CPU_TILE_KEYS) + CPU_TILE_KEYS * padded + padded
                          : (int64_t)block_rows(index) * index->sets * padded + 2 * padded;
    int64_t select = 2 * (int64_t)max_context + 4 * CPU_SELECT_BINS;
    int64_t score = scores + queries + CPU_TILE_KEYS;
    return (score > select ? score : select) * 4 + 1024;
}

// The scale of an fp8 vector: greatest magnitude / 448, or 1 where that is 0. NaN is passed over.
static float fp8_scale(const float *x, int32_t n)
{
    float greatest = 0;
    for (int32_t i = 0; i < n; i++) {
        float magnitude = fabsf(x[i]);
        greatest = magnitude > greatest ? magnitude : greatest;
    }
    float scale = greatest / (float)FP8_MAX;
    return scale > 0 ? scale : 1.0f;
}

// Writing -----------------------------------------------------------------------------------------------------------

struct index_write_task {
    const struct batch *batch;
    const struct op_index_write *op;
};

static void write_item(void *user, int32_t item, int32_t thread)
{
    const struct index_write_task *task = user;
    const struct rows *rows = &task->batch->all;
    const struct index_view *view = &task->op->view;
    (void)thread;
    for (int32_t r = item * WRITE_ROWS; r < (item + 1) * WRITE_ROWS && r < rows->n; r++) {
        const float *k = (const float *)task->op->k + (int64_t)r * view->dim;
        int32_t token = rows->position[r], place = token % view->page_tokens;
        int32_t page = task->batch->pages[(int64_t)rows->seq[r] * task->batch->max_pages + token / view->page_tokens];
        unsigned char *base = view->data + page * view->page_stride;
        unsigned char *to = base + (int64_t)place * view->dim * dtype_bytes(view->dtype);
        float scale = view->dtype == DTYPE_FP8 ? fp8_scale(k, view->dim) : 1.0f;
        bool nan = false;
        for (int32_t i = 0; i < view->dim; i++) {
            dtype_store(to, i, view->dtype, k[i] / scale);
            nan = nan || isnan(k[i]);
        }
        if (view->dtype == DTYPE_FP8) {
            scale = nan ? NAN : scale;    // the kernels read the code of NaN as a number
            memcpy(base + view->scale_offset + (int64_t)place * (int64_t)sizeof scale, &scale, sizeof scale);
        }
    }
}

int cpu_index_write(struct backend_context *context, const struct batch *batch, const struct op_index_write *op)
{
    struct index_write_task task = {batch, op};
    thread_pool_run(context->pool, write_item, &task, (batch->all.n + WRITE_ROWS - 1) / WRITE_ROWS);
    return 0;
}

// Projecting --------------------------------------------------------------------------------------------------------

static void layer_norm(float *x, const struct matrix *weight, const struct matrix *bias, int32_t dim)
{
    double sum = 0, squares = 0;
    for (int32_t i = 0; i < dim; i++) {
        sum += (double)x[i];
    }
    double mean = sum / dim;
    for (int32_t i = 0; i < dim; i++) {
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    }
    double scale = 1.0 / sqrt(squares / dim + KEY_NORM_EPS);
    for (int32_t i = 0; i < dim; i++) {
        double normed = ((double)x[i] - mean) * scale;
        x[i] = (float)(normed * (double)dtype_load(weight->data, i, weight->dtype) +
                       (double)dtype_load(bias->data, i, bias->dtype));
    }
}

struct project_task {
    struct backend_context *context;
    const struct op_index_project *op;
    const struct cpu_rotation *rotation;    // NULL: no position
};

// Item: one row, after the products.
static void finish_item(void *user, int32_t row, int32_t thread)
{
    const struct project_task *task = user;
    const struct op_index_project *op = task->op;
    const struct index_spec *index = &task->context->plan->index;
    (void)thread;
    int32_t half = index->dim / 4;
    const float *cosine = task->rotation->cosine + (int64_t)row * half,
                *sine = task->rotation->sine + (int64_t)row * half;
    for (int32_t h = 0; op->q && h < index->heads; h++) {
        float *q = (float *)op->q + ((int64_t)row * index->heads + h) * index->dim;
        task->context->kernels->rotate(q, cosine, sine, half);
    }
    float scale = (float)(1.0 / sqrt((double)index->heads * index->dim));
    for (int32_t h = 0; op->gate && h < index->heads; h++) {
        op->gate[(int64_t)row * index->heads + h] *= scale;
    }
    if (op->k) {
        float *k = (float *)op->k + (int64_t)row * index->dim;
        layer_norm(k, &op->weights->k_norm, &op->weights->k_norm_bias, index->dim);
        task->context->kernels->rotate(k, cosine, sine, half);
    }
}

int cpu_index_project(struct backend_context *context, const struct batch *batch, const struct op_index_project *op)
{
    (void)batch;
    const struct index_spec *index = &context->plan->index;
    const struct cpu_product products[] = {
        {op->q ? &op->weights->q : NULL, op->q, false},
        {op->k ? &op->weights->k : NULL, op->k, false},
        {op->gate ? &op->weights->gate : NULL, op->gate, false},
    };
    int error = cpu_products(context, op->hidden, op->n, products, 3);
    if (error || index->score != INDEX_GATED_RELU) {
        return error;
    }
    struct project_task task = {context, op, NULL};
    task.rotation =
        cpu_rotation_for(context, op->position, op->n, context->plan->shape.rope_theta_global, index->dim / 4 * 2);
    thread_pool_run(context->pool, finish_item, &task, op->n);
    return 0;
}

// Scoring -----------------------------------------------------------------------------------------------------------

struct score_task {
    struct backend_context *context;
    const struct batch *batch;
    const struct op_index_score *op;
    int32_t block_rows, n_blocks, n_chunks, chunk;
};

// Adds one row's queries to `out`, a sum per set, as they meet the keys: in plain f32, or rounded to fp8 and back.
static void load_plain(const struct score_task *task, float *out, float *sums, float *rounded, int32_t row)
{
    const struct index_spec *index = &task->context->plan->index;
    int32_t per_set = index->heads / index->sets, dim = index->dim;
    enum dtype dtype = task->op->keys.dtype;
    for (int32_t set = 0; set < index->sets; set++) {
        memset(sums, 0, (size_t)dim * sizeof *sums);
        for (int32_t h = set * per_set; h < (set + 1) * per_set; h++) {
            const float *q = (const float *)task->op->q + ((int64_t)row * index->heads + h) * dim;
            float scale = dtype == DTYPE_FP8 ? fp8_scale(q, dim) : 1.0f;
            for (int32_t i = 0; i < dim; i++) {
                rounded[i] = dtype == DTYPE_FP8 ? fp8_to_f32(f32_to_fp8(q[i] / scale)) * scale : q[i];
                sums[i] += rounded[i];
            }
        }
        task->context->kernels->pack(out + (int64_t)set * cpu_padded(dim), sums, dim, dtype);
    }
}

// One row's heads as columns [column, column + padded heads) of queries [dim][n_columns], and their gates.
static void load_gated(const struct score_task *task, float *queries, float *gates, int32_t n_columns, int32_t column,
                       int32_t row)
{
    const struct index_spec *index = &task->context->plan->index;
    bool fp8 = task->op->keys.dtype == DTYPE_FP8;
    for (int32_t h = 0; h < padded_heads(index); h++) {
        bool used = h < index->heads;
        const float *q = (const float *)task->op->q + ((int64_t)row * index->heads + (used ? h : 0)) * index->dim;
        float scale = fp8 ? fp8_scale(q, index->dim) : 1.0f;
        gates[column + h] = used ? task->op->gate[(int64_t)row * index->heads + h] * scale : 0.0f;
        for (int32_t i = 0; i < index->dim; i++) {
            float value = fp8 ? fp8_to_f32(f32_to_fp8(q[i] / scale)) : q[i];
            queries[(int64_t)i * n_columns + column + h] = used ? value : 0.0f;
        }
    }
}

// A run of keys within one page.
struct key_run {
    const unsigned char *keys, *scales;    // scales: NULL unless fp8
    int32_t n;
};

static struct key_run find_keys(const struct score_task *task, int32_t seq, int32_t token, int32_t n)
{
    const struct index_view *view = &task->op->keys;
    int32_t place = token % view->page_tokens;
    int32_t page = task->batch->pages[(int64_t)seq * task->batch->max_pages + token / view->page_tokens];
    const unsigned char *base = view->data + page * view->page_stride;
    return (struct key_run){
        .keys = base + (int64_t)place * view->dim * dtype_bytes(view->dtype),
        .scales = view->dtype == DTYPE_FP8 ? base + view->scale_offset + (int64_t)place * 4 : NULL,
        .n = smaller(n, view->page_tokens - place),
    };
}

// Scores [n_rows * sets][chunk] of tokens [token, token + n) by plain dot products.
static void score_plain(const struct score_task *task, struct cpu_scratch *scratch, float *scores, int32_t first_row,
                        int32_t n_rows, int32_t token, int32_t n)
{
    const struct index_spec *index = &task->context->plan->index;
    const struct index_view *view = &task->op->keys;
    int32_t padded = cpu_padded(index->dim), seq = task->op->rows->seq[first_row], n_queries = n_rows * index->sets;
    float *queries = cpu_scratch_take(scratch, (int64_t)n_queries * padded * (int64_t)sizeof(float));
    float *sums = cpu_scratch_take(scratch, padded * (int64_t)sizeof(float));
    float *rounded = cpu_scratch_take(scratch, padded * (int64_t)sizeof(float));
    for (int32_t i = 0; i < n_rows; i++) {
        load_plain(task, queries + (int64_t)i * index->sets * padded, sums, rounded, first_row + i);
    }
    struct key_run run;
    for (int32_t done = 0; done < n; done += run.n) {
        run = find_keys(task, seq, token + done, n - done);
        task->context->kernels->dots(scores + done, task->chunk, queries, padded, n_queries, run.keys,
                                     (int64_t)view->dim * dtype_bytes(view->dtype), run.n, view->dim, view->dtype);
        for (int32_t i = 0; run.scales && i < run.n; i++) {
            float scale;
            memcpy(&scale, run.scales + i * 4, sizeof scale);
            for (int32_t q = 0; q < n_queries; q++) {
                scores[(int64_t)q * task->chunk + done + i] *= scale;
            }
        }
    }
}

// The same for gated heads.
static void score_gated(const struct score_task *task, struct cpu_scratch *scratch, float *scores, int32_t first_row,
                        int32_t n_rows, int32_t token, int32_t n)
{
    const struct index_spec *index = &task->context->plan->index;
    const struct cpu_kernels *kernels = task->context->kernels;
    const struct index_view *view = &task->op->keys;
    int32_t dim = index->dim, heads = padded_heads(index), seq = task->op->rows->seq[first_row];
    int32_t n_columns = (n_rows * heads + CPU_TILE_COLUMNS - 1) / CPU_TILE_COLUMNS * CPU_TILE_COLUMNS;
    float *queries = cpu_scratch_take(scratch, (int64_t)n_columns * dim * (int64_t)sizeof(float));
    float *gates = cpu_scratch_take(scratch, n_columns * (int64_t)sizeof(float));
    float *wide = cpu_scratch_take(scratch, (int64_t)CPU_TILE_KEYS * dim * (int64_t)sizeof(float));
    float *products = cpu_scratch_take(scratch, (int64_t)CPU_TILE_KEYS * n_columns * (int64_t)sizeof(float));
    float scales[CPU_TILE_KEYS];
    memset(queries, 0, (size_t)n_columns * (size_t)dim * sizeof *queries);
    for (int32_t i = 0; i < n_rows; i++) {
        load_gated(task, queries, gates, n_columns, i * heads, first_row + i);
    }
    struct key_run run;
    for (int32_t done = 0; done < n; done += run.n) {
        run = find_keys(task, seq, token + done, smaller(n - done, CPU_TILE_KEYS));
        for (int32_t i = 0; i < run.n; i++) {
            kernels->widen(wide + (int64_t)i * dim, run.keys + (int64_t)i * dim * dtype_bytes(view->dtype), dim,
                           view->dtype);
            scales[i] = 1.0f;
        }
        if (run.scales) {
            memcpy(scales, run.scales, (size_t)run.n * sizeof *scales);
        }
        kernels->multiply(products, n_columns, wide, dim, 1, queries, n_columns, run.n, n_columns, dim, false);
        for (int32_t i = 0; i < n_rows; i++) {
            kernels->gated_sums(scores + (int64_t)i * task->chunk + done, products + i * heads, n_columns, run.n,
                                gates + i * heads, heads, scales);
        }
    }
}

// out [units] from the scores of n >= 1 tokens, the first of which begins a unit.
static void pool(const struct cpu_kernels *kernels, float *out, const float *scores, int32_t n,
                 const struct index_spec *index)
{
    if (index->unit_tokens == 1) {
        memcpy(out, scores, (size_t)n * sizeof *out);
        return;
    }
    for (int32_t first = 0, unit = 0; first < n; first += index->unit_tokens, unit++) {
        int32_t end = smaller(first + index->unit_tokens, n);
        if (index->pooling == POOLING_MAX) {
            out[unit] = kernels->greatest(scores + first, end - first);
            continue;
        }
        double sum = 0;
        for (int32_t i = first; i < end; i++) {
            sum += (double)scores[i];
        }
        out[unit] = (float)(sum / (end - first));
    }
}

// Item: (block of rows, chunk of tokens). A block may span sequences: its rows are then scored run by run.
static void score_item(void *user, int32_t item, int32_t thread)
{
    const struct score_task *task = user;
    const struct op_index_score *op = task->op;
    const struct index_spec *index = &task->context->plan->index;
    int32_t token = item % task->n_chunks * task->chunk, block = item / task->n_chunks;
    int32_t row = op->first + block * task->block_rows;
    int32_t end_row = smaller(row + task->block_rows, op->first + op->n), end;
    for (; row < end_row; row = end) {
        end = row + 1;
        while (end < end_row && op->rows->seq[end] == op->rows->seq[row]) {
            end++;
        }
        int32_t n = smaller(op->rows->position[end - 1] + 1 - token, task->chunk);    // positions ascend
        if (n <= 0) {
            continue;
        }
        struct cpu_scratch scratch = cpu_scratch_of(task->context, thread);
        int64_t score_bytes = (int64_t)(end - row) * index->sets * task->chunk * (int64_t)sizeof(float);
        float *scores = cpu_scratch_take(&scratch, score_bytes);
        (index->score == INDEX_GATED_RELU ? score_gated : score_plain)(task, &scratch, scores, row, end - row, token,
                                                                       n);
        for (int32_t i = 0; i < (end - row) * index->sets; i++) {
            int32_t seen = smaller(op->rows->position[row + i / index->sets] + 1 - token, n);
            if (seen > 0) {
                pool(task->context->kernels,
                     op->scores + ((int64_t)(row - op->first) * index->sets + i) * op->stride +
                         token / index->unit_tokens,
                     scores + (int64_t)i * task->chunk, seen, index);
            }
        }
    }
}

// Item: (row, BOUND_UNITS units). The row's own unit scores plus infinity, since its bounds may hold later tokens.
static void bound_item(void *user, int32_t item, int32_t thread)
{
    const struct score_task *task = user;
    const struct op_index_score *op = task->op;
    const struct model_shape *shape = &task->context->plan->shape;
    const struct bound_view *view = &op->bounds;
    (void)thread;
    int32_t row = op->first + item / task->n_chunks, first = item % task->n_chunks * BOUND_UNITS;
    int32_t own = op->rows->position[row] / view->unit_tokens, width = shape->n_kv_heads * shape->head_dim;
    int32_t sets = task->context->plan->index.sets, per_set = shape->n_heads / sets;
    int32_t group = shape->n_heads / shape->n_kv_heads;
    const int32_t *pages = task->batch->pages + (int64_t)op->rows->seq[row] * task->batch->max_pages;
    const float *q = (const float *)op->q + (int64_t)row * shape->n_heads * shape->head_dim;
    float *scores = op->scores + (int64_t)(row - op->first) * sets * op->stride;
    for (int32_t unit = first; unit < first + BOUND_UNITS && unit <= own; unit++) {
        int32_t token = unit * view->unit_tokens;
        const float *low =
            (const float *)(const void *)(view->data + pages[token / view->page_tokens] * view->page_stride) +
            (int64_t)(token % view->page_tokens / view->unit_tokens) * 2 * width;
        for (int32_t set = 0; set < sets; set++) {
            float score = unit == own ? INFINITY : 0.0f;
            for (int32_t h = set * per_set; unit < own && h < (set + 1) * per_set; h++) {
                const float *bounds = low + (int64_t)(h / group) * shape->head_dim;
                score += task->context->kernels->bound(q + (int64_t)h * shape->head_dim, bounds, bounds + width,
                                                       shape->head_dim);
            }
            scores[(int64_t)set * op->stride + unit] = score;
        }
    }
}

static int32_t longest_of(const struct rows *rows, int32_t first, int32_t n)
{
    int32_t longest = 0;
    for (int32_t r = first; r < first + n; r++) {
        longest = rows->position[r] >= longest ? rows->position[r] + 1 : longest;
    }
    return longest;
}

int cpu_index_score(struct backend_context *context, const struct batch *batch, const struct op_index_score *op)
{
    const struct index_spec *index = &context->plan->index;
    struct score_task task = {.context = context, .batch = batch, .op = op};
    int32_t longest = longest_of(op->rows, op->first, op->n);
    if (index->score == INDEX_PAGE_BOUND) {
        int32_t units = (longest + op->bounds.unit_tokens - 1) / op->bounds.unit_tokens;
        task.n_chunks = (units + BOUND_UNITS - 1) / BOUND_UNITS;
        thread_pool_run(context->pool, bound_item, &task, op->n * task.n_chunks);
        return 0;
    }
    task.block_rows = block_rows(index);
    task.n_blocks = (op->n + task.block_rows - 1) / task.block_rows;
    task.chunk = chunk_tokens(index);
    task.n_chunks = (longest + task.chunk - 1) / task.chunk;
    thread_pool_run(context->pool, score_item, &task, task.n_blocks * task.n_chunks);
    return 0;
}

// Selecting ---------------------------------------------------------------------------------------------------------

struct select_task {
    struct backend_context *context;
    const struct op_index_select *op;
};

// Item: (row, set). Where a score is NaN the count becomes -1 - its unit, for the caller to find.
static void select_item(void *user, int32_t item, int32_t thread)
{
    const struct select_task *task = user;
    const struct op_index_select *op = task->op;
    const struct index_spec *index = &task->context->plan->index;
    int32_t sets = op->out.sets, row = op->first + item / sets;
    int32_t n = op->rows->position[row] / op->out.unit_tokens + 1;
    int64_t at = (int64_t)row * sets + item % sets;
    struct cpu_scratch scratch = cpu_scratch_of(task->context, thread);
    struct cpu_selection selection = {
        .scores = op->scores + (int64_t)item * op->stride,
        .n_units = n,
        .budget = index->budget_tokens / index->unit_tokens,
        .n_local = index->keep_local_units,
        .n_sink = index->keep_sink_units,
        .keys = cpu_scratch_take(&scratch, n * (int64_t)sizeof(uint32_t)),
        .candidates = cpu_scratch_take(&scratch, n * (int64_t)sizeof(uint32_t)),
        .bins = cpu_scratch_take(&scratch, 4 * CPU_SELECT_BINS * (int64_t)sizeof(uint32_t)),
        .unit = op->out.unit + at * op->out.stride,
    };
    op->out.count[at] = task->context->kernels->select(&selection);
}

int cpu_index_select(struct backend_context *context, const struct batch *batch, const struct op_index_select *op)
{
    (void)batch;
    struct select_task task = {context, op};
    int32_t sets = op->out.sets;
    thread_pool_run(context->pool, select_item, &task, op->n * sets);
    for (int32_t item = 0; item < op->n * sets; item++) {
        int32_t row = op->first + item / sets, count = op->out.count[(int64_t)row * sets + item % sets];
        if (count < 0) {
            return status_fail(-EDOM, "position %d: the index score of position %d is not a number",
                               op->rows->position[row], (-1 - count) * op->out.unit_tokens);
        }
    }
    return 0;
}
