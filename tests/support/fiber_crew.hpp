// Fibers that take turns on one thread and meet at barriers: concurrency whose order is chosen, not left to the
// machine, and whose barrier costs a switch of stacks. The thread sanitizer sees each fiber as a thread that only a
// barrier orders, so a missing barrier is a data race every time. Tests only.
#pragma once

#include "sanitizer.hpp"

#include <sys/mman.h>
#include <ucontext.h>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <utility>

#if COHORT_TEST_ASAN
#include <sanitizer/asan_interface.h>
#elif COHORT_TEST_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// A fiber leaves these for good: to a sanitizer they must not be calls that never return.
#define COHORT_FIBERS_UNSEEN __attribute__((no_sanitize("thread")))

namespace cohort::testing {

/// A fixed number of fibers, each with a stack of its own of 256 KB. `run` is called by one thread at a time, and the
/// fibers run on the thread that calls it.
class fiber_crew {
  struct fiber {
    fiber_crew* crew = nullptr;
    std::uint32_t rank = 0;
    ucontext_t context{};
    std::atomic<fiber*> next{nullptr};
    const void* stack = nullptr;  // the lowest address
    std::size_t bytes = 0;
    void* sanitizer = nullptr;  // the thread sanitizer's fiber, or the address sanitizer's fake stack
  };

  /// First in, first out. What fibers share of the crew's own state is relaxed atomics: no order that a fiber could
  /// borrow, and no race for the sanitizer to report.
  class fiber_list {
  public:
    void push(fiber& last) {
      last.next.store(nullptr, std::memory_order_relaxed);
      fiber* const before = last_.load(std::memory_order_relaxed);
      (before != nullptr ? before->next : first_).store(&last, std::memory_order_relaxed);
      last_.store(&last, std::memory_order_relaxed);
    }

    fiber* pop() {
      fiber* const front = first_.load(std::memory_order_relaxed);
      if (front == nullptr) return nullptr;
      fiber* const second = front->next.load(std::memory_order_relaxed);
      first_.store(second, std::memory_order_relaxed);
      if (second == nullptr) last_.store(nullptr, std::memory_order_relaxed);
      return front;
    }

  private:
    std::atomic<fiber*> first_{nullptr};
    std::atomic<fiber*> last_{nullptr};
  };

  /// Orders what is before `release` on one fiber before what is after `acquire` on another.
  class happens_before {
  public:
    void release() {
#if COHORT_TEST_TSAN
      __tsan_release(this);
#endif
    }

    void acquire() {
#if COHORT_TEST_TSAN
      __tsan_acquire(this);
#endif
    }

  private:
    alignas(8) [[maybe_unused]] char address_ = 0;  // the sanitizer keeps an order for each eight bytes
  };

public:
  /// Where `size` fibers of a crew meet, again and again.
  class barrier {
  public:
    explicit barrier(std::uint32_t size) : size_(size) {}

  private:
    friend fiber_crew;

    std::uint32_t size_;
    std::atomic<std::uint32_t> arrived_{0};
    std::atomic<std::uint32_t> phase_{0};
    fiber_list waiting_;
    // Two, in turn: a fiber that goes on late must not see what others did after this meeting.
    happens_before meetings_[2];
  };

