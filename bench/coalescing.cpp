// What coalescing is worth on the host backend: the same requests together and one at a time, in one process, in turn.
//     coalescing [--quick] [--json FILE]
#include <semantic_search/minilm.hpp>

#include <cohort/backend/host.hpp>
#include <cohort/when_all.hpp>

#include <boost/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <string>
#include <vector>

namespace {

using namespace cohort;
using kernels = cohort_demo::minilm_ops<float>;
using gpu_type = executor<kernels>;

template <class Work>
double seconds(Work&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

struct row {
  std::string name;
  double target;
  double measured;
  std::vector<double> alone_seconds, together_seconds;
};

/// Both arms in turn, so that a machine whose speed drifts changes both; the ratio is the median of the pairs' ratios.
template <class Make>
row compare(gpu_type& gpu, std::string name, double target, int requests, int rounds, Make make) {
  row result{std::move(name), target, 0, {}, {}};
  std::vector<double> ratios;
  for (int round = -1; round < rounds; ++round) {
    const double alone = seconds([&] {
      for (int i = 0; i < requests; ++i) gpu.run(make(i));
    });
    const double together = seconds([&] {
      std::vector<decltype(make(0))> all;
      for (int i = 0; i < requests; ++i) all.push_back(make(i));
      gpu.run(when_all(std::move(all)));
    });
    if (round < 0) continue;  // warms up
    result.alone_seconds.push_back(alone);
    result.together_seconds.push_back(together);
    ratios.push_back(alone / together);
  }
  result.measured = median(ratios);
  std::printf("%-44s %6.2fx  (at least %.1fx: %s)   one at a time %8.0f/s, together %8.0f/s\n", result.name.c_str(),
              result.measured, target, result.measured >= target ? "holds" : "falls short",
              requests / median(result.alone_seconds), requests / median(result.together_seconds));
  return result;
}

struct mlp {
  mlp(gpu_type& gpu, std::size_t requests) : executor(gpu) {
    auto& device = gpu.device();
    for (auto* weights : {&w1, &w2}) {
      *weights = make_pinned_buffer<float>(device, 1024 * 4096);
      for (std::size_t i = 0; i < weights->size(); ++i) (*weights)[i] = static_cast<float>(i % 17) * 1e-3f;
    }
    for (std::size_t i = 0; i < requests; ++i) {
      x.push_back(make_pinned_buffer<float>(device, 1024));
      hidden.push_back(make_pinned_buffer<float>(device, 4096));
      y.push_back(make_pinned_buffer<float>(device, 1024));
      for (std::size_t k = 0; k < 1024; ++k) x.back()[k] = static_cast<float>((i + k) % 13) * 0.1f;
    }
  }

  task<> operator()(int i) {
    const auto at = static_cast<std::size_t>(i);
    const ops::linear_layer<float> first{w1.view(), {}, 4096, 1024, ops::activation::relu};
    const ops::linear_layer<float> second{w2.view(), {}, 1024, 4096};
    co_await executor.submit(first(x[at].view(), hidden[at].view()));
    co_await executor.submit(second(hidden[at].view(), y[at].view()));
  }

  gpu_type& executor;
  pinned_buffer<float> w1, w2;
  std::deque<pinned_buffer<float>> x, hidden, y;
};

}  // namespace

int main(int argc, char** argv) {
  bool quick = false;
  std::string json;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) quick = true;
    if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) json = argv[++i];
  }
  const int rounds = quick ? 1 : 15, requests = 64;
  boost::asio::io_context io;
  gpu_type gpu(io, std::make_unique<host_backend<kernels>>(), {.driven_by = drive::caller});
  std::vector<row> rows;

  mlp network(gpu, requests);
  rows.push_back(compare(gpu, "64 one-row requests, MLP 1024-4096-1024 fp32", 3.0, requests, quick ? 3 : 15,
                         [&](int i) { return network(i); }));

  const cohort_demo::bert_config config;
  cohort_demo::minilm<float, gpu_type> model(gpu, config);
  gpu.run(model.load(cohort_demo::synthetic_weights(config)));
  std::vector<std::vector<cohort_demo::token_id>> texts;
  for (int i = 0; i < requests; ++i) {  // 8 to 23 tokens, as short questions have
    auto& ids = texts.emplace_back(static_cast<std::size_t>(8 + i % 16));
    for (std::size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<cohort_demo::token_id>((i * 31 + t * 17) % 30000);
  }
  rows.push_back(compare(gpu, "64 MiniLM-L6 requests of 8 to 23 tokens, fp32", 1.2, requests, rounds,
                         [&](int i) { return model.embed(texts[static_cast<std::size_t>(i)]); }));

  if (!json.empty()) {
    boost::json::array targets, raw;
    for (const row& r : rows) {
      targets.push_back(
          {{"name", r.name}, {"target", r.target}, {"measured", r.measured}, {"holds", r.measured >= r.target}});
      raw.push_back({{"name", r.name},
                     {"alone_seconds", boost::json::value_from(r.alone_seconds)},
                     {"together_seconds", boost::json::value_from(r.together_seconds)}});
    }
    std::ofstream(json) << boost::json::serialize(boost::json::object{{"benchmark", "coalescing"},
                                                                      {"backend", "host"},
                                                                      {"workers", gpu.device().shape().workers},
                                                                      {"compiler", __VERSION__},
                                                                      {"targets", targets},
                                                                      {"raw", raw}})
                        << '\n';
  }
}
