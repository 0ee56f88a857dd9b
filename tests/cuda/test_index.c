// tests/cuda/test_index.c - index scores of decode and of prompts against double precision.
#include "tests/cuda/gpu.h"

struct index_case {
    enum index_score score;
    enum dtype dtype;
    int32_t heads, dim, unit_tokens, page_tokens, n_seqs;
    int32_t tokens[8];
    enum pooling pooling;
    const char *name;
    int32_t n_rows[8];    // the last ones of each sequence; 0: one
    int32_t first;        // rows before it are not scored
};

// Everything that one launch reads and writes.
struct index_data {
    struct paged paged;
    struct buffer row_seq, row_position, keys, q, gate, scores, maxima;
    struct index_score_params p;
    int32_t n_rows, most;
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

// Rows as a step has them: sequence by sequence, ascending.
static void make_rows(const struct index_case *c, struct index_data *d)
{
    d->paged = paged_new(c->tokens, c->n_seqs, c->page_tokens);
    for (int32_t s = 0; s < c->n_seqs; s++) {
        d->n_rows += c->n_rows[s] ? c->n_rows[s] : 1;
        d->most = c->tokens[s] > d->most ? c->tokens[s] : d->most;
    }
    d->row_seq = buffer_new(4 * (int64_t)d->n_rows);
    d->row_position = buffer_new(4 * (int64_t)d->n_rows);
    for (int32_t s = 0, r = 0; s < c->n_seqs; s++) {
        int32_t rows = c->n_rows[s] ? c->n_rows[s] : 1;
        for (int32_t i = 0; i < rows; i++, r++) {
            ((int32_t *)d->row_seq.host)[r] = s;
            ((int32_t *)d->row_position.host)[r] = c->tokens[s] - rows + i;
        }
    }
    buffer_up(&d->row_seq);
    buffer_up(&d->row_position);
    d->paged.rows.n = d->n_rows;
    d->paged.rows.seq = d->row_seq.device;
    d->paged.rows.position = d->row_position.device;
}

static void fill_fp8_keys(const struct index_case *c, const struct index_data *d)
{
    for (int64_t i = 0; i < d->keys.bytes; i++) {
        uint8_t *b = (uint8_t *)d->keys.host + i;
        *b = (*b & 0x7f) == 0x7f ? 0 : *b;
    }
    for (int64_t page = 0; page < d->paged.n_pages; page++) {
        for (int32_t t = 0; t < c->page_tokens; t++) {
            float scale = (float)(0.001 + check_uniform() * 0.01);
            memcpy((char *)d->keys.host + page * d->p.keys.page_stride + d->p.keys.scale_offset + 4 * t, &scale, 4);
        }
    }
    buffer_up(&d->keys);
}

static void index_data_new(const struct index_case *c, struct index_data *d)
{
    memset(d, 0, sizeof *d);
    make_rows(c, d);
    bool fp8 = c->dtype == DTYPE_FP8, dot = c->score == INDEX_DOT;
    int32_t n = d->n_rows - c->first, sets = dot ? c->heads : 1;
    int64_t key_bytes = c->dim * (fp8 ? 1 : 2), scale_offset = c->page_tokens * key_bytes;
    int64_t page_stride = (scale_offset + (fp8 ? 4 * (int64_t)c->page_tokens : 0) + 15) / 16 * 16;
    int32_t stride = (d->most + c->unit_tokens - 1) / c->unit_tokens + 3;
    stride = n > 1 ? (stride + 3) / 4 * 4 : stride;    // one row: no multiple of anything
    d->keys = buffer_new(page_stride * d->paged.n_pages);
    d->q = buffer_new((int64_t)d->n_rows * c->heads * c->dim * 2);
    d->gate = buffer_new((int64_t)d->n_rows * c->heads * 4);
    d->scores = buffer_new((int64_t)n * sets * stride * 4);
    d->p = (struct index_score_params){.rows = d->paged.rows,
                                       .first = c->first,
                                       .n = n,
                                       .q = d->q.device,
                                       .gate = d->gate.device,
                                       .score = c->score,
                                       .heads = c->heads,
                                       .sets = sets,
                                       .unit_tokens = c->unit_tokens,
                                       .pooling = c->pooling,
                                       .max_context = d->most,
                                       .scores = d->scores.device,
                                       .stride = stride,
                                       .maxima_stride = (stride + 15) / 16,
                                       .keys = {.data = d->keys.device,
                                                .dtype = c->dtype,
                                                .page_tokens = c->page_tokens,
                                                .dim = c->dim,
                                                .page_stride = page_stride,
                                                .scale_offset = scale_offset}};
    d->maxima = buffer_new((int64_t)n * sets * d->p.maxima_stride * 4);
    d->p.maxima = d->maxima.device;
    fill_bf16(&d->keys, 1);
    fill_bf16(&d->q, 1);
    fill_f32(&d->gate, 0.1f);
    if (fp8) {
        fill_fp8_keys(c, d);
    }
}

static void index_data_free(struct index_data *d)
{
    struct buffer *all[] = {&d->row_seq, &d->row_position, &d->keys, &d->q, &d->gate, &d->scores, &d->maxima};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&d->paged);
}

