// A server's loop: asio::awaitable coroutines, a timer and kernel submissions in one io_context. Requests arrive by a
// timer, as they would from sockets; each is a coroutine that awaits two layers of a small network.
#include "kernels.hpp"

#include <cohort/executor.hpp>
#include <cohort/memory.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <chrono>
#include <cstdio>
#include <exception>

namespace asio = boost::asio;
using namespace std::chrono_literals;
using gpu_executor = cohort::executor<kernels>;

namespace {

constexpr std::size_t width = 256;
constexpr int requests = 200;

struct network {
  explicit network(cohort::backend& device)
      : w1(cohort::make_pinned_buffer<float>(device, width * width)),
        w2(cohort::make_pinned_buffer<float>(device, width * width)),
        first{w1.view(), {}, width, width, cohort::ops::activation::relu},
        second{w2.view(), {}, width, width} {
    for (std::size_t i = 0; i < width; ++i) {
      for (std::size_t k = 0; k < width; ++k) w1[i * width + k] = w2[i * width + k] = i == k ? 1.0f : 0.0f;
    }
  }

  cohort::pinned_buffer<float> w1, w2;
  cohort::ops::linear_layer<float> first, second;
};

asio::awaitable<void> answer(gpu_executor& gpu, const network& net, int id, int& answered) {
  auto x = cohort::make_pinned_buffer<float>(gpu.device(), width);
  auto hidden = cohort::make_pinned_buffer<float>(gpu.device(), width);
  auto y = cohort::make_pinned_buffer<float>(gpu.device(), width);
  for (auto& value : x) value = static_cast<float>(id);
  co_await gpu.async_submit(net.first(x.view(), hidden.view()), asio::use_awaitable);
  co_await gpu.async_submit(net.second(hidden.view(), y.view()), asio::use_awaitable);
  if (y[0] == static_cast<float>(id)) ++answered;  // the weights are the identity
}

asio::awaitable<void> accept_requests(gpu_executor& gpu, const network& net, int& answered) {
  const auto executor = co_await asio::this_coro::executor;
  asio::steady_timer next(executor);
  for (int id = 0; id < requests; ++id) {
    asio::co_spawn(executor, answer(gpu, net, id, answered), asio::detached);
    if (id % 10 == 9) {  // they come in bursts
      next.expires_after(1ms);
      co_await next.async_wait(asio::use_awaitable);
    }
  }
}

}  // namespace

int main() {
  asio::io_context io;
  gpu_executor gpu(io, make_backend());  // its poller thread posts completions to io
  const network net(gpu.device());
  int answered = 0;
  asio::co_spawn(io, accept_requests(gpu, net, answered), asio::detached);
  io.run();
  const auto counted = gpu.statistics();
  std::printf("%s: %d of %d requests answered, %llu submissions in %llu packets\n", gpu.device().name(), answered,
              requests, static_cast<unsigned long long>(counted.committed),
              static_cast<unsigned long long>(counted.packets));
  return answered == requests ? 0 : 1;
}
