// sim/positions.h - what a token costs where it stands: decode and prefill against context, and where things cross.
//
// A crossing is the context from which on something holds up to the largest that is asked for: of short contexts
// launches decide, and whatever they favour is of no interest. It is looked for downwards on a grid whose steps are a
// thirteenth of the context, then bisected; what turns twice within one step is not seen. Pure functions of their
// inputs.
#pragma once

#include "sim/predict.h"

struct position_cost {
    double decode_s;         // of one token of one sequence: the step over its sequences
    double prefill_s;        // of one prompt token, in a chunk of rows that ends there
    double decode_index_s,
        decode_attention_s;    // of the step: indexers (project, score, select); attention of selected
    double prefill_index_s, prefill_attention_s;  // keys or all, of the chunk
};

// Decode of n_seqs sequences that hold context_tokens each; prefill of a chunk (at most the context) of one prompt.
int position_cost(struct position_cost *out, const struct device *device, const struct plan *plan, int32_t n_seqs,
                  int32_t context_tokens, int32_t chunk_tokens);

enum crossing {
    CROSSING_NEVER,          // up to max_context
    CROSSING_ALWAYS,         // from one token on
    CROSSING_AT
};
const char *crossing_name(enum crossing crossing);    // "never", "always", "at"

// From which context on the indexers of a step (decode) or a chunk (prefill) take longer than its attention. Where
// prompt rows leave before any attention of all or selected keys (YOCO): never.
int position_index_overtakes(enum crossing *out, int32_t *context, const struct device *device, const struct plan *plan,
                             int32_t n_seqs, int32_t chunk_tokens, bool decode, int32_t max_context);

// From which context on `b` takes less time per token than `a`.
int position_beats(enum crossing *out, int32_t *context, const struct device *device, const struct plan *a,
                   const struct plan *b, int32_t n_seqs, int32_t chunk_tokens, bool decode, int32_t max_context);
