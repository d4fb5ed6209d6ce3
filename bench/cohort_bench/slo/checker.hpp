// Whether an arm computes what it is timed for: each tenant's model against float64.
#pragma once

#include "arm.hpp"
#include "reference.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

namespace cohort_bench::slo {

template <class T>
class checker {
public:
  /// Computes the references.
  checker(const fleet<T>& all, store& memory) : all_(all), memory_(memory) {
    for (std::uint32_t i = 0; i < all.tenants(); ++i) {
      for (std::uint32_t variant = 0; variant < model<T>::variants; ++variant) {
        wanted_.push_back(reference(all.model_of(i), variant));
      }
    }
  }

  /// What is right: rounding after each op of a stack of layers, and no more.
  static constexpr double tolerance = sizeof(T) == 4 ? 1e-4 : 3e-2;

  /// Has an arm serve two requests of every tenant at once: the largest error, NaN when something was not written.
  double error(arm& of) {
    of.rewind();
    const std::uint32_t tenants = all_.tenants();
    std::uint32_t requests = 0;
    for (std::uint32_t i = 0; i < tenants; ++i) {
      const std::vector<std::uint8_t> poison(all_.model_of(i).outputs() * sizeof(T), 0xff);
      for (std::uint32_t v = 0; v < model<T>::variants; ++v) {
        memory_.write(of.output(i, v), poison.data(), poison.size());
      }
    }
    of.report_to(std::make_shared<request_log>(std::size_t{tenants} * model<T>::variants));
    of.enter();
    for (std::uint32_t i = 0; i < tenants; ++i) {
      for (std::uint32_t v = 0; v < model<T>::variants; ++v) {
        if (!of.start(i, requests++)) throw std::runtime_error(of.name() + ": a check finds no buffer");
      }
    }
    const clock::time_point end = clock::now() + std::chrono::seconds(10);
    while (of.inside() > 0) {
      (void)of.poll();
      if (clock::now() > end) throw std::runtime_error(of.name() + ": requests of a check do not end");
    }
    of.leave();

    double worst = 0;
    for (std::uint32_t i = 0; i < tenants; ++i) {
      for (std::uint32_t v = 0; v < model<T>::variants; ++v) {
        std::vector<T> y(all_.model_of(i).outputs());
        memory_.read(y.data(), of.output(i, v), y.size() * sizeof(T));
        const double error = error_of(y, wanted_[i * model<T>::variants + v]);
        if (!(error <= worst)) worst = error;
        if (std::isnan(worst)) return worst;
      }
    }
    return worst;
  }

private:
  const fleet<T>& all_;
  store& memory_;
  std::vector<matrix> wanted_;
};

}  // namespace cohort_bench::slo
