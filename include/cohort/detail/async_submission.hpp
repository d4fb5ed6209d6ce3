// A submission as an Asio asynchronous operation: node, op and handler in one block from the handler's associated
// allocator.
#pragma once

#include <cohort/clock.hpp>
#include <cohort/config.hpp>
#include <cohort/detail/request.hpp>
#include <cohort/detail/waiter.hpp>
#include <cohort/error.hpp>

#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>

#include <memory>
#include <utility>

namespace cohort::inline COHORT_ABI::detail {

template <class Request, class Engine, class AsioExecutor, class Handler>
class async_submission final : private waiter {
  using handler_executor = boost::asio::associated_executor_t<Handler, AsioExecutor>;
  using handler_allocator = boost::asio::associated_allocator_t<Handler>;
  using allocator = typename std::allocator_traits<handler_allocator>::template rebind_alloc<async_submission>;
  using traits = std::allocator_traits<allocator>;

public:
  /// Starts the operation. The handler is called once, never from inside this function.
  static void start(Engine& engine, const AsioExecutor& executor, const Request& request, tenant_id tenant,
                    const request_limits& limits, Handler handler) {
    allocator alloc(boost::asio::get_associated_allocator(handler));
    block owned{alloc, traits::allocate(alloc, 1)};
    traits::construct(alloc, owned.memory, engine, executor, request, tenant, limits, std::move(handler));
    std::exchange(owned.memory, nullptr)->submit();
  }

  async_submission(Engine& engine, const AsioExecutor& executor, const Request& request, tenant_id tenant,
                   const request_limits& limits, Handler&& handler)
      : waiter(&async_submission::deliver, &async_submission::discard),
        engine_(engine),
        request_(request),
        handler_(std::move(handler)),
        own_work_(executor),
        handler_work_(boost::asio::get_associated_executor(handler_, executor)) {
    request_.describe(*this);
    set_limits(*this, tenant, limits);
  }

private:
  /// Owns the memory of an operation, with or without an operation in it.
  struct block {
    allocator& alloc;
    async_submission* memory;
    ~block() {
      if (memory != nullptr) traits::deallocate(alloc, memory, 1);
    }
  };

  struct release {
    void operator()(async_submission* self) const noexcept {
      allocator alloc(boost::asio::get_associated_allocator(self->handler_));
      traits::destroy(alloc, self);
      traits::deallocate(alloc, self, 1);
    }
  };

  /// The finished operation on its way to the handler's executor. It stays whole until it is there: the slot, which
  /// points to it, belongs to the thread or strand of the handler, and may be emitted there until it is cleared there.
  class completion {
  public:
    using allocator_type = handler_allocator;
    using executor_type = handler_executor;

    explicit completion(async_submission* finished) : finished_(finished), executor_(finished->executor()) {}

    allocator_type get_allocator() const noexcept { return boost::asio::get_associated_allocator(finished_->handler_); }
    executor_type get_executor() const noexcept { return executor_; }

    void operator()() {
      auto slot = boost::asio::get_associated_cancellation_slot(finished_->handler_);
      if (slot.is_connected()) slot.clear();
      Handler handler(std::move(finished_->handler_));
      const error_code result = finished_->result;
      finished_->request_.end(*finished_);
      const auto own_work = std::move(finished_->own_work_);
      const auto handler_work = std::move(finished_->handler_work_);
      finished_.reset();  // its memory is free before the handler runs, as Asio promises to allocators
      std::move(handler)(result);
    }

  private:
    std::unique_ptr<async_submission, release> finished_;
    executor_type executor_;
  };

  void submit() {
    result = request_.begin(*this);
    if (result.failed() || request_.is_empty()) return boost::asio::post(executor(), completion(this));
    auto slot = boost::asio::get_associated_cancellation_slot(handler_);
    if (slot.is_connected()) {
      cancellable = true;
      slot.assign([this](boost::asio::cancellation_type) { engine_.cancel(*this); });
    }
    if (!engine_.submit(*this)) boost::asio::post(executor(), completion(this));
  }

  static void deliver(waiter& self) {
    auto& finished = static_cast<async_submission&>(self);
    boost::asio::dispatch(finished.executor(), completion(&finished));
  }

  static void discard(waiter& self) { release()(&static_cast<async_submission&>(self)); }

  handler_executor executor() const noexcept { return handler_work_.get_executor(); }

  Engine& engine_;
  Request request_;
  Handler handler_;
  boost::asio::executor_work_guard<AsioExecutor> own_work_;
  boost::asio::executor_work_guard<handler_executor> handler_work_;
};

}  // namespace cohort::inline COHORT_ABI::detail
