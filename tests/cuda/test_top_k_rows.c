// tests/cuda/test_top_k_rows.c - selection of many lists at once: exact sets, lowest unit among ties, ascending.
//
// What is selected is checked against what is not, list by list: nothing left out may be better than anything taken.
#include "tests/cuda/gpu.h"

enum shape_of_scores {
    NORMAL,
    EQUAL,
    ZERO,
    ONE_BIN,
    PLATEAU,
    ASCENDING,
    DESCENDING,
    HUGE_RANGE,
    FEW_VALUES,
    SIGNED_ZERO,
    CLUSTERED,
    SMOOTH,
    N_SHAPES
};

static float draw(enum shape_of_scores shape, int32_t i, int32_t n)
{
    float noise = (float)(check_random() >> 40) * 0x1p-24f - 0.5f;
    switch (shape) {
    case EQUAL: return -3.25f;
    case ZERO: return 0;
    case ONE_BIN: return 1.0f + (float)check_range(0, 40) * 0x1p-23f;
    case PLATEAU: return noise < 0.49f ? 0 : noise;
    case ASCENDING: return (float)i;
    case DESCENDING: return (float)(n - i);
    case HUGE_RANGE: return ldexpf(noise, check_range(-140, 120));
    case FEW_VALUES: return (float)check_range(0, 3);
    case SIGNED_ZERO: return check_uniform() < 0.5 ? -0.0f : 0.0f;
    case CLUSTERED: return noise + (i > n - n / 16 ? 3 : 0);    // the best stand together: one warp's share overflows
    case SMOOTH: return sinf((float)i * 0.01f) + 0.01f * noise;    // whole runs are alike
    default: return noise * noise * noise;                         // tails thinner than the middle
    }
}

struct rows_case {
    enum shape_of_scores shape;
    int32_t n, shortest, longest;    // rows, and their lengths in units
    int32_t k, sets, unit_tokens, local, sink;
    bool maxima;
};

struct rows_data {
    struct paged paged;
    struct buffer scores, maxima, unit, count, nan;
    int32_t *units;    // [n]
    struct top_k_params p;
};

static void fill_scores(const struct rows_case *c, struct rows_data *d)
{
    float *scores = d->scores.host, *maxima = d->maxima.host;
    for (int32_t list = 0; list < c->n * c->sets; list++) {
        int32_t m = d->units[list / c->sets];
        float *row = scores + (int64_t)list * d->p.stride, *most = maxima + (int64_t)list * d->p.maxima_stride;
        for (int32_t i = 0; i < d->p.stride; i++) {
            row[i] = i < m ? draw(c->shape, i, m) : NAN;    // what lies behind a row's units is nobody's
        }
        for (int32_t i = 0; i < d->p.maxima_stride; i++) {
            most[i] = NAN;
            for (int32_t u = i * 16; u < m && u < i * 16 + 16; u++) {
                most[i] = u == i * 16 || row[u] > most[i] ? row[u] : most[i];
            }
        }
    }
    buffer_up(&d->scores);
    buffer_up(&d->maxima);
}

static void rows_data_new(const struct rows_case *c, struct rows_data *d)
{
    int32_t *tokens = malloc(sizeof *tokens * (size_t)c->n);
    d->units = malloc(sizeof *d->units * (size_t)c->n);
    int32_t most = 0;
    for (int32_t i = 0; i < c->n; i++) {
        d->units[i] = i == 0 ? c->longest : check_range(c->shortest, c->longest);
        tokens[i] = (d->units[i] - 1) * c->unit_tokens + check_range(1, c->unit_tokens);
        most = d->units[i] > most ? d->units[i] : most;
    }
    d->paged = paged_new(tokens, c->n, 4096);
    free(tokens);
    int32_t stride = (most + 3) / 4 * 4, lists = c->n * c->sets;
    d->scores = buffer_new((int64_t)lists * stride * 4);
    d->maxima = buffer_new((int64_t)lists * ((stride + 15) / 16) * 4);
    d->unit = buffer_new((int64_t)lists * c->k * 4);
    d->count = buffer_new((int64_t)lists * 4);
    d->nan = buffer_new(4);
    buffer_up(&d->nan);
    d->p = (struct top_k_params){.rows = d->paged.rows,
                                 .n = c->n,
                                 .scores = d->scores.device,
                                 .stride = stride,
                                 .sets = c->sets,
                                 .unit_tokens = c->unit_tokens,
                                 .maxima = c->maxima ? d->maxima.device : NULL,
                                 .maxima_stride = (stride + 15) / 16,
                                 .k = c->k,
                                 .keep_local = c->local,
                                 .keep_sink = c->sink,
                                 .max_units = most,
                                 .nan_row = d->nan.device,
                                 .out = {.unit = d->unit.device,
                                         .count = d->count.device,
                                         .sets = c->sets,
                                         .unit_tokens = c->unit_tokens,
                                         .stride = c->k}};
    fill_scores(c, d);
}

static void rows_data_free(struct rows_data *d)
{
    struct buffer *all[] = {&d->scores, &d->maxima, &d->unit, &d->count, &d->nan};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    free(d->units);
    paged_free(&d->paged);
}

