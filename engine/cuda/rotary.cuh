// engine/cuda/rotary.cuh - how far rotary embeddings turn a pair of dimensions.
//
// Pair i of `dims` dimensions, (i, i + dims/2), turns by position * theta^(-2i/dims).
#pragma once

#include "engine/cuda/device.cuh"

// How far pair i turns per position, in whole turns. Needs nothing but the model's constants.
static __device__ __forceinline__ double turns_per_position(int i, int dims, float theta)
{
    return exp2(-2.0 * i / dims * log2((double)theta)) * 0.15915494309189535;    // 1 / (2 pi)
}

// Cosine and sine of a pair. Whole turns are taken off in double precision: the angles reach 1e6 radians.
static __device__ __forceinline__ float2 turn_at(double turns_per_position, int position)
{
    const double turns = position * turns_per_position;
    float2 turn;
    sincospif(2.0f * (float)(turns - rint(turns)), &turn.y, &turn.x);
    return turn;
}
