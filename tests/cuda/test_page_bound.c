// tests/cuda/test_page_bound.c - Quest's bounds against double precision: decode rows, prompts' rows that share a read,
// rows of several sequences side by side, group sizes, head sizes, units as long as a page and shorter.
#include "tests/cuda/gpu.h"

enum { PAGE = 64, MAX_SEQS = 6 };

struct bound_case {
    int32_t n_heads, n_kv_heads, head_dim, unit_tokens, n_seqs;
    int32_t tokens[MAX_SEQS];    // up to and with the sequence's last row
    int32_t rows[MAX_SEQS];
    const char *name;
};

struct bound_data {
    struct paged paged;
    struct buffer seq, position, bounds, q, scores;
    int64_t unit_floats;
    int32_t n, stride;
};

static void data_new(const struct bound_case *c, struct bound_data *d)
{
    int32_t most = 0;
    *d = (struct bound_data){.paged = paged_new(c->tokens, c->n_seqs, PAGE),
                             .unit_floats = 2 * c->n_kv_heads * c->head_dim};
    for (int32_t s = 0; s < c->n_seqs; s++) {
        d->n += c->rows[s];
        most = c->tokens[s] > most ? c->tokens[s] : most;
    }
    d->stride = (most - 1) / c->unit_tokens + 1 + check_range(0, 5);
    d->seq = buffer_new(d->n * 4);
    d->position = buffer_new(d->n * 4);
    for (int32_t s = 0, row = 0; s < c->n_seqs; s++) {
        for (int32_t i = 0; i < c->rows[s]; i++, row++) {
            ((int32_t *)d->seq.host)[row] = s;
            ((int32_t *)d->position.host)[row] = c->tokens[s] - c->rows[s] + i;
        }
    }
    d->bounds = buffer_new(d->paged.n_pages * (PAGE / c->unit_tokens) * d->unit_floats * 4);
    for (int64_t i = 0; i < d->bounds.bytes / 4; i++) {    // elements of keys
        ((float *)d->bounds.host)[i] = bf16_to_f32(f32_to_bf16(check_normal()));
    }
    d->q = buffer_new((int64_t)d->n * c->n_heads * c->head_dim * 2);
    d->scores = buffer_new((int64_t)d->n * c->n_heads * d->stride * 4);
    fill_bf16(&d->q, 1);
    buffer_up(&d->seq);
    buffer_up(&d->position);
    buffer_up(&d->bounds);
}

static double bound_of(const struct bound_case *c, const struct bound_data *d, int32_t row, int32_t head, int32_t unit)
{
    const int32_t seq = ((int32_t *)d->seq.host)[row], token = unit * c->unit_tokens,
                  width = c->n_kv_heads * c->head_dim;
    const int32_t page = ((int32_t *)d->paged.pages.host)[seq * d->paged.rows.max_pages + token / PAGE];
    const float *low = (const float *)d->bounds.host +
                       ((int64_t)page * (PAGE / c->unit_tokens) + token % PAGE / c->unit_tokens) * d->unit_floats +
                       head / (c->n_heads / c->n_kv_heads) * c->head_dim;
    double sum = 0;
    for (int32_t i = 0; i < c->head_dim; i++) {
        double q = (double)at_bf16(&d->q, ((int64_t)row * c->n_heads + head) * c->head_dim + i);
        sum += fmax(q * (double)low[i], q * (double)low[width + i]);
    }
    return sum;
}

// low <= high need not hold for the kernel, but it does for bounds.
static void sort_bounds(const struct bound_data *d)
{
    const int64_t width = d->unit_floats / 2;
    float *bounds = d->bounds.host;
    for (int64_t i = 0; i < d->bounds.bytes / 4; i++) {
        if (i / width % 2 == 0 && bounds[i] > bounds[i + width]) {
            float low = bounds[i + width];
            bounds[i + width] = bounds[i];
            bounds[i] = low;
        }
    }
    buffer_up(&d->bounds);
}

static void check_rows(const struct bound_case *c, const struct bound_data *d, int32_t first, int32_t n)
{
    int32_t wrong = 0;
    for (int64_t i = 0; i < (int64_t)n * c->n_heads * d->stride; i++) {
        const int32_t unit = (int32_t)(i % d->stride), head = (int32_t)(i / d->stride % c->n_heads);
        const int32_t row = first + (int32_t)(i / d->stride / c->n_heads);
        const int32_t own = ((int32_t *)d->position.host)[row] / c->unit_tokens;
        const float got = ((float *)d->scores.host)[i];
        bool right = unit > own ? isnan(got) : unit == own ? isinf(got) && got > 0 : true;
        if (unit < own) {
            const double expected = bound_of(c, d, row, head, unit);
            right = fabs((double)got - expected) <= 1e-4 * (1 + fabs(expected));
        }
        if (!right && wrong++ < 3) {
            check_failed(__FILE__, __LINE__, "%s: row %d, head %d, unit %d: %g", c->name, row, head, unit, (double)got);
        }
    }
}

