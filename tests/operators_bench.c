// tests/operators_bench.c - memory on two sides: what is put there, and how what comes out is compared.
#include "tests/operators_bench.h"

#include "engine/status.h"

int check_failures;
uint64_t check_seed, check_state;

// ---------------------------------------------------------------------------------------------------------------------
// Memory

void bench_must(int error)
{
    if (error) {
        fprintf(stderr, "the comparison of operators cannot go on: %s\n", status_text());
        exit(1);
    }
}

void *bench_take(struct bench *b, int side, int64_t bytes)
{
    void *memory;
    bench_must(b->backend[side]->alloc(b->context[side], &memory, bytes));
    if (b->n_buffers[side] == MAX_BUFFERS) {
        fprintf(stderr, "too many buffers\n");
        exit(1);
    }
    b->buffers[side][b->n_buffers[side]++] = memory;
    return memory;
}

// An input: the same host bytes on either side.
void *bench_place(struct bench *b, int side, const void *host, int64_t bytes)
{
    void *memory = bench_take(b, side, bytes);
    bench_must(b->backend[side]->upload(b->context[side], memory, host, bytes));
    return memory;
}

// An output: poison, and a sentinel after it.
void *bench_poisoned(struct bench *b, int side, int64_t bytes)
{
    void *memory = bench_take(b, side, bytes + SENTINEL_BYTES);
    void *poison = malloc((size_t)bytes + SENTINEL_BYTES);
    memset(poison, POISON, (size_t)bytes + SENTINEL_BYTES);
    bench_must(b->backend[side]->upload(b->context[side], memory, poison, bytes + SENTINEL_BYTES));
    free(poison);
    return memory;
}

// What an output holds now, to be freed by the caller; the sentinel must be intact.
void *bench_fetch(struct bench *b, int side, const void *memory, int64_t bytes, bool sentinel)
{
    int64_t all = bytes + (sentinel ? SENTINEL_BYTES : 0);
    unsigned char *host = malloc((size_t)all + 1);
    bench_must(b->backend[side]->download(b->context[side], host, memory, all));
    for (int64_t i = bytes; i < all; i++) {
        if (host[i] != POISON) {
            check_failed(__FILE__, __LINE__, "%s: %s wrote %lld bytes beyond its output", b->operator,
                         b->backend[side]->name, (long long)(i - bytes + 1));
            break;
        }
    }
    return host;
}

void bench_release(struct bench *b)
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

float *bench_floats(const struct bench *b, int64_t n, double deviation)
{
    float *values = malloc((size_t)(n + 1) * sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        values[i] = (float)(deviation * (double)check_normal());
        values[i] = narrow(b) ? bf16_to_f32(f32_to_bf16(values[i])) : values[i];
    }
    return values;
}

