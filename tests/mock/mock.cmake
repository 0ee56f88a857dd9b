# A libcupti.so of our own, where the real one's place would be below CUDA_HOME.
add_library(mock_cupti SHARED tests/mock/mock_cupti.c)
set_target_properties(mock_cupti PROPERTIES PREFIX "" OUTPUT_NAME libcupti SUFFIX .so.13
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/mock/lib64)
target_include_directories(mock_cupti PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(mock_cupti PRIVATE ${CLSA_WARNINGS})
target_compile_definitions(mock_cupti PRIVATE _GNU_SOURCE)
target_link_libraries(mock_cupti PRIVATE Threads::Threads)
foreach(name test_cupti test_cupti_late)
    target_compile_definitions(${name} PRIVATE CLSA_MOCK_HOME="${CMAKE_BINARY_DIR}/mock")
    add_dependencies(${name} mock_cupti)
endforeach()

# A tool that listens to NVTX.
if(CLSA_NVTX_INCLUDE)
    add_library(mock_nvtx SHARED tests/mock/mock_nvtx.c)
    set_target_properties(mock_nvtx PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/mock)
    target_include_directories(mock_nvtx SYSTEM PRIVATE ${CLSA_NVTX_INCLUDE})
    target_compile_options(mock_nvtx PRIVATE ${CLSA_WARNINGS})
    target_link_libraries(mock_nvtx PRIVATE ${CMAKE_DL_LIBS})
    target_compile_definitions(test_nvtx PRIVATE CLSA_MOCK_NVTX="$<TARGET_FILE:mock_nvtx>")
    add_dependencies(test_nvtx mock_nvtx)
endif()

# A plug-in of another version, one with little memory; and, where the real plug-in is built, a driver too old for it.
add_library(mock_cuda MODULE tests/mock/mock_cuda.c)
set_target_properties(mock_cuda PROPERTIES PREFIX "" OUTPUT_NAME libclsa_cuda SUFFIX .so
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/mock/plugin)
target_include_directories(mock_cuda PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(mock_cuda PRIVATE ${CLSA_WARNINGS})
target_compile_definitions(test_cuda_absent PRIVATE CLSA_MOCK_PLUGIN="${CMAKE_BINARY_DIR}/mock/plugin")
add_library(mock_cuda_small MODULE tests/mock/mock_cuda.c)
set_target_properties(mock_cuda_small PROPERTIES PREFIX "" OUTPUT_NAME libclsa_cuda SUFFIX .so
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/mock/small)
target_include_directories(mock_cuda_small PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(mock_cuda_small PRIVATE ${CLSA_WARNINGS})
target_compile_definitions(mock_cuda_small PRIVATE MOCK_SMALL)
foreach(name test_cuda_absent test_tui_terminal)
    if(TARGET ${name})    # the latter where there is a terminal to test
        target_compile_definitions(${name} PRIVATE CLSA_MOCK_SMALL="${CMAKE_BINARY_DIR}/mock/small")
        add_dependencies(${name} mock_cuda_small clsa)
    endif()
endforeach()
set_target_properties(clsa PROPERTIES ENABLE_EXPORTS ON)    # whose reference backend it takes
add_dependencies(test_cuda_absent mock_cuda mock_cuda_small clsa)
if(TARGET clsa_cuda)
    add_library(mock_driver MODULE tests/mock/mock_cuda.c)
    set_target_properties(mock_driver PROPERTIES PREFIX "" OUTPUT_NAME libcuda SUFFIX .so.1
        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/mock/driver)
    target_compile_options(mock_driver PRIVATE ${CLSA_WARNINGS})
    target_compile_definitions(mock_driver PRIVATE MOCK_DRIVER)
    target_compile_definitions(test_cuda_absent PRIVATE CLSA_MOCK_DRIVER="${CMAKE_BINARY_DIR}/mock/driver")
    add_dependencies(test_cuda_absent mock_driver)
endif()
