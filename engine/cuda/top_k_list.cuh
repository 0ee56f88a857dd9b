// engine/cuda/top_k_list.cuh - one list of scores to select from.
#pragma once

#include "engine/cuda/top_k_keys.cuh"
#include "engine/cuda/top_k_rows.cuh"

struct list {
    const float *scores;
    int n, k;
    int sink, local;      // units below sink and from local on are always selected
    int log_run, runs;    // long lists: units come in runs of 2^log_run

    __device__ __forceinline__ uint32_t key(int unit, float score) const
    {
        return unit < sink || unit >= local ? 0xffffffffu : key_of(score);
    }
};

static __device__ list list_of(const top_k_params &p, int64_t index)
{
    const int row = p.first + (int)(index / p.sets);
    list l = {};
    l.scores = p.scores + index * p.stride;
    l.n = p.rows.position[row] / p.unit_tokens + 1;
    l.k = min(p.k, l.n);
    l.local = l.n - min(p.keep_local, l.k);
    l.sink = min(p.keep_sink, l.k - (l.n - l.local));
    return l;
}
