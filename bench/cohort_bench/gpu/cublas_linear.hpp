// A linear layer as cuBLAS computes it best: one call of cublasLt with bias, activation and residual in its epilogue,
// or a product and a kernel for the rest, whichever is faster for the shape.
#pragma once

#include "cuda_support.hpp"

#include <cohort/ops/linear.hpp>
#include <cohort/types.hpp>

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

namespace cohort_bench::slo {

class cublas_linear {
public:
  using op = cohort::ops::linear<cohort::bf16>;

  /// Of device memory, for whatever runs at the same time as something else.
  static constexpr std::size_t workspace_bytes = std::size_t{1} << 20;

  cublas_linear();

  /// Measures what cuBLAS offers for ops of this shape, unless it is known, and remembers the fastest. Writes to y.
  void tune(const op& one);

  /// From now on `enqueue` puts its work into this stream. Not while it is captured.
  void bind(void* workspace, const stream& in);

  /// Precondition: an op of this shape was tuned. Throws `cublas_error`.
  void enqueue(const op& one);

  /// Shapes for which one call is the fastest, of all that were tuned.
  std::size_t fused() const;
  std::size_t tuned() const { return best_.size(); }

private:
  using shape = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, cohort::ops::activation, bool>;
  struct choice {
    bool fused = false;
    cublasLtMatmulAlgo_t algorithm{};
  };
  struct lt_deleter {
    void operator()(cublasLtHandle_t one) const noexcept { (void)cublasLtDestroy(one); }
  };

  static shape shape_of(const op& one) { return {one.row_count, one.n, one.k, one.act, one.residual != nullptr}; }
  void enqueue(const op& one, const choice& how);
  double measure(const op& one, const choice& how);

  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, lt_deleter> lt_;
  cublas_handle cublas_;
  stream tuning_ = make_stream();
  device_memory tuning_workspace_ = make_device_memory(workspace_bytes);
  void* workspace_ = nullptr;
  cudaStream_t in_ = nullptr;
  std::map<shape, choice> best_;
};

}  // namespace cohort_bench::slo
