// Compiled for every architecture that is supported, never run: the superkernel over ops of each kind, and over one of
// the library that has forms by architecture.
#include <cohort/backend/automatic.hpp>
#include <cohort/backend/cuda.cuh>
#include <cohort/op.hpp>
#include <cohort/ops/attention.hpp>
#include <cohort/types.hpp>

#include <cstdint>
#include <memory>
#include <span>

namespace arch_compile {

struct alignas(16) scale_op {
  static constexpr const char* name = "scale";
  float* data;
  std::uint32_t size;
  float factor;

  std::uint32_t tiles() const { return (size + 1023) / 1024; }
  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    context.for_each(1024, [&](std::uint32_t i) {
      if (const std::uint32_t at = tile * 1024 + i; at < size) data[at] *= factor;
    });
  }
};

/// Fusable, with scratch and a reduction.
struct alignas(16) sum_op {
  static constexpr const char* name = "sum";
  static constexpr std::uint32_t device_scratch_bytes = 4096;
  static constexpr std::uint32_t host_scratch_bytes = 4096;
  const float* in;
  float* out;
  std::uint32_t size;
  std::uint32_t unused[3];

  cohort::coalescing_key key() const { return {{1, 0, 0, 0}}; }
  std::uint32_t rows() const { return 1; }
  static std::uint32_t plan(std::span<sum_op> members, const cohort::machine_shape&) {
    return static_cast<std::uint32_t>(members.size());
  }
  template <class Context>
  COHORT_HD
  static void run(Context& context, const sum_op* members, std::uint32_t, std::uint32_t tile) {
    const sum_op& mine = members[tile];
    auto* const scratch = reinterpret_cast<float*>(context.scratch());
    context.for_each(1024, [&](std::uint32_t i) { scratch[i] = i < mine.size ? mine.in[i] : 0.0f; });
    context.sync();
    const float total = context.sum(1024, [&](std::uint32_t i) { return scratch[i]; });
    if (context.rank() == 0) *mine.out = total;
  }
};

using ops = cohort::op_set<scale_op, sum_op, cohort::ops::attention<cohort::bf16>>;

}  // namespace arch_compile

std::unique_ptr<cohort::backend> make_backend() { return cohort::automatic_backend<arch_compile::ops>(); }

template class cohort::cuda_backend<arch_compile::ops>;
