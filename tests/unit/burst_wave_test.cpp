// When a part of a burst leaves while the rest still comes.
#include <cohort/detail/burst_wave.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

namespace {

using cohort::detail::burst_wave;

/// A burst of so many; after how many the policy was asked.
std::vector<std::size_t> asked(burst_wave& wave, std::size_t submissions) {
  std::vector<std::size_t> after;
  for (std::size_t i = 1; i <= submissions; ++i) {
    if (wave.is_wave_with_one_more()) after.push_back(i);
  }
  return after;
}

using places = std::vector<std::size_t>;

}  // namespace

TEST_CASE("a burst leaves in parts when the one before was long, and its packets had a tile for few workers") {
  burst_wave wave({.workers = 512, .host = false});
  CHECK(asked(wave, 100) == places{});  // nothing is known yet
  CHECK_FALSE(wave.burst_is_over());
  wave.learn(100, 100, 400);            // four tiles each: 32 are a tile for every fourth worker
  CHECK(asked(wave, 100) == places{});  // the next burst is the first that is known to be so long
  CHECK_FALSE(wave.burst_is_over());
  CHECK(asked(wave, 100) == places{32, 56});
  CHECK(wave.burst_is_over());
}

TEST_CASE("what leaves behind the first part is larger than a first part may be") {
  burst_wave wave({.workers = 512, .host = false});
  wave.learn(118, 118, 1888);  // eight are a tile for every fourth worker, and too few for a packet
  asked(wave, 118);
  wave.burst_is_over();
  CHECK(asked(wave, 118) == places{16, 40, 64, 88});
}

TEST_CASE("what is left behind is worth a packet") {
  burst_wave wave({.workers = 512, .host = false});
  wave.learn(100, 100, 400);
  asked(wave, 55);
  wave.burst_is_over();
  CHECK(asked(wave, 55) == places{});  // 23 would be left of 55, fewer than three quarters of 32
  wave.burst_is_over();
  asked(wave, 56);
  wave.burst_is_over();
  CHECK(asked(wave, 56) == places{32});
}

TEST_CASE("ops that fuse wait for one another, and host workers for whoever submits") {
  burst_wave fused({.workers = 512, .host = false});
  fused.learn(100, 1, 400);
  asked(fused, 100);
  fused.burst_is_over();
  CHECK(asked(fused, 100) == places{});

  burst_wave host({.workers = 512, .host = true});
  host.learn(100, 100, 400);
  asked(host, 100);
  host.burst_is_over();
  CHECK(asked(host, 100) == places{});
}

TEST_CASE("a burst is expected to grow as long as the one before, and not beyond") {
  burst_wave wave({.workers = 512, .host = false});
  wave.learn(100, 100, 400);
  asked(wave, 128);
  wave.burst_is_over();
  asked(wave, 32);
  CHECK(wave.growth() == 4);
  asked(wave, 64);
  CHECK(wave.growth() == doctest::Approx(128.0 / 96));
  asked(wave, 100);
  CHECK(wave.growth() == 1);
}
