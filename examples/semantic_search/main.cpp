// Semantic search over a small text with MiniLM-L6: every passage and every question is a coroutine of its own, and the
// executor finds what they have in common.
//
//     semantic_search (--model DIR | --synthetic) [--type fp32|bf16] [--corpus FILE] [--questions FILE] [QUESTION ...]
#include "corpus.hpp"
#include "minilm.hpp"

#include <cohort/when_all.hpp>

#include <boost/json/src.hpp>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>

namespace {

using namespace cohort_demo;
using seconds = std::chrono::duration<double>;

struct options {
  std::filesystem::path model;
  std::filesystem::path texts = std::filesystem::path(__FILE__).parent_path() / "corpus.txt";
  std::filesystem::path questions = std::filesystem::path(__FILE__).parent_path() / "questions.txt";
  bool synthetic = false;
  std::string type;  // empty: by the device
  std::vector<std::string> asked;
};

options parse(int argc, char** argv) {
  options result;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) throw model_error(argument + " needs a value");
      return argv[++i];
    };
    if (argument == "--model") {
      result.model = value();
    } else if (argument == "--synthetic") {
      result.synthetic = true;
    } else if (argument == "--type") {
      result.type = value();
    } else if (argument == "--corpus") {
      result.texts = value();
    } else if (argument == "--questions") {
      result.questions = value();
    } else if (argument.starts_with("--")) {
      throw model_error("unknown option " + argument);
    } else {
      result.asked.push_back(argument);
    }
  }
  if (result.model.empty() != result.synthetic) throw model_error("one of --model DIR and --synthetic is needed");
  if (!result.type.empty() && result.type != "fp32" && result.type != "bf16")
    throw model_error("--type is fp32 or bf16");
  return result;
}

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

template <cohort::element T>
class search {
  using executor = cohort::executor<minilm_ops<T>>;

public:
  search(std::unique_ptr<cohort::backend> device, const bert_weights& weights, wordpiece tokenizer)
      : gpu_(io_, std::move(device), {.driven_by = cohort::drive::caller}),
        model_(gpu_, weights.config),
        tokenizer_(std::move(tokenizer)) {
    gpu_.run(model_.load(weights));
  }

  const char* device() { return gpu_.device().name(); }

  /// Embeds all texts, each as a coroutine of its own.
  std::vector<std::vector<float>> embed(const std::vector<std::string>& texts) {
    std::vector<cohort::task<std::vector<float>>> all;
    for (const std::string& text : texts) all.push_back(request(text));
    return gpu_.run(cohort::when_all(std::move(all)));
  }

  /// The same, each text only after the one before it.
  void embed_one_at_a_time(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) gpu_.run(request(text));
  }

  std::vector<double> take_latencies() { return std::exchange(latencies_, {}); }
  cohort::scheduler_statistics statistics() const { return gpu_.statistics(); }

private:
  cohort::task<std::vector<float>> request(const std::string& text) {
    const auto begin = std::chrono::steady_clock::now();
    auto embedding = co_await model_.embed(tokenizer_.encode(text));
    latencies_.push_back(seconds(std::chrono::steady_clock::now() - begin).count());
    co_return embedding;
  }

  boost::asio::io_context io_;
  executor gpu_;
  minilm<T, executor> model_;
  wordpiece tokenizer_;
  std::vector<double> latencies_;
};

template <cohort::element T>
int run(const options& chosen, const bert_weights& weights, wordpiece tokenizer,
        std::unique_ptr<cohort::backend> device) {
  const auto passages = load_corpus(chosen.texts);
  std::vector<std::string> questions = chosen.asked;
  if (questions.empty()) {
    for (const question& each : load_questions(chosen.questions)) questions.push_back(each.text);
  }
  search<T> engine(std::move(device), weights, std::move(tokenizer));
  std::printf("MiniLM-L6 in %s on the %s backend%s\n", cohort::type_name<T>(), engine.device(),
              chosen.synthetic ? ", SYNTHETIC weights: the answers mean nothing" : "");

  const auto before = engine.statistics();
  const auto known = engine.embed(passages);
  const auto asked = engine.embed(questions);
  const auto latencies = engine.take_latencies();
  const auto after = engine.statistics();
  for (std::size_t q = 0; q < questions.size(); ++q) {
    std::vector<std::pair<float, std::size_t>> scores;
    for (std::size_t p = 0; p < passages.size(); ++p) {
      scores.emplace_back(std::inner_product(asked[q].begin(), asked[q].end(), known[p].begin(), 0.0f), p);
    }
    const auto shown = std::min<std::size_t>(2, scores.size());
    std::partial_sort(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(shown), scores.end(),
                      std::greater<>());
    std::printf("\n%s\n", questions[q].c_str());
    for (std::size_t i = 0; i < shown; ++i)
      std::printf("  %.3f  %s\n", static_cast<double>(scores[i].first), passages[scores[i].second].c_str());
  }

  const auto ops = after.committed - before.committed, packets = after.packets - before.packets;
  std::printf("\n%zu requests, %llu ops in %llu packets: %.1f ops per packet\n", passages.size() + questions.size(),
              static_cast<unsigned long long>(ops), static_cast<unsigned long long>(packets),
              static_cast<double>(ops) / static_cast<double>(packets));
  std::printf("latency with all passages in flight together: p50 %.2f ms, p99 %.2f ms\n",
              1e3 * percentile(latencies, 0.5), 1e3 * percentile(latencies, 0.99));

  const std::vector<std::string> sample(
      passages.begin(), passages.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(64, passages.size())));
  const auto timed = [&](auto&& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return static_cast<double>(sample.size()) / seconds(std::chrono::steady_clock::now() - begin).count();
  };
  const double alone = timed([&] { engine.embed_one_at_a_time(sample); });
  const double together = timed([&] { engine.embed(sample); });
  std::printf("throughput of %zu requests: one at a time %.0f/s, coalesced %.0f/s (%.2fx)\n", sample.size(), alone,
              together, together / alone);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const options chosen = parse(argc, argv);
    const bert_config config = chosen.synthetic ? bert_config() : bert_config::load(chosen.model / "config.json");
    const bert_weights weights = chosen.synthetic
                                     ? synthetic_weights(config)
                                     : load_weights(safetensors::open(chosen.model / "model.safetensors"), config);
    wordpiece tokenizer =
        chosen.synthetic ? wordpiece::hashed(config.vocabulary) : wordpiece::load(chosen.model / "vocab.txt");
    if (chosen.type == "fp32") return run<float>(chosen, weights, std::move(tokenizer), make_backend<float>());
    auto device = make_backend<cohort::bf16>();
    if (chosen.type == "bf16" || std::strcmp(device->name(), "host") != 0) {
      return run<cohort::bf16>(chosen, weights, std::move(tokenizer), std::move(device));
    }
    device.reset();  // a CPU is at its best in fp32
    return run<float>(chosen, weights, std::move(tokenizer), make_backend<float>());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "semantic_search: %s\n", error.what());
    return 1;
  }
}
