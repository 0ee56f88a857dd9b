// tests/operators.c - the comparison of operators. Index 0 is the reference, 1 the backend under test.
#include "tests/operators.h"

#include <errno.h>

#include "engine/kv_cache.h"
#include "engine/sampler.h"
#include "engine/status.h"
#include "engine/step_batch.h"
#include "tests/check.h"

enum { SENTINEL_BYTES = 256, POISON = 0xff, MAX_BUFFERS = 256 };    // as floats, 0xff is NaN

struct bench {
    const struct operators_options *options;
    const struct plan *plan;
    const struct backend *backend[2];
    struct backend_context *context[2];
    struct kv_cache *cache[2];
    struct step_batch batch;
    int32_t n_pages;
    void *buffers[2][MAX_BUFFERS];    // of the current operator, released after it
    int32_t n_buffers[2];
    const char *operator;
};

// ---------------------------------------------------------------------------------------------------------------------
// Memory

static void must(int error)
{
    if (error) {
        fprintf(stderr, "the comparison of operators cannot go on: %s\n", status_text());
        exit(1);
    }
}

static void *take(struct bench *b, int side, int64_t bytes)
{
    void *memory;
    must(b->backend[side]->alloc(b->context[side], &memory, bytes));
    if (b->n_buffers[side] == MAX_BUFFERS) {
        fprintf(stderr, "too many buffers\n");
        exit(1);
    }
    b->buffers[side][b->n_buffers[side]++] = memory;
    return memory;
}

// An input: the same host bytes on either side.
static void *place(struct bench *b, int side, const void *host, int64_t bytes)
{
    void *memory = take(b, side, bytes);
    must(b->backend[side]->upload(b->context[side], memory, host, bytes));
    return memory;
}

// An output: poison, and a sentinel after it.
static void *poisoned(struct bench *b, int side, int64_t bytes)
{
    void *memory = take(b, side, bytes + SENTINEL_BYTES);
    void *poison = malloc((size_t)bytes + SENTINEL_BYTES);
    memset(poison, POISON, (size_t)bytes + SENTINEL_BYTES);
    must(b->backend[side]->upload(b->context[side], memory, poison, bytes + SENTINEL_BYTES));
    free(poison);
    return memory;
}

// What an output holds now, to be freed by the caller; the sentinel must be intact.
static void *fetch(struct bench *b, int side, const void *memory, int64_t bytes, bool sentinel)
{
    int64_t all = bytes + (sentinel ? SENTINEL_BYTES : 0);
    unsigned char *host = malloc((size_t)all + 1);
    must(b->backend[side]->download(b->context[side], host, memory, all));
    for (int64_t i = bytes; i < all; i++) {
        if (host[i] != POISON) {
            check_failed(__FILE__, __LINE__, "%s: %s wrote %lld bytes beyond its output", b->operator,
                         b->backend[side]->name, (long long)(i - bytes + 1));
            break;
        }
    }
    return host;
}

static void release(struct bench *b)
{
    for (int side = 0; side < 2; side++) {
        while (b->n_buffers[side] > 0) {
            b->backend[side]->free(b->context[side], b->buffers[side][--b->n_buffers[side]]);
        }
    }
}

static bool narrow(const struct bench *b)    // the backend under test has 16-bit activations
{
    return b->backend[1]->activation_bytes == 2;
}

static float *random_floats(const struct bench *b, int64_t n, double deviation)
{
    float *values = malloc((size_t)(n + 1) * sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        values[i] = (float)(deviation * (double)check_normal());
        values[i] = narrow(b) ? bf16_to_f32(f32_to_bf16(values[i])) : values[i];
    }
    return values;
}

// Host floats as activations of a side.
static void *place_activations(struct bench *b, int side, const float *values, int64_t n)
{
    if (b->backend[side]->activation_bytes == 4) {
        return place(b, side, values, n * 4);
    }
    uint16_t *halves = malloc((size_t)(n + 1) * sizeof *halves);
    for (int64_t i = 0; i < n; i++) {
        halves[i] = f32_to_bf16(values[i]);
    }
    void *memory = place(b, side, halves, n * 2);
    free(halves);
    return memory;
}

static double *widen(const void *values, enum dtype dtype, int64_t n)
{
    double *wide = malloc((size_t)(n + 1) * sizeof *wide);
    for (int64_t i = 0; i < n; i++) {
        wide[i] = (double)dtype_load(values, i, dtype);
    }
    return wide;
}

