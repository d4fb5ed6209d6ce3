// The arena: hands out parts of one large piece of memory that was taken up front, so that nobody asks the system or
// CUDA for memory on the hot path. It works on addresses alone: the memory may be a device's.
#pragma once

#include <cohort/config.hpp>

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <utility>

namespace cohort::inline COHORT_ABI {

/// What an arena holds, in bytes of blocks (requests rounded up to the granularity). What was returned and is held back
/// counts as in use.
struct arena_statistics {
  std::size_t capacity = 0;
  std::size_t in_use = 0;
  std::size_t high_water = 0;    ///< largest `in_use` so far
  std::size_t largest_free = 0;  ///< largest block that could be had now, at the arena's granularity
  std::size_t blocks_in_use = 0;
};

/// Best-fit allocator over [base, base + size), which it neither owns nor touches. All functions are safe from any
/// thread and take O(log n) in the number of blocks, except that an alignment above the granularity may pass over free
/// blocks that are large enough but lie badly. Neighbouring free blocks are merged at once. What is returned while work
/// runs that may still use it can be held back until that is over (`hold_back`).
class arena {
public:
  static constexpr std::size_t default_granularity = 256;

  /// Blocks begin and end at multiples of `granularity` (a power of two); what of [base, base + size) lies outside such
  /// multiples is not used. `size` may be 0. Throws `std::bad_alloc`.
  arena(void* base, std::size_t size, std::size_t granularity = default_granularity)
      : base_(static_cast<std::byte*>(base)), granularity_(granularity) {
    assert(is_power_of_two(granularity));
    const auto begin = reinterpret_cast<std::uintptr_t>(base);
    const std::size_t skipped = static_cast<std::size_t>(-begin) & (granularity - 1);
    if (size < skipped) return;
    const std::size_t usable = (size - skipped) & ~(granularity - 1);
    if (usable == 0) return;
    capacity_ = usable;
    blocks_.emplace(begin + skipped, block{.bytes = usable, .used = false});
    free_.emplace(usable, begin + skipped);
  }

  arena(const arena&) = delete;
  arena& operator=(const arena&) = delete;

  /// A block of at least `bytes` bytes, aligned to `alignment` (a power of two) and to the granularity. Null when
  /// `bytes` is 0, when `alignment` is no power of two, or when no free block is large enough.
  void* allocate(std::size_t bytes, std::size_t alignment = default_granularity) noexcept {
    if (bytes == 0 || bytes > std::numeric_limits<std::size_t>::max() - granularity_) return nullptr;
    if (!is_power_of_two(alignment)) return nullptr;
    bytes = round_up(bytes, granularity_);
    std::lock_guard lock(mutex_);
    for (auto candidate = free_.lower_bound({bytes, 0}); candidate != free_.end(); ++candidate) {
      const auto [size, begin] = *candidate;
      const std::size_t before = static_cast<std::size_t>(-begin) & (alignment - 1);
      if (before > size || size - before < bytes) continue;
      try {
        return take(begin, before, bytes);
      } catch (const std::bad_alloc&) {  // no memory for the books: nothing has changed
        return nullptr;
      }
    }
    return nullptr;
  }

  /// Returns a block. False, and nothing happens, when `pointer` is not one that is in use: returned before, or not
  /// from here. Null is no block.
  [[nodiscard]] bool deallocate(void* pointer) noexcept {
    return deallocate(pointer, [](void*, std::size_t) {});
  }

  /// The same; `before_free(block, bytes)` is called before the block can be another's: now, or in `hold_back`. It must
  /// neither throw nor call the arena.
  template <class BeforeFree>
  [[nodiscard]] bool deallocate(void* pointer, BeforeFree before_free) noexcept {
    std::lock_guard lock(mutex_);
    const auto here = blocks_.find(reinterpret_cast<std::uintptr_t>(pointer));
    if (here == blocks_.end() || !here->second.used || here->second.held_until != 0) return false;
    if (complete_ == work_) {
      before_free(pointer, here->second.bytes);
      set_free(here);
      return true;
    }
    here->second.held_until = work_;
    (last_held_ != 0 ? blocks_.find(last_held_)->second.next_held : first_held_) = here->first;
    last_held_ = here->first;
    return true;
  }

  /// Pieces of work that may use blocks which are returned meanwhile are numbered from 1: `work` of them have begun,
  /// and the first `complete` of these are over. Neither number shrinks. What is returned from now on is held back
  /// until all that have begun by then are over; what was held back for the first `complete` alone becomes free.
  /// `before_free`: as for `deallocate`.
  template <class BeforeFree>
  void hold_back(std::uint64_t work, std::uint64_t complete, BeforeFree before_free) noexcept {
    std::lock_guard lock(mutex_);
    work_ = work;
    complete_ = complete;
    while (first_held_ != 0) {
      const auto here = blocks_.find(first_held_);
      if (here->second.held_until > complete) return;
      first_held_ = std::exchange(here->second.next_held, 0);
      here->second.held_until = 0;
      before_free(pointer_to(here->first), here->second.bytes);
      set_free(here);
    }
    last_held_ = 0;
  }

