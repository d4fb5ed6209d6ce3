# Asio and Boost.JSON compiled once, for tests and benchmarks. Users and examples have them as headers alone, and so has what
# proves that: tests/headers, tests/odr and tests/consumer.

set(cohort_boost_sources "")
foreach(part IN ITEMS asio/impl json)
  string(REPLACE "/" "_" name "${part}")
  set(source "${PROJECT_BINARY_DIR}/boost/${name}.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "#include <boost/${part}/src.hpp>\n" @ONLY)
  list(APPEND cohort_boost_sources "${source}")
endforeach()

add_library(cohort_boost STATIC EXCLUDE_FROM_ALL ${cohort_boost_sources})
target_link_libraries(cohort_boost PUBLIC cohort_development)
target_compile_definitions(cohort_boost PUBLIC BOOST_ASIO_SEPARATE_COMPILATION)
