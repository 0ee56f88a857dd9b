// tests/operators_index.c - the comparison of the indexer's operators.
#include <errno.h>

#include "engine/status.h"
#include "tests/operators_bench.h"

static void check_index_project(struct bench *b, bool last)
{
    const struct batch *batch = &b->batch.batch;
    const struct index_spec *index = &b->plan->index;
    const struct rows *rows = last ? &batch->last : &batch->all;
    bool gated = index->score == INDEX_GATED_RELU;
    int32_t n = rows->n, hidden = b->plan->shape.hidden, heads = index->heads, dim = index->dim;
    struct weight q = bench_matrix(b, heads * dim, hidden), k = bench_matrix(b, dim, hidden);
    struct weight gate = bench_matrix(b, heads, hidden), norm = bench_norm(b, dim);
    struct weight bias = bench_weight(b, 1, dim, 0, 0.2);
    float *x = bench_floats(b, (int64_t)n * hidden, 1);
    void *q_out[2], *k_out[2], *gate_out[2];
    b->operator = "index_project";
    for (int side = 0; side < 2; side++) {
        int64_t size = b->backend[side]->activation_bytes;
        struct index_weights weights = {.q = q.matrix[side], .k = k.matrix[side]};
        if (gated) {
            weights.gate = gate.matrix[side];
            weights.k_norm = norm.matrix[side];
            weights.k_norm_bias = bias.matrix[side];
        }
        struct op_index_project op = {.hidden = bench_place_activations(b, side, x, (int64_t)n * hidden),
                                      .weights = &weights,
                                      .position = rows->position,
                                      .n = n,
                                      .q = q_out[side] = bench_poisoned(b, side, (int64_t)n * heads * dim * size),
                                      .k = k_out[side] =
                                          last ? NULL : bench_poisoned(b, side, (int64_t)n * dim * size)};
        gate_out[side] = op.gate = gated ? bench_poisoned(b, side, (int64_t)n * heads * 4) : NULL;
        RUN(side, b->backend[side]->index_project(b->context[side], batch, &op));
    }
    bench_compare_activations(b, "q", q_out, (int64_t)n * heads * dim);
    if (!last) {
        bench_compare_activations(b, "k", k_out, (int64_t)n * dim);
    }
    if (gated) {
        bench_compare_floats(b, "gate", gate_out, (int64_t)n * heads);
    }
    bench_release(b);
    struct weight all[] = {q, k, gate, norm, bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i].host);
    }
    free(x);
}

// Keys of random floats, one of them all zero. fp8 codes may differ by the rounding of a division; others may not.
static void check_index_write(struct bench *b, const struct index_view view[2])
{
    const struct batch *batch = &b->batch.batch;
    int32_t dim = view[0].dim;
    float *k = bench_floats(b, (int64_t)batch->all.n * dim, 3);
    memset(k, 0, (size_t)dim * sizeof *k);
    b->operator = "index_write";
    int64_t bytes = view[0].page_stride * b->n_pages;
    bench_fill(b, (void *const[2]){view[0].data, view[1].data}, bytes, DTYPE_BF16);
    for (int side = 0; side < 2; side++) {
        struct op_index_write op = {.k = bench_place_activations(b, side, k, (int64_t)batch->all.n * dim),
                                    .view = view[side]};
        RUN(side, b->backend[side]->index_write(b->context[side], batch, &op));
    }
    if (view[0].dtype != DTYPE_FP8) {
        bench_compare_memory(b, "the cache", (void *const[2]){view[0].data, view[1].data}, bytes);
    } else {
        unsigned char *host[2] = {bench_fetch(b, 0, view[0].data, bytes, false),
                                  bench_fetch(b, 1, view[1].data, bytes, false)};
        for (int32_t r = 0; r < batch->all.n; r++) {
            int32_t t = batch->all.position[r], slot = t % view[0].page_tokens;
            int64_t page = batch->pages[(int64_t)batch->all.seq[r] * batch->max_pages + t / view[0].page_tokens];
            float scale[2];
            for (int side = 0; side < 2; side++) {
                memcpy(&scale[side], host[side] + page * view[0].page_stride + view[0].scale_offset + slot * 4, 4);
            }
            CHECK_MESSAGE(fabsf(scale[1] - scale[0]) <= 1e-6f * scale[0], "index_write: scale %g, expected %g",
                          (double)scale[1], (double)scale[0]);
            for (int32_t i = 0; i < dim; i++) {
                int64_t at = page * view[0].page_stride + (int64_t)slot * dim + i;
                float got = fp8_to_f32(host[1][at]) * scale[1], expected = fp8_to_f32(host[0][at]) * scale[0];
                CHECK_MESSAGE(fabsf(got - expected) <= 0.13f * fabsf(expected) + 0.002f * scale[0],
                              "index_write: row %d holds %g, expected %g", r, (double)got, (double)expected);
            }
        }
        free(host[0]);
        free(host[1]);
    }
    bench_release(b);
    free(k);
}

