// tests/cuda/test_prefill_attention.c - attention of prompt rows against double precision: groups, head sizes, page
// sizes, both cache layouts, ragged sequences with and without context, windows over ring and fresh keys.
//
// Whatever no row may see is NaN: tokens behind a sequence's last, slots of a ring that were never written, and in some
// cases the values of a neighbouring sequence. The reference is computed for the rows at the borders of tiles and for
// random ones; of the others it is checked that they are numbers.
#include <errno.h>

#include "tests/cuda/gpu.h"

enum { MAX_CASE_SEQS = 70, RANDOM_ROWS = 24, BORDER = 64, MAX_BORDERS = 24 };

struct prefill_case {
    int32_t n_heads, n_kv_heads, head_dim, page_tokens, n_seqs;
    int32_t context[4], rows[4];    // of sequence s: entry s % 4
    bool head_major, nan_neighbour;
    int32_t window;    // 0: all keys
    float scale;       // of the queries; 0: 2
    const char *name;
};

struct prefill_data {
    struct paged paged;
    struct kv_view view;
    struct batch_seq seqs[MAX_CASE_SEQS];
    struct buffer q, kv, fresh_k, fresh_v, out, lse;
    int32_t n_rows;
};

// The element index of a key in the cache, token or slot `at` of the sequence.
static int64_t key_index(const struct prefill_case *c, const struct prefill_data *d, int32_t s, int32_t at,
                         int32_t head)
{
    int64_t byte = c->window ? d->seqs[s].slot * d->view.page_stride + at * d->view.token_stride
                             : paged_at(&d->paged, s, at, d->view.page_stride, d->view.token_stride);
    return (byte + head * d->view.head_stride) / 2;
}

static void spoil(uint16_t *to, int32_t n)
{
    memset(to, 0xff, (size_t)n * sizeof *to);    // NaN
}

static void spoil_unseen(const struct prefill_case *c, struct prefill_data *d)
{
    uint16_t *kv = d->kv.host;
    for (int32_t s = 0; s < c->n_seqs; s++) {
        const struct batch_seq *seq = &d->seqs[s];
        int32_t written = c->window ? seq->context_tokens : seq->context_tokens + seq->n_rows;
        int32_t page = d->view.page_tokens, end = c->window ? page : (written + page - 1) / page * page;
        for (int32_t t = written; t < end; t++) {
            for (int32_t h = 0; h < c->n_kv_heads; h++) {
                spoil(kv + key_index(c, d, s, t, h), c->head_dim);
                spoil(kv + key_index(c, d, s, t, h) + d->view.value_offset / 2, c->head_dim);
            }
        }
        if (c->nan_neighbour && s % 2 == 1) {
            int32_t width = c->n_kv_heads * c->head_dim;
            spoil((uint16_t *)d->fresh_k.host + (int64_t)seq->first_row * width, seq->n_rows * width);
            spoil((uint16_t *)d->fresh_v.host + (int64_t)seq->first_row * width, seq->n_rows * width);
        }
    }
    buffer_up(&d->kv);
    buffer_up(&d->fresh_k);
    buffer_up(&d->fresh_v);
}

