// engine/step_batch.h - the arrays behind a struct batch, filled sequence by sequence.
//
// Sized once for the largest step; adding never allocates. The batch inside is valid until the next clear.
#pragma once

#include "engine/backend.h"
#include "engine/cost.h"

struct step_batch {
    struct batch batch;
    struct work *work;          // [batch.n_seqs] the same step as cost.h counts it
    // Owned storage behind the pointers of `batch`, and how much there is.
    struct batch_seq *seqs;     // [max_seqs]
    int32_t *pages;             // [max_seqs][batch.max_pages]
    int32_t *rows;              // [8][max_rows] token, seq, position, source of `all`, then of `last`
    int32_t max_seqs, max_rows;
};

int step_batch_open(struct step_batch *out, int32_t max_seqs, int32_t max_rows, int32_t max_pages);
void step_batch_close(struct step_batch *batch);    // NULL-safe

void step_batch_clear(struct step_batch *batch, int64_t step);

// One sequence more: tokens [n_rows] at positions context_tokens and on, pages [n_pages], and its last logit_rows rows
// leaving logits. The caller stays within the sizes of step_batch_open.
void step_batch_add(struct step_batch *batch, int32_t slot, int32_t context_tokens, const int32_t *tokens,
                    int32_t n_rows, int32_t logit_rows, const int32_t *pages, int32_t n_pages);
