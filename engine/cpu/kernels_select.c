// engine/cpu/kernels_select.c - the k best of n scores, exactly, ascending; compiled once per instruction set.
//
// Scores become integers of the same order. A histogram of their upper bits finds the bin that holds the k-th best; the
// bin's members are collected and the next bits decide among them, and so on. What remains is the exact
// integer of the k-th best and how many of its equals belong to the selection; one ascending pass emits. Nothing is
// assumed about the scores: all equal, all in one bin or all zero only make the later lists long. Among equals the
// lowest unit wins, and -0 equals 0. Work: three passes over n, bound by the histogram (one increment a score).
#include "engine/cpu/kernels_variant.h"
#include "engine/cpu/vector.h"

enum { BITS = 32, MOST_TABLES = 4, FEW_UNITS = 4096 };

// How the integers' bits are cut into digits. Few units: small tables, since clearing them would cost more than
// counting. Many: four tables in turn, so that equal scores do not wait for one counter.
struct digits {
    int32_t n, tables;
    int32_t width[4];
};
static const struct digits few_digits = {4, 1, {8, 8, 8, 8}}, many_digits = {3, MOST_TABLES, {11, 11, 10}};

// Integers in the order of the scores. Returns whether one of them is NaN. Adding 0 turns -0 into 0.
static bool order_scores(uint32_t *keys, const float *scores, int32_t n)
{
    uint32_t nan = 0;
    for (int32_t i = 0; i < n; i++) {
        float score = scores[i] + 0.0f;
        uint32_t bits;
        memcpy(&bits, &score, sizeof bits);
        nan |= (bits & 0x7fffffffu) > 0x7f800000u;
        keys[i] = bits ^ ((0u - (bits >> 31)) | 0x80000000u);
    }
    return nan != 0;
}

static int32_t first_nan(const float *scores)
{
    int32_t i = 0;
    while (!isnan(scores[i])) {
        i++;
    }
    return i;
}

// Finds the bin of (key >> shift) % (1 << width) that holds the *rank-th greatest of keys [n], counted from 1; *rank
// becomes the rank within it.
static uint32_t find_bin(uint32_t *bins, int32_t tables, const uint32_t *keys, int32_t n, int32_t shift, int32_t width,
                         int32_t *rank)
{
    uint32_t mask = (1u << width) - 1;
    size_t table_bins = (size_t)mask + 1;
    memset(bins, 0, (size_t)tables * table_bins * sizeof *bins);
    int32_t i = 0;
    for (; tables == MOST_TABLES && i + MOST_TABLES <= n; i += MOST_TABLES) {
        for (int32_t table = 0; table < MOST_TABLES; table++) {
            bins[(size_t)table * table_bins + ((keys[i + table] >> shift) & mask)]++;
        }
    }
    for (; i < n; i++) {
        bins[(keys[i] >> shift) & mask]++;
    }
    for (uint32_t bin = mask;; bin--) {
        uint32_t count = 0;
        for (int32_t table = 0; table < tables; table++) {
            count += bins[(size_t)table * table_bins + bin];
        }
        if ((uint32_t)*rank <= count || bin == 0) {
            return bin;
        }
        *rank -= (int32_t)count;
    }
}

// out = those of keys [n] with (key >> shift) == prefix, in order; out may be keys. Returns how many.
static int32_t collect(uint32_t *out, const uint32_t *keys, int32_t n, int32_t shift, uint32_t prefix)
{
    int32_t count = 0, i = 0;
#if defined(__AVX512F__)
    for (; i + LANES <= n; i += LANES) {
        __m512i all = _mm512_loadu_si512(keys + i);
        __mmask16 mask =
            _mm512_cmpeq_epi32_mask(_mm512_srl_epi32(all, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32((int)prefix));
        if (mask) {
            // Compressed in a register: the storing form of the instruction is slow on some processors. It may write
            // past what is kept, but never past place i + LANES.
            _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(mask, all));
            count += __builtin_popcount(mask);
        }
    }
#endif
    for (; i < n; i++) {
        uint32_t key = keys[i];
        out[count] = key;
        count += key >> shift == prefix;
    }
    return count;
}

// The key of the budget-th best, and in *equals how many of those equal to it are selected.
static uint32_t find_threshold(const struct cpu_selection *selection, int32_t *equals)
{
    const struct digits *digits = selection->n_units < FEW_UNITS ? &few_digits : &many_digits;
    const uint32_t *keys = selection->keys;
    int32_t n = selection->n_units, rank = selection->budget, shift = BITS;
    uint32_t prefix = 0;
    for (int32_t pass = 0; pass < digits->n; pass++) {
        int32_t width = digits->width[pass];
        shift -= width;
        prefix = prefix << width | find_bin(selection->bins, digits->tables, keys, n, shift, width, &rank);
        n = shift ? collect(selection->candidates, keys, n, shift, prefix) : n;
        keys = selection->candidates;
    }
    *equals = rank;
    return prefix;
}

// Units with key > threshold, and the first `equals` of those with key == threshold.
static int32_t emit(const struct cpu_selection *selection, uint32_t threshold, int32_t equals)
{
    const uint32_t *keys = selection->keys;
    int32_t count = 0, i = 0;
#if defined(__AVX512F__)
    __m512i units = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i bar = _mm512_set1_epi32((int)threshold);
    for (; i + LANES <= selection->n_units; i += LANES) {
        __m512i all = _mm512_loadu_si512(keys + i);
        uint32_t above = _mm512_cmpgt_epu32_mask(all, bar), equal = _mm512_cmpeq_epi32_mask(all, bar);
        while (__builtin_popcount(equal) > equals) {
            equal &= ~(1u << (31 - __builtin_clz(equal)));    // drops the highest
        }
        equals -= __builtin_popcount(equal);
        uint32_t chosen = above | equal;
        if (chosen) {
            _mm512_mask_storeu_epi32(selection->unit + count, (__mmask16)((1u << __builtin_popcount(chosen)) - 1),
                                     _mm512_maskz_compress_epi32((__mmask16)chosen, units));
            count += __builtin_popcount(chosen);
        }
        units = _mm512_add_epi32(units, _mm512_set1_epi32(LANES));
    }
#endif
    for (; i < selection->n_units; i++) {
        bool equal = keys[i] == threshold && equals > 0;
        equals -= equal;
        if (keys[i] > threshold || equal) {
            selection->unit[count++] = i;
        }
    }
    return count;
}

int32_t CPU_VARIANT(cpu_select)(const struct cpu_selection *selection)
{
    int32_t n = selection->n_units;
    if (order_scores(selection->keys, selection->scores, n)) {
        return -1 - first_nan(selection->scores);
    }
    if (selection->budget >= n) {
        for (int32_t i = 0; i < n; i++) {
            selection->unit[i] = i;
        }
        return n;
    }
    // Above every score, infinity included.
    for (int32_t i = 0; i < selection->n_local && i < n; i++) {
        selection->keys[n - 1 - i] = UINT32_MAX;
    }
    for (int32_t i = 0; i < selection->n_sink && i < n; i++) {
        selection->keys[i] = UINT32_MAX;
    }
    int32_t equals;
    uint32_t threshold = find_threshold(selection, &equals);
    return emit(selection, threshold, equals);
}