static struct prefill_data data_new(const struct prefill_case *c)
{
    struct prefill_data d = {.n_rows = 0};
    int32_t tokens[MAX_CASE_SEQS];
    for (int32_t s = 0; s < c->n_seqs; s++) {
        d.seqs[s] = (struct batch_seq){c->n_seqs - 1 - s, d.n_rows, c->rows[s % 4], c->context[s % 4]};
        d.n_rows += c->rows[s % 4];
        tokens[s] = c->context[s % 4] + c->rows[s % 4];
    }
    d.paged = paged_new(tokens, c->n_seqs, c->page_tokens);
    d.paged.rows.n = d.n_rows;
    const int64_t head = c->head_dim * 2, page = c->page_tokens;
    d.view = (struct kv_view){.dtype = DTYPE_BF16,
                              .page_tokens = c->page_tokens,
                              .ring = c->window > 0,
                              .page_stride = 2 * c->n_kv_heads * head * page};
    d.view.token_stride = c->head_major ? head : 2 * c->n_kv_heads * head;
    d.view.head_stride = c->head_major ? 2 * head * page : head;
    d.view.value_offset = c->head_major ? head * page : c->n_kv_heads * head;
    d.q = buffer_new((int64_t)d.n_rows * c->n_heads * head);
    d.out = buffer_new(d.q.bytes);
    d.lse = buffer_new((int64_t)d.n_rows * c->n_heads * 4);
    d.kv = buffer_new(d.view.page_stride * (c->window ? c->n_seqs : d.paged.n_pages));
    d.fresh_k = buffer_new((int64_t)d.n_rows * c->n_kv_heads * head);
    d.fresh_v = buffer_new(d.fresh_k.bytes);
    fill_bf16(&d.q, c->scale > 0 ? c->scale : 2);
    fill_bf16(&d.kv, 1);
    fill_bf16(&d.fresh_k, 1);
    fill_bf16(&d.fresh_v, 1);
    spoil_unseen(c, &d);
    d.view.data = d.kv.device;
    return d;
}

static void data_free(struct prefill_data *d)
{
    struct buffer *all[] = {&d->q, &d->kv, &d->fresh_k, &d->fresh_v, &d->out, &d->lse};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&d->paged);
}

// Keys and values of KV head `kv_head` for position `at` of sequence s.
static void find_key(const struct prefill_case *c, const struct prefill_data *d, int32_t s, int32_t at, int32_t kv_head,
                     const uint16_t **key, const uint16_t **value)
{
    const struct batch_seq *seq = &d->seqs[s];
    if (c->window && at >= seq->context_tokens) {
        int64_t index = ((int64_t)(seq->first_row + at - seq->context_tokens) * c->n_kv_heads + kv_head) * c->head_dim;
        *key = (const uint16_t *)d->fresh_k.host + index;
        *value = (const uint16_t *)d->fresh_v.host + index;
        return;
    }
    *key = (const uint16_t *)d->kv.host + key_index(c, d, s, c->window ? at % d->view.page_tokens : at, kv_head);
    *value = *key + d->view.value_offset / 2;
}

// One row and head: softmax over the positions it may see, in two passes.
static double reference_row(const struct prefill_case *c, const struct prefill_data *d, int32_t s, int32_t row,
                            int32_t head, double *out)
{
    const int32_t hd = c->head_dim, kv_head = head / (c->n_heads / c->n_kv_heads);
    const int32_t position = d->seqs[s].context_tokens + row,
                  begin = c->window && position >= c->window ? position - c->window + 1 : 0;
    const uint16_t *q = (const uint16_t *)d->q.host + ((int64_t)(d->seqs[s].first_row + row) * c->n_heads + head) * hd,
                   *key, *value;
    double *score = malloc(sizeof *score * (size_t)(position - begin + 1)), most = -INFINITY, sum = 0;
    for (int32_t t = begin; t <= position; t++) {
        find_key(c, d, s, t, kv_head, &key, &value);
        double dot = 0;
        for (int32_t i = 0; i < hd; i++) {
            dot += (double)bf16_to_f32(q[i]) * (double)bf16_to_f32(key[i]);
        }
        score[t - begin] = dot / sqrt(hd);
        most = fmax(most, score[t - begin]);
    }
    for (int32_t i = 0; i < hd; i++) {
        out[i] = 0;
    }
    for (int32_t t = begin; t <= position; t++) {
        find_key(c, d, s, t, kv_head, &key, &value);
        double p = exp(score[t - begin] - most);
        sum += p;
        for (int32_t i = 0; i < hd; i++) {
            out[i] += p * (double)bf16_to_f32(value[i]);
        }
    }
    for (int32_t i = 0; i < hd; i++) {
        out[i] /= sum;
    }
    free(score);
    return most + log(sum);
}

