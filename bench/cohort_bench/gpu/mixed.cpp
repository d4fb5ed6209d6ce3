// mixed: 64 products of 16 shapes at once, as the layers of unlike models come together on one device.
#include "../command.hpp"
#include "../report.hpp"
#include "../statistics.hpp"
#include "ceilings.hpp"
#include "contest.hpp"
#include "operands.hpp"
#include "peers.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace cohort_bench {
namespace {

constexpr std::size_t shapes_at_once = 16;
constexpr std::size_t products_at_once = 64;

/// Layers of models that people serve, in the papers' order: output features, tokens (any of some), input features.
struct layer {
  std::uint32_t m, k;
  std::array<std::uint32_t, 3> tokens;
};

constexpr std::array layers = {
    // BERT base: attention projections and feed-forward, sentences of 16 to 128 tokens
    layer{768, 768, {16, 64, 128}}, layer{3072, 768, {16, 32, 64}}, layer{768, 3072, {16, 32, 64}},
    // MiniLM
    layer{384, 384, {8, 32, 128}}, layer{1536, 384, {8, 32, 64}}, layer{384, 1536, {8, 32, 64}},
    // ResNet as products of im2col: channels out, pixels, channels in times taps
    layer{64, 576, {784, 784, 196}}, layer{128, 1152, {196, 196, 49}}, layer{256, 1152, {128, 196, 49}},
    layer{256, 2304, {196, 49, 49}}, layer{512, 4608, {49, 49, 49}},
    // LSTM: four gates, small batches
    layer{2048, 512, {1, 4, 8}}, layer{4096, 1024, {1, 2, 4}}, layer{1024, 512, {1, 8, 16}},
    // MLP of a recommender
    layer{512, 256, {64, 128, 256}}, layer{256, 512, {64, 128, 256}}, layer{64, 256, {64, 128, 256}},
    layer{1024, 480, {16, 32, 64}}};

/// 16 different shapes, four of each, shuffled: as requests come.
std::vector<problem> draw(std::uint64_t seed) {
  std::mt19937_64 random(seed);  // its values are fixed by the standard, those of the distributions are not
  std::vector<problem> shapes;
  while (shapes.size() < shapes_at_once) {
    const layer& one = layers[random() % layers.size()];
    const problem shape{one.m, one.tokens[random() % one.tokens.size()], one.k};
    if (std::find(shapes.begin(), shapes.end(), shape) == shapes.end()) shapes.push_back(shape);
  }
  std::vector<problem> all;
  for (std::size_t i = 0; i < products_at_once; ++i) all.push_back(shapes[i % shapes_at_once]);
  for (std::size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[random() % i]);
  return all;
}

template <class T>
void measure(const options& chosen, const ceilings& most, const cublas_streams& cublas, report& to) {
  constexpr element_type type = type_of<T>;
  linear_executor<T> gpu;
  const auto alone = make_one_at_a_time(cublas);
  const auto streams = make_streams(cublas);
  const auto graph = make_graph(cublas);
  const auto grouped = make_grouped(cublas);
  const std::vector<peer*> peers = chosen.skip_peers
                                       ? std::vector<peer*>{}
                                       : std::vector<peer*>{alone.get(), streams.get(), graph.get(), grouped.get()};
  const contest_plan plan = plan_for(chosen);
  const table_printer printer({{"type", 4},
                               {"seed", 4, 0},
                               {"operands", 8},
                               {"/time", 7},
                               {"/streams", 8},
                               {"/graph", 7},
                               {"/grouped", 8},
                               {"of floor", 8},
                               {"TFLOP/s", 8},
                               {"us", 8},
                               {"p99 us", 8},
                               {"packets", 7, 1}});
  printer.header();
  for (const bool rotating : {true, false}) {
    const char* const variant = rotating ? "rotating" : "in L2";
    std::vector<double> over_streams, over_grouped, over_floor;
    for (std::uint64_t seed = 1; seed <= (chosen.quick ? 2u : 6u); ++seed) {
      const std::vector<problem> shapes = draw(seed);
      const std::size_t count = rotating ? operand_sets::sets_for_rotation(shapes, type) : 1;
      const operand_sets operands(shapes, type, count);
      const std::vector<batch> sets = operands.sets(count);
      verifier check(type, sets);
      const std::string where = std::string(name_of(type)) + " seed " + std::to_string(seed) + " " + variant;
      const contest_result found = run_contest(gpu, peers, {sets, sets}, check, plan, where, to);
      const arm_result& mine = *found.find(ours);
      const double flops = flops_of(sets.front());
      const double floor = most.floor_us(flops, bytes_of(sets.front(), type), type, !rotating);
      over_streams.push_back(found.over("streams"));
      over_grouped.push_back(found.over("grouped"));
      over_floor.push_back(mine.us.p50() / most.least_us(floor));
      printer.row({name_of(type), double(seed), variant, found.over("time-only"), over_streams.back(),
                   found.over("graph"), over_grouped.back(), floor / mine.us.p50(), flops / mine.us.p50() * 1e-6,
                   mine.us.p50(), mine.us.p99(), found.packets_per_batch});
      boost::json::array drawn;
      for (const problem& p : shapes) drawn.emplace_back(p.name());
      to.row({{"type", name_of(type)},
              {"seed", seed},
              {"operands", variant},
              {"sets", count},
              {"arms", found.json()},
              {"floor_us", number(floor)},
              {"share_of_floor", number(floor / mine.us.p50())},
              {"packets_per_batch", number(found.packets_per_batch)},
              {"problems", std::move(drawn)}});
    }
    const std::string end = std::string(", ") + name_of(type) + ", " + variant;
    const auto target = [&](const char* what, double wanted, const std::vector<double>& over) {
      const double mean = geometric_mean(over);
      to.target(what + end, wanted, mean, bound::at_least, mean * geometric_mean(over_floor));
    };
    target("mixed over streams", 10, over_streams);
    target("mixed over grouped", 1.5, over_grouped);
  }
}

int run_mixed(const options& chosen) {
  if (!device_present()) return skipped;
  report to("mixed", chosen);
  describe_device(to);
  const cublas_streams cublas;
  const ceilings most = measure_ceilings(cublas, to);
  to.note("64 products of 16 shapes, drawn with the seed from layers of BERT, MiniLM, ResNet, LSTM and a recommender");
  if (chosen.type != "bf16") measure<float>(chosen, most, cublas, to);
  if (chosen.type != "fp32") measure<cohort::bf16>(chosen, most, cublas, to);
  return to.finish();
}

const registration announced({"mixed", place::gpu,
                              "64 products of 16 shapes at once, against streams, a graph and grouped", &run_mixed});

}  // namespace
}  // namespace cohort_bench
