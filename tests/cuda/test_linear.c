// tests/cuda/test_linear.c - skinny products against double precision: every row count class, odd sizes, segments.
#include "tests/cuda/gpu.h"

static double product(const struct buffer *x, const struct buffer *w, int32_t row, int32_t out, int32_t n_in)
{
    double sum = 0;
    for (int32_t i = 0; i < n_in; i++) {
        sum += (double)at_bf16(x, (int64_t)row * n_in + i) * (double)at_bf16(w, (int64_t)out * n_in + i);
    }
    return sum;
}

// 1/rms of a row, from the sums of squares that the product before would have left.
static double scale_of(const struct buffer *squares, int32_t row, int32_t n_in, double eps)
{
    int32_t n = (n_in + LINEAR_SQUARES - 1) / LINEAR_SQUARES;
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += (double)((const float *)squares->host)[(int64_t)row * n + i];
    }
    return 1 / sqrt(sum / n_in + eps);
}

struct linear_test {
    struct linear_params p;
    struct buffer x, squares, weight[LINEAR_MAX_SEGMENTS], out[LINEAR_MAX_SEGMENTS], norm, next_x, next_squares;
};

// What output `o` of `row` in segment s should be.
static double expected_of(const struct linear_test *t, int32_t s, int32_t row, int32_t o)
{
    const struct linear_params *p = &t->p;
    double scale = p->squares ? scale_of(&t->squares, row, p->n_in, (double)p->norm_eps) : 1;
    double value = product(&t->x, &t->weight[s], row, o, p->n_in) * scale;
    if (p->epilogue == LINEAR_ADD_F32) {
        value += (double)((const float *)t->out[s].host)[(int64_t)row * p->segments[s].n_out + o];
    } else if (p->epilogue == LINEAR_SWIGLU) {
        value *= product(&t->x, &t->weight[1], row, o, p->n_in) * scale / (1 + exp(-value));
    }
    return value;
}

static bool is_bf16(enum linear_epilogue epilogue)
{
    return epilogue == LINEAR_STORE_BF16 || epilogue == LINEAR_SWIGLU;
}

static void check_values(const struct linear_test *t, const char *of, int32_t s, const float *got,
                         const double *expected, int64_t n, bool bf16)
{
    char what[128];
    snprintf(what, sizeof what, "linear %d x %d -> %d, segment %d, epilogue %d, %s", t->p.n_rows, t->p.n_in,
             t->p.segments[s].n_out, s, (int)t->p.epilogue, of);
    check_close(what, got, expected, n, bf16 ? 2e-3 : 2e-5, bf16 ? 8e-3 : 2e-5, bf16 ? 1e-5 : 1e-9);
}

// The rows for the next norm and the sums of squares, from the outputs expected.
static void check_next(const struct linear_test *t, const double *expected)
{
    int32_t n_out = t->p.segments[0].n_out, n_squares = (n_out + LINEAR_SQUARES - 1) / LINEAR_SQUARES;
    int64_t n = (int64_t)t->p.n_rows * n_out;
    double *weighted = malloc(sizeof *weighted * (size_t)n),
           *squares = calloc((size_t)(t->p.n_rows * n_squares), sizeof *squares);
    float *got = malloc(sizeof *got * (size_t)n);
    buffer_down(&t->next_x);
    buffer_down(&t->next_squares);
    for (int64_t i = 0; i < n; i++) {
        weighted[i] = expected[i] * (double)((const float *)t->norm.host)[i % n_out];
        squares[i / n_out * n_squares + i % n_out / LINEAR_SQUARES] += expected[i] * expected[i];
        got[i] = at_bf16(&t->next_x, i);
    }
    check_values(t, "next rows", 0, got, weighted, n, true);
    check_values(t, "squares", 0, t->next_squares.host, squares, (int64_t)t->p.n_rows * n_squares, false);
    free(weighted);
    free(squares);
    free(got);
}

