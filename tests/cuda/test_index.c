// tests/cuda/test_index.c - index scores and page bounds against double precision.
#include "tests/cuda/gpu.h"

struct index_case {
    enum index_score score;
    enum dtype dtype;
    int32_t heads, dim, unit_tokens, page_tokens, n_seqs;
    int32_t tokens[8];
    enum pooling pooling;
    const char *name;
};

// fp8 as the format defines it: sign, 4 exponent bits (bias 7), 3 of mantissa.
static double fp8_value(uint8_t bits)
{
    int e = bits >> 3 & 15, m = bits & 7;
    double v = e ? ldexp(1 + m / 8.0, e - 7) : ldexp(m / 8.0, -6);
    return bits & 0x80 ? -v : v;
}

static double fp8_round(double x)
{
    double a = fabs(x), best = 0;
    for (int i = 0; i < 127; i++) {    // the nearest; ties to the even code
        double v = fp8_value((uint8_t)i), d = fabs(v - a), b = fabs(best - a);
        best = d < b || (d == b && i % 2 == 0) ? v : best;
    }
    return x < 0 ? -best : best;
}

static void check_case(const struct index_case *c)
{
    bool fp8 = c->dtype == DTYPE_FP8, dot = c->score == INDEX_DOT;
    int32_t n = c->n_seqs, sets = dot ? c->heads : 1, most = 0;
    struct paged paged = paged_new(c->tokens, n, c->page_tokens);
    int64_t key_bytes = c->dim * (fp8 ? 1 : 2), scale_offset = c->page_tokens * key_bytes;
    int64_t page_stride = scale_offset + (fp8 ? 4 * (int64_t)c->page_tokens : 0);
    page_stride = (page_stride + 15) / 16 * 16;
    struct buffer keys = buffer_new(page_stride * paged.n_pages), q = buffer_new((int64_t)n * c->heads * c->dim * 2);
    struct buffer gate = buffer_new((int64_t)n * c->heads * 4);
    fill_bf16(&keys, 1);
    fill_bf16(&q, 1);
    fill_f32(&gate, 0.1f);
    if (fp8) {
        for (int64_t i = 0; i < keys.bytes; i++) {
            uint8_t *b = (uint8_t *)keys.host + i;
            *b = (*b & 0x7f) == 0x7f ? 0 : *b;
        }
        for (int64_t page = 0; page < paged.n_pages; page++) {
            for (int32_t t = 0; t < c->page_tokens; t++) {
                float scale = (float)(0.001 + check_uniform() * 0.01);
                memcpy((char *)keys.host + page * page_stride + scale_offset + 4 * t, &scale, 4);
            }
        }
        buffer_up(&keys);
    }
    for (int32_t s = 0; s < n; s++) {
        most = c->tokens[s] > most ? c->tokens[s] : most;
    }
    int32_t stride = (most + c->unit_tokens - 1) / c->unit_tokens + 3;
    struct buffer scores = buffer_new((int64_t)n * sets * stride * 4);
    struct index_score_params p = {
        .rows = paged.rows, .first = 0, .n = n, .q = q.device, .gate = gate.device, .score = c->score, .heads = c->heads,
        .sets = sets, .unit_tokens = c->unit_tokens, .pooling = c->pooling, .max_context = most, .scores = scores.device,
        .stride = stride,
        .keys = {.data = keys.device, .dtype = c->dtype, .page_tokens = c->page_tokens, .dim = c->dim,
                 .page_stride = page_stride, .scale_offset = scale_offset}};
    CHECK_MESSAGE(index_score_launch(&p, 0) == 0, "%s", status_text());
    buffer_down(&scores);

    double *query = malloc(sizeof *query * (size_t)c->dim * (size_t)c->heads), *expected = malloc(sizeof *expected * (size_t)stride * (size_t)sets);
    for (int32_t s = 0; s < n; s++) {
        for (int32_t h = 0; h < c->heads; h++) {
            double top = 0;
            for (int32_t d = 0; d < c->dim; d++) {
                query[h * c->dim + d] = (double)at_bf16(&q, ((int64_t)s * c->heads + h) * c->dim + d);
                top = fmax(top, fabs(query[h * c->dim + d]));
            }
            float scale = (float)top / 448;
            for (int32_t d = 0; fp8 && d < c->dim; d++) {
                query[h * c->dim + d] = fp8_round((double)((float)query[h * c->dim + d] / scale)) * (double)scale;
            }
        }
        int32_t units = (c->tokens[s] + c->unit_tokens - 1) / c->unit_tokens;
        for (int32_t j = 0; j < sets; j++) {
            for (int32_t u = 0; u < units; u++) {
                double pooled = c->pooling == POOLING_MAX ? -INFINITY : 0;
                int32_t end = (u + 1) * c->unit_tokens < c->tokens[s] ? (u + 1) * c->unit_tokens : c->tokens[s];
                for (int32_t t = u * c->unit_tokens; t < end; t++) {
                    int64_t at = paged_at(&paged, s, t, page_stride, key_bytes);
                    const char *key = (const char *)keys.host + at;
                    float key_scale = 1;
                    if (fp8) {
                        memcpy(&key_scale, (const char *)keys.host + at - t % c->page_tokens * key_bytes + scale_offset +
                                               t % c->page_tokens * 4, 4);
                    }
                    double score = 0;
                    for (int32_t h = dot ? j : 0; h < (dot ? j + 1 : c->heads); h++) {
                        double sum = 0;
                        for (int32_t d = 0; d < c->dim; d++) {
                            double k = fp8 ? fp8_value((uint8_t)key[d]) : (double)bf16_to_f32(((const uint16_t *)(const void *)key)[d]);
                            sum += k * query[h * c->dim + d];
                        }
                        score += dot ? sum : fmax(sum, 0) * (double)((float *)gate.host)[s * c->heads + h];
                    }
                    score *= (double)key_scale;
                    pooled = c->pooling == POOLING_MAX ? fmax(pooled, score) : pooled + score / (end - u * c->unit_tokens);
                }
                expected[j * stride + u] = pooled;
            }
            double scale = sqrt(c->dim) * 1e-3;
            check_close(c->name, (float *)scores.host + ((int64_t)s * sets + j) * stride, expected + j * stride, units,
                        fp8 ? 20 * scale : scale, fp8 ? 1e-2 : 1e-3, fp8 ? 1e-5 : 1e-8);
            for (int32_t u = units; u < stride; u++) {
                CHECK_MESSAGE(isnan(((float *)scores.host)[((int64_t)s * sets + j) * stride + u]), "%s: wrote unit %d of %d", c->name, u,
                              units);
            }
        }
    }
    free(query);
    free(expected);
    struct buffer *all[] = {&keys, &q, &gate, &scores};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&paged);
}

