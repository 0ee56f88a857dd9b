# The CPU backend: its plain sources, and the kernels once per instruction set. Multiply-adds contract only in words that
# say so, as everywhere; -O3 unrolls the blocks that the kernels keep in registers.
target_include_directories(engine SYSTEM PRIVATE ${DNNL_INCLUDE_DIR})
target_link_libraries(engine PUBLIC ${DNNL_LIBRARY})
target_sources(engine PRIVATE
    engine/cpu/attention.c engine/cpu/gemm.c engine/cpu/index.c engine/cpu/kernels_choose.c engine/cpu/kv_write.c
    engine/cpu/linear.c engine/cpu/prefill.c engine/cpu/thread_pool.c)

function(cpu_variant isa)
    add_library(engine_cpu_${isa} OBJECT engine/cpu/kernels.c engine/cpu/kernels_dots.c engine/cpu/kernels_select.c)
    target_include_directories(engine_cpu_${isa} PRIVATE ${CMAKE_SOURCE_DIR})
    target_compile_definitions(engine_cpu_${isa} PRIVATE _GNU_SOURCE CPU_ISA=${isa})
    target_compile_options(engine_cpu_${isa} PRIVATE ${CLSA_WARNINGS}
        $<IF:$<BOOL:${CLSA_SANITIZE}>,-O1,-O3> ${ARGN})
    target_sources(engine PRIVATE $<TARGET_OBJECTS:engine_cpu_${isa}>)
endfunction()

cpu_variant(baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    set(CPU_AVX2 -mavx2 -mfma -mf16c)
    set(CPU_AVX512 ${CPU_AVX2} -mavx512f -mavx512bw -mavx512vl -mavx512dq)
    cpu_variant(avx2 ${CPU_AVX2})
    cpu_variant(avx512 ${CPU_AVX512})
    cpu_variant(avx512_bf16 ${CPU_AVX512} -mavx512bf16)
endif()