// Whether unit a goes before unit b; forced ones first.
static bool better(const struct rows_case *c, const float *scores, int32_t m, int32_t a, int32_t b)
{
    bool forced_a = a < c->sink || a >= m - c->local, forced_b = b < c->sink || b >= m - c->local;
    if (forced_a != forced_b) {
        return forced_a;
    }
    return forced_a || scores[a] == scores[b] ? a < b : scores[a] > scores[b];
}

static void check_list(const struct rows_case *c, const struct rows_data *d, int32_t list, int with)
{
    int32_t m = d->units[list / c->sets], take = c->k < m ? c->k : m, next = 0, worst = -1, best_left = -1;
    const int32_t *got = (const int32_t *)d->unit.host + (int64_t)list * c->k;
    const float *scores = (const float *)d->scores.host + (int64_t)list * d->p.stride;
    CHECK_MESSAGE(((int32_t *)d->count.host)[list] == take, "%d of %d units", ((int32_t *)d->count.host)[list], take);
    for (int32_t u = 0; u < m; u++) {
        if (next < take && got[next] == u) {
            next++;
            worst = worst < 0 || better(c, scores, m, worst, u) ? u : worst;
        } else {
            best_left = best_left < 0 || better(c, scores, m, u, best_left) ? u : best_left;
        }
    }
    CHECK_MESSAGE(next == take, "shape %d, k %d of %d, maxima %d: [%d] is %d: not ascending units of the row",
                  (int)c->shape, c->k, m, with, next, got[next]);
    CHECK_MESSAGE(next != take || best_left < 0 || better(c, scores, m, worst, best_left),
                  "shape %d, k %d of %d, maxima %d: took %d (%g), left %d (%g)", (int)c->shape, c->k, m, with, worst,
                  (double)scores[worst], best_left, (double)scores[best_left < 0 ? 0 : best_left]);
}

// The same scores without their maxima and, if the case says so, with them.
static void check_case(struct rows_case c)
{
    struct rows_data d;
    rows_data_new(&c, &d);
    for (int with = 0; with <= (int)c.maxima; with++) {
        d.p.maxima = with ? d.maxima.device : NULL;
        buffer_poison(&d.unit);
        buffer_poison(&d.count);
        CHECK_MESSAGE(top_k_launch(&d.p, 0) == 0, "%s", status_text());
        buffer_down(&d.unit);
        buffer_down(&d.count);
        buffer_down(&d.nan);
        CHECK(*(int32_t *)d.nan.host == 0);
        for (int32_t list = 0; list < c.n * c.sets; list++) {
            check_list(&c, &d, list, with);
        }
    }
    rows_data_free(&d);
}

// A NaN anywhere, also in a run whose other scores are poor, names its row.
static void check_nan(bool maxima, int32_t units, int32_t k)
{
    const int32_t rows = units > 1024 ? 70 : 1030;    // enough for the kernels of many lists
    struct rows_case c = {NORMAL, rows, units, units, k, 1, 1, 1, 1, maxima};
    struct rows_data d;
    rows_data_new(&c, &d);
    int32_t row = check_range(0, rows - 1), unit = check_range(0, units - 1);
    ((float *)d.scores.host)[(int64_t)row * d.p.stride + unit] = NAN;
    ((float *)d.maxima.host)[(int64_t)row * d.p.maxima_stride + unit / 16] = NAN;
    buffer_up(&d.scores);
    buffer_up(&d.maxima);
    CHECK(top_k_launch(&d.p, 0) == 0);
    buffer_down(&d.nan);
    buffer_down(&d.unit);
    CHECK_MESSAGE(*(int32_t *)d.nan.host == row + 1, "NaN in row %d reported as %d", row, *(int32_t *)d.nan.host);
    rows_data_free(&d);
}

int test_top_k_rows(void)
{
    check_begin();
    for (int shape = 0; shape < N_SHAPES; shape++) {
        enum shape_of_scores s = (enum shape_of_scores)shape;
        if (gpu_tiny && s != NORMAL && s != ONE_BIN && s != CLUSTERED) {
            continue;
        }
        check_case((struct rows_case){s, 66, 1, gpu_tokens(9000, 3000), gpu_tokens(2048, 500), 1, 1, 0, 0, true});
        check_case((struct rows_case){s, 64, gpu_tokens(17000, 1100), gpu_tokens(35000, 4000), gpu_tokens(1000, 300), 1,
                                      1, 17, 4, true});
        check_case((struct rows_case){s, 4, 100, gpu_tokens(8192, 2000), 128, 20, 16, 1, 0, true});
        check_case((struct rows_case){s, 260, 1, 1024, 16, 4, 128, 1, 0, false});
        check_case((struct rows_case){s, 1030, 1, 500, 100, 1, 8, 3, 2, false});
        check_case((struct rows_case){s, 1024, 1, 200, 16, 1, 8, 0, 0, false});
    }
    if (!gpu_tiny) {
        check_case((struct rows_case){NORMAL, 64, 131072, 131072, 2048, 1, 1, 0, 0, true});
        check_case((struct rows_case){CLUSTERED, 64, 100000, 131072, 2048, 1, 1, 0, 0, true});
        check_nan(false, 40000, 2048);
        check_nan(true, 40000, 2048);
        check_nan(true, 300000, 2048);
    }
    check_nan(false, 2000, 2048);
    check_nan(false, 900, 16);
    return check_end();
}
