// engine/cuda/operators.c - the operators of the CUDA backend: each a few launches of kernels.h or a product. Attention
// is in operators_attention.c.
//
// Products of up to LINEAR_MAX_ROWS rows go to linear.cu, of more to cuBLASLt. Two things that operators could do by
// themselves are put together with what comes next: a norm is begun by the product that completes the residual stream,
// and heads are normed and turned together with the write into the cache or by window attention, so that their time
// counts there. Limits that the kernels set (bf16 or fp8 pages, head sizes of 16 to 128, inputs in multiples of 8) come
// back as
// -ENOTSUP with the shape.
#include <errno.h>
#include <math.h>

#include "engine/cuda/context.h"
#include "engine/status.h"

enum { MAXIMA_SCORES = 16 };    // scores that share a maximum (struct index_score_params)

static const float INDEX_NORM_EPS = 1e-5f;    // of the lightning indexer's keys, as in the reference

// Vectors lie as f32, with a bf16 copy behind for the rare product of one output.
static const float *vector_of(const struct matrix *m)
{
    return m->data;
}

static const void *weights_of(const struct matrix *m)
{
    return m->n_rows > 1 ? m->data : (const char *)m->data + ((int64_t)m->n_cols * 4 + 15) / 16 * 16;
}

static bool present(const struct matrix *m)
{
    return m && m->data;
}

struct gpu_rows cuda_rows(const struct backend_context *c, const struct rows *rows)
{
    bool last = rows->position == c->batch->last.position;
    return (struct gpu_rows){.n = rows->n,
                             .seq = last ? c->mirror.last_seq : c->mirror.seq,
                             .position = last ? c->mirror.last_position : c->mirror.position,
                             .pages = c->mirror.pages,
                             .max_pages = c->batch->max_pages};
}

static const int32_t *position_of(const struct backend_context *c, const int32_t *position)
{
    return position == c->batch->last.position ? c->mirror.last_position : c->mirror.position;
}

// What a product reads: rows as they are, or (squares) prepared ones that are yet to be divided by their size.
struct input {
    const void *rows;
    const float *squares;
};

// One or more products of the same input. `next`: the norm that will read what LINEAR_ADD_F32 completes, or NULL.
static int multiply(struct backend_context *c, struct input x, int32_t n, const struct matrix *const *matrices,
                    void *const *out, int32_t n_segments, enum linear_epilogue epilogue, const struct matrix *next)
{
    bool f32 = epilogue == LINEAR_STORE_F32 || epilogue == LINEAR_ADD_F32;
    int32_t n_in = matrices[0]->n_cols;
    int error = 0;
    if (epilogue == LINEAR_ADD_F32) {
        bool prepares = next && n <= LINEAR_MAX_ROWS;
        c->prepared = (struct prepared){prepares ? out[0] : NULL, prepares ? next->data : NULL, n};
    }
    if (c->gemm && n > LINEAR_MAX_ROWS) {
        for (int32_t s = 0; s < n_segments && !error; s++) {
            error = gemm_run(c->gemm, out[s], x.rows, weights_of(matrices[s]), n, n_in, matrices[s]->n_rows, f32,
                             epilogue == LINEAR_ADD_F32, c->stream);
        }
        return error;
    }
    for (int32_t first = 0; first < n && !error; first += LINEAR_MAX_ROWS) {
        struct linear_params p = {.x = (const char *)x.rows + (int64_t)first * n_in * 2,
                                  .n_rows = n - first < LINEAR_MAX_ROWS ? n - first : LINEAR_MAX_ROWS,
                                  .n_in = n_in,
                                  .n_segments = n_segments,
                                  .epilogue = epilogue,
                                  .squares = x.squares,
                                  .norm_eps = c->plan->shape.norm_eps};
        if (c->prepared.x && epilogue == LINEAR_ADD_F32) {
            p.next_norm = vector_of(next);
            p.next_x = c->next_x;
            p.next_squares = c->next_squares;
        }
        for (int32_t s = 0; s < n_segments; s++) {
            p.segments[s] = (struct linear_segment){
                weights_of(matrices[s]), (char *)out[s] + (int64_t)first * matrices[s]->n_rows * (f32 ? 4 : 2),
                matrices[s]->n_rows};
        }
        error = linear_launch(&p, c->stream);
    }
    return error;
}

static int multiply_one(struct backend_context *c, struct input x, int32_t n, const struct matrix *weight, void *out,
                        enum linear_epilogue epilogue, const struct matrix *next)
{
    return multiply(c, x, n, &weight, &out, 1, epilogue, next);
}

