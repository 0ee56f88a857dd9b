// sim/positions.c - see positions.h.
#include "sim/positions.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"

const char *crossing_name(enum crossing crossing)
{
    static const char *const names[] = {"never", "always", "at"};
    return names[crossing];
}

static double index_s(const struct step_prediction *step)
{
    return step->stages[STAGE_INDEX_PROJECT].seconds + step->stages[STAGE_INDEX_SCORE].seconds +
           step->stages[STAGE_INDEX_SELECT].seconds;
}

int position_cost(struct position_cost *out, const struct device *device, const struct plan *plan, int32_t n_seqs,
                  int32_t context_tokens, int32_t chunk_tokens)
{
    if (n_seqs < 1 || context_tokens < 1 || chunk_tokens < 1) {
        return status_fail(-EINVAL, "%d sequences, %d tokens, chunks of %d: expected at least one of each", n_seqs,
                           context_tokens, chunk_tokens);
    }
    struct step_prediction decode, prefill;
    int32_t rows = chunk_tokens < context_tokens ? chunk_tokens : context_tokens;
    struct work chunk = {context_tokens - rows, rows, 0};
    struct work *work = malloc((size_t)n_seqs * sizeof *work);
    if (!work) {
        return status_fail(-ENOMEM, "no memory for a batch of %d", n_seqs);
    }
    for (int32_t i = 0; i < n_seqs; i++) {
        work[i] = (struct work){context_tokens, 1, 1};
    }
    int error = predict_step(&decode, device, plan, work, n_seqs);
    error = error ? error : predict_step(&prefill, device, plan, &chunk, 1);
    free(work);
    if (error) {
        return error;
    }
    *out = (struct position_cost){
        .decode_s = decode.seconds / n_seqs,
        .prefill_s = prefill.seconds / rows,
        .decode_index_s = index_s(&decode),
        .decode_attention_s = decode.stages[STAGE_ATTENTION].seconds,
        .prefill_index_s = index_s(&prefill),
        .prefill_attention_s = prefill.stages[STAGE_ATTENTION].seconds,
    };
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Crossings

struct contest {
    const struct device *device;
    const struct plan *a, *b;    // b NULL: a's indexers against its attention
    int32_t n_seqs, chunk_tokens;
    bool decode;
};

static int won_at(bool *won, const struct contest *contest, int32_t context)
{
    struct position_cost a, b = {0};
    int error = position_cost(&a, contest->device, contest->a, contest->n_seqs, context, contest->chunk_tokens);
    if (!error && contest->b) {
        error = position_cost(&b, contest->device, contest->b, contest->n_seqs, context, contest->chunk_tokens);
    }
    if (contest->b) {
        *won = contest->decode ? b.decode_s < a.decode_s : b.prefill_s < a.prefill_s;
    } else {
        double attention_s = contest->decode ? a.decode_attention_s : a.prefill_attention_s;
        *won = attention_s > 0 && (contest->decode ? a.decode_index_s : a.prefill_index_s) > attention_s;
    }
    return error;
}

static int find_crossing(enum crossing *out, int32_t *context, const struct contest *contest, int32_t max_context)
{
    enum { GRID = 12 };
    bool won;
    int32_t first_won = max_context, lost = max_context;
    int error = won_at(&won, contest, max_context);
    *out = won ? CROSSING_ALWAYS : CROSSING_NEVER;
    *context = won ? 1 : 0;
    if (error || !won) {
        return error;
    }
    while (!error && won && lost > 1) {
        first_won = lost;
        lost -= lost / (GRID + 1) + 1;
        error = won_at(&won, contest, lost);
    }
    if (error || won) {
        return error;
    }
    while (!error && first_won - lost > 1) {
        int32_t middle = lost + (first_won - lost) / 2;
        error = won_at(&won, contest, middle);
        first_won = won ? middle : first_won;
        lost = won ? lost : middle;
    }
    *out = CROSSING_AT;
    *context = first_won;
    return error;
}

int position_index_overtakes(enum crossing *out, int32_t *context, const struct device *device, const struct plan *plan,
                             int32_t n_seqs, int32_t chunk_tokens, bool decode, int32_t max_context)
{
    struct contest contest = {device, plan, NULL, n_seqs, chunk_tokens, decode};
    return find_crossing(out, context, &contest, max_context);
}

int position_beats(enum crossing *out, int32_t *context, const struct device *device, const struct plan *a,
                   const struct plan *b, int32_t n_seqs, int32_t chunk_tokens, bool decode, int32_t max_context)
{
    struct contest contest = {device, a, b, n_seqs, chunk_tokens, decode};
    return find_crossing(out, context, &contest, max_context);
}