static enum dtype activation_dtype(const struct bench *b, int side)
{
    return b->backend[side]->activation_bytes == 4 ? DTYPE_F32 : DTYPE_BF16;
}

// Compares n values of the two sides' outputs. `slack` scales the tolerance: 1, or more where a dtype rounds.
static void compare(struct bench *b, const char *what, void *const out[2], const enum dtype dtype[2], int64_t n,
                    double slack)
{
    char name[160];
    snprintf(name, sizeof name, "%s, %s", b->operator, what);
    void *host[2];
    for (int side = 0; side < 2; side++) {
        host[side] = fetch(b, side, out[side], n * dtype_bytes(dtype[side]), true);
    }
    double *expected = widen(host[0], dtype[0], n), *wide = widen(host[1], dtype[1], n);
    float *got = malloc((size_t)(n + 1) * sizeof *got);
    for (int64_t i = 0; i < n; i++) {
        got[i] = (float)wide[i];
    }
    const struct operators_options *o = b->options;
    check_close(name, got, expected, n, o->absolute * slack, o->relative * slack, o->nmse * slack * slack);
    free(host[0]);
    free(host[1]);
    free(expected);
    free(wide);
    free(got);
}

static void compare_floats(struct bench *b, const char *what, void *const out[2], int64_t n)
{
    compare(b, what, out, (const enum dtype[2]){DTYPE_F32, DTYPE_F32}, n, 1);
}

static void compare_activations(struct bench *b, const char *what, void *const out[2], int64_t n)
{
    compare(b, what, out, (const enum dtype[2]){activation_dtype(b, 0), activation_dtype(b, 1)}, n, 1);
}

// Keys and values in kv_dtype: one rounding of the dtype more.
static void compare_cached(struct bench *b, const char *what, void *const out[2], int64_t n)
{
    enum dtype dtype = b->plan->kv_dtype;
    double relative = b->options->relative;
    double slack = dtype == DTYPE_BF16 && relative > 0 && relative < 0x1p-7 ? 0x1p-7 / relative : 1;
    compare(b, what, out, (const enum dtype[2]){dtype, dtype}, n, slack);
}

// Runs an expression on both sides; both must succeed.
#define RUN(side, call)                                                                                                  \
    do {                                                                                                                 \
        int error_ = (call);                                                                                             \
        CHECK_MESSAGE(!error_, "%s, %s: %s", b->operator, b->backend[side]->name, status_text());                        \
    } while (0)

// ---------------------------------------------------------------------------------------------------------------------
// Weights and batches

struct weight {
    void *host;
    struct matrix matrix[2];
};

static struct weight make_weight(struct bench *b, int32_t n_rows, int32_t n_cols, double centre, double deviation)
{
    enum dtype dtype = b->plan->weight_dtype;
    int64_t n = (int64_t)n_rows * n_cols;
    struct weight weight = {.host = malloc((size_t)(n * dtype_bytes(dtype)))};
    for (int64_t i = 0; i < n; i++) {
        dtype_store(weight.host, i, dtype, (float)(centre + deviation * (double)check_normal()));
    }
    struct matrix host = {.data = weight.host, .dtype = dtype, .n_rows = n_rows, .n_cols = n_cols};
    for (int side = 0; side < 2; side++) {
        must(b->backend[side]->weight_load(b->context[side], &weight.matrix[side], &host));
    }
    return weight;
}

static struct weight make_matrix(struct bench *b, int32_t n_rows, int32_t n_cols)
{
    return make_weight(b, n_rows, n_cols, 0, 1 / sqrt(n_cols));
}

static struct weight make_norm(struct bench *b, int32_t n)
{
    return make_weight(b, 1, n, 1, 0.2);
}

static void shuffle(int32_t *values, int32_t n)
{
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = check_range(0, i), value = values[i];
        values[i] = values[j];
        values[j] = value;
    }
}

