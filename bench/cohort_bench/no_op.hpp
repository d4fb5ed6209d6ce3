// An op with nothing to do: what is left is the way there and back.
#pragma once

#include <cohort/config.hpp>

#include <cstdint>

namespace cohort_bench {

struct alignas(16) no_op {
  static constexpr const char* name = "no_op";
  std::uint64_t unused[2] = {};

  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const {}
};

}  // namespace cohort_bench
