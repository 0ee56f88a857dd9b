// traces/ratio_test.h - how much longer one set of times is than another, and whether that is more than chance.
//
// No shape of the times is assumed. Two sets: the estimate is the median of all ratios b / a (Hodges and Lehmann, on
// logarithms), the probability that of Mann and Whitney's test. Pairs, where both sets are of the same work piece by
// piece: the median of the geometric means of all two ratios, and Wilcoxon's signed ranks. Both with the normal
// approximation, corrected for ties and for continuity, which is cautious for few times; the interval of 95% is the one
// that belongs to the test. Times of one run may depend on each other (clocks, temperature): a small p says that these
// two runs differ, not that any two would. Pure functions.
#pragma once

#include <stdint.h>

// Below these counts no difference could come out as one.
enum { RATIO_TEST_LEAST = 5, RATIO_TEST_LEAST_PAIRS = 6 };

struct ratio_test {
    double ratio, low, high;    // b / a and its interval
    double p;                   // of so large a difference, either way, if there were none
};

// Times are > 0; smaller ones count as 1. 0, or -ENOMEM with *out untouched.
int ratio_test_sets(struct ratio_test *out, const int64_t *a_ns, int64_t n_a, const int64_t *b_ns, int64_t n_b);
int ratio_test_pairs(struct ratio_test *out, const int64_t *a_ns, const int64_t *b_ns, int64_t n);

// What is behind p [n] answers n questions asked at once: made so that the chance that any answer errs stays what it is
// for one (Holm). Sorts p.
void ratio_test_adjust(double **p, int32_t n);
