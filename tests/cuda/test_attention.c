// tests/cuda/test_attention.c - attention kernels against double precision: group sizes, head sizes, ragged batches,
// selections of tokens and blocks with one or more sets, windows with old and fresh keys, both cache layouts.
#include "tests/cuda/gpu.h"

struct attend_case {
    int32_t n_heads, n_kv_heads, head_dim, page_tokens, n_seqs;
    int32_t tokens[40];
    bool head_major;
    enum attend_over over;
    int32_t sets, unit_tokens, units, window;
    bool finishes;
    bool fp8;      // pages hold the codes of what the reference reads
    bool large;    // left out of a small run
    const char *name;
};

static const double FINISH_EPS = 1e-5, FINISH_THETA = 10000;

struct cache {
    struct buffer data;
    struct kv_view view;
};

static struct cache cache_new(const struct attend_case *c, int32_t n_pages, int32_t page_tokens, bool ring)
{
    struct cache k = {0};
    int64_t head = c->head_dim * 2;
    k.view = (struct kv_view){.dtype = DTYPE_BF16,
                              .page_tokens = page_tokens,
                              .ring = ring,
                              .page_stride = 2 * c->n_kv_heads * head * page_tokens};
    k.view.token_stride = c->head_major ? head : 2 * c->n_kv_heads * head;
    k.view.head_stride = c->head_major ? 2 * head * page_tokens : head;
    k.view.value_offset = c->head_major ? head * page_tokens : c->n_kv_heads * head;
    k.data = buffer_new(k.view.page_stride * n_pages);
    fill_bf16(&k.data, 1);
    k.view.data = k.data.device;
    return k;
}

// One vector: codes and scale of it, and itself as they say.
static void code_vector(uint8_t *codes, uint8_t *scale, uint16_t *values, int32_t n)
{
    *scale = kv_quantise(codes, values, n);
    for (int32_t i = 0; i < n; i++) {
        values[i] = f32_to_bf16(fp8_to_f32(codes[i]) * kv_scale_to_f32(*scale));
    }
}

// The tokens of a cache as fp8 pages, whose other bytes are noise; the cache then holds what was kept of them.
static struct cache cache_coded(const struct attend_case *c, struct cache *plain, const struct paged *paged)
{
    struct cache k = {.view = {.dtype = DTYPE_FP8, .page_tokens = plain->view.page_tokens}};
    struct kv_view *v = &k.view;
    int64_t hd = c->head_dim, codes = 2 * c->n_kv_heads * hd, run = (codes + 2 * c->n_kv_heads + 15) / 16 * 16;
    v->page_stride = run * v->page_tokens;
    v->token_stride = c->head_major ? hd : run;
    v->head_stride = c->head_major ? 2 * hd * v->page_tokens : hd;
    v->value_offset = c->head_major ? hd * v->page_tokens : c->n_kv_heads * hd;
    v->scale_offset = c->head_major ? codes * v->page_tokens : codes;
    v->scale_token_stride = c->head_major ? 2 : run;
    v->scale_head_stride = c->head_major ? 2 * v->page_tokens : 2;
    k.data = buffer_new(v->page_stride * paged->n_pages);
    for (int64_t i = 0; i < k.data.bytes; i += 8) {
        uint64_t noise = check_random();
        memcpy((char *)k.data.host + i, &noise, k.data.bytes - i < 8 ? (size_t)(k.data.bytes - i) : 8);
    }
    for (int32_t s = 0; s < c->n_seqs; s++) {
        for (int32_t t = 0; t < c->tokens[s]; t++) {
            for (int32_t h = 0; h < c->n_kv_heads; h++) {
                int64_t from = paged_at(paged, s, t, plain->view.page_stride, plain->view.token_stride) +
                               h * plain->view.head_stride;
                int64_t page = paged_at(paged, s, t, 1, 0), place = t % v->page_tokens;
                uint8_t *base = (uint8_t *)k.data.host + page * v->page_stride;
                uint8_t *key = base + place * v->token_stride + h * v->head_stride;
                uint8_t *scales = base + v->scale_offset + place * v->scale_token_stride + h * v->scale_head_stride;
                uint16_t *values = (uint16_t *)((char *)plain->data.host + from);
                code_vector(key, scales, values, c->head_dim);
                code_vector(key + v->value_offset, scales + 1, values + plain->view.value_offset / 2, c->head_dim);
            }
        }
    }
    buffer_up(&k.data);
    buffer_up(&plain->data);
    k.view.data = k.data.device;
    return k;
}

