// engine/selection_metrics.h - how two selections agree, and how much of attention's mass one holds.
//
// The dashboard's Routing view and `clsa eval` show these figures under one definition. Units and tokens are ascending,
// as indexers leave them; unit u covers tokens [u*unit_tokens, (u+1)*unit_tokens), cut at n_tokens. No state, no
// tensors.
#pragma once

#include <stdint.h>

// Share of `units` [n] that `others` [n_others] hold too, [0, 1]. NaN without units.
double selection_share(const int32_t *units, int32_t n, const int32_t *others, int32_t n_others);

// The tokens of units [n]: into tokens, which has room for n * unit_tokens. Returns how many.
int32_t selection_tokens(int32_t *tokens, const int32_t *units, int32_t n, int32_t unit_tokens, int32_t n_tokens);

// The exact selection: the k tokens of greatest mass [n_tokens], the lower one among equals, ascending into tokens [k].
// Returns how many: k, or n_tokens if there are fewer. -ENOMEM.
int32_t selection_exact(int32_t *tokens, const float *mass, int32_t n_tokens, int32_t k);

// Intersection over union of two lists of tokens, [0, 1]. NaN if both are empty.
double selection_iou(const int32_t *tokens, int32_t n, const int32_t *others, int32_t n_others);

// The mass [beyond every token] of tokens [n].
double selection_mass(const float *mass, const int32_t *tokens, int32_t n);