// A row's queries as they meet the keys, [heads][dim].
static void load_query(const struct index_case *c, const struct index_data *d, int32_t row, double *query)
{
    for (int32_t h = 0; h < c->heads; h++) {
        double top = 0;
        for (int32_t i = 0; i < c->dim; i++) {
            query[h * c->dim + i] = (double)at_bf16(&d->q, ((int64_t)row * c->heads + h) * c->dim + i);
            top = fmax(top, fabs(query[h * c->dim + i]));
        }
        float scale = (float)top / 448;
        for (int32_t i = 0; c->dtype == DTYPE_FP8 && i < c->dim; i++) {
            query[h * c->dim + i] = fp8_round((double)((float)query[h * c->dim + i] / scale)) * (double)scale;
        }
    }
}

// The score of one token for the heads of a set.
static double token_score(const struct index_case *c, const struct index_data *d, int32_t row, int32_t set,
                          int32_t token, const double *query)
{
    bool fp8 = c->dtype == DTYPE_FP8, dot = c->score == INDEX_DOT;
    int32_t seq = ((int32_t *)d->row_seq.host)[row], slot = token % c->page_tokens;
    int64_t key_bytes = c->dim * (fp8 ? 1 : 2), at = paged_at(&d->paged, seq, token, d->p.keys.page_stride, key_bytes);
    const char *key = (const char *)d->keys.host + at;
    float key_scale = 1;
    if (fp8) {
        memcpy(&key_scale, key - slot * key_bytes + d->p.keys.scale_offset + slot * 4, 4);
    }
    double score = 0;
    for (int32_t h = dot ? set : 0; h < (dot ? set + 1 : c->heads); h++) {
        double sum = 0;
        for (int32_t i = 0; i < c->dim; i++) {
            double k = fp8 ? fp8_value((uint8_t)key[i]) : (double)bf16_to_f32(((const uint16_t *)(const void *)key)[i]);
            sum += k * query[h * c->dim + i];
        }
        score += dot ? sum : fmax(sum, 0) * (double)((float *)d->gate.host)[row * c->heads + h];
    }
    return score * (double)key_scale;
}

// A run's maximum is that of the scores as they were stored, to the bit.
static void check_maxima(const struct index_case *c, const struct index_data *d, int64_t list, int32_t units)
{
    const float *scores = (const float *)d->scores.host + list * d->p.stride;
    const float *maxima = (const float *)d->maxima.host + list * d->p.maxima_stride;
    for (int32_t run = 0; run < d->p.maxima_stride; run++) {
        float most = -INFINITY;
        for (int32_t u = run * 16; u < units && u < run * 16 + 16; u++) {
            most = fmaxf(most, scores[u]);
        }
        if (run * 16 < units) {
            CHECK_MESSAGE(maxima[run] == most, "%s: list %lld, maximum %d is %g, expected %g", c->name, (long long)list,
                          run, (double)maxima[run], (double)most);
        } else {
            CHECK_MESSAGE(isnan(maxima[run]), "%s: wrote maximum %d of %d units", c->name, run, units);
        }
    }
}