// Picks ascending units of [0, n_units).
static int32_t pick(int32_t *unit, int32_t n_units, int32_t want)
{
    int32_t count = want < n_units ? want : n_units, left = count;
    for (int32_t u = 0, at = 0; u < n_units; u++) {
        if (check_range(0, n_units - u - 1) < left) {
            unit[at++] = u;
            left--;
        }
    }
    return count;
}

// One query head over the listed tokens; key(token) = element index of the key in the cache.
static void reference(double *out, double *lse, const struct buffer *q, int64_t q_at, const struct buffer *kv,
                      const int64_t *at, const int64_t *value_at, const bool *fresh, const struct buffer *fresh_k,
                      const struct buffer *fresh_v, int32_t n, int32_t hd)
{
    double *score = malloc(sizeof *score * (size_t)(n + 1)), most = -INFINITY, sum = 0;
    for (int32_t i = 0; i < n; i++) {
        score[i] = 0;
        for (int32_t d = 0; d < hd; d++) {
            score[i] += (double)at_bf16(q, q_at + d) * (double)at_bf16(fresh[i] ? fresh_k : kv, at[i] + d);
        }
        score[i] /= sqrt(hd);
        most = score[i] > most ? score[i] : most;
    }
    for (int32_t d = 0; d < hd; d++) {
        out[d] = 0;
    }
    for (int32_t i = 0; i < n; i++) {
        double p = exp(score[i] - most);
        sum += p;
        for (int32_t d = 0; d < hd; d++) {
            out[d] += p * (double)at_bf16(fresh[i] ? fresh_v : kv, value_at[i] + d);
        }
    }
    for (int32_t d = 0; d < hd; d++) {
        out[d] = n ? out[d] / sum : 0;
    }
    *lse = n ? most + log(sum) : -INFINITY;
    free(score);
}

// Norms and turns heads as the kernel is asked to, in double precision; on the host.
static void finish_heads(const struct buffer *x, int32_t heads, const struct attend_case *c, const struct buffer *norm)
{
    const int32_t half = c->head_dim / 2;
    for (int64_t h = 0; h < (int64_t)c->n_seqs * heads; h++) {
        uint16_t *head = (uint16_t *)x->host + h * c->head_dim;
        const int32_t position = c->tokens[h / heads] - 1;
        double v[128], squares = 0;
        for (int32_t d = 0; d < c->head_dim; d++) {
            v[d] = (double)bf16_to_f32(head[d]);
            squares += v[d] * v[d];
        }
        for (int32_t d = 0; d < c->head_dim; d++) {
            v[d] *= (double)((const float *)norm->host)[d] / sqrt(squares / c->head_dim + FINISH_EPS);
        }
        for (int32_t i = 0; i < half; i++) {
            const double angle = position * pow(FINISH_THETA, -(double)i / half), low = v[i], high = v[i + half];
            head[i] = f32_to_bf16((float)(low * cos(angle) - high * sin(angle)));
            head[i + half] = f32_to_bf16((float)(high * cos(angle) + low * sin(angle)));
        }
    }
}

