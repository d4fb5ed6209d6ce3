// What each binary and each translation unit of the odr test tells about cohort as it was compiled there.
#pragma once

#include "everything.hpp"

#include <cohort/error.hpp>
#include <cohort/task.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace odr {

struct layout {
  std::string name;
  std::size_t size;
  std::size_t alignment;

  friend bool operator==(const layout&, const layout&) = default;
};

struct facts {
  cohort::error_code stopped;
  std::string message;
  const void* category;  ///< where this binary keeps its category object
  std::vector<layout> layouts;
};

// Internal linkage on purpose: every translation unit computes its own answer.
namespace {

template <class T>
layout layout_of(const char* name) {
  return {name, sizeof(T), alignof(T)};
}

[[maybe_unused]] facts collect() {
  const cohort::error_code stopped = cohort::errc::stopped;
  return {stopped,
          stopped.message(),
          &stopped.category(),
          {
#define COHORT_ODR_LAYOUT(...) layout_of<__VA_ARGS__>(#__VA_ARGS__)
              COHORT_ODR_LAYOUT(cohort::errc),
              COHORT_ODR_LAYOUT(cohort::error_code),
              COHORT_ODR_LAYOUT(cohort::task<>),
              COHORT_ODR_LAYOUT(cohort::task<int>),
#undef COHORT_ODR_LAYOUT
          }};
}

}  // namespace

#define COHORT_ODR_EXPORT __attribute__((visibility("default")))

COHORT_ODR_EXPORT facts library_facts();
/// Throws cohort::system_error with errc::device_lost from inside the shared library.
COHORT_ODR_EXPORT void library_throws();
facts second_facts();

/// A coroutine of the shared library, which the program awaits. Completes with value + 1.
COHORT_ODR_EXPORT cohort::task<int> library_task(int value);

}  // namespace odr
