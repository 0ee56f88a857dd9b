// engine/cuda/operators.c - the operators of the CUDA backend: each a few launches of kernels.h or a product.
//
// Products of few rows go to linear.cu, of many to cuBLASLt. Limits that the kernels set (bf16 caches, head sizes of 16
// to 128, inputs in multiples of 8) come back as -ENOTSUP with the shape. Prompt rows attend one by one with the decode
// kernel: right, but not yet fast.
#include <errno.h>
#include <math.h>

#include "engine/cuda/context.h"
#include "engine/status.h"

enum { SKINNY_ROWS = 8 };    // up to here our own kernels were level with cuBLASLt on an H200

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

static struct gpu_rows rows_of(const struct backend_context *c, const struct rows *rows)
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

// One or more products of the same input.
static int multiply(struct backend_context *c, const void *x, int32_t n, const struct matrix *const *matrices, void *const *out,
                    int32_t n_segments, enum linear_epilogue epilogue)
{
    bool f32 = epilogue == LINEAR_STORE_F32 || epilogue == LINEAR_ADD_F32;
    int32_t n_in = matrices[0]->n_cols;
    int error = 0;
    if (c->gemm && n > SKINNY_ROWS) {
        for (int32_t s = 0; s < n_segments && !error; s++) {
            error = gemm_run(c->gemm, out[s], x, weights_of(matrices[s]), n, n_in, matrices[s]->n_rows, f32,
                             epilogue == LINEAR_ADD_F32, c->stream);
        }
        return error;
    }
    for (int32_t first = 0; first < n && !error; first += LINEAR_MAX_ROWS) {
        struct linear_params p = {.x = (const char *)x + (int64_t)first * n_in * 2,
                                  .n_rows = n - first < LINEAR_MAX_ROWS ? n - first : LINEAR_MAX_ROWS,
                                  .n_in = n_in, .n_segments = n_segments, .epilogue = epilogue};
        for (int32_t s = 0; s < n_segments; s++) {
            p.segments[s] = (struct linear_segment){
                weights_of(matrices[s]), (char *)out[s] + (int64_t)first * matrices[s]->n_rows * (f32 ? 4 : 2), matrices[s]->n_rows};
        }
        error = linear_launch(&p, c->stream);
    }
    return error;
}

static int norm_rows(struct backend_context *c, const float *x, const struct matrix *norm, int32_t n, void *out)
{
    struct norm_params p = {.x = x, .weight = vector_of(norm), .out = out, .n = n, .hidden = c->plan->shape.hidden,
                            .eps = c->plan->shape.norm_eps};
    return rms_norm_launch(&p, c->stream);
}

int cuda_embed(struct backend_context *c, const struct batch *batch, const struct matrix *table, float *x)
{
    const struct model_shape *shape = &c->plan->shape;
    float scale = shape->backbone == BACKBONE_YOCO ? sqrtf((float)shape->hidden) : 1.0f;
    return embed_launch(x, weights_of(table), c->mirror.token, batch->all.n, shape->hidden, scale, c->stream);
}

int cuda_take_rows(struct backend_context *c, const struct batch *batch, void *out, const void *in, int64_t row_bytes)
{
    if (row_bytes % 4 != 0) {
        return status_fail(-ENOTSUP, "rows of %lld bytes; a multiple of 4", (long long)row_bytes);
    }
    return take_rows_launch(out, in, c->mirror.last_source, batch->last.n, row_bytes, c->stream);
}

static int finish_heads(struct backend_context *c, const struct op_qkv *op, void *x, int32_t n_heads, const struct matrix *norm)
{
    struct head_norm_params p = {.x = x, .weight = present(norm) ? vector_of(norm) : NULL,
                                 .position = position_of(c, op->position), .n = op->n, .n_heads = n_heads,
                                 .head_dim = c->plan->shape.head_dim, .eps = c->plan->shape.norm_eps, .theta = op->rope_theta};
    return p.weight || p.theta > 0 ? head_norm_launch(&p, c->stream) : 0;
}

