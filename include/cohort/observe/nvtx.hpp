// Ranges for Nsight Systems, in start/end form: such a range may begin on one thread and end on another, so it survives
// the suspension of a coroutine. For whoever includes it; without the headers of NVTX 3 (they come with the CUDA
// toolkit) this header is empty.
#pragma once

#include <cohort/config.hpp>

#if __has_include(<nvtx3/nvToolsExt.h>)

#include <cohort/op.hpp>
#include <cohort/schedule/observer.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/submission.hpp>

#include <nvtx3/nvToolsExt.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace cohort::inline COHORT_ABI {

/// A range of a request: a local variable of its coroutine. It ends with it, on whatever thread that is.
class nvtx_range {
public:
  explicit nvtx_range(const char* name) noexcept : id_(nvtxRangeStartA(name)) {}
  ~nvtx_range() { nvtxRangeEnd(id_); }
  nvtx_range(const nvtx_range&) = delete;
  nvtx_range& operator=(const nvtx_range&) = delete;

private:
  nvtxRangeId_t id_;
};

/// Shows each op from submission to its end, and each packet from its forming to its completion, as ranges in the
/// domain "cohort". For one executor, which it must outlive. Cost: a map entry for each op and packet that is open.
/// Thread-safety: none; it belongs to whoever drives.
class nvtx_observer final : public schedule_observer {
public:
  nvtx_observer() : domain_(nvtxDomainCreateA("cohort")) {}
  ~nvtx_observer() override { nvtxDomainDestroy(domain_); }
  nvtx_observer(const nvtx_observer&) = delete;
  nvtx_observer& operator=(const nvtx_observer&) = delete;

  void observing(std::span<const op_info> ops) override {
    names_.clear();
    for (const op_info& one : ops) names_.emplace_back(one.name);
  }

  void arrived(const submission& one, time_point) noexcept override {
    start(ops_, one.id, names_[one.op_index].c_str(), one.id);
  }

  void formed(const packet_report& packet, const submission*) noexcept override {
    char name[64];
    std::snprintf(name, sizeof name, "packet of %u: %s", packet.submissions, to_string(packet.reason));
    start(packets_, packet.sequence, name, packet.sequence);
  }

  void completed(const packet_result& packet) noexcept override {
    end(packets_, packet.sequence);
    for (const submission* one = packet.members; one != nullptr; one = one->next) end(ops_, one->id);
  }

  void ended(const submission& one, ending, time_point) noexcept override { end(ops_, one.id); }

private:
  using open_ranges = std::unordered_map<std::uint64_t, nvtxRangeId_t>;

  void start(open_ranges& ranges, std::uint64_t key, const char* name, std::uint64_t payload) noexcept {
    nvtxEventAttributes_t attributes{};
    attributes.version = NVTX_VERSION;
    attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
    attributes.message.ascii = name;
    attributes.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
    attributes.payload.ullValue = payload;
    try {
      nvtxRangeId_t& id = ranges[key];
      id = nvtxDomainRangeStartEx(domain_, &attributes);
    } catch (const std::bad_alloc&) {  // one range less in the picture
    }
  }

  void end(open_ranges& ranges, std::uint64_t key) noexcept {
    const auto found = ranges.find(key);
    if (found == ranges.end()) return;
    nvtxDomainRangeEnd(domain_, found->second);
    ranges.erase(found);
  }

  nvtxDomainHandle_t domain_;
  std::vector<std::string> names_;
  open_ranges ops_;
  open_ranges packets_;
};

}  // namespace cohort::inline COHORT_ABI

#endif
