# Fuzzers: every tests/fuzz/fuzz_*.c is one libFuzzer program (clang only). The rooms they call are instrumented too.
#     cmake -S . -B build-fuzz -G Ninja -DCMAKE_C_COMPILER=clang -DCLSA_FUZZ=ON -DCLSA_TESTS=OFF
#     build-fuzz/fuzz_config -max_total_time=180 NEW_FINDS tests/fuzz/corpus/config
# What a fuzzer found is kept in tests/fuzz/corpus/, and the ordinary tests replay it.
if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "CLSA_FUZZ needs clang: configure with -DCMAKE_C_COMPILER=clang")
endif()
set(FUZZED engine_pure engine workloads sim traces)
foreach(name ${FUZZED})
    if(TARGET ${name})
        target_compile_options(${name} PRIVATE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
        target_link_options(${name} PUBLIC -fsanitize=address,undefined)
    endif()
endforeach()
file(GLOB FUZZERS CONFIGURE_DEPENDS tests/fuzz/fuzz_*.c)
foreach(source ${FUZZERS})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_compile_options(${name} PRIVATE ${CLSA_WARNINGS} -fsanitize=fuzzer,address,undefined
        -fno-sanitize-recover=all)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer,address,undefined)
    target_link_libraries(${name} PRIVATE engine sim traces)
endforeach()
