// The host backend on its own: hand-made packets in, completions out.
#include <cohort/backend/host.hpp>
#include <cohort/schedule/packet_builder.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <mutex>
#include <random>
#include <span>
#include <thread>
#include <vector>

namespace {

using cohort::errc;
using cohort::error_code;
using cohort::packet_header;
using cohort::record_header;

/// Adds 1 to one cell for each tile: plain memory, so that a tile that runs twice or is not visible yet is seen, and a
/// race between two tiles is the thread sanitizer's to report.
struct mark {
  static constexpr const char* name = "mark";
  std::uint32_t* cells = nullptr;
  std::uint32_t count = 0;
  std::uint32_t tiles() const { return count; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t tile) const { cells[tile] += 1; }
};

/// A planned op with members: tile t works on cell t of each member, by way of scratch.
struct alignas(16) gather {
  static constexpr const char* name = "gather";
  static constexpr std::uint32_t host_scratch_bytes = 4096;
  std::uint32_t* cells = nullptr;
  std::uint32_t count = 0;
  std::uint32_t value = 0;
  std::uint64_t padding[4] = {};
  static std::uint32_t plan(std::span<gather> members, const cohort::machine_shape&) { return members[0].count; }
  template <class Context>
  COHORT_HD
  static void run(Context& context, const gather* members, std::uint32_t count, std::uint32_t tile) {
    auto* scratch = reinterpret_cast<std::uint32_t*>(context.scratch());
    for (std::uint32_t i = 0; i < 1024; ++i) scratch[i] = tile + i;  // a scratch that is shared does not survive this
    for (std::uint32_t member = 0; member < count; ++member)
      members[member].cells[tile] += members[member].value + scratch[1023] - 1023 - tile;
  }
};

/// Opened once; whoever waits goes on from then.
class gate {
public:
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

/// Holds its worker until it is let go.
struct block_until {
  static constexpr const char* name = "block_until";
  gate* started = nullptr;
  gate* let_go = nullptr;
  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const {
#if !COHORT_DEVICE_PASS
    started->open();
    let_go->wait();
#endif
  }
};

/// Opens when as many threads as expected wait for it.
class crowd {
public:
  explicit crowd(std::uint32_t expected) : missing_(expected) {}
  void meet() {
    std::unique_lock lock(mutex_);
    if (--missing_ == 0) met_.notify_all();
    met_.wait(lock, [this] { return missing_ == 0; });
  }

private:
  std::mutex mutex_;
  std::condition_variable met_;
  std::uint32_t missing_;
};

/// Tiles that wait for each other: it ends only when as many workers run at once.
struct meeting {
  static constexpr const char* name = "meeting";
  crowd* where = nullptr;
  std::uint32_t count = 0;
  std::uint32_t tiles() const { return count; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const {
#if !COHORT_DEVICE_PASS
    where->meet();
#endif
  }
};

/// Says on which thread it ran.
struct who {
  static constexpr const char* name = "who";
  std::thread::id* thread = nullptr;
  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const {
#if !COHORT_DEVICE_PASS
    *thread = std::this_thread::get_id();
#endif
  }
};

using kernels = cohort::op_set<mark, gather, block_until, meeting, who>;
using backend_type = cohort::host_backend<kernels>;

cohort::host_options with_workers(unsigned workers) {
  return {.workers = workers, .device_bytes = 1 << 20, .pinned_bytes = 1 << 20};
}

/// Builds packets in a storage of its own.
class packet {
public:
  packet() : storage_(cohort::packet_capacity / sizeof(chunk)) { restart(0); }

  void restart(std::uint32_t sequence) { builder_.begin(std::as_writable_bytes(std::span(storage_)), sequence); }

  template <class Op>
  bool add(const std::vector<Op>& members) {
    const auto index = kernels::index_of<Op>;
    const auto& info = table[index];
    if (builder_.room(info.stride) < members.size()) return false;
    builder_.open(index, info.stride);
    for (const Op& each : members) builder_.append(&each, sizeof(Op));
    return builder_.close(info.plan(builder_.members(), static_cast<std::uint32_t>(members.size()), {}));
  }

  template <class Op>
  static packet of(std::uint32_t sequence, const Op& op) {
    packet made;
    made.restart(sequence);
    REQUIRE(made.add<Op>({op}));
    return made;
  }

