// engine/model_random.c - counter-based draws, near enough to normal.
//
// 64 random bits make one element: the sum of four 16-bit uniforms has a normal's mean and variance, an excess kurtosis
// of -0.3 and no value beyond 3.5 deviations. That is close enough for weights, exact in integers on every machine, and
// about as fast as memory.
#include "engine/model_random.h"

#include <math.h>

static uint64_t mix(uint64_t z)    // the finaliser of splitmix64
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t stream_of(uint64_t seed, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;    // FNV-1a; mix spreads it
    for (const char *c = name; *c; c++) {
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    }
    return mix(hash ^ mix(seed + 1));
}

static float draw(uint64_t stream, int64_t index, float scale)
{
    uint64_t z = mix(stream + (uint64_t)(index + 1) * 0x9e3779b97f4a7c15u);
    int32_t sum = (int32_t)((z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48));
    return (float)(sum - 2 * 0xffff) * scale;
}

static void fill_constant(void *out, enum dtype dtype, int64_t n, float value)
{
    for (int64_t i = 0; i < n; i++) {
        dtype_store(out, i, dtype, value);
    }
}

void model_random_fill(void *out, const struct model_tensor *tensor, enum dtype dtype, uint64_t seed, int64_t first,
                       int64_t n)
{
    if (tensor->fill != MODEL_FILL_NORMAL) {
        fill_constant(out, dtype, n, tensor->fill == MODEL_FILL_ONES ? 1 : 0);
        return;
    }
    // Four uniforms over 0..65535 have the variance 4 * (65536^2 - 1) / 12.
    float scale = (float)(1.0 / sqrt((65536.0 * 65536.0 - 1.0) / 3.0 * tensor->n_cols));
    uint64_t stream = stream_of(seed, tensor->name);
    if (dtype == DTYPE_F32) {
        for (int64_t i = 0; i < n; i++) {
            ((float *)out)[i] = draw(stream, first + i, scale);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        dtype_store(out, i, dtype, draw(stream, first + i, scale));
    }
}
