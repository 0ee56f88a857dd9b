// traces/diff.h - two recordings stage by stage: which stage got slower, which faster, and is it more than chance?
//
// What is compared is the time of a stage summed over the layers of one step, of the steps that told their stages; of
// whole steps, all; of kernels, single launches. Rows match by method, phase and stage (and the kernel's whole name);
// sources with one method are one. Where both recordings ran the same shapes step for step, steps are compared in
// pairs, so that a context that grows hides nothing; else as two sets (traces/ratio_test.h, where the method stands). A
// verdict needs p below 0.05 after correction for the number of rows asked at once. No I/O, no clock.
#pragma once

#include "engine/sample.h"
#include "traces/ratio_test.h"

// One recording: a sink that keeps what is compared.
struct diff_side;
int diff_side_open(struct diff_side **out, bool kernels);    // *out is NULL on failure
void diff_side_close(struct diff_side *side);                // NULL-safe
struct sample_sink diff_side_sink(struct diff_side *side);

// What a row is of: a stage by its number, or these.
enum { DIFF_STEP = STAGE_COUNT, DIFF_GAPS, DIFF_PARTS };
const char *diff_part_name(int32_t part);    // a stage's name, "step", "gaps"

enum diff_verdict { DIFF_SAME, DIFF_SLOWER, DIFF_FASTER, DIFF_FEW, DIFF_ONLY_A, DIFF_ONLY_B };
const char *diff_verdict_name(enum diff_verdict verdict);    // "same", "slower", ..., "too few", "only in A", ...

struct diff_row {
    const char *method, *kernel;      // kernel NULL: a stage's row; borrowed from the sides
    bool in_step;                     // false: a kernel outside steps
    enum phase phase;
    int32_t part;                     // of a kernel its stage; STAGE_COUNT there: attributed to none
    bool paired;
    int64_t n_a, n_b;
    int64_t median_a_ns, median_b_ns, total_a_ns, total_b_ns;
    struct ratio_test test;           // b over a; known where the verdict is SAME, SLOWER or FASTER
    enum diff_verdict verdict;
};

// Rows of both, first those of stages by method, phase and part, then those of kernels. *rows is owned by the caller
// and valid while the sides are open. -ENOMEM, also if a side lost samples to it.
int diff_compare(struct diff_row **rows, int32_t *n, struct diff_side *a, struct diff_side *b);
