// Who may ride together: pending submissions in buckets. A bucket holds what may be fused (one op type, one key), or
// all submissions of one op type that may only be packed. A bucket gives its members by rank; the buckets that hold
// something are ranked in turn, by arrival or by their most urgent member.
#pragma once

#include <cohort/config.hpp>
#include <cohort/op.hpp>
#include <cohort/schedule/intrusive_list.hpp>
#include <cohort/schedule/mostly_sorted_queue.hpp>
#include <cohort/schedule/policy.hpp>
#include <cohort/schedule/submission.hpp>

#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace cohort::inline COHORT_ABI::detail {

/// Fetches a submission that will soon leave.
inline void prefetch(const submission& one) noexcept {
  for (std::size_t at = 0; at < sizeof one; at += 64) __builtin_prefetch(reinterpret_cast<const char*>(&one) + at, 1);
}

inline void prefetch_descriptor(const submission& one) noexcept {
  __builtin_prefetch(one.op);
  __builtin_prefetch(static_cast<const char*>(one.op) + one.op_bytes - 1);
}

/// And what is touched besides when it leaves: its descriptor, its tenant's account, its neighbours.
inline void prefetch_company(const submission& one) noexcept {
  prefetch_descriptor(one);
  __builtin_prefetch(one.account, 1);
  __builtin_prefetch(reinterpret_cast<const char*>(one.account) + 64, 1);
  if (one.older != nullptr) __builtin_prefetch(&one.older->newer, 1);
  if (one.newer != nullptr) __builtin_prefetch(&one.newer->older, 1);
}

/// In the order in which it can be done: each step needs what the one before has fetched.
struct fetch_submission {
  void operator()(const submission& one, int steps) const noexcept {
    if (steps == 2) prefetch(one);
    if (steps == 1) prefetch_company(one);
  }
};

/// Submissions that wait for the same thing. What is looked at in its turn is on one cache line.
struct alignas(64) bucket {
  mostly_sorted_queue<submission, fetch_submission> members;
  queue_links<bucket> order{};  ///< among the buckets that hold something
  rank turn{};                  ///< valid while it is among them
  // The second line.
  std::uint16_t op_index = 0;
  bool queued = false;
  bool fusable = false;         ///< found by key; the others are found by op type
  bool keyed = false;           ///< is found by `key`, whether it holds something or not
  bool idle = false;            ///< in the list of those that may get another key, though it may hold something again
  std::uint16_t served_in = 0;  ///< lower half of the number of the packet that its key was last served in
  std::uint32_t place = 0;      ///< as `order`
  std::uint32_t hash = 0;
  coalescing_key key{};
  bucket* next = nullptr;    ///< in that list
  bucket* following = this;  ///< where the next submission belonged when one was last added here
};
static_assert(sizeof(bucket) == 128);

/// As above; its submission's company is fetched at its turn.
struct fetch_bucket {
  void operator()(const bucket& one, int steps) const noexcept {
    if (steps == 2) __builtin_prefetch(&one, 1);
    if (steps == 1 && !one.members.empty()) prefetch(*one.members.front());
  }
};

/// Mixes op index and key into 32 bits: two products of 128 bits, each folded upon itself (as in wyhash), so that the
/// low bits depend on all of both factors, pointers' middle bits among them.
inline std::uint32_t hash_of(std::uint16_t op_index, const coalescing_key& key) noexcept {
  __extension__ typedef unsigned __int128 wide;  // NOLINT(modernize-use-using): not every compiler knows it so
  const auto fold = [](std::uint64_t a, std::uint64_t b) {
    const wide product = static_cast<wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  };
  return static_cast<std::uint32_t>(
      fold(key.words[0] ^ 0xa076'1d64'78bd'642fu, key.words[1] ^ 0xe703'7ed1'a0b4'28dbu) ^
      fold(key.words[2] ^ 0x8ebc'6af0'9c88'c6e3u, key.words[3] ^ 0x5899'65cc'7537'4cc3u ^ op_index));
}

/// Buckets by (op, key): open addressing with linear probing, at most half full, erased by shifting back, so that no
/// tombstones gather while keys come and go.
class bucket_table {
public:
  explicit bucket_table(std::size_t expected) : slots_(std::bit_ceil(2 * expected + 16)), mask_(slots_.size() - 1) {}

  bucket* find(std::uint32_t hash, std::uint16_t op_index, const coalescing_key& key) const noexcept {
    for (std::size_t at = hash & mask_; slots_[at].value != nullptr; at = (at + 1) & mask_) {
      if (slots_[at].hash == hash && is(slots_[at].value, op_index, key)) return slots_[at].value;
    }
    return nullptr;
  }

