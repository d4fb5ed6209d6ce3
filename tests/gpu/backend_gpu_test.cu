// The CUDA backend on a device, by the packet: the same packets as the protocol's test on host threads, and what only a
// device can show. COHORT_CUDA_MODE=resident (default) or bounded chooses how the superkernel lives; both must pass.
#include <doctest/doctest.h>

#include <cohort/backend/automatic.hpp>
#include <cohort/backend/cuda.cuh>
#include <cohort/error.hpp>

#include "support/cuda_packets.cuh"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace cohort_backend_gpu_test {

TEST_CASE("every tile of random packets runs once and every packet completes once") {
  bench b;
  CHECK(b.device.shape().workers > 0);
  CHECK_FALSE(b.device.shape().host);
  std::mt19937 random(1);
  const int packets = rounds(bounded() ? 3000 : 100000);
  for (int i = 0; i < packets; ++i) {
    b.commit(b.source.random(random));
    if (random() % 3 == 0) b.poll();
    if (random() % 512 == 0) b.drain();
  }
  b.drain();
  CHECK(b.lost == 0);
  MESSAGE("workers: " << b.device.shape().workers);
}

TEST_CASE("the largest packets arrive whole") {
  bench b;
  for (int round = 0; round < rounds(50); ++round) {
    b.source.begin();
    while (b.source.room_for(sizeof(add_op))) b.source.add<add_op>(1);
    b.commit(b.source.finish());
    b.source.begin();
    b.source.add<wide_op>(2);
    while (b.source.room_for(sizeof(wide_op))) b.source.add<wide_op>(1);
    b.commit(b.source.finish());
  }
  b.drain();
}

TEST_CASE("what one packet writes in device memory the next one reads, and the host in pinned memory") {
  bench b;
  constexpr std::uint32_t size = 100000;
  std::uint32_t* const in = b.words(size);
  std::uint32_t* const out = b.words(size);
  auto* const middle = static_cast<std::uint32_t*>(b.device.allocate(cohort::memory_kind::device, size * 4, 256));
  REQUIRE(middle != nullptr);
  for (std::uint32_t round = 0; round < static_cast<std::uint32_t>(rounds(300)); ++round) {
    for (std::uint32_t i = 0; i < size; i += 97) in[i] = round * 3 + i;
    b.commit(b.source.single(move_op{middle, in, size, 1}));
    b.drain();
    b.commit(b.source.single(move_op{out, middle, size, 1}));
    b.drain();
    bool equal = true;
    for (std::uint32_t i = 0; i < size; i += 97) equal = equal && out[i] == round * 3 + i + 2;
    REQUIRE(equal);
  }
  b.device.deallocate(cohort::memory_kind::device, middle);
}

TEST_CASE("results that stay on the device are there for a copy that begins when the packet has completed") {
  cohort::cuda_options promised = options();
  promised.results_stay_on_device = true;
  bench b(promised);
  constexpr std::uint32_t size = 50000;
  std::uint32_t* const in = b.words(size);
  std::uint32_t* const seen = b.words(size);
  auto* const out = static_cast<std::uint32_t*>(b.device.allocate(cohort::memory_kind::device, size * 4, 256));
  REQUIRE(out != nullptr);
  cudaStream_t beside = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking) == cudaSuccess);
  for (std::uint32_t round = 0; round < static_cast<std::uint32_t>(rounds(500)); ++round) {
    // One tile, and many: the end of the one is told by whoever ran it, that of the others by whoever counts last.
    const std::uint32_t length = round % 2 == 0 ? 256 : size;
    for (std::uint32_t i = 0; i < length; i += 13) in[i] = round * 5 + i;
    b.commit(b.source.single(move_op{out, in, length, 1}));
    b.drain();
    REQUIRE(cudaMemcpyAsync(seen, out, length * 4, cudaMemcpyDeviceToHost, beside) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(beside) == cudaSuccess);
    bool equal = true;
    for (std::uint32_t i = 0; i < length; i += 13) equal = equal && seen[i] == round * 5 + i + 1;
    REQUIRE(equal);
  }
  CHECK(cudaStreamDestroy(beside) == cudaSuccess);
  b.device.deallocate(cohort::memory_kind::device, out);
}