// A ragged batch over shuffled pages and slots: prompts, chunks and single rows; some sequences leave no logits.
static void make_batch(struct bench *b)
{
    const struct operators_options *o = b->options;
    int32_t max_pages = (o->max_context - 1) / b->plan->page_tokens + 1, rows_left = o->max_rows;
    int32_t *pages = malloc((size_t)b->n_pages * sizeof *pages), *slots = malloc((size_t)o->max_seqs * sizeof *slots);
    int32_t *tokens = malloc((size_t)o->max_rows * sizeof *tokens);
    for (int32_t i = 0; i < b->n_pages; i++) {
        pages[i] = i;
    }
    for (int32_t i = 0; i < o->max_seqs; i++) {
        slots[i] = i;
    }
    shuffle(pages, b->n_pages);
    shuffle(slots, o->max_seqs);
    step_batch_clear(&b->batch, 3);
    for (int32_t s = 0; s < o->max_seqs && rows_left > 0; s++) {
        int32_t limit = rows_left < o->max_context ? rows_left : o->max_context;
        int32_t n_rows = check_range(0, 2) ? 1 : check_range(1, limit);
        int32_t context = check_range(0, 3) ? check_range(0, o->max_context - n_rows) : 0;
        int32_t logit_rows = check_range(0, 2) ? 1 : check_range(0, 1) ? n_rows : 0;
        for (int32_t i = 0; i < n_rows; i++) {
            tokens[i] = check_range(0, b->plan->shape.vocab - 1);
        }
        step_batch_add(&b->batch, slots[s], context, tokens, n_rows, s == 0 && logit_rows == 0 ? 1 : logit_rows,
                       pages + s * max_pages, (context + n_rows - 1) / b->plan->page_tokens + 1);
        rows_left -= n_rows;
    }
    for (int side = 0; side < 2; side++) {
        must(b->backend[side]->begin_step(b->context[side], &b->batch.batch));
    }
    free(pages);
    free(slots);
    free(tokens);
}

// Random contents for memory of elements of `dtype`, the same on both sides.
static void fill(struct bench *b, void *const memory[2], int64_t bytes, enum dtype dtype)
{
    int64_t n = bytes / dtype_bytes(dtype);
    unsigned char *host = malloc((size_t)bytes + 1);
    for (int64_t i = 0; i < n; i++) {
        dtype_store(host, i, dtype, check_normal());
    }
    for (int side = 0; side < 2; side++) {
        must(b->backend[side]->upload(b->context[side], memory[side], host, n * dtype_bytes(dtype)));
    }
    free(host);
}

// ---------------------------------------------------------------------------------------------------------------------
// Dense operators

