// The running test program once more, with one test case that is skipped otherwise: for what ends a process.
#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <string>
#include <thread>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

namespace cohort::testing {

/// A process that has used CUDA cannot fork another user of it, so the child is started anew.
struct child_process {
  explicit child_process(const char* test_case) {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    const std::string filter = std::string("-tc=") + test_case;
    pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      dup2(ends[1], STDOUT_FILENO);
      execl("/proc/self/exe", "child", filter.c_str(), "-ns", static_cast<char*>(nullptr));
      _exit(126);
    }
    close(ends[1]);
    output = ends[0];
  }

  ~child_process() { close(output); }

  /// Reads what the child prints until `word` comes or it ends.
  bool says(const std::string& word) {
    std::string text;
    char piece[256];
    while (text.find(word) == std::string::npos) {
      const ssize_t got = read(output, piece, sizeof piece);
      if (got <= 0) return false;
      text.append(piece, static_cast<std::size_t>(got));
    }
    return true;
  }

  /// Status as waitpid gives it, or -1 (and the child is killed) when it does not end in time.
  int wait(std::chrono::seconds limit) const {
    int status = 0;
    using clock = std::chrono::steady_clock;
    for (const clock::time_point end = clock::now() + limit; clock::now() < end;) {
      if (waitpid(pid, &status, WNOHANG) == pid) return status;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return -1;
  }

  pid_t pid = -1;
  int output = -1;
};

}  // namespace cohort::testing
