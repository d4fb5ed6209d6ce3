// The contest of `slo`.
#include "contest.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <utility>

namespace cohort_bench::slo {
namespace {

constexpr double wanted_attainment = 0.99;
constexpr double flood = 10;           // times its share
constexpr std::uint32_t flooding = 1;  // a BERT-like tenant: the dearest requests
constexpr double own_load = 0.6;       // over our rate at 99 % attainment
constexpr double common_load = 0.8;    // over that of the slowest peer

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

boost::json::object json_of(const verdict& v) {
  boost::json::object latency;
  for (std::size_t i = 0; i < kinds; ++i) {
    latency[name_of(static_cast<kind>(i))] = {{"p50_us", number(v.latency[i].p50())},
                                              {"p99_us", number(v.latency[i].p99())}};
  }
  return {{"offered_per_s", number(v.offered)},
          {"attainment", number(v.attainment)},
          {"goodput_per_s", number(v.goodput)},
          {"drop_rate", number(v.drop_rate)},
          {"requests", v.requests},
          {"failed", v.failed},
          {"latency", std::move(latency)}};
}

/// Latencies in ns of each tenant, in one piece of a load.
using by_tenant = std::vector<std::vector<double>>;

by_tenant latencies_of(const trial& one, std::uint32_t tenants) {
  by_tenant all(tenants);
  one.for_each([&](const cohort_load::arrival& request, double ns) { all[request.tenant].push_back(ns); });
  return all;
}

/// Of those that ended: what was dropped is told beside it.
double mean(const std::vector<double>& latencies) {
  double sum = 0;
  std::size_t count = 0;
  for (const double one : latencies) {
    if (!std::isfinite(one)) continue;
    sum += one;
    ++count;
  }
  return count == 0 ? missing : sum / static_cast<double>(count);
}

/// A tenant's mean latency: the median over the pieces.
double mean_of(const std::vector<by_tenant>& pieces, std::size_t tenant) {
  std::vector<double> means;
  for (const by_tenant& piece : pieces) {
    const double one = mean(piece[tenant]);
    if (!std::isnan(one)) means.push_back(one);
  }
  return means.empty() ? missing : median(std::move(means));
}

/// Slowest over fastest mean latency among tenants with equal models, of the kind where that is largest.
double spread_of(const std::vector<by_tenant>& pieces) {
  double worst = missing;
  for (std::size_t what = 0; what < kinds; ++what) {
    double least = std::numeric_limits<double>::infinity();
    double most = 0;
    for (std::size_t i = what; i < pieces.front().size(); i += kinds) {
      const double one = mean_of(pieces, i);
      if (std::isnan(one)) continue;
      least = std::min(least, one);
      most = std::max(most, one);
    }
    if (most > 0 && !(most / least <= worst)) worst = most / least;
  }
  return worst;
}

/// What `spread_of` would mostly be if each request of a kind had been any tenant's: the median of some deals.
double spread_by_chance(const std::vector<by_tenant>& pieces) {
  std::mt19937 random(1);
  std::vector<double> spreads;
  for (int deal = 0; deal < 21; ++deal) {
    auto dealt = pieces;
    for (by_tenant& piece : dealt) {
      for (std::size_t what = 0; what < kinds; ++what) {
        std::vector<double> all;
        for (std::size_t i = what; i < piece.size(); i += kinds)
          all.insert(all.end(), piece[i].begin(), piece[i].end());
        std::shuffle(all.begin(), all.end(), random);
        auto next = all.cbegin();
        for (std::size_t i = what; i < piece.size(); i += kinds) {
          const auto end = next + static_cast<std::ptrdiff_t>(piece[i].size());
          std::copy(next, end, piece[i].begin());
          next = end;
        }
      }
    }
    spreads.push_back(spread_of(dealt));
  }
  return median(std::move(spreads));
}

/// p99 over all tenants of a kind but the one that floods; infinite where more than that were dropped.
double p99_of_others(const by_tenant& latencies, std::size_t what) {
  std::vector<double> all;
  for (std::size_t i = what; i < latencies.size(); i += kinds) {
    if (i != flooding) all.insert(all.end(), latencies[i].begin(), latencies[i].end());
  }
  return summary(std::move(all)).p99();
}

/// p99 of the others of a kind under the flood over that of the piece before it: the median over the pairs.
double flooded_over_usual(const std::vector<by_tenant>& flooded, const std::vector<by_tenant>& usual,
                          std::size_t what) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < usual.size(); ++i) {
    const double after = p99_of_others(flooded[i], what);
    // Infinite over infinite tells nothing, and is not taken for good.
    const double ratio = std::isinf(after) ? after : after / p99_of_others(usual[i], what);
    if (!std::isnan(ratio)) ratios.push_back(ratio);
  }
  return median(std::move(ratios));
}

