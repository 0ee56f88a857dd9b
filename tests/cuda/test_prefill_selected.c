// tests/cuda/test_prefill_selected.c - attention of prompt rows over their selections, against double precision:
// several sequences in a step, early rows, rows that selected nothing or less than k, shared and unshared lists,
// units that reach behind a row's own position into tokens that were never written (NaN), both cache layouts, several
// launches' worth of rows.
#include "tests/cuda/gpu.h"

enum { MAX_SEQS = 16, SAMPLES = 400 };

struct selected_case {
    int32_t n_heads, n_kv_heads, head_dim, page_tokens;
    bool head_major;
    int32_t sets, unit_tokens, units;
    int32_t n_seqs;
    struct {
        int32_t context, n_rows;
    } seqs[MAX_SEQS];
    const char *name;
    bool far;    // pages behind the first 64 GiB of a layer, as far as addresses tell
};

struct selected_data {
    struct paged paged;
    struct buffer kv, q, seq, position, unit, count, work;
    struct prefill_selected_params p;
};

static void view_open(struct selected_data *d, const struct selected_case *c)
{
    int64_t head = c->head_dim * 2;
    d->p.view = (struct kv_view){.dtype = DTYPE_BF16, .page_tokens = c->page_tokens,
                                 .page_stride = 2 * c->n_kv_heads * head * c->page_tokens};
    d->p.view.token_stride = c->head_major ? head : 2 * c->n_kv_heads * head;
    d->p.view.head_stride = c->head_major ? 2 * head * c->page_tokens : head;
    d->p.view.value_offset = c->head_major ? head * c->page_tokens : c->n_kv_heads * head;
    d->kv = buffer_new(d->p.view.page_stride * d->paged.n_pages);
    fill_bf16(&d->kv, 1);
    d->p.view.data = d->kv.device;
}

// Index of element 0 of a key, in the host's copy of the cache.
static int64_t key_at(const struct selected_data *d, int32_t seq, int32_t token, int32_t head)
{
    int64_t at = paged_at(&d->paged, seq, token, d->p.view.page_stride, d->p.view.token_stride);
    return (at + head * d->p.view.head_stride) / 2;
}

// What lies behind a sequence's last token in its last page was never written.
static void spoil_tails(struct selected_data *d, const struct selected_case *c)
{
    for (int32_t s = 0; s < c->n_seqs; s++) {
        int32_t tokens = c->seqs[s].context + c->seqs[s].n_rows;
        int32_t end = (tokens + c->page_tokens - 1) / c->page_tokens * c->page_tokens;
        for (int32_t t = tokens; t < end; t++) {
            for (int32_t h = 0; h < c->n_kv_heads; h++) {
                int64_t key = key_at(d, s, t, h);
                memset((uint16_t *)d->kv.host + key, 0xff, (size_t)c->head_dim * 2);
                memset((uint16_t *)d->kv.host + key + d->p.view.value_offset / 2, 0xff, (size_t)c->head_dim * 2);
            }
        }
    }
    buffer_up(&d->kv);
}

static int32_t pick(int32_t *unit, int32_t n_units, int32_t want)
{
    int32_t count = want < n_units ? want : n_units, left = count;
    for (int32_t u = 0, at = 0; left > 0; u++) {
        if (check_range(0, n_units - u - 1) < left) {
            unit[at++] = u;
            left--;
        }
    }
    return count;
}

// Rows take their neighbour's selection, a fresh one, fewer units, or none.
static void select_units(struct selected_data *d, const struct selected_case *c)
{
    int32_t stride = d->p.selection.stride, row = 0;
    for (int32_t s = 0; s < c->n_seqs; s++) {
        for (int32_t i = 0; i < c->seqs[s].n_rows; i++, row++) {
            int32_t position = c->seqs[s].context + i, n_units = position / c->unit_tokens + 1;
            ((int32_t *)d->seq.host)[row] = s;
            ((int32_t *)d->position.host)[row] = position;
            for (int32_t set = 0; set < c->sets; set++) {
                int32_t *unit = (int32_t *)d->unit.host + ((int64_t)row * c->sets + set) * stride;
                int32_t *count = (int32_t *)d->count.host + row * c->sets + set;
                int32_t kind = check_range(0, 19);
                if (i > 0 && kind < 10) {
                    *count = count[-c->sets];
                    memcpy(unit, unit - (int64_t)c->sets * stride, sizeof *unit * (size_t)*count);
                } else {
                    *count = kind == 19 ? 0 : pick(unit, n_units, kind == 18 ? check_range(1, c->units) : c->units);
                }
            }
        }
    }
    buffer_up(&d->seq);
    buffer_up(&d->position);
    buffer_up(&d->unit);
    buffer_up(&d->count);
}

