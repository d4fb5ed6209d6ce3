// Packets as they lie in memory: what the builder writes is read back by a decoder that knows packet.hpp alone.
#include "schedule_fixtures.hpp"

#include <cohort/schedule/packet_builder.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <vector>

using namespace schedule_test;
using cohort::packet_builder;

namespace {

/// A table whose op i has members of 16 * (i + 1) bytes: all strides that ops may have.
constexpr auto strides() {
  std::array<cohort::op_info, 16> table{};
  for (std::uint32_t i = 0; i < table.size(); ++i) table[i].stride = 16 * (i + 1);
  return table;
}

constexpr auto table = strides();

struct member {
  std::uint64_t id;
  std::byte rest[248];
};

struct fixture {
  alignas(16) std::byte storage[cohort::packet_capacity];
  packet_builder builder;

  /// Adds one record of `count` equal members; each starts with an id.
  bool record(std::uint16_t op, std::uint32_t count, std::uint32_t tiles, std::uint64_t first_id = 0,
              std::int64_t weight = 0, bool exchange = false) {
    builder.open(op, table[op].stride);
    for (std::uint32_t i = 0; i < count; ++i) {
      member one{.id = first_id + i, .rest = {}};
      builder.append(&one, table[op].stride);
    }
    return builder.close({tiles, exchange}, weight);
  }

  /// The same with one member, in one call.
  bool record_alone(std::uint16_t op, std::uint32_t tiles, std::uint64_t id, std::int64_t weight = 0,
                    bool exchange = false) {
    const member one{.id = id, .rest = {}};
    return builder.add_alone(op, &one, table[op].stride, table[op].stride, weight,
                             [&](void* copy) {
                               CHECK(static_cast<const member*>(copy)->id == id);
                               return cohort::planned_tiles{tiles, exchange};
                             }) == tiles &&
           tiles != 0;
  }
};

}  // namespace

TEST_CASE_FIXTURE(fixture, "records equal in size and tiles make a uniform packet without an index") {
  builder.begin(storage, 5);
  for (std::uint64_t i = 0; i < 7; ++i) CHECK(record(3, 1, 4, i));
  const auto packet = decode(builder.finish(), table);
  CHECK(packet.header.sequence == 5);
  CHECK(packet.header.tiles == 28);
  CHECK(packet.header.uniform_tiles == 4);
  CHECK(packet.header.uniform_stride == 80);
  CHECK(packet.header.bytes == 32 + 7 * 80);
  CHECK(packet.ids() == std::vector<std::uint64_t>{0, 1, 2, 3, 4, 5, 6});
}

TEST_CASE_FIXTURE(fixture, "records that differ in tiles, in size, or have too many tiles for 16 bits have an index") {
  SUBCASE("tiles") {
    builder.begin(storage, 1);
    record(3, 1, 4);
    record(3, 1, 5);
    CHECK(decode(builder.finish(), table).header.uniform_tiles == 0);
  }
  SUBCASE("size") {
    builder.begin(storage, 1);
    record(3, 1, 4);
    record(3, 2, 4);
    CHECK(decode(builder.finish(), table).header.uniform_tiles == 0);
  }
  SUBCASE("many tiles") {
    builder.begin(storage, 1);
    record(3, 1, 65536);
    CHECK(decode(builder.finish(), table).header.uniform_tiles == 0);
  }
  SUBCASE("as many tiles as 16 bits hold") {
    builder.begin(storage, 1);
    record(3, 1, 65535);
    CHECK(decode(builder.finish(), table).header.uniform_tiles == 65535);
  }
  SUBCASE("the same size by another op is uniform") {
    builder.begin(storage, 1);
    record(0, 4, 3);  // 4 members of 16 bytes
    record(3, 1, 3);  // one of 64
    CHECK(decode(builder.finish(), table).header.uniform_tiles == 3);
  }
}

TEST_CASE_FIXTURE(fixture, "a record that is dropped leaves no trace") {
  builder.begin(storage, 1);
  record(1, 1, 2, 10);
  builder.open(15, table[15].stride);
  const member gone{.id = 99, .rest = {}};
  builder.append(&gone, table[15].stride);
  builder.drop();
  record(1, 1, 2, 11);
  const auto packet = decode(builder.finish(), table);
  CHECK(packet.ids() == std::vector<std::uint64_t>{10, 11});
  CHECK(packet.header.uniform_tiles == 2);
}

