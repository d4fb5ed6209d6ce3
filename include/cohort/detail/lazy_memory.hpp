// Address space that becomes memory when it is touched: what the host backend's arenas stand on. Internal.
#pragma once

#include <cohort/config.hpp>
#include <cohort/error.hpp>

#include <algorithm>
#include <cstddef>

#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COHORT_ADDRESS_SANITIZER 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define COHORT_ADDRESS_SANITIZER 1
#endif
#if defined(COHORT_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif

namespace cohort::inline COHORT_ABI::detail {

/// Owns `bytes` of private zeroed address space, aligned to a page. Pages cost memory from their first access on. The
/// space starts hidden: whoever hands out a part of it shows that part first.
class lazy_memory {
public:
  /// Throws `system_error(errc::out_of_memory)` when the system refuses; 0 bytes are no memory at all.
  explicit lazy_memory(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    // Not reserved in swap either: a large default must cost nothing to those who do not use it.
    void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw system_error(make_error_code(errc::out_of_memory), "cohort: host arena");
    data_ = static_cast<std::byte*>(mapped);
#if defined(MADV_HUGEPAGE)
    // Weights are read end to end, again and again. Only advice: an error here changes no result.
    (void)::madvise(mapped, bytes, MADV_HUGEPAGE);
#endif
    hide(data_, bytes_);
  }

  lazy_memory(const lazy_memory&) = delete;
  lazy_memory& operator=(const lazy_memory&) = delete;

  ~lazy_memory() {
    if (data_ == nullptr) return;
    // The sanitizer does not forget by itself, and the next owner of these addresses is a stranger.
    show(data_, bytes_);
    (void)::munmap(data_, bytes_);
  }

  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }

  /// Under the address sanitizer: any access to [from, from + bytes) is reported until `show`. Only the first 64 MiB
  /// take part, because the sanitizer pays for hidden memory with memory; arenas fill up from the start.
  void hide([[maybe_unused]] const void* from, [[maybe_unused]] std::size_t bytes) const noexcept {
#if defined(COHORT_ADDRESS_SANITIZER)
    __asan_poison_memory_region(from, clipped(from, bytes));
#endif
  }

  void show([[maybe_unused]] const void* from, [[maybe_unused]] std::size_t bytes) const noexcept {
#if defined(COHORT_ADDRESS_SANITIZER)
    __asan_unpoison_memory_region(from, clipped(from, bytes));
#endif
  }

private:
#if defined(COHORT_ADDRESS_SANITIZER)
  std::size_t clipped(const void* from, std::size_t bytes) const noexcept {
    constexpr std::size_t most = std::size_t{64} << 20;
    const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(from) - data_);
    return std::min(bytes, most - std::min(offset, most));
  }
#endif

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace cohort::inline COHORT_ABI::detail