static void check_embed_and_rows(struct bench *b)
{
    const struct batch *batch = &b->batch.batch;
    int32_t hidden = b->plan->shape.hidden;
    struct weight table = make_matrix(b, b->plan->shape.vocab, hidden);
    void *x[2], *last[2];
    b->operator = "embed";
    for (int side = 0; side < 2; side++) {
        x[side] = poisoned(b, side, (int64_t)batch->all.n * hidden * 4);
        RUN(side, b->backend[side]->embed(b->context[side], batch, &table.matrix[side], x[side]));
    }
    compare_floats(b, "x", x, (int64_t)batch->all.n * hidden);
    b->operator = "take_rows";
    for (int side = 0; side < 2; side++) {
        last[side] = poisoned(b, side, (int64_t)batch->last.n * hidden * 4);
        RUN(side, b->backend[side]->take_rows(b->context[side], batch, last[side], x[side], (int64_t)hidden * 4));
    }
    compare_floats(b, "rows", last, (int64_t)batch->last.n * hidden);
    release(b);
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
    struct weight norm = make_norm(b, shape->hidden), q = make_matrix(b, heads, shape->hidden);
    struct weight k = make_matrix(b, kv, shape->hidden), v = make_matrix(b, kv, shape->hidden);
    struct weight q_norm = make_norm(b, shape->head_dim), k_norm = make_norm(b, shape->head_dim);
    float *x = random_floats(b, (int64_t)rows->n * shape->hidden, 2);
    void *normed[2], *q_out[2], *k_out[2], *v_out[2];
    int64_t kv_bytes = (int64_t)n * kv * dtype_bytes(b->plan->kv_dtype);
    b->operator = names[parts];
    for (int side = 0; side < 2; side++) {
        int64_t size = b->backend[side]->activation_bytes;
        struct op_qkv op = {.x = place(b, side, x, (int64_t)rows->n * shape->hidden * 4),
                            .norm = &norm.matrix[side],
                            .q = parts == 2 ? NULL : &q.matrix[side],
                            .k = parts == 1 ? NULL : &k.matrix[side],
                            .v = parts == 1 ? NULL : &v.matrix[side],
                            .q_norm = parts == 0 ? &q_norm.matrix[side] : NULL,
                            .k_norm = parts == 0 ? &k_norm.matrix[side] : NULL,
                            .rope_theta = parts == 0 ? shape->rope_theta_global : 0,
                            .position = rows->position,
                            .n = n,
                            .normed = normed[side] = parts == 1 ? NULL : poisoned(b, side, n * shape->hidden * size),
                            .q_out = q_out[side] = poisoned(b, side, n * heads * size),
                            .k_out = k_out[side] = poisoned(b, side, kv_bytes),
                            .v_out = v_out[side] = poisoned(b, side, kv_bytes)};
        RUN(side, b->backend[side]->qkv(b->context[side], batch, &op));
    }
    if (parts != 1) {
        compare_activations(b, "normed", normed, (int64_t)n * shape->hidden);
        compare_cached(b, "k", k_out, (int64_t)n * kv);
        compare_cached(b, "v", v_out, (int64_t)n * kv);
    }
    if (parts != 2) {
        compare_activations(b, "q", q_out, (int64_t)n * heads);
    }
    release(b);
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
    struct weight output = make_matrix(b, shape->hidden, heads), norm = make_norm(b, shape->hidden);
    struct weight gate = make_matrix(b, shape->ffn, shape->hidden), up = make_matrix(b, shape->ffn, shape->hidden);
    struct weight down = make_matrix(b, shape->hidden, shape->ffn);
    float *attention = random_floats(b, (int64_t)n * heads, 1), *x = random_floats(b, (int64_t)n * shape->hidden, 1);
    unsigned char poison[SENTINEL_BYTES];
    memset(poison, POISON, sizeof poison);
    for (int ffn = 0; ffn < 2; ffn++) {
        void *to[2];
        b->operator = ffn ? "ffn" : "output";
        for (int side = 0; side < 2; side++) {
            int64_t bytes = (int64_t)n * shape->hidden * 4;
            to[side] = poisoned(b, side, bytes);    // x is added to: values first, then the sentinel
            must(b->backend[side]->upload(b->context[side], to[side], x, bytes));
            struct op_output op_output = {.attention = place_activations(b, side, attention, (int64_t)n * heads),
                                          .weight = &output.matrix[side], .n = n, .x = to[side]};
            struct op_ffn op_ffn = {.norm = &norm.matrix[side], .gate = &gate.matrix[side], .up = &up.matrix[side],
                                    .down = &down.matrix[side], .n = n, .x = to[side]};
            RUN(side, ffn ? b->backend[side]->ffn(b->context[side], batch, &op_ffn)
                          : b->backend[side]->output(b->context[side], batch, &op_output));
        }
        compare_floats(b, "x", to, (int64_t)n * shape->hidden);
        release(b);
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
    struct weight norm = make_norm(b, shape->hidden), head = make_matrix(b, shape->vocab, shape->hidden);
    float *x = random_floats(b, (int64_t)n * shape->hidden, 1);
    float *fixed = random_floats(b, (int64_t)n * shape->vocab, 1);
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
        logits[side] = poisoned(b, side, (int64_t)n * shape->vocab * 4);
        struct op_head op = {.x = place(b, side, x, (int64_t)n * shape->hidden * 4), .norm = &norm.matrix[side],
                             .weight = &head.matrix[side], .n = n, .logits = logits[side]};
        RUN(side, b->backend[side]->head(b->context[side], batch, &op));
    }
    compare_floats(b, "logits", logits, (int64_t)n * shape->vocab);
    b->operator = "sample";
    for (int side = 0; side < 2; side++) {
        token[side] = malloc((size_t)n * sizeof **token);
        memset(token[side], POISON, (size_t)n * sizeof **token);
        struct op_sample op = {.logits = place(b, side, fixed, (int64_t)n * shape->vocab * 4), .sampling = sampling,
                               .token = token[side]};
        RUN(side, b->backend[side]->sample(b->context[side], batch, &op));
        must(b->backend[side]->end_step(b->context[side]));
        must(b->backend[side]->begin_step(b->context[side], batch));
    }
    for (int32_t r = 0; r < n; r++) {
        CHECK_MESSAGE(token[0][r] == token[1][r], "sample: row %d drew %d, expected %d", r, token[1][r], token[0][r]);
    }
    release(b);
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

// The whole memory behind a view, bit for bit.
static void compare_memory(struct bench *b, const char *what, void *const memory[2], int64_t bytes)
{
    void *host[2];
    for (int side = 0; side < 2; side++) {
        host[side] = fetch(b, side, memory[side], bytes, false);
    }
    for (int64_t i = 0; i < bytes; i++) {
        if (((unsigned char *)host[0])[i] != ((unsigned char *)host[1])[i]) {
            check_failed(__FILE__, __LINE__, "%s: %s differs at byte %lld of %lld", b->operator, what, (long long)i,
                         (long long)bytes);
            break;
        }
    }
    free(host[0]);
    free(host[1]);
}

static void check_kv_write(struct bench *b, const struct kv_view view[2], const struct bound_view bounds[2])
{
    const struct batch *batch = &b->batch.batch;
    const struct model_shape *shape = &b->plan->shape;
    int64_t n = (int64_t)batch->all.n * shape->n_kv_heads * shape->head_dim;
    int64_t bytes = n * dtype_bytes(b->plan->kv_dtype);
    unsigned char *k = malloc((size_t)bytes), *v = malloc((size_t)bytes);
    for (int64_t i = 0; i < n; i++) {
        dtype_store(k, i, b->plan->kv_dtype, check_normal());
        dtype_store(v, i, b->plan->kv_dtype, check_normal());
    }
    b->operator = view[0].ring ? "kv_write, ring" : "kv_write, pages";
    fill(b, (void *const[2]){view[0].data, view[1].data}, view_bytes(b, &view[0]), b->plan->kv_dtype);
    for (int side = 0; side < 2; side++) {
        struct op_kv_write op = {.k = place(b, side, k, bytes), .v = place(b, side, v, bytes), .view = view[side],
                                 .bounds = bounds[side]};
        RUN(side, b->backend[side]->kv_write(b->context[side], batch, &op));
    }
    compare_memory(b, "the cache", (void *const[2]){view[0].data, view[1].data}, view_bytes(b, &view[0]));
    if (bounds[0].data) {
        compare_memory(b, "bounds", (void *const[2]){bounds[0].data, bounds[1].data},
                       bounds[0].page_stride * b->n_pages);
    }
    release(b);
    free(k);
    free(v);
}

static void check_window_attention(struct bench *b, const struct kv_view ring[2])
{
    const struct batch *batch = &b->batch.batch;
    const struct model_shape *shape = &b->plan->shape;
    int64_t heads = (int64_t)batch->all.n * shape->n_heads * shape->head_dim;
    int64_t kv = (int64_t)batch->all.n * shape->n_kv_heads * shape->head_dim, kv_size = dtype_bytes(b->plan->kv_dtype);
    float *q = random_floats(b, heads, 2);
    void *k[2], *v[2], *out[2];
    b->operator = "window_attention";
    fill(b, (void *const[2]){ring[0].data, ring[1].data}, view_bytes(b, &ring[0]), b->plan->kv_dtype);
    for (int side = 0; side < 2; side++) {
        k[side] = take(b, side, kv * kv_size);
        v[side] = take(b, side, kv * kv_size);
    }
    fill(b, k, kv * kv_size, b->plan->kv_dtype);
    fill(b, v, kv * kv_size, b->plan->kv_dtype);
    for (int side = 0; side < 2; side++) {
        out[side] = poisoned(b, side, heads * b->backend[side]->activation_bytes);
        struct op_window_attention op = {.q = place_activations(b, side, q, heads), .k = k[side], .v = v[side],
                                         .ring = ring[side], .out = out[side]};
        RUN(side, b->backend[side]->window_attention(b->context[side], batch, &op));
    }
    compare_activations(b, "out", out, heads);
    release(b);
    free(q);
}

// A selection of random units for each row and set; now and then none, or all.
static void random_selection(const struct bench *b, const struct rows *rows, const struct selection *shape,
                             int32_t *unit, int32_t *count)
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
    (void)b;
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
    float *q = random_floats(b, heads, 2);
    void *out[2], *lse[2];
    b->operator = selected ? "attention, selected" : "attention, full";
    random_selection(b, rows, &selection, unit, count);
    fill(b, (void *const[2]){view[0].data, view[1].data}, view_bytes(b, &view[0]), b->plan->kv_dtype);
    for (int side = 0; side < 2; side++) {
        selection.unit = place(b, side, unit, row_sets * selection.stride * 4);
        selection.count = place(b, side, count, row_sets * 4);
        out[side] = poisoned(b, side, heads * b->backend[side]->activation_bytes);
        lse[side] = poisoned(b, side, row_heads * 4);
        struct op_attention op = {.rows = rows, .q = place_activations(b, side, q, heads), .view = view[side],
                                  .selection = selected ? &selection : NULL, .out = out[side], .lse = lse[side]};
        RUN(side, b->backend[side]->attention(b->context[side], batch, &op));
    }
    compare_activations(b, "out", out, heads);
    compare_floats(b, "lse", lse, row_heads);
    release(b);
    free(unit);
    free(count);
    free(q);
}

