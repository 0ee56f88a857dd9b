// engine/reference_index.c - the reference backend's indexer: projections, index keys, scores, selection.
//
// DeepSeek's lightning indexer (GATED_RELU) follows its published code but for the Hadamard transform before fp8, an
// orthogonal map that changes rounding only. Its key norm has epsilon 1e-5. An fp8 vector is stored as codes of
// value / scale with scale = greatest magnitude / 448, or 1 where that is 0. NaN passes through every comparison here
// and is caught by the selection.
#include "engine/reference.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/status.h"

static const double KEY_NORM_EPS = 1e-5;

// The scale of an fp8 vector. The maximum skips NaN, whose code is NaN under any scale.
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

int reference_index_write(struct backend_context *context, const struct batch *batch, const struct op_index_write *op)
{
    (void)context;
    const struct index_view *view = &op->view;
    int32_t dim = view->dim;
    for (int32_t r = 0; r < batch->all.n; r++) {
        const float *k = (const float *)op->k + (int64_t)r * dim;
        int32_t token = batch->all.position[r], slot = token % view->page_tokens;
        const int32_t *pages = batch->pages + (int64_t)batch->all.seq[r] * batch->max_pages;
        unsigned char *page = view->data + pages[token / view->page_tokens] * view->page_stride;
        unsigned char *to = page + (int64_t)slot * dim * dtype_bytes(view->dtype);
        float scale = 1.0f;
        if (view->dtype == DTYPE_FP8) {
            scale = fp8_scale(k, dim);
            memcpy(page + view->scale_offset + (int64_t)slot * (int64_t)sizeof scale, &scale, sizeof scale);
        }
        for (int32_t i = 0; i < dim; i++) {
            dtype_store(to, i, view->dtype, k[i] / scale);
        }
    }
    return 0;
}

// x [dim] = (x - mean) / deviation * weight + bias
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

// Rotates the first half of each of n_heads vectors [dim] of one row; an odd half leaves its last value alone.
static void rotate_first_half(struct backend_context *context, float *x, int32_t n_heads, int32_t dim, int32_t position)
{
    int32_t dims = dim / 4 * 2;
    reference_rotation(context, position, context->plan->shape.rope_theta_global, dims);
    for (int32_t h = 0; h < n_heads; h++) {
        reference_rotate(context, x + (int64_t)h * dim, dims);
    }
}

int reference_index_project(struct backend_context *context, const struct batch *batch,
                            const struct op_index_project *op)
{
    (void)batch;
    const struct index_spec *index = &context->plan->index;
    bool gated = index->score == INDEX_GATED_RELU;
    int32_t heads = index->heads, dim = index->dim;
    if (op->q) {
        reference_matmul(context, op->q, &op->weights->q, op->hidden, op->n, false);
        for (int32_t r = 0; gated && r < op->n; r++) {
            rotate_first_half(context, (float *)op->q + (int64_t)r * heads * dim, heads, dim, op->position[r]);
        }
    }
    if (op->gate) {
        reference_matmul(context, op->gate, &op->weights->gate, op->hidden, op->n, false);
        double scale = 1.0 / sqrt((double)heads * dim);
        for (int64_t i = 0; i < (int64_t)op->n * heads; i++) {
            op->gate[i] = (float)((double)op->gate[i] * scale);
        }
    }
    if (op->k) {
        reference_matmul(context, op->k, &op->weights->k, op->hidden, op->n, false);
        for (int32_t r = 0; gated && r < op->n; r++) {
            float *k = (float *)op->k + (int64_t)r * dim;
            layer_norm(k, &op->weights->k_norm, &op->weights->k_norm_bias, dim);
            rotate_first_half(context, k, 1, dim, op->position[r]);
        }
    }
    return 0;
}

// One row's index queries as they meet the keys: as they are, or as fp8 codes with a scale per head.
static void prepare_query(struct backend_context *context, const float *q, enum dtype key_dtype)
{
    const struct index_spec *index = &context->plan->index;
    for (int32_t h = 0; h < index->heads; h++) {
        const float *from = q + (int64_t)h * index->dim;
        float *to = context->index_query + (int64_t)h * index->dim;
        bool fp8 = key_dtype == DTYPE_FP8;
        float scale = fp8 ? fp8_scale(from, index->dim) : 1.0f;
        for (int32_t i = 0; i < index->dim; i++) {
            to[i] = fp8 ? fp8_to_f32(f32_to_fp8(from[i] / scale)) : from[i];
        }
        context->query_scale[h] = scale;
    }
}