/// What a scheduler says of the wait for company in several loads; nothing for an arm without one.
struct company {
  double waited_ns = 0;
  double hidden_ns = 0;
  double packets = 0;
  double ops = 0;
  double fused = 0;
  using counters = std::optional<cohort::scheduler_statistics>;
  counters last;

  void add(const counters& before, const counters& after) {
    if (!before || !after) return;
    waited_ns += static_cast<double>((after->waited - before->waited).count());
    hidden_ns += static_cast<double>((after->waited_hidden - before->waited_hidden).count());
    packets += static_cast<double>(after->packets - before->packets);
    ops += static_cast<double>(after->committed - before->committed);
    fused += static_cast<double>(after->fused - before->fused);
    last = after;
  }

  double hidden() const { return waited_ns > 0 ? hidden_ns / waited_ns : 1; }
};

}  // namespace

contest::contest(report& to, std::vector<arm*> arms, std::uint32_t tenants, contest_plan plan,
                 std::function<double(arm&)> check, double tolerance)
    : to_(to),
      tenants_(tenants),
      plan_(std::move(plan)),
      check_(std::move(check)),
      tolerance_(tolerance),
      printer_({{"stage", 10},
                {"arm", 24},
                {"rate/s", 9, 0},
                {"offered/s", 9, 0},
                {"attained", 8, 4},
                {"goodput/s", 9, 0},
                {"dropped", 7, 4},
                {"MLP p50", 8, 0},
                {"p99 us", 8, 0},
                {"BERT p50", 8, 0},
                {"p99 us", 8, 0},
                {"LSTM p50", 8, 0},
                {"p99 us", 8, 0}}) {
  for (arm* const one : arms) all_.push_back({.who = one});
}

/// Calls `body()` for a contestant; one for which it throws is out.
template <class Body>
void contest::attempt(const char* stage, contestant& one, Body&& body) {
  try {
    body();
  } catch (const std::exception& error) {
    one.excuse = error.what();
    to_.wrong(std::string(stage) + ", " + one.who->name() + " is out: " + error.what());
    try {
      if (one.who->inside() == 0) one.who->leave();
    } catch (const std::exception& again) {
      std::printf("# it does not leave the device: %s\n", again.what());
    }
  }
}

/// Calls `body(contestant)` for each arm that is still in.
template <class Stage>
void contest::each(const char* stage, Stage&& body) {
  for (contestant& one : all_) {
    if (!one.excuse.empty()) continue;
    std::printf("# %5.1f s: %s, %s\n", elapsed(), stage, one.who->name().c_str());
    attempt(stage, one, [&] { body(one); });
  }
  to_.save();
}

trial contest::load(arm& on, double rate, double seconds, const std::vector<cohort_load::source>& sources,
                    std::uint64_t seed, const cohort_load::gaps& law) const {
  const auto warm_up = nanoseconds(0.1 * seconds);
  const auto end = warm_up + nanoseconds(seconds);
  trial one(cohort_load::generate(law, rate, end, sources, seed), warm_up, end);
  on.enter();
  one.run(on, plan_.polite);
  on.leave();
  return one;
}