// Compares `wanted` rows of sequence s, all heads.
static void check_rows(const struct prefill_case *c, const struct prefill_data *d, int32_t s, const int32_t *wanted,
                       int32_t n)
{
    const int64_t width = c->n_heads * c->head_dim;
    double *expected = malloc(sizeof *expected * (size_t)(n * width)),
           *lse = malloc(sizeof *lse * (size_t)(n * c->n_heads));
    float *got = malloc(sizeof *got * (size_t)(n * width)),
          *got_lse = malloc(sizeof *got_lse * (size_t)(n * c->n_heads));
    for (int32_t i = 0; i < n; i++) {
        int64_t row = d->seqs[s].first_row + wanted[i];
        for (int32_t h = 0; h < c->n_heads; h++) {
            lse[i * c->n_heads + h] = reference_row(c, d, s, wanted[i], h, expected + i * width + h * c->head_dim);
            got_lse[i * c->n_heads + h] = ((const float *)d->lse.host)[row * c->n_heads + h];
        }
        for (int64_t j = 0; j < width; j++) {
            got[i * width + j] = at_bf16(&d->out, row * width + j);
        }
    }
    char what[128];
    snprintf(what, sizeof what, "%s, sequence %d", c->name, s);
    check_close(what, got, expected, n * width, 2e-2, 2e-2, 4e-5);
    snprintf(what, sizeof what, "%s, sequence %d, lse", c->name, s);
    check_close(what, got_lse, lse, (int64_t)n * c->n_heads, 1e-3, 1e-4, 1e-7);
    free(expected);
    free(lse);
    free(got);
    free(got_lse);
}

static void check_sequence(const struct prefill_case *c, const struct prefill_data *d, int32_t s)
{
    const int32_t rows = d->seqs[s].n_rows, width = c->n_heads * c->head_dim;
    int32_t wanted[2 * MAX_BORDERS + RANDOM_ROWS + 1], n = 0;
    for (int32_t row = 0; row < rows && row < MAX_BORDERS * BORDER; row += BORDER) {
        wanted[n++] = row;
        wanted[n++] = row > 0 ? row - 1 : 0;
    }
    wanted[n++] = rows - 1;
    for (int32_t i = 0; i < RANDOM_ROWS && i < rows && c->n_seqs < MAX_CASE_SEQS; i++) {
        wanted[n++] = check_range(0, rows - 1);
    }
    check_rows(c, d, s, wanted, n);
    int64_t first = (int64_t)d->seqs[s].first_row * width;
    for (int64_t i = first; i < first + (int64_t)rows * width; i++) {
        if (!isfinite(at_bf16(&d->out, i))) {
            check_failed(__FILE__, __LINE__, "%s: row %lld is not finite", c->name, (long long)(i / width));
            return;
        }
    }
}

static void check_prefill(const struct prefill_case *c)
{
    struct prefill_data d = data_new(c);
    struct prefill_attention_params p = {.rows = d.paged.rows,
                                         .seqs = d.seqs,
                                         .n_seqs = c->n_seqs,
                                         .q = d.q.device,
                                         .over = c->window ? ATTEND_WINDOW : ATTEND_ALL,
                                         .view = d.view,
                                         .fresh_k = d.fresh_k.device,
                                         .fresh_v = d.fresh_v.device,
                                         .window_tokens = c->window,
                                         .n_heads = c->n_heads,
                                         .n_kv_heads = c->n_kv_heads,
                                         .head_dim = c->head_dim,
                                         .out = d.out.device,
                                         .lse = d.lse.device};
    CHECK_MESSAGE(prefill_attention_launch(&p, 0) == 0, "%s: %s", c->name, status_text());
    buffer_down(&d.out);
    buffer_down(&d.lse);
    for (int32_t s = 0; s < c->n_seqs; s++) {
        if (!(c->nan_neighbour && s % 2 == 1) && d.seqs[s].n_rows > 0) {
            check_sequence(c, &d, s);
        }
    }
    struct buffer again = buffer_new(d.out.bytes);    // the same bits again, and lse may be absent
    p.out = again.device;
    p.lse = NULL;
    CHECK(prefill_attention_launch(&p, 0) == 0);
    buffer_down(&again);
    CHECK_MESSAGE(c->nan_neighbour || memcmp(again.host, d.out.host, (size_t)again.bytes) == 0,
                  "%s: a second run gave other bits", c->name);
    buffer_free(&again);
    data_free(&d);
}

