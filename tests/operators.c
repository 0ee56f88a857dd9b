// tests/operators.c - the comparison of operators: dense ones, caches and attention. operators_index.c has the rest.
#include "engine/status.h"
#include "tests/operators_bench.h"

// ---------------------------------------------------------------------------------------------------------------------
// Dense operators

static void check_embed_and_rows(struct bench *b)
{
    const struct batch *batch = &b->batch.batch;
    int32_t hidden = b->plan->shape.hidden;
    struct weight table = bench_matrix(b, b->plan->shape.vocab, hidden);
    void *x[2], *last[2];
    b->operator = "embed";
    for (int side = 0; side < 2; side++) {
        x[side] = bench_poisoned(b, side, (int64_t)batch->all.n * hidden * 4);
        RUN(side, b->backend[side]->embed(b->context[side], batch, &table.matrix[side], x[side]));
    }
    bench_compare_floats(b, "x", x, (int64_t)batch->all.n * hidden);
    b->operator = "take_rows";
    for (int side = 0; side < 2; side++) {
        last[side] = bench_poisoned(b, side, (int64_t)batch->last.n * hidden * 4);
        RUN(side, b->backend[side]->take_rows(b->context[side], batch, last[side], x[side], (int64_t)hidden * 4));
    }
    bench_compare_floats(b, "rows", last, (int64_t)batch->last.n * hidden);
    bench_release(b);
    free(table.host);
}

// parts: 0 all of a layer's own, 1 queries only, 2 keys and values only, 3 no rows.
static void check_qkv(struct bench *b, int parts)
{
    static const char *const names[] = {"qkv", "qkv, queries only", "qkv, keys and values only", "qkv, no rows"};
    const struct batch *batch = &b->batch.batch;
    const struct model_shape *shape = &b->plan->shape;
    const struct rows *rows = parts == 1 ? &batch->last : &batch->all;
    int32_t n = parts == 3 ? 0 : rows->n, heads = shape->n_heads * shape->head_dim;
    int32_t kv = shape->n_kv_heads * shape->head_dim;
    struct weight norm = bench_norm(b, shape->hidden), q = bench_matrix(b, heads, shape->hidden);
    struct weight k = bench_matrix(b, kv, shape->hidden), v = bench_matrix(b, kv, shape->hidden);
    struct weight q_norm = bench_norm(b, shape->head_dim), k_norm = bench_norm(b, shape->head_dim);
    float *x = bench_floats(b, (int64_t)rows->n * shape->hidden, 2);
    void *normed[2], *q_out[2], *k_out[2], *v_out[2];
    int64_t kv_bytes = (int64_t)n * kv * dtype_bytes(plan_fresh_dtype(b->plan));
    b->operator = names[parts];
    for (int side = 0; side < 2; side++) {
        int64_t size = b->backend[side]->activation_bytes;
        struct op_qkv op = {.x = bench_place(b, side, x, (int64_t)rows->n * shape->hidden * 4),
                            .norm = &norm.matrix[side],
                            .q = parts == 2 ? NULL : &q.matrix[side],
                            .k = parts == 1 ? NULL : &k.matrix[side],
                            .v = parts == 1 ? NULL : &v.matrix[side],
                            .q_norm = parts == 0 ? &q_norm.matrix[side] : NULL,
                            .k_norm = parts == 0 ? &k_norm.matrix[side] : NULL,
                            .rope_theta = parts == 0 ? shape->rope_theta_global : 0,
                            .position = rows->position,
                            .n = n,
                            .normed = normed[side] =
                                parts == 1 ? NULL : bench_poisoned(b, side, n * shape->hidden * size),
                            .q_out = q_out[side] = bench_poisoned(b, side, n * heads * size),
                            .k_out = k_out[side] = bench_poisoned(b, side, kv_bytes),
                            .v_out = v_out[side] = bench_poisoned(b, side, kv_bytes)};
        RUN(side, b->backend[side]->qkv(b->context[side], batch, &op));
    }
    if (parts != 1) {
        bench_compare_activations(b, "normed", normed, (int64_t)n * shape->hidden);
        bench_compare_cached(b, "k", k_out, (int64_t)n * kv);
        bench_compare_cached(b, "v", v_out, (int64_t)n * kv);
    }
    if (parts != 2) {
        bench_compare_activations(b, "q", q_out, (int64_t)n * heads);
    }
    bench_release(b);
    free(x);
    struct weight all[] = {norm, q, k, v, q_norm, k_norm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i].host);
    }
}

