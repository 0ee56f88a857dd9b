// tests/cuda/test_elementwise.c - norms, heads, cache writes, rows and argmax against plain C in double precision.
#include "tests/cuda/gpu.h"

// Compares what lies in a bf16 or f32 buffer.
static void check_buffer(const char *what, const struct buffer *b, const double *expected, int64_t n, bool bf16)
{
    float *got = malloc(sizeof *got * (size_t)n);
    buffer_down(b);
    for (int64_t i = 0; i < n; i++) {
        got[i] = bf16 ? at_bf16(b, i) : ((const float *)b->host)[i];
    }
    check_close(what, got, expected, n, bf16 ? 2e-3 : 1e-5, bf16 ? 8e-3 : 1e-5, bf16 ? 1e-5 : 1e-9);
    free(got);
}

static void check_rms_norm(int32_t n, int32_t hidden)
{
    int64_t values = (int64_t)n * hidden;
    struct buffer x = buffer_new(values * 4), weight = buffer_new(hidden * 4), out = buffer_new(values * 2);
    double *expected = malloc(sizeof *expected * (size_t)values);
    fill_f32(&x, 3);
    fill_f32(&weight, 1);
    struct norm_params p = {
        .x = x.device, .weight = weight.device, .out = out.device, .n = n, .hidden = hidden, .eps = 1e-5f};
    CHECK_MESSAGE(rms_norm_launch(&p, 0) == 0, "%s", status_text());
    for (int32_t r = 0; r < n; r++) {
        const float *row = (const float *)x.host + (int64_t)r * hidden;
        double squares = 0;
        for (int32_t i = 0; i < hidden; i++) {
            squares += (double)row[i] * (double)row[i];
        }
        for (int32_t i = 0; i < hidden; i++) {
            expected[(int64_t)r * hidden + i] =
                (double)row[i] / sqrt(squares / hidden + 1e-5) * (double)((const float *)weight.host)[i];
        }
    }
    char what[64];
    snprintf(what, sizeof what, "rms norm of %d x %d", n, hidden);
    check_buffer(what, &out, expected, values, true);
    free(expected);
    buffer_free(&x);
    buffer_free(&weight);
    buffer_free(&out);
}

// One head: normed where it has a weight, pairs (i, i + dims/2) of its first `dims` turned.
static void turn_head(double *v, int32_t dims, int32_t position, double theta)
{
    for (int32_t i = 0; i < dims / 2 && theta > 0; i++) {
        double angle = position * pow(theta, -2.0 * i / dims), low = v[i], high = v[i + dims / 2];
        v[i] = low * cos(angle) - high * sin(angle);
        v[i + dims / 2] = high * cos(angle) + low * sin(angle);
    }
}

static void expect_heads(double *out, const struct buffer *x, int32_t heads, int32_t dim, const struct buffer *norm,
                         int32_t position, int32_t row, double theta)
{
    for (int32_t h = 0; h < heads; h++) {
        int64_t at = ((int64_t)row * heads + h) * dim;
        double squares = 0;
        for (int32_t d = 0; d < dim; d++) {
            out[at + d] = (double)at_bf16(x, at + d);
            squares += out[at + d] * out[at + d];
        }
        for (int32_t d = 0; d < dim && norm; d++) {
            out[at + d] *= (double)((const float *)norm->host)[d] / sqrt(squares / dim + 1e-5);
        }
        turn_head(out + at, dim, position, theta);
    }
}

struct finish_test {
    int32_t n, heads, kv_heads, dim;
    bool ring, normed, turned;
    struct buffer q, k, v, norm, cache, context, n_rows;
    struct paged paged;
    double *k_expected;
};