verdict contest::show(const char* stage, const arm& on, double rate, const trial& one, const target_times& targets) {
  const verdict v = judge(one, targets);
  printer_.row({stage, on.name(), rate, v.offered, v.attainment, v.goodput, v.drop_rate, v.latency[0].p50(),
                v.latency[0].p99(), v.latency[1].p50(), v.latency[1].p99(), v.latency[2].p50(), v.latency[2].p99()});
  boost::json::object row{{"stage", stage}, {"arm", on.name()}, {"rate_per_s", number(rate)}};
  for (auto& [key, value] : json_of(v)) row[key] = std::move(value);
  to_.row(std::move(row));
  if (v.failed > 0) throw std::runtime_error(std::to_string(v.failed) + " requests failed");
  return v;
}

/// Searches the largest rate of each that is still in, trial by trial in turn, and calls `found(contestant, rate)`.
void contest::search(const char* stage, const std::vector<contestant*>& all, const target_times& targets,
                     const cohort_load::gaps& law, std::uint64_t seed,
                     const std::function<void(contestant&, double)>& found) {
  std::printf("# %5.1f s: %s\n", elapsed(), stage);
  const auto sources = cohort_load::sources_of(tenants_);
  std::vector<rate_search> searches(all.size(), rate_search(plan_.search));
  for (bool any = true; std::exchange(any, false);) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!all[i]->excuse.empty() || searches[i].done()) continue;
      any = true;
      attempt(stage, *all[i], [&] {
        arm& on = *all[i]->who;
        const double rate = searches[i].rate();
        const trial one = load(on, rate, plan_.trial_seconds, sources, seed, law);
        searches[i].tried(show(stage, on, rate, one, targets).attainment >= wanted_attainment);
      });
    }
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!all[i]->excuse.empty()) continue;
    const double rate = searches[i].found();
    std::printf("# %s: %s carries %.0f requests/s at 99 %% attainment\n", stage, all[i]->who->name().c_str(), rate);
    found(*all[i], rate);
  }
  to_.save();
}

std::vector<contest::contestant*> contest::everyone() {
  std::vector<contestant*> all;
  for (contestant& one : all_) all.push_back(&one);
  return all;
}

void contest::check() {
  each("check", [&](contestant& one) {
    const double error = check_(*one.who);
    std::printf("# %s: largest relative error %.2e\n", one.who->name().c_str(), error);
    to_.row({{"stage", "check"}, {"arm", one.who->name()}, {"error", number(error)}});
    if (!(error <= tolerance_)) throw std::runtime_error("a relative error of " + std::to_string(error));
  });
}

void contest::time_alone() {
  alone_us_.fill(missing);
  each("alone", [&](contestant& one) {
    arm& on = *one.who;
    boost::json::object row{{"stage", "alone"}, {"arm", on.name()}};
    on.enter();
    for (std::uint32_t what = 0; what < kinds; ++what) {
      constexpr std::uint32_t warm_up = 10;
      const std::uint32_t times = plan_.timed ? 100 : 20;
      on.report_to(std::make_shared<request_log>(times));
      std::vector<double> samples;
      for (std::uint32_t i = 0; i < times; ++i) {
        const auto begin = clock::now();
        if (!on.start(what, i)) throw std::runtime_error("a request alone finds no buffer");
        while (on.inside() > 0) {
          if (!on.poll() && plan_.polite) std::this_thread::yield();
          if (microseconds_since(begin) > 5e6) throw std::runtime_error("a request alone does not end");
        }
        if (i >= warm_up) samples.push_back(microseconds_since(begin));
      }
      const double us = median(std::move(samples));
      const std::string_view name = name_of(static_cast<kind>(what));
      std::printf("# %s: one %.*s alone %.1f us\n", on.name().c_str(), static_cast<int>(name.size()), name.data(), us);
      row[name] = number(us);
      alone_us_[what] = least(alone_us_[what], us);
    }
    on.leave();
    to_.row(std::move(row));
  });
  std::string text = "targets:";
  for (std::size_t i = 0; i < kinds; ++i) {
    targets_[i] = 1e3 * std::max(plan_.times_alone * alone_us_[i], plan_.least_target_us);
    char one[64];
    std::snprintf(one, sizeof one, " %s %.0f us", std::string(name_of(static_cast<kind>(i))).c_str(),
                  targets_[i] * 1e-3);
    text += one;
  }
  char rule[128];
  std::snprintf(rule, sizeof rule, "; %g times the least time alone of any arm, at least %g us", plan_.times_alone,
                plan_.least_target_us);
  to_.note(text + rule);
  for (contestant& one : all_) one.who->aim(targets_);
}

