// Writes a recorded trace as the JSON that chrome://tracing and ui.perfetto.dev read. The format: "Trace Event Format",
// Google, 2016. Called when there is time: it belongs to no hot path.
#pragma once

#include <cohort/config.hpp>
#include <cohort/observe/trace.hpp>
#include <cohort/schedule/packet_report.hpp>
#include <cohort/schedule/submission.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI {

namespace detail {

/// Collects JSON text, and hands it on in large pieces. Numbers do not depend on a locale.
class trace_text {
public:
  explicit trace_text(std::ostream& out) : out_(out) {}
  trace_text(const trace_text&) = delete;
  trace_text& operator=(const trace_text&) = delete;
  ~trace_text() { flush(); }

  trace_text& raw(std::string_view text) {
    text_ += text;
    return *this;
  }

  trace_text& string(std::string_view text) {
    text_ += '"';
    for (const char c : text) {
      if (c == '"' || c == '\\') {
        text_ += '\\';
        text_ += c;
      } else if (static_cast<unsigned char>(c) < 0x20) {
        constexpr const char* digits = "0123456789abcdef";
        text_ += "\\u00";
        text_ += digits[c >> 4];
        text_ += digits[c & 15];
      } else {
        text_ += c;
      }
    }
    text_ += '"';
    return *this;
  }

  template <std::integral T>
  trace_text& number(T value) {
    char digits[24];
    text_.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
    return *this;
  }

  /// Microseconds, to the nanosecond.
  trace_text& time(std::chrono::nanoseconds value) {
    std::int64_t ns = value.count();
    if (ns < 0) {
      text_ += '-';
      ns = -ns;
    }
    const std::int64_t rest = ns % 1000;
    number(ns / 1000).raw(rest < 10 ? ".00" : rest < 100 ? ".0" : ".");
    return number(rest);
  }

  /// `,"name":` before a value.
  trace_text& key(std::string_view name) { return raw(",\"").raw(name).raw("\":"); }

  /// Begins an event. `end_event` ends it.
  trace_text& event(char phase, std::int64_t process, std::int64_t thread, std::string_view name) {
    if (text_.size() > 60'000) flush();
    raw(std::exchange(first_, false) ? "\n{\"ph\":\"" : ",\n{\"ph\":\"");
    text_ += phase;
    return raw("\",\"pid\":").number(process).raw(",\"tid\":").number(thread).key("name").string(name);
  }

  void end_event() { raw("}"); }

private:
  void flush() {
    out_.write(text_.data(), static_cast<std::streamsize>(text_.size()));
    text_.clear();
  }

  std::ostream& out_;
  std::string text_;
  bool first_ = true;
};

class chrome_trace_writer {
public:
  chrome_trace_writer(std::ostream& out, const trace_snapshot& trace) : text_(out), trace_(trace) {}

  void write() {
    find_origin();
    text_.raw("{\"displayTimeUnit\":\"ns\",\"otherData\":{\"lost_ops\":").number(trace_.lost_ops);
    text_.key("lost_packets").number(trace_.lost_packets).raw("},\"traceEvents\":[");
    name("process_name", device, 0, "device");
    name("thread_name", device, 1, "packets");
    place_in_lanes();
    std::map<std::pair<std::uint32_t, time_point>, std::vector<std::size_t>> members;
    for (std::size_t i = 0; i < trace_.ops.size(); ++i) {
      const traced_op& one = trace_.ops[i];
      if (one.packet == 0) {
        write_unpacked(one, lanes_[i]);
      } else {
        members[{one.packet, one.ended}].push_back(i);
      }
    }
    for (const traced_packet& packet : trace_.packets) {
      write_packet(packet);
      const auto found = members.find({packet.report.sequence, packet.ended});
      if (found == members.end()) continue;
      for (const std::size_t i : found->second) write_packed(trace_.ops[i], packet, lanes_[i]);
      members.erase(found);
    }
    text_.raw("\n]}\n");
  }

private:
  static constexpr std::int64_t device = 1;  // process numbers; a tenant's is 2 and its id

  void find_origin() {
    time_point first = time_point::max();
    for (const traced_op& one : trace_.ops) first = std::min(first, one.arrived);
    for (const traced_packet& one : trace_.packets) first = std::min(first, one.report.formed);
    origin_ = first;
  }

  void name(std::string_view what, std::int64_t process, std::int64_t thread, std::string_view value) {
    text_.event('M', process, thread, what).key("args").raw("{\"name\":").string(value).raw("}").end_event();
  }

