// What `co_await executor.submit(...)` suspends on. The node of the submission is this object, and it lives in the
// frame of the coroutine that awaits: nothing is allocated.
#pragma once

#include <cohort/clock.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/engine.hpp>
#include <cohort/detail/promise.hpp>
#include <cohort/detail/request.hpp>
#include <cohort/detail/waiter.hpp>
#include <cohort/error.hpp>

#include <boost/throw_exception.hpp>

#include <algorithm>
#include <coroutine>
#include <optional>
#include <stop_token>

namespace cohort::inline COHORT_ABI::detail {

/// How the result reaches the coroutine.
enum class on_error : bool { throws, returns };

template <class Request, class Engine, on_error Style>
class [[nodiscard]] submit_awaiter final : private waiter {
public:
  submit_awaiter(Engine& engine, const Request& request, tenant_id tenant, const request_limits& limits) noexcept
      : waiter(&submit_awaiter::continue_coroutine), engine_(engine), request_(request) {
    request_.describe(*this);
    set_limits(*this, tenant, limits);
  }

  bool await_ready() noexcept {
    // Nothing is copied when all is well: a result that was just written in parts is slow to read as a whole.
    const error_code wrong = request_.begin(*this);
    if (wrong.failed()) result = wrong;
    return wrong.failed() || request_.is_empty();
  }

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> coroutine) {
    coroutine_ = coroutine;
    if constexpr (has_request_limits<Promise>) {
      if (const request_limits* const inherited = coroutine.promise().limits()) {
        deadline = std::min(deadline, inherited->deadline);
        expires = std::min(expires, inherited->expires);
      }
    }
    if constexpr (has_stop_token<Promise>) {
      const std::stop_token& token = coroutine.promise().stop_token();
      if (token.stop_possible()) {
        cancellable = true;
        on_stop_.emplace(token, withdraw{this});  // may call at once, or from another thread from now on
      }
    }
    // On success this object may be gone, with the coroutine continued on another thread, before `submit` returns.
    return engine_.submit(*this);
  }

  auto await_resume() {
    on_stop_.reset();  // waits for a callback that is running on another thread
    request_.end(*this);
    if constexpr (Style == on_error::returns) {
      return result;
    } else {
      if (result.failed()) boost::throw_exception(system_error(result, Request::name()));
    }
  }

private:
  struct withdraw {
    submit_awaiter* self;
    void operator()() const noexcept { self->engine_.cancel(*self); }
  };

  static void continue_coroutine(waiter& self) { static_cast<submit_awaiter&>(self).coroutine_.resume(); }

  std::coroutine_handle<> coroutine_;
  Engine& engine_;
  Request request_;
  std::optional<std::stop_callback<withdraw>> on_stop_;
};

}  // namespace cohort::inline COHORT_ABI::detail