/// What was recorded elsewhere has tenants and models of its own: a request goes to a tenant that has its kind of
/// model.
void contest::replay() {
  std::vector<cohort_load::arrival> mine = plan_.recorded;
  const std::uint32_t each_kind = std::max<std::uint32_t>(tenants_ / kinds, 1);
  for (cohort_load::arrival& one : mine) one.tenant = one.tenant % each_kind * kinds + one.model % kinds;
  const auto end = std::max(mine.back().at, std::chrono::nanoseconds(1));
  const double rate = static_cast<double>(mine.size()) * 1e9 / static_cast<double>(end.count());
  each("replay", [&](contestant& one) {
    trial recorded(mine, {}, end);
    one.who->enter();
    recorded.run(*one.who, plan_.polite);
    one.who->leave();
    (void)show("replay", *one.who, rate, recorded, targets_);
  });
}

void contest::search_rates() {
  for (int round = 1; round <= plan_.rounds; ++round) {
    const auto seed = static_cast<std::uint64_t>(round);
    search("search", everyone(), targets_, plan_.law, seed, [&](contestant& one, double rate) {
      to_.row({{"stage", "rate"}, {"arm", one.who->name()}, {"round", round}, {"rate_per_s", number(rate)}});
      one.rates.push_back(rate);
    });
  }
}

/// An even load and the same with one tenant that floods, in turn.
contest::treatment contest::treat(const char* stage, arm& on, double rate) {
  const auto even = cohort_load::sources_of(tenants_);
  auto with_flood = even;
  with_flood[flooding].share = flood;
  const double more = rate * (tenants_ - 1 + flood) / tenants_;
  double seconds = plan_.steady_seconds;
  if (plan_.timed && &on == all_.front().who) {
    seconds = std::max(seconds, std::min(plan_.fair_requests * tenants_ / rate, plan_.most_seconds));
  }
  seconds /= plan_.pieces;

  std::vector<by_tenant> usual;
  std::vector<by_tenant> flooded;
  company seen;
  for (int piece = 0; piece < plan_.pieces; ++piece) {
    const auto seed = static_cast<std::uint64_t>(201 + 2 * piece);
    const auto before = on.statistics();
    const trial first = load(on, rate, seconds, even, seed, plan_.law);
    seen.add(before, on.statistics());
    (void)show(stage, on, rate, first, targets_);
    usual.push_back(latencies_of(first, tenants_));
    const trial second = load(on, more, seconds, with_flood, seed + 1, plan_.law);
    (void)show("flood", on, more, second, targets_);
    flooded.push_back(latencies_of(second, tenants_));
  }

  treatment found;
  found.spread = spread_of(usual);
  found.by_chance = spread_by_chance(usual);
  boost::json::object row{{"stage", "fairness"},
                          {"load", stage},
                          {"arm", on.name()},
                          {"rate_per_s", number(rate)},
                          {"spread", number(found.spread)},
                          {"spread_by_chance", number(found.by_chance)}};
  boost::json::array means;
  for (std::size_t i = 0; i < tenants_; ++i) means.push_back(number(mean_of(usual, i) * 1e-3));
  row["mean_us_by_tenant"] = std::move(means);
  for (std::size_t what = 0; what < kinds; ++what) {
    const double ratio = flooded_over_usual(flooded, usual, what);
    row["flood_p99_" + std::string(name_of(static_cast<kind>(what)))] = number(ratio);
    if (!(ratio <= found.flooded)) found.flooded = ratio;
  }
  if (seen.last) {
    found.hidden = seen.hidden();
    row["wait_hidden"] = number(found.hidden);
    row["mean_wait_us"] = number(seen.waited_ns * 1e-3 / seen.ops);
    row["ops_per_packet"] = number(seen.ops / seen.packets);
    row["fused"] = number(seen.fused / seen.ops);
    row["prediction_error"] = number(seen.last->prediction_error);
    row["farthest_behind"] = seen.last->farthest_behind;
    std::printf("# %s: of the wait %.4f hidden, %.1f ops to a packet, %.2f of them fused\n", on.name().c_str(),
                found.hidden, seen.ops / seen.packets, seen.fused / seen.ops);
  }
  std::printf("# %s: slowest over fastest equal tenant %.3f (by chance %.3f), p99 of others under the flood x %.2f\n",
              on.name().c_str(), found.spread, found.by_chance, found.flooded);
  to_.row(std::move(row));
  return found;
}