static void check_output_and_ffn(struct bench *b)
{
    const struct batch *batch = &b->batch.batch;
    const struct model_shape *shape = &b->plan->shape;
    int32_t n = batch->all.n, heads = shape->n_heads * shape->head_dim;
    struct weight output = bench_matrix(b, shape->hidden, heads), norm = bench_norm(b, shape->hidden);
    struct weight gate = bench_matrix(b, shape->ffn, shape->hidden), up = bench_matrix(b, shape->ffn, shape->hidden);
    struct weight down = bench_matrix(b, shape->hidden, shape->ffn);
    float *attention = bench_floats(b, (int64_t)n * heads, 1), *x = bench_floats(b, (int64_t)n * shape->hidden, 1);
    unsigned char poison[SENTINEL_BYTES];
    memset(poison, POISON, sizeof poison);
    for (int ffn = 0; ffn < 2; ffn++) {
        void *to[2];
        b->operator = ffn ? "ffn" : "output";
        for (int side = 0; side < 2; side++) {
            int64_t bytes = (int64_t)n * shape->hidden * 4;
            to[side] = bench_poisoned(b, side, bytes);    // x is added to: values first, then the sentinel
            bench_must(b->backend[side]->upload(b->context[side], to[side], x, bytes));
            struct op_output op_output = {.attention = bench_place_activations(b, side, attention, (int64_t)n * heads),
                                          .weight = &output.matrix[side], .n = n, .x = to[side]};
            struct op_ffn op_ffn = {.norm = &norm.matrix[side], .gate = &gate.matrix[side], .up = &up.matrix[side],
                                    .down = &down.matrix[side], .n = n, .x = to[side]};
            RUN(side, ffn ? b->backend[side]->ffn(b->context[side], batch, &op_ffn)
                          : b->backend[side]->output(b->context[side], batch, &op_output));
        }
        bench_compare_floats(b, "x", to, (int64_t)n * shape->hidden);
        bench_release(b);
    }
    struct weight all[] = {output, norm, gate, up, down};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i].host);
    }
    free(attention);
    free(x);
}

static void check_head_and_sample(struct bench *b)
{
    const struct batch *batch = &b->batch.batch;
    const struct model_shape *shape = &b->plan->shape;
    int32_t n = batch->last.n;
    struct weight norm = bench_norm(b, shape->hidden), head = bench_matrix(b, shape->vocab, shape->hidden);
    float *x = bench_floats(b, (int64_t)n * shape->hidden, 1);
    float *fixed = bench_floats(b, (int64_t)n * shape->vocab, 1);
    struct sampling *sampling = calloc((size_t)n, sizeof *sampling);
    for (int32_t r = 0; r < n; r++) {
        sampling[r] = (struct sampling){.temperature = check_range(0, 1) ? 0.0f : 0.8f,
                                        .top_p = check_range(0, 1) ? 1.0f : 0.7f, .seed = check_random(), .request = r};
        fixed[(int64_t)r * shape->vocab + check_range(0, shape->vocab - 1)] = -INFINITY;
    }
    void *logits[2];
    int32_t *token[2];
    b->operator = "head";
    for (int side = 0; side < 2; side++) {
        logits[side] = bench_poisoned(b, side, (int64_t)n * shape->vocab * 4);
        struct op_head op = {.x = bench_place(b, side, x, (int64_t)n * shape->hidden * 4), .norm = &norm.matrix[side],
                             .weight = &head.matrix[side], .n = n, .logits = logits[side]};
        RUN(side, b->backend[side]->head(b->context[side], batch, &op));
    }
    bench_compare_floats(b, "logits", logits, (int64_t)n * shape->vocab);
    b->operator = "sample";
    for (int side = 0; side < 2; side++) {
        token[side] = malloc((size_t)n * sizeof **token);
        memset(token[side], POISON, (size_t)n * sizeof **token);
        struct op_sample op = {.logits = bench_place(b, side, fixed, (int64_t)n * shape->vocab * 4),
                               .sampling = sampling, .token = token[side]};
        RUN(side, b->backend[side]->sample(b->context[side], batch, &op));
        bench_must(b->backend[side]->end_step(b->context[side]));
        bench_must(b->backend[side]->begin_step(b->context[side], batch));
    }
    for (int32_t r = 0; r < n; r++) {
        CHECK_MESSAGE(token[0][r] == token[1][r], "sample: row %d drew %d, expected %d", r, token[1][r], token[0][r]);
    }
    bench_release(b);
    free(token[0]);
    free(token[1]);
    free(x);
    free(fixed);
    free(sampling);
    free(norm.host);
    free(head.host);
}

