// engine/selection_metrics.c - merging ascending lists.
#include "engine/selection_metrics.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "engine/status.h"

static int32_t count_common(const int32_t *a, int32_t n_a, const int32_t *b, int32_t n_b)
{
    int32_t common = 0;
    for (int32_t i = 0, j = 0; i < n_a && j < n_b;) {
        common += a[i] == b[j];
        int32_t left = a[i], right = b[j];
        i += left <= right;
        j += right <= left;
    }
    return common;
}

double selection_share(const int32_t *units, int32_t n, const int32_t *others, int32_t n_others)
{
    return n > 0 ? (double)count_common(units, n, others, n_others) / n : NAN;
}

double selection_iou(const int32_t *tokens, int32_t n, const int32_t *others, int32_t n_others)
{
    int32_t common = count_common(tokens, n, others, n_others), either = n + n_others - common;
    return either > 0 ? (double)common / either : NAN;
}

int32_t selection_tokens(int32_t *tokens, const int32_t *units, int32_t n, int32_t unit_tokens, int32_t n_tokens)
{
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) {
        for (int32_t t = units[i] * unit_tokens; t < (units[i] + 1) * unit_tokens && t < n_tokens; t++) {
            tokens[count++] = t;
        }
    }
    return count;
}

double selection_mass(const float *mass, const int32_t *tokens, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += (double)mass[tokens[i]];
    }
    return sum;
}

struct weighed {
    float mass;
    int32_t token;
};

static int by_mass(const void *left, const void *right)
{
    const struct weighed *a = left, *b = right;
    return a->mass != b->mass ? (a->mass < b->mass) - (a->mass > b->mass)
                              : (a->token > b->token) - (a->token < b->token);
}

static int ascending(const void *left, const void *right)
{
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    return (a > b) - (a < b);
}

int32_t selection_exact(int32_t *tokens, const float *mass, int32_t n_tokens, int32_t k)
{
    struct weighed *all = malloc(((size_t)n_tokens + 1) * sizeof *all);
    if (!all) {
        return status_fail(-ENOMEM, "no memory to rank %d tokens", n_tokens);
    }
    for (int32_t t = 0; t < n_tokens; t++) {
        all[t] = (struct weighed){mass[t], t};
    }
    qsort(all, (size_t)n_tokens, sizeof *all, by_mass);
    int32_t n = k < n_tokens ? k : n_tokens;
    for (int32_t i = 0; i < n; i++) {
        tokens[i] = all[i].token;
    }
    free(all);
    qsort(tokens, (size_t)n, sizeof *tokens, ascending);
    return n;
}
