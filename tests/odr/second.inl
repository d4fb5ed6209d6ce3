// The program's second translation unit.
#include "facts.hpp"

namespace odr {

facts second_facts() { return collect(); }

}  // namespace odr