// Random keys in the view's own format; fp8 gets codes without NaN and positive scales.
static void fill_index(struct bench *b, const struct index_view view[2])
{
    int64_t bytes = view[0].page_stride * b->n_pages;
    unsigned char *host = calloc(1, (size_t)bytes);
    for (int64_t page = 0; page < b->n_pages; page++) {
        for (int64_t i = 0; i < (int64_t)view[0].page_tokens * view[0].dim; i++) {
            dtype_store(host + page * view[0].page_stride, i, view[0].dtype,
                        view[0].dtype == DTYPE_FP8 ? 100 * check_normal() : check_normal());
        }
        for (int64_t i = 0; i < view[0].page_tokens && view[0].dtype == DTYPE_FP8; i++) {
            float scale = 0.005f + 0.01f * (float)check_uniform();
            memcpy(host + page * view[0].page_stride + view[0].scale_offset + i * 4, &scale, sizeof scale);
        }
    }
    for (int side = 0; side < 2; side++) {
        bench_must(b->backend[side]->upload(b->context[side], view[side].data, host, bytes));
    }
    free(host);
}

static void check_index_score(struct bench *b, const struct index_view view[2], const struct bound_view bounds[2],
                              bool last)
{
    const struct batch *batch = &b->batch.batch;
    const struct index_spec *index = &b->plan->index;
    const struct rows *rows = last ? &batch->last : &batch->all;
    int64_t n_q = (int64_t)rows->n * index->heads * index->dim;
    int32_t stride = (b->options->max_context - 1) / index->unit_tokens + 1 + check_range(0, 5);
    int32_t first = check_range(0, rows->n - 1), rest = rows->n - first;
    int32_t n = check_range(0, 3) ? rest : check_range(0, rest);
    float *q = bench_floats(b, n_q, 1), *gate = bench_floats(b, (int64_t)rows->n * index->heads, 1);
    void *scores[2];
    b->operator = "index_score";
    if (index->score == INDEX_PAGE_BOUND) {
        bench_fill_bounds(b, bounds);
    } else {
        fill_index(b, view);
    }
    for (int side = 0; side < 2; side++) {
        scores[side] = bench_poisoned(b, side, (int64_t)n * index->sets * stride * 4);
        struct op_index_score op = {.rows = rows, .first = first, .n = n, .q = bench_place_activations(b, side, q, n_q),
                                    .keys = view[side], .bounds = bounds[side], .scores = scores[side],
                                    .stride = stride};
        op.gate = index->score == INDEX_GATED_RELU
                      ? bench_place(b, side, gate, (int64_t)rows->n * index->heads * 4)
                      : NULL;
        RUN(side, b->backend[side]->index_score(b->context[side], batch, &op));
    }
    // What the reference leaves alone stays poison, which is NaN: the same places must be NaN on the other side. Sums
    // of many products deserve the room of their count; fp8 queries that round differently that of an fp8 digit.
    double slack = index->key_dtype == DTYPE_FP8 && index->score != INDEX_PAGE_BOUND ? 50 : 4;
    bench_compare(b, "scores", scores, (const enum dtype[2]){DTYPE_F32, DTYPE_F32}, (int64_t)n * index->sets * stride,
                  slack);
    bench_release(b);
    free(q);
    free(gate);
}

// Scores of a hard kind: 0 any, 1 few values, 2 zeros of both signs, 3 all equal, 4 with infinities, 5 one NaN.
static void hard_scores(float *scores, int64_t n, int kind)
{
    for (int64_t i = 0; i < n; i++) {
        float any = check_normal();
        scores[i] = kind == 0   ? any
                    : kind == 1 ? (float)check_range(-2, 2)
                    : kind == 2 ? (any > 1 ? any : any > 0 ? 0.0f : -0.0f)
                    : kind == 3 ? 1.5f
                                : (any > 1 ? INFINITY : any < -1 ? -INFINITY : any);
    }
}

