// Whether an arm computes what it is timed for: every product against float64.
#pragma once

#include "../problem.hpp"
#include "cuda_support.hpp"
#include "kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace cohort_bench {

class verifier {
public:
  /// Computes the references. Nothing else may be on the device, here and below.
  verifier(element_type type, const std::vector<batch>& sets) : type_(type) {
    std::vector<device_gemm> all;
    std::size_t elements = 0;
    for (const batch& set : sets) {
      for (const gemm& one : set) {
        all.push_back({one.shape.m, one.shape.n, one.shape.k, 0, one.w, one.x, one.y, nullptr});
        elements += one.shape.y_size();
        largest_ = std::max(largest_, one.shape.y_size());
      }
    }
    reference_ = make_device_memory(elements * sizeof(double));
    auto* at = static_cast<double*>(reference_.get());
    for (device_gemm& one : all) {
      one.reference = at;
      at += std::size_t{one.m} * one.n;
    }
    gemms_ = upload(all);
    count_ = static_cast<std::uint32_t>(all.size());
    sums_ = make_device_memory(2 * count_ * sizeof(double));
    launch_reference(gemms(), count_, largest_, type_, nullptr);
    synchronize_device();
  }

  /// How many products there are.
  std::size_t size() const { return count_; }

  /// Before an arm runs the first `count` products.
  void poison(std::size_t count) {
    launch_poison(gemms(), static_cast<std::uint32_t>(count), largest_, type_, nullptr);
    synchronize_device();
  }

  /// After the first `count` products ran: the largest error of one relative to its norm; NaN when something was not
  /// written.
  double error(std::size_t count) {
    std::vector<double> sums(2 * count);
    cuda_check(cudaMemset(sums_.get(), 0, sums.size() * sizeof(double)), "cudaMemset");
    launch_compare(gemms(), static_cast<std::uint32_t>(count), largest_, type_, static_cast<double*>(sums_.get()),
                   nullptr);
    cuda_check(cudaMemcpy(sums.data(), sums_.get(), sums.size() * sizeof(double), cudaMemcpyDeviceToHost),
               "cudaMemcpy");
    double worst = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double relative = std::sqrt(sums[2 * i] / sums[2 * i + 1]);
      if (!(relative <= worst)) worst = relative;
      if (std::isnan(worst)) break;
    }
    return worst;
  }

  bool right(double error) const { return error <= tolerance_of(type_); }

private:
  const device_gemm* gemms() const { return static_cast<const device_gemm*>(gemms_.get()); }

  element_type type_;
  std::size_t largest_ = 0;
  std::uint32_t count_ = 0;
  device_memory reference_, gemms_, sums_;
};

}  // namespace cohort_bench