static void check_row(const struct index_case *c, const struct index_data *d, int32_t row, double *query,
                      double *expected)
{
    int32_t tokens = ((int32_t *)d->row_position.host)[row] + 1, units = (tokens + c->unit_tokens - 1) / c->unit_tokens;
    bool fp8 = c->dtype == DTYPE_FP8;
    load_query(c, d, row, query);
    for (int32_t set = 0; set < d->p.sets; set++) {
        int64_t list = (int64_t)(row - c->first) * d->p.sets + set;
        const float *scores = (const float *)d->scores.host + list * d->p.stride;
        for (int32_t u = 0; u < units; u++) {
            double pooled = c->pooling == POOLING_MAX ? -INFINITY : 0;
            int32_t end = (u + 1) * c->unit_tokens < tokens ? (u + 1) * c->unit_tokens : tokens;
            for (int32_t t = u * c->unit_tokens; t < end; t++) {
                double score = token_score(c, d, row, set, t, query);
                pooled = c->pooling == POOLING_MAX ? fmax(pooled, score) : pooled + score / (end - u * c->unit_tokens);
            }
            expected[u] = pooled;
        }
        // Few scores have no mean error: one alone that cancels to 1/20 of its kind or less is off by 0.4 to 2.6% in
        // fp8 (an H200, one run in nine), which agrees with sums that drop what lies 13 bits below their largest
        // product.
        double scale = sqrt(c->dim) * 1e-3, nmse = units < 16 ? 1 : fp8 ? 1e-5 : 1e-8;
        check_close(c->name, scores, expected, units, fp8 ? 20 * scale : scale, fp8 ? 1e-2 : 1e-3, nmse);
    }
}

// Compares a few rows, the first and last of every sequence among them; what no row may write is checked in all.
static void check_case(const struct index_case *c)
{
    enum { ROWS_COMPARED = 24 };
    struct index_data d;
    index_data_new(c, &d);
    bool maxima = index_score_maxima(&d.p);
    CHECK_MESSAGE(index_score_launch(&d.p, 0) == 0, "%s", status_text());
    buffer_down(&d.scores);
    buffer_down(&d.maxima);
    double *query = malloc(sizeof *query * (size_t)c->dim * (size_t)c->heads),
           *expected = malloc(sizeof *expected * (size_t)d.p.stride);
    for (int32_t row = c->first; row < d.n_rows; row++) {
        const int32_t *seq = d.row_seq.host;
        bool edge = row == c->first || row == d.n_rows - 1 || seq[row - 1] != seq[row] || seq[row + 1] != seq[row];
        if (d.p.n <= ROWS_COMPARED || edge || check_range(0, d.p.n / ROWS_COMPARED) == 0) {
            check_row(c, &d, row, query, expected);
        }
        int32_t units = ((int32_t *)d.row_position.host)[row] / c->unit_tokens + 1;
        for (int32_t set = 0; set < d.p.sets; set++) {
            int64_t list = (int64_t)(row - c->first) * d.p.sets + set;
            for (int32_t u = 0; u < d.p.stride; u++) {
                bool poison = isnan(((float *)d.scores.host)[list * d.p.stride + u]);
                CHECK_MESSAGE(poison == (u >= units), "%s: row %d, %s unit %d of %d", c->name, row,
                              poison ? "left" : "wrote", u, units);
            }
            if (maxima) {
                check_maxima(c, &d, list, units);
            }
        }
    }
    free(query);
    free(expected);
    index_data_free(&d);
}

