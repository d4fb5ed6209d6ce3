// A figure that a test has measured, in a form that scripts/gpu_suite collects from its output.
#pragma once

#include <cstdio>
#include <string>

namespace cohort::testing {

inline void figure(const std::string& name, double value) { std::printf("figure: %s = %.6g\n", name.c_str(), value); }

}  // namespace cohort::testing
