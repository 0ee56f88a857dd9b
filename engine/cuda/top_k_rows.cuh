// engine/cuda/top_k_rows.cuh - selection for many lists at once; top_k_launch decides by top_k_rows_fit.
#pragma once

#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"

enum {
    TOP_K_ROWS = 64,        // fewer long lists leave multiprocessors to clusters of blocks
    TOP_K_SHORT = 1024,     // fewer short lists take two turns of a block each at most: sooner done than by a warp each
    SHORTEST_LONG = 1024    // units: lists up to this fit the registers of a warp
};

// Of any lists that top_k_rows_fit accepts; those of at most SHORTEST_LONG units go to top_k_short_launch.
bool top_k_rows_fit(const top_k_params &params);
int top_k_rows_launch(const top_k_params &params, cudaStream_t stream);
int top_k_short_launch(const top_k_params &params, cudaStream_t stream);
