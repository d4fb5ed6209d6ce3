// Tenants: whose work a submission is. Everyone may enter; a tenant is a light handle to its executor.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/tenant_table.hpp>

#include <utility>

namespace cohort::inline COHORT_ABI {

/// Submits on behalf of one tenant. Copyable; must not outlive its executor. Any thread.
template <class Executor>
class tenant {
public:
  tenant(Executor& executor, tenant_id id) noexcept : executor_(&executor), id_(id) {}

  tenant_id id() const noexcept { return id_; }
  Executor& executor() const noexcept { return *executor_; }

  /// As `executor::submit`.
  template <class Op>
  [[nodiscard]] auto submit(const Op& op) const {
    return executor_->submit(op, id_);
  }

  /// As `executor::try_submit`.
  template <class Op>
  [[nodiscard]] auto try_submit(const Op& op) const {
    return executor_->try_submit(op, id_);
  }

  /// As `executor::async_submit`.
  template <class Op, class CompletionToken>
  auto async_submit(const Op& op, CompletionToken&& token) const {
    return executor_->async_submit(op, std::forward<CompletionToken>(token), id_);
  }

private:
  Executor* executor_;
  tenant_id id_;
};

}  // namespace cohort::inline COHORT_ABI
