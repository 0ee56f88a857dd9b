// traces/durations.h - a bag of durations: all of them are kept, so that quantiles are exact.
//
// Private to this room. A zeroed struct is an empty bag. Sums stop at the ends of their range: a damaged file can say
// any size.
#pragma once

#include <stdint.h>

struct durations {
    int64_t *ns;    // [n], owned
    int64_t n, capacity;
    int64_t total_ns;
};

int durations_add(struct durations *bag, int64_t duration_ns);    // 0 or -ENOMEM
void durations_free(struct durations *bag);                       // leaves an empty bag

// The middle one, or the mean of the middle two; and the smallest that 95% do not exceed. Sorts the bag, which must not
// be empty.
void durations_quantiles(struct durations *bag, int64_t *median_ns, int64_t *p95_ns);

int64_t saturating_sum(int64_t a, int64_t b);