  /// The same where it was found last time; null when it is no longer there. Any `place` will do.
  bucket* find_at(std::uint32_t place, std::uint16_t op_index, const coalescing_key& key) const noexcept {
    bucket* const found = slots_[place & mask_].value;
    return found != nullptr && is(found, op_index, key) ? found : nullptr;
  }

  /// For `find_at`, of one that is here.
  std::uint32_t place_of(const bucket& one) const noexcept {
    std::size_t at = one.hash & mask_;
    while (slots_[at].value != &one) at = (at + 1) & mask_;
    return static_cast<std::uint32_t>(at);
  }

  /// Makes sure that one more `insert` does not allocate.
  void reserve_one() {
    if (2 * (used_ + 1) > slots_.size()) grow();
  }

  void insert(bucket& one) noexcept {
    place(slots_, one);
    ++used_;
  }

  void erase(const bucket& one) noexcept {
    std::size_t hole = one.hash & mask_;
    while (slots_[hole].value != &one) {
      assert(slots_[hole].value != nullptr);
      hole = (hole + 1) & mask_;
    }
    // Whoever stands behind the hole and was not meant to stand there moves into it, and leaves the next hole.
    for (std::size_t at = (hole + 1) & mask_; slots_[at].value != nullptr; at = (at + 1) & mask_) {
      const std::size_t distance_from_home = (at - slots_[at].hash) & mask_;
      if (distance_from_home >= ((at - hole) & mask_)) {
        slots_[hole] = slots_[at];
        hole = at;
      }
    }
    slots_[hole].value = nullptr;
    --used_;
  }

  /// Whoever has this hash is about to go.
  void prefetch(std::uint32_t hash) const noexcept { __builtin_prefetch(&slots_[hash & mask_], 1); }

  std::size_t size() const noexcept { return used_; }
  std::size_t capacity() const noexcept { return slots_.size(); }

private:
  struct slot {
    std::uint32_t hash = 0;
    bucket* value = nullptr;
  };

  static bool is(const bucket* one, std::uint16_t op_index, const coalescing_key& key) noexcept {
    return one->op_index == op_index && one->key == key;
  }

  static void place(std::vector<slot>& slots, bucket& one) noexcept {
    std::size_t at = one.hash & (slots.size() - 1);
    while (slots[at].value != nullptr) at = (at + 1) & (slots.size() - 1);
    slots[at] = {one.hash, &one};
  }

  void grow() {
    std::vector<slot> larger(2 * slots_.size());
    for (const slot& old : slots_) {
      if (old.value != nullptr) place(larger, *old.value);
    }
    slots_.swap(larger);
    mask_ = slots_.size() - 1;
  }

  std::vector<slot> slots_;
  std::size_t mask_;
  std::size_t used_ = 0;
};

/// The pending submissions. Memory grows with the largest number of keys pending together and is then reused.
class coalescer {
public:
  /// \param fuse whether equal keys share a bucket; otherwise keys are not looked at
  /// \param expected_keys keys pending together before anything must be allocated
  coalescer(std::span<const op_info> ops, bool fuse, std::size_t expected_keys, ordering order = ordering::arrival)
      : ops_(ops), fuse_(fuse), order_(order), by_op_(std::make_unique<bucket[]>(ops.size())), table_(expected_keys) {
    for (std::size_t i = 0; i < ops.size(); ++i) by_op_[i].op_index = static_cast<std::uint16_t>(i);
    queue_.reserve(ops.size());
    add_buckets(expected_keys);
    newest_home_ = by_op_.get();
  }

  /// Where a submission belongs; it must be added there. Strong guarantee: when memory runs out (`std::bad_alloc`),
  /// nothing has changed.
  bucket& home_of(submission& one) {
    bucket& home = found_home_of(one);
    home.members.reserve_one();
    return home;
  }

  /// \param home what `home_of` said
  void add(submission& one, bucket& home) noexcept {
    one.turn.ticket = ++tickets_;
    if (order_ == ordering::arrival) one.turn.due = 0;
    arrivals_.push_back(one);
    one.bucket = &home;
    ++size_;
    if (!home.queued) {  // it is empty: no company, and nobody to be ranked among
      home.members.insert_first(one);
      home.turn = order_ == ordering::urgency
                      ? rank{one.turn.due - static_cast<std::int64_t>(one.work_ns), one.turn.ticket}
                      : rank{0, ++turns_};
      home.queued = true;
      return queue_.insert(home);
    }
    home.members.insert(one);
    if (home.members.front() == &one || (home.fusable && order_ == ordering::urgency)) rerank(home);
  }

