// The CUDA backend on a device, by the packet: the same packets as the protocol's test on host threads, and what only a
// device can show. COHORT_CUDA_MODE=resident (default) or bounded chooses how the superkernel lives; both must pass.
#include <doctest/doctest.h>

#include <cohort/backend/automatic.hpp>
#include <cohort/backend/cuda.cuh>
#include <cohort/error.hpp>
#include <cohort/op.hpp>

#include "support/cuda_test_options.hpp"
#include "support/protocol_packets.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

namespace cohort_backend_gpu_test {

using namespace std::chrono_literals;
using cohort::testing::add_op;
using cohort::testing::fused_op;
using cohort::testing::outcome;
using cohort::testing::wide_op;
using clock = std::chrono::steady_clock;

/// Writes the multiprocessor of each tile.
struct alignas(16) place_op {
  static constexpr const char* name = "place";
  std::uint32_t* out;
  std::uint32_t count;
  std::uint32_t unused = 0;

  std::uint32_t tiles() const { return count; }
  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    std::uint32_t id = 0;
#if COHORT_DEVICE_PASS
    asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
#endif
    if (context.rank() == 0) out[tile] = id + 1;
  }
};

/// Keeps its block busy.
struct alignas(16) spin_op {
  static constexpr const char* name = "spin";
  std::uint32_t* out;
  std::uint64_t nanoseconds;

  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t) const {
#if COHORT_DEVICE_PASS
    std::uint64_t begin;
    std::uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
      asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < nanoseconds);
#endif
    if (context.rank() == 0) *out = 1;
  }
};

struct alignas(16) trap_op {
  static constexpr const char* name = "trap";
  std::uint64_t unused[2] = {};

  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const {
#if COHORT_DEVICE_PASS
    asm volatile("trap;");
#endif
  }
};

/// Reads what another op wrote in device memory, writes where the host can read.
struct alignas(16) move_op {
  static constexpr const char* name = "move";
  std::uint32_t* out;
  const std::uint32_t* in;
  std::uint32_t size;
  std::uint32_t add = 0;
  std::uint64_t unused = 0;

  std::uint32_t tiles() const { return (size + 255) / 256; }
  template <class Context>
  COHORT_HD
  void run(Context& context, std::uint32_t tile) const {
    for (std::uint32_t i = context.rank(); i < 256; i += context.size()) {
      if (const std::uint32_t at = tile * 256 + i; at < size) out[at] = in[at] + add;
    }
  }
};

using ops = cohort::op_set<add_op, fused_op, wide_op, place_op, spin_op, trap_op, move_op>;
using cuda_backend = cohort::cuda_backend<ops>;

cohort::cuda_options options() { return cohort::testing::cuda_test_options(std::size_t{64} << 20); }

bool bounded() { return options().mode == cohort::cuda_mode::bounded; }

cohort::testing::word_memory pinned_words(cohort::backend& owner) {
  return {.allocate =
              [](void* self, std::size_t words) {
                return static_cast<std::uint32_t*>(static_cast<cohort::backend*>(self)->allocate(
                    cohort::memory_kind::pinned, words * sizeof(std::uint32_t), 256));
              },
          .release =
              [](void* self, std::uint32_t* words) {
                static_cast<cohort::backend*>(self)->deallocate(cohort::memory_kind::pinned, words);
              },
          .argument = &owner};
}

/// A backend and a ledger of what completed. Every wait is bounded: a test that hangs fails.
struct bench {
  explicit bench(const cohort::cuda_options& chosen = options()) : device(chosen), source(pinned_words(device)) {}

  std::uint32_t* words(std::size_t count) {
    auto* const data = pinned_words(device).allocate(&device, count);
    REQUIRE(data != nullptr);
    std::memset(data, 0, count * sizeof *data);
    return data;
  }

