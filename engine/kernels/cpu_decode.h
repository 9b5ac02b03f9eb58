// Attention of one query token a sequence: reads each key and value once for all heads of a group.
//
// The context is cut into partitions of a fixed length, so that few long sequences keep all threads
// busy and a sequence's result does not depend on what else is in the batch. Each partition is an
// online softmax of its own; the partitions are merged at the end.
#pragma once

#include <vector>

#include "cpu_paged.h"

namespace baton {

constexpr int64_t kPartition = 512;

// A partition of one sequence for some of its kv heads. The heads of a block lie side by side in
// memory, so a task takes as many of them as leave enough tasks for the threads.
struct DecodeTask {
  int64_t sequence, partials, begin, end, first_head, last_head;  // partials: index of head 0's
};

// The partitions of one sequence, and the partial results of its heads: [partition][num_heads].
struct DecodeSequence {
  int64_t sequence, partitions, first_partial;
};

struct DecodePlan {
  std::vector<DecodeSequence> sequences;
  std::vector<DecodeTask> tasks;
  int64_t num_partials = 0;
};

// A head's partial result: maximum, sum, and the weighted values in lane order.
template <class T, int D>
struct Partial {
  float best, sum;
  float values[Values<T, D>::kWidth];
};

// A share of the next block, fetched piece by piece between the steps of a computation: asked for
// at once, it would fill the queues to memory and stop the computation.
struct Fetch {
  const char* at;  // null: nothing to fetch
  int64_t bytes;   // of each step
  void operator()(int64_t step) const {
    if (!at) return;
    for (int64_t line = 0; line < bytes; line += 64)
      __builtin_prefetch(at + step * bytes + line, 0, 2);
  }
};

// The share of head `index` of `group`, over `steps` steps.
inline Fetch share(const void* block, int64_t bytes, int64_t index, int64_t group, int64_t steps) {
  if (!block) return {nullptr, 0};
  return {static_cast<const char*>(block) + bytes / group * index, bytes / group / steps};
}

// Scores of one block's sixteen keys against one query.
template <class T, int D>
inline f32x16 block_scores(const u32x16* query, const T* keys, Fetch fetch) {
  constexpr int kFull = 64 / sizeof(T);
  f32x16 sums[kBlock];
#pragma GCC unroll 16
  for (int row = 0; row < kBlock; ++row) {
    fetch(row);
    sums[row] = splat(0);
#pragma GCC unroll 16
    for (int part = 0; part < (D + kFull - 1) / kFull; ++part)
      sums[row] =
          mac<T>(sums[row], row_lanes<T, D>(keys + row * D, part * kFull), query[part]);
  }
  return sum_each(sums);
}

// Turns a head's scores into weights in place; returns the maximum and the sum.
inline void soften(float* scores, int64_t padded, float& best, float& sum) {
  f32x16 top = splat(-1e30f);
  for (int64_t i = 0; i < padded; i += kLanes) top = max(top, load<f32x16>(scores + i));
  best = reduce_max(top);
  f32x16 total = splat(0);
  for (int64_t i = 0; i < padded; i += kLanes) {
    const f32x16 weight = exp2_falling(load<f32x16>(scores + i) - best);
    store(scores + i, weight);
    total += weight;
  }
  sum = reduce_sum(total);
}

// Two neighbouring weights (one for float) as the lane that multiplies packed values.
inline u32x16 weight_lane(const float* weights, bf16) {
  bf16 low, high;
  from_float(weights[0], low);
  from_float(weights[1], high);
  return splat_bits(low.bits | static_cast<uint32_t>(high.bits) << 16);
}
inline u32x16 weight_lane(const float* weights, float) { return (u32x16)splat(weights[0]); }

template <class T, int D>
inline void add_values(const uint32_t* packed, const float* weights, float* into, Fetch fetch) {
  using V = Values<T, D>;
  constexpr int kVectors = V::kWidth / kLanes;
  f32x16 sums[kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) sums[i] = load<f32x16>(into + i * kLanes);
#pragma GCC unroll 16
  for (int step = 0; step < V::kSteps; ++step) {
    fetch(step);
    const u32x16 weight = weight_lane(weights + step * V::kDepth, T{});
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i)
      sums[i] = mac<T>(sums[i], load<u32x16>(packed + step * V::kWidth + i * kLanes), weight);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) store(into + i * kLanes, sums[i]);
}

// Scores of the task's keys against all queries of its heads, -inf where a key is not seen.
template <class T, int D>
void score_keys(const Attention<T>& step, const DecodeTask& task, float* scores) {
  constexpr int kFull = 64 / sizeof(T), kParts = (D + kFull - 1) / kFull;
  const int64_t group = step.group(), first = task.begin / kBlock;
  const int64_t last = (task.end + kBlock - 1) / kBlock;
  const T* q = step.q + step.query_start[task.sequence] * step.num_heads * D;
  for (int64_t block = first; block < last; ++block) {
    const i32x16 position = iota() + static_cast<int32_t>(block * kBlock);
    const i32x16 seen = (position >= static_cast<int32_t>(task.begin)) &
                        (position < static_cast<int32_t>(task.end));
    for (int64_t kv_head = task.first_head; kv_head < task.last_head; ++kv_head) {
      const T* keys = step.keys(task.sequence, block, kv_head);
      const T* next = block + 1 < last ? step.keys(task.sequence, block + 1, kv_head) : nullptr;
      for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const Fetch fetch =
            share(next, kBlock * D * sizeof(T), head - kv_head * group, group, kBlock);
        u32x16 query[kParts];
        for (int part = 0; part < kParts; ++part)
          query[part] = row_lanes<T, D>(q + head * D, part * kFull);
        const f32x16 score = block_scores<T, D>(query, keys, fetch) * step.scale;
        store(scores + head * kPartition + (block - first) * kBlock,
              seen ? score : splat(-INFINITY));
      }
    }
  }
}

