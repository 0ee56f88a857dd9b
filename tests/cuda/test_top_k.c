// tests/cuda/test_top_k.c - selection against a sort: exact sets, lowest index among ties, ascending, whatever the
// scores.
#include "tests/cuda/gpu.h"

struct scored {
    float score;
    int32_t unit;
};

static int best_first(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : (x->unit > y->unit) - (x->unit < y->unit);
}

static int ascending(const void *a, const void *b)
{
    return (*(const int32_t *)a > *(const int32_t *)b) - (*(const int32_t *)a < *(const int32_t *)b);
}

enum shape_of_scores {
    NORMAL, EQUAL, ZERO, ONE_BIN, PLATEAU, ASCENDING, DESCENDING, HUGE_RANGE, FEW_VALUES, SIGNED_ZERO, N_SHAPES
};

static float draw(enum shape_of_scores shape, int32_t i, int32_t n)
{
    switch (shape) {
    case EQUAL: return -3.25f;
    case ZERO: return 0;
    case ONE_BIN: return 1.0f + (float)check_range(0, 40) * 0x1p-23f;
    case PLATEAU: return check_uniform() < 0.99 ? 0 : (float)check_uniform();
    case ASCENDING: return (float)i;
    case DESCENDING: return (float)(n - i);
    case HUGE_RANGE: return ldexpf(check_normal(), check_range(-140, 120));
    case FEW_VALUES: return (float)check_range(0, 3);
    case SIGNED_ZERO: return check_uniform() < 0.5 ? -0.0f : 0.0f;
    default: return check_normal();
    }
}

static void check_case(enum shape_of_scores shape, const int32_t *units, int32_t n, int32_t k, int32_t sets,
                       int32_t unit_tokens, int32_t local, int32_t sink)
{
    int32_t tokens[64], most = 0;
    for (int32_t i = 0; i < n; i++) {
        tokens[i] = (units[i] - 1) * unit_tokens + check_range(1, unit_tokens);
        most = units[i] > most ? units[i] : most;
    }
    struct paged paged = paged_new(tokens, n, 4096);
    struct buffer scores = buffer_new((int64_t)n * sets * most * 4), unit = buffer_new((int64_t)n * sets * k * 4);
    struct buffer count = buffer_new((int64_t)n * sets * 4), nan = buffer_new(4);
    for (int64_t i = 0; i < (int64_t)n * sets * most; i++) {
        ((float *)scores.host)[i] = draw(shape, (int32_t)(i % most), most);
    }
    buffer_up(&scores);
    buffer_up(&nan);
    struct top_k_params p = {.rows = paged.rows, .n = n, .scores = scores.device, .stride = most, .sets = sets,
                             .unit_tokens = unit_tokens, .k = k, .keep_local = local, .keep_sink = sink,
                             .max_units = most, .nan_row = nan.device,
                             .out = {.unit = unit.device, .count = count.device, .sets = sets,
                                     .unit_tokens = unit_tokens, .stride = k}};
    CHECK_MESSAGE(top_k_launch(&p, 0) == 0, "%s", status_text());
    buffer_down(&unit);
    buffer_down(&count);
    buffer_down(&nan);
    CHECK(*(int32_t *)nan.host == 0);
    struct scored *sorted = malloc(sizeof *sorted * (size_t)most);
    int32_t *expected = malloc(sizeof *expected * (size_t)k);
    for (int32_t list = 0; list < n * sets; list++) {
        int32_t m = units[list / sets], take = k < m ? k : m;
        for (int32_t i = 0; i < m; i++) {
            bool forced = i < sink || i >= m - local;
            sorted[i] = (struct scored){forced ? INFINITY : ((float *)scores.host)[(int64_t)list * most + i], i};
        }
        qsort(sorted, (size_t)m, sizeof *sorted, best_first);
        for (int32_t i = 0; i < take; i++) {
            expected[i] = sorted[i].unit;
        }
        qsort(expected, (size_t)take, sizeof *expected, ascending);
        const int32_t *got = (const int32_t *)unit.host + (int64_t)list * k;
        CHECK_MESSAGE(((int32_t *)count.host)[list] == take, "top-k: %d of %d units", ((int32_t *)count.host)[list],
                      take);
        int32_t at = 0;
        while (at < take && got[at] == expected[at]) {
            at++;
        }
        CHECK_MESSAGE(at == take, "top-k: scores of shape %d, k %d of %d, %d lists: [%d] is %d, expected %d",
                      (int)shape, k, m, n * sets, at, got[at], expected[at]);
    }
    free(sorted);
    free(expected);
    struct buffer *all[] = {&scores, &unit, &count, &nan};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&paged);
}

