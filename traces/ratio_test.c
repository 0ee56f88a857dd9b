// traces/ratio_test.c - rank tests of ratios.
//
// All pairs of two large sets would be too many: an estimate takes as many quantiles of each, evenly spaced, as
// QUANTILES says. Ranks and probabilities come from all times.
#include "traces/ratio_test.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sort.h"
#include "engine/status.h"

enum { QUANTILES = 1024 };
static const double Z_95 = 1.959963984540054;    // a normal variable is within +- that in 95 of 100 cases

// What came [n] as logarithms, sorted. NULL: no memory.
static double *sorted_logs(const int64_t *ns, int64_t n)
{
    double *logs = malloc((size_t)n * sizeof *logs);
    for (int64_t i = 0; logs && i < n; i++) {
        logs[i] = log(ns[i] > 1 ? (double)ns[i] : 1);
    }
    if (logs) {
        sort_doubles(logs, n);
    }
    return logs;
}

// Of a difference `away` from what chance gives on average, in units of 1, with variance `variance`.
static double two_sided(double away, double variance)
{
    double z = (fabs(away) - 0.5) / sqrt(variance);
    return !(variance > 0) || z <= 0 ? 1 : erfc(z / sqrt(2));
}

// Keeps QUANTILES of sorted values at most, evenly spaced.
static int64_t thin(double *values, int64_t n)
{
    if (n <= QUANTILES) {
        return n;
    }
    for (int64_t i = 0; i < QUANTILES; i++) {
        values[i] = values[i * (n - 1) / (QUANTILES - 1)];
    }
    return QUANTILES;
}

// The estimate and its interval from all its candidates [n], of which the share `below` and as many above lie outside.
static void estimate(struct ratio_test *out, double *candidates, int64_t n, double below)
{
    sort_doubles(candidates, n);
    int64_t outside = (int64_t)floor(below * (double)n);
    outside = outside < 0 ? 0 : outside > (n - 1) / 2 ? (n - 1) / 2 : outside;
    out->ratio = exp(0.5 * (candidates[(n - 1) / 2] + candidates[n / 2]));
    out->low = exp(candidates[outside]);
    out->high = exp(candidates[n - 1 - outside]);
}

// Mann and Whitney's: of sorted sets, how often b is the larger, ties half; and the sum of t^3 - t over ties.
static double count_larger(const double *a, int64_t n_a, const double *b, int64_t n_b, double *ties)
{
    double larger = 0;
    *ties = 0;
    for (int64_t i = 0, j = 0; i < n_a || j < n_b;) {
        double value = j == n_b || (i < n_a && a[i] <= b[j]) ? a[i] : b[j];
        int64_t from_a = i, from_b = j;
        while (i < n_a && !(a[i] > value)) {
            i++;
        }
        while (j < n_b && !(b[j] > value)) {
            j++;
        }
        double in_a = (double)(i - from_a), in_b = (double)(j - from_b), both = in_a + in_b;
        larger += in_b * ((double)from_a + 0.5 * in_a);
        *ties += both * both * both - both;
    }
    return larger;
}

int ratio_test_sets(struct ratio_test *out, const int64_t *a_ns, int64_t n_a, const int64_t *b_ns, int64_t n_b)
{
    double *a = sorted_logs(a_ns, n_a), *b = sorted_logs(b_ns, n_b), *all = NULL;
    int error = a && b ? 0 : -ENOMEM;
    if (!error) {
        int64_t most = QUANTILES, few_a = n_a < most ? n_a : most, few_b = n_b < most ? n_b : most;
        all = malloc((size_t)(few_a * few_b) * sizeof *all);
        error = all ? 0 : -ENOMEM;
    }
    if (!error) {
        double m = (double)n_a, n = (double)n_b, total = m + n, ties;
        double larger = count_larger(a, n_a, b, n_b, &ties);
        out->p = two_sided(larger - 0.5 * m * n, m * n / 12 * (total + 1 - ties / (total * (total - 1))));
        n_a = thin(a, n_a);
        n_b = thin(b, n_b);
        for (int64_t i = 0; i < n_a; i++) {
            for (int64_t j = 0; j < n_b; j++) {
                all[i * n_b + j] = b[j] - a[i];
            }
        }
        estimate(out, all, n_a * n_b, 0.5 - Z_95 * sqrt((total + 1) / (12 * m * n)));
    }
    free(a);
    free(b);
    free(all);
    return error ? status_fail(error, "no memory to compare %lld times with %lld", (long long)n_a, (long long)n_b) : 0;
}

