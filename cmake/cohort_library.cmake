# cohort::cohort, the only target that users see. It has no objects: a folder to include, a language level, two libraries.

find_package(Threads REQUIRED)
find_package(Boost 1.81 REQUIRED)

add_library(cohort INTERFACE)
add_library(cohort::cohort ALIAS cohort)

target_include_directories(
  cohort INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
target_link_libraries(cohort INTERFACE Boost::headers Threads::Threads)
target_compile_features(cohort INTERFACE cxx_std_20)
# A plain option and not cuda_std_20: CMake before 3.25.2 does not know that level for nvcc.
target_compile_options(cohort INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