int test_index(void)
{
    check_begin();
    static const struct index_case cases[] = {
        {INDEX_DOT, DTYPE_BF16, 1, 128, 1, 64, 3, {5000, 1, 130}, POOLING_MAX, "dot bf16", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 128, 1, 64, 1, {1000000}, POOLING_MAX, "dot bf16, 1M", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 128, 1, 64, 3, {300000, 1, 350000}, POOLING_MAX, "dot bf16, short runs", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 4, 128, 128, 64, 2, {400000, 200000}, POOLING_MAX, "blocks, short runs", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 104, 1, 64, 2, {90000, 9}, POOLING_MAX, "dot bf16, dim 104", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 16, 1, 16, 2, {100, 7}, POOLING_MAX, "dot bf16, dim 16", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 32, 1, 24, 2, {100, 7}, POOLING_MAX, "dot bf16, dim 32, pages of 24", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 64, 1, 64, 2, {100, 700}, POOLING_MAX, "dot bf16, dim 64", {0}, 0},
        {INDEX_DOT, DTYPE_FP8, 1, 128, 1, 64, 3, {5000, 1, 130}, POOLING_MAX, "dot fp8", {0}, 0},
        {INDEX_DOT, DTYPE_FP8, 1, 32, 1, 64, 2, {1000, 130}, POOLING_MAX, "dot fp8, dim 32", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 4, 128, 128, 128, 3, {5000, 1, 130}, POOLING_MAX, "blocks, 4 sets", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 128, 128, 64, 2, {5000, 99}, POOLING_MEAN, "blocks, mean", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 2, 16, 8, 16, 2, {99, 8}, POOLING_MAX, "blocks of 8, 2 sets", {0}, 0},
        {INDEX_GATED_RELU, DTYPE_BF16, 4, 64, 1, 64, 2, {300, 17}, POOLING_MAX, "gated bf16, 4 heads", {0}, 0},
        {INDEX_GATED_RELU, DTYPE_BF16, 64, 128, 1, 64, 2, {900, 17}, POOLING_MAX, "gated bf16, 64 heads", {0}, 0},
        {INDEX_GATED_RELU, DTYPE_FP8, 64, 128, 1, 64, 2, {5000, 17}, POOLING_MAX, "gated fp8, 64 heads", {0}, 0},
        {INDEX_GATED_RELU, DTYPE_FP8, 12, 64, 1, 64, 2, {500, 17}, POOLING_MAX, "gated fp8, 12 heads", {0}, 0},
        {INDEX_GATED_RELU, DTYPE_FP8, 24, 128, 1, 64, 1, {500}, POOLING_MAX, "gated fp8, 24 heads", {0}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 128, 1, 64, 1, {4000}, POOLING_MAX, "rows, dot bf16", {700}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 128, 1, 64, 1, {900}, POOLING_MAX, "rows, dot bf16, from the start", {900}, 0},
        {INDEX_DOT, DTYPE_BF16, 1, 128, 1, 16, 1, {1500}, POOLING_MAX, "rows, dot bf16, 100", {100}, 0},
        {INDEX_DOT,
         DTYPE_BF16,
         1,
         128,
         1,
         64,
         6,
         {1, 400, 30, 700, 2000, 129},
         POOLING_MAX,
         "rows, 6 sequences",
         {1, 100, 30, 1, 300, 1},
         7},
        {INDEX_DOT, DTYPE_BF16, 2, 64, 1, 32, 2, {700, 333}, POOLING_MAX, "rows, 2 heads of 64", {300, 20}, 3},
        {INDEX_DOT, DTYPE_FP8, 1, 128, 1, 64, 2, {1500, 200}, POOLING_MAX, "rows, dot fp8", {300, 200}, 0},
        {INDEX_DOT, DTYPE_BF16, 4, 128, 128, 64, 2, {3000, 300}, POOLING_MAX, "rows, blocks, 4 sets", {300, 100}, 1},
        {INDEX_DOT, DTYPE_FP8, 4, 128, 128, 128, 2, {900, 300}, POOLING_MAX, "rows, fp8 blocks, 4 sets", {200, 100}, 0},
        {INDEX_DOT, DTYPE_BF16, 4, 128, 32, 64, 2, {500, 300}, POOLING_MAX, "rows, blocks of 32", {20, 60}, 0},
        {INDEX_DOT,
         DTYPE_BF16,
         1,
         128,
         64,
         64,
         2,
         {1500, 300},
         POOLING_MEAN,
         "rows, blocks of 64, mean",
         {200, 100},
         0},
        {INDEX_GATED_RELU,
         DTYPE_FP8,
         64,
         128,
         1,
         64,
         3,
         {1200, 40, 300},
         POOLING_MAX,
         "rows, gated fp8, 64 heads",
         {90, 30, 11},
         2},
        {INDEX_GATED_RELU, DTYPE_BF16, 64, 128, 1, 64, 1, {300}, POOLING_MAX, "rows, gated bf16", {60}, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct index_case c = cases[i];
        for (int32_t s = 0; s < c.n_seqs; s++) {
            c.tokens[s] = gpu_tokens(c.tokens[s], 7000);
            c.n_rows[s] = gpu_tokens(c.n_rows[s], 150);
        }
        check_case(&c);
    }
    return check_end();
}
