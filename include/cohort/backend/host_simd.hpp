// Which vector instructions host code may use, decided when it runs: the library is compiled for the baseline of the
// architecture and still uses AVX2 where there is some. Host loops of this library may enter.
#pragma once

#include <cohort/config.hpp>

#if defined(__x86_64__) && defined(__GNUC__) && !COHORT_DEVICE_PASS
#define COHORT_HOST_HAS_WIDE 1
/// A function that is compiled for AVX2 with FMA, together with everything it calls (functors included).
#define COHORT_HOST_WIDE __attribute__((target("avx2,fma"), flatten))
#else
#define COHORT_HOST_HAS_WIDE 0
#define COHORT_HOST_WIDE
#endif

// Tells g++ that the iterations of the next loop are independent, which is what `for_each` asks of its functor. clang
// checks that when the loop runs, and would warn of each loop that it does not vectorise.
#if defined(__GNUC__) && !defined(__clang__) && !COHORT_DEVICE_PASS
#define COHORT_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#else
#define COHORT_INDEPENDENT_ITERATIONS
#endif

namespace cohort::inline COHORT_ABI::detail {

/// Whether this processor runs functions marked COHORT_HOST_WIDE.
inline bool host_is_wide() noexcept {
#if COHORT_HOST_HAS_WIDE
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

}  // namespace cohort::inline COHORT_ABI::detail
