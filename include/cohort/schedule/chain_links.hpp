// How one finds one's way along a chain: submissions in a ring by `follower`, of which the last stands for all. Private
// to the scheduler.
#pragma once

#include <cohort/config.hpp>
#include <cohort/schedule/submission.hpp>

#include <cstdint>

namespace cohort::inline COHORT_ABI::detail {

/// What is told to the last of a chain is told to one whose turn has come. What became of it when the chain was here
/// before is forgotten.
inline void take_turn(submission& one, const submission& from) noexcept {
  one.tenant = from.tenant;
  one.deadline = from.deadline;
  one.expires = from.expires;
  one.result = {};
}

/// The first of a chain that is handed in.
inline submission& first_of(submission& last) noexcept {
  submission& first = *last.follower;
  take_turn(first, last);
  return first;
}

inline submission& last_of(submission& one) noexcept {
  submission* last = &one;
  while (last->followers > 0) last = last->follower;
  return *last;
}

/// The next of its chain that is inside, or the last.
inline submission* one_that_follows(submission& one) noexcept {
  submission* next = one.follower;
  while (next->followers > 0 && (next->state == submission_state::done || next->state == submission_state::created)) {
    next = next->follower;
  }
  return next;
}

/// When it is due, of a chain that is due at `deadline`: each that is left has an equal share of the time until then.
inline std::int64_t share_of_time(const submission& one, std::int64_t now, std::int64_t deadline) noexcept {
  return one.followers == 0 ? deadline : now + (deadline - now) / (std::int64_t{one.followers} + 1);
}

/// Who is to be told of a submission that has ended, pending or at the end of its chain: itself; the last of its chain,
/// which ends with it; nobody yet when others of the chain are still on the device, which tell when they come back.
inline submission* who_is_told(submission& one) noexcept {
  if (!one.in_chain()) return &one;
  submission& last = last_of(one);
  if (&last != &one) finish(last, one.result);
  for (const submission* each = last.follower; each != &one; each = each->follower) {
    if (each->state == submission_state::committed) return nullptr;
  }
  return &last;
}

}  // namespace cohort::inline COHORT_ABI::detail