int test_index(void)
{
    check_begin();
    static const struct index_case cases[] = {
        {INDEX_DOT, DTYPE_BF16, 1, 128, 1, 64, 3, {5000, 1, 130}, POOLING_MAX, "dot bf16"},
        {INDEX_DOT, DTYPE_BF16, 1, 128, 1, 64, 1, {1000000}, POOLING_MAX, "dot bf16, 1M"},
        {INDEX_DOT, DTYPE_BF16, 1, 16, 1, 16, 2, {100, 7}, POOLING_MAX, "dot bf16, dim 16"},
        {INDEX_DOT, DTYPE_BF16, 1, 32, 1, 24, 2, {100, 7}, POOLING_MAX, "dot bf16, dim 32, pages of 24"},
        {INDEX_DOT, DTYPE_BF16, 1, 64, 1, 64, 2, {100, 700}, POOLING_MAX, "dot bf16, dim 64"},
        {INDEX_DOT, DTYPE_FP8, 1, 128, 1, 64, 3, {5000, 1, 130}, POOLING_MAX, "dot fp8"},
        {INDEX_DOT, DTYPE_FP8, 1, 32, 1, 64, 2, {1000, 130}, POOLING_MAX, "dot fp8, dim 32"},
        {INDEX_DOT, DTYPE_BF16, 4, 128, 128, 128, 3, {5000, 1, 130}, POOLING_MAX, "blocks, 4 sets"},
        {INDEX_DOT, DTYPE_BF16, 1, 128, 128, 64, 2, {5000, 99}, POOLING_MEAN, "blocks, mean"},
        {INDEX_DOT, DTYPE_BF16, 2, 16, 8, 16, 2, {99, 8}, POOLING_MAX, "blocks of 8, 2 sets"},
        {INDEX_GATED_RELU, DTYPE_BF16, 4, 64, 1, 64, 2, {300, 17}, POOLING_MAX, "gated bf16, 4 heads"},
        {INDEX_GATED_RELU, DTYPE_BF16, 64, 128, 1, 64, 2, {900, 17}, POOLING_MAX, "gated bf16, 64 heads"},
        {INDEX_GATED_RELU, DTYPE_FP8, 64, 128, 1, 64, 2, {5000, 17}, POOLING_MAX, "gated fp8, 64 heads"},
        {INDEX_GATED_RELU, DTYPE_FP8, 12, 64, 1, 64, 2, {500, 17}, POOLING_MAX, "gated fp8, 12 heads"},
        {INDEX_GATED_RELU, DTYPE_FP8, 24, 128, 1, 64, 1, {500}, POOLING_MAX, "gated fp8, 24 heads"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_case(&cases[i]);
    }
    return check_end();
}