static void check_index_select(struct bench *b, bool last, int kind)
{
    const struct batch *batch = &b->batch.batch;
    const struct index_spec *index = &b->plan->index;
    const struct rows *rows = last ? &batch->last : &batch->all;
    int32_t units = (b->options->max_context - 1) / index->unit_tokens + 1, stride = units + check_range(0, 5);
    int32_t first = check_range(0, rows->n - 1), n = rows->n - first, budget = plan_budget_units(b->plan);
    struct selection out = {.sets = index->sets, .unit_tokens = index->unit_tokens,
                            .stride = budget < units ? budget : units};
    int64_t row_sets = (int64_t)rows->n * out.sets;
    float *scores = malloc((size_t)((int64_t)n * out.sets * stride) * sizeof *scores);
    void *unit[2], *count[2];
    int32_t *host_unit[2], *host_count[2];
    int error[2];
    b->operator = "index_select";
    hard_scores(scores, (int64_t)n * out.sets * stride, kind);
    if (kind == 5) {
        int32_t row = check_range(0, n - 1), n_units = rows->position[first + row] / index->unit_tokens + 1;
        scores[((int64_t)row * out.sets + check_range(0, out.sets - 1)) * stride + check_range(0, n_units - 1)] = NAN;
    }
    for (int side = 0; side < 2; side++) {
        out.unit = unit[side] = bench_poisoned(b, side, row_sets * out.stride * 4);
        out.count = count[side] = bench_poisoned(b, side, row_sets * 4);
        struct op_index_select op = {.rows = rows, .first = first, .n = n,
                                     .scores = bench_place(b, side, scores, (int64_t)n * out.sets * stride * 4),
                                     .stride = stride, .out = out};
        error[side] = b->backend[side]->index_select(b->context[side], batch, &op);
        int end = b->backend[side]->end_step(b->context[side]);    // a backend that runs behind tells here
        error[side] = error[side] ? error[side] : end;
        bench_must(b->backend[side]->begin_step(b->context[side], batch));
        host_unit[side] = bench_fetch(b, side, unit[side], row_sets * out.stride * 4, true);
        host_count[side] = bench_fetch(b, side, count[side], row_sets * 4, true);
        CHECK_MESSAGE(error[side] == (kind == 5 ? -EDOM : 0), "index_select, %s, scores of kind %d: returned %d",
                      b->backend[side]->name, kind, error[side]);
        CHECK_MESSAGE(kind != 5 || strstr(status_text(), "position"), "index_select, %s: no position in '%s'",
                      b->backend[side]->name, status_text());
    }
    for (int64_t at = (int64_t)first * out.sets; at < row_sets && kind != 5; at++) {
        bool same = host_count[0][at] == host_count[1][at] && host_count[0][at] <= out.stride;
        for (int32_t i = 0; same && i < host_count[0][at]; i++) {
            same = host_unit[0][at * out.stride + i] == host_unit[1][at * out.stride + i];
        }
        if (!same) {
            check_failed(__FILE__, __LINE__, "index_select: row and set %lld differ, scores of kind %d", (long long)at,
                         kind);
            break;
        }
    }
    bench_release(b);
    for (int side = 0; side < 2; side++) {
        free(host_unit[side]);
        free(host_count[side]);
    }
    free(scores);
}

void operators_check_indexer(struct bench *b)
{
    int32_t layer = 0;
    while (!plan_runs_indexer(b->plan, layer)) {
        layer++;    // a plan with a budget has one
    }
    struct index_view keys[2] = {kv_cache_index(b->cache[0], layer), kv_cache_index(b->cache[1], layer)};
    struct bound_view bounds[2] = {kv_cache_bounds(b->cache[0], layer), kv_cache_bounds(b->cache[1], layer)};
    for (int last = 0; last < 2; last++) {
        if (b->plan->index.score != INDEX_PAGE_BOUND) {
            check_index_project(b, last);
            check_index_write(b, keys);
        }
        check_index_score(b, keys, bounds, last);
        for (int kind = 0; kind < 6; kind++) {
            check_index_select(b, last, kind);
        }
    }
}