  void commit(std::span<const std::byte> packet) {
    const clock::time_point end = clock::now() + 60s;
    while (!device.has_room()) {
      poll();
      REQUIRE(clock::now() < end);
    }
    const cohort::error_code failed = device.commit(packet);
    REQUIRE_MESSAGE(!failed, failed.message());
    ++committed;
  }

  void poll() {
    std::array<cohort::packet_completion, 3> out;
    const std::size_t count = device.poll(out);
    for (std::size_t i = 0; i < count; ++i) {
      CHECK(seen.insert(out[i].sequence).second);
      if (out[i].result) {
        CHECK(out[i].result == cohort::errc::device_lost);
        ++lost;
        continue;
      }
      if (source.check(out[i].sequence) != outcome::done) {
        FAIL_CHECK("packet " << out[i].sequence << " reported as complete is not");
      }
      source.forget(out[i].sequence);
    }
  }

  void drain() {
    const clock::time_point end = clock::now() + 60s;
    while (seen.size() < committed) {
      poll();
      REQUIRE_MESSAGE(clock::now() < end, "packets in flight: " << committed - seen.size());
    }
  }

  cuda_backend device;
  cohort::testing::packet_source<ops> source;
  std::set<std::uint32_t> seen;
  std::size_t committed = 0;
  std::uint32_t lost = 0;
};

TEST_CASE("every tile of random packets runs once and every packet completes once") {
  bench b;
  CHECK(b.device.shape().workers > 0);
  CHECK_FALSE(b.device.shape().host);
  std::mt19937 random(1);
  const int packets = bounded() ? 3000 : 100000;
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
  for (int round = 0; round < 50; ++round) {
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
  for (std::uint32_t round = 0; round < 300; ++round) {
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

TEST_CASE("a residency that lingers out comes back, also when the doorbell rings while it leaves") {
  std::mt19937 random(5);
  for (const auto linger : {0us, 5us, 50us, 1000us}) {
    cohort::cuda_options chosen = options();
    chosen.linger = linger;
    bench b(chosen);
    for (int i = 0; i < 500; ++i) {
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
  for (int round = 0; round < 20; ++round) {
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
  for (int i = 0; i < 20; ++i) {
    first.commit(first.source.one(3));
    first.drain();
    second.commit(second.source.one(3));
    second.drain();
  }
}

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

// ---- in processes of their own ----

/// This program again, with one test case that is skipped otherwise. A process that has used CUDA cannot fork a user.
struct child {
  explicit child(const char* test_case) {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    const std::string filter = std::string("-tc=") + test_case;
    pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      dup2(ends[1], STDOUT_FILENO);
      execl("/proc/self/exe", "child", filter.c_str(), "-ns", static_cast<char*>(nullptr));
      _exit(126);
    }
    close(ends[1]);
    output = ends[0];
  }

  ~child() { close(output); }

  /// Reads what the child prints until `word` comes or it ends.
  bool says(const std::string& word) {
    std::string text;
    char piece[256];
    while (text.find(word) == std::string::npos) {
      const ssize_t got = read(output, piece, sizeof piece);
      if (got <= 0) return false;
      text.append(piece, static_cast<std::size_t>(got));
    }
    return true;
  }

  /// Status as waitpid gives it, or -1 (and the child is killed) when it does not end in time.
  int wait(std::chrono::seconds limit) const {
    int status = 0;
    for (const clock::time_point end = clock::now() + limit; clock::now() < end;) {
      if (waitpid(pid, &status, WNOHANG) == pid) return status;
      std::this_thread::sleep_for(5ms);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return -1;
  }

  pid_t pid = -1;
  int output = -1;
};

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
  child process("child: an op that traps");
  CHECK(process.says("SUCCESS"));
  CHECK(process.wait(60s) == 0);
  bench b;  // this process is not concerned
  b.commit(b.source.one());
  b.drain();
}

TEST_CASE("child: work until a signal comes" * doctest::skip()) {
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
  child process("child: work until a signal comes");
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
