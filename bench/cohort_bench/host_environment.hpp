// What is known of a run without a GPU.
#pragma once

#include <boost/json/object.hpp>

namespace cohort_bench {

/// Compiler, commit (COHORT_COMMIT), processor, cores and the time.
boost::json::object host_environment();

}  // namespace cohort_bench
