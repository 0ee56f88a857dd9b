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

static void check_case(int32_t n_rows, int32_t n_in, const int32_t *n_out, int32_t n_segments, enum linear_epilogue epilogue)
{
    int32_t bytes = epilogue == LINEAR_STORE_BF16 || epilogue == LINEAR_SWIGLU ? 2 : 4;
    struct buffer x = buffer_new((int64_t)n_rows * n_in * 2), w[LINEAR_MAX_SEGMENTS], out[LINEAR_MAX_SEGMENTS];
    fill_bf16(&x, 1);
    struct linear_params p = {.x = x.device, .n_rows = n_rows, .n_in = n_in, .n_segments = n_segments, .epilogue = epilogue};
    for (int32_t s = 0; s < n_segments; s++) {
        w[s] = buffer_new((int64_t)n_out[s] * n_in * 2);
        out[s] = buffer_new((int64_t)n_rows * n_out[s] * bytes);
        fill_bf16(&w[s], 1 / sqrtf((float)n_in));
        if (epilogue == LINEAR_ADD_F32) {
            fill_f32(&out[s], 1);
        }
        p.segments[s] = (struct linear_segment){w[s].device, out[s].device, n_out[s]};
    }
    CHECK_MESSAGE(linear_launch(&p, 0) == 0, "%s", status_text());
    for (int32_t s = 0; s < (epilogue == LINEAR_SWIGLU ? 1 : n_segments); s++) {
        int64_t n = (int64_t)n_rows * n_out[s];
        double *expected = malloc(sizeof *expected * (size_t)n);
        float *got = malloc(sizeof *got * (size_t)n);
        for (int64_t i = 0; i < n; i++) {
            int32_t row = (int32_t)(i / n_out[s]), o = (int32_t)(i % n_out[s]);
            expected[i] = product(&x, &w[s], row, o, n_in);
            if (epilogue == LINEAR_ADD_F32) {
                expected[i] += (double)((float *)out[s].host)[i];
            } else if (epilogue == LINEAR_SWIGLU) {
                expected[i] *= product(&x, &w[1], row, o, n_in) / (1 + exp(-expected[i]));
            }
        }
        buffer_down(&out[s]);
        for (int64_t i = 0; i < n; i++) {
            got[i] = bytes == 2 ? at_bf16(&out[s], i) : ((float *)out[s].host)[i];
        }
        char what[96];
        snprintf(what, sizeof what, "linear %d x %d -> %d, segment %d, epilogue %d", n_rows, n_in, n_out[s], s, (int)epilogue);
        check_close(what, got, expected, n, bytes == 2 ? 2e-3 : 2e-5, bytes == 2 ? 8e-3 : 2e-5, bytes == 2 ? 1e-5 : 1e-9);
        free(expected);
        free(got);
    }
    for (int32_t s = 0; s < n_segments; s++) {
        buffer_free(&w[s]);
        buffer_free(&out[s]);
    }
    buffer_free(&x);
}

int test_linear(void)
{
    check_begin();
    static const int32_t rows[] = {1, 2, 5, 8, 9, 16, 17, 32, 33, 64};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        check_case(rows[i], 256, (int32_t[]){320, 64, 64}, 3, LINEAR_STORE_BF16);
        check_case(rows[i], 8 * check_range(1, 40), (int32_t[]){check_range(1, 100), check_range(1, 50)}, 2, LINEAR_STORE_F32);
        check_case(rows[i], 768, (int32_t[]){256}, 1, LINEAR_ADD_F32);
        check_case(rows[i], 256, (int32_t[]){300, 300}, 2, LINEAR_SWIGLU);
    }
    check_case(1, 2560, (int32_t[]){8200}, 1, LINEAR_STORE_F32);
    check_case(12, 264, (int32_t[]){8195}, 1, LINEAR_STORE_BF16);
    return check_end();
}
