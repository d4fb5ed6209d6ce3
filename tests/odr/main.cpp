// Compares what three translation units in two binaries know. Without a test framework, so that only cohort is linked.
#include "facts.hpp"

#include <cohort/spawn.hpp>

#include <boost/asio/io_context.hpp>

#include <cstdio>
#include <exception>

namespace {

int failures = 0;

void check(bool holds, const char* what) {
  std::printf("%s: %s\n", holds ? "ok" : "FAILED", what);
  failures += holds ? 0 : 1;
}

cohort::task<int> awaits_library() { co_return 10 * co_await odr::library_task(6); }

int result_of_awaiting() {
  boost::asio::io_context loop;
  int result = 0;
  cohort::spawn(loop.get_executor(), awaits_library(), [&](std::exception_ptr error, int value) {
    if (!error) result = value;
  });
  loop.run();
  return result;
}

}  // namespace

int main() {
  const odr::facts here = odr::collect();
  const odr::facts second = odr::second_facts();
  const odr::facts library = odr::library_facts();

  check(second.category == here.category, "two translation units of one program share one category");
  check(library.category != here.category, "the library, whose symbols are hidden, has a category object of its own");
  check(library.stopped == here.stopped, "an error code from the library equals the program's");
  check(library.stopped == cohort::errc::stopped, "an error code from the library equals the enumerator");
  check(library.stopped != make_error_code(cohort::errc::cancelled), "different errors differ across the border");
  check(library.stopped == boost::system::errc::operation_canceled, "conditions hold across the border");
  check(library.message == here.message, "messages agree");
  check(second.layouts == here.layouts, "two translation units agree on sizes and alignments");
  check(library.layouts == here.layouts, "the library and the program agree on sizes and alignments");

  bool caught = false;
  try {
    odr::library_throws();
  } catch (const cohort::system_error& error) {
    caught = error.code() == cohort::errc::device_lost;
  }
  check(caught, "an exception of the library is caught as cohort::system_error");
  check(result_of_awaiting() == 70, "a coroutine of the library is awaited by one of the program");
  return failures == 0 ? 0 : 1;
}
