// engine/cpu/kernels_variant.h - the names that one compilation of the kernels gives to what it exports.
//
// cpu.cmake compiles each kernels source once per instruction set with CPU_ISA set to its name ("avx2").
#pragma once

#include "engine/cpu/kernels.h"

#define CPU_JOIN_EXPANDED(a, b) a##_##b
#define CPU_JOIN(a, b) CPU_JOIN_EXPANDED(a, b)
#define CPU_TEXT_EXPANDED(a) #a
#define CPU_TEXT(a) CPU_TEXT_EXPANDED(a)
#define CPU_VARIANT(name) CPU_JOIN(name, CPU_ISA)
#define CPU_VARIANT_NAME CPU_TEXT(CPU_ISA)

#if defined(__AVX512BF16__)
#define CPU_BF16_MATMUL true
#else
#define CPU_BF16_MATMUL false
#endif

extern const struct cpu_kernels CPU_VARIANT(cpu_kernels);
void CPU_VARIANT(cpu_dots)(float *out, int64_t out_stride, const float *queries, int64_t query_stride,
                           int32_t n_queries, const void *keys, int64_t key_stride, int32_t n, int32_t dim,
                           enum dtype dtype);
void CPU_VARIANT(cpu_dots_list)(float *out, int64_t out_stride, const float *queries, int64_t query_stride,
                                int32_t n_queries, const unsigned char *const *keys, int32_t n, int32_t dim,
                                enum dtype dtype, const struct cpu_ahead *ahead);
void CPU_VARIANT(cpu_weigh_list)(float *out, int64_t out_stride, const float *weights, int64_t weight_stride,
                                 int32_t n_queries, const unsigned char *const *values, int32_t n, int32_t dim,
                                 enum dtype dtype, const struct cpu_ahead *ahead);
int32_t CPU_VARIANT(cpu_select)(const struct cpu_selection *selection);
