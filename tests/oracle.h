// tests/oracle.h - an independent model in double precision, to hold the engine against.
//
// Written from the published formulas, not from the engine: no cache, no batch, no chunks; every position of one text
// is computed through every layer, in the slowest and plainest way. Where the engine rounds what it stores (keys and
// values, index keys, fp8 index queries), the oracle rounds too. Sums are in double, so an f32 engine agrees to about
// 1e-5.
#pragma once

#include "engine/backend.h"

struct oracle_options {
    // A selection to follow instead of the oracle's own: among nearly equal scores rounding decides, and from there two
    // right models diverge. Returns the count of units; negative, or no function: the oracle selects by itself.
    int32_t (*follow)(void *user, int32_t layer, int32_t row, int32_t set, const int32_t **units);
    void *user;
};

struct oracle_report {
    int64_t selections;      // (row, set) pairs that an indexer decided
    int64_t followed;        // of these, taken over from `follow`
    int64_t malformed;       // followed selections of a wrong count, out of order or range, or without a forced unit
    double worst_regret;     // how far a followed selection left better scores out: best left out - worst taken, over
                             // the range or the greatest magnitude of the row's scores; 0 if never
};

// logits [n][vocab]. `weights` are host matrices, row-major, f32 or bf16. Never fails; ends the program if out of
// memory.
void oracle_run(const struct plan *plan, const struct model_weights *weights, const int32_t *tokens, int32_t n,
                const struct oracle_options *options, double *logits, struct oracle_report *report);

// The roundings, for tests of other parts: nearest, ties to even, fp8 saturating.
double oracle_round_bf16(double value);
double oracle_round_fp8(double value);
