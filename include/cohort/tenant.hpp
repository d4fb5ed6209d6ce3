// Tenants: whose work a submission is. Everyone may enter; a tenant is a light handle to its executor.
#pragma once

#include <cohort/clock.hpp>
#include <cohort/config.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/tenant_table.hpp>

#include <utility>

namespace cohort::inline COHORT_ABI {

/// Submits on behalf of one tenant, under limits if it was given some. Copyable; must not outlive its executor. Any
/// thread.
template <class Executor>
class tenant {
public:
  tenant(Executor& executor, tenant_id id, const request_limits& limits = no_limits) noexcept
      : executor_(&executor), id_(id), limits_(limits) {}

  tenant_id id() const noexcept { return id_; }
  Executor& executor() const noexcept { return *executor_; }

  /// The same tenant for one request: what is submitted through the handle that is returned has these limits, or its
  /// own where they are earlier.
  tenant within(const request_limits& limits) const noexcept { return {*executor_, id_, earlier(limits_, limits)}; }

  const request_limits& limits() const noexcept { return limits_; }

  /// As `executor::set_options`, `options_of`, `statistics_of` and `remove_tenant`.
  void set_options(tenant_options options) const { executor_->set_options(id_, std::move(options)); }
  tenant_options options() const { return executor_->options_of(id_); }
  tenant_statistics statistics() const { return executor_->statistics_of(id_); }
  void remove() const { executor_->remove_tenant(id_); }

  /// As `executor::submit`, of an op or a chain.
  template <class Work>
  [[nodiscard]] auto submit(Work&& work) const {
    return executor_->submit(std::forward<Work>(work), id_, limits_);
  }

  /// As `executor::try_submit`.
  template <class Work>
  [[nodiscard]] auto try_submit(Work&& work) const {
    return executor_->try_submit(std::forward<Work>(work), id_, limits_);
  }

  /// As `executor::async_submit`.
  template <class Work, class CompletionToken>
  auto async_submit(Work&& work, CompletionToken&& token) const {
    return executor_->async_submit(std::forward<Work>(work), std::forward<CompletionToken>(token), id_, limits_);
  }

private:
  Executor* executor_;
  tenant_id id_;
  request_limits limits_;
};

}  // namespace cohort::inline COHORT_ABI