// The rows of x after a norm: those that are prepared, or made now. `normed`: where they are wanted whole, or NULL.
static int norm_rows(struct backend_context *c, struct input *out, const float *x, const struct matrix *norm, int32_t n,
                     void *normed)
{
    if (!normed && c->prepared.x == x && c->prepared.norm == norm->data && c->prepared.n == n) {
        *out = (struct input){c->next_x, c->next_squares};
        return 0;
    }
    struct norm_params p = {.x = x,
                            .weight = vector_of(norm),
                            .out = normed ? normed : c->normed,
                            .n = n,
                            .hidden = c->plan->shape.hidden,
                            .eps = c->plan->shape.norm_eps};
    *out = (struct input){p.out, NULL};
    return rms_norm_launch(&p, c->stream);
}

int cuda_embed(struct backend_context *c, const struct batch *batch, const struct matrix *table, float *x)
{
    const struct model_shape *shape = &c->plan->shape;
    float scale = shape->backbone == BACKBONE_YOCO ? sqrtf((float)shape->hidden) : 1.0f;
    c->prepared = (struct prepared){0};
    return embed_launch(x, weights_of(table), c->mirror.token, batch->all.n, shape->hidden, scale, c->stream);
}

int cuda_take_rows(struct backend_context *c, const struct batch *batch, void *out, const void *in, int64_t row_bytes)
{
    if (row_bytes % 4 != 0) {
        return status_fail(-ENOTSUP, "rows of %lld bytes; a multiple of 4", (long long)row_bytes);
    }
    return take_rows_launch(out, in, c->mirror.last_source, batch->last.n, row_bytes, c->stream);
}

// Norms and turns the heads that wait. `cache`: where their keys and values go in the same launch, or NULL.
static int finish_heads(struct backend_context *c, const struct kv_view *cache)
{
    struct qkv_finish_params p = c->heads;
    bool waited = c->heads_wait;
    c->heads_wait = false;
    if (!waited || !(cache || p.q_norm || p.k_norm || p.theta > 0)) {
        return 0;
    }
    c->qkv_last = false;
    if (cache) {
        p.view = *cache;
        p.slot = c->mirror.slot;
        p.context = c->mirror.context;
        p.n_rows = c->mirror.n_rows;
    }
    return qkv_finish_launch(&p, c->stream);
}

int cuda_settle(struct backend_context *c)
{
    return c->batch ? finish_heads(c, NULL) : 0;
}

int cuda_qkv(struct backend_context *c, const struct batch *batch, const struct op_qkv *op)
{
    const struct model_shape *shape = &c->plan->shape;
    const struct matrix *all[] = {op->q, op->k, op->v}, *matrices[3];
    void *const outs[] = {op->q_out, op->k_out, op->v_out};
    void *out[3];
    int32_t n = 0;
    struct input x;
    for (int i = 0; i < 3; i++) {
        if (present(all[i])) {
            matrices[n] = all[i];
            out[n++] = outs[i];
        }
    }
    int error = norm_rows(c, &x, op->x, op->norm, op->n, op->normed);
    if (!error && n > 0 && op->n > 0) {
        error = multiply(c, x, op->n, matrices, out, n, LINEAR_STORE_BF16, NULL);
    }
    bool last = op->position == batch->last.position;
    c->heads_wait = c->qkv_last = n > 0 && op->n > 0;
    c->heads = (struct qkv_finish_params){.rows = cuda_rows(c, last ? &batch->last : &batch->all),
                                          .q = present(op->q) ? op->q_out : NULL,
                                          .k = present(op->k) ? op->k_out : NULL,
                                          .v = present(op->v) ? op->v_out : NULL,
                                          .q_norm = present(op->q_norm) ? vector_of(op->q_norm) : NULL,
                                          .k_norm = present(op->k_norm) ? vector_of(op->k_norm) : NULL,
                                          .n_heads = shape->n_heads,
                                          .n_kv_heads = shape->n_kv_heads,
                                          .head_dim = shape->head_dim,
                                          .eps = shape->norm_eps,
                                          .theta = op->rope_theta};
    return error;
}

