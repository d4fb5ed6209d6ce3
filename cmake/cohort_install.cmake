# The install tree: headers, licence, and what find_package(cohort) reads.

if(NOT COHORT_INSTALL)
  return()
endif()

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(cohort_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/cohort")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/" DESTINATION include FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(TARGETS cohort EXPORT cohort_targets)
install(EXPORT cohort_targets NAMESPACE cohort:: FILE cohort_targets.cmake DESTINATION "${cohort_package_dir}")

configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/cohort_config.cmake.in" "${PROJECT_BINARY_DIR}/package/cohort-config.cmake"
  INSTALL_DESTINATION "${cohort_package_dir}")
# Headers only, so the package of one architecture serves all.
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/package/cohort-config-version.cmake" COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/package/cohort-config.cmake"
              "${PROJECT_BINARY_DIR}/package/cohort-config-version.cmake" DESTINATION "${cohort_package_dir}")