// Host floats as activations of a side.
void *bench_place_activations(struct bench *b, int side, const float *values, int64_t n)
{
    if (b->backend[side]->activation_bytes == 4) {
        return bench_place(b, side, values, n * 4);
    }
    uint16_t *halves = malloc((size_t)(n + 1) * sizeof *halves);
    for (int64_t i = 0; i < n; i++) {
        halves[i] = f32_to_bf16(values[i]);
    }
    void *memory = bench_place(b, side, halves, n * 2);
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
void bench_compare(struct bench *b, const char *what, void *const out[2], const enum dtype dtype[2], int64_t n,
                    double slack)
{
    char name[160];
    snprintf(name, sizeof name, "%s, %s", b->operator, what);
    void *host[2];
    for (int side = 0; side < 2; side++) {
        host[side] = bench_fetch(b, side, out[side], n * dtype_bytes(dtype[side]), true);
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

void bench_compare_floats(struct bench *b, const char *what, void *const out[2], int64_t n)
{
    bench_compare(b, what, out, (const enum dtype[2]){DTYPE_F32, DTYPE_F32}, n, 1);
}

void bench_compare_activations(struct bench *b, const char *what, void *const out[2], int64_t n)
{
    bench_compare(b, what, out, (const enum dtype[2]){activation_dtype(b, 0), activation_dtype(b, 1)}, n, 1);
}

// Keys and values as op_qkv leaves them: one rounding of the dtype more.
void bench_compare_cached(struct bench *b, const char *what, void *const out[2], int64_t n)
{
    enum dtype dtype = plan_fresh_dtype(b->plan);
    double relative = b->options->relative;
    double slack = dtype == DTYPE_BF16 && relative > 0 && relative < 0x1p-7 ? 0x1p-7 / relative : 1;
    bench_compare(b, what, out, (const enum dtype[2]){dtype, dtype}, n, slack);
}

// The whole memory behind a view, bit for bit.
void bench_compare_memory(struct bench *b, const char *what, void *const memory[2], int64_t bytes)
{
    void *host[2];
    for (int side = 0; side < 2; side++) {
        host[side] = bench_fetch(b, side, memory[side], bytes, false);
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

// ---------------------------------------------------------------------------------------------------------------------
// Weights and batches

struct weight bench_weight(struct bench *b, int32_t n_rows, int32_t n_cols, double centre, double deviation)
{
    enum dtype dtype = b->plan->weight_dtype;
    int64_t n = (int64_t)n_rows * n_cols;
    struct weight weight = {.host = malloc((size_t)(n * dtype_bytes(dtype)))};
    for (int64_t i = 0; i < n; i++) {
        dtype_store(weight.host, i, dtype, (float)(centre + deviation * (double)check_normal()));
    }
    struct matrix host = {.data = weight.host, .dtype = dtype, .n_rows = n_rows, .n_cols = n_cols};
    for (int side = 0; side < 2; side++) {
        bench_must(b->backend[side]->weight_load(b->context[side], &weight.matrix[side], &host));
    }
    return weight;
}

struct weight bench_matrix(struct bench *b, int32_t n_rows, int32_t n_cols)
{
    return bench_weight(b, n_rows, n_cols, 0, 1 / sqrt(n_cols));
}

struct weight bench_norm(struct bench *b, int32_t n)
{
    return bench_weight(b, 1, n, 1, 0.2);
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
void bench_batch(struct bench *b)
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
        bench_must(b->backend[side]->begin_step(b->context[side], &b->batch.batch));
    }
    free(pages);
    free(slots);
    free(tokens);
}

// Random contents for memory of elements of `dtype`, the same on both sides.
void bench_fill(struct bench *b, void *const memory[2], int64_t bytes, enum dtype dtype)
{
    int64_t n = bytes / dtype_bytes(dtype);
    unsigned char *host = malloc((size_t)bytes + 1);
    for (int64_t i = 0; i < n; i++) {
        dtype_store(host, i, dtype, check_normal());
    }
    for (int side = 0; side < 2; side++) {
        bench_must(b->backend[side]->upload(b->context[side], memory[side], host, n * dtype_bytes(dtype)));
    }
    free(host);
}

// One vector of fp8 pages, of any size: random values, in codes and a scale.
static void fill_vector(unsigned char *codes, uint8_t *scale, int32_t n)
{
    uint16_t values[1024];
    float size = exp2f((float)check_range(-6, 3));
    for (int32_t i = 0; i < n; i++) {
        values[i] = f32_to_bf16(size * check_normal());
    }
    *scale = kv_quantise(codes, values, n);
}

// fp8: vectors of different sizes. What belongs to none of them is noise.
void bench_fill_view(struct bench *b, const struct kv_view view[2], int64_t bytes)
{
    const struct kv_view *v = &view[0];
    if (v->dtype != DTYPE_FP8) {
        bench_fill(b, (void *const[2]){view[0].data, view[1].data}, bytes, v->dtype);
        return;
    }
    unsigned char *host = malloc((size_t)bytes + 1);
    for (int64_t i = 0; i < bytes; i++) {
        host[i] = (unsigned char)check_random();
    }
    for (int64_t page = 0; page < bytes / v->page_stride; page++) {
        for (int32_t at = 0; at < v->page_tokens; at++) {
            for (int32_t head = 0; head < b->plan->shape.n_kv_heads; head++) {
                unsigned char *key = host + page * v->page_stride + at * v->token_stride + head * v->head_stride;
                uint8_t *scales = host + page * v->page_stride + v->scale_offset + at * v->scale_token_stride +
                                  head * v->scale_head_stride;
                fill_vector(key, scales, b->plan->shape.head_dim);
                fill_vector(key + v->value_offset, scales + 1, b->plan->shape.head_dim);
            }
        }
    }
    for (int side = 0; side < 2; side++) {
        bench_must(b->backend[side]->upload(b->context[side], view[side].data, host, bytes));
    }
    free(host);
}

// Bounds whose minimum is below the maximum.
void bench_fill_bounds(struct bench *b, const struct bound_view bounds[2])
{
    int64_t bytes = bounds[0].page_stride * b->n_pages;
    int32_t width = b->plan->shape.n_kv_heads * b->plan->shape.head_dim;
    float *host = calloc(1, (size_t)bytes);
    int64_t page_floats = bounds[0].page_stride / 4;
    for (int64_t i = 0; i < bytes / 4; i++) {
        bool high = i % page_floats / width % 2;
        float value = high ? host[i - width] + fabsf(check_normal()) : check_normal();
        host[i] = bf16_to_f32(f32_to_bf16(value));    // an element of a key
    }
    for (int side = 0; side < 2; side++) {
        bench_must(b->backend[side]->upload(b->context[side], bounds[side].data, host, bytes));
    }
    free(host);
}

// ---------------------------------------------------------------------------------------------------------------------
// Both sides

void bench_open(struct bench *b)
{
    const struct operators_options *o = b->options;
    int32_t max_pages = (o->max_context - 1) / b->plan->page_tokens + 1;
    struct backend_options options = {.plan = b->plan, .threads = o->threads, .device = o->device,
                                      .max_rows = o->max_rows, .max_seqs = o->max_seqs, .max_context = o->max_context};
    b->n_pages = max_pages * o->max_seqs + 3;
    for (int side = 0; side < 2; side++) {
        bench_must(b->backend[side]->open(&b->context[side], &options));
        bench_must(kv_cache_open(&b->cache[side], b->backend[side], b->context[side], b->plan, b->n_pages,
                                 o->max_seqs));
    }
    bench_must(step_batch_open(&b->batch, o->max_seqs, o->max_rows, max_pages));
}

void bench_close(struct bench *b)
{
    for (int side = 0; side < 2; side++) {
        bench_must(b->backend[side]->end_step(b->context[side]));
        kv_cache_close(b->cache[side]);
        b->backend[side]->close(b->context[side]);
    }
    step_batch_close(&b->batch);
}