int cuda_qkv(struct backend_context *c, const struct batch *batch, const struct op_qkv *op)
{
    (void)batch;
    const struct matrix *all[] = {op->q, op->k, op->v}, *matrices[3];
    void *const outs[] = {op->q_out, op->k_out, op->v_out};
    void *out[3], *normed = op->normed ? op->normed : c->normed;
    int32_t n = 0;
    for (int i = 0; i < 3; i++) {
        if (present(all[i])) {
            matrices[n] = all[i];
            out[n++] = outs[i];
        }
    }
    int error = norm_rows(c, op->x, op->norm, op->n, normed);
    if (!error && n > 0 && op->n > 0) {
        error = multiply(c, normed, op->n, matrices, out, n, LINEAR_STORE_BF16);
    }
    if (!error && present(op->q)) {
        error = finish_heads(c, op, op->q_out, c->plan->shape.n_heads, op->q_norm);
    }
    if (!error && present(op->k)) {
        error = finish_heads(c, op, op->k_out, c->plan->shape.n_kv_heads, op->k_norm);
    }
    return error;
}

static struct attention_params attention_params(const struct backend_context *c)
{
    const struct model_shape *shape = &c->plan->shape;
    return (struct attention_params){.slot = c->mirror.slot, .first_row = c->mirror.first_row, .context = c->mirror.context,
                                     .n_heads = shape->n_heads, .n_kv_heads = shape->n_kv_heads, .head_dim = shape->head_dim,
                                     .workspace = c->attention};
}

int cuda_window_attention(struct backend_context *c, const struct batch *batch, const struct op_window_attention *op)
{
    struct attention_params p = attention_params(c);
    p.rows = rows_of(c, &batch->all);
    p.over = ATTEND_WINDOW;
    p.q = op->q;
    p.fresh_k = op->k;
    p.fresh_v = op->v;
    p.view = op->ring;
    p.window_tokens = c->plan->shape.window_tokens;
    p.out = op->out;
    return attention_launch(&p, c->stream);
}

int cuda_attention(struct backend_context *c, const struct batch *batch, const struct op_attention *op)
{
    (void)batch;
    struct attention_params p = attention_params(c);
    p.rows = rows_of(c, op->rows);
    p.over = op->selection ? ATTEND_SELECTED : ATTEND_ALL;
    p.q = op->q;
    p.view = op->view;
    if (op->selection) {
        p.selection = *op->selection;
    }
    p.out = op->out;
    p.lse = op->lse;
    return attention_launch(&p, c->stream);
}

int cuda_kv_write(struct backend_context *c, const struct batch *batch, const struct op_kv_write *op)
{
    struct kv_write_params p = {.rows = rows_of(c, &batch->all), .k = op->k, .v = op->v, .view = op->view, .bounds = op->bounds,
                                .slot = c->mirror.slot, .first_row = c->mirror.first_row, .context = c->mirror.context,
                                .n_rows = c->mirror.n_rows, .n_seqs = batch->n_seqs, .n_kv_heads = c->plan->shape.n_kv_heads,
                                .head_dim = c->plan->shape.head_dim};
    return kv_write_launch(&p, c->stream);
}

int cuda_index_write(struct backend_context *c, const struct batch *batch, const struct op_index_write *op)
{
    struct index_write_params p = {.rows = rows_of(c, &batch->all), .k = op->k, .view = op->view};
    return index_write_launch(&p, c->stream);
}

int cuda_index_project(struct backend_context *c, const struct batch *batch, const struct op_index_project *op)
{
    (void)batch;
    const struct index_spec *index = &c->plan->index;
    const struct index_weights *w = op->weights;
    bool gated = index->score == INDEX_GATED_RELU;
    struct index_norm_params norm = {.position = position_of(c, op->position), .n = op->n, .dim = index->dim, .eps = INDEX_NORM_EPS,
                                     .theta = c->plan->shape.rope_theta_global};
    int error = 0;
    if (op->n == 0) {
        return 0;
    }
    if (op->q) {
        error = multiply(c, op->hidden, op->n, (const struct matrix *[]){&w->q}, (void *[]){op->q}, 1, LINEAR_STORE_BF16);
        if (!error && gated) {
            norm.x = op->q;
            norm.heads = index->heads;
            error = index_norm_launch(&norm, c->stream);
        }
    }
    if (!error && op->gate) {
        error = multiply(c, op->hidden, op->n, (const struct matrix *[]){&w->gate}, (void *[]){op->gate}, 1, LINEAR_STORE_F32);
        float scale = (float)(1.0 / sqrt((double)index->heads * index->dim));
        error = error ? error : scale_launch(op->gate, (int64_t)op->n * index->heads, scale, c->stream);
    }
    if (!error && op->k) {
        error = multiply(c, op->hidden, op->n, (const struct matrix *[]){&w->k}, (void *[]){op->k}, 1, LINEAR_STORE_BF16);
        if (!error && gated) {
            norm.x = op->k;
            norm.heads = 1;
            norm.weight = vector_of(&w->k_norm);
            norm.bias = vector_of(&w->k_norm_bias);
            error = index_norm_launch(&norm, c->stream);
        }
    }
    return error;
}