// ---------------------------------------------------------------------------------------------------------------------
// Indexer

static void check_index_project(struct bench *b, bool last)
{
    const struct batch *batch = &b->batch.batch;
    const struct index_spec *index = &b->plan->index;
    const struct rows *rows = last ? &batch->last : &batch->all;
    bool gated = index->score == INDEX_GATED_RELU;
    int32_t n = rows->n, hidden = b->plan->shape.hidden, heads = index->heads, dim = index->dim;
    struct weight q = make_matrix(b, heads * dim, hidden), k = make_matrix(b, dim, hidden);
    struct weight gate = make_matrix(b, heads, hidden), norm = make_norm(b, dim), bias = make_weight(b, 1, dim, 0, 0.2);
    float *x = random_floats(b, (int64_t)n * hidden, 1);
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
        struct op_index_project op = {.hidden = place_activations(b, side, x, (int64_t)n * hidden),
                                      .weights = &weights,
                                      .position = rows->position,
                                      .n = n,
                                      .q = q_out[side] = poisoned(b, side, (int64_t)n * heads * dim * size),
                                      .k = k_out[side] = last ? NULL : poisoned(b, side, (int64_t)n * dim * size)};
        gate_out[side] = op.gate = gated ? poisoned(b, side, (int64_t)n * heads * 4) : NULL;
        RUN(side, b->backend[side]->index_project(b->context[side], batch, &op));
    }
    compare_activations(b, "q", q_out, (int64_t)n * heads * dim);
    if (!last) {
        compare_activations(b, "k", k_out, (int64_t)n * dim);
    }
    if (gated) {
        compare_floats(b, "gate", gate_out, (int64_t)n * heads);
    }
    release(b);
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
    float *k = random_floats(b, (int64_t)batch->all.n * dim, 3);
    memset(k, 0, (size_t)dim * sizeof *k);
    b->operator = "index_write";
    int64_t bytes = view[0].page_stride * b->n_pages;
    fill(b, (void *const[2]){view[0].data, view[1].data}, bytes, DTYPE_BF16);
    for (int side = 0; side < 2; side++) {
        struct op_index_write op = {.k = place_activations(b, side, k, (int64_t)batch->all.n * dim),
                                    .view = view[side]};
        RUN(side, b->backend[side]->index_write(b->context[side], batch, &op));
    }
    if (view[0].dtype != DTYPE_FP8) {
        compare_memory(b, "the cache", (void *const[2]){view[0].data, view[1].data}, bytes);
    } else {
        unsigned char *host[2] = {fetch(b, 0, view[0].data, bytes, false), fetch(b, 1, view[1].data, bytes, false)};
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
    release(b);
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
        must(b->backend[side]->upload(b->context[side], view[side].data, host, bytes));
    }
    free(host);
}

