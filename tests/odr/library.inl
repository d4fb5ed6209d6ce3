// The shared library's half, compiled once as C++ and once by nvcc.
#include "facts.hpp"

namespace odr {

facts library_facts() { return collect(); }

void library_throws() { throw cohort::system_error(make_error_code(cohort::errc::device_lost)); }

cohort::task<int> library_task(int value) { co_return value + 1; }

}  // namespace odr