static int compare_sizes(const void *left, const void *right)
{
    double a = fabs(*(const double *)left), b = fabs(*(const double *)right);
    return (a > b) - (a < b);
}

// Wilcoxon's: the sum of ranks of positive differences, less what chance gives; differences of 0 are left out.
static double signed_ranks(double *differences, int64_t n, double *variance)
{
    int64_t kept = 0;
    double sum = 0, ties = 0;
    for (int64_t i = 0; i < n; i++) {
        if (differences[i] < 0 || differences[i] > 0) {
            differences[kept++] = differences[i];
        }
    }
    qsort(differences, (size_t)kept, sizeof *differences, compare_sizes);
    for (int64_t i = 0, end; i < kept; i = end) {
        for (end = i; end < kept && !(fabs(differences[end]) > fabs(differences[i])); end++) {
        }
        double tied = (double)(end - i), rank = 0.5 * (double)(i + 1 + end);
        ties += tied * tied * tied - tied;
        for (int64_t j = i; j < end; j++) {
            sum += differences[j] > 0 ? rank : 0;
        }
    }
    double k = (double)kept;
    *variance = k * (k + 1) * (2 * k + 1) / 24 - ties / 48;
    return sum - k * (k + 1) / 4;
}

int ratio_test_pairs(struct ratio_test *out, const int64_t *a_ns, const int64_t *b_ns, int64_t n)
{
    int64_t most = n < QUANTILES ? n : QUANTILES;
    double *differences = malloc((size_t)n * sizeof *differences);
    double *all = malloc((size_t)(most * (most + 1) / 2) * sizeof *all);
    if (!differences || !all) {
        free(differences);
        free(all);
        return status_fail(-ENOMEM, "no memory to compare %lld pairs of times", (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        differences[i] = log(b_ns[i] > 1 ? (double)b_ns[i] : 1) - log(a_ns[i] > 1 ? (double)a_ns[i] : 1);
    }
    sort_doubles(differences, n);
    double *quantiles = malloc((size_t)n * sizeof *quantiles), pairs = (double)n, variance;
    if (!quantiles) {
        free(differences);
        free(all);
        return status_fail(-ENOMEM, "no memory to compare %lld pairs of times", (long long)n);
    }
    memcpy(quantiles, differences, (size_t)n * sizeof *quantiles);
    int64_t few = thin(quantiles, n), candidates = 0;
    for (int64_t i = 0; i < few; i++) {
        for (int64_t j = i; j < few; j++) {
            all[candidates++] = 0.5 * (quantiles[i] + quantiles[j]);
        }
    }
    double share = Z_95 * sqrt(pairs * (pairs + 1) * (2 * pairs + 1) / 24) / (pairs * (pairs + 1) / 2);
    estimate(out, all, candidates, 0.5 - share);
    double away = signed_ranks(differences, n, &variance);
    out->p = two_sided(away, variance);
    free(differences);
    free(quantiles);
    free(all);
    return 0;
}

static int compare_behind(const void *left, const void *right)
{
    double a = **(double *const *)left, b = **(double *const *)right;
    return (a > b) - (a < b);
}

void ratio_test_adjust(double **p, int32_t n)
{
    double least = 0;
    qsort(p, (size_t)n, sizeof *p, compare_behind);
    for (int32_t i = 0; i < n; i++) {
        least = fmax(least, fmin(1, *p[i] * (n - i)));
        *p[i] = least;
    }
}
