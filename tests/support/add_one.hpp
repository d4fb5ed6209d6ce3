// The smallest op that shows that it ran: one piece of work that counts.
#pragma once

#include <cohort/error.hpp>

#include <atomic>
#include <cstdint>

namespace cohort::testing {

struct add_one {
  static constexpr const char* name = "add_one";
  std::atomic<int>* target = nullptr;

  error_code check() const { return target == nullptr ? error_code(errc::null_pointer) : error_code(); }
  std::uint32_t tiles() const { return 1; }
  template <class Context>
  void run(Context&, std::uint32_t) const {
    target->fetch_add(1, std::memory_order_relaxed);  // relaxed: completion orders it
  }
};

}  // namespace cohort::testing
