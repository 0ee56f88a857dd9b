// engine/cpu/kernels_choose.c - which tables of kernels there are, and which of them this machine runs.
#include <stddef.h>
#include <string.h>

#include "engine/cpu/kernels.h"

extern const struct cpu_kernels cpu_kernels_baseline;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512_bf16;
#endif

// Best first.
static const struct cpu_kernels *const tables[] = {
#if defined(__x86_64__)
    &cpu_kernels_avx512_bf16,
    &cpu_kernels_avx512,
    &cpu_kernels_avx2,
#endif
    &cpu_kernels_baseline,
};

enum { N_TABLES = sizeof tables / sizeof *tables };

static bool runs(const struct cpu_kernels *kernels)
{
#if defined(__x86_64__)
    // f16c, which clang 14 cannot ask for, came to every processor before avx2 did.
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (kernels == &cpu_kernels_avx512_bf16) {
        return avx512 && __builtin_cpu_supports("avx512bf16");
    }
    if (kernels == &cpu_kernels_avx512) {
        return avx512;
    }
    if (kernels == &cpu_kernels_avx2) {
        return avx2;
    }
#endif
    return kernels == &cpu_kernels_baseline;
}

const struct cpu_kernels *cpu_kernels_choose(const char *name)
{
    for (int32_t i = 0; i < N_TABLES; i++) {
        if (runs(tables[i]) && (!name || strcmp(tables[i]->name, name) == 0)) {
            return tables[i];
        }
    }
    return NULL;
}

const char *cpu_kernels_name(int32_t index)
{
    return index >= 0 && index < N_TABLES ? tables[index]->name : NULL;
}