TEST_CASE("what one packet writes the next one reads, without the host in between, where it comes after it") {
  bench b;
  constexpr std::uint32_t sizes[] = {200, 5000, 100000};  // one block, some, and nearly all
  constexpr std::uint32_t steps = 20;
  for (std::uint32_t round = 0; round < static_cast<std::uint32_t>(rounds(100)); ++round) {
    struct line {
      std::uint32_t* in;
      std::uint32_t* middle[2];
      std::uint32_t* out;
      std::uint32_t newest = 0;
    };
    std::vector<line> lines;
    for (const std::uint32_t size : sizes) {
      line& one = lines.emplace_back();
      one.in = b.words(size);
      one.out = b.words(size);
      for (auto& each : one.middle) {
        each = static_cast<std::uint32_t*>(b.device.allocate(cohort::memory_kind::device, size * 4, 256));
        REQUIRE(each != nullptr);
      }
      for (std::uint32_t i = 0; i < size; ++i) one.in[i] = round + i;
    }
    for (std::uint32_t step = 0; step < steps; ++step) {
      for (std::size_t i = 0; i < lines.size(); ++i) {
        line& one = lines[i];
        const std::uint32_t* const from = step == 0 ? one.in : one.middle[step % 2];
        std::uint32_t* const to = step + 1 == steps ? one.out : one.middle[(step + 1) % 2];
        b.source.begin();
        b.source.append(move_op{to, from, sizes[i], 1});
        if (step > 0) b.source.come_after(1u << (b.source.last() - one.newest - 1));
        one.newest = b.source.last();
        b.commit(b.source.finish(cohort::packet_is_followed));
      }
    }
    b.drain();
    for (std::size_t i = 0; i < lines.size(); ++i) {
      bool equal = true;
      for (std::uint32_t j = 0; j < sizes[i]; ++j) equal = equal && lines[i].out[j] == round + j + steps;
      REQUIRE(equal);
      const cohort::testing::word_memory pinned = pinned_words(b.device);
      pinned.release(pinned.argument, lines[i].in);
      pinned.release(pinned.argument, lines[i].out);
      for (auto* each : lines[i].middle) b.device.deallocate(cohort::memory_kind::device, each);
    }
  }
}

TEST_CASE("a residency that lingers out comes back, also when the doorbell rings while it leaves") {
  std::mt19937 random(5);
  for (const auto linger : {0us, 5us, 50us, 1000us}) {
    cohort::cuda_options chosen = options();
    chosen.linger = linger;
    bench b(chosen);
    for (int i = 0; i < rounds(500); ++i) {
      b.commit(b.source.random(random));
      if (random() % 2 == 0) b.drain();
      const clock::time_point until = clock::now() + std::chrono::microseconds(random() % 120);
      while (clock::now() < until) {
      }
    }
    b.drain();
    CHECK(b.lost == 0);
  }
}

TEST_CASE("an idle backend leaves the device after its linger time") {
  bench b;
  b.commit(b.source.one());
  b.drain();
  std::this_thread::sleep_for(20ms);
  const clock::time_point begin = clock::now();
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(clock::now() - begin < 1s);
  b.commit(b.source.one());
  b.drain();
}

