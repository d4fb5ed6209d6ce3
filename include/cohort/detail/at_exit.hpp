// Runs a function at the end of a scope.
#pragma once

#include <cohort/config.hpp>

#include <utility>

namespace cohort::inline COHORT_ABI::detail {

template <class Function>
class [[nodiscard]] at_exit {
public:
  explicit at_exit(Function function) noexcept : function_(std::move(function)) {}
  at_exit(const at_exit&) = delete;
  at_exit& operator=(const at_exit&) = delete;
  ~at_exit() { function_(); }

private:
  Function function_;
};

}  // namespace cohort::inline COHORT_ABI::detail