  /// Takes `one` out, wherever it stands in its bucket.
  void remove(submission& one) noexcept {
    bucket& home = *one.bucket;
    take(one);
    settle(home);
  }

  /// As `remove`, for one of many members that leave `home` together: `settle` is due after them, and until then the
  /// bucket stands where it stood.
  void take(submission& one) noexcept {
    arrivals_.erase(one);
    one.bucket->members.erase(one);
    one.bucket = nullptr;
    --size_;
    ++left_;
  }

  /// As `remove`, of the first member of the front bucket, while few are pending.
  void remove_alone(submission& one) noexcept {
    bucket& home = *one.bucket;
    arrivals_.erase(one);
    one.bucket = nullptr;
    --size_;
    ++left_;
    if (home.members.size() > 1) {
      home.members.erase(one);
      return rerank(home);
    }
    home.members.erase_last(one);
    queue_.erase_front(home);
    home.queued = false;
    if (home.fusable && !home.idle) put_idle(home);
  }

  /// Ends the turn of a bucket whose last member was taken, ahead of its `settle`, so that `front` is the next one.
  void retire(bucket& one) noexcept {
    queue_.erase(one);
    one.queued = false;
  }

  /// For whoever has something to do until the next turn: fetches what it will touch, in two steps with some 50 ns
  /// between them, because the second needs what the first has fetched. With thousands pending none of it is in a near
  /// cache; a few are there anyway. The second returns for whom it fetched, null for nobody.
  void prefetch_front() const noexcept {
    if (size_ < few) return;
    const bucket* const next = queue_.front();
    queue_.prefetch_next();
    prefetch(*next->members.front());
    __builtin_prefetch(&next->key, 1);
  }
  submission* prefetch_company_of_front() const noexcept {
    if (size_ < few) return nullptr;
    const bucket* const next = queue_.front();
    prefetch_company(*next->members.front());
    if (next->fusable) table_.prefetch(next->hash);
    return next->members.front();
  }

  /// Undoes a `take` that no `settle` has followed, except that `one` counts as the newest arrival.
  void put_back(bucket& home, submission& one) noexcept {
    home.members.insert(one);
    if (!home.queued) queue_.insert(home);
    home.queued = true;
    arrivals_.push_back(one);
    one.bucket = &home;
    ++size_;
    --left_;
  }

  /// Gives a bucket the place that its members earn. When it has none it keeps its key until others need it more: keys
  /// that come back, as those of a model's layers do, find it where it was. Not with very many pending: whoever comes
  /// next does better with the bucket that has just been in use, which is in a near cache.
  void settle(bucket& one) noexcept {
    if (one.members.empty()) {
      if (one.queued) retire(one);
      if (!one.fusable || one.idle) return;
      if (size_ < few) {
        put_idle(one);
      } else {
        table_.erase(one);
        one.keyed = false;
        put_idle_first(one);
      }
    } else {
      rerank(one);
    }
  }

  /// The bucket whose turn it is; null when nothing is pending.
  bucket* front() const noexcept { return queue_.front(); }

  /// The turn of the front bucket is over though it holds more. Means something by arrival alone.
  void to_back(bucket& one) noexcept {
    if (order_ == ordering::urgency) return;
    queue_.rerank(one, rank{one.turn.due, ++turns_});
  }

  /// Makes one member due at another time.
  void rerank(submission& one, std::int64_t due) noexcept {
    bucket& home = *one.bucket;
    home.members.rerank(one, rank{due, one.turn.ticket});
    rerank(home);
  }

  /// Places by which one leaves later, if it leaves or has just left, than in order of arrival.
  std::uint64_t behind(const submission& one) const noexcept {
    return left_ > one.turn.ticket ? left_ - one.turn.ticket : 0;
  }

  /// The submission that waits longest; null when nothing is pending.
  submission* oldest() const noexcept { return arrivals_.front(); }

  std::size_t size() const noexcept { return size_; }

  /// Whether so few are pending that a core's own cache holds their data.
  bool has_few() const noexcept { return size_ < few; }

  /// Buckets that exist for keys, in use or not.
  std::size_t key_buckets() const noexcept { return buckets_; }

private:
  static constexpr std::size_t chunk = 64;
  static constexpr double sooner_for_each = 4;  // of the time that a member alone takes
  static constexpr std::size_t few = 2048;      // pending ones, whose data a core's own cache holds

  bool by_key(const submission& one) const noexcept { return fuse_ && ops_[one.op_index].fusable && one.key; }

