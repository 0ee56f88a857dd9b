# The shipped descriptions, compiled in: the program needs no file beside itself.
foreach(name reasoning rag agents paper day)
    add_custom_command(
        OUTPUT ${CMAKE_BINARY_DIR}/workloads/${name}.c
        COMMAND ${CMAKE_COMMAND} -D IN=${CMAKE_SOURCE_DIR}/workloads/${name}.workload
                -D OUT=${CMAKE_BINARY_DIR}/workloads/${name}.c -D NAME=workload_${name}
                -P ${CMAKE_SOURCE_DIR}/sim/embed.cmake
        DEPENDS ${CMAKE_SOURCE_DIR}/workloads/${name}.workload ${CMAKE_SOURCE_DIR}/sim/embed.cmake
        VERBATIM)
    target_sources(workloads PRIVATE ${CMAKE_BINARY_DIR}/workloads/${name}.c)
endforeach()