TEST_CASE("pause completes what was committed and leaves the device to any use; the next commit resumes") {
  cohort::cuda_options chosen = options();
  chosen.linger = 30s;
  bench b(chosen);
  std::mt19937 random(9);
  for (int round = 0; round < rounds(20); ++round) {
    for (int i = 0; i < 1 + round % 7; ++i) b.commit(b.source.random(random));
    REQUIRE_FALSE(b.device.pause());
    void* memory = nullptr;
    REQUIRE(cudaMalloc(&memory, 1 << 20) == cudaSuccess);
    REQUIRE(cudaMemset(memory, round, 1 << 20) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(cudaFree(memory) == cudaSuccess);
    b.drain();
  }
  REQUIRE_FALSE(b.device.pause());
}

TEST_CASE("a destructor does not wait for the linger time") {
  cohort::cuda_options chosen = options();
  chosen.linger = 60s;
  const clock::time_point begin = clock::now();
  {
    bench b(chosen);
    b.commit(b.source.one());
    b.drain();
  }
  CHECK(clock::now() - begin < 20s);
}

std::set<std::uint32_t> places(const std::uint32_t* words, std::uint32_t count) {
  std::set<std::uint32_t> all(words, words + count);
  CHECK(all.count(0) == 0);
  return all;
}

TEST_CASE("the tiles of small packets, and small packets in a row, land on different multiprocessors") {
  bench b;
  int multiprocessors = 0;
  REQUIRE(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess);
  const auto some = static_cast<std::uint32_t>(std::min(multiprocessors, 16));
  std::uint32_t* const out = b.words(some);
  b.commit(b.source.single(place_op{out, some}));
  b.drain();
  CHECK(places(out, some).size() == some);

  std::uint32_t* const single = b.words(4);
  for (std::uint32_t i = 0; i < 4; ++i) b.commit(b.source.single(place_op{single + i, 1}));
  b.drain();
  CHECK(places(single, 4).size() == std::min<std::size_t>(4, some));
}

TEST_CASE("no more multiprocessors than the budget are used, and another kernel runs beside") {
  int multiprocessors = 0;
  REQUIRE(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess);
  cohort::cuda_options chosen = options();
  chosen.sm_budget = static_cast<std::uint32_t>(std::max(2, multiprocessors / 4));
  chosen.linger = 30s;
  bench b(chosen);
  constexpr std::uint32_t tiles = 4096;
  std::uint32_t* const out = b.words(tiles);
  b.commit(b.source.single(place_op{out, tiles}));
  b.drain();
  CHECK(places(out, tiles).size() == chosen.sm_budget);

  // cudaMemsetAsync is a kernel that is loaded already; it must not wait for the resident one.
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  auto* const memory = b.device.allocate(cohort::memory_kind::device, 1 << 20, 256);
  REQUIRE(cudaMemsetAsync(memory, 1, 1 << 20, stream) == cudaSuccess);
  const clock::time_point end = clock::now() + 10s;
  while (cudaStreamQuery(stream) == cudaErrorNotReady && clock::now() < end) std::this_thread::sleep_for(1ms);
  CHECK(cudaStreamQuery(stream) == cudaSuccess);
  b.device.deallocate(cohort::memory_kind::device, memory);
  REQUIRE_FALSE(b.device.pause());
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("two backends take turns on one device") {
  cohort::cuda_options chosen = options();
  chosen.linger = 200us;
  bench first(chosen);
  bench second(chosen);
  for (int i = 0; i < rounds(20); ++i) {
    first.commit(first.source.one(3));
    first.drain();
    second.commit(second.source.one(3));
    second.drain();
  }
}

TEST_CASE("arenas are as large as asked and give null when they are used up") {
  cohort::cuda_options chosen = options();
  chosen.device_bytes = 1 << 20;
  chosen.pinned_bytes = 1 << 20;
  cuda_backend device(chosen);
  for (const auto kind : {cohort::memory_kind::device, cohort::memory_kind::pinned}) {
    void* const all = device.allocate(kind, 1 << 20, 256);
    CHECK(all != nullptr);
    CHECK(device.allocate(kind, 1, 1) == nullptr);
    device.deallocate(kind, all);
    CHECK(device.memory(kind).in_use == 0);
  }
}

TEST_CASE("automatic_backend finds the device unless the environment says otherwise") {
  cohort::backend_options both;
  both.cuda = options();
  both.host.device_bytes = both.host.pinned_bytes = 1 << 20;
  REQUIRE(cohort::find_cuda_device());
  REQUIRE(unsetenv("COHORT_BACKEND") == 0);
  CHECK(std::string(cohort::automatic_backend<ops>(both)->name()) == "cuda");
  REQUIRE(setenv("COHORT_BACKEND", "host", 1) == 0);
  CHECK(std::string(cohort::automatic_backend<ops>(both)->name()) == "host");
  REQUIRE(setenv("COHORT_BACKEND", "cpu", 1) == 0);
  CHECK_THROWS_AS(cohort::automatic_backend<ops>(both), cohort::system_error);
  REQUIRE(unsetenv("COHORT_BACKEND") == 0);
}

}  // namespace cohort_backend_gpu_test
