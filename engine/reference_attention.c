// engine/reference_attention.c - the reference backend's caches of keys and values, and attention over them.
//
// Full, window and selected attention are one function over a list of keys: the same keys give the same bits, whoever
// listed them. Softmax in two passes: the greatest score first, then exponentials (natural, expf) and their sum. A row
// without keys has an output of zeros and an lse of minus infinity.
#include "engine/reference.h"

#include <math.h>
#include <string.h>

// Where the keys and values of one sequence are found.
struct key_source {
    const struct batch *batch;
    const struct kv_view *view;
    int32_t seq;
    // Window attention takes positions from first_fresh on out of the step's own rows, beginning at first_row.
    // Elsewhere first_fresh is INT32_MAX.
    const unsigned char *fresh_k, *fresh_v;    // [all.n][n_kv_heads*head_dim]
    int32_t first_fresh, first_row;
    int64_t fresh_row_bytes, head_bytes;
};

static const unsigned char *find_vector(const struct key_source *keys, int32_t token, int32_t head, bool value)
{
    if (token >= keys->first_fresh) {
        const unsigned char *fresh = value ? keys->fresh_v : keys->fresh_k;
        int64_t row = keys->first_row + (token - keys->first_fresh);
        return fresh + row * keys->fresh_row_bytes + head * keys->head_bytes;
    }
    return reference_key(keys->view, keys->batch, keys->seq, token, head) + (value ? keys->view->value_offset : 0);
}

// context->vector = a key or value of `dim` elements.
static void load_vector(struct backend_context *context, const struct key_source *keys, int32_t token, int32_t head,
                        bool value)
{
    int32_t dim = context->plan->shape.head_dim;
    reference_load(context->vector, find_vector(keys, token, head, value), keys->view->dtype, dim);
    if (keys->view->dtype == DTYPE_FP8) {
        float scale = kv_scale_to_f32(reference_scales(keys->view, keys->batch, keys->seq, token, head)[value]);
        for (int32_t d = 0; d < dim; d++) {
            context->vector[d] *= scale;
        }
    }
}

// One query head over the first n tokens of context->token. Returns the natural log of the sum of exponentials.
static float attend(struct backend_context *context, float *out, const float *q, const struct key_source *keys,
                    int32_t n, int32_t kv_head)
{
    int32_t dim = context->plan->shape.head_dim;
    double scale = 1.0 / sqrt((double)dim);

    // Pass 1: scores and the greatest of them. A NaN score is kept: it must reach the output.
    float greatest = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        load_vector(context, keys, context->token[i], kv_head, false);
        context->score[i] = (float)(reference_dot(q, context->vector, dim) * scale);
        greatest = context->score[i] > greatest ? context->score[i] : greatest;
    }

    // Pass 2: exponentials, their sum, and the sum of values that they weigh.
    double total = 0;
    memset(context->sum, 0, (size_t)dim * sizeof *context->sum);
    for (int32_t i = 0; i < n; i++) {
        double weight = (double)expf(context->score[i] - greatest);
        total += weight;
        load_vector(context, keys, context->token[i], kv_head, true);
        for (int32_t d = 0; d < dim; d++) {
            context->sum[d] += weight * (double)context->vector[d];
        }
    }
    for (int32_t d = 0; d < dim; d++) {
        out[d] = n > 0 ? (float)(context->sum[d] / total) : 0.0f;
    }
    return n > 0 ? (float)((double)greatest + log(total)) : -INFINITY;
}

int reference_window_attention(struct backend_context *context, const struct batch *batch,
                               const struct op_window_attention *op)
{
    const struct model_shape *shape = &context->plan->shape;
    int32_t group = shape->n_heads / shape->n_kv_heads;
    int64_t head_bytes = (int64_t)shape->head_dim * dtype_bytes(op->ring.dtype);
    for (int32_t r = 0; r < batch->all.n; r++) {
        int32_t seq = batch->all.seq[r], position = batch->all.position[r];
        int32_t first = position - shape->window_tokens + 1;
        int32_t n = 0;
        for (int32_t t = first > 0 ? first : 0; t <= position; t++) {
            context->token[n++] = t;
        }
        struct key_source keys = {
            .batch = batch,
            .view = &op->ring,
            .seq = seq,
            .fresh_k = op->k,
            .fresh_v = op->v,
            .first_fresh = batch->seqs[seq].context_tokens,
            .first_row = batch->seqs[seq].first_row,
            .fresh_row_bytes = shape->n_kv_heads * head_bytes,
            .head_bytes = head_bytes,
        };
        for (int32_t h = 0; h < shape->n_heads; h++) {
            int64_t at = ((int64_t)r * shape->n_heads + h) * shape->head_dim;
            attend(context, (float *)op->out + at, (const float *)op->q + at, &keys, n, h / group);
        }
    }
    return 0;
}

