// Memory of what is given up, with threads on all sides: while coroutines on the host backend are cancelled, time out
// and die with their buffers, no buffer is anybody else's, and all of them come back.
#include <cohort/backend/host.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/task.hpp>

#include <boost/asio/thread_pool.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>

using namespace cohort;
using namespace std::chrono_literals;

namespace {

/// Writes `value` to each element, a few times over so that it lasts. What has the same length may be fused.
struct alignas(16) write_slowly {
  static constexpr const char* name = "write_slowly";
  std::uint32_t* to;
  std::uint32_t count;
  std::uint32_t value;
  std::uint32_t times;

  static std::uint32_t plan(std::span<write_slowly> members, const machine_shape&) {
    return static_cast<std::uint32_t>(members.size());
  }
  coalescing_key key() const { return {{count, 0, 0, 0}}; }
  std::uint32_t rows() const { return 1; }
  op_cost cost() const { return {.flops = std::uint64_t{count} * times, .bytes = 0}; }
  template <class Context>
  static void run(Context&, const write_slowly* members, std::uint32_t, std::uint32_t tile) {
    const write_slowly& one = members[tile];
    for (std::uint32_t k = 0; k < one.times; ++k) {
      for (std::uint32_t i = 0; i < one.count; ++i) {
        // relaxed: completion orders it; an access of its own for each, so that none is left out
        std::atomic_ref(one.to[i]).store(one.value, std::memory_order_relaxed);
      }
    }
  }
};

using kernels = op_set<write_slowly>;
using gpu_type = executor<kernels, boost::asio::thread_pool::executor_type>;
using backend_type = host_backend<kernels>;

struct counts {
  std::atomic<std::uint64_t> ended = 0;
  std::atomic<std::uint64_t> succeeded = 0;
  std::atomic<std::uint64_t> cancelled = 0;
  std::atomic<std::uint64_t> timed_out = 0;
  std::atomic<std::uint64_t> dropped = 0;
  std::atomic<std::uint64_t> wrong = 0;
};

/// What the canceller may stop.
class stops {
public:
  std::stop_token renew(std::size_t slot) {
    std::lock_guard lock(mutex_);
    return (all_[slot] = std::stop_source()).get_token();
  }
  void stop(std::size_t slot) {
    std::stop_source one(std::nostopstate);
    {
      std::lock_guard lock(mutex_);
      one = all_[slot];
    }
    one.request_stop();
  }
  static constexpr std::size_t size = 32;

private:
  std::mutex mutex_;
  std::array<std::stop_source, size> all_;
};

task<error_code> request(gpu_type::tenant_type who, std::uint32_t count, std::uint32_t value, std::uint32_t times,
                         std::uint64_t& wrong) {
  auto out = make_pinned_buffer<std::uint32_t>(who.executor().device(), count);
  for (std::uint32_t& each : out) each = 0;
  const error_code ec = co_await who.try_submit(write_slowly{out.data(), count, value, times});
  if (ec.failed()) co_return ec;
  for (const std::uint32_t each : out) wrong += each != value;
  co_return ec;
}

task<> client(gpu_type::tenant_type who, std::size_t slot, stops& all, counts& seen, time_point end) {
  std::mt19937 dice(static_cast<unsigned>(slot));
  for (std::uint32_t i = 0; clock::now() < end; ++i) {
    std::uint64_t wrong = 0;
    const auto value = static_cast<std::uint32_t>(slot << 24 | i);
    auto work = request(who, 64 << dice() % 3, value, 1 + dice() % 64, wrong);
    if (dice() % 3 == 0) work = with_timeout(std::move(work), std::chrono::microseconds(dice() % 300));
    const error_code ec = co_await with_stop_token(std::move(work), all.renew(slot));
    // relaxed, all: read after drain, or only to be shown
    seen.ended.fetch_add(1, std::memory_order_relaxed);
    if (!ec.failed()) seen.succeeded.fetch_add(1, std::memory_order_relaxed);
    if (ec == errc::cancelled) seen.cancelled.fetch_add(1, std::memory_order_relaxed);
    if (ec == errc::timed_out) seen.timed_out.fetch_add(1, std::memory_order_relaxed);
    if (ec == errc::dropped || ec == errc::deadline_unreachable) seen.dropped.fetch_add(1, std::memory_order_relaxed);
    seen.wrong.fetch_add(wrong, std::memory_order_relaxed);
  }
}

}  // namespace

TEST_CASE("buffers of coroutines that are cancelled or time out on the device are nobody else's, and all come back") {
  counts seen;
  stops all;
  std::atomic<std::size_t> clients = 0;
  boost::asio::thread_pool pool(2);
  {
    auto owned = std::make_unique<backend_type>(
        host_options{.workers = 2, .device_bytes = 1 << 16, .pinned_bytes = std::size_t{1} << 20});
    backend_type& device = *owned;
    gpu_type gpu(pool, std::move(owned));
    const auto strict = gpu.make_tenant({.name = "strict", .latency_target = 2ms, .when_late = late_work::drop});
    const time_point end = clock::now() + 700ms;
    for (std::size_t slot = 0; slot < stops::size; ++slot) {
      clients.fetch_add(1, std::memory_order_relaxed);  // relaxed: the end of each client releases
      detail::start(client(slot % 4 == 0 ? strict : gpu.default_tenant(), slot, all, seen, end), {},
                    [&](std::exception_ptr failed) {
                      if (failed) seen.wrong.fetch_add(1, std::memory_order_relaxed);  // relaxed: as below
                      clients.fetch_sub(1, std::memory_order_release);  // release: pairs with the wait below
                    });
    }
    std::mt19937 dice(7);
    while (clock::now() < end) {
      all.stop(dice() % stops::size);
      std::this_thread::sleep_for(50us);
    }
    while (clients.load(std::memory_order_acquire) != 0) std::this_thread::yield();  // acquire: see above
    gpu.drain();
    CHECK(device.memory(memory_kind::pinned).blocks_in_use == 0);
    const scheduler_statistics sum = gpu.statistics();
    CHECK(sum.fused > 0);
    CHECK(sum.orphaned > 0);
    const tenant_statistics one = gpu.statistics_of(0), other = strict.statistics();
    // What is stopped before the executor looked at it was never the scheduler's.
    CHECK(one.submitted + other.submitted <= seen.ended);
    CHECK(one.completed + other.completed == seen.succeeded);
    CHECK(one.cancelled + other.cancelled <= seen.cancelled);
  }
  pool.join();
  CHECK(seen.wrong == 0);
  CHECK(seen.succeeded > 0);
  CHECK(seen.cancelled > 0);
  CHECK(seen.timed_out > 0);
  CHECK(seen.succeeded + seen.cancelled + seen.timed_out + seen.dropped == seen.ended);
}
