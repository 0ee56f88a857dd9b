# A libcupti.so of our own, where the real one's place would be below CUDA_HOME.
add_library(mock_cupti SHARED tests/mock/mock_cupti.c)
set_target_properties(mock_cupti PROPERTIES PREFIX "" OUTPUT_NAME libcupti SUFFIX .so.13
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/mock/lib64)
target_include_directories(mock_cupti PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(mock_cupti PRIVATE ${CLSA_WARNINGS})
target_compile_definitions(mock_cupti PRIVATE _GNU_SOURCE)
target_link_libraries(mock_cupti PRIVATE Threads::Threads)
foreach(name test_cupti)
    target_compile_definitions(${name} PRIVATE CLSA_MOCK_HOME="${CMAKE_BINARY_DIR}/mock")
    add_dependencies(${name} mock_cupti)
endforeach()