// The finished key and the value of each row must lie in its slot of the ring, the key to the rounding of bf16, and
// nothing else may have changed. Leaves keys of the kernel's own rounding in `expected`.
static void expect_own_token(const struct attend_case *c, const struct cache *cache, uint8_t *expected, int32_t s,
                             const struct buffer *fresh_k, const struct buffer *fresh_v)
{
    const struct kv_view *v = &cache->view;
    for (int32_t h = 0; h < c->n_kv_heads; h++) {
        int64_t at = (c->n_seqs - 1 - s) * v->page_stride + (c->tokens[s] - 1) % v->page_tokens * v->token_stride +
                     h * v->head_stride;
        int64_t from = ((int64_t)s * c->n_kv_heads + h) * c->head_dim;
        for (int32_t d = 0; d < c->head_dim; d++) {
            float want = at_bf16(fresh_k, from + d), got = at_bf16(&cache->data, at / 2 + d);
            CHECK_MESSAGE(fabsf(got - want) <= fabsf(want) / 128 + 1e-5f,
                          "%s: key of row %d, head %d, dimension %d: %g, not %g", c->name, s, h, d, (double)got,
                          (double)want);
        }
        memcpy(expected + at, (uint8_t *)cache->data.host + at, (size_t)c->head_dim * 2);
        memcpy(expected + at + v->value_offset, (uint8_t *)fresh_v->host + from * 2, (size_t)c->head_dim * 2);
    }
}

static void check_ring(const struct attend_case *c, struct cache *cache, const struct buffer *fresh_k,
                       const struct buffer *fresh_v)
{
    uint8_t *expected = malloc((size_t)cache->data.bytes);
    memcpy(expected, cache->data.host, (size_t)cache->data.bytes);
    buffer_down(&cache->data);
    for (int32_t s = 0; c->finishes && s < c->n_seqs; s++) {
        expect_own_token(c, cache, expected, s, fresh_k, fresh_v);
    }
    CHECK_MESSAGE(memcmp(expected, cache->data.host, (size_t)cache->data.bytes) == 0, "%s: the ring", c->name);
    free(expected);
}

