// engine/model_layout.h - every tensor that a plan needs: its name in a file, its shape, its place in model_weights.
//
// The one list behind reading, checking, drawing and writing models (names: engine/model_file.h).
#pragma once

#include "engine/backend.h"

enum { MODEL_TENSOR_NAME_BYTES = 96 };

enum model_fill { MODEL_FILL_NORMAL, MODEL_FILL_ONES, MODEL_FILL_ZEROS };    // of a random model

struct model_tensor {
    char name[MODEL_TENSOR_NAME_BYTES];
    int32_t n_rows, n_cols;
    enum model_fill fill;      // ONES and ZEROS are vectors: [n_cols] in a file
    struct matrix *slot;       // in the weights of the walk
};

// Calls `visit` for each tensor of `plan`, layer by layer, and stops at the first that does not return 0; returns that.
// weights->layers [plan->shape.n_layers] is the caller's. A tied head has no tensor of its own.
int model_layout_walk(const struct plan *plan, struct model_weights *weights,
                      int (*visit)(void *user, const struct model_tensor *tensor), void *user);

// The part of a name that tells which indexer, "lightning_indexer"; NULL if the plan's index needs no weights.
const char *model_layout_indexer(const struct index_spec *index);
