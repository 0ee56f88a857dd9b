// sim/host_kernels.h - the loops that measure this machine, as wide as its processor allows.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct host_kernels {
    const char *isa;    // "amx_bf16", "avx512_bf16", "avx512", "avx2", "portable"
    // Reads [n] bytes at data, a multiple of 512 and aligned to 64; the result depends on all of them.
    uint64_t (*read)(const void *data, size_t n);
    // Multiply-adds in registers, `rounds` times a fixed number; returns how many floating-point operations that was.
    double (*fma_f32)(int rounds, volatile float *sink);
    double (*fma_bf16)(int rounds, volatile float *sink);    // NULL: none, bf16 is widened to f32
};

struct host_kernels host_kernels_choose(void);
