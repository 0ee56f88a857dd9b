// tests/test_ratio_test.c - comparisons of times against counting all arrangements, and against chance itself.
#include "tests/check.h"
#include "traces/ratio_test.h"

enum { FEW = 7, TRIALS = 1500, MOST = 64 };

static int64_t some_time(void)
{
    return 1 + (int64_t)(1e6 * exp(0.2 * (double)check_normal()));
}

// How likely so many inversions, or more, are among all ways to deal 2 FEW different times into two hands of FEW.
static double exact_sets(const int64_t *a, const int64_t *b)
{
    int64_t all[2 * FEW];
    memcpy(all, a, FEW * sizeof *a);
    memcpy(all + FEW, b, FEW * sizeof *b);
    double observed = 0, extreme = 0, total = 0;
    for (uint32_t hand = 0; hand < 1u << (2 * FEW); hand++) {
        if (__builtin_popcount(hand) != FEW) {
            continue;
        }
        int larger = 0;
        for (int i = 0; i < 2 * FEW; i++) {
            for (int j = 0; j < 2 * FEW; j++) {
                larger += (hand >> i & 1) && !(hand >> j & 1) && all[j] > all[i];
            }
        }
        double away = fabs(larger - FEW * FEW / 2.0);
        observed = hand == (1u << FEW) - 1 ? away : observed;    // the hand that was dealt comes first
        extreme += away >= observed;
        total++;
    }
    return extreme / total;
}

// The same of all ways to give the differences signs. d [FEW] without ties.
static double exact_pairs(const double *d)
{
    double extreme = 0, observed = 0;
    for (uint32_t flips = 0; flips < 1u << FEW; flips++) {
        int sum = 0;
        for (int i = 0; i < FEW; i++) {
            int rank = 1;
            for (int j = 0; j < FEW; j++) {
                rank += fabs(d[j]) < fabs(d[i]);
            }
            sum += ((d[i] > 0) != (flips >> i & 1)) ? rank : 0;
        }
        double away = fabs(sum - FEW * (FEW + 1) / 4.0);
        observed = flips == 0 ? away : observed;
        extreme += away >= observed;
    }
    return extreme / (1u << FEW);
}

// The approximation is close to the truth, and errs on the cautious side where it matters.
static void test_probabilities(void)
{
    for (int trial = 0; trial < 40; trial++) {
        int64_t a[FEW], b[FEW];
        double shift = trial % 4 * 0.15, d[FEW];
        for (int i = 0; i < FEW; i++) {
            a[i] = some_time();
            b[i] = (int64_t)((double)some_time() * exp(shift));
            d[i] = log((double)b[i]) - log((double)a[i]);
        }
        struct ratio_test sets, pairs;
        CHECK(ratio_test_sets(&sets, a, FEW, b, FEW) == 0 && ratio_test_pairs(&pairs, a, b, FEW) == 0);
        double p = exact_sets(a, b);
        CHECK_MESSAGE(fabs(sets.p - p) <= 0.02 && (p > 0.05 || sets.p >= 0.9 * p), "sets: p %g, exactly %g", sets.p, p);
        p = exact_pairs(d);
        CHECK_MESSAGE(fabs(pairs.p - p) <= 0.035 && (p > 0.05 || pairs.p >= 0.9 * p), "pairs: p %g, exactly %g",
                      pairs.p, p);
        CHECK(sets.low <= sets.ratio && sets.ratio <= sets.high && pairs.low <= pairs.ratio &&
              pairs.ratio <= pairs.high);
    }
}

static int compare_doubles(const void *left, const void *right)
{
    double x = *(const double *)left, y = *(const double *)right;
    return (x > y) - (x < y);
}

// Estimates are the medians that the header promises.
static void test_estimates(void)
{
    static double all[MOST * MOST];
    int64_t a[MOST], b[MOST];
    int32_t n_a = check_range(RATIO_TEST_LEAST, MOST), n_b = check_range(RATIO_TEST_LEAST, MOST), n = 0;
    for (int32_t i = 0; i < MOST; i++) {
        a[i] = some_time();
        b[i] = some_time() * 3 / 2;
    }
    for (int32_t i = 0; i < n_a; i++) {
        for (int32_t j = 0; j < n_b; j++) {
            all[n++] = log((double)b[j] / (double)a[i]);
        }
    }
    qsort(all, (size_t)n, sizeof *all, compare_doubles);
    struct ratio_test test;
    CHECK(ratio_test_sets(&test, a, n_a, b, n_b) == 0);
    double expected = exp((all[(n - 1) / 2] + all[n / 2]) / 2);
    CHECK_MESSAGE(fabs(test.ratio / expected - 1) <= 1e-9, "%g, expected %g", test.ratio, expected);
    n = 0;
    for (int32_t i = 0; i < n_a; i++) {
        for (int32_t j = i; j < n_a; j++) {
            all[n++] = (log((double)b[i] / (double)a[i]) + log((double)b[j] / (double)a[j])) / 2;
        }
    }
    qsort(all, (size_t)n, sizeof *all, compare_doubles);
    CHECK(ratio_test_pairs(&test, a, b, n_a) == 0);
    expected = exp((all[(n - 1) / 2] + all[n / 2]) / 2);
    CHECK_MESSAGE(fabs(test.ratio / expected - 1) <= 1e-9, "%g, expected %g", test.ratio, expected);
}

