# Installs the library into a folder of its own, and builds and runs a C and a C++ program against it as a user would.
# Usage: cmake -DBUILD=... -DSOURCE=... -DWORK=... -DCC=... -DCXX=... -P install_test.cmake
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    file(REMOVE_RECURSE ${WORK})
    message(FATAL_ERROR "${ARGN}: ${status}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --component hms --prefix ${WORK}/usr)
file(WRITE ${WORK}/program.c [[
#include <hms/hbind.h>
#include <hms/hms.h>
#include <stdio.h>
int main(int argc, char** argv) {
  char error[200];
  hms_topology* machine = hms_topology_load(argv[argc - 1], error, sizeof error);
  if (machine == NULL) return fputs(error, stderr), 1;
  printf("%zu memories\n", hms_target_count(machine));
  hms_topology_destroy(machine);
  return 0;
}
]])
file(WRITE ${WORK}/program.cpp [[
#include <hms/binder.h>
#include <hms/hbind.hpp>
#include <hms/load.h>
#include <hms/placement.h>
#include <hms/query.h>
#include <cstdio>
int main(int, char** argv) {
  const auto machine = mirrorcl::hms::load(argv[1]);
  if (!machine) return std::puts(machine.error().message.c_str()), 1;
  std::printf("%zu memories\n", machine->targets().size());
}
]])
file(GLOB pkgconfig ${WORK}/usr/*/pkgconfig ${WORK}/usr/*/*/pkgconfig)
set(ENV{PKG_CONFIG_PATH} ${pkgconfig})
run(pkg-config --define-variable=prefix=${WORK}/usr --cflags --libs mirror-hms)
separate_arguments(flags UNIX_COMMAND "${output}")
get_filename_component(library_folder ${pkgconfig} DIRECTORY)
list(APPEND flags -Wl,-rpath,${library_folder} -Wall -Wextra -Werror)
run(${CC} ${WORK}/program.c -o ${WORK}/c ${flags})
run(${CXX} -std=c++20 ${WORK}/program.cpp -o ${WORK}/cpp ${flags})
foreach(program ${WORK}/c ${WORK}/cpp)
  # Read by the installed mirrorcl-hms-reader.
  run(${program} ${SOURCE}/testdata/64intel64-heteromem.xml)
  if(NOT output STREQUAL "8 memories\n")
    message(FATAL_ERROR "${program} says: ${output}")
  endif()
endforeach()
run(${WORK}/usr/bin/hms --version)
file(REMOVE_RECURSE ${WORK})