// Score of one token for heads [first_head, first_head + n_heads), whose key is in context->vector.
static float token_score(const struct backend_context *context, const float *gate, float key_scale, int32_t first_head,
                         int32_t n_heads)
{
    int32_t dim = context->plan->index.dim;
    double score = 0;
    for (int32_t h = first_head; h < first_head + n_heads; h++) {
        double product = reference_dot(context->index_query + (int64_t)h * dim, context->vector, dim);
        product *= (double)context->query_scale[h];
        if (gate) {
            product = (product < 0 ? 0 : product) * (double)gate[h];
        }
        score += product;
    }
    return (float)(score * (double)key_scale);
}

// Scores of row r over index keys: those of a unit's tokens, as far as the row sees them, pooled to the unit's.
static void score_keys(struct backend_context *context, const struct batch *batch, const struct op_index_score *op,
                       int32_t r)
{
    const struct index_spec *index = &context->plan->index;
    const struct index_view *view = &op->keys;
    int32_t position = op->rows->position[r], heads_per_set = index->heads / index->sets;
    const int32_t *pages = batch->pages + (int64_t)op->rows->seq[r] * batch->max_pages;
    const float *gate = index->score == INDEX_GATED_RELU ? op->gate + (int64_t)r * index->heads : NULL;
    prepare_query(context, (const float *)op->q + (int64_t)r * index->heads * index->dim, view->dtype);
    for (int32_t set = 0; set < index->sets; set++) {
        float *scores = op->scores + ((int64_t)(r - op->first) * index->sets + set) * op->stride;
        double sum = 0;
        for (int32_t t = 0; t <= position; t++) {
            int32_t slot = t % view->page_tokens, unit = t / index->unit_tokens, place = t % index->unit_tokens;
            const unsigned char *page = view->data + pages[t / view->page_tokens] * view->page_stride;
            float key_scale = 1.0f;
            if (view->dtype == DTYPE_FP8) {
                memcpy(&key_scale, page + view->scale_offset + (int64_t)slot * (int64_t)sizeof key_scale,
                       sizeof key_scale);
            }
            reference_load(context->vector, page + (int64_t)slot * view->dim * dtype_bytes(view->dtype), view->dtype,
                           view->dim);
            float score = token_score(context, gate, key_scale, set * heads_per_set, heads_per_set);
            sum = (place == 0 ? 0 : sum) + (double)score;
            if (index->pooling == POOLING_MEAN) {
                scores[unit] = (float)(sum / (place + 1));
            } else if (place == 0 || score > scores[unit] || isnan(score)) {
                scores[unit] = score;
            }
        }
    }
}

// Upper bounds of q . k over each unit. The row's own unit scores plus infinity: its bounds may already hold later
// tokens of this step, so that only a score that ignores them means the same in a whole prefill and in decode.
static void score_bounds(struct backend_context *context, const struct batch *batch, const struct op_index_score *op,
                         int32_t r)
{
    const struct model_shape *shape = &context->plan->shape;
    int32_t sets = context->plan->index.sets, heads_per_set = shape->n_heads / sets;
    int32_t dim = shape->head_dim, width = shape->n_kv_heads * dim, group = shape->n_heads / shape->n_kv_heads;
    int32_t own = op->rows->position[r] / op->bounds.unit_tokens;
    for (int32_t set = 0; set < sets; set++) {
        float *scores = op->scores + ((int64_t)(r - op->first) * sets + set) * op->stride;
        scores[own] = INFINITY;
        for (int32_t unit = 0; unit < own; unit++) {
            const float *bounds = reference_bounds(&op->bounds, batch, op->rows->seq[r],
                                                   unit * op->bounds.unit_tokens, width);
            double score = 0;
            for (int32_t h = set * heads_per_set; h < (set + 1) * heads_per_set; h++) {
                const float *q = (const float *)op->q + ((int64_t)r * shape->n_heads + h) * dim;
                const float *low = bounds + h / group * dim, *high = low + width;
                for (int32_t d = 0; d < dim; d++) {
                    double a = (double)q[d] * (double)low[d], b = (double)q[d] * (double)high[d];
                    score += a > b || isnan(a) ? a : b;
                }
            }
            scores[unit] = (float)score;
        }
    }
}

