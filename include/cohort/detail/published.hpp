// Numbers that one thread changes and any thread may read, at the price of plain ones. Internal.
#pragma once

#include <cohort/config.hpp>

#include <atomic>

namespace cohort::inline COHORT_ABI::detail {

/// All accesses are relaxed: a reader sees each number as it was a moment ago, and several of them as they were at
/// different moments; nothing else is handed over with them. Changes are a load and a store, for there is one writer.
template <class T>
class published {
public:
  published(T value = {}) noexcept : value_(value) {}  // NOLINT(google-explicit-constructor): it is a T to its users
  published(const published&) = delete;
  published& operator=(const published&) = delete;

  operator T() const noexcept { return value_.load(std::memory_order_relaxed); }  // NOLINT(google-explicit-constructor)

  T operator=(T value) noexcept {
    value_.store(value, std::memory_order_relaxed);
    return value;
  }
  T operator+=(T more) noexcept { return *this = *this + more; }
  T operator++() noexcept { return *this = *this + 1; }
  T operator--() noexcept { return *this = *this - 1; }

private:
  std::atomic<T> value_;
};

}  // namespace cohort::inline COHORT_ABI::detail