// Where nothing differs one in twenty is called different, not more; intervals hold the truth nineteen times of twenty.
static void test_chance(void)
{
    int32_t wrong[2] = {0}, outside[2] = {0};
    const double truth = 1.3;
    for (int trial = 0; trial < TRIALS; trial++) {
        int64_t a[24], b[24], slower[24];
        struct ratio_test test[2];
        for (int i = 0; i < 24; i++) {
            double shared = 0.5 * (double)check_normal();    // what both of a pair have in common
            a[i] = (int64_t)((double)some_time() * exp(shared));
            b[i] = (int64_t)((double)some_time() * exp(shared));
            slower[i] = (int64_t)(truth * (double)b[i]);
        }
        CHECK(ratio_test_sets(&test[0], a, 24, b, 20) == 0 && ratio_test_pairs(&test[1], a, b, 24) == 0);
        wrong[0] += test[0].p < 0.05;
        wrong[1] += test[1].p < 0.05;
        CHECK(ratio_test_sets(&test[0], a, 24, slower, 20) == 0 && ratio_test_pairs(&test[1], a, slower, 24) == 0);
        for (int i = 0; i < 2; i++) {
            outside[i] += !(test[i].low <= truth && truth <= test[i].high);
        }
    }
    // Sets share what pairs have in common too, which only makes them more alike. Six deviations above 5%.
    const double most = TRIALS * 0.05 + 6 * sqrt(TRIALS * 0.05 * 0.95);
    for (int i = 0; i < 2; i++) {
        CHECK_MESSAGE(wrong[i] <= most && outside[i] <= most, "%s: %d of %d wrong, %d intervals miss",
                      i ? "pairs" : "sets", wrong[i], TRIALS, outside[i]);
    }
    CHECK(wrong[1] > TRIALS / 100 && outside[1] > TRIALS / 100);    // nor is it so cautious that it says nothing
}

static void test_edges(void)
{
    static int64_t many[5000], others[3000], same[30];
    for (int i = 0; i < 5000; i++) {
        many[i] = some_time();
    }
    for (int i = 0; i < 3000; i++) {
        others[i] = (int64_t)(1.02 * (double)some_time());
    }
    for (int i = 0; i < 30; i++) {
        same[i] = 77;
    }
    struct ratio_test test;
    CHECK(ratio_test_sets(&test, many, 5000, others, 3000) == 0);
    CHECK_MESSAGE(test.p < 0.05 && fabs(test.ratio - 1.02) <= 0.02 && test.high - test.low <= 0.05,
                  "%g (%g to %g), p %g", test.ratio, test.low, test.high, test.p);
    CHECK(ratio_test_sets(&test, same, 30, same, 20) == 0 && test.p == 1 && test.ratio == 1);
    CHECK(ratio_test_pairs(&test, same, same, 30) == 0 && test.p == 1 && test.ratio == 1);
    const int64_t nothing[6] = {0, 0, 0, 0, 0, -5};
    CHECK(ratio_test_pairs(&test, nothing, same, 6) == 0 && isfinite(test.ratio) && test.p <= 1);
}

static void test_adjust(void)
{
    double p[4] = {0.04, 0.001, 0.03, 0.5}, *pointers[4];
    const double expected[4] = {0.09, 0.004, 0.09, 0.5};
    for (int i = 0; i < 4; i++) {
        pointers[i] = &p[i];
    }
    ratio_test_adjust(pointers, 4);
    for (int i = 0; i < 4; i++) {
        CHECK_MESSAGE(fabs(p[i] - expected[i]) <= 1e-12, "p[%d] = %g, expected %g", i, p[i], expected[i]);
    }
    ratio_test_adjust(pointers, 0);
}

int main(void)
{
    check_begin();
    test_probabilities();
    for (int i = 0; i < 20; i++) {
        test_estimates();
    }
    test_chance();
    test_edges();
    test_adjust();
    return check_end();
}
