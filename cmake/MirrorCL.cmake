# What every target of the project shares: warnings as errors, include path, sanitizer.
#   mirrorcl_target(NAME)                 apply the project's compile options to a target
#   mirrorcl_test(NAME SOURCES... LIBS...) a GoogleTest executable, registered with CTest; BOTH_MEMORY_KINDS: once more
#                                          as one test, with device memory that the CPU cannot map

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)

function(mirrorcl_target name)
  target_compile_options(${name} PRIVATE -Wall -Wextra -Wconversion -Wshadow -Werror -fno-omit-frame-pointer)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wthread-safety>)
  endif()
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  if(MIRRORCL_SANITIZER)
    target_compile_options(${name} PRIVATE -fsanitize=${MIRRORCL_SANITIZER})
    target_link_options(${name} PUBLIC -fsanitize=${MIRRORCL_SANITIZER})
    get_target_property(type ${name} TYPE)
    if(MIRRORCL_SANITIZER STREQUAL "address" AND type STREQUAL "EXECUTABLE")
      # Without it programs have a copy of the runtime's variables beside their own, where the pinned threads' code,
      # which looks at them, would find them gone to a device.
      target_compile_options(${name} PRIVATE -fPIC)
    endif()
    if(MIRRORCL_SANITIZER STREQUAL "thread")
      target_compile_options(${name} PRIVATE -Wno-tsan)  # it does not know fences, which only live.cpp has
      if(type STREQUAL "EXECUTABLE")
        target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/base/tsan_options.cpp)
      endif()
    endif()
    if(MIRRORCL_SANITIZER STREQUAL "undefined")
      target_compile_options(${name} PRIVATE -fno-sanitize-recover=undefined)
    endif()
  endif()
endfunction()

function(mirrorcl_test name)
  cmake_parse_arguments(T "BOTH_MEMORY_KINDS" "TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  add_executable(${name} ${T_SOURCES})
  mirrorcl_target(${name})
  target_link_libraries(${name} PRIVATE ${T_LIBS} GTest::gtest GTest::gtest_main Threads::Threads)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                       PROPERTIES TIMEOUT ${T_TIMEOUT} LABELS "${T_LABELS}")
  if(T_BOTH_MEMORY_KINDS)
    add_test(NAME private_memory.${name} COMMAND ${name})
    set_tests_properties(private_memory.${name} PROPERTIES TIMEOUT ${T_TIMEOUT} LABELS "${T_LABELS}"
                         ENVIRONMENT "MIRRORCL_DEVICE_MEMORY_KIND=private")
  endif()
endfunction()
