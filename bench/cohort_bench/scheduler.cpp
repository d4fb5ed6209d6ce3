// scheduler: what the scheduler alone costs an operation, from its submission to its completion, with many of them
// pending and each of a tenant of its own. No executor, no backend, no clock: time is passed in.
#include "command.hpp"
#include "limits.hpp"
#include "linear_ops.hpp"
#include "report.hpp"
#include "statistics.hpp"

#include <cohort/schedule/scheduler.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cohort_bench {
namespace {

using ops = linear_ops<float>;
using linear = cohort::ops::linear<float>;

constexpr auto table = ops::table();
constexpr std::uint32_t members = 64;  // of each packet
constexpr std::array<std::size_t, 3> crowds{100, 1'000, 10'000};

enum class kind { own_keys, one_key, own_keys_dropping };

constexpr std::array<std::pair<kind, std::string_view>, 3> kinds{
    {{kind::own_keys, "keys all different"},
     {kind::one_key, "keys all equal"},
     {kind::own_keys_dropping, "keys all different, late work dropped"}}};

/// Late binding in packets of equal size, so that what is pending is all that differs.
struct even_packets : cohort::late_binding {
  cohort::decision decide(const cohort::queue_view& queue, cohort::time_point now) noexcept {
    cohort::decision verdict = late_binding::decide(queue, now);
    verdict.max_submissions = members;
    verdict.max_work = std::chrono::nanoseconds::max();  // whatever the slack
    return verdict;
  }
};

/// Of the thread: what else the machine does counts as little as it can.
double cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

/// Tenants that each wait for one product and then for the next one. Nodes are shuffled, and each product has a
/// deadline of its own: neither memory nor branches are met in an order that could be learned.
class crowd {
public:
  crowd(std::size_t tenants, kind what)
      : scheduler_(table, {.workers = 132, .host = false},
                   {.flops_per_ns = 1, .bytes_per_ns = 1e6, .packet_overhead = std::chrono::nanoseconds(1'000)}, {}) {
    std::mt19937 dice(7);
    // At 1 us for each product all have had a turn after so many us. Where tenants drop late work, nothing is late.
    const std::int64_t turn = 1'000 * static_cast<std::int64_t>(tenants);
    const std::int64_t least = what == kind::own_keys_dropping ? 9 * turn : turn;
    for (auto& one : deadlines_) one = std::chrono::nanoseconds(least + static_cast<std::int64_t>(dice()) % turn);
    cohort::tenant_options options{.latency_target = std::chrono::nanoseconds(least + turn)};
    if (what == kind::own_keys_dropping) options.when_late = cohort::late_work::drop;
    for (std::size_t i = 1; i <= tenants; ++i) scheduler_.set_tenant(static_cast<cohort::tenant_id>(i), options);
    for (std::size_t i = 0; i < tenants + members; ++i) {
      auto& one = *all_.emplace_back(std::make_unique<node>());
      // The operands are never looked at: addresses suffice.
      float* const x = at(1 + 2 * i);
      const float* const w = what == kind::one_key ? at(0) : at(2 + 2 * i);
      one.op = cohort::ops::make_linear<float>({x, 16}, {w, 256}, {}, {x + 16, 16}, {1, 16, 16});
      one.what.op = &one.op;
      one.what.op_bytes = sizeof one.op;
      one.what.op_index = ops::index_of<linear>;
      one.what.tenant = static_cast<cohort::tenant_id>(1 + i % tenants);
      one.what.key = one.op.key();
      one.what.cost = {.flops = 1'000, .bytes = 1'000};
    }
    std::shuffle(all_.begin(), all_.end(), dice);
    for (auto& one : all_) submit(one->what);
  }

  /// Wall time of the parts of a turn.
  struct parts {
    clock::duration next{}, complete{}, submit{};
  };

  /// One packet and its completion, after which its members are submitted again.
  void turn(parts& spent) {
    const auto begin = clock::now();
    const auto packet = scheduler_.next(now_, storage_);
    const auto formed = clock::now();
    if (packet.empty() || scheduler_.submissions_in_flight() != members)
      throw std::runtime_error("not the packet meant");
    now_ += std::chrono::nanoseconds(1'000 * members);
    cohort::submission* done = scheduler_.complete(sequence(packet), {}, now_);
    const auto completed = clock::now();
    while (done != nullptr) submit(*std::exchange(done, done->next));
    spent.next += formed - begin;
    spent.complete += completed - formed;
    spent.submit += clock::now() - completed;
  }

  std::uint64_t without_a_packet() const { return scheduler_.statistics().refused + scheduler_.statistics().dropped; }

private:
  struct node {
    cohort::submission what;
    linear op;
  };

  static float* at(std::size_t number) { return reinterpret_cast<float*>(std::uintptr_t{1 << 20} + 1024 * number); }

  static std::uint32_t sequence(std::span<const std::byte> packet) {
    return reinterpret_cast<const cohort::packet_header*>(packet.data())->sequence;
  }

  void submit(cohort::submission& one) {
    one.state = cohort::submission_state::created;
    one.deadline = now_ + deadlines_[++submitted_ % deadlines_.size()];
    scheduler_.submit(one, now_);
  }

  cohort::scheduler<even_packets> scheduler_;
  cohort::time_point now_{std::chrono::seconds(1)};
  std::vector<std::unique_ptr<node>> all_;
  std::array<std::chrono::nanoseconds, 4093> deadlines_{};  // a prime number of them: no tenant has always the same
  std::size_t submitted_ = 0;
  alignas(16) std::array<std::byte, cohort::packet_capacity> storage_;
};

struct cell {
  std::string_view what;
  std::size_t pending;
  std::unique_ptr<crowd> all;
  std::vector<double> cpu{}, next{}, complete{}, submit{};
};

int run_scheduler(const options& chosen) {
  report to("scheduler", chosen);
  to.note(
      "CPU ns per operation of submit, next and complete together, late_binding; each pending operation has a tenant "
      "of "
      "its own; " +
      std::to_string(members) + " operations a packet. The parts are wall time");
  std::vector<cell> cells;
  for (const auto& [what, name] : kinds) {
    if (name.find(chosen.problem) == std::string_view::npos) continue;
    for (const std::size_t pending : crowds) cells.push_back({name, pending, std::make_unique<crowd>(pending, what)});
  }

  // Interleaved: this machine's other work hits all alike.
  const int rounds = chosen.quick ? 5 : 21;
  const std::size_t operations = chosen.quick ? 20'000 : 200'000;
  for (int round = 0; round < rounds; ++round) {
    for (cell& one : cells) {
      crowd::parts spent;
      // The caches are the cell's own again when all have had a turn; before the first round, heaps are in use, too.
      for (std::size_t i = 0; i < (round == 0 ? 4 : 1) * one.pending / members + 1; ++i) one.all->turn(spent);
      spent = {};
      const std::size_t turns = operations / members;
      const double before = cpu_ns();
      for (std::size_t i = 0; i < turns; ++i) one.all->turn(spent);
      const double each = 1 / static_cast<double>(turns * members);
      one.cpu.push_back((cpu_ns() - before) * each);
      one.next.push_back(1e3 * microseconds(spent.next) * each);
      one.complete.push_back(1e3 * microseconds(spent.complete) * each);
      one.submit.push_back(1e3 * microseconds(spent.submit) * each);
    }
  }

  const table_printer printer({{"", 37},
                               {"pending", 8, 0},
                               {"cpu ns", 8, 1},
                               {"least", 8, 1},
                               {"/fewest", 8},
                               {"submit", 8, 1},
                               {"next", 8, 1},
                               {"complete", 8, 1}});
  printer.header();
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const cell& one = cells[i];
    const cell& fewest = cells[i / crowds.size() * crowds.size()];
    std::vector<double> growth;
    for (std::size_t round = 0; round < one.cpu.size(); ++round) growth.push_back(one.cpu[round] / fewest.cpu[round]);
    printer.row({std::string(one.what), static_cast<double>(one.pending), median(one.cpu), least(one.cpu),
                 median(growth), median(one.submit), median(one.next), median(one.complete)});
    to.row({{"what", one.what},
            {"pending", one.pending},
            {"cpu_ns", number(median(one.cpu))},
            {"least_cpu_ns", number(least(one.cpu))},
            {"over_fewest", number(median(growth))},
            {"submit_ns", number(median(one.submit))},
            {"next_ns", number(median(one.next))},
            {"complete_ns", number(median(one.complete))}});
    if (one.all->without_a_packet() > 0) to.wrong("operations were refused or dropped");
    if (one.pending != crowds.back()) continue;
    const std::string name = std::to_string(one.pending) + " pending, " + std::string(one.what);
    to.target("cpu ns per operation, " + name, 300, median(one.cpu), bound::at_most);
    to.target("times as long as with " + std::to_string(crowds.front()) + ", " + name, 2, median(growth),
              bound::at_most);
  }
  return to.finish();
}

const registration announced({"scheduler", place::host, "CPU time of the scheduler alone with up to 10,000 tenants",
                              &run_scheduler});

}  // namespace
}  // namespace cohort_bench
