// The raw mailbox: a resident kernel that does nothing but answer a word in mapped memory. It is the floor under every
// way of working that keeps a kernel on the device.
#pragma once

#include "cuda_support.hpp"

#include <cstdint>
#include <vector>

namespace cohort_bench {

enum class mailbox_form {
  one_block,  ///< the block that sees the word answers it
  relayed,    ///< as our protocol: a relay block publishes in device memory, one of the other blocks counts and answers
};

class mailbox {
public:
  /// Launches the kernel: one block, or one to each multiprocessor. Nothing else may be on the device while it lives.
  explicit mailbox(mailbox_form form);
  ~mailbox();
  mailbox(const mailbox&) = delete;
  mailbox& operator=(const mailbox&) = delete;

  /// There and back, `count` times; us of each. Throws when an answer takes longer than a second.
  std::vector<double> round_trips(int count);

private:
  void ring(std::uint32_t value);

  stream stream_ = make_stream();
  host_memory words_;
  device_memory relay_;
  std::uint32_t last_ = 0;
};

}  // namespace cohort_bench
