// table --backend host: the same coroutines over worker threads. It is there so that the program is run where there is
// no GPU: results are checked, times are of no interest.
#include "command.hpp"
#include "crew.hpp"
#include "linear_ops.hpp"
#include "report.hpp"
#include "statistics.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/executor.hpp>

#include <boost/asio/io_context.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace cohort_bench {
namespace {

using ops = linear_ops<float>;

/// Operands of R products in one piece of memory.
class host_operands {
public:
  host_operands(const problem& shape, std::size_t r) : shape_(shape), each_(shape.w_size() + shape.x_size()) {
    in_.resize(r * each_);
    out_.resize(r * shape.y_size());
    std::uint32_t state = 1;
    for (float& value : in_) {
      state = state * 1'664'525u + 1'013'904'223u;
      value = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f;
    }
  }

  batch products() {
    batch all;
    for (std::size_t i = 0; i < out_.size() / shape_.y_size(); ++i) {
      const float* const w = in_.data() + i * each_;
      all.push_back({shape_, w, w + shape_.w_size(), out_.data() + i * shape_.y_size()});
    }
    return all;
  }

  void poison() { out_.assign(out_.size(), std::numeric_limits<float>::quiet_NaN()); }

private:
  problem shape_;
  std::size_t each_;
  std::vector<float> in_, out_;
};

/// Relative to the norm, against float64.
double error_of(const gemm& one) {
  const auto* const w = static_cast<const float*>(one.w);
  const auto* const x = static_cast<const float*>(one.x);
  const auto* const y = static_cast<const float*>(one.y);
  double error = 0;
  double norm = 0;
  for (std::size_t row = 0; row < one.shape.n; ++row) {
    for (std::size_t feature = 0; feature < one.shape.m; ++feature) {
      double sum = 0;
      for (std::size_t k = 0; k < one.shape.k; ++k)
        sum += double{w[feature * one.shape.k + k]} * double{x[row * one.shape.k + k]};
      const double difference = double{y[row * one.shape.m + feature]} - sum;
      error += difference * difference;
      norm += sum * sum;
    }
  }
  return std::sqrt(error / norm);
}

int run_table_on_host(const options& chosen) {
  report to("table", chosen);
  to.environment()["backend"] = "host";
  to.note("fp32; R coroutines against one at a time, both on the host backend");
  boost::asio::io_context io;
  cohort::executor<ops> gpu(io, std::make_unique<cohort::host_backend<ops>>(), {.driven_by = cohort::drive::caller});
  const table_printer printer(
      {{"M x N x K", 12}, {"R", 4, 0}, {"/one", 7}, {"GFLOP/s", 8}, {"us", 9, 1}, {"error", 9, 9}});
  printer.header();
  const limits l = chosen.quick ? limits{.warm_up = 1, .fewest = 1, .most = 3, .budget_us = 2'000} : limits{};
  const std::vector<std::uint32_t> grid =
      chosen.quick ? std::vector<std::uint32_t>{1, 4} : std::vector<std::uint32_t>{1, 4, 16};
  for (const problem& shape : table_problems) {
    if (!chosen.problem.empty() && chosen.problem != shape.name()) continue;
    for (const std::uint32_t r : grid) {
      host_operands operands(shape, r);
      const std::vector<batch> together{operands.products()};
      std::vector<batch> alone;
      for (const gemm& one : together.front()) alone.push_back({one});
      operands.poison();
      const double us = median(time_batches(gpu, as_ops<float>(together), l));
      const double error = std::max(error_of(together.front().front()), error_of(together.front().back()));
      if (!(error <= tolerance_of(element_type::fp32))) {
        to.wrong(shape.name() + " R=" + std::to_string(r) + ": a relative error of " + std::to_string(error));
      }
      const double one = median(time_batches(gpu, as_ops<float>(alone), l));
      const double flops = flops_of(together.front());
      printer.row({shape.name(), double(r), one * r / us, flops / us * 1e-3, us, error});
      to.row({{"type", "fp32"},
              {"problem", shape.name()},
              {"r", r},
              {"us", number(us)},
              {"one_at_a_time_us", number(one * r)},
              {"error", number(error)}});
    }
  }
  return to.finish();
}

const registration announced({"table", place::host, "the same on the host backend, to see that it runs",
                              &run_table_on_host});

}  // namespace
}  // namespace cohort_bench
