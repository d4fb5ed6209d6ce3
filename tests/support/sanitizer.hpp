// Which sanitizer a test is built with. Tests only.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define COHORT_TEST_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define COHORT_TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COHORT_TEST_ASAN 1
#elif __has_feature(thread_sanitizer)
#define COHORT_TEST_TSAN 1
#endif
#endif
#ifndef COHORT_TEST_ASAN
#define COHORT_TEST_ASAN 0
#endif
#ifndef COHORT_TEST_TSAN
#define COHORT_TEST_TSAN 0
#endif

namespace cohort::testing {

inline constexpr bool sanitized = COHORT_TEST_ASAN != 0 || COHORT_TEST_TSAN != 0;

}  // namespace cohort::testing