static void check_refusals(void)
{
    struct batch_seq seq = {0, 0, 1, 0};
    struct prefill_attention_params p = {.rows = {.n = 1},
                                         .seqs = &seq,
                                         .n_seqs = 1,
                                         .view = {.dtype = DTYPE_BF16, .page_tokens = 12},
                                         .n_heads = 2,
                                         .n_kv_heads = 1,
                                         .head_dim = 64};
    CHECK(prefill_attention_launch(&p, 0) == -ENOTSUP);    // pages of 12 tokens
    p.view.page_tokens = 64;
    p.head_dim = 96;
    CHECK(prefill_attention_launch(&p, 0) == -ENOTSUP);
    p.rows.n = 0;
    CHECK(prefill_attention_launch(&p, 0) == 0);
}

int test_prefill_attention(void)
{
    check_begin();
    static const struct prefill_case cases[] = {
        {20, 4, 128, 64, 1, {0}, {1}, .name = "one row"},
        {20, 4, 128, 64, 1, {0}, {128}, .name = "one tile"},
        {20, 4, 128, 64, 1, {0}, {1000}, .name = "1000 rows"},
        {20, 4, 128, 64, 1, {3001}, {300}, .name = "300 rows after 3001"},
        {20, 4, 128, 64, 4, {0, 200, 64, 1000}, {17, 1, 129, 400}, .name = "ragged"},
        {2, 2, 128, 16, 2, {77, 128}, {200, 128}, .name = "group 1, pages of 16"},
        {16, 1, 128, 256, 2, {1000, 0}, {90, 300}, .name = "group 16, pages of 256"},
        {20, 4, 128, 128, 2, {300, 128}, {200, 128}, .head_major = true, .name = "head-major, pages of 128"},
        {12, 4, 64, 48, 3, {300, 0, 47}, {140, 49, 1}, .name = "heads of 64, pages of 48"},
        {8, 2, 32, 64, 2, {300, 2}, {140, 300}, .name = "heads of 32"},
        {4, 2, 16, 16, 3, {40, 0, 16}, {140, 1, 260}, .name = "heads of 16"},
        {6, 3, 64, 24, 2, {90, 200}, {200, 13}, .head_major = true, .name = "3 KV heads, pages of 24, head-major"},
        {4, 2, 64, 32, 70, {3, 130, 0, 40}, {2, 1, 5, 130}, .name = "70 sequences"},
        {4, 2, 128, 64, 1, {0}, {700}, .scale = 60, .name = "large scores"},
        {20, 4, 128, 512, 1, {0}, {1500}, .window = 512, .name = "window of 512, no context"},
        {20, 4, 128, 512, 1, {5000}, {700}, .window = 512, .name = "window of 512 after 5000"},
        {20, 4, 128, 512, 4, {512, 100, 0, 2000}, {1, 640, 5, 129}, .window = 512, .name = "window of 512, ragged"},
        {20,
         4,
         128,
         512,
         4,
         {512, 100, 0, 2000},
         {100, 640, 5, 129},
         .nan_neighbour = true,
         .window = 512,
         .name = "window beside NaN"},
        {8, 2, 32, 131, 3, {2000, 5, 128}, {300, 200, 1}, .window = 128, .name = "window of 128 in a ring of 131"},
        {4, 2, 16, 8, 3, {2000, 5, 0}, {300, 2, 150}, .window = 8, .name = "window of 8"},
        {6,
         2,
         64,
         300,
         2,
         {299, 1000},
         {500, 70},
         .head_major = true,
         .window = 300,
         .name = "window of 300, head-major"},
        {4, 4, 128, 64, 1, {90}, {200}, .window = 1, .name = "window of 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct prefill_case c = cases[i];
        for (int32_t s = 0; s < 4; s++) {
            c.context[s] = gpu_tokens(c.context[s], 600);
            c.rows[s] = gpu_tokens(c.rows[s], 300);
        }
        check_prefill(&c);
    }
    check_refusals();
    return check_end();
}