int reference_index_score(struct backend_context *context, const struct batch *batch, const struct op_index_score *op)
{
    bool by_bounds = context->plan->index.score == INDEX_PAGE_BOUND;
    for (int32_t r = op->first; r < op->first + op->n; r++) {
        (by_bounds ? score_bounds : score_keys)(context, batch, op, r);
    }
    return 0;
}

// Unit a is worse than b: a lower score, or an equal one at a higher place. -0 equals 0.
static bool worse(const float *scores, int32_t a, int32_t b)
{
    return scores[a] < scores[b] || (scores[a] == scores[b] && a > b);
}

// Restores the heap of n units, worst on top, below place i.
static void sift_down(int32_t *heap, int32_t n, int32_t i, const float *scores)
{
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= n) {
            return;
        }
        if (child + 1 < n && worse(scores, heap[child + 1], heap[child])) {
            child++;
        }
        if (!worse(scores, heap[child], heap[i])) {
            return;
        }
        int32_t unit = heap[i];
        heap[i] = heap[child];
        heap[child] = unit;
        i = child;
    }
}

// Marks the best `budget` units that are not marked yet in context->chosen.
static void choose_best(struct backend_context *context, const float *scores, int32_t n_units, int32_t budget)
{
    int32_t *heap = context->heap, n = 0;
    for (int32_t unit = 0; unit < n_units && budget > 0; unit++) {
        if (context->chosen[unit]) {
            continue;
        }
        if (n < budget) {
            heap[n++] = unit;
            for (int32_t i = n / 2 - 1; n == budget && i >= 0; i--) {
                sift_down(heap, n, i, scores);
            }
        } else if (worse(scores, heap[0], unit)) {
            heap[0] = unit;
            sift_down(heap, n, 0, scores);
        }
    }
    for (int32_t i = 0; i < n; i++) {
        context->chosen[heap[i]] = 1;
    }
}

// Marks the units that are always selected, the last ones first, and returns how much of the budget remains.
static int32_t choose_forced(struct backend_context *context, int32_t n_units, int32_t budget)
{
    const struct index_spec *index = &context->plan->index;
    for (int32_t i = 0; i < index->keep_local_units && i < n_units && budget > 0; i++) {
        context->chosen[n_units - 1 - i] = 1;
        budget--;
    }
    for (int32_t unit = 0; unit < index->keep_sink_units && unit < n_units && budget > 0; unit++) {
        if (!context->chosen[unit]) {
            context->chosen[unit] = 1;
            budget--;
        }
    }
    return budget;
}

int reference_index_select(struct backend_context *context, const struct batch *batch, const struct op_index_select *op)
{
    (void)batch;
    int32_t sets = op->out.sets, budget = context->plan->index.budget_tokens / context->plan->index.unit_tokens;
    for (int32_t row_set = 0; row_set < op->n * sets; row_set++) {
        int32_t r = op->first + row_set / sets, position = op->rows->position[r];
        int32_t n_units = position / op->out.unit_tokens + 1;
        const float *scores = op->scores + (int64_t)row_set * op->stride;
        for (int32_t unit = 0; unit < n_units; unit++) {
            context->chosen[unit] = 0;
            if (isnan(scores[unit])) {
                return status_fail(-EDOM, "position %d: the index score of position %d is not a number", position,
                                   unit * op->out.unit_tokens);
            }
        }
        choose_best(context, scores, n_units, choose_forced(context, n_units, budget));
        int64_t at = (int64_t)r * sets + row_set % sets;
        int32_t count = 0;
        for (int32_t unit = 0; unit < n_units; unit++) {
            if (context->chosen[unit]) {
                op->out.unit[at * op->out.stride + count++] = unit;
            }
        }
        op->out.count[at] = count;
    }
    return 0;
}
