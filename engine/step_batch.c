// engine/step_batch.c - filling a batch.
#include "engine/step_batch.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"

enum { ROW_ARRAYS = 8 };

static struct rows rows_at(const struct step_batch *batch, int32_t first_array, int32_t n)
{
    const int32_t *base = batch->rows + (int64_t)first_array * batch->max_rows;
    int64_t step = batch->max_rows;
    return (struct rows){.n = n, .token = base, .seq = base + step, .position = base + 2 * step,
                         .source = base + 3 * step};
}

int step_batch_open(struct step_batch *out, int32_t max_seqs, int32_t max_rows, int32_t max_pages)
{
    *out = (struct step_batch){.max_seqs = max_seqs, .max_rows = max_rows, .batch.max_pages = max_pages};
    out->work = calloc((size_t)max_seqs, sizeof *out->work);
    out->seqs = calloc((size_t)max_seqs, sizeof *out->seqs);
    out->pages = calloc((size_t)max_seqs * (size_t)max_pages, sizeof *out->pages);
    out->rows = calloc((size_t)max_rows * ROW_ARRAYS, sizeof *out->rows);
    if (!out->work || !out->seqs || !out->pages || !out->rows) {
        step_batch_close(out);
        return status_fail(-ENOMEM, "no memory for batches of %d sequences of %d pages and %d rows", max_seqs,
                           max_pages, max_rows);
    }
    step_batch_clear(out, 0);
    return 0;
}

void step_batch_close(struct step_batch *batch)
{
    if (batch) {
        free(batch->work);
        free(batch->seqs);
        free(batch->pages);
        free(batch->rows);
        *batch = (struct step_batch){0};
    }
}

void step_batch_clear(struct step_batch *batch, int64_t step)
{
    batch->batch.step = step;
    batch->batch.n_seqs = 0;
    batch->batch.context_bound = 1;
    batch->batch.seqs = batch->seqs;
    batch->batch.pages = batch->pages;
    batch->batch.all = rows_at(batch, 0, 0);
    batch->batch.last = rows_at(batch, 4, 0);
}

static void add_row(struct step_batch *batch, int32_t first_array, int32_t at, int32_t token, int32_t position,
                    int32_t source)
{
    int32_t *base = batch->rows + (int64_t)first_array * batch->max_rows + at;
    int64_t step = batch->max_rows;
    base[0] = token;
    base[step] = batch->batch.n_seqs;
    base[2 * step] = position;
    base[3 * step] = source;
}

void step_batch_add(struct step_batch *batch, int32_t slot, int32_t context_tokens, const int32_t *tokens,
                    int32_t n_rows, int32_t logit_rows, const int32_t *pages, int32_t n_pages)
{
    struct batch *b = &batch->batch;
    assert(b->n_seqs < batch->max_seqs && b->all.n + n_rows <= batch->max_rows && n_pages <= b->max_pages);
    assert(logit_rows >= 0 && logit_rows <= n_rows);
    batch->seqs[b->n_seqs] = (struct batch_seq){slot, b->all.n, n_rows, context_tokens};
    batch->work[b->n_seqs] = (struct work){context_tokens, n_rows, logit_rows};
    int32_t *table = batch->pages + (int64_t)b->n_seqs * b->max_pages;
    memcpy(table, pages, (size_t)n_pages * sizeof *table);
    for (int32_t p = n_pages; p < b->max_pages; p++) {
        table[p] = -1;
    }
    for (int32_t i = 0; i < n_rows; i++) {
        if (i >= n_rows - logit_rows) {
            add_row(batch, 4, b->last.n++, tokens[i], context_tokens + i, b->all.n);
        }
        add_row(batch, 0, b->all.n, tokens[i], context_tokens + i, b->all.n);
        b->all.n++;
    }
    if (context_tokens + n_rows > b->context_bound) {
        b->context_bound = context_tokens + n_rows;
    }
    b->n_seqs++;
}
