// What the two halves of the program share: the op, the set it is in, and where the backend is made.
#pragma once

#include <cohort/op.hpp>

#include <cohort/backend/backend.hpp>

#include <memory>

struct add {
  static constexpr const char* name = "add";
  const float* a;
  const float* b;
  float* out;
  std::uint32_t n;

  COHORT_HD
  std::uint32_t tiles() const { return (n + 255) / 256; }

  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    const std::uint32_t first = tile * 256, count = n - first < 256 ? n - first : 256;
    context.for_each(count, [&](std::uint32_t i) { out[first + i] = a[first + i] + b[first + i]; });
  }
};

using kernels = cohort::op_set<add>;

std::unique_ptr<cohort::backend> make_backend();  // kernels.cu