  explicit fiber_crew(std::uint32_t size) : size_(size), fibers_(std::make_unique<fiber[]>(size)) {
    const std::size_t each_bytes = guard_bytes + stack_bytes;
    void* const stacks = mmap(nullptr, size * each_bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (stacks == MAP_FAILED) throw std::bad_alloc();
    stacks_ = static_cast<std::byte*>(stacks);
    for (std::uint32_t rank = 0; rank < size; ++rank) {
      std::byte* const guard = stacks_ + rank * each_bytes;
      mprotect(guard, guard_bytes, PROT_NONE);  // an overflow is a fault, not another fiber's garbage
      fibers_[rank].crew = this;
      fibers_[rank].rank = rank;
      fibers_[rank].stack = guard + guard_bytes;
      fibers_[rank].bytes = stack_bytes;
#if COHORT_TEST_TSAN
      fibers_[rank].sanitizer = __tsan_create_fiber(0);
#endif
    }
  }

  ~fiber_crew() {
#if COHORT_TEST_TSAN
    for (std::uint32_t rank = 0; rank < size_; ++rank) __tsan_destroy_fiber(fibers_[rank].sanitizer);
#endif
    munmap(stacks_, size_ * (guard_bytes + stack_bytes));
  }

  fiber_crew(const fiber_crew&) = delete;
  fiber_crew& operator=(const fiber_crew&) = delete;

  /// Fibers `first` to `end` - 1 run only while all others wait at a barrier or are done. Not while `run` runs.
  void let_lag(std::uint32_t first, std::uint32_t end) {
    lagging_first_ = first;
    lagging_end_ = end;
  }

  /// Calls `work(rank)` on each fiber, and returns when all have returned. `work` must not throw. Ends the program when
  /// all fibers that are left wait.
  void run(std::function<void(std::uint32_t)> work) {
    work_ = std::move(work);
    left_.store(size_, std::memory_order_relaxed);
#if COHORT_TEST_TSAN
    caller_.sanitizer = __tsan_get_current_fiber();
#endif
    for (std::uint32_t rank = 0; rank < size_; ++rank) {
      prepare(fibers_[rank]);
      ready(fibers_[rank]);
    }
    started_.release();
    caller_.stack = nullptr;
    change(caller_, *next());
    finished_.acquire();
    work_ = nullptr;
  }

  /// By the fiber `rank`: returns when as many fibers as `meeting` is for have called it.
  void wait(barrier& meeting, std::uint32_t rank) {
    const std::uint32_t phase = meeting.phase_.load(std::memory_order_relaxed);
    happens_before& order = meeting.meetings_[phase % 2];
    order.release();
    const std::uint32_t arrived = meeting.arrived_.load(std::memory_order_relaxed) + 1;
    if (arrived < meeting.size_) {
      meeting.arrived_.store(arrived, std::memory_order_relaxed);
      meeting.waiting_.push(fibers_[rank]);
    } else {
      meeting.arrived_.store(0, std::memory_order_relaxed);
      meeting.phase_.store(phase + 1, std::memory_order_relaxed);
      while (fiber* const each = meeting.waiting_.pop()) ready(*each);
      ready(fibers_[rank]);
    }
    fiber* const following = next();
    if (following != &fibers_[rank]) change(fibers_[rank], *following);
    order.acquire();
  }

private:
  static constexpr std::size_t stack_bytes = 256 * 1024;
  static constexpr std::size_t guard_bytes = 64 * 1024;  // a multiple of every page size in use

  void ready(fiber& each) {
    const bool lags = each.rank >= lagging_first_ && each.rank < lagging_end_;
    (lags ? lagging_ : ready_).push(each);
  }

  fiber* next() {
    fiber* following = ready_.pop();
    if (following == nullptr) following = lagging_.pop();
    if (following == nullptr) {
      std::fputs("fiber_crew: all fibers that are left wait at barriers\n", stderr);
      std::abort();
    }
    return following;
  }

  /// Lets a fiber begin at `enter` when it is next changed to.
  void prepare(fiber& each) {
#if COHORT_TEST_ASAN
    __asan_unpoison_memory_region(each.stack, each.bytes);  // of frames that the last run left without returning
#endif
    getcontext(&each.context);
    each.context.uc_stack.ss_sp = const_cast<void*>(each.stack);
    each.context.uc_stack.ss_size = each.bytes;
    each.context.uc_link = nullptr;
    const auto address = reinterpret_cast<std::uintptr_t>(&each);  // passed as two ints: what makecontext can pass
    makecontext(&each.context, reinterpret_cast<void (*)()>(&fiber_crew::enter), 2,
                static_cast<std::uint32_t>(address >> 32), static_cast<std::uint32_t>(address));
    each.context.uc_stack.ss_size = 0;  // else the address sanitizer forgets the whole stack's redzones at each change
  }

  COHORT_FIBERS_UNSEEN static void enter(std::uint32_t high, std::uint32_t low) {
    fiber& self = *reinterpret_cast<fiber*>(std::uintptr_t{high} << 32 | low);
    fiber_crew& crew = *self.crew;
#if COHORT_TEST_ASAN
    const void* stack = nullptr;
    std::size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
    if (crew.caller_.stack == nullptr) {  // the first fiber learns whose stack it left
      crew.caller_.stack = stack;
      crew.caller_.bytes = bytes;
    }
#endif
    crew.started_.acquire();
    crew.work_(self.rank);
    crew.leave();
  }

  COHORT_FIBERS_UNSEEN void leave() {
    const std::uint32_t left = left_.load(std::memory_order_relaxed) - 1;
    left_.store(left, std::memory_order_relaxed);
    const fiber& to = left == 0 ? caller_ : *next();
    finished_.release();
#if COHORT_TEST_ASAN
    __sanitizer_start_switch_fiber(nullptr, to.stack, to.bytes);
#elif COHORT_TEST_TSAN
    __tsan_switch_to_fiber(to.sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
    setcontext(&to.context);
  }

  static void change(fiber& from, const fiber& to) {
#if COHORT_TEST_ASAN
    __sanitizer_start_switch_fiber(&from.sanitizer, to.stack, to.bytes);
#elif COHORT_TEST_TSAN
    __tsan_switch_to_fiber(to.sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
    swapcontext(&from.context, &to.context);
#if COHORT_TEST_ASAN
    __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
  }

  std::uint32_t size_;
  std::byte* stacks_ = nullptr;
  std::unique_ptr<fiber[]> fibers_;
  fiber caller_;
  std::function<void(std::uint32_t)> work_;
  fiber_list ready_;
  fiber_list lagging_;
  std::uint32_t lagging_first_ = 0;
  std::uint32_t lagging_end_ = 0;
  std::atomic<std::uint32_t> left_{0};
  happens_before started_;
  happens_before finished_;
};

}  // namespace cohort::testing