// Extends the bounds of the unit that holds `token` by that token's key as it is cached. Comparisons are written so
// that a NaN, once seen, stays.
static void extend_bounds(struct backend_context *context, const struct bound_view *view, const struct key_source *keys,
                          int32_t token)
{
    const struct model_shape *shape = &context->plan->shape;
    int32_t width = shape->n_kv_heads * shape->head_dim;
    float *low = reference_bounds(view, keys->batch, keys->seq, token, width), *high = low + width;
    bool first = token % view->unit_tokens == 0;
    for (int32_t h = 0; h < shape->n_kv_heads; h++) {
        load_vector(context, keys, token, h, false);
        for (int32_t d = 0; d < shape->head_dim; d++, low++, high++) {
            float value = context->vector[d];
            *low = first || value < *low || isnan(value) ? value : *low;
            *high = first || value > *high || isnan(value) ? value : *high;
        }
    }
}

// Puts one vector [head_dim] of the step's own where it belongs; `scale` is its place in fp8 pages.
static void store_vector(unsigned char *to, uint8_t *scale, const unsigned char *from, const struct kv_view *view,
                         int32_t dim)
{
    if (view->dtype == DTYPE_FP8) {
        *scale = kv_quantise(to, (const uint16_t *)(const void *)from, dim);
    } else {
        memcpy(to, from, (size_t)(dim * dtype_bytes(view->dtype)));
    }
}

int reference_kv_write(struct backend_context *context, const struct batch *batch, const struct op_kv_write *op)
{
    const struct model_shape *shape = &context->plan->shape;
    int64_t head_bytes = (int64_t)shape->head_dim * dtype_bytes(plan_fresh_dtype(context->plan));
    int64_t row_bytes = shape->n_kv_heads * head_bytes;
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const struct batch_seq *seq = &batch->seqs[s];
        struct key_source keys = {.batch = batch, .view = &op->view, .seq = s, .first_fresh = INT32_MAX};
        int32_t skip = op->view.ring && seq->n_rows > op->view.page_tokens ? seq->n_rows - op->view.page_tokens : 0;
        for (int32_t i = skip; i < seq->n_rows; i++) {
            int32_t token = seq->context_tokens + i;
            const unsigned char *k = (const unsigned char *)op->k + (seq->first_row + i) * row_bytes;
            const unsigned char *v = (const unsigned char *)op->v + (seq->first_row + i) * row_bytes;
            for (int32_t h = 0; h < shape->n_kv_heads; h++) {
                unsigned char *to = reference_key(&op->view, batch, s, token, h);
                uint8_t *scales = op->view.dtype == DTYPE_FP8 ? reference_scales(&op->view, batch, s, token, h) : NULL;
                store_vector(to, scales, k + h * head_bytes, &op->view, shape->head_dim);
                store_vector(to + op->view.value_offset, scales ? scales + 1 : NULL, v + h * head_bytes, &op->view,
                             shape->head_dim);
            }
            if (op->bounds.data) {
                extend_bounds(context, &op->bounds, &keys, token);
            }
        }
    }
    return 0;
}

// Lists the tokens of row r that set `set` may see in context->token; returns how many.
static int32_t list_tokens(struct backend_context *context, const struct op_attention *op, int32_t r, int32_t set)
{
    int32_t position = op->rows->position[r], n = 0;
    if (!op->selection) {
        for (int32_t t = 0; t <= position; t++) {
            context->token[n++] = t;
        }
        return n;
    }
    const struct selection *selection = op->selection;
    int64_t at = (int64_t)r * selection->sets + set;
    for (int32_t i = 0; i < selection->count[at]; i++) {
        int32_t first = selection->unit[at * selection->stride + i] * selection->unit_tokens;
        for (int32_t t = first; t < first + selection->unit_tokens && t <= position; t++) {
            context->token[n++] = t;
        }
    }
    return n;
}

int reference_attention(struct backend_context *context, const struct batch *batch, const struct op_attention *op)
{
    const struct model_shape *shape = &context->plan->shape;
    int32_t group = shape->n_heads / shape->n_kv_heads;
    int32_t sets = op->selection ? op->selection->sets : 1;
    int32_t heads_per_set = shape->n_heads / sets;
    for (int32_t r = 0; r < op->rows->n; r++) {
        struct key_source keys = {
            .batch = batch, .view = &op->view, .seq = op->rows->seq[r], .first_fresh = INT32_MAX};
        for (int32_t set = 0; set < sets; set++) {
            int32_t n = list_tokens(context, op, r, set);
            for (int32_t h = set * heads_per_set; h < (set + 1) * heads_per_set; h++) {
                int64_t row_head = (int64_t)r * shape->n_heads + h;
                float lse = attend(context, (float *)op->out + row_head * shape->head_dim,
                                   (const float *)op->q + row_head * shape->head_dim, &keys, n, h / group);
                if (op->lse) {
                    op->lse[row_head] = lse;
                }
            }
        }
    }
    return 0;
}