// Every element of the cache: what a row put there, or poison.
static void check_cache(struct finish_test *t, const struct kv_view *view)
{
    int64_t elements = t->cache.bytes / 2, width = t->kv_heads * t->dim;
    double *expected = malloc(sizeof *expected * (size_t)elements);
    bool *written = calloc((size_t)elements, sizeof *written);
    for (int32_t r = 0; r < t->n; r++) {
        int32_t token = ((const int32_t *)t->paged.position.host)[r];
        int64_t at = t->ring ? r * view->page_stride + token % view->page_tokens * view->token_stride
                             : paged_at(&t->paged, r, token, view->page_stride, view->token_stride);
        for (int64_t i = 0; i < width; i++) {
            int64_t to = (at + i / t->dim * view->head_stride) / 2 + i % t->dim;
            expected[to] = t->k_expected[r * width + i];
            expected[to + view->value_offset / 2] = (double)at_bf16(&t->v, r * width + i);
            written[to] = written[to + view->value_offset / 2] = true;
        }
    }
    buffer_down(&t->cache);
    for (int64_t i = 0; i < elements; i++) {
        float got = at_bf16(&t->cache, i);
        bool right = written[i] ? fabs((double)got - expected[i]) <= 2e-3 + 8e-3 * fabs(expected[i])
                                : ((const uint16_t *)t->cache.host)[i] == 0xffff;
        if (!right) {
            check_failed(__FILE__, __LINE__, "cache element %lld: %g, expected %s %g", (long long)i, (double)got,
                         written[i] ? "value" : "nothing, not", written[i] ? expected[i] : 0);
            break;
        }
    }
    free(expected);
    free(written);
}

static void check_finish(int32_t n, int32_t heads, int32_t kv_heads, int32_t dim, bool ring, bool normed, bool turned)
{
    enum { PAGE = 16 };
    struct finish_test t = {n, heads, kv_heads, dim, ring, normed, turned, .norm = buffer_new(dim * 4)};
    int64_t q_size = (int64_t)n * heads * dim, k_size = (int64_t)n * kv_heads * dim,
            token_bytes = 4 * (int64_t)kv_heads * dim;
    int32_t *tokens = malloc(sizeof *tokens * (size_t)n);
    for (int32_t i = 0; i < n; i++) {
        tokens[i] = check_range(1, 300);
    }
    t.paged = paged_new(tokens, n, PAGE);
    struct buffer *const heads_of[] = {&t.q, &t.k, &t.v};
    for (int i = 0; i < 3; i++) {
        *heads_of[i] = buffer_new((i ? k_size : q_size) * 2);
        fill_bf16(heads_of[i], 2);
    }
    fill_f32(&t.norm, 1);
    t.context = buffer_new(4 * (int64_t)n);
    t.n_rows = buffer_new(4 * (int64_t)n);
    for (int32_t i = 0; i < n; i++) {
        ((int32_t *)t.context.host)[i] = tokens[i] - 1;
        ((int32_t *)t.n_rows.host)[i] = 1;
    }
    buffer_up(&t.context);
    buffer_up(&t.n_rows);
    int64_t pages = ring ? n : t.paged.n_pages;
    t.cache = buffer_new(pages * PAGE * token_bytes);
    bool by_head = check_range(0, 1);
    struct kv_view view = {.data = t.cache.device,
                           .page_tokens = PAGE,
                           .page_stride = PAGE * token_bytes,
                           .ring = ring,
                           .token_stride = by_head ? dim * 2 : token_bytes,
                           .head_stride = by_head ? 2 * PAGE * dim * 2 : dim * 2,
                           .value_offset = by_head ? PAGE * dim * 2 : token_bytes / 2};
    struct qkv_finish_params p = {.rows = t.paged.rows,
                                  .q = t.q.device,
                                  .k = t.k.device,
                                  .v = t.v.device,
                                  .n_heads = heads,
                                  .n_kv_heads = kv_heads,
                                  .head_dim = dim,
                                  .eps = 1e-5f,
                                  .theta = turned ? 10000 : 0,
                                  .view = view,
                                  .q_norm = normed ? t.norm.device : NULL,
                                  .k_norm = normed ? t.norm.device : NULL,
                                  .slot = t.paged.seq.device,
                                  .context = t.context.device,
                                  .n_rows = t.n_rows.device};
    CHECK_MESSAGE(qkv_finish_launch(&p, 0) == 0, "%s", status_text());
    double *q_expected = malloc(sizeof *q_expected * (size_t)q_size);
    t.k_expected = malloc(sizeof *t.k_expected * (size_t)k_size);
    for (int32_t r = 0; r < n; r++) {
        int32_t position = ((const int32_t *)t.paged.position.host)[r];
        expect_heads(q_expected, &t.q, heads, dim, normed ? &t.norm : NULL, position, r, turned ? 10000 : 0);
        expect_heads(t.k_expected, &t.k, kv_heads, dim, normed ? &t.norm : NULL, position, r, turned ? 10000 : 0);
    }
    char what[96];
    snprintf(what, sizeof what, "heads: %d rows of %d + %d x %d, ring %d, norm %d, turn %d", n, heads, kv_heads, dim,
             ring, normed, turned);
    check_buffer(what, &t.q, q_expected, q_size, true);
    check_buffer(what, &t.k, t.k_expected, k_size, true);
    check_cache(&t, &view);
    free(tokens);
    free(q_expected);
    free(t.k_expected);
    struct buffer *const all[] = {&t.q, &t.k, &t.v, &t.norm, &t.cache, &t.context, &t.n_rows};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        buffer_free(all[i]);
    }
    paged_free(&t.paged);
}

