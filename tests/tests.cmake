# Every tests/test_*.c is one test program. tests/*.c without that prefix is shared by them (the oracle, terminal help).
file(GLOB TEST_SOURCES CONFIGURE_DEPENDS tests/test_*.c)
file(GLOB TEST_SHARED CONFIGURE_DEPENDS tests/*.c)
list(REMOVE_ITEM TEST_SHARED ${TEST_SOURCES})
if(TEST_SHARED)
    add_library(test_shared STATIC EXCLUDE_FROM_ALL ${TEST_SHARED})
    target_link_libraries(test_shared PUBLIC cli)
    target_compile_options(test_shared PRIVATE ${CLSA_WARNINGS})
else()
    add_library(test_shared INTERFACE)
    target_link_libraries(test_shared INTERFACE cli)
endif()
foreach(source ${TEST_SOURCES})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    set_target_properties(${name} PROPERTIES ENABLE_EXPORTS ON)    # a plug-in fails in the words of its program
    target_link_libraries(${name} PRIVATE test_shared)
    target_compile_options(${name} PRIVATE ${CLSA_WARNINGS})
    add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300
        ENVIRONMENT "CLSA_BINARY=$<TARGET_FILE:clsa>")
endforeach()

set_tests_properties(test_tui_keys test_tui_terminal PROPERTIES TIMEOUT 900)    # many screens, each looked at

# Tests whose threads ThreadSanitizer should watch.
set(THREADED test_cupti test_cupti_late test_device test_thread_pool test_backend_cpu test_tui_feed test_tui_whatif
    test_tui_attach test_counters)
foreach(name ${THREADED})
    if(TARGET ${name})
        set_tests_properties(${name} PROPERTIES LABELS threaded)
    endif()
endforeach()
include(tests/mock/counters.cmake)
include(tests/mock/mock.cmake)
