# How a test program is built and told to ctest. Every program answers 77 when it cannot run here, and 0 only when it passed.

# Whether a test has threads of its own, found by what it includes.
function(cohort_has_threads result file)
  file(STRINGS "${file}" includes
       REGEX "#include <(thread|future|cohort/(cohort|executor|tenant|backend/host)\\.hpp)>")
  set(${result} "${includes}" PARENT_SCOPE)
endfunction()

# Whether a test has an emulated thread block: fibers, which the thread sanitizer takes for threads.
function(cohort_has_fibers result file)
  file(STRINGS "${file}" includes REGEX "#include \"(support/block_emulator|ops_fixtures)\\.hpp\"")
  set(${result} "${includes}" PARENT_SCOPE)
endfunction()

# What a name ends in tells ctest to run it: tests/unit/NAME_test.cpp is the test unit.NAME with the label unit. A test with
# threads of its own has the label concurrent as well, and is not run beside others.
function(cohort_label_test name file)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "LABELS")
  set(labels ${arg_LABELS})
  cohort_has_threads(threads "${file}")
  if(threads)
    list(APPEND labels concurrent)
    set_property(TEST ${name} PROPERTY PROCESSORS 2)
  endif()
  set_tests_properties(
    ${name} PROPERTIES LABELS "${labels}" SKIP_RETURN_CODE 77 TIMEOUT 1500 ENVIRONMENT "${COHORT_TEST_ENVIRONMENT}")
endfunction()

# Libraries and include folders that every test program has; examples/ is for tests of what the examples are made of.
function(cohort_test_program target)
  target_link_libraries(${target} PRIVATE cohort_boost doctest::doctest)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests" "${PROJECT_SOURCE_DIR}/examples")
  target_compile_definitions(${target} PRIVATE COHORT_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
endfunction()

# A test that has nothing to race is left out where the thread sanitizer is all that is asked for.
function(cohort_add_unit_test file)
  cohort_has_threads(threads "${file}")
  cohort_has_fibers(fibers "${file}")
  if(COHORT_SANITIZE STREQUAL "thread" AND NOT threads AND NOT fibers)
    return()
  endif()
  get_filename_component(name "${file}" NAME_WE)
  string(REGEX REPLACE "_test$" "" name "${name}")
  add_executable(unit_${name} "${file}" $<TARGET_OBJECTS:cohort_test_main>)
  cohort_test_program(unit_${name})
  add_dependencies(unit_tests unit_${name})
  add_test(NAME unit.${name} COMMAND unit_${name})
  cohort_label_test(unit.${name} "${file}" LABELS unit)
endfunction()

# tests/gpu/NAME_test.cu, together with NAME_test.cpp where there is one. Without a toolkit the test is known and skipped.
function(cohort_add_gpu_test file)
  get_filename_component(name "${file}" NAME_WE)
  get_filename_component(folder "${file}" DIRECTORY)
  string(REGEX REPLACE "_test$" "" short "${name}")
  if(NOT COHORT_HAS_CUDA)
    add_test(NAME gpu.${short} COMMAND "${CMAKE_COMMAND}" -E echo "SKIPPED: this build has no CUDA toolkit")
    set_tests_properties(gpu.${short} PROPERTIES LABELS gpu SKIP_REGULAR_EXPRESSION "SKIPPED")
    return()
  endif()
  set(sources "${file}")
  if(EXISTS "${folder}/${name}.cpp")
    list(APPEND sources "${folder}/${name}.cpp")
  endif()
  file(STRINGS "${file}" own_main REGEX "^int main\\(|define DOCTEST_CONFIG_IMPLEMENT")
  if(NOT own_main)
    list(APPEND sources $<TARGET_OBJECTS:cohort_gpu_test_main>)
  endif()
  add_executable(gpu_${short} ${sources})
  cohort_test_program(gpu_${short})
  target_link_libraries(gpu_${short} PRIVATE CUDA::cudart_static)
  add_dependencies(gpu_tests gpu_${short})
  foreach(mode IN ITEMS resident bounded)
    add_test(NAME gpu.${short}.${mode} COMMAND gpu_${short})
    # One resident kernel at a time: a second one would wait for the SMs of the first.
    set_tests_properties(
      gpu.${short}.${mode} PROPERTIES LABELS gpu SKIP_RETURN_CODE 77 TIMEOUT 600 RESOURCE_LOCK gpu
                                      ENVIRONMENT "COHORT_CUDA_MODE=${mode}")
  endforeach()
endfunction()

# tests/fuzz/NAME_fuzz.cpp: a libFuzzer target, so for clang only. ctest gives it a few seconds; longer by hand.
function(cohort_add_fuzz_test file)
  get_filename_component(name "${file}" NAME_WE)
  string(REGEX REPLACE "_fuzz$" "" short "${name}")
  add_executable(fuzz_${short} "${file}")
  target_link_libraries(fuzz_${short} PRIVATE cohort_development)
  target_include_directories(fuzz_${short} PRIVATE "${PROJECT_SOURCE_DIR}/examples")
  target_compile_options(fuzz_${short} PRIVATE -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all)
  target_link_options(fuzz_${short} PRIVATE -fsanitize=fuzzer,address,undefined)
  add_test(NAME fuzz.${short} COMMAND fuzz_${short} -max_total_time=20 -max_len=4096 -seed=1 -print_final_stats=1)
  set_tests_properties(fuzz.${short} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()

# A CMake project of its own, configured and built by ctest in a scratch folder that outlives the run, so that the second
# run has nothing to compile. SOURCE is its folder; ARGS go to its configure step; RUN names programs to run afterwards.
function(cohort_add_project_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "SOURCE" "ARGS;RUN;LABELS")
  set(args "")
  foreach(language IN ITEMS CXX CUDA)
    foreach(what IN ITEMS COMPILER COMPILER_LAUNCHER)
      if(DEFINED CMAKE_${language}_${what} AND NOT "${arg_ARGS}" MATCHES "-DCMAKE_${language}_${what}=")
        list(APPEND args "-DCMAKE_${language}_${what}=${CMAKE_${language}_${what}}")
      endif()
    endforeach()
  endforeach()
  if(COHORT_HAS_CUDA)
    list(APPEND args "-DCMAKE_CUDA_HOST_COMPILER=${CMAKE_CUDA_HOST_COMPILER}")
  endif()
  foreach(what IN ITEMS Boost_DIR BOOST_ROOT CMAKE_PREFIX_PATH)
    if(${what})
      list(APPEND args "-D${what}=${${what}}")
    endif()
  endforeach()
  list(APPEND args ${arg_ARGS})
  list(JOIN args "|" args)
  list(JOIN arg_RUN "|" run)
  add_test(
    NAME ${name}
    COMMAND "${CMAKE_COMMAND}" "-Dsource=${arg_SOURCE}" "-Dbinary=${PROJECT_BINARY_DIR}/scratch/${name}"
            "-Dgenerator=${CMAKE_GENERATOR}" "-Dargs=${args}" "-Drun=${run}" -P
            "${PROJECT_SOURCE_DIR}/cmake/run_project.cmake")
  # It builds with all cores, so nothing that measures time may run beside it.
  set_tests_properties(
    ${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 1800 PROCESSORS ${COHORT_CORES})
endfunction()
