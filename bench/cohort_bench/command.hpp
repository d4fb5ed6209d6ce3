// Sub-commands and what may be said to them. A file that has one announces it with a `registration`; those that need a
// GPU are in gpu/, and a build without a toolkit leaves them out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cohort_bench {

struct options {
  std::string command;
  bool quick = false;
  std::string json;            ///< where the results go; empty: nowhere
  std::string backend;         ///< "host", "cuda", or empty: the best that this build has
  std::string type;            ///< "fp32", "bf16", or empty: both
  std::string problem;         ///< one problem, or row, by its name; empty: all
  std::string trace;           ///< where a Chrome trace of a short piece goes, of `slo`; empty: nowhere
  std::string law;             ///< of `slo`'s arrivals, by its name in `measured_laws`; empty: Poisson
  std::string replay;          ///< a CSV of `slo`'s arrivals (seconds,tenant,model); empty: they are generated
  unsigned seconds = 0;        ///< how long it runs, where that can be chosen; 0: as long as it is meant to
  unsigned guard_seconds = 0;  ///< the process ends after so long, whatever it does; 0: 180 with --quick, else 1200
  bool skip_peers = false;     ///< for profilers: time our arm alone
};

enum class place { host, gpu };

/// How a sub-command ends: also the exit status.
enum outcome : int { succeeded = 0, failed = 1, misused = 2, skipped = 77 };

struct command {
  std::string_view name;
  place where;
  std::string_view summary;
  int (*run)(const options&);
};

std::vector<command>& commands();

class registration {
public:
  explicit registration(const command& one) { commands().push_back(one); }
};

/// Ends the process with status 124 after `seconds`: whatever waits for a device waits no longer.
void arm_guard(unsigned seconds);

}  // namespace cohort_bench