// ---------------------------------------------------------------------------------------------------------------------
// Caches and attention

static int64_t view_bytes(const struct bench *b, const struct kv_view *view)
{
    return view->page_stride * (view->ring ? b->options->max_seqs : b->n_pages);
}

static void check_kv_write(struct bench *b, const struct kv_view view[2], const struct bound_view bounds[2])
{
    const struct batch *batch = &b->batch.batch;
    const struct model_shape *shape = &b->plan->shape;
    int64_t n = (int64_t)batch->all.n * shape->n_kv_heads * shape->head_dim;
    int64_t bytes = n * dtype_bytes(plan_fresh_dtype(b->plan));
    unsigned char *k = malloc((size_t)bytes), *v = malloc((size_t)bytes);
    for (int64_t i = 0; i < n; i++) {
        dtype_store(k, i, plan_fresh_dtype(b->plan), check_normal());
        dtype_store(v, i, plan_fresh_dtype(b->plan), check_normal());
    }
    b->operator = view[0].ring ? "kv_write, ring" : "kv_write, pages";
    bench_fill_view(b, view, view_bytes(b, &view[0]));
    for (int side = 0; side < 2; side++) {
        struct op_kv_write op = {.k = bench_place(b, side, k, bytes), .v = bench_place(b, side, v, bytes),
                                 .view = view[side],
                                 .bounds = bounds[side]};
        RUN(side, b->backend[side]->kv_write(b->context[side], batch, &op));
    }
    bench_compare_memory(b, "the cache", (void *const[2]){view[0].data, view[1].data}, view_bytes(b, &view[0]));
    if (bounds[0].data) {
        bench_compare_memory(b, "bounds", (void *const[2]){bounds[0].data, bounds[1].data},
                       bounds[0].page_stride * b->n_pages);
    }
    bench_release(b);
    free(k);
    free(v);
}

static void check_window_attention(struct bench *b, const struct kv_view ring[2])
{
    const struct batch *batch = &b->batch.batch;
    const struct model_shape *shape = &b->plan->shape;
    int64_t heads = (int64_t)batch->all.n * shape->n_heads * shape->head_dim;
    int64_t kv = (int64_t)batch->all.n * shape->n_kv_heads * shape->head_dim;
    int64_t kv_size = dtype_bytes(plan_fresh_dtype(b->plan));
    float *q = bench_floats(b, heads, 2);
    void *k[2], *v[2], *out[2];
    b->operator = "window_attention";
    bench_fill_view(b, ring, view_bytes(b, &ring[0]));
    for (int side = 0; side < 2; side++) {
        k[side] = bench_take(b, side, kv * kv_size);
        v[side] = bench_take(b, side, kv * kv_size);
    }
    bench_fill(b, k, kv * kv_size, plan_fresh_dtype(b->plan));
    bench_fill(b, v, kv * kv_size, plan_fresh_dtype(b->plan));
    for (int side = 0; side < 2; side++) {
        out[side] = bench_poisoned(b, side, heads * b->backend[side]->activation_bytes);
        struct op_window_attention op = {.q = bench_place_activations(b, side, q, heads), .k = k[side], .v = v[side],
                                         .ring = ring[side], .out = out[side]};
        RUN(side, b->backend[side]->window_attention(b->context[side], batch, &op));
    }
    bench_compare_activations(b, "out", out, heads);
    bench_release(b);
    free(q);
}

// A selection of random units for each row and set; now and then none, or all.
static void random_selection(const struct rows *rows, const struct selection *shape, int32_t *unit, int32_t *count)
{
    for (int64_t at = 0; at < (int64_t)rows->n * shape->sets; at++) {
        int32_t n_units = rows->position[at / shape->sets] / shape->unit_tokens + 1;
        int32_t kind = check_range(0, 9), left = n_units;
        int32_t wanted = kind == 0 ? 0 : kind == 1 ? shape->stride : check_range(1, shape->stride);
        wanted = wanted < n_units ? wanted : n_units;
        count[at] = 0;
        for (int32_t u = 0; u < n_units; u++, left--) {    // each remaining unit with the chance that fills the count
            if (check_range(1, left) <= wanted - count[at]) {
                unit[at * shape->stride + count[at]++] = u;
            }
        }
    }
}