  std::span<const std::byte> finish() { return builder_.finish(); }

private:
  struct alignas(16) chunk {
    std::byte bytes[16];
  };
  static constexpr auto table = kernels::table();
  std::vector<chunk> storage_;
  cohort::packet_builder builder_;
};

/// Lets the test thread sleep until the backend calls.
class bell {
public:
  explicit bell(cohort::backend& b) {
    b.on_completion([](void* self) { static_cast<bell*>(self)->ring(); }, this);
  }
  void ring() {
    std::lock_guard lock(mutex_);
    ++rung_;
    changed_.notify_all();
  }
  void wait_for(std::uint64_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return rung_ >= count; });
  }
  std::uint64_t rung() {
    std::lock_guard lock(mutex_);
    return rung_;
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t rung_ = 0;
};

std::vector<std::uint32_t> poll_all(cohort::backend& b, std::size_t at_once = 8) {
  std::vector<cohort::packet_completion> out(at_once);
  std::vector<std::uint32_t> sequences;
  while (const std::size_t count = b.poll(out)) {
    for (std::size_t i = 0; i < count; ++i) {
      CHECK(out[i].result == error_code{});
      sequences.push_back(out[i].sequence);
    }
  }
  std::sort(sequences.begin(), sequences.end());
  return sequences;
}

/// A packet of random records over cells of its own, and what the cells must hold afterwards.
struct random_work {
  packet built;
  std::vector<std::uint32_t> cells;
  std::vector<std::uint32_t> expected;

