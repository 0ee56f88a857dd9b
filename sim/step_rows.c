// sim/step_rows.c - the rows that decode, as sums that follow them from step to step.
//
// A context is counted against a clock of steps: all of them grow by one token when it goes on, and none is touched.
// What bends a cost is the token that no longer counts within the window or the budget. Contexts that are before their
// last bend therefore stand in a ring by length, and the clock passes them there as they reach it.
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/step_price_internal.h"

struct step_rows {
    struct step_price *price;          // borrowed
    struct feature_sums sums;
    int64_t below_window, below_budget;    // rows whose next token counts, too
    int64_t longest_tokens, bend_tokens;   // no bend comes behind so many
    int32_t n_ring;
    int32_t at;                        // the clock, modulo n_ring
    int32_t *ring;                     // [n_ring] rows before their last bend, by context - clock
    // Where units have several tokens: all rows, and those below the budget, by context - clock modulo the unit.
    int32_t unit_at;
    int32_t *units, *budget_units;     // [unit]
};

// Of a window or a budget, INT64_MAX where there is none.
static int64_t last_bend(const struct step_price *price)
{
    int64_t window = price->window_tokens < INT64_MAX ? price->window_tokens : 0;
    int64_t budget = price->budget_tokens < INT64_MAX ? price->budget_tokens : 0;
    return window > budget ? window : budget;
}

int step_rows_open(struct step_rows **out, struct step_price *price, int64_t longest_tokens)
{
    struct step_rows *rows = *out = calloc(1, sizeof *rows);
    if (rows) {
        int64_t bend = last_bend(price);
        rows->price = price;
        rows->longest_tokens = longest_tokens;
        rows->bend_tokens = bend;
        rows->n_ring = (int32_t)(bend < longest_tokens ? bend : longest_tokens) + 1;
        rows->ring = calloc((size_t)rows->n_ring, sizeof *rows->ring);
        rows->units = calloc((size_t)price->unit, sizeof *rows->units);
        rows->budget_units = calloc((size_t)price->unit, sizeof *rows->budget_units);
    }
    if (!rows || !rows->ring || !rows->units || !rows->budget_units) {
        step_rows_close(rows);
        *out = NULL;
        return status_fail(-ENOMEM, "no memory to price steps of contexts up to %lld tokens",
                           (long long)longest_tokens);
    }
    return 0;
}

void step_rows_close(struct step_rows *rows)
{
    if (rows) {
        free(rows->ring);
        free(rows->units);
        free(rows->budget_units);
        free(rows);
    }
}

void step_rows_clear(struct step_rows *rows)
{
    rows->sums = (struct feature_sums){0};
    rows->below_window = rows->below_budget = 0;
    memset(rows->ring, 0, (size_t)rows->n_ring * sizeof *rows->ring);
    memset(rows->units, 0, (size_t)rows->price->unit * sizeof *rows->units);
    memset(rows->budget_units, 0, (size_t)rows->price->unit * sizeof *rows->budget_units);
}

// Rows whose context is so long now, of those before their last bend.
static int32_t *ring_of(struct step_rows *rows, int64_t context_tokens)
{
    int32_t index = (int32_t)context_tokens - rows->at;
    return &rows->ring[index < 0 ? index + rows->n_ring : index];
}

static int32_t unit_of(const struct step_rows *rows, int32_t context_tokens)
{
    int32_t unit = rows->price->unit, index = context_tokens % unit - rows->unit_at;
    return index < 0 ? index + unit : index;
}

// Counts a row in (1) or out (-1).
static void count(struct step_rows *rows, int32_t context_tokens, int32_t sign)
{
    const struct step_price *price = rows->price;
    struct feature_sums one = {0};
    int64_t tokens = (int64_t)context_tokens + 1;
    assert(tokens <= rows->longest_tokens);
    count_features(&one, price, context_tokens);
    add_sums(&rows->sums, &one, sign);
    rows->below_window += tokens < price->window_tokens ? sign : 0;
    rows->below_budget += tokens < price->budget_tokens ? sign : 0;
    if (tokens < rows->bend_tokens) {
        int32_t *before = ring_of(rows, context_tokens);
        *before += sign;
        assert(*before >= 0);    // nobody leaves who is not there
    }
    if (price->unit > 1) {
        rows->units[unit_of(rows, context_tokens)] += sign;
        rows->budget_units[unit_of(rows, context_tokens)] += one.units < price->budget_of_units ? sign : 0;
    }
}

void step_rows_add(struct step_rows *rows, int32_t context_tokens)
{
    count(rows, context_tokens, 1);
}

void step_rows_remove(struct step_rows *rows, int32_t context_tokens)
{
    count(rows, context_tokens, -1);
}

// Rows that have just got as many tokens as that.
static int32_t reached(struct step_rows *rows, int64_t tokens)
{
    return tokens <= rows->n_ring ? *ring_of(rows, tokens - 1) : 0;
}

void step_rows_advance(struct step_rows *rows)
{
    const struct step_price *price = rows->price;
    struct feature_sums *sums = &rows->sums;
    rows->at = rows->at + 1 == rows->n_ring ? 0 : rows->at + 1;
    sums->tokens += sums->rows;
    sums->window += rows->below_window;
    sums->budget += rows->below_budget;
    if (price->unit == 1) {
        sums->units += sums->rows;
        sums->budget_units += rows->below_budget;
    } else {
        // Those whose context reaches a multiple of the unit begin another one, for some the budget's last.
        rows->unit_at = rows->unit_at + 1 == price->unit ? 0 : rows->unit_at + 1;
        int32_t begun = unit_of(rows, 0);
        sums->units += rows->units[begun];
        sums->budget_units += rows->budget_units[begun];
        sums->broken = sums->rows - rows->units[begun];
        if (price->budget_of_units < INT64_MAX) {
            rows->budget_units[begun] -= reached(rows, (price->budget_of_units - 1) * price->unit + 1);
        }
    }
    rows->below_window -= reached(rows, price->window_tokens);
    rows->below_budget -= reached(rows, price->budget_tokens);
    if (rows->bend_tokens <= rows->n_ring && rows->bend_tokens > 0) {
        *ring_of(rows, rows->bend_tokens - 1) = 0;    // behind its last bend
    }
}

int32_t step_rows_count(const struct step_rows *rows)
{
    return (int32_t)rows->sums.rows;
}

int64_t step_rows_contexts(const struct step_rows *rows)
{
    return rows->sums.tokens - rows->sums.rows;
}

double step_rows_seconds(struct step_rows *rows, const struct work *others, int32_t n_others)
{
    return step_price_sums(rows->price, rows->sums, others, n_others);
}