TEST_CASE_FIXTURE(fixture, "a record whose tiles would overflow the packet's is refused and can be dropped") {
  builder.begin(storage, 1);
  CHECK(record(1, 1, 0xffff'fff0u, 1));
  CHECK_FALSE(record_alone(1, 16, 2));
  CHECK_FALSE(record(1, 1, 16, 2));
  builder.drop();
  CHECK(record(1, 1, 15, 3));
  const auto packet = decode(builder.finish(), table);
  CHECK(packet.header.tiles == 0xffff'ffffu);
  CHECK(packet.ids() == std::vector<std::uint64_t>{1, 3});
}

TEST_CASE_FIXTURE(fixture, "descriptors are copied byte by byte and padded with zeros, for every size") {
  for (std::uint32_t bytes = 1; bytes <= 256; ++bytes) {
    CAPTURE(bytes);
    const std::uint32_t stride = (bytes + 15) / 16 * 16;
    std::ranges::fill(storage, std::byte{0xcd});
    std::vector<std::byte> descriptor(bytes);  // on the heap and exact: the sanitizer sees a read past its end
    for (std::uint32_t i = 0; i < bytes; ++i) descriptor[i] = static_cast<std::byte>(i * 7 + 1);
    builder.begin(storage, 1);
    REQUIRE(builder.room(stride) > 0);
    builder.open(0, stride);
    builder.append(descriptor.data(), bytes);
    REQUIRE(builder.close({.count = 1}));
    const auto packet = builder.finish();
    const auto* copy = packet.data() + sizeof(cohort::packet_header) + sizeof(cohort::record_header);
    CHECK(std::equal(descriptor.begin(), descriptor.end(), copy));
    CHECK(std::all_of(copy + bytes, copy + stride, [](std::byte b) { return b == std::byte{0}; }));
    CHECK(packet.size() == 32 + 16 + stride);
  }
}

TEST_CASE_FIXTURE(fixture, "room never promises more than fits, and a packet filled to the last byte is whole") {
  for (const std::size_t size : {std::size_t{0}, std::size_t{64}, std::size_t{80}, std::size_t{96}, std::size_t{1000},
                                 std::size_t{4096}, std::size_t{cohort::packet_capacity}}) {
    for (std::uint16_t op = 0; op < table.size(); ++op) {
      CAPTURE(size);
      CAPTURE(op);
      const std::uint32_t stride = table[op].stride;
      builder.begin(std::span(storage).first(size), 1);
      CHECK((builder.room(stride) > 0) == (packet_builder::bytes_for(stride) <= size));
      CHECK(builder.has_room(stride) == (builder.room(stride) > 0));
      std::uint32_t records = 0;
      while (builder.room(stride) > 0) {
        REQUIRE(record(op, 1, 1 + records % 2));  // never uniform after the second: the index must fit as well
        ++records;
      }
      if (records == 0) continue;
      const auto packet = decode(builder.finish(), table);
      CHECK(packet.records.size() == records);
      CHECK(packet.header.bytes <= size);
      CHECK(packet.header.bytes + stride + 64 > size / 16 * 16);
      builder.begin(std::span(storage).first(size), 1);
      REQUIRE(record(op, builder.room(stride), 3));
      CHECK(builder.room(16) < stride / 16);  // nothing of that stride fits behind it
      CHECK(decode(builder.finish(), table).header.bytes <= size);
    }
  }
}

TEST_CASE_FIXTURE(fixture, "equal contents give equal bytes, whatever was in the storage before") {
  std::vector<std::byte> first;
  for (const std::byte dirt : {std::byte{0x00}, std::byte{0xff}, std::byte{0x5a}}) {
    std::ranges::fill(storage, dirt);
    builder.begin(storage, 9);
    record(2, 1, 1, 1);
    record(5, 3, 2, 2);
    record(2, 1, 4, 5);
    const auto packet = builder.finish();
    if (first.empty()) first.assign(packet.begin(), packet.end());
    CHECK(std::ranges::equal(first, packet));
  }
}

TEST_CASE_FIXTURE(fixture,
                  "a packet comes after all that were named while it was built, and the next after none of them") {
  builder.begin(storage, 1);
  record(2, 1, 1, 1);
  builder.come_after(1);
  record(5, 3, 2, 2);
  builder.come_after(1u << 31);
  builder.come_after(1);
  CHECK(decode(builder.finish(), table).header.after == (1u << 31 | 1));
  builder.begin(storage, 2);
  record(2, 1, 1, 1);
  CHECK(decode(builder.finish(), table).header.after == 0);
}

TEST_CASE_FIXTURE(fixture, "records whose tiles take longest have the first tiles, wherever they lie") {
  builder.begin(storage, 1);
  record(3, 1, 4, 0, 4'000);      // 1000 a tile
  record_alone(3, 2, 1, 10'000);  // 5000
  record(5, 2, 3, 2, 3'000);      // 1000
  record_alone(3, 1, 4, 0);       // nothing
  record(3, 1, 8, 5, 400'000);    // 50000
  const auto packet = decode(builder.finish(), table);
  CHECK(packet.ids() == std::vector<std::uint64_t>{0, 1, 2, 3, 4, 5});
  std::vector<std::uint32_t> first_tiles;
  for (const decoded_record& one : packet.records) first_tiles.push_back(one.header.first_tile);
  CHECK(first_tiles == std::vector<std::uint32_t>{10, 8, 14, 17, 0});
  // The next packet knows nothing of it.
  builder.begin(storage, 2);
  record(3, 1, 4, 0, 1);
  record(3, 1, 4, 0, 1);
  CHECK(decode(builder.finish(), table).header.uniform_tiles == 4);
}

TEST_CASE_FIXTURE(fixture, "pieces to meet in are counted by the records that want them, in order of the tiles") {
  builder.begin(storage, 1);
  record(3, 1, 4, 0, 100, true);
  record(3, 1, 5, 1, 100);
  record_alone(3, 6, 2, 100'000, true);
  record(3, 1, 7, 3, 1, true);
  std::vector<std::uint32_t> pieces;
  for (const decoded_record& one : decode(builder.finish(), table).records) pieces.push_back(one.header.first_piece);
  CHECK(pieces == std::vector<std::uint32_t>{6, cohort::no_pieces, 0, 10});
}

TEST_CASE_FIXTURE(fixture,
                  "records that are alike but for how long their tiles take are uniform if they lie in order") {
  bool falling = false;
  SUBCASE("longest first") { falling = true; }
  SUBCASE("shortest first") {}
  builder.begin(storage, 1);
  for (std::int64_t i = 0; i < 8; ++i) record(3, 1, 4, 0, falling ? 800 - 100 * i : 100 + 100 * i);
  CHECK(decode(builder.finish(), table).header.uniform_tiles == (falling ? 4 : 0));
}

TEST_CASE_FIXTURE(fixture, "random packets decode to what was put in, and each tile belongs to exactly one record") {
  std::mt19937 random(20240607);
  const auto below = [&](std::uint32_t bound) { return static_cast<std::uint32_t>(random() % bound); };
  std::uint32_t uniform = 0;
  for (std::uint32_t round = 0; round < 2000; ++round) {
    const std::size_t size = round % 20 == 0 ? sizeof storage : 128 + below(4000);
    const bool alike = below(3) == 0;
    const bool weighed = below(2) == 0;
    const auto one_op = static_cast<std::uint16_t>(below(table.size()));
    const std::uint32_t one_count = 1 + below(4);
    const std::uint32_t one_tiles = 1 + below(5);
    builder.begin(std::span(storage).first(size), round + 1);
    std::vector<decoded_record> wanted;
    std::vector<double> lengths;
    std::uint64_t id = random();
    const std::uint32_t most = 1 + below(40);
    while (wanted.size() < most) {
      const std::uint16_t op = alike ? one_op : static_cast<std::uint16_t>(below(table.size()));
      const std::uint32_t count = alike ? one_count : 1 + below(6);
      const std::uint32_t tiles = alike ? one_tiles : 1 + below(9);
      if (builder.room(table[op].stride) < count) break;
      decoded_record expected;
      expected.header.op = op;
      expected.header.tiles = tiles;
      for (std::uint32_t i = 0; i < count; ++i) expected.ids.push_back(id + i);
      REQUIRE(builder.has_room(table[op].stride));
      if (below(16) == 0) REQUIRE_FALSE(record_alone(op, 0, id));  // leaves no trace
      const std::int64_t weight = weighed ? (std::int64_t{1} << below(40)) - 1 : 0;
      const bool exchange = below(3) == 0;
      REQUIRE((count == 1 && below(2) == 0 ? record_alone(op, tiles, id, weight, exchange)
                                           : record(op, count, tiles, id, weight, exchange)));
      expected.header.first_piece = exchange ? 0 : cohort::no_pieces;
      lengths.push_back(static_cast<double>(weight) / tiles);
      if (below(4) == 0 && builder.room(table[op].stride) > 0) {
        builder.open(op, table[op].stride);
        builder.drop();
      }
      id += count;
      wanted.push_back(expected);
    }
    if (wanted.empty()) continue;
    const auto packet = decode(builder.finish(), table);
    REQUIRE(packet.header.sequence == round + 1);
    REQUIRE(packet.records.size() == wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      REQUIRE(packet.records[i].header.op == wanted[i].header.op);
      REQUIRE(packet.records[i].header.tiles == wanted[i].header.tiles);
      REQUIRE(packet.records[i].ids == wanted[i].ids);
      const bool has_pieces = packet.records[i].header.first_piece != cohort::no_pieces;
      REQUIRE(has_pieces == (wanted[i].header.first_piece != cohort::no_pieces));
    }
    // Who comes before another has no shorter tiles, but for the steps that lengths are sorted in.
    const double least = *std::ranges::max_element(lengths) / 32'768;  // from here on all count as equal
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      for (std::size_t j = 0; j < wanted.size(); ++j) {
        if (packet.records[i].header.first_tile > packet.records[j].header.first_tile) continue;
        REQUIRE(lengths[i] * 1.25 + least >= lengths[j]);
      }
    }
    uniform += packet.header.uniform_tiles != 0 ? 1 : 0;
  }
  CHECK(uniform > 300);  // both forms were met
  CHECK(uniform < 1700);
}