int cuda_index_score(struct backend_context *c, const struct batch *batch, const struct op_index_score *op)
{
    const struct index_spec *index = &c->plan->index;
    const struct model_shape *shape = &c->plan->shape;
    if (index->score == INDEX_PAGE_BOUND) {
        if (index->sets != shape->n_heads) {
            return status_fail(-ENOTSUP, "page bounds: %d sets of %d heads; one set per head", index->sets, shape->n_heads);
        }
        struct page_bound_params p = {.rows = rows_of(c, op->rows), .first = op->first, .n = op->n, .q = op->q, .bounds = op->bounds,
                                      .n_heads = shape->n_heads, .n_kv_heads = shape->n_kv_heads, .head_dim = shape->head_dim,
                                      .max_context = batch->context_bound, .scores = op->scores, .stride = op->stride};
        return page_bound_launch(&p, c->stream);
    }
    struct index_score_params p = {.rows = rows_of(c, op->rows), .first = op->first, .n = op->n, .q = op->q, .gate = op->gate,
                                   .keys = op->keys, .score = index->score, .heads = index->heads, .sets = index->sets,
                                   .unit_tokens = index->unit_tokens, .pooling = index->pooling, .max_context = batch->context_bound,
                                   .scores = op->scores, .stride = op->stride};
    return index_score_launch(&p, c->stream);
}

// A NaN among the scores is told at the end of the step.
int cuda_index_select(struct backend_context *c, const struct batch *batch, const struct op_index_select *op)
{
    const struct index_spec *index = &c->plan->index;
    int32_t budget = index->budget_tokens / index->unit_tokens;
    struct top_k_params p = {.rows = rows_of(c, op->rows), .first = op->first, .n = op->n, .scores = op->scores, .stride = op->stride,
                             .sets = op->out.sets, .unit_tokens = op->out.unit_tokens,
                             .k = budget < op->out.stride ? budget : op->out.stride, .keep_local = index->keep_local_units,
                             .keep_sink = index->keep_sink_units, .out = op->out, .nan_row = c->results.nan_row + op->layer,
                             .max_units = (batch->context_bound - 1) / op->out.unit_tokens + 1};
    return top_k_launch(&p, c->stream);
}

int cuda_output(struct backend_context *c, const struct batch *batch, const struct op_output *op)
{
    (void)batch;
    int error = op->n == 0 ? 0 : multiply(c, op->attention, op->n, (const struct matrix *[]){op->weight}, (void *[]){op->x}, 1,
                                          LINEAR_ADD_F32);
    return error;
}

int cuda_ffn(struct backend_context *c, const struct batch *batch, const struct op_ffn *op)
{
    (void)batch;
    const struct matrix *inputs[] = {op->gate, op->up};
    bool many = c->gemm && op->n > SKINNY_ROWS;
    if (op->n == 0) {
        return 0;
    }
    int error = norm_rows(c, op->x, op->norm, op->n, c->normed);
    if (!error) {
        error = multiply(c, c->normed, op->n, inputs, (void *[]){c->inner, c->inner_up}, 2, many ? LINEAR_STORE_BF16 : LINEAR_SWIGLU);
    }
    if (!error && many) {
        error = swiglu_launch(c->inner, c->inner, c->inner_up, (int64_t)op->n * c->plan->shape.ffn, c->stream);
    }
    if (!error) {
        error = multiply(c, c->inner, op->n, (const struct matrix *[]){op->down}, (void *[]){op->x}, 1, LINEAR_ADD_F32);
    }
    return error;
}

int cuda_head(struct backend_context *c, const struct batch *batch, const struct op_head *op)
{
    (void)batch;
    int error = op->n == 0 ? 0 : norm_rows(c, op->x, op->norm, op->n, c->normed);
    if (!error && op->n > 0) {
        error = multiply(c, c->normed, op->n, (const struct matrix *[]){op->weight}, (void *[]){op->logits}, 1, LINEAR_STORE_F32);
    }
    return error;
}

// Draws greedily; end_step brings the tokens, and draws by chance where that is asked for.
int cuda_sample(struct backend_context *c, const struct batch *batch, const struct op_sample *op)
{
    c->draw = *op;
    return argmax_launch(c->results.token, op->logits, batch->last.n, c->plan->shape.vocab, c->stream);
}