static void check_case(const struct bound_case *c)
{
    struct bound_data d;
    data_new(c, &d);
    sort_bounds(&d);
    struct page_bound_params p = {.rows = d.paged.rows,
                                  .q = d.q.device,
                                  .n_heads = c->n_heads,
                                  .n_kv_heads = c->n_kv_heads,
                                  .head_dim = c->head_dim,
                                  .max_context = d.stride * c->unit_tokens,
                                  .scores = d.scores.device,
                                  .stride = d.stride,
                                  .bounds = {.data = d.bounds.device,
                                             .page_tokens = PAGE,
                                             .unit_tokens = c->unit_tokens,
                                             .page_stride = PAGE / c->unit_tokens * d.unit_floats * 4}};
    p.rows.n = d.n;
    p.rows.seq = d.seq.device;
    p.rows.position = d.position.device;
    for (int part = 0; part < 2; part++) {
        p.first = part ? d.n / 3 : 0;
        p.n = d.n - p.first;
        buffer_poison(&d.scores);
        CHECK_MESSAGE(page_bound_launch(&p, 0) == 0, "%s", status_text());
        buffer_down(&d.scores);
        check_rows(c, &d, p.first, p.n);
    }
    struct buffer *const all[] = {&d.seq, &d.position, &d.bounds, &d.q, &d.scores};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        buffer_free(all[i]);
    }
    paged_free(&d.paged);
}

// A query that is not a number must not pass for a score.
static void check_nan(void)
{
    const struct bound_case c = {4, 2, 32, 16, 1, {500}, {1}, "a NaN in the query"};
    struct bound_data d;
    data_new(&c, &d);
    ((uint16_t *)d.q.host)[c.head_dim + check_range(0, c.head_dim - 1)] = 0x7fc0;    // of head 1
    buffer_up(&d.q);
    struct page_bound_params p = {.rows = d.paged.rows,
                                  .n = 1,
                                  .q = d.q.device,
                                  .n_heads = c.n_heads,
                                  .n_kv_heads = c.n_kv_heads,
                                  .head_dim = c.head_dim,
                                  .max_context = 500,
                                  .scores = d.scores.device,
                                  .stride = d.stride,
                                  .bounds = {.data = d.bounds.device,
                                             .page_tokens = PAGE,
                                             .unit_tokens = 16,
                                             .page_stride = PAGE / 16 * d.unit_floats * 4}};
    CHECK_MESSAGE(page_bound_launch(&p, 0) == 0, "%s", status_text());
    buffer_down(&d.scores);
    for (int32_t unit = 0; unit < 500 / 16; unit++) {
        CHECK(isnan(((float *)d.scores.host)[d.stride + unit]) && !isnan(((float *)d.scores.host)[unit]));
    }
    struct buffer *const all[] = {&d.seq, &d.position, &d.bounds, &d.q, &d.scores};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        buffer_free(all[i]);
    }
    paged_free(&d.paged);
}

int test_page_bound(void)
{
    check_begin();
    static const struct bound_case cases[] = {
        {20, 4, 128, 16, 6, {1, 16, 17, 5000, 700, 64}, {1, 1, 1, 1, 1, 1}, "decode"},
        {20, 4, 128, 16, 1, {1500}, {200}, "a prompt"},
        {20, 4, 128, 16, 3, {1000, 300, 90}, {70, 1, 90}, "two prompts and a row"},
        {12, 4, 64, 16, 2, {900, 333}, {33, 100}, "heads of 64"},
        {16, 1, 128, 64, 1, {2000}, {65}, "group 16, units of a page"},
        {24, 2, 32, 8, 2, {400, 100}, {90, 7}, "group 12, heads of 32"},
        {3, 3, 16, 16, 2, {300, 40}, {100, 40}, "3 KV heads of 16"},
        {8, 8, 128, 32, 2, {2000, 700}, {1, 1}, "8 KV heads, decode"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_case(&cases[i]);
    }
    check_nan();
    return check_end();
}
