// What the tests of ops share: guarded buffers, random data, and a run of an op on either kind of tile context.
#pragma once

#include "../support/block_emulator.hpp"

#include <cohort/backend/host_context.hpp>
#include <cohort/error.hpp>
#include <cohort/op.hpp>
#include <cohort/types.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <vector>

namespace ops_test {

using cohort::bf16;
using cohort::fp16;

/// Every run in turn: a host thread, and an emulated block of threads. `warps` is a block as a device has it: four
/// groups of 32, for ops that have a form of their own for it.
enum class runner { host, block, warps };
inline constexpr runner runners[] = {runner::host, runner::block};

enum class order { forward, backward };

/// A buffer between two guard zones. Outputs start as NaN, so that an element that was not written shows.
template <class T>
class guarded {
public:
  static constexpr std::size_t guard = 64;

  explicit guarded(std::size_t size) : size_(size), bytes_((size + 2 * guard) * sizeof(T), pattern) {
    std::memset(static_cast<void*>(data()), 0xff, size * sizeof(T));
  }

  explicit guarded(const std::vector<double>& values) : guarded(values.size()) {
    for (std::size_t i = 0; i < size_; ++i) data()[i] = cohort::from_float<T>(static_cast<float>(values[i]));
  }

  T* data() { return reinterpret_cast<T*>(bytes_.data()) + guard; }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.data()) + guard; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> view() const { return {data(), size_}; }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return data()[i]; }

  std::vector<double> values() const {
    std::vector<double> result(size_);
    for (std::size_t i = 0; i < size_; ++i) result[i] = cohort::to_float(data()[i]);
    return result;
  }

  bool intact() const {
    const auto untouched = [](unsigned char byte) { return byte == pattern; };
    return std::all_of(bytes_.begin(), bytes_.begin() + guard * sizeof(T), untouched) &&
           std::all_of(bytes_.end() - guard * sizeof(T), bytes_.end(), untouched);
  }

  friend bool operator==(const guarded& a, const guarded& b) { return a.bytes_ == b.bytes_; }

private:
  static constexpr unsigned char pattern = 0xa5;

  std::size_t size_;
  std::vector<unsigned char> bytes_;
};

/// Random numbers around 0, already rounded to T, so that a reference in float64 starts from what the op sees.
template <class T>
std::vector<double> random_values(std::size_t size, std::uint32_t seed, double scale = 1.0, double offset = 0.0) {
  std::mt19937 engine(seed);
  std::vector<double> values(size);
  for (double& value : values) {
    const double uniform = static_cast<double>(engine()) / 4294967296.0 * 2.0 - 1.0;
    value = cohort::to_float(cohort::from_float<T>(static_cast<float>(offset + scale * uniform)));
  }
  return values;
}

/// |a - b| / |b| in the Euclidean norm. NaN where either has one.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::nan("");
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm == 0.0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

/// What rounding to T costs, with some room.
template <class T>
inline constexpr double tolerance = 2e-6;
template <>
inline constexpr double tolerance<fp16> = 1e-3;
template <>
inline constexpr double tolerance<bf16> = 6e-3;

/// Small, because each barrier costs a switch to every thread; ops_context_test.cpp has blocks with groups of 32.
using small_block = cohort::testing::block_emulator<16, 8>;

inline cohort::testing::block_emulator<128>& warps() {
  static cohort::testing::block_emulator<128> emulator;
  return emulator;
}

inline small_block& block() {
  static small_block emulator;
  return emulator;
}

/// Plans the op for one worker or for many (small tiles) and runs its tiles.
template <class Op>
void run(const Op& op, runner where, order how = order::forward, std::uint32_t workers = 1) {
  const cohort::error_code checked = cohort::detail::check(op);
  INFO(checked.message());
  REQUIRE_FALSE(checked);
  Op planned = op;
  const cohort::machine_shape shape{.workers = workers, .host = where == runner::host};
  const std::uint32_t tiles = cohort::detail::plan_erased<Op>(&planned, 1, shape).count;
  REQUIRE(tiles > 0);
  const auto pick = [=](std::uint32_t i) { return how == order::forward ? i : tiles - 1 - i; };
  if (where != runner::host) {
    static_assert(cohort::op_set<Op>::device_scratch_bytes <= 52 * 1024);
    const auto run_tile = [&](auto& context, std::uint32_t i) {
      cohort::detail::run_tile(context, static_cast<const Op*>(&planned), 1, pick(i));
    };
    if (where == runner::block) return block().run(tiles, run_tile);
    return warps().run(tiles, run_tile);
  }
  const std::size_t bytes = cohort::op_set<Op>::host_scratch_bytes;
  std::vector<std::byte> storage(bytes + 128);
  const std::size_t shift = 128 - reinterpret_cast<std::uintptr_t>(storage.data()) % 128;
  for (std::uint32_t i = 0; i < tiles; ++i) {
    std::memset(storage.data(), 0xff, storage.size());
    cohort::host_context context(storage.data() + shift);
    cohort::detail::run_tile(context, static_cast<const Op*>(&planned), 1, pick(i));
  }
}

/// A result depends neither on the order of tiles, nor on how many there are, nor on the run: `make` gives the op for
/// an output buffer.
template <class T, class Make>
void check_same_bits(std::size_t outputs, runner where, Make make) {
  guarded<T> first(outputs);
  run(make(first.span()), where);
  for (const order how : {order::forward, order::backward}) {
    for (const std::uint32_t workers : {1u, 1000u}) {
      guarded<T> again(outputs);
      run(make(again.span()), where, how, workers);
      CHECK(again == first);
    }
  }
}

template <class Op>
cohort::error_code checked(const Op& op) {
  static_assert(cohort::op<Op>);
  return op.check();
}

/// The same pointer, one byte further: aligned to nothing larger.
template <class T>
std::span<T> shifted(std::span<T> s) {
  const auto address = reinterpret_cast<std::uintptr_t>(s.data()) + 1;
  return {reinterpret_cast<T*>(address), s.size()};
}

}  // namespace ops_test