  void hold_back(std::uint64_t work, std::uint64_t complete) noexcept {
    hold_back(work, complete, [](void*, std::size_t) {});
  }

  /// Bytes of the block in use at `pointer`, at least what was asked for; 0 when there is none, or it was returned.
  std::size_t block_bytes(const void* pointer) const noexcept {
    std::lock_guard lock(mutex_);
    const auto here = blocks_.find(reinterpret_cast<std::uintptr_t>(pointer));
    return here != blocks_.end() && here->second.used && here->second.held_until == 0 ? here->second.bytes : 0;
  }

  arena_statistics statistics() const noexcept {
    std::lock_guard lock(mutex_);
    return {.capacity = capacity_,
            .in_use = in_use_,
            .high_water = high_water_,
            .largest_free = free_.empty() ? 0 : free_.rbegin()->first,
            .blocks_in_use = blocks_in_use_};
  }

private:
  using size_index = std::set<std::pair<std::size_t, std::uintptr_t>>;  // free blocks: bytes, address

  struct block {
    std::size_t bytes = 0;
    size_index::node_type index{};  // its node of the index while it is in use
    std::uint64_t held_until = 0;   // returned, but not free before so many pieces of work are over; 0: not held back
    std::uintptr_t next_held = 0;   // address of the one that was returned after it, while it is held back
    bool used = false;
  };
  using block_map = std::map<std::uintptr_t, block>;

  static constexpr bool is_power_of_two(std::size_t value) noexcept { return value != 0 && (value & (value - 1)) == 0; }
  static constexpr std::size_t round_up(std::size_t value, std::size_t granularity) noexcept {
    return (value + granularity - 1) & ~(granularity - 1);
  }

  /// Makes a block in use a free one, together with free neighbours.
  void set_free(block_map::iterator here) noexcept {
    here->second.used = false;
    in_use_ -= here->second.bytes;
    --blocks_in_use_;
    // The node of the index that was set aside by `take` is used again: giving memory back needs none.
    size_index::node_type node = std::move(here->second.index);
    if (const auto after = std::next(here); after != blocks_.end() && !after->second.used) {
      free_.erase({after->second.bytes, after->first});
      here->second.bytes += after->second.bytes;
      blocks_.erase(after);
    }
    if (here != blocks_.begin()) {
      if (const auto before = std::prev(here); !before->second.used) {
        free_.erase({before->second.bytes, before->first});
        before->second.bytes += here->second.bytes;
        blocks_.erase(here);
        here = before;
      }
    }
    node.value() = {here->second.bytes, here->first};
    free_.insert(std::move(node));
  }

  std::byte* pointer_to(std::uintptr_t address) const noexcept {
    return base_ + (address - reinterpret_cast<std::uintptr_t>(base_));
  }

  /// Cuts [begin + before, + bytes) out of the free block at `begin`. Throws before it changes anything.
  void* take(std::uintptr_t begin, std::size_t before, std::size_t bytes) {
    const auto whole = blocks_.find(begin);
    const std::size_t size = whole->second.bytes;
    const std::size_t after = size - before - bytes;
    // What is needed is made aside first: a node for each block that comes into being. Splicing nodes cannot throw.
    block_map new_blocks;
    size_index new_free;
    if (before != 0) {
      new_blocks.emplace(begin + before, block{.bytes = bytes, .used = true});
      new_free.emplace(before, begin);
    }
    if (after != 0) {
      new_blocks.emplace(begin + before + bytes, block{.bytes = after, .used = false});
      new_free.emplace(after, begin + before + bytes);
    }

    size_index::node_type node = free_.extract({size, begin});
    whole->second.bytes = before != 0 ? before : bytes;
    blocks_.merge(new_blocks);
    free_.merge(new_free);
    const auto taken = blocks_.find(begin + before);
    taken->second.used = true;
    taken->second.index = std::move(node);
    in_use_ += bytes;
    high_water_ = in_use_ > high_water_ ? in_use_ : high_water_;
    ++blocks_in_use_;
    return pointer_to(begin + before);
  }

  std::byte* const base_;
  const std::size_t granularity_;
  std::size_t capacity_ = 0;
  mutable std::mutex mutex_;
  // All below is guarded by mutex_.
  block_map blocks_;  // by address, without gaps; two free ones are never neighbours
  size_index free_;
  std::size_t in_use_ = 0;
  std::size_t high_water_ = 0;
  std::size_t blocks_in_use_ = 0;
  std::uint64_t work_ = 0;
  std::uint64_t complete_ = 0;
  std::uintptr_t first_held_ = 0;  // the held back, in the order in which they were returned; 0: none
  std::uintptr_t last_held_ = 0;
};

}  // namespace cohort::inline COHORT_ABI
