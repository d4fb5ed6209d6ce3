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

/// What an arena holds, in bytes of blocks (requests rounded up to the granularity).
struct arena_statistics {
  std::size_t capacity = 0;
  std::size_t in_use = 0;
  std::size_t high_water = 0;    ///< largest `in_use` so far
  std::size_t largest_free = 0;  ///< largest block that could be had now, at the arena's granularity
  std::size_t blocks_in_use = 0;
};

/// Best-fit allocator over [base, base + size), which it neither owns nor touches. All functions are safe from any
/// thread and take O(log n) in the number of blocks, except that an alignment above the granularity may pass over free
/// blocks that are large enough but lie badly. Neighbouring free blocks are merged at once.
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
    blocks_.emplace(begin + skipped, block{.bytes = usable, .index = {}, .used = false});
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
    std::lock_guard lock(mutex_);
    auto here = blocks_.find(reinterpret_cast<std::uintptr_t>(pointer));
    if (here == blocks_.end() || !here->second.used) return false;
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
    return true;
  }

  /// Bytes of the block in use at `pointer`, at least what was asked for; 0 when there is none.
  std::size_t block_bytes(const void* pointer) const noexcept {
    std::lock_guard lock(mutex_);
    const auto here = blocks_.find(reinterpret_cast<std::uintptr_t>(pointer));
    return here != blocks_.end() && here->second.used ? here->second.bytes : 0;
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
    size_index::node_type index;  // its node of the index while it is in use
    bool used = false;
  };

  static constexpr bool is_power_of_two(std::size_t value) noexcept { return value != 0 && (value & (value - 1)) == 0; }
  static constexpr std::size_t round_up(std::size_t value, std::size_t granularity) noexcept {
    return (value + granularity - 1) & ~(granularity - 1);
  }

  /// Cuts [begin + before, + bytes) out of the free block at `begin`. Throws before it changes anything.
  void* take(std::uintptr_t begin, std::size_t before, std::size_t bytes) {
    const auto whole = blocks_.find(begin);
    const std::size_t size = whole->second.bytes;
    const std::size_t after = size - before - bytes;
    // What is needed is made aside first: a node for each block that comes into being. Splicing nodes cannot throw.
    std::map<std::uintptr_t, block> new_blocks;
    size_index new_free;
    if (before != 0) {
      new_blocks.emplace(begin + before, block{.bytes = bytes, .index = {}, .used = true});
      new_free.emplace(before, begin);
    }
    if (after != 0) {
      new_blocks.emplace(begin + before + bytes, block{.bytes = after, .index = {}, .used = false});
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
    return base_ + (begin + before - reinterpret_cast<std::uintptr_t>(base_));
  }

  std::byte* const base_;
  const std::size_t granularity_;
  std::size_t capacity_ = 0;
  mutable std::mutex mutex_;
  // All below is guarded by mutex_.
  std::map<std::uintptr_t, block> blocks_;  // by address, without gaps; two free ones are never neighbours
  size_index free_;
  std::size_t in_use_ = 0;
  std::size_t high_water_ = 0;
  std::size_t blocks_in_use_ = 0;
};

}  // namespace cohort::inline COHORT_ABI
