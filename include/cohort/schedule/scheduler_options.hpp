// What a scheduler is made with. Data alone; executors, simulations and tests enter.
#pragma once

#include <cohort/config.hpp>

#include <cstddef>
#include <cstdint>

namespace cohort::inline COHORT_ABI {

/// What may share a packet.
enum class coalescing : std::uint8_t {
  fuse_and_pack,  ///< equal keys become one record; different records share packets
  pack_only,      ///< one record per submission; records share packets
  none,           ///< one submission per packet
};

/// Set once, at construction. No value changes the result of an op.
struct scheduler_options {
  coalescing coalesce = coalescing::fuse_and_pack;
  std::uint32_t max_fused_rows = 4096;  ///< sum of `rows` in one record; a single taller member has a record of its own
  std::uint32_t max_members = 1024;     ///< submissions in one record; 0 counts as 1, more than 65535 as 65535
  std::size_t expected_keys = 256;      ///< different keys pending together for which memory is taken up front
  /// Submissions by which one may be overtaken before it goes first whatever its slack: nobody starves.
  std::uint64_t max_overtaken = 16'384;
};

}  // namespace cohort::inline COHORT_ABI