// Positions so far that a single-precision angle would have lost its turn.
static void check_far(int32_t heads, int32_t dim)
{
    int32_t position = check_range(500000, 1000000);
    struct buffer x = buffer_new((int64_t)heads * dim * 2), at = buffer_new(4);
    double *expected = malloc(sizeof *expected * (size_t)(heads * dim));
    fill_bf16(&x, 1);
    ((int32_t *)at.host)[0] = position;
    buffer_up(&at);
    struct qkv_finish_params p = {.rows = {.n = 1, .position = at.device}, .q = x.device, .n_heads = heads,
                                  .head_dim = dim, .eps = 1e-5f, .theta = 10000};
    CHECK_MESSAGE(qkv_finish_launch(&p, 0) == 0, "%s", status_text());
    expect_heads(expected, &x, heads, dim, NULL, position, 0, 10000);
    check_buffer("a far position", &x, expected, heads * dim, true);
    free(expected);
    buffer_free(&x);
    buffer_free(&at);
}

static void check_index_norm(int32_t n, int32_t heads, int32_t dim, bool weighted)
{
    int64_t values = (int64_t)n * heads * dim;
    struct buffer x = buffer_new(values * 2), at = buffer_new(n * 4), weight = buffer_new(dim * 4),
                  bias = buffer_new(dim * 4);
    double *expected = malloc(sizeof *expected * (size_t)values);
    fill_bf16(&x, 1);
    fill_f32(&weight, 1);
    fill_f32(&bias, 1);
    for (int32_t i = 0; i < n; i++) {
        ((int32_t *)at.host)[i] = check_range(0, 200000);
    }
    buffer_up(&at);
    struct index_norm_params p = {.x = x.device,
                                  .position = at.device,
                                  .n = n,
                                  .heads = heads,
                                  .dim = dim,
                                  .eps = 1e-5f,
                                  .theta = 10000,
                                  .weight = weighted ? weight.device : NULL,
                                  .bias = weighted ? bias.device : NULL};
    CHECK_MESSAGE(index_norm_launch(&p, 0) == 0, "%s", status_text());
    for (int64_t h = 0; h < (int64_t)n * heads; h++) {
        double *v = expected + h * dim, sum = 0, squares = 0;
        for (int32_t d = 0; d < dim; d++) {
            v[d] = (double)at_bf16(&x, h * dim + d);
            sum += v[d];
        }
        for (int32_t d = 0; d < dim; d++) {
            squares += (v[d] - sum / dim) * (v[d] - sum / dim);
        }
        for (int32_t d = 0; d < dim && weighted; d++) {
            v[d] = (v[d] - sum / dim) / sqrt(squares / dim + 1e-5) * (double)((const float *)weight.host)[d] +
                   (double)((const float *)bias.host)[d];
        }
        turn_head(v, dim / 4 * 2, ((const int32_t *)at.host)[h / heads], 10000);
    }
    check_buffer("index norm", &x, expected, values, true);
    free(expected);
    struct buffer *const all[] = {&x, &at, &weight, &bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        buffer_free(all[i]);
    }
}

static void check_argmax(int32_t n, int32_t vocab)
{
    struct buffer logits = buffer_new((int64_t)n * vocab * 4), token = buffer_new(n * 4);
    fill_f32(&logits, 1);
    int32_t *expected = malloc(sizeof *expected * (size_t)n);
    for (int32_t r = 0; r < n; r++) {
        float *row = (float *)logits.host + (int64_t)r * vocab;
        for (int i = 0; i < 4; i++) {
            row[check_range(0, vocab - 1)] = 100;    // ties: the lowest counts
        }
        if (check_range(0, 3) == 0) {
            row[check_range(0, vocab - 1)] = NAN;
        }
        expected[r] = 0;
        for (int32_t i = 0; i < vocab; i++) {
            if (isnan(row[i])) {
                expected[r] = -1;
                break;
            }
            expected[r] = row[i] > row[expected[r]] ? i : expected[r];
        }
    }
    buffer_up(&logits);
    CHECK_MESSAGE(argmax_launch(token.device, logits.device, n, vocab, 0) == 0, "%s", status_text());
    buffer_down(&token);
    for (int32_t r = 0; r < n; r++) {
        int32_t got = ((const int32_t *)token.host)[r];
        CHECK_MESSAGE(got == expected[r], "argmax of row %d of %d x %d: %d, expected %d", r, n, vocab, got,
                      expected[r]);
    }
    free(expected);
    buffer_free(&logits);
    buffer_free(&token);
}