// Bounds whose minimum is below the maximum.
static void fill_bounds(struct bench *b, const struct bound_view bounds[2])
{
    int64_t bytes = bounds[0].page_stride * b->n_pages;
    int32_t width = b->plan->shape.n_kv_heads * b->plan->shape.head_dim;
    float *host = calloc(1, (size_t)bytes);
    int64_t page_floats = bounds[0].page_stride / 4;
    for (int64_t i = 0; i < bytes / 4; i++) {
        bool high = i % page_floats / width % 2;
        host[i] = high ? host[i - width] + fabsf(check_normal()) : check_normal();
    }
    for (int side = 0; side < 2; side++) {
        must(b->backend[side]->upload(b->context[side], bounds[side].data, host, bytes));
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
    float *q = random_floats(b, n_q, 1), *gate = random_floats(b, (int64_t)rows->n * index->heads, 1);
    void *scores[2];
    b->operator = "index_score";
    if (index->score == INDEX_PAGE_BOUND) {
        fill_bounds(b, bounds);
    } else {
        fill_index(b, view);
    }
    for (int side = 0; side < 2; side++) {
        scores[side] = poisoned(b, side, (int64_t)n * index->sets * stride * 4);
        struct op_index_score op = {.rows = rows, .first = first, .n = n, .q = place_activations(b, side, q, n_q),
                                    .keys = view[side], .bounds = bounds[side], .scores = scores[side],
                                    .stride = stride};
        op.gate = index->score == INDEX_GATED_RELU ? place(b, side, gate, (int64_t)rows->n * index->heads * 4) : NULL;
        RUN(side, b->backend[side]->index_score(b->context[side], batch, &op));
    }
    // What the reference leaves alone stays poison, which is NaN: the same places must be NaN on the other side. Sums
    // of many products deserve the room of their count; fp8 queries that round differently that of an fp8 digit.
    double slack = index->key_dtype == DTYPE_FP8 && index->score != INDEX_PAGE_BOUND ? 50 : 4;
    compare(b, "scores", scores, (const enum dtype[2]){DTYPE_F32, DTYPE_F32}, (int64_t)n * index->sets * stride, slack);
    release(b);
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
        out.unit = unit[side] = poisoned(b, side, row_sets * out.stride * 4);
        out.count = count[side] = poisoned(b, side, row_sets * 4);
        struct op_index_select op = {.rows = rows, .first = first, .n = n,
                                     .scores = place(b, side, scores, (int64_t)n * out.sets * stride * 4),
                                     .stride = stride, .out = out};
        error[side] = b->backend[side]->index_select(b->context[side], batch, &op);
        int end = b->backend[side]->end_step(b->context[side]);    // a backend that runs behind tells here
        error[side] = error[side] ? error[side] : end;
        must(b->backend[side]->begin_step(b->context[side], batch));
        host_unit[side] = fetch(b, side, unit[side], row_sets * out.stride * 4, true);
        host_count[side] = fetch(b, side, count[side], row_sets * 4, true);
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
    release(b);
    for (int side = 0; side < 2; side++) {
        free(host_unit[side]);
        free(host_count[side]);
    }
    free(scores);
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
        fill_bounds(b, bounds);
        check_kv_write(b, keys, bounds);
    }
    if (b->plan->index.budget_tokens > 0) {
        check_attention(b, view, true, false);
        check_attention(b, view, true, true);
    }
}

