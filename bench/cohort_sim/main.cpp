// cohort_sim: the scheduler under load, on virtual time.
#include "command.hpp"

#include "../cohort_bench/command.hpp"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string_view>

namespace cohort_sim {
namespace {

void usage(std::FILE* to) {
  std::fprintf(to,
               "usage: cohort_sim [cells|rates|fairness] [--quick] [--json FILE] [--seed N] [--requests N]\n"
               "                  [--threads N]\n"
               "       cohort_sim --trace FILE [--target FACTOR] [--json FILE]\n"
               "Without a part: all three. --trace replays a CSV (seconds,tenant,model); --target is in times of a\n"
               "request alone. Exit status: 0, 1 when a result is wrong, 2 misuse.\n");
}

std::optional<arguments> parse(int argc, char** argv, std::string& json) {
  arguments result;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto value = [&]() -> const char* { return i + 1 < argc ? argv[++i] : nullptr; };
    const auto number = [&](auto& into) {
      const char* const text = value();
      char* end = nullptr;
      const double read = text == nullptr ? -1 : std::strtod(text, &end);
      if (!(read > 0) || end == nullptr || *end != '\0') return false;
      into = static_cast<std::remove_reference_t<decltype(into)>>(read);
      return true;
    };
    const auto text = [&](std::string& into) {
      const char* const given = value();
      if (given != nullptr) into = given;
      return given != nullptr;
    };
    bool good = true;
    if (argument == "--quick") {
      result.quick = true;
    } else if (argument == "--json") {
      good = text(json);
    } else if (argument == "--trace") {
      good = text(result.trace);
    } else if (argument == "--target") {
      good = number(result.target);
    } else if (argument == "--seed") {
      good = number(result.seed);
    } else if (argument == "--requests") {
      good = number(result.requests);
    } else if (argument == "--threads") {
      good = number(result.threads);
    } else if (result.part.empty() && (argument == "cells" || argument == "rates" || argument == "fairness")) {
      result.part = argument;
    } else {
      good = false;
    }
    if (!good) return std::nullopt;
  }
  return result;
}

int run(const arguments& given, const std::string& json) {
  cohort_bench::options chosen;
  chosen.command = "cohort_sim";
  chosen.quick = given.quick;
  chosen.json = json;
  cohort_bench::report to("cohort_sim", chosen);
  to.environment()["seed"] = given.seed;
  to.note(
      "virtual time; device model after an H200; latency from the intended arrival, attainment over offered requests");
  if (!given.trace.empty()) {
    run_trace(given, to);
    return to.finish();
  }
  if (given.part.empty() || given.part == "cells") run_cells(given, to);
  if (given.part.empty() || given.part == "rates") run_rates(given, to);
  if (given.part.empty() || given.part == "fairness") run_fairness(given, to);
  return to.finish();
}

}  // namespace
}  // namespace cohort_sim

int main(int argc, char** argv) {
  using namespace cohort_sim;
  if (argc == 2 && std::string_view(argv[1]) == "--help") {
    usage(stdout);
    return cohort_bench::succeeded;
  }
  std::string json;
  const auto given = parse(argc, argv, json);
  if (!given) {
    usage(stderr);
    return cohort_bench::misused;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    return run(*given, json);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cohort_sim: %s\n", error.what());
    return cohort_bench::failed;
  }
}
