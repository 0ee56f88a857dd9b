# The device table, compiled in: the program needs no file beside itself.
add_custom_command(
    OUTPUT ${CMAKE_BINARY_DIR}/sim/devices_json.c
    COMMAND ${CMAKE_COMMAND} -D IN=${CMAKE_SOURCE_DIR}/sim/devices.json -D OUT=${CMAKE_BINARY_DIR}/sim/devices_json.c
            -D NAME=devices_json -P ${CMAKE_SOURCE_DIR}/sim/embed.cmake
    DEPENDS ${CMAKE_SOURCE_DIR}/sim/devices.json ${CMAKE_SOURCE_DIR}/sim/embed.cmake
    VERBATIM)
target_sources(sim PRIVATE ${CMAKE_BINARY_DIR}/sim/devices_json.c)