static void check_case(const struct attend_case *c)
{
    const int32_t hd = c->head_dim, width = c->n_heads * hd, kv_width = c->n_kv_heads * hd, n = c->n_seqs;
    const int32_t sets = c->sets ? c->sets : 1,
                  ring_tokens = c->over == ATTEND_WINDOW ? c->window + (c->finishes ? 0 : 3) : 0;
    struct paged paged = paged_new(c->tokens, n, c->page_tokens);
    struct cache cache =
        ring_tokens ? cache_new(c, n, ring_tokens, true) : cache_new(c, paged.n_pages, c->page_tokens, false);
    struct cache coded = c->fp8 ? cache_coded(c, &cache, &paged) : (struct cache){0};
    struct buffer q = buffer_new((int64_t)n * width * 2), out = buffer_new((int64_t)n * width * 2);
    struct buffer lse = buffer_new((int64_t)n * c->n_heads * 4), fresh_k = buffer_new((int64_t)n * kv_width * 2);
    struct buffer fresh_v = buffer_new((int64_t)n * kv_width * 2),
                  unit = buffer_new((int64_t)n * sets * (c->units + 1) * 4);
    struct buffer count = buffer_new((int64_t)n * sets * 4), slot = buffer_new(4 * n), context = buffer_new(4 * n);
    struct buffer work = buffer_new(attention_workspace_bytes(n, c->n_heads, c->n_kv_heads, hd, sets));
    fill_bf16(&q, 2);
    fill_bf16(&fresh_k, 1);
    fill_bf16(&fresh_v, 1);
    struct buffer q_norm = buffer_new(hd * 4), k_norm = buffer_new(hd * 4);
    fill_f32(&q_norm, 1);
    fill_f32(&k_norm, 1);
    for (int32_t s = 0; s < n; s++) {
        ((int32_t *)slot.host)[s] = n - 1 - s;
        ((int32_t *)context.host)[s] = c->tokens[s] - 1;
        for (int32_t j = 0; c->over == ATTEND_SELECTED && j < sets; j++) {
            int32_t n_units = (c->tokens[s] + c->unit_tokens - 1) / c->unit_tokens;
            ((int32_t *)count.host)[s * sets + j] =
                pick((int32_t *)unit.host + (s * sets + j) * (c->units + 1), n_units, c->units);
        }
    }
    buffer_up(&unit);
    buffer_up(&count);
    buffer_up(&slot);
    buffer_up(&context);
    struct attention_params p = {.rows = paged.rows,
                                 .q = q.device,
                                 .view = c->fp8 ? coded.view : cache.view,
                                 .over = c->over,
                                 .fresh_k = fresh_k.device,
                                 .fresh_v = fresh_v.device,
                                 .slot = slot.device,
                                 .first_row = paged.seq.device,
                                 .context = context.device,
                                 .window_tokens = c->window,
                                 .n_heads = c->n_heads,
                                 .n_kv_heads = c->n_kv_heads,
                                 .head_dim = hd,
                                 .out = out.device,
                                 .lse = lse.device,
                                 .workspace = work.device,
                                 .finishes = c->finishes,
                                 .early = c->finishes || c->over == ATTEND_SELECTED,
                                 .finish = {q_norm.device, k_norm.device, (float)FINISH_EPS, (float)FINISH_THETA},
                                 .selection = {.unit = unit.device,
                                               .count = count.device,
                                               .sets = sets,
                                               .unit_tokens = c->unit_tokens,
                                               .stride = c->units + 1}};
    CHECK_MESSAGE(attention_launch(&p, 0) == 0, "%s", status_text());
    buffer_down(&out);
    buffer_down(&lse);
    buffer_down(&work);
    if (c->finishes) {
        finish_heads(&q, c->n_heads, c, &q_norm);
        finish_heads(&fresh_k, c->n_kv_heads, c, &k_norm);
    }

    double *expected = malloc(sizeof *expected * (size_t)width * (size_t)n);
    double *expected_lse = malloc(sizeof *expected_lse * (size_t)c->n_heads * (size_t)n);
    float *got = malloc(sizeof *got * (size_t)width * (size_t)n);
    int64_t *key_at = malloc(sizeof *key_at * 2000000), *value_at = malloc(sizeof *value_at * 2000000);
    bool *fresh = calloc(2000000, sizeof *fresh);
    for (int32_t s = 0; s < n; s++) {
        for (int32_t h = 0; h < c->n_heads; h++) {
            int32_t kv_head = h / (c->n_heads / c->n_kv_heads), set = h * sets / c->n_heads, tokens = 0;
            int32_t begin = ring_tokens && c->tokens[s] > c->window ? c->tokens[s] - c->window : 0;
            const int32_t *units = (const int32_t *)unit.host + (s * sets + set) * (c->units + 1);
            int32_t n_list = c->over == ATTEND_SELECTED ? ((int32_t *)count.host)[s * sets + set] * c->unit_tokens
                                                        : c->tokens[s] - begin;
            for (int32_t i = 0; i < n_list; i++) {
                int32_t t = c->over == ATTEND_SELECTED ? units[i / c->unit_tokens] * c->unit_tokens + i % c->unit_tokens
                                                       : begin + i;
                if (t >= c->tokens[s]) {
                    continue;
                }
                fresh[tokens] = ring_tokens && t == c->tokens[s] - 1;
                int64_t at = ring_tokens
                                 ? (n - 1 - s) * cache.view.page_stride + t % ring_tokens * cache.view.token_stride
                                 : paged_at(&paged, s, t, cache.view.page_stride, cache.view.token_stride);
                at += kv_head * cache.view.head_stride;
                key_at[tokens] = fresh[tokens] ? (int64_t)s * kv_width + kv_head * hd : at / 2;
                value_at[tokens] = fresh[tokens] ? key_at[tokens] : (at + cache.view.value_offset) / 2;
                tokens++;
            }
            reference(expected + (int64_t)s * width + h * hd, &expected_lse[s * c->n_heads + h], &q,
                      (int64_t)s * width + h * hd, &cache.data, key_at, value_at, fresh, &fresh_k, &fresh_v, tokens,
                      hd);
        }
    }
    for (int64_t i = 0; i < (int64_t)width * n; i++) {
        got[i] = at_bf16(&out, i);
    }
    check_close(c->name, got, expected, (int64_t)width * n, 2e-2, 2e-2, 4e-5);
    check_close(c->name, lse.host, expected_lse, (int64_t)c->n_heads * n, 1e-3, 1e-4, 1e-7);
    free(expected);
    free(expected_lse);
    free(got);
    free(key_at);
    free(value_at);
    free(fresh);

    check_ring(c, &cache, &fresh_k, &fresh_v);
    // The same bits again.
    struct buffer again = buffer_new(out.bytes);
    p.out = again.device;
    CHECK(attention_launch(&p, 0) == 0);
    buffer_down(&again);
    CHECK_MESSAGE(memcmp(again.host, out.host, (size_t)out.bytes) == 0, "%s: a second run gave other bits", c->name);

    if (c->fp8) {
        buffer_free(&coded.data);
    }
    struct buffer *all[] = {&cache.data, &q,    &out,     &lse,  &fresh_k, &fresh_v, &unit,
                            &count,      &slot, &context, &work, &again,   &q_norm,  &k_norm};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&paged);
}

