// Typed buffers over a backend's arenas: the memory that ops read and write. Users enter here.
#pragma once

#include <cohort/arena.hpp>
#include <cohort/backend/backend.hpp>
#include <cohort/config.hpp>
#include <cohort/error.hpp>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

namespace cohort::inline COHORT_ABI {

/// Owns `size()` elements of a backend's memory, uninitialised at first. Move-only; a buffer that was moved from, or
/// made by default, is empty.
///
/// Lifetime: a buffer must not outlive the backend, and must live until the submission of every op that uses it has
/// completed. One that completed because it was cancelled or timed out may still run on the device: the buffer may be
/// destroyed nevertheless, and the backend hands its memory out again only when the device is done; but while it lives
/// it must not be used before that (`executor::drain`, `executor::pause`). Buffers are made and destroyed on any
/// thread; one buffer is for one thread at a time.
///
/// Memory that host code may touch is a type of its own. A `pinned_buffer` is a range: it has elements, and `span()`. A
/// `device_buffer` has none of these; it only tells ops where its elements are (`data()`, `view()`), because on a GPU
/// an access from host code would be a fault.
template <class T, memory_kind Kind>
class buffer {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_const_v<T> && !std::is_volatile_v<T>,
                "a buffer holds trivially copyable elements that are not const");

public:
  using value_type = T;
  static constexpr bool host_accessible = Kind == memory_kind::pinned;
  /// Alignment of the first element in bytes.
  static constexpr std::size_t alignment = std::max(arena::default_granularity, alignof(T));

  buffer() noexcept = default;

  /// Throws `system_error`: `errc::bad_size` when `size` is 0 or too large to count in bytes, `errc::out_of_memory`
  /// when the backend's arena has no such block left.
  buffer(backend& owner, std::size_t size) : owner_(&owner), size_(size) {
    if (size == 0 || size > std::numeric_limits<std::size_t>::max() / sizeof(T))
      throw system_error(make_error_code(errc::bad_size), "cohort: buffer");
    data_ = static_cast<T*>(owner.allocate(Kind, size * sizeof(T), alignment));
    if (data_ == nullptr) throw system_error(make_error_code(errc::out_of_memory), "cohort: buffer");
  }

  buffer(buffer&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}

  buffer& operator=(buffer&& other) noexcept {
    buffer(std::move(other)).swap(*this);
    return *this;
  }

  ~buffer() {
    if (data_ != nullptr) owner_->deallocate(Kind, data_);
  }

  void swap(buffer& other) noexcept {
    std::swap(owner_, other.owner_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  /// Gives the memory back now.
  void reset() noexcept { buffer().swap(*this); }

  /// Where the elements are, for op descriptors. Null when empty.
  T* data() noexcept { return data_; }
  const T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
  bool empty() const noexcept { return size_ == 0; }
  static constexpr memory_kind kind() noexcept { return Kind; }

  /// Address and size together, for op descriptors. A span does not know whose memory it is: host code may follow it
  /// only where `host_accessible` holds.
  std::span<T> view() noexcept { return {data_, size_}; }
  std::span<const T> view() const noexcept { return {data_, size_}; }

  /// `count` elements from element `offset` on. Precondition: they are in the buffer.
  std::span<T> view(std::size_t offset, std::size_t count) noexcept {
    assert(offset <= size_ && count <= size_ - offset && "a view leaves its buffer");
    return {data_ + offset, count};
  }
  std::span<const T> view(std::size_t offset, std::size_t count) const noexcept {
    assert(offset <= size_ && count <= size_ - offset && "a view leaves its buffer");
    return {data_ + offset, count};
  }

  /// The elements, for host code.
  std::span<T> span() noexcept
    requires host_accessible
  {
    return {data_, size_};
  }
  std::span<const T> span() const noexcept
    requires host_accessible
  {
    return {data_, size_};
  }
  T& operator[](std::size_t position) noexcept
    requires host_accessible
  {
    assert(position < size_);
    return data_[position];
  }
  const T& operator[](std::size_t position) const noexcept
    requires host_accessible
  {
    assert(position < size_);
    return data_[position];
  }
  T* begin() noexcept
    requires host_accessible
  {
    return data_;
  }
  const T* begin() const noexcept
    requires host_accessible
  {
    return data_;
  }
  T* end() noexcept
    requires host_accessible
  {
    return data_ + size_;
  }
  const T* end() const noexcept
    requires host_accessible
  {
    return data_ + size_;
  }

private:
  backend* owner_ = nullptr;
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Memory of the device, for ops alone.
template <class T>
using device_buffer = buffer<T, memory_kind::device>;

/// Host memory that ops may read and write directly.
template <class T>
using pinned_buffer = buffer<T, memory_kind::pinned>;

/// `size` uninitialised elements for ops alone. Throws as the constructor of `buffer` does.
template <class T>
device_buffer<T> make_device_buffer(backend& owner, std::size_t size) {
  return device_buffer<T>(owner, size);
}

/// `size` uninitialised elements for ops and host code. Throws as the constructor of `buffer` does.
template <class T>
pinned_buffer<T> make_pinned_buffer(backend& owner, std::size_t size) {
  return pinned_buffer<T>(owner, size);
}

}  // namespace cohort::inline COHORT_ABI
