// One contest: our coroutines and the peers on the same products, in one process, in turn. Every arm is checked against
// float64 first. Rounds are interleaved, so that a clock that drifts changes all alike. Peers are timed while the
// executor is paused and nothing of it is on the device; ours from a resumed, warmed-up executor, without any peer.
#pragma once

#include "../crew.hpp"
#include "../problem.hpp"
#include "../report.hpp"
#include "../statistics.hpp"
#include "paused_executor.hpp"
#include "peers.hpp"
#include "verifier.hpp"

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace cohort_bench {

inline constexpr std::string_view ours = "cohort";

struct arm_result {
  std::string name;
  summary us;  ///< empty where the arm could not do it
  double error = missing;
  std::string excuse;
};

struct contest_result {
  std::vector<arm_result> arms;
  double packets_per_batch = missing;

  const arm_result* find(std::string_view name) const {
    for (const arm_result& one : arms) {
      if (one.name == name) return &one;
    }
    return nullptr;
  }
  /// Median in us; missing where there is none.
  double us(std::string_view name) const {
    const arm_result* one = find(name);
    return one == nullptr ? missing : one->us.p50();
  }
  /// How many times as long as ours an arm takes.
  double over(std::string_view name) const { return us(name) / us(ours); }

  boost::json::object json() const {
    boost::json::object all;
    for (const arm_result& one : arms) {
      boost::json::object data{{"p50_us", number(one.us.p50())},
                               {"p99_us", number(one.us.p99())},
                               {"samples", one.us.count()},
                               {"error", number(one.error)}};
      if (!one.excuse.empty()) data["excuse"] = one.excuse;
      if (one.name != ours) data["ratio"] = number(over(one.name));
      all[one.name] = std::move(data);
    }
    return all;
  }
};

template <class T>
inline constexpr element_type type_of = std::is_same_v<T, float> ? element_type::fp32 : element_type::bf16;

struct contest_plan {
  int rounds = 9;
  limits each{};
};

inline contest_plan plan_for(const options& chosen) {
  contest_plan plan;
  if (chosen.quick) plan = {.rounds = 3, .each = {.warm_up = 2, .fewest = 2, .most = 12, .budget_us = 1'500}};
  return plan;
}

/// The same products for both sides; ours may be cut differently (rows of one product as ops of their own).
struct contestants {
  const std::vector<batch>& theirs;
  const std::vector<batch>& mine;
};

/// \param check its first products are those of `theirs`, in their order
/// \param where names the cell when something is wrong
template <class T>
contest_result run_contest(linear_executor<T>& gpu, const std::vector<peer*>& peers, const contestants& sides,
                           verifier& check, const contest_plan& plan, const std::string& where, report& to) {
  using residency = typename linear_executor<T>::residency;
  constexpr element_type type = type_of<T>;
  const std::vector<batch>& sets = sides.theirs;
  const std::size_t products = sets.size() * sets.front().size();
  const auto ops = as_ops<T>(sides.mine);
  contest_result result;
  std::vector<std::vector<double>> samples(peers.size() + 1);

  const auto judge = [&](arm_result& arm) {
    arm.error = check.error(products);
    if (!check.right(arm.error)) {
      to.wrong(where + ": " + arm.name + " has a relative error of " + std::to_string(arm.error));
    }
  };
  for (peer* const one : peers) {
    arm_result& arm = result.arms.emplace_back();
    arm.name = one->name();
    try {
      one->prepare(type, sets);
      check.poison(products);
      for (std::size_t set = 0; set < sets.size(); ++set) one->run(set);
      judge(arm);
    } catch (const cublas_error& cannot) {
      arm.excuse = cannot.what();
      std::printf("# %s: %s is left out: %s\n", where.c_str(), arm.name.c_str(), cannot.what());
    }
  }
  {
    arm_result& arm = result.arms.emplace_back();
    arm.name = ours;
    check.poison(products);
    {
      const residency on(gpu);
      const int once = static_cast<int>(sets.size());
      (void)time_batches(gpu.get(), ops, {.warm_up = 0, .fewest = once, .most = once, .budget_us = 0});
    }
    judge(arm);
  }

  std::uint64_t packets = 0;
  std::size_t batches = 0;
  for (int round = 0; round < plan.rounds; ++round) {
    for (std::size_t i = 0; i < peers.size(); ++i) {
      if (!result.arms[i].excuse.empty()) continue;
      const auto some = time_peer(*peers[i], sets.size(), plan.each);
      samples[i].insert(samples[i].end(), some.begin(), some.end());
    }
    const residency on(gpu);
    // The first batches bring the kernel back to the device; they do not count.
    (void)time_batches(gpu.get(), ops, {.warm_up = 0, .fewest = 3, .most = 3, .budget_us = 0});
    const std::uint64_t before = gpu.get().statistics().packets;
    const auto some = time_batches(gpu.get(), ops, plan.each);
    packets += gpu.get().statistics().packets - before;
    batches += some.size() + static_cast<std::size_t>(plan.each.warm_up);
    samples.back().insert(samples.back().end(), some.begin(), some.end());
  }
  for (std::size_t i = 0; i < samples.size(); ++i) result.arms[i].us = summary(std::move(samples[i]));
  result.packets_per_batch = static_cast<double>(packets) / static_cast<double>(batches);
  return result;
}

}  // namespace cohort_bench