  /// Slices of one track must not overlap, and a tenant's ops do: each goes to its tenant's first lane that is free.
  void place_in_lanes() {
    lanes_.resize(trace_.ops.size());
    std::vector<std::size_t> by_arrival(trace_.ops.size());
    for (std::size_t i = 0; i < by_arrival.size(); ++i) by_arrival[i] = i;
    std::sort(by_arrival.begin(), by_arrival.end(), [this](std::size_t a, std::size_t b) {
      const traced_op& x = trace_.ops[a];
      const traced_op& y = trace_.ops[b];
      return x.arrived != y.arrived ? x.arrived < y.arrived : x.id < y.id;
    });
    std::map<tenant_id, std::vector<time_point>> free_after;
    for (const std::size_t i : by_arrival) {
      const traced_op& one = trace_.ops[i];
      auto& lanes = free_after[one.tenant];
      if (lanes.empty()) {
        const auto known = trace_.tenant_names.find(one.tenant);
        const std::string label = known != trace_.tenant_names.end() ? known->second : std::to_string(one.tenant);
        name("process_name", process_of(one), 0, "tenant " + label);
      }
      const auto free =
          std::find_if(lanes.begin(), lanes.end(), [&one](time_point until) { return until < one.arrived; });
      lanes_[i] = 1 + (free - lanes.begin());
      if (free == lanes.end()) {
        lanes.push_back(one.ended);
        name("thread_name", process_of(one), lanes_[i], "lane " + std::to_string(lanes_[i]));
      } else {
        *free = one.ended;
      }
    }
  }

  static std::int64_t process_of(const traced_op& one) { return 2 + std::int64_t{one.tenant}; }

  std::string_view op_name(const traced_op& one) const {
    return one.op < trace_.op_names.size() ? std::string_view(trace_.op_names[one.op]) : "op";
  }

  void slice(std::int64_t process, std::int64_t thread, std::string_view name, std::string_view category,
             time_point from, time_point to) {
    text_.event('X', process, thread, name).key("cat").string(category);
    text_.key("ts").time(from - origin_).key("dur").time(to - from);
  }

  void flow(char phase, std::int64_t process, std::int64_t thread, const traced_op& one, time_point at) {
    text_.event(phase, process, thread, "submission").key("cat").string("flow").key("id").number(one.id);
    text_.key("ts").time(at - origin_);
    if (phase == 'f') text_.key("bp").string("e");
    text_.end_event();
  }

  void op_arguments(const traced_op& one) {
    text_.key("args").raw("{\"id\":").number(one.id).key("tenant").number(one.tenant).key("rows").number(one.rows);
    text_.key("packet").number(one.packet).key("slack_us").time(one.deadline - one.ended);
    text_.key("result").string(one.result.failed() ? one.result.message() : "ok");
  }

  void write_packed(const traced_op& one, const traced_packet& packet, std::int64_t lane) {
    const std::int64_t process = process_of(one);
    slice(process, lane, "wait", "wait", one.arrived, one.committed);
    op_arguments(one);
    text_.key("op").string(op_name(one)).key("reason").string(to_string(packet.report.reason)).raw("}").end_event();
    flow('s', process, lane, one, one.arrived);
    flow('t', device, 1, one, packet.began);
    slice(process, lane, op_name(one), "run", one.committed, one.ended);
    op_arguments(one);
    text_.raw("}").end_event();
    flow('f', process, lane, one, one.ended);
  }

  void write_unpacked(const traced_op& one, std::int64_t lane) {
    slice(process_of(one), lane, to_string(one.how), "wait", one.arrived, one.ended);
    op_arguments(one);
    text_.key("op").string(op_name(one)).raw("}").end_event();
    text_.event('i', process_of(one), lane, to_string(one.how)).key("cat").string("end").key("s").string("t");
    text_.key("ts").time(one.ended - origin_).key("args").raw("{\"id\":").number(one.id).raw("}").end_event();
  }

  void write_packet(const traced_packet& packet) {
    const packet_report& one = packet.report;
    slice(device, 1, to_string(one.reason), "packet", packet.began, packet.ended);
    text_.key("args").raw("{\"packet\":").number(one.sequence).key("reason").string(to_string(one.reason));
    text_.key("submissions").number(one.submissions).key("records").number(one.records);
    text_.key("fused_submissions").number(one.fused_submissions).key("tiles").number(one.tiles);
    text_.key("bytes").number(one.bytes).key("formed_us").time(one.formed - origin_);
    text_.key("oldest_wait_us").time(one.oldest_wait).key("waited_us").time(one.waited);
    text_.key("waited_hidden_us").time(one.waited_hidden);
    text_.key("packets_in_flight_before").number(one.packets_in_flight_before);
    text_.key("work_in_flight_before_us").time(one.work_in_flight_before);
    text_.key("estimated_work_us").time(one.estimated_work);
    text_.key("left_pending").number(one.left_pending).key("least_slack_us").time(one.least_slack);
    text_.key("predicted_us").time(packet.predicted).key("missed").number(packet.missed);
    text_.key("padding_percent").number(static_cast<std::int64_t>(100 * one.padding));
    text_.key("result").string(packet.result.failed() ? packet.result.message() : "ok").raw("}").end_event();
  }

  trace_text text_;
  const trace_snapshot& trace_;
  time_point origin_{};
  std::vector<std::int64_t> lanes_;  // of the ops, from 1
};

}  // namespace detail

/// Writes all that a snapshot holds. The device is a process with a track of packets, named by why they were formed;
/// each tenant is a process with as many lanes as it had ops at once, where each op is a slice of waiting and one that
/// runs to its completion. Arrows lead from a submission to its packet and on to where its coroutine resumes. An op
/// that never was in a packet is one slice, named by how it ended, with a mark at its end.
inline void write_chrome_trace(std::ostream& out, const trace_snapshot& trace) {
  detail::chrome_trace_writer(out, trace).write();
}

}  // namespace cohort::inline COHORT_ABI