// The same pages under higher numbers, counted from an address that much lower: nothing is read there.
static void move_pages(struct selected_data *d)
{
    const int32_t by = (int32_t)(((int64_t)70 << 30) / d->p.view.page_stride), n = (int32_t)(d->paged.pages.bytes / 4);
    int32_t *pages = d->paged.pages.host;
    for (int32_t i = 0; i < n; i++) {
        pages[i] += by;
    }
    buffer_up(&d->paged.pages);
    for (int32_t i = 0; i < n; i++) {    // the reference reads what it read before
        pages[i] -= by;
    }
    d->p.view.data = (unsigned char *)((uintptr_t)d->p.view.data - (uintptr_t)by * (uintptr_t)d->p.view.page_stride);
}

static void data_open(struct selected_data *d, const struct selected_case *c)
{
    int32_t tokens[MAX_SEQS], n = 0;
    for (int32_t s = 0; s < c->n_seqs; s++) {
        tokens[s] = c->seqs[s].context + c->seqs[s].n_rows;
        n += c->seqs[s].n_rows;
    }
    memset(d, 0, sizeof *d);
    d->paged = paged_new(tokens, c->n_seqs, c->page_tokens);
    view_open(d, c);
    spoil_tails(d, c);
    d->p.rows = d->paged.rows;
    d->p.rows.n = n;
    d->p.n_seqs = c->n_seqs;
    d->p.n_heads = c->n_heads;
    d->p.n_kv_heads = c->n_kv_heads;
    d->p.head_dim = c->head_dim;
    d->p.selection = (struct selection){.sets = c->sets, .unit_tokens = c->unit_tokens, .stride = c->units + 1};
    d->seq = buffer_new(4 * (int64_t)n);
    d->position = buffer_new(4 * (int64_t)n);
    d->unit = buffer_new((int64_t)n * c->sets * (c->units + 1) * 4);
    d->count = buffer_new((int64_t)n * c->sets * 4);
    d->q = buffer_new((int64_t)n * c->n_heads * c->head_dim * 2);
    fill_bf16(&d->q, 2);
    select_units(d, c);
    d->work = buffer_new(prefill_selected_workspace_bytes(&d->p));
    d->p.rows.seq = d->seq.device;
    d->p.rows.position = d->position.device;
    d->p.selection.unit = d->unit.device;
    d->p.selection.count = d->count.device;
    d->p.q = d->q.device;
    d->p.workspace = d->work.device;
    if (c->far) {
        move_pages(d);
    }
}

static void data_close(struct selected_data *d)
{
    struct buffer *all[] = {&d->kv, &d->q, &d->seq, &d->position, &d->unit, &d->count, &d->work};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&d->paged);
}

// One row and query head in double precision. Returns the log of the sum of exponentials.
static double reference(const struct selected_data *d, int32_t row, int32_t head, double *out)
{
    const struct prefill_selected_params *p = &d->p;
    const struct selection *s = &p->selection;
    int32_t hd = p->head_dim, kv_head = head / (p->n_heads / p->n_kv_heads), set = head * s->sets / p->n_heads;
    int32_t seq = ((int32_t *)d->seq.host)[row], position = ((int32_t *)d->position.host)[row];
    const int32_t *unit = (const int32_t *)d->unit.host + ((int64_t)row * s->sets + set) * s->stride;
    int32_t count = ((int32_t *)d->count.host)[row * s->sets + set], n = 0;
    double *score = malloc(sizeof *score * (size_t)(count * s->unit_tokens + 1)), most = -INFINITY, sum = 0;
    int64_t *at = malloc(sizeof *at * (size_t)(count * s->unit_tokens + 1));
    const int64_t q = ((int64_t)row * p->n_heads + head) * hd;
    for (int32_t i = 0; i < count * s->unit_tokens; i++) {
        int32_t token = unit[i / s->unit_tokens] * s->unit_tokens + i % s->unit_tokens;
        if (token > position) {
            continue;
        }
        at[n] = key_at(d, seq, token, kv_head);
        score[n] = 0;
        for (int32_t j = 0; j < hd; j++) {
            score[n] += (double)at_bf16(&d->q, q + j) * (double)at_bf16(&d->kv, at[n] + j);
        }
        score[n] /= sqrt(hd);
        most = score[n] > most ? score[n] : most;
        n++;
    }
    memset(out, 0, sizeof *out * (size_t)hd);
    for (int32_t i = 0; i < n; i++) {
        double weight = exp(score[i] - most);
        sum += weight;
        for (int32_t j = 0; j < hd; j++) {
            out[j] += weight * (double)at_bf16(&d->kv, at[i] + p->view.value_offset / 2 + j);
        }
    }
    for (int32_t j = 0; j < hd; j++) {
        out[j] = n ? out[j] / sum : 0;
    }
    free(score);
    free(at);
    return n ? most + log(sum) : -INFINITY;
}

