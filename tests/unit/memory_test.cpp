// Typed buffers, over the host backend and over one that keeps a record of what it gave.
#include <cohort/backend/host.hpp>
#include <cohort/memory.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>

namespace {

struct nothing {
  static constexpr const char* name = "nothing";
  std::uint32_t tiles() const { return 1; }
  template <class Context>
  COHORT_HD
  void run(Context&, std::uint32_t) const {}
};

using backend_type = cohort::host_backend<cohort::op_set<nothing>>;
using cohort::errc;
using cohort::memory_kind;

constexpr cohort::host_options small{.workers = 0, .device_bytes = 1 << 16, .pinned_bytes = 1 << 15};

template <class Buffer>
concept has_elements = requires(Buffer& b) { b[0]; };
template <class Buffer>
concept is_range = requires(Buffer& b) { b.begin(); };
template <class Buffer>
concept has_span = requires(Buffer& b) { b.span(); };

using device = cohort::device_buffer<float>;
using pinned = cohort::pinned_buffer<float>;

static_assert(!has_elements<device> && !is_range<device> && !has_span<device>);
static_assert(!has_elements<const device> && !is_range<const device> && !has_span<const device>);
static_assert(has_elements<pinned> && is_range<pinned> && has_span<pinned>);
static_assert(std::is_same_v<decltype(std::declval<const pinned&>()[0]), const float&>);
static_assert(std::is_same_v<decltype(std::declval<const device&>().data()), const float*>);
static_assert(!std::is_convertible_v<device, pinned> && !std::is_convertible_v<pinned, device>);
static_assert(!std::is_copy_constructible_v<device> && !std::is_copy_assignable_v<device>);
static_assert(std::is_nothrow_move_constructible_v<device> && std::is_nothrow_move_assignable_v<device>);

template <class F>
cohort::error_code error_of(F f) {
  try {
    f();
  } catch (const cohort::system_error& e) {
    return e.code();
  }
  return {};
}

}  // namespace

TEST_CASE("a buffer takes its memory from the arena of its kind and gives it back") {
  backend_type backend(small);
  const auto in_use = [&](memory_kind kind) { return backend.memory(kind).in_use; };
  {
    auto on_device = cohort::make_device_buffer<float>(backend, 100);
    CHECK(in_use(memory_kind::device) == 512);
    CHECK(in_use(memory_kind::pinned) == 0);
    auto on_host = cohort::make_pinned_buffer<std::uint16_t>(backend, 300);
    CHECK(in_use(memory_kind::pinned) == 768);
    CHECK(on_device.kind() == memory_kind::device);
    CHECK(on_host.kind() == memory_kind::pinned);
    CHECK(on_device.size() == 100);
    CHECK(on_device.size_bytes() == 400);
    CHECK(on_host.size_bytes() == 600);
    CHECK(reinterpret_cast<std::uintptr_t>(on_device.data()) % 256 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(on_host.data()) % 256 == 0);
    on_device.reset();
    CHECK(on_device.empty());
    CHECK(in_use(memory_kind::device) == 0);
  }
  CHECK(in_use(memory_kind::pinned) == 0);
}

TEST_CASE("elements are aligned as their type asks, also above the arena's granularity") {
  struct alignas(1024) page {
    std::byte bytes[1024];
  };
  backend_type backend(small);
  auto first = cohort::make_device_buffer<float>(backend, 1);
  auto second = cohort::make_device_buffer<page>(backend, 2);
  CHECK(reinterpret_cast<std::uintptr_t>(second.data()) % 1024 == 0);
}

TEST_CASE("moving hands the memory over once") {
  backend_type backend(small);
  auto first = cohort::make_pinned_buffer<int>(backend, 10);
  auto second = cohort::make_pinned_buffer<int>(backend, 20);
  int* const memory = first.data();
  second = std::move(first);
  CHECK(second.data() == memory);
  CHECK(second.size() == 10);
  // A buffer that was moved from is empty, by contract.
  // NOLINTNEXTLINE(bugprone-use-after-move, clang-analyzer-cplusplus.Move)
  CHECK(first.empty());
  CHECK(first.data() == nullptr);  // NOLINT(clang-analyzer-cplusplus.Move)
  CHECK(backend.memory(memory_kind::pinned).blocks_in_use == 1);
  auto& same = second;
  second = std::move(same);
  CHECK(second.data() == memory);
  const auto third = std::move(second);
  CHECK(third.data() == memory);
  CHECK(backend.memory(memory_kind::pinned).blocks_in_use == 1);
}

TEST_CASE("a pinned buffer is a range for host code, and its views are of the same memory") {
  backend_type backend(small);
  auto numbers = cohort::make_pinned_buffer<int>(backend, 100);
  std::iota(numbers.begin(), numbers.end(), 0);
  CHECK(numbers[99] == 99);
  CHECK(std::accumulate(numbers.span().begin(), numbers.span().end(), 0) == 4950);
  const auto& same = numbers;
  CHECK(std::equal(same.begin(), same.end(), numbers.view().begin()));
  CHECK(same[7] == 7);
  const auto part = numbers.view(10, 5);
  CHECK(part.data() == numbers.data() + 10);
  CHECK(part.size() == 5);
  CHECK(same.view(100, 0).empty());
  const auto on_device = cohort::make_device_buffer<int>(backend, 8);
  CHECK(on_device.view(2, 6).data() == on_device.data() + 2);
  CHECK(on_device.view().size() == 8);
}

TEST_CASE("a buffer that cannot be had throws the reason") {
  backend_type backend(small);
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  CHECK(error_of([&] { (void)cohort::make_device_buffer<float>(backend, 0); }) == errc::bad_size);
  CHECK(error_of([&] { (void)cohort::make_pinned_buffer<float>(backend, most / 4 + 1); }) == errc::bad_size);
  CHECK(error_of([&] { (void)cohort::make_pinned_buffer<float>(backend, most / 4); }) == errc::out_of_memory);
  CHECK(error_of([&] { (void)cohort::make_device_buffer<char>(backend, (1 << 16) + 1); }) == errc::out_of_memory);
  CHECK(error_of([&] { (void)cohort::make_device_buffer<char>(backend, 1 << 16); }) == cohort::error_code{});
  const auto all = cohort::make_pinned_buffer<char>(backend, 1 << 15);
  CHECK(error_of([&] { (void)cohort::make_pinned_buffer<char>(backend, 1); }) == errc::out_of_memory);
  CHECK(backend.memory(memory_kind::device).in_use == 0);
}
