// traces/durations.c - a bag of durations.
#include "traces/durations.h"

#include <errno.h>
#include <stdlib.h>

int64_t saturating_sum(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (a < 0 ? INT64_MIN : INT64_MAX) : sum;
}

int durations_add(struct durations *bag, int64_t duration_ns)
{
    if (bag->n == bag->capacity) {
        int64_t capacity = bag->capacity ? 2 * bag->capacity : 64;
        int64_t *grown = realloc(bag->ns, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return -ENOMEM;
        }
        bag->ns = grown;
        bag->capacity = capacity;
    }
    bag->ns[bag->n++] = duration_ns;
    bag->total_ns = saturating_sum(bag->total_ns, duration_ns);
    return 0;
}

void durations_free(struct durations *bag)
{
    free(bag->ns);
    *bag = (struct durations){0};
}

static int compare_int64(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

void durations_quantiles(struct durations *bag, int64_t *median_ns, int64_t *p95_ns)
{
    qsort(bag->ns, (size_t)bag->n, sizeof *bag->ns, compare_int64);
    int64_t low = bag->ns[(bag->n - 1) / 2], high = bag->ns[bag->n / 2];
    *median_ns = low + (int64_t)(((uint64_t)high - (uint64_t)low) / 2);
    *p95_ns = bag->ns[(bag->n * 95 + 99) / 100 - 1];
}
