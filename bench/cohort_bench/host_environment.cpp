// What is known of a run without a GPU.
#include "host_environment.hpp"

#include <cohort/detail/cpu.hpp>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <string>

namespace cohort_bench {
namespace {

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(": ") + 2);
  }
  return "unknown";
}

std::string utc() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now))};
}

}  // namespace

boost::json::object host_environment() {
  const char* const commit = std::getenv("COHORT_COMMIT");
#if defined(__clang__)
  const std::string compiler = std::string("clang ") + __clang_version__;
#else
  const std::string compiler = std::string("g++ ") + __VERSION__;
#endif
  return {{"commit", commit == nullptr ? "unknown" : commit},
          {"time", utc()},
          {"processor", processor()},
          {"cores", cohort::detail::usable_cores()},
          {"host_compiler", compiler}};
}

}  // namespace cohort_bench
