// Our arm: a coroutine for each request, which awaits its ops as one chain, or op after op.
#pragma once

#include "arm.hpp"

#include <cohort/backend/backend.hpp>
#include <cohort/chain.hpp>
#include <cohort/error.hpp>
#include <cohort/executor.hpp>
#include <cohort/schedule/policy.hpp>

#include <boost/asio/io_context.hpp>

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace cohort_bench::slo {

/// A coroutine that nobody waits for: it runs at once, and its frame ends with it. What it does with failures is its
/// own affair.
struct detached {
  struct promise_type {
    detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

/// How a request is submitted: as a chain that was made ahead, one for each buffer, as peers record their graphs; or so
/// that every op returns to its coroutine.
enum class requests : std::uint8_t { as_chains, op_by_op };

/// The executor is in the caller-driven mode and paused while the arm is not on the device.
template <class T, cohort::policy Policy = cohort::late_binding>
class cohort_arm final : public arm {
  using executor = cohort::executor<slo_ops<T>, boost::asio::io_context::executor_type, Policy>;

public:
  cohort_arm(std::string name, const fleet<T>& all, std::unique_ptr<cohort::backend> device,
             cohort::executor_options options = {}, Policy policy = {}, requests how = requests::as_chains)
      : arm(std::move(name)),
        all_(all),
        how_(how),
        slots_(all.tenants(), all.slots_each()),
        gpu_(io_, std::move(device), by_caller(options), std::move(policy)) {
    if (how == requests::as_chains) make_chains();
    aim({1e6, 1e6, 1e6});
    leave();
  }

  void enter() override { gpu_.resume(); }
  void leave() override {
    if (const cohort::error_code failed = gpu_.pause()) throw cohort::system_error(failed, "pausing the executor");
  }

  /// A tenant's target is for one submission: where ops are submitted one by one they share the request's evenly.
  void aim(const target_times& targets) override {
    tenants_.clear();
    for (std::uint32_t i = 0; i < all_.tenants(); ++i) {
      const kind what = all_.model_of(i).what();
      const double parts = how_ == requests::as_chains ? 1 : static_cast<double>(all_.ops(i).size());
      const double each = targets[static_cast<std::size_t>(what)] / parts;
      const auto tenant = gpu_.make_tenant({.name = std::string(name_of(what)) + " " + std::to_string(i),
                                            .latency_target = std::chrono::nanoseconds(static_cast<long long>(each))});
      tenants_.push_back(tenant.id());
    }
  }

  bool start(std::uint32_t tenant, std::uint32_t request) override {
    const std::uint32_t slot = slots_.take(tenant);
    if (slot == slot_pool::none) return false;
    ++inside_;
    if (how_ == requests::as_chains) {
      serve_chain(*this, tenant, slot, request);
    } else {
      serve(*this, tenant, slot, request);
    }
    return true;
  }

  bool poll() override { return gpu_.poll(); }
  std::size_t inside() const override { return inside_; }
  void rewind() override { slots_.rewind(); }
  void* output(std::uint32_t tenant, std::uint32_t variant) override { return all_.output(tenant, variant); }

  std::optional<cohort::scheduler_statistics> statistics() const override { return gpu_.statistics(); }

private:
  static cohort::executor_options by_caller(cohort::executor_options options) {
    options.driven_by = cohort::drive::caller;
    options.scheduling.expected_keys = 1024;
    return options;
  }

  static detached serve(cohort_arm& self, std::uint32_t tenant, std::uint32_t slot, std::uint32_t request) {
    const cohort::tenant_id id = self.tenants_[tenant];
    const std::size_t by = self.all_.offset(tenant, slot);
    cohort::error_code result;
    for (const step<T>& one : self.all_.ops(tenant)) {
      switch (one.index()) {
        case 0: result = co_await self.gpu_.try_submit(shifted(*std::get_if<0>(&one), by), id); break;
        case 1: result = co_await self.gpu_.try_submit(shifted(*std::get_if<1>(&one), by), id); break;
        case 2: result = co_await self.gpu_.try_submit(shifted(*std::get_if<2>(&one), by), id); break;
        default: result = co_await self.gpu_.try_submit(shifted(*std::get_if<3>(&one), by), id); break;
      }
      if (result.failed()) break;
    }
    self.finish(tenant, slot, request, result);
  }

  static detached serve_chain(cohort_arm& self, std::uint32_t tenant, std::uint32_t slot, std::uint32_t request) {
    const cohort::error_code result = co_await self.gpu_.try_submit(self.chains_[tenant][slot], self.tenants_[tenant]);
    self.finish(tenant, slot, request, result);
  }

  void finish(std::uint32_t tenant, std::uint32_t slot, std::uint32_t request, const cohort::error_code& result) {
    log().finished(request, !result.failed());
    slots_.give_back(tenant, slot);
    --inside_;
  }

  void make_chains() {
    chains_.resize(all_.tenants());
    for (std::uint32_t i = 0; i < all_.tenants(); ++i) {
      for (std::uint32_t j = 0; j < all_.slots_each(); ++j) {
        cohort::chain<slo_ops<T>>& one = chains_[i].emplace_back();
        one.reserve(all_.ops(i).size());
        for (const step<T>& each : all_.ops(i)) {
          std::visit([&](const auto& op) { one.then(shifted(op, all_.offset(i, j))); }, each);
        }
      }
    }
  }

  const fleet<T>& all_;
  requests how_;
  slot_pool slots_;
  std::size_t inside_ = 0;
  std::vector<cohort::tenant_id> tenants_;
  boost::asio::io_context io_;
  std::vector<std::vector<cohort::chain<slo_ops<T>>>> chains_;  // by tenant and buffer
  executor gpu_;
};

}  // namespace cohort_bench::slo