  bucket& found_home_of(submission& one) {
    if (one.in_chain()) return home_of_link(one);
    // Keys come in the order in which they came before, as those of a model's layers do, or many of one together. With
    // very many pending the guess might have to be fetched from afar.
    bucket* const guess = newest_home_->following;
    if (has_few() && guess->keyed && guess->op_index == one.op_index && guess->key == one.key) {
      newest_home_ = guess;
      __builtin_prefetch(guess->following, 1);
      __builtin_prefetch(&guess->following->key, 1);
      return *guess;
    }
    return by_key(one) ? sought_home_of(one) : by_op_[one.op_index];
  }

  bucket& sought_home_of(const submission& one) {
    const std::uint32_t hash = hash_of(one.op_index, one.key);
    bucket* const found = table_.find(hash, one.op_index, one.key);
    bucket& home = found != nullptr ? *found : new_home(one, hash);
    newest_home_->following = &home;
    newest_home_ = &home;
    return home;
  }

  /// A chain is made once and submitted again and again: its links know where they were.
  bucket& home_of_link(submission& one) {
    if (!by_key(one)) return by_op_[one.op_index];
    if (bucket* const known = table_.find_at(one.home, one.op_index, one.key)) return *known;
    bucket& home = sought_home_of(one);
    one.home = table_.place_of(home);
    return home;
  }

  [[gnu::noinline]] bucket& new_home(const submission& one, std::uint32_t hash) {
    while (idle_ != nullptr && !idle_->members.empty()) take_idle();
    if (idle_ == nullptr) add_buckets(chunk);
    table_.reserve_one();
    bucket& fresh = *idle_;
    take_idle();
    if (fresh.keyed) table_.erase(fresh);
    fresh.keyed = true;
    fresh.key = one.key;
    fresh.hash = hash;
    fresh.op_index = one.op_index;
    fresh.served_in = 0;
    table_.insert(fresh);
    return fresh;
  }

  /// Gives a bucket that holds something the place that its members earn. By urgency that is when its first must start,
  /// and the sooner the more there are who would ride along: what they take together is less than what they would take
  /// one by one, so whoever waits behind them gains, too. On a device that is full this is what makes it carry more.
  void rerank(bucket& one) noexcept {
    rank turn = one.queued ? one.turn : rank{0, ++turns_};
    if (order_ == ordering::urgency) {
      const submission& first = *one.members.front();
      const double company = one.fusable ? sooner_for_each * static_cast<double>(one.members.size() - 1) : 0;
      turn = {first.turn.due - static_cast<std::int64_t>(first.work_ns * (1 + company)), first.turn.ticket};
    }
    if (one.queued) {
      if (turn.due != one.turn.due || turn.ticket != one.turn.ticket) queue_.rerank(one, turn);
      return;
    }
    one.turn = turn;
    one.queued = true;
    queue_.insert(one);
  }

  // The idle stand in the order in which they became so. One that holds something again stays where it is until its
  // turn comes: keys that come and go do not touch the list.

  void put_idle(bucket& one) noexcept {
    one.idle = true;
    one.next = nullptr;
    (idle_ != nullptr ? last_idle_->next : idle_) = &one;
    last_idle_ = &one;
  }

  void put_idle_first(bucket& one) noexcept {
    if (idle_ == nullptr) return put_idle(one);
    one.idle = true;
    one.next = std::exchange(idle_, &one);
  }

  void take_idle() noexcept {
    idle_->idle = false;
    idle_ = idle_->next;
  }

  void add_buckets(std::size_t count) {
    if (count == 0) return;
    queue_.reserve(ops_.size() + buckets_ + count);
    chunks_.push_back(std::make_unique<bucket[]>(count));
    for (std::size_t i = 0; i < count; ++i) {
      bucket& one = chunks_.back()[i];
      one.fusable = true;
      put_idle(one);
    }
    buckets_ += count;
  }

  std::span<const op_info> ops_;
  bool fuse_;
  ordering order_;
  std::unique_ptr<bucket[]> by_op_;
  std::vector<std::unique_ptr<bucket[]>> chunks_;  // buckets never move: submissions point to theirs
  bucket* idle_ = nullptr;                         // the first of them
  bucket* last_idle_ = nullptr;                    // valid while there is a first
  bucket* newest_home_;                            // of those found by key; at first any bucket
  bucket_table table_;
  mostly_sorted_queue<bucket, fetch_bucket> queue_;
  intrusive_list<submission, &submission::older, &submission::newer> arrivals_;
  std::size_t size_ = 0;
  std::size_t buckets_ = 0;
  std::uint64_t tickets_ = 0;
  std::uint64_t turns_ = 0;
  std::uint64_t left_ = 0;  // so many were taken
};

}  // namespace cohort::inline COHORT_ABI::detail
