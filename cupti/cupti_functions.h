// cupti/cupti_functions.h - the functions that enqueue work, by CUPTI's numbers. One list for the table and its check.
//
// F(CUPTI_RUNTIME or CUPTI_DRIVER, number, name, the header's name of the number). Per-thread default streams (_ptsz)
// are functions of their own.
#pragma once

#define CUPTI_FUNCTIONS(F)                                                                                             \
    F(CUPTI_RUNTIME, 31, "cudaMemcpy", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy_v3020)                                      \
    F(CUPTI_RUNTIME, 41, "cudaMemcpyAsync", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyAsync_v3020)                            \
    F(CUPTI_RUNTIME, 49, "cudaMemset", CUPTI_RUNTIME_TRACE_CBID_cudaMemset_v3020)                                      \
    F(CUPTI_RUNTIME, 51, "cudaMemsetAsync", CUPTI_RUNTIME_TRACE_CBID_cudaMemsetAsync_v3020)                            \
    F(CUPTI_RUNTIME, 211, "cudaLaunchKernel", CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_v7000)                         \
    F(CUPTI_RUNTIME, 214, "cudaLaunchKernel", CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_ptsz_v7000)                    \
    F(CUPTI_RUNTIME, 225, "cudaMemcpyAsync", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyAsync_ptsz_v7000)                      \
    F(CUPTI_RUNTIME, 235, "cudaMemsetAsync", CUPTI_RUNTIME_TRACE_CBID_cudaMemsetAsync_ptsz_v7000)                      \
    F(CUPTI_RUNTIME, 311, "cudaGraphLaunch", CUPTI_RUNTIME_TRACE_CBID_cudaGraphLaunch_v10000)                          \
    F(CUPTI_RUNTIME, 312, "cudaGraphLaunch", CUPTI_RUNTIME_TRACE_CBID_cudaGraphLaunch_ptsz_v10000)                     \
    F(CUPTI_RUNTIME, 430, "cudaLaunchKernelExC", CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernelExC_v11060)                  \
    F(CUPTI_RUNTIME, 431, "cudaLaunchKernelExC", CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernelExC_ptsz_v11060)             \
    F(CUPTI_RUNTIME, 505, "cudaLaunchKernel", CUPTI_RUNTIME_TRACE_CBID___cudaLaunchKernel_v13000)                      \
    F(CUPTI_RUNTIME, 506, "cudaLaunchKernel", CUPTI_RUNTIME_TRACE_CBID___cudaLaunchKernel_ptsz_v13000)                 \
    F(CUPTI_DRIVER, 307, "cuLaunchKernel", CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel)                                     \
    F(CUPTI_DRIVER, 442, "cuLaunchKernel", CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel_ptsz)                                \
    F(CUPTI_DRIVER, 652, "cuLaunchKernelEx", CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx)                                 \
    F(CUPTI_DRIVER, 653, "cuLaunchKernelEx", CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx_ptsz)
