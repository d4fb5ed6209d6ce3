// Executors of benchmarks that share the device with peers.
#pragma once

#include "superkernels.hpp"

#include <cohort/executor.hpp>

#include <exception>
#include <memory>
#include <utility>

namespace cohort_bench {

/// An executor in the caller-driven mode. While it is not paused a kernel may be on the device, and CUDA calls of the
/// peers would have to share the device with it: it begins paused, and every use of it is a `residency`.
template <class Ops>
class paused_executor {
public:
  explicit paused_executor(std::unique_ptr<cohort::backend> device, const cohort::scheduler_options& scheduling = {},
                           const cohort::late_binding& policy = {})
      : gpu_(io_, std::move(device), {.driven_by = cohort::drive::caller, .scheduling = scheduling}, policy) {
    leave();
  }

  cohort::executor<Ops>& get() { return gpu_; }

  /// While it lives the executor may use the device, and nobody else may.
  class residency {
  public:
    explicit residency(paused_executor& of) : of_(of), failures_(std::uncaught_exceptions()) { of_.gpu_.resume(); }
    ~residency() noexcept(false) {
      if (std::uncaught_exceptions() == failures_) {
        of_.leave();
      } else {
        (void)of_.gpu_.pause();  // another failure is on its way already
      }
    }
    residency(const residency&) = delete;
    residency& operator=(const residency&) = delete;

  private:
    paused_executor& of_;
    int failures_;
  };

private:
  void leave() {
    if (const cohort::error_code failed = gpu_.pause()) throw cohort::system_error(failed, "pausing the executor");
  }

  boost::asio::io_context io_;
  cohort::executor<Ops> gpu_;
};

template <class T>
class linear_executor : public paused_executor<linear_ops<T>> {
public:
  explicit linear_executor(const cohort::scheduler_options& scheduling = {}, const cohort::late_binding& policy = {},
                           const cohort::cuda_options& settings = benchmark_options())
      : paused_executor<linear_ops<T>>(make_linear_backend<T>(settings), scheduling, policy) {}
};

}  // namespace cohort_bench
