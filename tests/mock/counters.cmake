# The library that stands in for CUPTI's profiler, the driver and NVML, for the tests of hardware counters, and where
# NVIDIA's headers are, with which our declarations are compared.
add_library(counters_mock MODULE tests/mock/counters_mock.c)
target_include_directories(counters_mock PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_definitions(counters_mock PRIVATE _GNU_SOURCE)
target_compile_options(counters_mock PRIVATE ${CLSA_WARNINGS} -fvisibility=hidden)
foreach(name test_counters test_nvml)
    target_compile_definitions(${name} PRIVATE COUNTERS_MOCK="$<TARGET_FILE:counters_mock>")
    add_dependencies(${name} counters_mock)
endforeach()
find_path(COUNTERS_HEADERS cupti_pmsampling.h HINTS /usr/local/cuda/include /usr/local/cuda/extras/CUPTI/include)
if(COUNTERS_HEADERS)
    target_include_directories(test_counters_layout SYSTEM PRIVATE ${COUNTERS_HEADERS} ${CMAKE_SOURCE_DIR}/tests/mock/cxx)
endif()