static void check_indexer(struct bench *b)
{
    int32_t layer = find_layer(b->plan, plan_runs_indexer);
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

static void open_bench(struct bench *b)
{
    const struct operators_options *o = b->options;
    int32_t max_pages = (o->max_context - 1) / b->plan->page_tokens + 1;
    struct backend_options options = {.plan = b->plan, .threads = o->threads, .device = o->device,
                                      .max_rows = o->max_rows, .max_seqs = o->max_seqs, .max_context = o->max_context};
    b->n_pages = max_pages * o->max_seqs + 3;
    for (int side = 0; side < 2; side++) {
        must(b->backend[side]->open(&b->context[side], &options));
        must(kv_cache_open(&b->cache[side], b->backend[side], b->context[side], b->plan, b->n_pages, o->max_seqs));
    }
    must(step_batch_open(&b->batch, o->max_seqs, o->max_rows, max_pages));
}

int operators_compare(const struct operators_options *options)
{
    struct bench bench = {.options = options, .plan = options->plan, .backend = {&backend_reference, options->backend}};
    check_state = check_seed = options->seed;    // this file's own stream
    check_failures = 0;
    open_bench(&bench);
    make_batch(&bench);
    check_embed_and_rows(&bench);
    for (int parts = 0; parts < 4; parts++) {
        check_qkv(&bench, parts);
    }
    check_output_and_ffn(&bench);
    check_head_and_sample(&bench);
    check_caches(&bench);
    if (options->plan->index.budget_tokens > 0) {
        check_indexer(&bench);
    }
    for (int side = 0; side < 2; side++) {
        must(bench.backend[side]->end_step(bench.context[side]));
        kv_cache_close(bench.cache[side]);
        bench.backend[side]->close(bench.context[side]);
    }
    step_batch_close(&bench.batch);
    return check_failures;
}