int cuda_kv_write(struct backend_context *c, const struct batch *batch, const struct op_kv_write *op)
{
    bool written = c->ring_written && c->ring_written == op->view.data;
    bool joins = c->heads_wait && c->heads.k == op->k && c->heads.v == op->v && !op->bounds.data && !op->view.ring;
    int error = finish_heads(c, joins ? &op->view : NULL);
    c->ring_written = NULL;
    c->qkv_last = false;
    if (error || written || joins) {
        return error;
    }
    struct kv_write_params p = {.rows = cuda_rows(c, &batch->all),
                                .k = op->k,
                                .v = op->v,
                                .view = op->view,
                                .bounds = op->bounds,
                                .slot = c->mirror.slot,
                                .first_row = c->mirror.first_row,
                                .context = c->mirror.context,
                                .n_rows = c->mirror.n_rows,
                                .n_seqs = batch->n_seqs,
                                .n_kv_heads = c->plan->shape.n_kv_heads,
                                .head_dim = c->plan->shape.head_dim};
    return kv_write_launch(&p, c->stream);
}

int cuda_index_write(struct backend_context *c, const struct batch *batch, const struct op_index_write *op)
{
    struct index_write_params p = {.rows = cuda_rows(c, &batch->all), .k = op->k, .view = op->view};
    c->qkv_last = false;
    return index_write_launch(&p, c->stream);
}

int cuda_index_project(struct backend_context *c, const struct batch *batch, const struct op_index_project *op)
{
    (void)batch;
    const struct index_spec *index = &c->plan->index;
    const struct index_weights *w = op->weights;
    bool gated = index->score == INDEX_GATED_RELU;
    struct index_norm_params norm = {.position = position_of(c, op->position),
                                     .n = op->n,
                                     .dim = index->dim,
                                     .eps = INDEX_NORM_EPS,
                                     .theta = c->plan->shape.rope_theta_global};
    struct input hidden = {op->hidden, NULL};
    int error = 0;
    c->qkv_last = false;
    if (op->n == 0) {
        return 0;
    }
    // Query and key read the same rows: one launch.
    const struct matrix *matrices[2];
    void *out[2];
    int32_t n_products = 0;
    if (op->q) {
        matrices[n_products] = &w->q;
        out[n_products++] = op->q;
    }
    if (op->k) {
        matrices[n_products] = &w->k;
        out[n_products++] = op->k;
    }
    if (n_products > 0) {
        error = multiply(c, hidden, op->n, matrices, out, n_products, LINEAR_STORE_BF16, NULL);
    }
    if (!error && op->q && gated) {
        norm.x = op->q;
        norm.heads = index->heads;
        error = index_norm_launch(&norm, c->stream);
    }
    if (!error && op->k && gated) {
        norm.x = op->k;
        norm.heads = 1;
        norm.weight = vector_of(&w->k_norm);
        norm.bias = vector_of(&w->k_norm_bias);
        error = index_norm_launch(&norm, c->stream);
    }
    if (!error && op->gate) {
        error = multiply_one(c, hidden, op->n, &w->gate, op->gate, LINEAR_STORE_F32, NULL);
        float scale = (float)(1.0 / sqrt((double)index->heads * index->dim));
        error = error ? error : scale_launch(op->gate, (int64_t)op->n * index->heads, scale, c->stream);
    }
    return error;
}

// Room for the maxima of a tile of scores. A recording never needs it: it decodes.
static int grow_maxima(struct backend_context *c, int64_t floats)
{
    if (floats <= c->maxima_floats) {
        return 0;
    }
    int error = cuda_status(cudaStreamSynchronize(c->stream), "maxima");
    cudaFree(c->maxima);
    c->maxima = NULL;
    error = error ? error : cuda_take((void **)&c->maxima, floats * (int64_t)sizeof *c->maxima, "maxima of scores");
    c->maxima_floats = error ? 0 : floats;
    return error;
}

static int score_bounds(struct backend_context *c, const struct batch *batch, const struct op_index_score *op)
{
    const struct model_shape *shape = &c->plan->shape;
    if (c->plan->index.sets != shape->n_heads) {
        return status_fail(-ENOTSUP, "page bounds: %d sets of %d heads; one set per head", c->plan->index.sets,
                           shape->n_heads);
    }
    int error = finish_heads(c, NULL);
    struct page_bound_params p = {.rows = cuda_rows(c, op->rows),
                                  .first = op->first,
                                  .n = op->n,
                                  .q = op->q,
                                  .bounds = op->bounds,
                                  .n_heads = shape->n_heads,
                                  .n_kv_heads = shape->n_kv_heads,
                                  .head_dim = shape->head_dim,
                                  .max_context = batch->context_bound,
                                  .scores = op->scores,
                                  .stride = op->stride};
    return error ? error : page_bound_launch(&p, c->stream);
}

