# engine/cuda as a plug-in that the program loads at run time, built where a CUDA toolkit is. nvcc is called directly:
# the options that this project gives every C source mean nothing to it.
option(CLSA_CUDA "build the CUDA plug-in where nvcc is found" ON)
find_program(CLSA_NVCC nvcc HINTS /usr/local/cuda/bin)

if(CLSA_CUDA AND CLSA_NVCC AND NOT CLSA_SANITIZE)
    get_filename_component(CLSA_CUDA_ROOT ${CLSA_NVCC} REALPATH)
    get_filename_component(CLSA_CUDA_ROOT ${CLSA_CUDA_ROOT} DIRECTORY)
    get_filename_component(CLSA_CUDA_ROOT ${CLSA_CUDA_ROOT} DIRECTORY)
    set(NVCC_FLAGS -std=c++17 -O3 -lineinfo -I${CMAKE_SOURCE_DIR} -Xcompiler -fPIC
        -gencode arch=compute_90a,code=sm_90a)

    # One object per kernel file, rebuilt when the file or a header that it names changes.
    function(nvcc_objects out)
        set(objects)
        foreach(source ${ARGN})
            file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${source})
            string(REPLACE "/" "_" name ${name})
            set(object ${CMAKE_BINARY_DIR}/nvcc/${name}.o)
            add_custom_command(OUTPUT ${object}
                COMMAND ${CLSA_NVCC} ${NVCC_FLAGS} -MD -MF ${object}.d -c ${source} -o ${object}
                DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${name}" VERBATIM)
            list(APPEND objects ${object})
        endforeach()
        set(${out} ${objects} PARENT_SCOPE)
    endfunction()
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/nvcc)

    file(GLOB CUDA_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/engine/cuda/*.cu)
    file(GLOB CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/engine/cuda/*.c)
    nvcc_objects(CUDA_OBJECTS ${CUDA_KERNELS})
    # What it needs of the engine it has itself; the program exports its own, so that both speak of one error text.
    add_library(clsa_cuda SHARED ${CUDA_SOURCES} ${CUDA_OBJECTS} engine/status.c engine/dtype.c engine/sampler.c
        engine/plan.c engine/plan_check.c)
    set_target_properties(clsa PROPERTIES ENABLE_EXPORTS ON BUILD_RPATH "\$ORIGIN")
    set(CMAKE_BUILD_RPATH "\$ORIGIN")    # tests, too, look for it beside themselves
    add_dependencies(clsa clsa_cuda)
    set_target_properties(clsa_cuda PROPERTIES LINKER_LANGUAGE C)
    target_include_directories(clsa_cuda PRIVATE ${CMAKE_SOURCE_DIR})
    target_include_directories(clsa_cuda SYSTEM PRIVATE ${CLSA_CUDA_ROOT}/include)
    target_compile_definitions(clsa_cuda PRIVATE _GNU_SOURCE)
    target_compile_options(clsa_cuda PRIVATE ${CLSA_WARNINGS})
    # The run-time library is linked in; the driver and cuBLASLt are looked for when the plug-in is opened.
    target_link_libraries(clsa_cuda PRIVATE ${CLSA_CUDA_ROOT}/lib64/libcudart_static.a Threads::Threads
        ${CMAKE_DL_LIBS} rt m stdc++)

    # The kernels' own test and benchmark: one file that can travel to a machine with a GPU.
    if(CLSA_TESTS)
        file(GLOB CUDA_TEST_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cuda/*.cu)
        file(GLOB CUDA_TEST_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cuda/*.c)
        nvcc_objects(CUDA_TEST_OBJECTS ${CUDA_TEST_KERNELS})
        add_executable(cuda_kernels ${CUDA_TEST_SOURCES} ${CUDA_TEST_OBJECTS} ${CUDA_OBJECTS} engine/status.c engine/dtype.c)
        set_target_properties(cuda_kernels PROPERTIES LINKER_LANGUAGE C)
        target_include_directories(cuda_kernels PRIVATE ${CMAKE_SOURCE_DIR})
        target_include_directories(cuda_kernels SYSTEM PRIVATE ${CLSA_CUDA_ROOT}/include)
        target_compile_definitions(cuda_kernels PRIVATE _GNU_SOURCE)
        target_compile_options(cuda_kernels PRIVATE ${CLSA_WARNINGS})
        target_link_libraries(cuda_kernels PRIVATE ${CLSA_CUDA_ROOT}/lib64/libcudart_static.a Threads::Threads ${CMAKE_DL_LIBS} rt m stdc++)
        add_test(NAME cuda_kernels COMMAND cuda_kernels test)
        set_tests_properties(cuda_kernels PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300)
    endif()
endif()
