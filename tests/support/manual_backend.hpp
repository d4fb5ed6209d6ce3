// A backend for tests: packets complete when the test says so, in the order and with the result the test wants.
#pragma once

#include <cohort/arena.hpp>
#include <cohort/backend/backend.hpp>
#include <cohort/backend/host_context.hpp>
#include <cohort/detail/lazy_memory.hpp>
#include <cohort/schedule/packet.hpp>

#include <array>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

namespace cohort::testing {

/// Completes on request (`complete`), from any thread, or with `automatic` inside `poll`. Runs the ops before it
/// completes them with success.
template <class Ops>
class manual_backend final : public backend {
public:
  explicit manual_backend(bool automatic = false, std::uint32_t max_packets = 4, const machine_shape& shape = {})
      : automatic_(automatic), max_packets_(max_packets), shape_(shape) {}

  const char* name() const noexcept override { return "manual"; }
  machine_shape shape() const noexcept override { return shape_; }
  device_rates rates() const noexcept override { return {.max_packets = max_packets_}; }
  std::span<const op_info> ops() const noexcept override { return table_; }
  bool needs_polling() const noexcept override { return automatic_; }

  void on_completion(void (*notify)(void*), void* argument) noexcept override {
    notify_ = notify;
    argument_ = argument;
  }

  bool has_room() const noexcept override {
    std::lock_guard lock(mutex_);
    return committed_.size() < max_packets_;
  }

  error_code commit(std::span<const std::byte> packet) noexcept override {
    std::lock_guard lock(mutex_);
    if (refuse_.failed()) return refuse_;
    committed_.emplace_back(packet.begin(), packet.end());
    return {};
  }

  std::size_t poll(std::span<packet_completion> out) noexcept override {
    if (automatic_) {
      while (complete({})) {
      }
    }
    std::lock_guard lock(mutex_);
    std::size_t count = 0;
    while (count < out.size() && !completed_.empty()) {
      out[count++] = completed_.front();
      completed_.pop_front();
    }
    return count;
  }

  error_code pause() noexcept override {
    ++pauses;
    return {};
  }

  void* allocate(memory_kind, std::size_t bytes, std::size_t alignment) noexcept override {
    void* const block = arena_.allocate(bytes, alignment);
    if (block != nullptr) memory_.show(block, bytes);
    return block;
  }
  void deallocate(memory_kind, void* pointer) noexcept override { (void)arena_.deallocate(pointer, hide{memory_}); }
  void given_up(std::uint64_t packets, std::uint64_t complete) noexcept override {
    arena_.hold_back(packets, complete, hide{memory_});
  }

  // -- for the test, any thread
  // -------------------------------------------------------------------------------------------

  /// Completes the oldest packet (or the newest); false when none is committed.
  bool complete(error_code result, bool newest = false) {
    std::vector<std::byte> packet;
    {
      std::lock_guard lock(mutex_);
      if (committed_.empty()) return false;
      packet = std::move(newest ? committed_.back() : committed_.front());
      newest ? committed_.pop_back() : committed_.pop_front();
    }
    packet_header header;
    std::memcpy(&header, packet.data(), sizeof header);
    if (!result.failed()) run(packet, header);
    {
      std::lock_guard lock(mutex_);
      completed_.push_back({header.sequence, result});
    }
    if (!automatic_ && notify_ != nullptr) notify_(argument_);
    return true;
  }

  std::size_t committed() const {
    std::lock_guard lock(mutex_);
    return committed_.size();
  }

  /// From now on `commit` answers with this error; none: it takes packets again.
  void refuse(error_code why) {
    std::lock_guard lock(mutex_);
    refuse_ = why;
  }

  arena_statistics memory() const noexcept { return arena_.statistics(); }

  int pauses = 0;

private:
  struct hide {
    const detail::lazy_memory& memory;
    void operator()(void* block, std::size_t bytes) const noexcept { memory.hide(block, bytes); }
  };

  void run(const std::vector<std::byte>& packet, const packet_header& header) {
    alignas(128) std::array<std::byte, Ops::host_scratch_bytes + 128> scratch;
    std::uint32_t offset = sizeof(packet_header);
    for (std::uint32_t i = 0; i < header.records; ++i) {
      record_header record;
      std::memcpy(&record, packet.data() + offset, sizeof record);
      for (std::uint32_t tile = 0; tile < record.tiles; ++tile) {
        host_context context(scratch.data());
        Ops::run(record.op, context, packet.data() + offset + sizeof record, record.members, tile);
      }
      offset += sizeof(record_header) + record.members * table_[record.op].stride;
    }
  }

  static constexpr auto table_ = Ops::table();
  bool automatic_;
  std::uint32_t max_packets_;
  machine_shape shape_;
  void (*notify_)(void*) = nullptr;
  void* argument_ = nullptr;
  mutable std::mutex mutex_;
  std::deque<std::vector<std::byte>> committed_;
  std::deque<packet_completion> completed_;
  error_code refuse_{};
  detail::lazy_memory memory_{1 << 20};
  arena arena_{memory_.data(), memory_.size()};
};

}  // namespace cohort::testing
