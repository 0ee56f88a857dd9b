# The schema's C, generated into the build folder. An object library of its own: generated code does not follow our
# warnings, and nobody outside this room sees its header.
find_program(PROTOC_C protoc-c REQUIRED)
set(TRACE_PROTO_DIR ${CMAKE_BINARY_DIR}/generated/traces)
file(MAKE_DIRECTORY ${TRACE_PROTO_DIR})
add_custom_command(
    OUTPUT ${TRACE_PROTO_DIR}/trace.pb-c.c ${TRACE_PROTO_DIR}/trace.pb-c.h
    COMMAND ${PROTOC_C} --c_out=${TRACE_PROTO_DIR} --proto_path=${CMAKE_SOURCE_DIR}/traces trace.proto
    DEPENDS ${CMAKE_SOURCE_DIR}/traces/trace.proto
    VERBATIM)
add_library(trace_proto OBJECT ${TRACE_PROTO_DIR}/trace.pb-c.c ${TRACE_PROTO_DIR}/trace.pb-c.h)
target_link_libraries(trace_proto PUBLIC PkgConfig::PROTOBUF_C)
target_include_directories(trace_proto SYSTEM INTERFACE ${TRACE_PROTO_DIR})
target_link_libraries(traces PRIVATE trace_proto)

# The rules by which recordings of other engines are read, compiled in: the program needs no file beside itself.
add_custom_command(
    OUTPUT ${CMAKE_BINARY_DIR}/generated/serving_rules.c
    COMMAND ${CMAKE_COMMAND} -D IN=${CMAKE_SOURCE_DIR}/traces/rules/serving.rules
            -D OUT=${CMAKE_BINARY_DIR}/generated/serving_rules.c -D NAME=serving_rules
            -P ${CMAKE_SOURCE_DIR}/sim/embed.cmake
    DEPENDS ${CMAKE_SOURCE_DIR}/traces/rules/serving.rules ${CMAKE_SOURCE_DIR}/sim/embed.cmake
    VERBATIM)
target_sources(traces PRIVATE ${CMAKE_BINARY_DIR}/generated/serving_rules.c)