  random_work(std::mt19937& random, std::uint32_t sequence) {
    built.restart(sequence);
    cells.assign(4000, 0);
    expected.assign(cells.size(), 0);
    std::uint32_t next = 0;
    const auto take = [&](std::uint32_t count, std::uint32_t value) {
      std::fill_n(expected.begin() + next, count, value);
      next += count;
      return cells.data() + (next - count);
    };
    const bool uniform = random() % 3 == 0;
    const std::uint32_t records = 1 + random() % (random() % 4 == 0 ? 60 : 6);
    const std::uint32_t equal = 1 + random() % 8;
    for (std::uint32_t r = 0; r < records && next + 400 < cells.size(); ++r) {
      const std::uint32_t tiles = uniform ? equal : 1 + random() % (random() % 8 == 0 ? 90 : 5);
      if (uniform || random() % 2 == 0) {
        REQUIRE(built.add<mark>({{.cells = take(tiles, 1), .count = tiles}}));
      } else {
        std::vector<gather> members;
        for (std::uint32_t member = 0; member <= random() % 3; ++member) {
          const std::uint32_t value = 1 + random() % 100;
          members.push_back({.cells = take(tiles, value), .count = tiles, .value = value});
        }
        REQUIRE(built.add<gather>(members));
      }
    }
  }
};

}  // namespace

TEST_CASE("each tile of random packets runs once, and its output is there when the completion is") {
  for (const unsigned workers : {0u, 1u, 2u, 4u}) {
    for (const auto spin : {std::chrono::nanoseconds(0), std::chrono::nanoseconds(20'000)}) {
      CAPTURE(workers);
      CAPTURE(spin.count());
      auto options = with_workers(workers);
      options.spin = spin;
      backend_type backend(options);
      bell completions(backend);
      std::mt19937 random(workers + 1);
      std::vector<random_work> work;
      work.reserve(8);
      for (std::uint32_t i = 0; i < 8; ++i) work.emplace_back(random, 0);
      std::uint64_t done = 0;
      for (std::uint32_t sequence = 1; sequence <= 300;) {
        const std::uint32_t first = sequence;
        for (const std::uint32_t burst = 1 + random() % 4; sequence < first + burst; ++sequence) {
          auto& item = work[sequence % work.size()];
          item = random_work(random, sequence);
          REQUIRE(backend.has_room());
          REQUIRE(backend.commit(item.built.finish()) == error_code{});
        }
        // Either the owner looks all the time, or it sleeps until it is told: completions must be good for both.
        std::uint32_t completed = 0;
        const bool sleeps = workers != 0 && random() % 2 == 0;
        while (completed < sequence - first) {
          if (sleeps) completions.wait_for(sequence - 1);
          std::array<cohort::packet_completion, 2> out{};
          const std::size_t count = backend.poll(out);
          for (std::size_t i = 0; i < count; ++i) {
            const auto& item = work[out[i].sequence % work.size()];
            REQUIRE(out[i].sequence >= first);
            REQUIRE(out[i].sequence < sequence);
            REQUIRE(out[i].result == error_code{});
            REQUIRE(item.cells == item.expected);
          }
          completed += static_cast<std::uint32_t>(count);
          if (count == 0) std::this_thread::yield();
        }
        done += completed;
      }
      REQUIRE(backend.pause() == error_code{});
      CHECK(poll_all(backend).empty());
      CHECK(completions.rung() == (workers == 0 ? 0 : done));
    }
  }
}

TEST_CASE("destroying the backend completes what was committed") {
  for (const unsigned workers : {0u, 1u, 2u, 4u}) {
    CAPTURE(workers);
    std::mt19937 random(workers);
    for (int repetition = 0; repetition < 20; ++repetition) {
      std::vector<random_work> work;
      {
        backend_type backend(with_workers(workers));
        for (std::uint32_t sequence = 1; sequence <= 4; ++sequence) work.emplace_back(random, sequence);
        for (auto& each : work) REQUIRE(backend.commit(each.built.finish()) == error_code{});
      }
      for (const auto& each : work) REQUIRE(each.cells == each.expected);
    }
  }
}

TEST_CASE("after pause nothing runs, nothing is announced, and completions wait to be polled") {
  for (const unsigned workers : {0u, 1u, 2u, 4u}) {
    CAPTURE(workers);
    backend_type backend(with_workers(workers));
    bell completions(backend);
    std::mt19937 random(workers);
    REQUIRE(backend.pause() == error_code{});
    for (std::uint32_t round = 0; round < 50; ++round) {
      std::vector<random_work> work;
      for (std::uint32_t i = 1; i <= 4; ++i) work.emplace_back(random, 4 * round + i);
      for (auto& each : work) REQUIRE(backend.commit(each.built.finish()) == error_code{});
      REQUIRE(backend.pause() == error_code{});
      CHECK(completions.rung() == (workers == 0 ? 0 : 4 * (round + 1)));
      CHECK_FALSE(backend.has_room());
      CHECK(poll_all(backend, 3) ==
            std::vector<std::uint32_t>{4 * round + 1, 4 * round + 2, 4 * round + 3, 4 * round + 4});
      for (const auto& each : work) REQUIRE(each.cells == each.expected);
    }
  }
}

TEST_CASE("a full backend refuses a packet, and takes it once a completion was polled") {
  for (const unsigned workers : {0u, 2u}) {
    CAPTURE(workers);
    backend_type backend(with_workers(workers));
    bell completions(backend);
    std::vector<std::uint32_t> cells(1, 0);
    const auto limit = backend.rates().max_packets;
    CHECK(limit == 4);
    for (std::uint32_t sequence = 1; sequence <= limit; ++sequence) {
      CHECK(backend.has_room());
      REQUIRE(backend.commit(packet::of(sequence, mark{.cells = cells.data(), .count = 1}).finish()) == error_code{});
      if (workers != 0) completions.wait_for(sequence);
    }
    auto one_more = packet::of(limit + 1, mark{.cells = cells.data(), .count = 1});
    const auto bytes = one_more.finish();
    CHECK_FALSE(backend.has_room());
    CHECK(backend.commit(bytes) == errc::queue_full);
    std::array<cohort::packet_completion, 1> out{};
    REQUIRE(backend.poll(out) == 1);
    CHECK(backend.has_room());
    CHECK(backend.commit(bytes) == error_code{});
    REQUIRE(backend.pause() == error_code{});
    CHECK(cells[0] == limit + 1);
    CHECK(poll_all(backend).size() == limit);
    CHECK(backend.poll({}) == 0);
  }
}

TEST_CASE("a packet that takes long does not hold up those behind it") {
  backend_type backend(with_workers(2));
  bell completions(backend);
  gate started;
  gate let_go;
  std::vector<std::uint32_t> cells(100, 0);
  REQUIRE(backend.commit(packet::of(1, block_until{.started = &started, .let_go = &let_go}).finish()) == error_code{});
  started.wait();
  for (std::uint32_t sequence = 2; sequence <= 50; ++sequence) {
    REQUIRE(backend.has_room());
    REQUIRE(backend.commit(packet::of(sequence, mark{.cells = cells.data(), .count = 100}).finish()) == error_code{});
    completions.wait_for(sequence - 1);
    CHECK(poll_all(backend) == std::vector<std::uint32_t>{sequence});
  }
  CHECK(cells == std::vector<std::uint32_t>(100, 49));
  let_go.open();
  REQUIRE(backend.pause() == error_code{});
  CHECK(poll_all(backend) == std::vector<std::uint32_t>{1});
}

TEST_CASE("sleeping workers are woken for tiles that wait, as many as there are tiles") {
  constexpr std::uint32_t workers = 8;
  for (const auto spin : {std::chrono::nanoseconds(0), std::chrono::nanoseconds(4'000)}) {
    auto options = with_workers(workers);
    options.spin = spin;
    backend_type backend(options);
    bell completions(backend);
    std::vector<std::uint32_t> cells(1, 0);
    std::uint32_t sequence = 0;
    for (int repetition = 0; repetition < 60; ++repetition) {
      CAPTURE(repetition);
      // All workers are needed at once, whatever they were doing. In one form for one packet, in another for packets
      // that come while the wake-ups for those before them are under way.
      crowd everyone(workers);
      if (repetition % 3 == 0) {
        REQUIRE(backend.commit(packet::of(++sequence, meeting{&everyone, workers}).finish()) == error_code{});
      } else if (repetition % 3 == 1) {
        REQUIRE(backend.commit(packet::of(++sequence, mark{cells.data(), 1}).finish()) == error_code{});
        REQUIRE(backend.commit(packet::of(++sequence, meeting{&everyone, workers / 2}).finish()) == error_code{});
        REQUIRE(backend.commit(packet::of(++sequence, meeting{&everyone, workers / 2}).finish()) == error_code{});
      } else {
        for (int i = 0; i < 3; ++i)
          REQUIRE(backend.commit(packet::of(++sequence, meeting{&everyone, 1}).finish()) == error_code{});
        REQUIRE(backend.commit(packet::of(++sequence, meeting{&everyone, workers - 3}).finish()) == error_code{});
      }
      completions.wait_for(sequence);
      poll_all(backend);
      if (repetition % 10 < 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // now and then all sleep
    }
    CHECK(cells[0] == 20);
  }
}

TEST_CASE("a packet that comes just as its worker falls asleep is not forgotten") {
  for (const auto spin : {std::chrono::nanoseconds(0), std::chrono::nanoseconds(300)}) {
    auto options = with_workers(1);
    options.spin = spin;
    backend_type backend(options);
    std::vector<std::uint32_t> cells(1, 0);
    auto made = packet::of(1, mark{.cells = cells.data(), .count = 1});
    const auto bytes = made.finish();
    constexpr std::uint32_t rounds = 5000;
    for (std::uint32_t round = 0; round < rounds; ++round) {
      REQUIRE(backend.commit(bytes) == error_code{});
      std::array<cohort::packet_completion, 1> out{};
      // Bounded, so that a loss is a failure and not a hang.
      const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      std::size_t count = 0;
      while (count == 0 && std::chrono::steady_clock::now() < until) {
        count = backend.poll(out);
        if (count == 0 && round % 4 == 0) std::this_thread::yield();
      }
      REQUIRE(count == 1);
      // The worker is now on its way to sleep; the next packet meets it at a different place each time.
      for (std::uint32_t delay = round % 97; delay != 0; --delay) cohort::detail::spin_pause();
    }
    CHECK(cells[0] == rounds);
  }
}

TEST_CASE("without workers, tiles run in order inside poll, on the thread that polls, one packet a call") {
  backend_type backend(with_workers(0));
  CHECK(backend.needs_polling());
  CHECK(backend.shape().workers == 1);
  std::array<std::thread::id, 3> ran_on{};
  for (std::uint32_t i = 0; i < 3; ++i)
    REQUIRE(backend.commit(packet::of(i + 1, who{.thread = &ran_on[i]}).finish()) == error_code{});
  CHECK(ran_on[0] == std::thread::id());
  for (std::uint32_t i = 0; i < 3; ++i) {
    std::array<cohort::packet_completion, 4> out{};
    REQUIRE(backend.poll(out) == 1);
    CHECK(out[0].sequence == i + 1);
    CHECK(ran_on[i] == std::this_thread::get_id());
    if (i < 2) CHECK(ran_on[i + 1] == std::thread::id());
  }
}

TEST_CASE("a backend with workers announces completions and runs nothing on the owner's thread") {
  backend_type backend(with_workers(1));
  bell completions(backend);
  CHECK_FALSE(backend.needs_polling());
  std::thread::id ran_on{};
  REQUIRE(backend.commit(packet::of(1, who{.thread = &ran_on}).finish()) == error_code{});
  completions.wait_for(1);
  CHECK(poll_all(backend) == std::vector<std::uint32_t>{1});
  CHECK(ran_on != std::thread::id());
  CHECK(ran_on != std::this_thread::get_id());
}

TEST_CASE("malformed packets are refused, and none of their tiles runs") {
  backend_type backend(with_workers(0));
  std::vector<std::uint32_t> cells(64, 0);
  const auto build = [&](bool uniform) {
    packet made;
    made.restart(1);
    REQUIRE(made.add<mark>({{.cells = cells.data(), .count = 3}}));
    REQUIRE(made.add<mark>({{.cells = cells.data() + 3, .count = uniform ? 3u : 4u}}));
    return made;
  };
  using change = std::function<void(packet_header&, std::byte*)>;
  const auto commit_changed = [&](bool uniform, const change& edit) {
    packet made = build(uniform);
    const auto bytes = made.finish();
    struct alignas(16) room {
      std::byte bytes[1024];
    } copy;
    REQUIRE(bytes.size() <= sizeof copy);
    std::memcpy(copy.bytes, bytes.data(), bytes.size());
    auto& header = *reinterpret_cast<packet_header*>(copy.bytes);
    edit(header, copy.bytes);
    return backend.commit(std::span<const std::byte>(copy.bytes, bytes.size()));
  };
  const auto record = [](std::byte* bytes) { return reinterpret_cast<record_header*>(bytes + sizeof(packet_header)); };
  const auto index = [](packet_header& header, std::byte* bytes) {
    return reinterpret_cast<cohort::record_index*>(bytes + header.index_offset);
  };

  for (const bool uniform : {true, false}) {
    CAPTURE(uniform);
    const auto refused = [&](const change& edit) { return commit_changed(uniform, edit); };
    CHECK(refused([](auto& h, auto*) { h.bytes += 16; }) == errc::bad_size);
    CHECK(refused([](auto& h, auto*) { h.bytes -= 16; }) == errc::bad_size);
    CHECK(refused([](auto& h, auto*) { h.tiles = 0; }) == errc::bad_size);
    CHECK(refused([](auto& h, auto*) { h.tiles += 1; }) == errc::bad_size);
    CHECK(refused([](auto& h, auto*) { h.records = 0; }) == errc::bad_size);
    CHECK(refused([](auto& h, auto*) { h.records += 1; }) == errc::bad_size);
    CHECK(refused([](auto& h, auto*) { h.records = 65535; }) == errc::bad_size);
    CHECK(refused([](auto& h, auto*) { h.flags = 2; }) == errc::bad_size);

    CHECK(refused([](auto& h, auto*) { h.index_offset = h.index_offset == 0 ? 64 : 0; }) == errc::bad_size);
    CHECK(refused([&](auto&, auto* b) { record(b)->op = kernels::size; }) == errc::bad_size);
    CHECK(refused([&](auto&, auto* b) { record(b)->members = 0; }) == errc::bad_size);
    CHECK(refused([&](auto&, auto* b) { record(b)->members = 20; }) == errc::bad_size);
    CHECK(refused([&](auto&, auto* b) { record(b)->tiles = 0; }) == errc::bad_size);
    CHECK(refused([&](auto&, auto* b) { record(b)->tiles = 2; }) == errc::bad_size);
    CHECK(refused([&](auto&, auto* b) { record(b)->first_tile = 1; }) == errc::bad_size);
    CHECK(refused([&](auto&, auto* b) { record(b)->first_piece = 1; }) == errc::bad_size);
  }
  CHECK(commit_changed(true, [](auto& h, auto*) { h.uniform_stride = 0; }) == errc::bad_size);
  CHECK(commit_changed(true, [](auto& h, auto*) { h.uniform_stride += 16; }) == errc::bad_size);
  CHECK(commit_changed(true, [](auto& h, auto*) { h.uniform_stride = 40; }) == errc::misaligned);
  CHECK(commit_changed(true, [](auto& h, auto*) { h.uniform_stride = 0xffff'fff0; }) == errc::bad_size);
  CHECK(commit_changed(true, [](auto& h, auto*) { h.uniform_tiles = 2; }) == errc::bad_size);
  CHECK(commit_changed(false, [](auto& h, auto*) { h.uniform_stride = 32; }) == errc::bad_size);
  CHECK(commit_changed(false, [](auto& h, auto*) { h.index_offset += 8; }) == errc::misaligned);
  CHECK(commit_changed(false, [](auto& h, auto*) { h.index_offset += 16; }) == errc::bad_size);
  CHECK(commit_changed(false, [](auto& h, auto*) { h.index_offset = 0xffff'fff0; }) == errc::bad_size);
  CHECK(commit_changed(false, [&](auto& h, auto* b) { index(h, b)[1].offset += 8; }) == errc::misaligned);
  CHECK(commit_changed(false, [&](auto& h, auto* b) { index(h, b)[1].offset = 0; }) == errc::bad_size);
  CHECK(commit_changed(false, [&](auto& h, auto* b) { index(h, b)[1].offset = h.index_offset; }) == errc::bad_size);
  CHECK(commit_changed(false, [&](auto& h, auto* b) { index(h, b)[1].offset = 0xffff'fff0; }) == errc::bad_size);
  CHECK(commit_changed(false, [&](auto& h, auto* b) { index(h, b)[1].first_tile = 2; }) == errc::bad_size);
  // Two entries for one record would run its tiles twice.
  CHECK(commit_changed(false, [&](auto& h, auto* b) { index(h, b)[1].offset = 32; }) == errc::bad_size);

  packet kept = build(false);
  const auto bytes = kept.finish();
  CHECK(backend.commit({}) == errc::bad_size);
  CHECK(backend.commit(bytes.first(16)) == errc::bad_size);
  CHECK(backend.commit(bytes.first(32)) == errc::bad_size);
  CHECK(backend.commit(bytes.subspan(8)) == errc::misaligned);
  std::vector<packet_header> large(cohort::packet_capacity / sizeof(packet_header) + 1);
  CHECK(backend.commit(std::as_bytes(std::span(large))) == errc::op_too_large);

  CHECK(poll_all(backend).empty());
  CHECK(cells == std::vector<std::uint32_t>(64, 0));
  CHECK(backend.commit(bytes) == error_code{});
  CHECK(poll_all(backend).size() == 1);
  CHECK(std::count(cells.begin(), cells.end(), 1u) == 7);
}

TEST_CASE("the largest number of tiles is handed out once each") {
  backend_type backend(with_workers(2));
  std::vector<std::uint32_t> cells(300'000, 0);
  REQUIRE(backend.commit(packet::of(1, mark{.cells = cells.data(), .count = 300'000}).finish()) == error_code{});
  REQUIRE(backend.pause() == error_code{});
  CHECK(std::count(cells.begin(), cells.end(), 1u) == 300'000);
}

TEST_CASE("a backend says what it is") {
  backend_type backend(with_workers(3));
  CHECK(backend.shape().workers == 3);
  CHECK(backend.shape().host);
  REQUIRE(backend.ops().size() == kernels::size);
  CHECK(backend.ops()[1].fusable == false);
  CHECK(std::strcmp(backend.ops()[1].name, "gather") == 0);
  CHECK(std::strcmp(backend.name(), "host") == 0);
  const auto rates = backend.rates();
  CHECK(rates.flops_per_ns > 0);
  CHECK(rates.bytes_per_ns > 0);
  CHECK(rates.busy_target > rates.packet_overhead);

  backend_type all{};
  CHECK(all.shape().workers >= 1);
  CHECK(all.shape().workers <= std::max(std::thread::hardware_concurrency(), 1u));
}

TEST_CASE("memory comes from the arena of its kind, and an impossible size is refused at construction") {
  backend_type backend({.workers = 0, .device_bytes = 4096, .pinned_bytes = 8192});
  using cohort::memory_kind;
  void* device = backend.allocate(memory_kind::device, 4096, 256);
  REQUIRE(device != nullptr);
  std::memset(device, 1, 4096);
  CHECK(backend.allocate(memory_kind::device, 1, 1) == nullptr);
  void* pinned = backend.allocate(memory_kind::pinned, 8000, 4096);
  REQUIRE(pinned != nullptr);
  std::memset(pinned, 1, 8000);
  backend.deallocate(memory_kind::device, device);
  backend.deallocate(memory_kind::device, nullptr);
  CHECK(backend.memory(memory_kind::device).in_use == 0);
  CHECK(backend.memory(memory_kind::pinned).in_use == 8192);
  backend.deallocate(memory_kind::pinned, pinned);

  const auto construct = [](const cohort::host_options& options) {
    try {
      backend_type made(options);
    } catch (const cohort::system_error& e) {
      return e.code();
    }
    return error_code{};
  };
  CHECK(construct({.workers = 0, .device_bytes = std::numeric_limits<std::size_t>::max()}) == errc::out_of_memory);
  CHECK(construct({.workers = 0, .packets = 0}) == errc::bad_size);
  CHECK(construct({.workers = 0, .packets = 65}) == errc::bad_size);
  CHECK(construct({.workers = 1, .device_bytes = 0, .pinned_bytes = 0, .packets = 1}) == error_code{});
}
