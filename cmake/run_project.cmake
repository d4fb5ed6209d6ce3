# cmake -Dsource=DIR -Dbinary=DIR -Dgenerator=NAME -Dargs=A|B -Drun=X|Y -P run_project.cmake
# Configures and builds a project, then runs the programs it built. Used by ctest; any failure ends it with an error.

string(REPLACE "|" ";" args "${args}")
string(REPLACE "|" ";" run "${run}")

execute_process(COMMAND "${CMAKE_COMMAND}" -S "${source}" -B "${binary}" -G "${generator}" ${args}
                COMMAND_ERROR_IS_FATAL ANY)
# To the end, so that one run names everything that is broken.
if(generator STREQUAL "Ninja")
  set(keep_going -- -k 0)
endif()
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${binary}" ${keep_going} COMMAND_ERROR_IS_FATAL ANY)
foreach(program IN LISTS run)
  execute_process(COMMAND "${binary}/${program}" COMMAND_ERROR_IS_FATAL ANY)
endforeach()