template <class T, int D>
void weigh_values(const Attention<T>& step, const DecodeTask& task, Partial<T, D>* partials,
                  const float* weights) {
  alignas(64) uint32_t packed[Values<T, D>::kSteps * Values<T, D>::kWidth];
  const int64_t group = step.group(), first = task.begin / kBlock;
  const int64_t last = (task.end + kBlock - 1) / kBlock;
  for (int64_t block = first; block < last; ++block)
    for (int64_t kv_head = task.first_head; kv_head < task.last_head; ++kv_head) {
      const int64_t to_values = step.part_stride;
      const T* values = step.keys(task.sequence, block, kv_head) + to_values;
      const T* next =
          block + 1 < last ? step.keys(task.sequence, block + 1, kv_head) + to_values : nullptr;
      pack_values<D>(values, task.end - block * kBlock, packed);
      for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
        add_values<T, D>(packed, weights + head * kPartition + (block - first) * kBlock,
                         partials[head].values,
                         share(next, kBlock * D * sizeof(T), head - kv_head * group, group,
                               Values<T, D>::kSteps));
    }
}

// `partials` and `scores` belong to the task's partition and thread, one of each a query head.
template <class T, int D>
void decode_partition(const Attention<T>& step, const DecodeTask& task, Partial<T, D>* partials,
                      float* scores) {
  const int64_t blocks = (task.end + kBlock - 1) / kBlock - task.begin / kBlock;
  score_keys<T, D>(step, task, scores);
  for (int64_t head = task.first_head * step.group(); head < task.last_head * step.group();
       ++head) {
    std::memset(partials[head].values, 0, sizeof(partials[head].values));
    soften(scores + head * kPartition, blocks * kBlock, partials[head].best, partials[head].sum);
  }
  weigh_values<T, D>(step, task, partials, scores);
}

// Cuts the contexts of all sequences with one query into tasks.
template <class T>
DecodePlan decode_plan(const Attention<T>& step) {
  DecodePlan plan;
  for (int64_t sequence = 0; sequence < step.sequences; ++sequence) {
    if (step.queries(sequence) != 1) continue;
    const int64_t context = step.context_len[sequence], start = step.first_seen(context - 1);
    const int64_t partitions = (context - 1) / kPartition - start / kPartition + 1;
    plan.sequences.push_back({sequence, partitions, plan.num_partials});
    plan.num_partials += partitions * step.num_heads;
  }
  const int64_t ranges = plan.num_partials / step.num_heads;
  if (ranges == 0) return plan;
  const int64_t cuts = std::min(step.num_kv_heads, (2 * step.threads + ranges - 1) / ranges);
  for (const DecodeSequence& item : plan.sequences) {
    const int64_t context = step.context_len[item.sequence];
    const int64_t start = step.first_seen(context - 1);
    for (int64_t part = 0; part < item.partitions; ++part) {
      const int64_t from = (start / kPartition + part) * kPartition;
      for (int64_t cut = 0; cut < cuts; ++cut)
        plan.tasks.push_back({item.sequence, item.first_partial + part * step.num_heads,
                              std::max(from, start), std::min(from + kPartition, context),
                              cut * step.num_kv_heads / cuts,
                              (cut + 1) * step.num_kv_heads / cuts});
    }
  }
  return plan;
}

// Merges the partitions of one head; `partials` is its result in the first of them.
template <class T, int D>
void merge_partials(const Attention<T>& step, const Partial<T, D>* partials, int64_t partitions,
                    T* out) {
  using V = Values<T, D>;
  float best = -1e30f, sum = 0;
  float values[V::kWidth] = {};
  for (int64_t part = 0; part < partitions; ++part) {
    const Partial<T, D>& from = partials[part * step.num_heads];
    const float top = std::max(best, from.best);
    const float old_scale = std::exp2(best - top), scale = std::exp2(from.best - top);
    for (int i = 0; i < V::kWidth; ++i) values[i] = values[i] * old_scale + from.values[i] * scale;
    sum = sum * old_scale + from.sum * scale;
    best = top;
  }
  for (int lane = 0; lane < V::kWidth; ++lane)
    if (dim_of(lane, T{}) < D) from_float(values[lane] / sum, out[dim_of(lane, T{})]);
}

template <class T, int D>
void decode_attention(const Attention<T>& step) {
  const DecodePlan plan = decode_plan(step);
  if (plan.tasks.empty()) return;
  std::vector<Partial<T, D>> partials(plan.num_partials);
  const int64_t tasks = plan.tasks.size(), heads = plan.sequences.size() * step.num_heads;
#pragma omp parallel num_threads(step.threads)
  {
    std::vector<float> scores(step.num_heads * kPartition);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task)
      decode_partition<T, D>(step, plan.tasks[task], &partials[plan.tasks[task].partials],
                             scores.data());
#pragma omp for schedule(static)
    for (int64_t item = 0; item < heads; ++item) {
      const DecodeSequence& of = plan.sequences[item / step.num_heads];
      const int64_t head = item % step.num_heads;
      merge_partials<T, D>(
          step, &partials[of.first_partial + head], of.partitions,
          step.out + (step.query_start[of.sequence] * step.num_heads + head) * D);
    }
  }
}

}  // namespace baton
