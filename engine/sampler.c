// engine/sampler.c - greedy choice, and seeded draws from the most likely tokens.
//
// The set of most likely tokens is found without sorting and without memory: logits as ordered integers, and three
// passes that each add up probability by 12, 12 and 8 bits of them, from the top down.
#include "engine/sampler.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum { MAX_DIGIT_BITS = 12 };

// The tokens that a draw may give: keys above `threshold`, and of those equal to it the first `n_equal`.
struct nucleus {
    uint32_t threshold;
    int32_t n_equal;
    double mass;
};

// Orders floats like unsigned integers; -0 is first made +0, so that equal numbers have equal keys.
static uint32_t ordered_key(float value)
{
    float zeroed = value + 0.0f;
    uint32_t bits;
    memcpy(&bits, &zeroed, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static double weight_of(float logit, float greatest, float temperature)
{
    return exp(((double)logit - (double)greatest) / (double)temperature);
}

// Of the keys whose bits above `shift + bits` are those of `prefix`, adds up the weights by the next `bits` bits, and
// returns the digit at which the sum from the top, begun at *above, reaches `needed`. *above becomes the sum above it.
static uint32_t descend(const float *logits, int32_t vocab, float greatest, float temperature, uint32_t prefix,
                        int shift, int bits, double needed, double *above)
{
    double sums[1 << MAX_DIGIT_BITS] = {0};
    uint32_t digits = 1u << bits, lowest = digits;
    for (int32_t i = 0; i < vocab; i++) {
        uint32_t key = ordered_key(logits[i]);
        if (shift + bits == 32 || key >> (shift + bits) == prefix) {
            uint32_t digit = key >> shift & (digits - 1);
            sums[digit] += weight_of(logits[i], greatest, temperature);
            lowest = digit < lowest ? digit : lowest;
        }
    }
    uint32_t digit = digits - 1;
    for (; digit > lowest && *above + sums[digit] < needed; digit--) {
        *above += sums[digit];
    }
    return digit;
}

static struct nucleus find_nucleus(const float *logits, int32_t vocab, float greatest, float temperature, double needed)
{
    double above = 0;
    uint32_t high = descend(logits, vocab, greatest, temperature, 0, 20, 12, needed, &above);
    uint32_t middle = descend(logits, vocab, greatest, temperature, high, 8, 12, needed, &above);
    uint32_t prefix = high << 12 | middle;
    uint32_t low = descend(logits, vocab, greatest, temperature, prefix, 0, 8, needed, &above);
    struct nucleus nucleus = {.threshold = prefix << 8 | low, .n_equal = 0, .mass = above};
    for (int32_t i = 0; i < vocab && (nucleus.n_equal == 0 || nucleus.mass < needed); i++) {
        if (ordered_key(logits[i]) == nucleus.threshold) {
            nucleus.mass += weight_of(logits[i], greatest, temperature);
            nucleus.n_equal++;
        }
    }
    return nucleus;
}

static uint64_t mix(uint64_t z)    // the finaliser of splitmix64
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// A number in [0, 1) that depends on its arguments alone.
static double uniform(uint64_t seed, int64_t request, int32_t position)
{
    uint64_t bits = mix(mix(mix(seed + 0x9e3779b97f4a7c15u) + (uint64_t)request) + (uint64_t)position);
    return (double)(bits >> 11) * 0x1p-53;
}

int32_t sampler_draw(const float *logits, int32_t vocab, const struct sampling *sampling, int32_t position)
{
    int32_t best = 0;
    double total = 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (isnan(logits[i])) {
            return -EDOM;
        }
        best = logits[i] > logits[best] ? i : best;
    }
    float greatest = logits[best], temperature = sampling->temperature;
    if (temperature <= 0 || isinf(greatest)) {    // infinite logits have no differences to weigh
        return best;
    }
    for (int32_t i = 0; i < vocab; i++) {
        total += weight_of(logits[i], greatest, temperature);
    }
    struct nucleus nucleus = {.threshold = 0, .n_equal = vocab, .mass = total};
    if (sampling->top_p < 1) {
        nucleus = find_nucleus(logits, vocab, greatest, temperature, (double)sampling->top_p * total);
    }
    double left = uniform(sampling->seed, sampling->request, position) * nucleus.mass;
    int32_t chosen = best;
    for (int32_t i = 0; i < vocab; i++) {
        uint32_t key = ordered_key(logits[i]);
        if (key < nucleus.threshold || (key == nucleus.threshold && nucleus.n_equal-- <= 0)) {
            continue;
        }
        double weight = weight_of(logits[i], greatest, temperature);
        if (weight > 0) {
            chosen = i;    // rounding may leave a crumb after the last: then the last is it
            left -= weight;
        }
        if (left < 0) {
            break;
        }
    }
    return chosen;
}
