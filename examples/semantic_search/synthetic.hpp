// Weights from a seed, for runs without the model's files: same shapes, same cost, no meaning beyond "equal words are
// alike". scripts/golden_embeddings.py holds the same definition in Python; the two must agree bit for bit.
#pragma once

#include "fnv1a.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace cohort_demo {

/// Output number `index` (from 0) of the SplitMix64 generator started at `state`. Source: Steele, Lea, Flood, "Fast
/// Splittable Pseudorandom Number Generators" (OOPSLA 2014), with Vigna's constants.
constexpr std::uint64_t splitmix64(std::uint64_t state, std::uint64_t index) noexcept {
  std::uint64_t z = state + (index + 1) * 0x9E37'79B9'7F4A'7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EBULL;
  return z ^ (z >> 31);
}

/// Element i of a tensor is centre + reach * u, with u uniform in [-1, 1): k / 2^23 - 1 for the top 24 bits k of
/// splitmix64(fnv1a(name) ^ seed, i). Computed in double and rounded once, so that a fused multiply-add changes
/// nothing.
///
/// | tensor                       | centre | reach                                                       |
/// | *LayerNorm.weight            | 1      | 0.1                                                         |
/// | *.bias, layer norms included | 0      | 0.02                                                        |
/// | word embeddings              | 0      | 0.1                                                         |
/// | position, type embeddings    | 0      | 0.02: words dominate, so that shared words show             |
/// | other weights                | 0      | sqrt(3 / inputs), rounded to float: the variance is kept    |
inline std::vector<float> synthetic_tensor(std::string_view name, std::size_t count, std::size_t inputs,
                                           std::uint64_t seed = 0) {
  double centre = 0;
  float reach = 0.02F;
  if (name.ends_with("LayerNorm.weight")) {
    centre = 1;
    reach = 0.1F;
  } else if (name == "embeddings.word_embeddings.weight") {
    reach = 0.1F;
  } else if (name.ends_with(".weight") && !name.starts_with("embeddings.")) {
    reach = static_cast<float>(std::sqrt(3.0 / static_cast<double>(inputs)));
  }
  const std::uint64_t state = fnv1a(name) ^ seed;
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto top = static_cast<std::int32_t>(splitmix64(state, i) >> 40);
    const double uniform = static_cast<double>(top - (1 << 23)) * 0x1p-23;
    values[i] = static_cast<float>(centre + uniform * static_cast<double>(reach));
  }
  return values;
}

}  // namespace cohort_demo
