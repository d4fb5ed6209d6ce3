// A backend whose device takes no time: packets are complete as soon as they are committed. What is left is the CPU's
// part of a submission.
#pragma once

#include <cohort/backend/backend.hpp>
#include <cohort/schedule/packet.hpp>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>

namespace cohort_bench {

/// Copies each packet into one of 8 slots, as a backend with a ring does, and runs nothing.
template <class Ops>
class immediate_backend final : public cohort::backend {
public:
  const char* name() const noexcept override { return "immediate"; }
  cohort::machine_shape shape() const noexcept override { return {.workers = 528, .host = false}; }
  cohort::device_rates rates() const noexcept override { return {.max_packets = slots}; }
  std::span<const cohort::op_info> ops() const noexcept override { return table; }
  bool needs_polling() const noexcept override { return true; }
  void on_completion(void (*)(void*), void*) noexcept override {}
  bool has_room() const noexcept override { return committed_ - polled_ < slots; }

  cohort::error_code commit(std::span<const std::byte> packet) noexcept override {
    std::memcpy(ring_[committed_ % slots].data(), packet.data(), packet.size());
    ++committed_;
    return {};
  }

  std::size_t poll(std::span<cohort::packet_completion> out) noexcept override {
    std::size_t count = 0;
    while (count < out.size() && polled_ < committed_) {
      std::uint32_t sequence;
      std::memcpy(&sequence, ring_[polled_++ % slots].data(), sizeof sequence);
      out[count++] = {.sequence = sequence, .result = {}};
    }
    return count;
  }

  cohort::error_code pause() noexcept override { return {}; }

  void* allocate(cohort::memory_kind, std::size_t bytes, std::size_t alignment) noexcept override {
    return ::operator new(bytes, std::align_val_t(alignment), std::nothrow);
  }
  void deallocate(cohort::memory_kind, void* pointer) noexcept override { std::free(pointer); }
  void given_up(std::uint64_t, std::uint64_t) noexcept override {}  // nothing runs

private:
  static constexpr auto table = Ops::table();
  static constexpr std::uint32_t slots = 8;

  std::uint64_t committed_ = 0;
  std::uint64_t polled_ = 0;
  std::array<std::array<std::byte, cohort::packet_capacity>, slots> ring_;
};

}  // namespace cohort_bench