static struct linear_test test_new(int32_t n_rows, int32_t n_in, const int32_t *n_out, int32_t n_segments,
                                   enum linear_epilogue epilogue, bool norms)
{
    struct linear_test t = {.p = {.n_rows = n_rows, .n_in = n_in, .n_segments = n_segments, .epilogue = epilogue}};
    t.x = buffer_new((int64_t)n_rows * n_in * 2);
    fill_bf16(&t.x, 1);
    t.p.x = t.x.device;
    for (int32_t s = 0; s < n_segments; s++) {
        t.weight[s] = buffer_new((int64_t)n_out[s] * n_in * 2);
        t.out[s] = buffer_new((int64_t)n_rows * n_out[s] * (is_bf16(epilogue) ? 2 : 4));
        fill_bf16(&t.weight[s], 1 / sqrtf((float)n_in));
        if (epilogue == LINEAR_ADD_F32) {
            fill_f32(&t.out[s], 1);
        }
        t.p.segments[s] = (struct linear_segment){t.weight[s].device, t.out[s].device, n_out[s]};
    }
    if (norms) {
        t.squares = buffer_new((int64_t)n_rows * ((n_in + LINEAR_SQUARES - 1) / LINEAR_SQUARES) * 4);
        for (int64_t i = 0; i < t.squares.bytes / 4; i++) {
            ((float *)t.squares.host)[i] = (float)check_range(1, 1000) / 10;
        }
        buffer_up(&t.squares);
        t.p.squares = t.squares.device;
        t.p.norm_eps = 1e-5f;
    }
    if (norms && epilogue == LINEAR_ADD_F32) {
        t.norm = buffer_new((int64_t)n_out[0] * 4);
        t.next_x = buffer_new((int64_t)n_rows * n_out[0] * 2);
        t.next_squares = buffer_new((int64_t)n_rows * ((n_out[0] + LINEAR_SQUARES - 1) / LINEAR_SQUARES) * 4);
        fill_f32(&t.norm, 1);
        t.p.next_norm = t.norm.device;
        t.p.next_x = t.next_x.device;
        t.p.next_squares = t.next_squares.device;
    }
    return t;
}

static void test_free(struct linear_test *t)
{
    struct buffer *const all[] = {&t->x, &t->squares, &t->norm, &t->next_x, &t->next_squares};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        buffer_free(all[i]);
    }
    for (int32_t s = 0; s < t->p.n_segments; s++) {
        buffer_free(&t->weight[s]);
        buffer_free(&t->out[s]);
    }
}

static void check_case(int32_t n_rows, int32_t n_in, const int32_t *n_out, int32_t n_segments,
                       enum linear_epilogue epilogue, bool norms)
{
    struct linear_test t = test_new(n_rows, n_in, n_out, n_segments, epilogue, norms);
    CHECK_MESSAGE(linear_launch(&t.p, 0) == 0, "%s", status_text());
    for (int32_t s = 0; s < (epilogue == LINEAR_SWIGLU ? 1 : n_segments); s++) {
        int64_t n = (int64_t)n_rows * n_out[s];
        double *expected = malloc(sizeof *expected * (size_t)n);
        float *got = malloc(sizeof *got * (size_t)n);
        for (int64_t i = 0; i < n; i++) {
            expected[i] = expected_of(&t, s, (int32_t)(i / n_out[s]), (int32_t)(i % n_out[s]));
        }
        buffer_down(&t.out[s]);
        for (int64_t i = 0; i < n; i++) {
            got[i] = is_bf16(epilogue) ? at_bf16(&t.out[s], i) : ((float *)t.out[s].host)[i];
        }
        check_values(&t, "outputs", s, got, expected, n, is_bf16(epilogue));
        if (t.p.next_norm) {
            check_next(&t, expected);
        }
        free(expected);
        free(got);
    }
    test_free(&t);
}

int test_linear(void)
{
    check_begin();
    static const int32_t rows[] = {1, 2, 5, 8, 9, 16, 17, 32, 33, 64};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        bool norms = check_range(0, 1);
        check_case(rows[i], 256, (int32_t[]){320, 64, 64}, 3, LINEAR_STORE_BF16, norms);
        check_case(rows[i], 8 * check_range(1, 40), (int32_t[]){check_range(1, 100), check_range(1, 50)}, 2,
                   LINEAR_STORE_F32, !norms);
        check_case(rows[i], 768, (int32_t[]){256}, 1, LINEAR_ADD_F32, false);
        check_case(rows[i], 8 * check_range(1, 120), (int32_t[]){check_range(1, 300)}, 1, LINEAR_ADD_F32, true);
        check_case(rows[i], 2560, (int32_t[]){192}, 1, LINEAR_ADD_F32, true);
        check_case(rows[i], 256, (int32_t[]){300, 300}, 2, LINEAR_SWIGLU, norms);
        int32_t inner = check_range(1, 200);
        check_case(rows[i], 8 * check_range(1, 60), (int32_t[]){inner, inner}, 2, LINEAR_SWIGLU, !norms);
    }
    check_case(1, 2560, (int32_t[]){8200}, 1, LINEAR_STORE_F32, true);
    check_case(12, 264, (int32_t[]){8195}, 1, LINEAR_STORE_BF16, false);
    for (int32_t n = 1; n <= 33; n += 32) {    // five blocks share n_in
        check_case(n, 2560, (int32_t[]){2560, 512, 512}, 3, LINEAR_STORE_BF16, true);
    }
    return check_end();
}
