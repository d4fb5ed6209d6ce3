# A compiler cache, if one is installed and the user has not chosen a launcher. Set before CUDA is enabled.

find_program(COHORT_CCACHE ccache)
mark_as_advanced(COHORT_CCACHE)
if(COHORT_CCACHE AND COHORT_TOP_LEVEL)
  foreach(language IN ITEMS CXX CUDA)
    if(NOT DEFINED CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER "${COHORT_CCACHE}")
    endif()
  endforeach()
endif()
