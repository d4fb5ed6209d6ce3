// Boost.JSON, compiled once: no library has to be linked.
#include <boost/json/src.hpp>
