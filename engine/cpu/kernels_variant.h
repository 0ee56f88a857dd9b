// engine/cpu/kernels_variant.h - the names that one compilation of the kernels gives to what it exports.
//
// cpu.cmake compiles each kernel source once per instruction set with CPU_ISA set to its name ("avx2").
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
int32_t CPU_VARIANT(cpu_select)(const struct cpu_selection *selection);
