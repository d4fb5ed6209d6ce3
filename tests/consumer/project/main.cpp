// The least a user's program does with cohort. Exit code 0 when it behaved.
#include <cohort/error.hpp>

#include <iostream>

int main() {
  const cohort::error_code stopped = cohort::errc::stopped;
  std::cout << stopped << ": " << stopped.message() << '\n';
  return stopped == cohort::errc::stopped ? 0 : 1;
}
