// cohort_bench: what cohort is measured with. `cohort_bench --list` names the sub-commands.
#include "command.hpp"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>

#include <unistd.h>

namespace cohort_bench {

std::vector<command>& commands() {
  static std::vector<command> all;
  return all;
}

void arm_guard(unsigned seconds) {
  std::signal(SIGALRM, [](int) {
    constexpr char message[] = "cohort_bench: the guard's time is over\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, message, sizeof message - 1);
    _exit(124);
  });
  alarm(seconds);
}

namespace {

void usage(std::FILE* to) {
  std::fprintf(
      to,
      "usage: cohort_bench COMMAND [--quick] [--json FILE] [--backend host|cuda] [--type fp32|bf16]\n"
      "                    [--problem NAME] [--trace FILE] [--skip-peers] [--seconds N] [--guard SECONDS]\n"
      "       cohort_bench slo [--law poisson|gamma|log_normal_1.5|log_normal_2|bursts] [--replay FILE] ...\n"
      "       cohort_bench --list\n"
      "--replay: arrivals from a CSV (seconds,tenant,model) instead of a law.\n"
      "COHORT_COMMIT in the environment names the commit in the JSON. Exit status: 0, 1 when a result is wrong,\n"
      "2 misuse, 77 when this machine cannot run it, 124 after --guard.\n\n");
  for (const command& one : commands()) {
    std::fprintf(to, "  %-10.*s %-5s %.*s\n", static_cast<int>(one.name.size()), one.name.data(),
                 one.where == place::gpu ? "cuda" : "host", static_cast<int>(one.summary.size()), one.summary.data());
  }
}

std::optional<options> parse(int argc, char** argv) {
  options result;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto value = [&](std::string& to) {
      if (i + 1 >= argc) return false;
      to = argv[++i];
      return true;
    };
    std::string number;
    bool good = true;
    if (argument == "--quick") {
      result.quick = true;
    } else if (argument == "--skip-peers") {
      result.skip_peers = true;
    } else if (argument == "--json") {
      good = value(result.json);
    } else if (argument == "--backend") {
      good = value(result.backend) && (result.backend == "host" || result.backend == "cuda");
    } else if (argument == "--type") {
      good = value(result.type) && (result.type == "fp32" || result.type == "bf16");
    } else if (argument == "--problem") {
      good = value(result.problem);
    } else if (argument == "--trace") {
      good = value(result.trace);
    } else if (argument == "--law") {
      good = value(result.law);
    } else if (argument == "--replay") {
      good = value(result.replay);
    } else if (argument == "--seconds") {
      good = value(number);
      result.seconds = static_cast<unsigned>(std::strtoul(number.c_str(), nullptr, 10));
    } else if (argument == "--guard") {
      good = value(number);
      result.guard_seconds = static_cast<unsigned>(std::strtoul(number.c_str(), nullptr, 10));
    } else if (result.command.empty() && !argument.starts_with('-')) {
      result.command = argument;
    } else {
      good = false;
    }
    if (!good) return std::nullopt;
  }
  if (result.command.empty()) return std::nullopt;
  if (result.guard_seconds == 0) result.guard_seconds = result.quick ? 180 : 1200;
  return result;
}

/// A GPU where there is a choice.
const command* find(const options& wanted) {
  const command* best = nullptr;
  for (const command& one : commands()) {
    if (one.name != wanted.command) continue;
    if (!wanted.backend.empty() && (wanted.backend == "cuda") != (one.where == place::gpu)) continue;
    if (best == nullptr || one.where == place::gpu) best = &one;
  }
  return best;
}

}  // namespace
}  // namespace cohort_bench

int main(int argc, char** argv) {
  using namespace cohort_bench;
  if (argc == 2 && (std::string_view(argv[1]) == "--list" || std::string_view(argv[1]) == "--help")) {
    usage(stdout);
    return succeeded;
  }
  const auto chosen = parse(argc, argv);
  if (!chosen) {
    usage(stderr);
    return misused;
  }
  const command* const one = find(*chosen);
  if (one == nullptr) {
    std::fprintf(stderr, "cohort_bench: this build has no '%s' for that backend\n", chosen->command.c_str());
    return misused;
  }
  arm_guard(chosen->guard_seconds);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    return one->run(*chosen);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cohort_bench: %s\n", error.what());
    return failed;
  }
}
