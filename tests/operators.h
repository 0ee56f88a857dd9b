// tests/operators.h - operator by operator, any backend against the reference, with fresh random inputs.
//
// Every output is poisoned before and followed by a sentinel, so that what an operator forgot or overran shows. Caches
// have shuffled pages and slots and old garbage in them; batches are ragged. Selections are compared exactly on equal
// scores (with ties, zeros of both signs and infinities), stored keys bit for bit where the dtype allows.
#pragma once

#include "engine/backend.h"

struct operators_options {
    const struct backend *backend;
    int32_t threads, device;
    const struct plan *plan;         // decides shapes, dtypes, indexer, layouts
    int32_t max_context, max_rows;   // of one sequence; of the whole batch
    int32_t max_seqs;
    double absolute, relative, nmse; // of one operator's output against the reference's
    uint64_t seed;
};

// Returns the number of checks that failed; each was printed. A backend that does not open counts as one.
int operators_compare(const struct operators_options *options);
