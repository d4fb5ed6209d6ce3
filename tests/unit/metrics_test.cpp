// Metrics: what is counted, and that the text follows the rules of the Prometheus text format.
#include "schedule_fixtures.hpp"

#include <cohort/backend/host.hpp>
#include <cohort/executor.hpp>
#include <cohort/memory.hpp>
#include <cohort/observe/metrics.hpp>
#include <cohort/ops/copy.hpp>

#include <boost/asio/thread_pool.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

using namespace cohort;
using namespace std::chrono_literals;

namespace {

using labels = std::map<std::string, std::string>;
using series = std::pair<std::string, labels>;

bool first_of_name(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool of_name(char c) { return first_of_name(c) || std::isdigit(static_cast<unsigned char>(c)) != 0; }

/// A strict reader of version 0.0.4: more than the format demands, it wants HELP and TYPE before each metric, all of a
/// metric together, no sample twice, counters that end in _total, and whole histograms. Throws a reason.
class exposition_reader {
public:
  explicit exposition_reader(std::string_view text) : rest_(text) {
    must(text.empty() || text.back() == '\n', "the last line does not end");
    while (!rest_.empty()) line();
    finish_family();
  }

  std::map<series, double> samples;
  std::map<std::string, std::string> types;

  double at(const std::string& name, const labels& with = {}) const { return samples.at({name, with}); }

private:
  static void must(bool so, const std::string& why) {
    if (!so) throw why;
  }

  bool take(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  void expect(char c) {
    must(take(c), std::string("expected '") + c + "' before: " + std::string(rest_.substr(0, 40)));
  }
  void expect(std::string_view word) {
    for (const char c : word) expect(c);
  }

  std::string name() {
    must(!rest_.empty() && first_of_name(rest_.front()), "bad name: " + std::string(rest_.substr(0, 40)));
    std::size_t n = 1;
    while (n < rest_.size() && of_name(rest_[n])) ++n;
    std::string out(rest_.substr(0, n));
    rest_.remove_prefix(n);
    return out;
  }

  std::string until_end_of_line() {
    const std::size_t n = rest_.find('\n');
    std::string out(rest_.substr(0, n));
    rest_.remove_prefix(n + 1);
    return out;
  }

  double number() {
    const std::string word = until_end_of_line();
    if (word == "+Inf") return std::numeric_limits<double>::infinity();
    std::size_t used = 0;
    const double value = std::stod(word, &used);
    must(used == word.size(), "not a number: " + word);
    return value;
  }

  void line() {
    if (take('#')) {
      expect(" HELP ");
      finish_family();
      family_ = name();
      expect(' ');
      must(!until_end_of_line().empty(), "no help");
      expect("# TYPE ");
      must(name() == family_, "TYPE of another metric");
      expect(' ');
      type_ = until_end_of_line();
      must(type_ == "counter" || type_ == "histogram" || type_ == "gauge", "unknown type " + type_);
      must(types.emplace(family_, type_).second, "a metric is told twice: " + family_);
      must((type_ == "counter") == family_.ends_with("_total"), "counters end in _total, and nothing else does");
      return;
    }
    const std::string sample = name();
    labels with;
    if (take('{')) {
      do {
        const std::string label = name();
        must(!label.starts_with("__"), "a reserved label");
        expect("=\"");
        std::string value;
        while (!take('"')) {
          must(!rest_.empty() && rest_.front() != '\n', "a label value does not end");
          if (take('\\')) {
            must(!rest_.empty() && std::string_view("\\\"n").find(rest_.front()) != std::string_view::npos,
                 "bad escape");
            value += rest_.front() == 'n' ? '\n' : rest_.front();
          } else {
            value += rest_.front();
          }
          rest_.remove_prefix(1);
        }
        must(with.emplace(label, value).second, "a label twice");
      } while (take(','));
      expect('}');
    }
    expect(' ');
    const double value = number();
    must(samples.emplace(series{sample, with}, value).second, "a sample twice: " + sample);
    if (type_ == "counter" || type_ == "gauge") {
      must(sample == family_, "a sample of another metric: " + sample);
      must(type_ == "gauge" || value >= 0, "a counter below 0");
    } else {
      histogram_sample(sample, with, value);
    }
  }

  void histogram_sample(const std::string& sample, labels with, double value) {
    const auto bound = with.find("le");
    if (bound != with.end()) {
      must(sample == family_ + "_bucket", "le outside of a bucket");
      const double le = bound->second == "+Inf" ? std::numeric_limits<double>::infinity() : std::stod(bound->second);
      with.erase(bound);
      auto& one = histograms_[with];
      must(!one.last_bound || *one.last_bound < le, "le does not ascend");
      must(value >= one.below, "buckets do not accumulate");
      one.last_bound = le;
      one.below = value;
    } else {
      auto& one = histograms_[with];
      must(one.last_bound && std::isinf(*one.last_bound), "no +Inf before " + sample);
      if (sample == family_ + "_sum") {
        must(!one.sum, "two sums");
        one.sum = true;
      } else {
        must(sample == family_ + "_count" && !one.count, "not of a histogram: " + sample);
        must(value == one.below, "+Inf is not the count");
        one.count = true;
      }
    }
  }

  void finish_family() {
    for (const auto& [with, one] : histograms_) must(one.sum && one.count, "an unfinished histogram: " + family_);
    histograms_.clear();
  }

  struct open_histogram {
    std::optional<double> last_bound;
    double below = 0;
    bool sum = false, count = false;
  };

  std::string_view rest_;
  std::string family_, type_;
  std::map<labels, open_histogram> histograms_;
};

exposition_reader read(const std::string& text) {
  try {
    return exposition_reader(text);
  } catch (const std::string& why) {
    FAIL(why << "\n" << text);
    throw;
  }
}

bool rejected(const std::string& text) {
  try {
    exposition_reader reader(text);
    return false;
  } catch (const std::string&) {
    return true;
  }
}

labels of_tenant(const char* name, const char* id, const char* ending = nullptr) {
  labels out{{"tenant", name}, {"tenant_id", id}};
  if (ending != nullptr) out["ending"] = ending;
  return out;
}

}  // namespace

TEST_CASE("the checker of the format rejects what breaks its rules") {
  const std::string head = "# HELP h x\n# TYPE h histogram\n";
  CHECK_FALSE(rejected(head + "h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n"));
  CHECK(rejected(head + "h_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n"));
  CHECK(rejected(head + "h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 3\n"));
  CHECK(rejected(head + "h_bucket{le=\"2\"} 1\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n"));
  CHECK(rejected(head + "h_bucket{le=\"1\"} 1\nh_sum 3\nh_count 1\n"));
  CHECK(rejected(head + "h_bucket{le=\"+Inf\"} 2\nh_sum 3\n"));
  CHECK(rejected("# HELP c_total x\n# TYPE c_total counter\nc_total{a=\"\n\"} 1\n"));
  CHECK(rejected("# HELP c_total x\n# TYPE c_total counter\nc_total 1\nc_total 1\n"));
  CHECK(rejected("# HELP c_total x\n# TYPE c_total counter\nc_total 1"));
  CHECK(rejected("# HELP c x\n# TYPE c counter\nc 1\n"));
}

TEST_CASE("metrics say what happened: latency, company, slack, misses, refusals, waiting and errors of prediction") {
  schedule_test::workshop shop;
  metrics all;
  scheduler<> s(schedule_test::op_table, machine_shape{},
                device_rates{.flops_per_ns = 1, .bytes_per_ns = 1, .packet_overhead = 1000ns});
  s.observe(&all);
  s.set_tenant(1, {.name = "strict \"\\\n", .latency_target = 10us, .queue_capacity = 1});
  const auto submit = [&](std::chrono::nanoseconds now, tenant_id tenant) -> submission& {
    auto& one = shop.make(schedule_test::odd);
    one.tenant = tenant;
    one.cost.flops = 1000;
    s.submit(one, shop.at(now));
    return one;
  };
  submit(0us, 0);
  CHECK_FALSE(s.next(shop.at(2us), shop.storage).empty());  // 1: waits 2 us on an idle device
  submit(3us, 1);
  submit(3us, 1);  // finds the queue full
  submit(3us, 0);
  CHECK(s.cancel(submit(3us, 0), shop.at(4us)));
  s.complete(1, {}, shop.at(6us));  // took 4 us, 2 were predicted
  CHECK_FALSE(s.next(shop.at(6us), shop.storage).empty());
  s.complete(2, {}, shop.at(20us));  // of two; tenant 1 wanted it within 10 us

  const auto m = read(all.text());
  const labels def = of_tenant("default", "0");
  const labels strict = of_tenant("strict \"\\\n", "1");
  CHECK(m.at("cohort_submissions_total", def) == 3);
  CHECK(m.at("cohort_submissions_total", strict) == 2);
  CHECK(m.at("cohort_deadline_misses_total", def) == 0);
  CHECK(m.at("cohort_deadline_misses_total", strict) == 1);
  CHECK(m.at("cohort_ends_total", of_tenant("default", "0", "completed")) == 2);
  CHECK(m.at("cohort_ends_total", of_tenant("default", "0", "cancelled")) == 1);
  CHECK(m.at("cohort_ends_total", of_tenant("strict \"\\\n", "1", "refused")) == 1);
  CHECK(m.at("cohort_packets_total", {{"reason", "idle_device"}}) == 2);
  CHECK(m.at("cohort_packet_ops_count") == 2);
  CHECK(m.at("cohort_packet_ops_sum") == 3);
  CHECK(m.at("cohort_packet_ops_bucket", {{"le", "1"}}) == 1);
  CHECK(m.at("cohort_op_latency_seconds_sum", {{"op", "odd"}, {"company", "no"}}) == doctest::Approx(6e-6));
  CHECK(m.at("cohort_op_latency_seconds_sum", {{"op", "odd"}, {"company", "yes"}}) == doctest::Approx(34e-6));
  CHECK(m.at("cohort_op_device_seconds_sum", {{"op", "odd"}, {"company", "no"}}) == doctest::Approx(4e-6));
  CHECK(m.at("cohort_op_device_seconds_sum", {{"op", "odd"}, {"company", "yes"}}) == doctest::Approx(14e-6));
  CHECK(m.at("cohort_op_latency_seconds_count", {{"op", "wide"}, {"company", "no"}}) == 0);
  CHECK(m.at("cohort_wait_seconds_sum") == doctest::Approx(8e-6));
  CHECK(m.at("cohort_waited_seconds_total") == doctest::Approx(8e-6));
  CHECK(m.at("cohort_waited_hidden_seconds_total") == doctest::Approx(6e-6));
  CHECK(m.at("cohort_prediction_error_ratio_count") == 2);
  CHECK(m.at("cohort_prediction_error_ratio_bucket", {{"le", "0.5"}}) >= 1);
  CHECK(m.at("cohort_dispatch_slack_seconds_count") == 3);
  CHECK(m.at("cohort_dispatch_slack_seconds_bucket", {{"le", "0"}}) == 0);
  CHECK(m.at("cohort_device_busy_seconds_total") == doctest::Approx(18e-6));
  CHECK(m.at("cohort_service_seconds_total", def) + m.at("cohort_service_seconds_total", strict) ==
        doctest::Approx(18e-6));
  CHECK(m.at("cohort_decision_seconds_count") == 0);  // it is the engine that has a clock
}

TEST_CASE("a packet's padding is that of its records, by the time that each is predicted to take") {
  schedule_test::workshop shop;
  metrics all;
  scheduler<> s(schedule_test::op_table, machine_shape{}, device_rates{.flops_per_ns = 1, .bytes_per_ns = 1});
  s.observe(&all);
  const auto submit = [&](std::uint16_t op, std::uint64_t key) {
    auto& one = shop.make(op, 1, key);
    one.cost.flops = 1000;
    s.submit(one, shop.at(0ns));
  };
  submit(schedule_test::fused, 1);  // alone: half of it is padding
  submit(schedule_test::fused, 2);
  submit(schedule_test::fused, 2);  // two: nothing
  submit(schedule_test::odd, 0);    // says nothing
  CHECK_FALSE(s.next(shop.at(0ns), shop.storage).empty());
  const auto m = read(all.text());
  CHECK(m.at("cohort_packet_padding_ratio_count") == 1);
  CHECK(m.at("cohort_packet_padding_ratio_sum") == doctest::Approx(500. / 4000));
}

TEST_CASE(
    "what is cancelled or times out is counted as that, pending or on the device, and its service is its tenant's") {
  schedule_test::workshop shop;
  metrics all;
  scheduler<> s(schedule_test::op_table, machine_shape{},
                device_rates{.flops_per_ns = 1, .bytes_per_ns = 1, .packet_overhead = 1000ns, .max_packets = 1});
  s.observe(&all);
  const auto submit = [&](std::chrono::nanoseconds expires) -> submission& {
    auto& one = shop.make(schedule_test::odd);
    one.expires = shop.at(expires);
    s.submit(one, shop.at(0us));
    return one;
  };
  submission& cancelled = submit(1s);
  submit(2us);
  CHECK_FALSE(s.next(shop.at(0us), shop.storage).empty());
  CHECK(s.cancel(cancelled, shop.at(1us)));
  submit(2us);  // pending
  s.expire(shop.at(2us));
  s.complete(1, {}, shop.at(6us));
  const auto m = read(all.text());
  CHECK(m.at("cohort_submissions_total", of_tenant("default", "0")) == 3);
  CHECK(m.at("cohort_ends_total", of_tenant("default", "0", "cancelled")) == 1);
  CHECK(m.at("cohort_ends_total", of_tenant("default", "0", "timed_out")) == 2);
  CHECK(m.at("cohort_ends_total", of_tenant("default", "0", "completed")) == 0);
  CHECK(m.at("cohort_deadline_misses_total", of_tenant("default", "0")) == 0);
  CHECK(m.at("cohort_service_seconds_total", of_tenant("default", "0")) == doctest::Approx(6e-6));
  CHECK(m.at("cohort_op_latency_seconds_count", {{"op", "odd"}, {"company", "yes"}}) == 0);
}

TEST_CASE("ops of one name share a series, and tenants of one name do not") {
  const std::array table{schedule_test::op_table[0], schedule_test::op_table[0]};
  metrics all;
  all.observing(table);
  all.tenant_set(1, {.name = "twin"});
  all.tenant_set(2, {.name = "twin"});
  const auto m = read(all.text());
  CHECK(m.samples.count(series{"cohort_op_device_seconds_count", {{"op", "odd"}, {"company", "no"}}}) == 1);
  CHECK(m.samples.count(series{"cohort_submissions_total", of_tenant("twin", "2")}) == 1);
}

TEST_CASE("a tenant that nobody added is counted by its number") {
  schedule_test::workshop shop;
  metrics all;
  scheduler<> s(schedule_test::op_table, machine_shape{}, device_rates{});
  s.observe(&all);
  auto& one = shop.make(schedule_test::odd);
  one.tenant = 7;
  s.submit(one, shop.at(0ns));
  CHECK(read(all.text()).at("cohort_ends_total", of_tenant("7", "7", "refused")) == 1);
}

TEST_CASE("scrapes from other threads while the host backend runs see whole texts, and at last everything") {
  using kernels = op_set<ops::fill<float>>;
  metrics all;
  constexpr int count = 2000;
  boost::asio::thread_pool threads(1);
  std::atomic<bool> done = false;
  std::thread scraper([&] {
    while (!done.load(std::memory_order_relaxed)) read(all.text());  // relaxed: nothing is handed over
  });
  {
    executor<kernels, boost::asio::thread_pool::executor_type> gpu(
        threads, std::make_unique<host_backend<kernels>>(host_options{.workers = 1}), {.observer = &all});
    auto x = make_pinned_buffer<float>(gpu.device(), count);
    for (std::size_t i = 0; i < count; ++i) {
      gpu.async_submit(ops::make_fill(x.view().subspan(i, 1), 1.0f), [](error_code) {});
    }
    gpu.drain();
    threads.join();
  }
  done.store(true, std::memory_order_relaxed);
  scraper.join();
  const auto m = read(all.text());
  CHECK(m.at("cohort_ends_total", of_tenant("default", "0", "completed")) == count);
  CHECK(m.at("cohort_packet_ops_sum") == count);
  CHECK(m.at("cohort_decision_seconds_count") > 0);
}

TEST_CASE("an executor tells what it measured of each class of work, from any thread and without an observer") {
  using kernels = op_set<ops::fill<float>>;
  constexpr std::size_t large = 1 << 16;
  boost::asio::thread_pool threads(1);
  executor<kernels, boost::asio::thread_pool::executor_type> gpu(
      threads, std::make_unique<host_backend<kernels>>(host_options{.workers = 1}));
  CHECK(gpu.latencies().empty());
  auto x = make_pinned_buffer<float>(gpu.device(), large);
  for (int i = 0; i < 200; ++i) {
    for (const std::size_t size : {std::size_t{16}, large}) {
      gpu.async_submit(ops::make_fill(x.view().subspan(0, size), 1.0f), [](error_code) {});
      gpu.drain();
      (void)gpu.latencies();  // while the owner counts
    }
  }
  threads.join();
  const std::vector<latency_report> all = gpu.latencies();
  REQUIRE(all.size() == 2);
  CHECK(all[0].at_least < all[1].at_least);
  CHECK(all[0].p50 < all[1].p50);
  for (const latency_report& one : all) {
    CHECK(std::string(one.op) == ops::fill<float>::name);
    CHECK_FALSE(one.company);
    CHECK(one.samples == 200);
    CHECK(one.p50.count() > 0);
    CHECK(one.p50 <= one.p95);
    CHECK(one.p95 <= one.p99);
    CHECK(one.correction > 0);
  }
}
