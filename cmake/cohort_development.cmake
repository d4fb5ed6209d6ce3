# Flags of cohort's own programs (never of its users): warnings, the gate for spills, sanitizers.

add_library(cohort_development INTERFACE)
target_link_libraries(cohort_development INTERFACE cohort::cohort)

# Options for the host compiler, also where it is reached through nvcc.
function(cohort_host_options)
  foreach(option IN LISTS ARGN)
    target_compile_options(
      cohort_development INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${option}>
                                   $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-Xcompiler=${option}>)
  endforeach()
endfunction()

cohort_host_options(-Wall -Wextra)
# Not through nvcc: what it hands to g++ is full of line directives that -Wpedantic counts as extensions.
target_compile_options(cohort_development INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wpedantic>)

if(COHORT_WERROR)
  target_compile_options(cohort_development INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # The optimiser's warnings stay warnings: they come and go with inlining, and coroutine frames confuse them.
    foreach(warning IN ITEMS array-bounds dangling-pointer free-nonheap-object maybe-uninitialized nonnull restrict
                             stringop-overflow stringop-overread use-after-free)
      target_compile_options(cohort_development INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-error=${warning}>)
    endforeach()
  endif()
endif()

# The gate for spills: a superkernel has the registers of the op that needs most, and what does not fit makes all ops
# beside it slower. For what is timed, and for each architecture that is compiled.
function(cohort_forbid_spills target)
  if(COHORT_WERROR)
    target_compile_options(${target}
                           PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=--warn-on-spills,--warning-as-error>)
  endif()
endfunction()

set(COHORT_TEST_ENVIRONMENT "")
if(COHORT_SANITIZE)
  string(REPLACE ";" "," cohort_sanitizers "${COHORT_SANITIZE}")
  target_compile_options(cohort_development INTERFACE -fsanitize=${cohort_sanitizers} -fno-omit-frame-pointer
                                                      -fno-sanitize-recover=all)
  target_link_options(cohort_development INTERFACE -fsanitize=${cohort_sanitizers})
  if("thread" IN_LIST COHORT_SANITIZE)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # Asio's fences are there beside its mutexes, which TSan does understand.
      target_compile_options(cohort_development INTERFACE -Wno-tsan)
    endif()
    list(APPEND COHORT_TEST_ENVIRONMENT "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:history_size=4")
  else()
    list(APPEND COHORT_TEST_ENVIRONMENT
         "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:check_initialization_order=1"
         "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1")
  endif()
endif()
