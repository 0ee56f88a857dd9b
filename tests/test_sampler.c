// tests/test_sampler.c - greedy choice, draws and their frequencies, top-p against a sorted list.
#include <errno.h>

#include "engine/sampler.h"
#include "tests/check.h"

enum { MAX_VOCAB = 300 };

static void random_logits(float *logits, int32_t n)
{
    bool ties = check_range(0, 1);
    for (int32_t i = 0; i < n; i++) {
        logits[i] = ties ? (float)check_range(-3, 3) : 2 * check_normal();
        logits[i] = check_range(0, 20) ? logits[i] : -INFINITY;
    }
}

static void check_greedy(void)
{
    float logits[MAX_VOCAB];
    struct sampling greedy = {.temperature = 0, .top_p = 1};
    for (int repeat = 0; repeat < 200; repeat++) {
        int32_t n = check_range(1, MAX_VOCAB), expected = 0;
        random_logits(logits, n);
        for (int32_t i = n - 1; i >= 0; i--) {
            expected = logits[i] >= logits[expected] ? i : expected;
        }
        CHECK(sampler_draw(logits, n, &greedy, repeat) == expected);
    }
    CHECK(sampler_draw((const float[]){0.0f, -0.0f}, 2, &greedy, 0) == 0);
    CHECK(sampler_draw((const float[]){-0.0f, 0.0f}, 2, &greedy, 0) == 0);
    CHECK(sampler_draw((const float[]){-INFINITY, -INFINITY}, 2, &greedy, 0) == 0);
    CHECK(sampler_draw((const float[]){0.0f, INFINITY, 1.0f}, 3, &greedy, 0) == 1);
    CHECK(sampler_draw((const float[]){0.0f, 1.0f, NAN}, 3, &greedy, 0) == -EDOM);
    struct sampling warm = {.temperature = 1, .top_p = 0.5f};
    CHECK(sampler_draw((const float[]){NAN, 1.0f}, 2, &warm, 0) == -EDOM);
    CHECK(sampler_draw((const float[]){0.0f, INFINITY, 1.0f}, 3, &warm, 0) == 1);
    CHECK(sampler_draw((const float[]){-INFINITY, -INFINITY}, 2, &warm, 0) == 0);
}

// The probability of every token, from a list sorted by (probability descending, token ascending) and cut at top_p.
static void sorted_reference(double *probability, const float *logits, int32_t n, double temperature, double top_p)
{
    int32_t order[MAX_VOCAB];
    double greatest = -INFINITY, total = 0, mass = 0;
    for (int32_t i = 0; i < n; i++) {
        greatest = fmax(greatest, (double)logits[i]);
        int32_t j = i;
        for (; j > 0 && logits[order[j - 1]] < logits[i]; j--) {
            order[j] = order[j - 1];
        }
        order[j] = i;
    }
    for (int32_t i = 0; i < n; i++) {
        probability[i] = exp(((double)logits[i] - greatest) / temperature);
        total += probability[i];
    }
    for (int32_t i = 0; i < n; i++) {
        bool in = mass < top_p * total;
        mass += in ? probability[order[i]] : 0;
        probability[order[i]] = in ? probability[order[i]] : 0;
    }
    for (int32_t i = 0; i < n; i++) {
        probability[i] /= mass;
    }
}

// Draws at many positions: no token outside the set, and frequencies within 6 standard deviations.
static void check_frequencies(void)
{
    enum { DRAWS = 4000 };
    float logits[MAX_VOCAB];
    double probability[MAX_VOCAB];
    for (int repeat = 0; repeat < 40; repeat++) {
        int32_t n = check_range(1, 40), counts[MAX_VOCAB] = {0};
        struct sampling sampling = {.temperature = 0.3f + 1.5f * (float)check_uniform(),
                                    .top_p = check_range(0, 2) ? 0.05f + 0.9f * (float)check_uniform() : 1.0f,
                                    .seed = check_random(), .request = check_range(0, 9)};
        random_logits(logits, n);
        logits[check_range(0, n - 1)] = 1;
        sorted_reference(probability, logits, n, (double)sampling.temperature, (double)sampling.top_p);
        for (int32_t position = 0; position < DRAWS; position++) {
            int32_t token = sampler_draw(logits, n, &sampling, position);
            CHECK(token >= 0 && token < n);
            counts[token]++;
        }
        for (int32_t i = 0; i < n; i++) {
            double expected = DRAWS * probability[i], deviation = sqrt(expected * (1 - probability[i]));
            CHECK_MESSAGE(probability[i] > 0 || counts[i] == 0, "token %d of %d was cut but drawn", i, n);
            CHECK_MESSAGE(fabs(counts[i] - expected) <= 6 * deviation + 3, "token %d of %d: drawn %d times of %d, "
                          "expected %.1f", i, n, counts[i], DRAWS, expected);
        }
    }
}

// The same seed, request and position draw the same token; another of any of them is another draw.
static void check_dependence(void)
{
    float logits[64] = {0};
    struct sampling sampling = {.temperature = 1, .top_p = 1, .seed = check_random(), .request = 4};
    int same[3] = {0};
    for (int32_t position = 0; position < 500; position++) {
        struct sampling seed = sampling, request = sampling;
        seed.seed++;
        request.request++;
        int32_t token = sampler_draw(logits, 64, &sampling, position);
        CHECK(token == sampler_draw(logits, 64, &sampling, position));
        same[0] += token == sampler_draw(logits, 64, &sampling, position + 1);
        same[1] += token == sampler_draw(logits, 64, &seed, position);
        same[2] += token == sampler_draw(logits, 64, &request, position);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_MESSAGE(same[i] < 40, "%d of 500 independent draws from 64 were the same", same[i]);
    }
}

int main(void)
{
    check_begin();
    check_greedy();
    check_frequencies();
    check_dependence();
    return check_end();
}