int cuda_index_score(struct backend_context *c, const struct batch *batch, const struct op_index_score *op)
{
    const struct index_spec *index = &c->plan->index;
    c->has_maxima = c->qkv_last = false;
    if (index->score == INDEX_PAGE_BOUND) {
        return score_bounds(c, batch, op);
    }
    struct index_score_params p = {.rows = cuda_rows(c, op->rows),
                                   .first = op->first,
                                   .n = op->n,
                                   .q = op->q,
                                   .gate = op->gate,
                                   .keys = op->keys,
                                   .score = index->score,
                                   .heads = index->heads,
                                   .sets = index->sets,
                                   .unit_tokens = index->unit_tokens,
                                   .pooling = index->pooling,
                                   .max_context = batch->context_bound,
                                   .scores = op->scores,
                                   .stride = op->stride,
                                   .decode = batch->all.n == batch->n_seqs};
    c->maxima_stride = (op->stride + MAXIMA_SCORES - 1) / MAXIMA_SCORES;
    if (!p.decode && index_score_maxima(&p)) {
        int error = grow_maxima(c, (int64_t)op->n * index->sets * c->maxima_stride);
        if (error) {
            return error;
        }
        p.maxima = c->maxima;
        p.maxima_stride = c->maxima_stride;
        c->has_maxima = true;
    }
    return index_score_launch(&p, c->stream);
}

// A NaN among the scores is told at the end of the step.
int cuda_index_select(struct backend_context *c, const struct batch *batch, const struct op_index_select *op)
{
    const struct index_spec *index = &c->plan->index;
    int32_t budget = index->budget_tokens / index->unit_tokens;
    struct top_k_params p = {.rows = cuda_rows(c, op->rows),
                             .first = op->first,
                             .n = op->n,
                             .scores = op->scores,
                             .stride = op->stride,
                             .sets = op->out.sets,
                             .unit_tokens = op->out.unit_tokens,
                             .k = budget < op->out.stride ? budget : op->out.stride,
                             .keep_local = index->keep_local_units,
                             .keep_sink = index->keep_sink_units,
                             .out = op->out,
                             .nan_row = c->results.nan_row + op->layer,
                             .max_units = (batch->context_bound - 1) / op->out.unit_tokens + 1,
                             .maxima = c->has_maxima ? c->maxima : NULL,
                             .maxima_stride = c->maxima_stride};
    return top_k_launch(&p, c->stream);
}

int cuda_output(struct backend_context *c, const struct batch *batch, const struct op_output *op)
{
    (void)batch;
    struct input x = {op->attention, NULL};
    return op->n == 0 ? 0 : multiply_one(c, x, op->n, op->weight, op->x, LINEAR_ADD_F32, op->next_norm);
}

int cuda_ffn(struct backend_context *c, const struct batch *batch, const struct op_ffn *op)
{
    (void)batch;
    const struct matrix *inputs[] = {op->gate, op->up};
    bool many = c->gemm && op->n > LINEAR_MAX_ROWS;
    struct input x, inner = {c->inner, NULL};
    if (op->n == 0) {
        return 0;
    }
    int error = norm_rows(c, &x, op->x, op->norm, op->n, NULL);
    if (!error) {
        error = multiply(c, x, op->n, inputs, (void *[]){c->inner, c->inner_up}, 2,
                         many ? LINEAR_STORE_BF16 : LINEAR_SWIGLU, NULL);
    }
    if (!error && many) {
        error = swiglu_launch(c->inner, c->inner, c->inner_up, (int64_t)op->n * c->plan->shape.ffn, c->stream);
    }
    return error ? error : multiply_one(c, inner, op->n, op->down, op->x, LINEAR_ADD_F32, op->next_norm);
}

int cuda_head(struct backend_context *c, const struct batch *batch, const struct op_head *op)
{
    (void)batch;
    struct input x;
    if (op->n == 0) {
        return 0;
    }
    int error = norm_rows(c, &x, op->x, op->norm, op->n, NULL);
    return error ? error : multiply_one(c, x, op->n, op->weight, op->logits, LINEAR_STORE_F32, NULL);
}

// Draws greedily; end_step brings the tokens, and draws by chance where that is asked for.
int cuda_sample(struct backend_context *c, const struct batch *batch, const struct op_sample *op)
{
    c->draw = *op;
    return argmax_launch(c->results.token, op->logits, batch->last.n, c->plan->shape.vocab, c->stream);
}