static void check_samples(const struct selected_data *d, const char *name, const struct buffer *out,
                          const struct buffer *lse)
{
    const int32_t hd = d->p.head_dim, heads = d->p.n_heads, pairs = d->p.rows.n * heads;
    const int32_t n = pairs < SAMPLES ? pairs : SAMPLES;
    double *expected = malloc(sizeof *expected * (size_t)n * (size_t)hd);
    double *expected_lse = malloc(sizeof *expected_lse * (size_t)n);
    float *got = malloc(sizeof *got * (size_t)n * (size_t)hd), *got_lse = malloc(sizeof *got_lse * (size_t)n);
    for (int32_t i = 0; i < n; i++) {    // one of each equal part, so that all of them are taken where they are few
        int32_t first = (int32_t)((int64_t)pairs * i / n), end = (int32_t)((int64_t)pairs * (i + 1) / n);
        int32_t pair = check_range(first, end - 1);
        expected_lse[i] = reference(d, pair / heads, pair % heads, expected + (int64_t)i * hd);
        got_lse[i] = ((float *)lse->host)[pair];
        for (int32_t j = 0; j < hd; j++) {
            got[(int64_t)i * hd + j] = at_bf16(out, (int64_t)pair * hd + j);
        }
    }
    check_close(name, got, expected, (int64_t)n * hd, 2e-2, 2e-2, 4e-5);
    check_close(name, got_lse, expected_lse, n, 1e-3, 1e-4, 1e-7);
    free(expected);
    free(expected_lse);
    free(got);
    free(got_lse);
}

