// What goes wrong with a device, or is asked of it wrongly: a clear error for every waiter, and nothing hangs.
#include <doctest/doctest.h>

#include <cohort/backend/cuda.cuh>
#include <cohort/error.hpp>

#include "support/child_process.hpp"
#include "support/cuda_packets.cuh"

#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <thread>

namespace cohort_backend_gpu_test {

using cohort::testing::child_process;

TEST_CASE("a packet that takes longer than the time limit loses the device, and the host does not hang") {
  cohort::cuda_options chosen = options();
  chosen.time_limit = 300ms;
  bench b(chosen);
  std::uint32_t* const flag = b.words(1);
  const clock::time_point begin = clock::now();
  b.commit(b.source.single(spin_op{flag, 900'000'000}));
  b.drain();
  CHECK(b.lost == 1);
  CHECK(clock::now() - begin < 3s);
  CHECK(b.device.last_error());
  CHECK_FALSE(b.device.has_room());
  CHECK(b.device.commit(b.source.one()) == cohort::errc::device_lost);
  std::this_thread::sleep_for(1s);  // the tile does end: the destructor finds the device free
}

TEST_CASE("malformed packets are refused and change nothing") {
  bench b;
  alignas(16) std::array<std::byte, 64> packet{};
  CHECK(b.device.commit(packet) == cohort::errc::bad_size);
  CHECK(b.device.commit(std::span(packet).subspan(8)) == cohort::errc::misaligned);
  b.commit(b.source.one());
  b.drain();
}

TEST_CASE("the constructor says what is wrong") {
  cohort::cuda_options chosen = options();
  chosen.device = 1000;
  try {
    cuda_backend device(chosen);
    FAIL("a device that does not exist was accepted");
  } catch (const cohort::system_error& error) {
    CHECK(error.code().category() == cohort::cuda_category());
    CHECK(error.code() == boost::system::errc::no_such_device);
    CHECK(std::string(error.what()).find("cuda_options::device") != std::string::npos);
  }
  for (const std::uint32_t packets : {0u, 33u}) {
    chosen = options();
    chosen.packets = packets;
    try {
      cuda_backend device(chosen);
      FAIL("a number of packets that the ring has not was accepted");
    } catch (const cohort::system_error& error) {
      CHECK(error.code() == cohort::errc::bad_size);
    }
  }
  chosen = options();
  chosen.device_bytes = std::size_t{1} << 50;
  try {
    cuda_backend device(chosen);
    FAIL("a petabyte was found");
  } catch (const cohort::system_error& error) {
    CHECK(error.code() == boost::system::errc::not_enough_memory);
  }
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("child: an op that traps" * doctest::skip()) {
  auto b = std::make_unique<bench>();
  b->commit(b->source.one());
  b->drain();
  b->commit(b->source.single(trap_op{}));
  b->commit(b->source.one());
  b->drain();
  // The trap takes its packet; the one beside it may have been first.
  CHECK(b->lost >= 1);
  CHECK(b->device.last_error());
  CHECK(b->device.last_error().category() == cohort::cuda_category());
  CHECK(b->device.commit(b->source.one()) == cohort::errc::device_lost);
  CHECK(b->device.pause() == cohort::errc::device_lost);
  b.reset();  // must not hang, though every CUDA call fails now
}

TEST_CASE("an op that traps loses the device: every packet completes once with an error, nothing hangs") {
  child_process process("child: an op that traps");
  CHECK(process.says("SUCCESS"));
  CHECK(process.wait(60s) == 0);
  bench b;  // this process is not concerned
  b.commit(b.source.one());
  b.drain();
}

TEST_CASE("child: work until a signal comes" * doctest::skip()) {
  // doctest's handler allocates, and would wait for ever for the allocator's lock when this thread holds it.
  std::signal(SIGINT, SIG_DFL);
  cohort::cuda_options chosen = options();
  chosen.linger = 30s;
  bench b(chosen);
  std::uint32_t* const flag = b.words(1);
  for (bool said = false;;) {
    b.commit(b.source.single(spin_op{flag, 2'000'000}));
    if (!said) {
      std::printf("working\n");
      std::fflush(stdout);
      said = true;
    }
  }
}

TEST_CASE("SIGINT with work in flight ends the process at once and leaves a usable device") {
  child_process process("child: work until a signal comes");
  REQUIRE(process.says("working"));
  std::this_thread::sleep_for(50ms);
  REQUIRE(kill(process.pid, SIGINT) == 0);
  const int status = process.wait(30s);
  CHECK(status != -1);
  CHECK_FALSE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  bench b;
  b.commit(b.source.one());
  b.drain();
}

}  // namespace cohort_backend_gpu_test
