// Stand-ins for submissions whose waiters were told before their packet was complete: they keep the books right until
// the device is done. Private to the scheduler.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/submission.hpp>

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI::detail {

/// Submissions that are taken and given back. Memory grows with the largest number in use at once.
class orphan_pool {
public:
  /// \throws std::bad_alloc
  explicit orphan_pool(std::size_t expected) { add(expected); }

  orphan_pool(const orphan_pool&) = delete;
  orphan_pool& operator=(const orphan_pool&) = delete;

  /// One, as the last user left it; null when there is no memory for more.
  submission* take() noexcept {
    if (free_ == nullptr) {
      try {
        add(size_);
      } catch (const std::bad_alloc&) {
        return nullptr;
      }
    }
    return std::exchange(free_, free_->next);
  }

  void give_back(submission& one) noexcept { one.next = std::exchange(free_, &one); }

private:
  void add(std::size_t count) {
    chunks_.reserve(chunks_.size() + 1);
    chunks_.push_back(std::make_unique<submission[]>(count));
    for (std::size_t i = count; i-- > 0;) give_back(chunks_.back()[i]);
    size_ += count;
  }

  std::vector<std::unique_ptr<submission[]>> chunks_;
  submission* free_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace cohort::inline COHORT_ABI::detail