static void check_nan(void)
{
    struct paged paged = paged_new((int32_t[]){3000, 3000}, 2, 64);
    struct buffer scores = buffer_new(6000 * 4), unit = buffer_new(2 * 64 * 4);
    struct buffer count = buffer_new(2 * 4), nan = buffer_new(4);
    fill_f32(&scores, 1);
    ((float *)scores.host)[4321] = NAN;
    buffer_up(&scores);
    buffer_up(&nan);
    struct top_k_params p = {.rows = paged.rows, .n = 2, .scores = scores.device, .stride = 3000, .sets = 1,
                             .unit_tokens = 1, .k = 64, .max_units = 3000, .nan_row = nan.device,
                             .out = {.unit = unit.device, .count = count.device, .sets = 1, .unit_tokens = 1,
                                     .stride = 64}};
    CHECK(top_k_launch(&p, 0) == 0);
    buffer_down(&nan);
    buffer_down(&unit);
    CHECK_MESSAGE(*(int32_t *)nan.host == 2, "NaN in row 1 reported as %d", *(int32_t *)nan.host);
    struct buffer *all[] = {&scores, &unit, &count, &nan};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&paged);
}

// Few scores, yet every way through the kernel but rows beyond a cluster's memory.
static void check_small(enum shape_of_scores s)
{
    check_case(s, (int32_t[]){gpu_tokens(20000, 9000), 2049, 300}, 3, gpu_tokens(256, 100), 1, 1, 17, 4);
    check_case(s, (int32_t[]){check_range(1, 3000), check_range(1, 3000)}, 2, check_range(1, 64), 1, 1, 0, 0);
    check_case(s, (int32_t[]){1024, 7, 16, 17}, 4, 16, 4, 128, 1, 0);
}

// More long rows than clusters that hold them in registers.
static void check_crowd(enum shape_of_scores s, int32_t n)
{
    int32_t units[40];
    for (int i = 0; i < n; i++) {
        units[i] = check_range(100000, 131072);
    }
    units[n / 2] = 131072;
    check_case(s, units, n, 2048, 1, 1, 1, 1);
}

int test_top_k(void)
{
    check_begin();
    for (int shape = 0; shape < N_SHAPES; shape++) {
        if (!gpu_tiny || shape == NORMAL || shape == FEW_VALUES) {
            check_small((enum shape_of_scores)shape);
        }
    }
    check_nan();
    for (int shape = 0; shape < N_SHAPES && !gpu_small; shape++) {
        enum shape_of_scores s = (enum shape_of_scores)shape;
        check_case(s, (int32_t[]){131072}, 1, 2048, 1, 1, 0, 0);
        check_case(s, (int32_t[]){5000, 2048, 2049, 1, 100000}, 5, 2048, 1, 1, 0, 0);
        int32_t many[40];
        for (int i = 0; i < 40; i++) {
            many[i] = check_range(1, 30000);
        }
        check_case(s, many, 40, 1024, 1, 1, 0, 0);
    }
    if (!gpu_small) {
        for (int shape = 0; shape < N_SHAPES; shape++) {
            check_crowd((enum shape_of_scores)shape, 20);
            check_crowd((enum shape_of_scores)shape, 33);
        }
        check_case(NORMAL, (int32_t[]){1000000}, 1, 2048, 1, 1, 0, 0);
        check_case(FEW_VALUES, (int32_t[]){1000000}, 1, 2048, 1, 1, 0, 0);
        check_case(NORMAL, (int32_t[]){131072}, 1, 60000, 1, 1, 0, 0);
        check_case(NORMAL, (int32_t[]){131072, 131071, 70001, 3, 131072, 131072, 131072, 131072, 131072, 131072}, 10,
                   2048, 1, 1, 1, 1);
    }
    return check_end();
}
