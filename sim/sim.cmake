# The device table, compiled in: the program needs no file beside itself.
add_custom_command(
    OUTPUT ${CMAKE_BINARY_DIR}/sim/devices_json.c
    COMMAND ${CMAKE_COMMAND} -D IN=${CMAKE_SOURCE_DIR}/sim/devices.json -D OUT=${CMAKE_BINARY_DIR}/sim/devices_json.c
            -D NAME=devices_json -P ${CMAKE_SOURCE_DIR}/sim/embed.cmake
    DEPENDS ${CMAKE_SOURCE_DIR}/sim/devices.json ${CMAKE_SOURCE_DIR}/sim/embed.cmake
    VERBATIM)
target_sources(sim PRIVATE ${CMAKE_BINARY_DIR}/sim/devices_json.c)

# Calibrations that come with the program: sim/calibrations/*.json, compiled in likewise, and a table of them.
file(GLOB SHIPPED_CALIBRATIONS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/sim/calibrations/*.json)
set(SHIPPED_DECLARATIONS "")
set(SHIPPED_ENTRIES "")
foreach(path ${SHIPPED_CALIBRATIONS})
    get_filename_component(stem ${path} NAME_WE)
    string(MAKE_C_IDENTIFIER calibration_${stem} symbol)
    set(generated ${CMAKE_BINARY_DIR}/sim/${symbol}.c)
    add_custom_command(
        OUTPUT ${generated}
        COMMAND ${CMAKE_COMMAND} -D IN=${path} -D OUT=${generated} -D NAME=${symbol} -P ${CMAKE_SOURCE_DIR}/sim/embed.cmake
        DEPENDS ${path} ${CMAKE_SOURCE_DIR}/sim/embed.cmake
        VERBATIM)
    target_sources(sim PRIVATE ${generated})
    string(APPEND SHIPPED_DECLARATIONS
           "extern const unsigned char ${symbol}[];\nextern const size_t ${symbol}_bytes;\n")
    string(APPEND SHIPPED_ENTRIES "    {\"sim/calibrations/${stem}.json\", ${symbol}, &${symbol}_bytes},\n")
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/sim/shipped_calibrations.c CONTENT
"#include \"sim/calibration_internal.h\"

@SHIPPED_DECLARATIONS@
const struct shipped_calibration shipped_calibrations[] = {
@SHIPPED_ENTRIES@    {0},
};
" @ONLY)
target_sources(sim PRIVATE ${CMAKE_BINARY_DIR}/sim/shipped_calibrations.c)
