// engine/cuda/attention_all.cuh - attention over all keys of each row, as attention.cu passes it on.
#pragma once

#include "engine/cuda/kernels.h"

int64_t attention_all_workspace_bytes(int32_t n_rows, int32_t n_heads, int32_t n_kv_heads, int32_t head_dim);

// over == ATTEND_ALL; attention_launch has checked everything but head_dim.
int attention_all_launch(const attention_params *p, cudaStream_t stream);