static void check_attention(struct bench *b, const struct kv_view view[2], bool selected, bool last)
{
    const struct batch *batch = &b->batch.batch;
    const struct model_shape *shape = &b->plan->shape;
    const struct index_spec *index = &b->plan->index;
    const struct rows *rows = last ? &batch->last : &batch->all;
    int64_t row_heads = (int64_t)rows->n * shape->n_heads, heads = row_heads * shape->head_dim;
    struct selection selection = {.sets = selected ? index->sets : 1, .unit_tokens = selected ? index->unit_tokens : 1,
                                  .stride = selected ? plan_budget_units(b->plan) : 1};
    int64_t row_sets = (int64_t)rows->n * selection.sets;
    int32_t *unit = calloc((size_t)(row_sets * selection.stride) + 1, sizeof *unit);
    int32_t *count = calloc((size_t)row_sets + 1, sizeof *count);
    float *q = bench_floats(b, heads, 2);
    void *out[2], *lse[2];
    b->operator = selected ? "attention, selected" : "attention, full";
    random_selection(rows, &selection, unit, count);
    bench_fill_view(b, view, view_bytes(b, &view[0]));
    for (int side = 0; side < 2; side++) {
        selection.unit = bench_place(b, side, unit, row_sets * selection.stride * 4);
        selection.count = bench_place(b, side, count, row_sets * 4);
        out[side] = bench_poisoned(b, side, heads * b->backend[side]->activation_bytes);
        lse[side] = bench_poisoned(b, side, row_heads * 4);
        struct op_attention op = {.rows = rows, .q = bench_place_activations(b, side, q, heads), .view = view[side],
                                  .selection = selected ? &selection : NULL, .out = out[side], .lse = lse[side]};
        RUN(side, b->backend[side]->attention(b->context[side], batch, &op));
    }
    bench_compare_activations(b, "out", out, heads);
    bench_compare_floats(b, "lse", lse, row_heads);
    bench_release(b);
    free(unit);
    free(count);
    free(q);
}

// ---------------------------------------------------------------------------------------------------------------------
// All of them

static int32_t find_layer(const struct plan *plan, bool (*wanted)(const struct plan *, int32_t))
{
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        if (wanted(plan, l)) {
            return l;
        }
    }
    return -1;
}

static bool is_window(const struct plan *plan, int32_t layer)
{
    return plan->layers[layer].attention == ATTENTION_WINDOW;
}

static bool has_pages(const struct plan *plan, int32_t layer)
{
    return layer == plan_memory_layer(plan) || (!is_window(plan, layer) && plan_has_own_kv(plan, layer));
}

static bool has_bounds(const struct plan *plan, int32_t layer)
{
    return plan_runs_indexer(plan, layer) && has_pages(plan, layer);
}

static void check_caches(struct bench *b)
{
    const struct bound_view none[2] = {{0}, {0}};
    int32_t window = find_layer(b->plan, is_window), pages = find_layer(b->plan, has_pages);
    int32_t bounded = b->plan->index.score == INDEX_PAGE_BOUND ? find_layer(b->plan, has_bounds) : -1;
    if (window >= 0) {
        struct kv_view ring[2] = {kv_cache_ring(b->cache[0], window), kv_cache_ring(b->cache[1], window)};
        check_kv_write(b, ring, none);
        check_window_attention(b, ring);
    }
    struct kv_view view[2] = {kv_cache_pages(b->cache[0], pages), kv_cache_pages(b->cache[1], pages)};
    check_kv_write(b, view, none);
    check_attention(b, view, false, false);
    check_attention(b, view, false, true);
    if (bounded >= 0) {
        struct kv_view keys[2] = {kv_cache_pages(b->cache[0], bounded), kv_cache_pages(b->cache[1], bounded)};
        struct bound_view bounds[2] = {kv_cache_bounds(b->cache[0], bounded), kv_cache_bounds(b->cache[1], bounded)};
        bench_fill_bounds(b, bounds);
        check_kv_write(b, keys, bounds);
    }
    if (b->plan->index.budget_tokens > 0) {
        check_attention(b, view, true, false);
        check_attention(b, view, true, true);
    }
}

int operators_compare(const struct operators_options *options)
{
    struct bench bench = {.options = options, .plan = options->plan, .backend = {&backend_reference, options->backend}};
    check_state = check_seed = options->seed;    // these files' own stream
    check_failures = 0;
    bench_open(&bench);
    bench_batch(&bench);
    check_embed_and_rows(&bench);
    for (int parts = 0; parts < 4; parts++) {
        check_qkv(&bench, parts);
    }
    check_output_and_ffn(&bench);
    check_head_and_sample(&bench);
    check_caches(&bench);
    if (options->plan->index.budget_tokens > 0) {
        operators_check_indexer(&bench);
    }
    bench_close(&bench);
    return check_failures;
}
