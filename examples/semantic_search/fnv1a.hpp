// A hash that is the same on every machine and in every language. The toy vocabulary and the synthetic weights stand on
// it.
#pragma once

#include <cstdint>
#include <string_view>

namespace cohort_demo {

/// FNV-1a over bytes, 64 bits. Source: Fowler, Noll, Vo, the FNV non-cryptographic hash algorithm.
constexpr std::uint64_t fnv1a(std::string_view text) noexcept {
  std::uint64_t hash = 0xcbf2'9ce4'8422'2325ULL;
  for (const char c : text) {
    hash ^= static_cast<std::uint8_t>(c);
    hash *= 0x0000'0100'0000'01b3ULL;
  }
  return hash;
}

}  // namespace cohort_demo
