# Every switch of the build, in one place. As a subproject cohort builds nothing of its own.

if(CMAKE_CURRENT_SOURCE_DIR STREQUAL CMAKE_SOURCE_DIR)
  set(COHORT_TOP_LEVEL ON)
else()
  set(COHORT_TOP_LEVEL OFF)
endif()

option(COHORT_BUILD_TESTS "Build the tests" ${COHORT_TOP_LEVEL})
option(COHORT_BUILD_EXAMPLES "Build the examples" ${COHORT_TOP_LEVEL})
option(COHORT_BUILD_BENCH "Build the benchmarks" ${COHORT_TOP_LEVEL})
option(COHORT_INSTALL "Generate the install target" ${COHORT_TOP_LEVEL})
option(COHORT_WERROR "Treat the warnings of cohort's own tests, examples and benchmarks as errors" OFF)

set(COHORT_CUDA AUTO CACHE STRING "Build the CUDA parts: AUTO (when a toolkit is found), ON (required) or OFF")
set_property(CACHE COHORT_CUDA PROPERTY STRINGS AUTO ON OFF)

set(COHORT_SANITIZE "" CACHE STRING "Sanitizers for host code: empty, 'address;undefined' or 'thread'")
set_property(CACHE COHORT_SANITIZE PROPERTY STRINGS "" "address;undefined" "thread")

if(COHORT_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()
if(COHORT_TOP_LEVEL)
  # -std=c++20 and not gnu++20: what only GNU accepts must not slip in.
  set(CMAKE_CXX_EXTENSIONS OFF)
endif()
