// What a sub-command has found: tables while it runs, targets at its end, and all of it as JSON.
#pragma once

#include "command.hpp"

#include "statistics.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace cohort_bench {

/// A number for JSON: null when it is missing.
boost::json::value number(double value);

struct column {
  std::string name;
  int width = 8;
  int decimals = 2;
};

/// Prints rows as they come, so that a run that is ended early leaves what it had.
class table_printer {
public:
  using cell = std::variant<std::string, double>;

  explicit table_printer(std::vector<column> columns) : columns_(std::move(columns)) {}

  void header() const;
  void row(const std::vector<cell>& cells) const;

private:
  std::vector<column> columns_;
};

enum class bound { at_least, at_most };

class report {
public:
  report(std::string_view benchmark, const options& chosen);

  /// What the machine is; sub-commands add what only they know.
  boost::json::object& environment() noexcept { return environment_; }

  /// A sentence that readers of the figures need: printed, and kept.
  void note(std::string text);

  /// One line of raw data.
  void row(boost::json::object data) { rows_.push_back(std::move(data)); }

  /// A target of the project and what was measured; a missing measurement does not hold.
  /// \param at_floor what it would be if nothing took longer than the hardware must, where that is known
  void target(std::string name, double wanted, double measured, bound kind = bound::at_least,
              double at_floor = missing);

  /// A wrong result: the run fails, and says so.
  void wrong(std::string what);

  /// Writes the JSON as far as it is known, so that a run that is ended early leaves what it had. False when it cannot.
  bool save() const;

  /// Prints targets and writes the JSON; the exit status.
  int finish();

private:
  std::string json_;
  std::string benchmark_;
  bool quick_;
  boost::json::object environment_;
  boost::json::array notes_, rows_, targets_, wrong_;
};

}  // namespace cohort_bench