static void check_swiglu(int64_t n)
{
    struct buffer gate = buffer_new(n * 2), up = buffer_new(n * 2), out = buffer_new(n * 2);
    double *expected = malloc(sizeof *expected * (size_t)n);
    fill_bf16(&gate, 2);
    fill_bf16(&up, 2);
    for (int64_t i = 0; i < n; i++) {
        double g = (double)at_bf16(&gate, i);
        expected[i] = g / (1 + exp(-g)) * (double)at_bf16(&up, i);
    }
    CHECK_MESSAGE(swiglu_launch(out.device, gate.device, up.device, n, 0) == 0, "%s", status_text());
    check_buffer("swiglu", &out, expected, n, true);
    free(expected);
    buffer_free(&gate);
    buffer_free(&up);
    buffer_free(&out);
}

// Rows of a table, scaled to f32, and rows copied as they are.
static void check_rows(int32_t n, int32_t hidden, int64_t row_bytes)
{
    enum { TABLE = 50 };
    struct buffer table = buffer_new((int64_t)TABLE * hidden * 2), source = buffer_new(n * 4),
                  out = buffer_new((int64_t)n * hidden * 4);
    struct buffer in = buffer_new(TABLE * row_bytes), copy = buffer_new(n * row_bytes);
    double *expected = malloc(sizeof *expected * (size_t)(n * hidden));
    fill_bf16(&table, 1);
    fill_bf16(&in, 1);
    for (int32_t i = 0; i < n; i++) {
        ((int32_t *)source.host)[i] = check_range(0, TABLE - 1);
    }
    buffer_up(&source);
    CHECK_MESSAGE(embed_launch(out.device, table.device, source.device, n, hidden, 1.5f, 0) == 0, "%s", status_text());
    CHECK_MESSAGE(take_rows_launch(copy.device, in.device, source.device, n, row_bytes, 0) == 0, "%s", status_text());
    buffer_down(&copy);
    for (int32_t i = 0; i < n; i++) {
        int64_t from = ((const int32_t *)source.host)[i];
        for (int32_t d = 0; d < hidden; d++) {
            expected[i * hidden + d] = 1.5 * (double)at_bf16(&table, from * hidden + d);
        }
        CHECK(memcmp((char *)copy.host + i * row_bytes, (char *)in.host + from * row_bytes, (size_t)row_bytes) == 0);
    }
    check_buffer("embed", &out, expected, n * hidden, false);
    free(expected);
    struct buffer *const all[] = {&table, &source, &out, &in, &copy};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        buffer_free(all[i]);
    }
}

int test_elementwise(void)
{
    check_begin();
    static const int32_t hidden[] = {64, 1024, 1028, 2560, 8192, 8196, 98};
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        check_rms_norm(check_range(1, 5), hidden[i]);
    }
    static const int32_t dims[] = {16, 32, 64, 128};
    for (size_t i = 0; i < 4; i++) {
        check_finish(1, 20, 4, dims[i], true, true, true);
        check_finish(check_range(2, 40), check_range(1, 24), check_range(1, 4), dims[i], false, check_range(0, 1),
                     true);
        check_finish(check_range(150, 200), check_range(1, 24), check_range(1, 4), dims[i], check_range(0, 1), true,
                     check_range(0, 1));
        check_finish(3, 60, 20, dims[i], true, true, true);
    }
    check_far(20, 128);
    check_far(1, 64);
    check_index_norm(3, 64, 128, false);
    check_index_norm(5, 1, 128, true);
    check_index_norm(2, 9, 48, true);
    check_argmax(3, 131072);
    check_argmax(33, 4097);
    check_argmax(2, 5);
    check_swiglu(7680 * 3);
    check_swiglu(2051);
    check_rows(7, 256, 5120);
    check_rows(3, 72, 36);
    return check_end();
}
