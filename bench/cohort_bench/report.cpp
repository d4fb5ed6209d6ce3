// Tables, targets and the JSON file.
#include "report.hpp"

#include "host_environment.hpp"

#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>

#include <cmath>
#include <cstdio>
#include <fstream>

namespace cohort_bench {

boost::json::value number(double value) {
  return std::isfinite(value) ? boost::json::value(value) : boost::json::value(nullptr);
}

void table_printer::header() const {
  for (const column& one : columns_) std::printf(" %*s", one.width, one.name.c_str());
  std::printf("\n");
}

void table_printer::row(const std::vector<cell>& cells) const {
  for (std::size_t i = 0; i < cells.size() && i < columns_.size(); ++i) {
    const column& one = columns_[i];
    if (const auto* text = std::get_if<std::string>(&cells[i])) {
      std::printf(" %*s", one.width, text->c_str());
    } else if (const double value = std::get<double>(cells[i]); std::isfinite(value)) {
      std::printf(" %*.*f", one.width, one.decimals, value);
    } else {
      std::printf(" %*s", one.width, "-");
    }
  }
  std::printf("\n");
}

report::report(std::string_view benchmark, const options& chosen)
    : json_(chosen.json), benchmark_(benchmark), quick_(chosen.quick), environment_(host_environment()) {}

void report::note(std::string text) {
  std::printf("# %s\n", text.c_str());
  notes_.emplace_back(std::move(text));
}

void report::target(std::string name, double wanted, double measured, bound kind, double at_floor) {
  const bool holds = std::isfinite(measured) && (kind == bound::at_least ? measured >= wanted : measured <= wanted);
  boost::json::object one{{"name", std::move(name)},
                          {"target", wanted},
                          {"bound", kind == bound::at_least ? "at least" : "at most"},
                          {"measured", number(measured)},
                          {"holds", holds}};
  if (!std::isnan(at_floor)) one["at_floor"] = number(at_floor);
  targets_.push_back(std::move(one));
}

void report::wrong(std::string what) {
  std::printf("WRONG: %s\n", what.c_str());
  wrong_.emplace_back(std::move(what));
}

int report::finish() {
  if (!targets_.empty()) std::printf("\n");
  for (const boost::json::value& one : targets_) {
    const auto& target = one.as_object();
    const auto& measured = target.at("measured");
    std::printf("%-5s %8.3f (%s %g)  %s", target.at("holds").as_bool() ? "holds" : "MISSED",
                measured.is_double() ? measured.as_double() : std::nan(""), target.at("bound").as_string().c_str(),
                target.at("target").to_number<double>(), target.at("name").as_string().c_str());
    const boost::json::value* const at_floor = target.if_contains("at_floor");
    if (at_floor != nullptr && at_floor->is_double()) std::printf("; at the floor %.3f", at_floor->as_double());
    std::printf("\n");
  }
  if (!save()) return failed;
  return wrong_.empty() ? succeeded : failed;
}

bool report::save() const {
  if (json_.empty()) return true;
  std::ofstream file(json_);
  file << "{\n  \"benchmark\": \"" << benchmark_ << "\",\n  \"quick\": " << (quick_ ? "true" : "false")
       << ",\n  \"environment\": " << boost::json::serialize(environment_)
       << ",\n  \"notes\": " << boost::json::serialize(notes_) << ",\n  \"wrong\": " << boost::json::serialize(wrong_);
  // One line for each target and row, so that two runs can be compared with diff.
  const auto lines = [&](const char* name, const boost::json::array& all) {
    file << ",\n  \"" << name << "\": [";
    const char* before = "\n    ";
    for (const boost::json::value& one : all) {
      file << before << boost::json::serialize(one);
      before = ",\n    ";
    }
    file << "\n  ]";
  };
  lines("targets", targets_);
  lines("rows", rows_);
  file << "\n}\n";
  file.close();
  if (!file) std::perror(json_.c_str());
  return static_cast<bool>(file);
}

}  // namespace cohort_bench
