// Before the queue: submissions that their tenant's queue has no room for, or whose tenant has enough in flight.
// Private to the scheduler.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/coalescer.hpp>
#include <cohort/schedule/submission.hpp>
#include <cohort/schedule/tenant_table.hpp>

#include <cstddef>

namespace cohort::inline COHORT_ABI::detail {

/// Who waits, by tenant, in order; and which tenants are to be looked at because something of theirs has left.
class waiting_room {
public:
  void add(submission& one) noexcept {
    one.account->aside.push_back(one);
    ++size_;
  }

  void remove(submission& one) noexcept {
    one.account->aside.erase(one);
    --size_;
  }

  std::size_t size() const noexcept { return size_; }

  /// The next `let_in` is to look whether those of a tenant may go in.
  void look_at(tenant_state& tenant) noexcept {
    if (tenant.to_look_at) return;
    tenant.to_look_at = true;
    tenant.next_to_look_at = to_look_at_;
    to_look_at_ = &tenant;
  }

  /// Lets those in who wait before a queue that has room again.
  void let_in(coalescer& queue, const tenant_table& tenants) {
    while (tenant_state* const tenant = to_look_at_) {
      while (submission* const one = tenant->aside.front()) {
        if (tenant->pending >= tenant->queue_capacity || tenants.over_cap(*one)) break;
        bucket& home = queue.home_of(*one);
        remove(*one);
        queue.add(*one, home);
        ++tenant->pending;
      }
      to_look_at_ = tenant->next_to_look_at;
      tenant->to_look_at = false;
    }
  }

private:
  tenant_state* to_look_at_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace cohort::inline COHORT_ABI::detail