// Every element against the kernel that takes row by row.
static void check_all(const struct selected_data *d, const char *name, const struct buffer *out)
{
    const struct prefill_selected_params *p = &d->p;
    int64_t n = (int64_t)p->rows.n * p->n_heads * p->head_dim;
    struct buffer other = buffer_new(out->bytes);
    struct buffer work = buffer_new(attention_workspace_bytes(p->rows.n, p->n_heads, p->n_kv_heads, p->head_dim,
                                                              p->selection.sets));
    struct attention_params a = {.rows = p->rows, .q = p->q, .view = p->view, .over = ATTEND_SELECTED,
                                 .selection = p->selection, .n_heads = p->n_heads, .n_kv_heads = p->n_kv_heads,
                                 .head_dim = p->head_dim, .out = other.device, .workspace = work.device};
    CHECK_MESSAGE(attention_launch(&a, 0) == 0, "%s", status_text());
    buffer_down(&other);
    double *expected = malloc(sizeof *expected * (size_t)n);
    float *got = malloc(sizeof *got * (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        expected[i] = (double)at_bf16(&other, i);
        got[i] = at_bf16(out, i);
    }
    check_close(name, got, expected, n, 2e-2, 2e-2, 8e-5);
    free(expected);
    free(got);
    buffer_free(&other);
    buffer_free(&work);
}

static void check_case(const struct selected_case *c)
{
    struct selected_data d;
    data_open(&d, c);
    struct buffer out = buffer_new(d.q.bytes), again = buffer_new(d.q.bytes);
    struct buffer lse = buffer_new((int64_t)d.p.rows.n * c->n_heads * 4);
    d.p.out = out.device;
    d.p.lse = lse.device;
    CHECK_MESSAGE(prefill_selected_launch(&d.p, 0) == 0, "%s: %s", c->name, status_text());
    buffer_down(&out);
    buffer_down(&lse);
    buffer_down(&d.work);
    check_samples(&d, c->name, &out, &lse);
    check_all(&d, c->name, &out);

    // The same bits again, without lse.
    d.p.out = again.device;
    d.p.lse = NULL;
    CHECK(prefill_selected_launch(&d.p, 0) == 0);
    buffer_down(&again);
    CHECK_MESSAGE(memcmp(again.host, out.host, (size_t)out.bytes) == 0, "%s: a second run gave other bits", c->name);
    buffer_free(&out);
    buffer_free(&again);
    buffer_free(&lse);
    data_close(&d);
}

int test_prefill_selected(void)
{
    check_begin();
    static const struct selected_case cases[] = {
        {20, 4, 128, 64, false, 1, 1, 37, 4, {{0, 50}, {1000, 3}, {77, 1}, {300, 29}}, "37 tokens, four sequences",
         false},
        {20, 4, 128, 64, false, 1, 1, 2048, 1, {{5000, 40}}, "2048 tokens", false},
        {20, 4, 128, 64, false, 1, 1, 200, 1, {{0, 300}}, "200 tokens, early rows", false},
        {5, 1, 64, 48, false, 1, 1, 700, 2, {{70001, 14}, {33000, 2}}, "700 tokens, more than one range", false},
        {8, 8, 64, 16, false, 1, 1, 64, 3, {{99, 17}, {0, 1}, {777, 40}}, "tokens, group 1", false},
        {16, 1, 128, 64, true, 1, 1, 100, 2, {{500, 9}, {31, 5}}, "tokens, group 16, head-major", false},
        {24, 2, 64, 64, false, 2, 1, 60, 2, {{200, 11}, {12, 30}}, "tokens, group 12, two sets", false},
        {8, 1, 128, 64, false, 1, 1, 90, 16, {{5, 1}, {50, 1}, {60, 1}, {70, 2}, {80, 1}, {90, 1}, {95, 1}, {99, 1},
         {120, 1}, {130, 1}, {140, 1}, {150, 1}, {160, 3}, {170, 1}, {180, 1}, {190, 1}}, "tokens, sixteen sequences",
         false},
        {2, 1, 64, 64, false, 1, 1, 9, 1, {{300, 9000}}, "tokens, more than one slice", false},
        {20, 4, 128, 64, false, 1, 1, 37, 2, {{0, 50}, {1000, 30}}, "37 tokens, behind 64 GiB", true},
        {20, 4, 128, 128, true, 4, 128, 3, 2, {{900, 40}, {0, 200}}, "blocks, behind 64 GiB", true},
        {20, 4, 128, 64, true, 20, 16, 8, 2, {{1003, 25}, {0, 61}}, "pages of 16, a set per query head", false},
        {20, 4, 128, 16, false, 1, 64, 5, 2, {{801, 30}, {0, 70}}, "units of 64, one set", false},
        {12, 4, 64, 48, false, 4, 16, 12, 2, {{301, 30}, {17, 5}}, "units of 16, a set per KV head", false},
        {20, 4, 128, 128, true, 4, 128, 16, 2, {{9001, 40}, {0, 300}}, "blocks, a set per KV head", false},
        {20, 4, 128, 64, true, 1, 128, 3, 3, {{900, 130}, {127, 2}, {128, 1}}, "blocks, one set", false},
        {6, 3, 64, 32, false, 3, 256, 4, 2, {{1800, 70}, {0, 290}}, "blocks of 256, token-major", false},
        {16, 1, 128, 128, true, 16, 128, 2, 2, {{700, 9}, {31, 5}}, "blocks, a set per query head", false},
        {4, 2, 64, 64, true, 2, 128, 3, 2, {{40, 4500}, {300, 10}}, "blocks, more than one slice", false},
        {8, 2, 32, 64, false, 1, 1, 30, 2, {{100, 20}, {0, 9}}, "tokens, heads of 32", false},
        {4, 2, 16, 64, false, 2, 16, 3, 2, {{100, 20}, {0, 9}}, "units of 16, heads of 16", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct selected_case c = cases[i];
        for (int32_t s = 0; s < c.n_seqs; s++) {
            c.seqs[s].context = gpu_tokens(c.seqs[s].context, 1000);
            c.seqs[s].n_rows = gpu_tokens(c.seqs[s].n_rows, 40);
        }
        check_case(&c);
    }
    return check_end();
}