void contest::steady_loads() {
  const double own = own_load * all_.front().rate();
  double common = own;
  for (std::size_t i = 1; i < all_.size(); ++i) {
    if (all_[i].rate() > 0) common = least(common, common_load * all_[i].rate());
  }
  if (!(common > 0)) return;
  own_rate_ = own;
  each("common load", [&](contestant& one) { one.at_common = treat("common", *one.who, common); });
  contestant& ours = all_.front();
  if (!ours.excuse.empty()) return;
  attempt("own load", ours, [&] { ours.at_own = treat("own", *ours.who, own); });
  to_.save();
}

void contest::search_variants() {
  std::vector<contestant*> all{&all_.front()};
  for (contestant& one : variants_) {
    one.who->aim(targets_);
    all.push_back(&one);
  }
  search("variant", all, targets_, plan_.law, 1, [&](contestant& one, double rate) {
    to_.row({{"stage", "rate of a variant"}, {"arm", one.who->name()}, {"rate_per_s", number(rate)}});
  });
}

void contest::other_targets() {
  const auto once = [&](const char* stage, const target_times& targets, const cohort_load::gaps& law) {
    if (elapsed() > plan_.budget_seconds) {
      to_.note(std::string("left out for lack of time: ") + stage);
      return;
    }
    for (contestant& one : all_) one.who->aim(targets);
    search(stage, everyone(), targets, law, 1, [&](contestant& one, double rate) {
      to_.row({{"stage", stage}, {"arm", one.who->name()}, {"rate_at_99", number(rate)}});
    });
  };
  target_times twice = targets_;
  for (double& one : twice) one *= 2;
  once("2x target", twice, plan_.law);
  for (const auto& [name, law] : cohort_load::measured_laws) {
    if (law != plan_.law) once(std::string(name).c_str(), targets_, law);
  }
  target_times half = targets_;
  for (double& one : half) one /= 2;
  once("half target", half, plan_.law);
  for (contestant& one : all_) one.who->aim(targets_);
}

void contest::judge_targets() {
  const contestant& ours = all_.front();
  const double least_tried = plan_.search.first_rate * std::exp2(1 - plan_.search.doublings);
  for (std::size_t i = 1; i < all_.size(); ++i) {
    const contestant& other = all_[i];
    double rate = other.rate();
    if (rate == 0) {
      to_.note(other.who->name() + " attains 99 % at no rate that was tried: the least of them stands for it");
      rate = least_tried;
    }
    to_.target("rate at 99 % attainment over " + other.who->name(), 3, ours.rate() / rate);
  }
  const auto say = [&](const treatment& found, const std::string& where) {
    to_.target("wait hidden behind other work" + where, 0.95, found.hidden);
    to_.target("slowest over fastest mean latency of equal tenants" + where, 1.05, found.spread, bound::at_most);
    to_.target("p99 of the others while one tenant floods at 10 times its share, over before" + where, 1.5,
               found.flooded, bound::at_most);
  };
  say(ours.at_common, ", at a load that all arms carry");
  say(ours.at_own, ", at 0.6 of our own rate");
}

void contest::run() {
  check();
  time_alone();
  printer_.header();
  if (!plan_.recorded.empty()) return replay();
  search_rates();
  steady_loads();
  search_variants();
  if (plan_.extras) other_targets();
  if (plan_.timed) judge_targets();
}

}  // namespace cohort_bench::slo
