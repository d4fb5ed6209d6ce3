// The tile context: what an op sees of whoever runs one of its tiles. An op's `run` is a template over it and is
// written once; a block of device threads and a single host thread both satisfy it.
#pragma once

#include <cohort/config.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI {

/// A team of threads that work on one tile, or a part of such a team. All members of the team call the same functions
/// in the same order. `n` is the same for all of them.
///
/// - `rank()`, `size()`: which of how many threads this is.
/// - `sync()`: barrier over the team; memory written before it is visible to the team after it.
/// - `for_each(n, f)`: calls `f(i)` once for each `i` in [0, n), spread over the team, neighbours to neighbours. No
/// barrier at
///   the end. `f` for different `i` may not depend on each other.
/// - `sum(n, f)`, `max(n, f)`: combines `f(i)` (float) over [0, n); every thread gets the result. The order of
/// additions
///   depends on `n` and on the kind of context alone: never on load. `max` of nothing is -infinity, `sum` of nothing 0.
template <class Team>
concept thread_team =
    requires(Team& team, std::uint32_t n, float (*value)(std::uint32_t), void (*action)(std::uint32_t)) {
      { team.rank() } -> std::same_as<std::uint32_t>;
      { team.size() } -> std::same_as<std::uint32_t>;
      team.sync();
      team.for_each(n, action);
      { team.sum(n, value) } -> std::same_as<float>;
      { team.max(n, value) } -> std::same_as<float>;
    };

/// The whole team of a tile (a thread block, or one host thread), which is divided into groups (warps, or that one
/// thread):
///
/// - `Context::cooperative`: constant; false when the team is one thread, so that loops may be written to vectorise.
/// - `group()`: this thread's group, itself a `thread_team`; `group_index()` of `group_count()`.
///   Rows that are independent go one to a group: `for (r = c.group_index(); r < rows; r += c.group_count())`.
/// - `arrive_last(counter, teams)`, of cooperative contexts: whether this team is the last of `teams` that call it with
///   one counter of a `tile_exchange`. The last sees what the others wrote before; the counter is zero again then. A
///   barrier over the team; it waits for no other team.
/// - `scratch()`: storage shared by the team, aligned to 128 bytes, of the size the op declares
///   (`device_scratch_bytes`, `host_scratch_bytes`); uninitialised at the start of every tile.
///
/// The executor puts a barrier between tiles: `run` need not end in one.
template <class Context>
concept tile_context = thread_team<Context> && requires(Context& context) {
  { Context::cooperative } -> std::convertible_to<bool>;
  { context.scratch() } -> std::same_as<std::byte*>;
  { context.group_index() } -> std::same_as<std::uint32_t>;
  { context.group_count() } -> std::same_as<std::uint32_t>;
  { context.group() } -> thread_team;
};

}  // namespace cohort::inline COHORT_ABI