int test_attention(void)
{
    check_begin();
    static const struct attend_case cases[] = {
        {20, 4, 128, 64, 1, {1}, .name = "one token"},
        {20, 4, 128, 64, 1, {32768}, .large = true, .name = "all, 32768"},
        {2, 1, 16, 64, 1, {1000003}, .large = true, .name = "all, 1000003"},
        {20, 4, 128, 64, 3, {70000, 5, 20000}, .large = true, .name = "all, long and short"},
        {8, 8, 128, 16, 2, {20000, 3000}, .large = true, .name = "all, 8 KV heads, long"},
        {20, 2, 128, 64, 1, {60000}, .large = true, .name = "all, group 10, long"},
        {32, 2, 128, 64, 1, {60000}, .large = true, .name = "all, group 16, 2 KV heads, long"},
        {20,
         4,
         128,
         64,
         40,
         {1, 2, 3,  900, 16, 17, 31, 32, 33, 1, 300, 1, 1, 64, 65, 1, 1, 1, 1, 1,
          1, 5, 15, 48,  47, 49, 1,  1,  1,  1, 1,   2, 2, 2,  2,  2, 2, 2, 2, 777},
         .name = "all, 40 rows"},
        {20, 4, 128, 64, 7, {1, 17, 640, 3001, 64, 65, 129}, .name = "all, ragged"},
        {8, 8, 128, 16, 3, {100, 1, 777}, .name = "all, group 1, 8 KV heads"},
        {16, 1, 128, 64, 3, {1000, 31, 500}, .name = "all, group 16, 1 KV head"},
        {24, 2, 64, 64, 2, {901, 12}, .name = "all, group 12"},
        {12, 4, 64, 48, 3, {300, 47, 49}, .name = "all, heads of 64"},
        {8, 2, 32, 64, 2, {300, 2}, .name = "all, heads of 32"},
        {4, 2, 16, 16, 3, {40, 3, 16}, .name = "all, heads of 16"},
        {6, 3, 64, 32, 2, {90, 200}, .name = "all, 3 KV heads"},
        {20, 4, 128, 64, 2, {500, 200}, .head_major = true, .name = "all, head-major"},
        {20,
         4,
         128,
         64,
         3,
         {9000, 3000, 100},
         .over = ATTEND_SELECTED,
         .unit_tokens = 1,
         .units = 2048,
         .large = true,
         .name = "2048 tokens"},
        {20, 4, 128, 64, 2, {5000, 300}, .over = ATTEND_SELECTED, .unit_tokens = 1, .units = 37, .name = "37 tokens"},
        {20,
         4,
         128,
         128,
         3,
         {9001, 3000, 100},
         .head_major = true,
         .over = ATTEND_SELECTED,
         .sets = 4,
         .unit_tokens = 128,
         .units = 16,
         .name = "blocks, a set per KV head"},
        {20,
         4,
         128,
         64,
         3,
         {9001, 3000, 100},
         .head_major = true,
         .over = ATTEND_SELECTED,
         .unit_tokens = 128,
         .units = 16,
         .name = "blocks, one set"},
        {20,
         4,
         128,
         64,
         2,
         {5003, 100},
         .head_major = true,
         .over = ATTEND_SELECTED,
         .sets = 20,
         .unit_tokens = 16,
         .units = 128,
         .name = "pages, a set per query head"},
        {20, 4, 128, 64, 4, {2000, 512, 513, 1}, .over = ATTEND_WINDOW, .window = 512, .name = "window of 512"},
        {8, 2, 32, 64, 3, {2000, 5, 128}, .over = ATTEND_WINDOW, .window = 128, .name = "window of 128"},
        {4, 2, 16, 64, 2, {2000, 5}, .over = ATTEND_WINDOW, .window = 8, .name = "window of 8"},
        {20,
         4,
         128,
         64,
         4,
         {2000, 512, 513, 1},
         .over = ATTEND_WINDOW,
         .window = 512,
         .finishes = true,
         .name = "window of 512, heads finished"},
        {12,
         4,
         64,
         64,
         9,
         {2000, 5, 7, 31, 32, 33, 1000, 1, 2},
         .head_major = true,
         .over = ATTEND_WINDOW,
         .window = 32,
         .finishes = true,
         .name = "window of 32, heads finished, head-major"},
        {8,
         2,
         32,
         64,
         3,
         {2000, 5, 128},
         .over = ATTEND_WINDOW,
         .window = 128,
         .finishes = true,
         .name = "window of 128, heads of 32 finished"},
        {4,
         2,
         16,
         64,
         3,
         {2000, 5, 900001},
         .over = ATTEND_WINDOW,
         .window = 8,
         .finishes = true,
         .name = "window of 8, heads of 16 finished"},
        {20,
         4,
         128,
         64,
         33,
         {1, 2, 100001, 511, 512, 513, 700, 15,  16,  17, 31, 32, 33,  600, 1,   2,   3,
          4, 5, 6,      7,   8,   9,   10,  528, 529, 64, 65, 66, 900, 900, 900, 1023},
         .over = ATTEND_WINDOW,
         .window = 512,
         .finishes = true,
         .name = "window of 512, 33 rows finished"},
        {16,
         1,
         128,
         64,
         2,
         {700, 3},
         .over = ATTEND_WINDOW,
         .window = 64,
         .finishes = true,
         .name = "window of 64, group 16 finished"},
        {20,
         4,
         128,
         64,
         40,
         {100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000,
          100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1},
         .over = ATTEND_SELECTED,
         .unit_tokens = 1,
         .units = 300,
         .name = "300 tokens, 40 rows"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (cases[i].large && gpu_small && !gpu_tiny) {
            continue;
        }
        struct attend_case c = cases[i];
        for (int32_t s = 0; s < c.n_seqs; s++) {
            c.tokens[s] = gpu_tokens(c.tokens[s], c.large ? 3000 : 900);
        }
        check_case(&c);
        if (c.over != ATTEND_WINDOW) {
            char name[128];
            snprintf(name, sizeof name, "%s, fp8", c.name);
            c.name = name;
            c.fp8 = true;
            check_case(&c);
        }
    }
    return check_end();
}
