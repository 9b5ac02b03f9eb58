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

struct DecodeTask {
  int64_t sequence, kv_head, begin, end;
  int64_t partial;  // index of the group's first head among the partial results
};

// A head's partial result: maximum, sum, and the weighted values in lane order.
template <class T, int D>
struct Partial {
  float best, sum;
  float values[Values<T, D>::kWidth];
};

// Scores of one block's sixteen keys against one query.
template <class T, int D>
inline f32x16 block_scores(const u32x16* query, const T* keys) {
  constexpr int kFull = 64 / sizeof(T);
  f32x16 sums[kBlock];
#pragma GCC unroll 16
  for (int row = 0; row < kBlock; ++row) {
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
    const f32x16 weight = exp(load<f32x16>(scores + i) - best);
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
inline void add_values(const uint32_t* packed, const float* weights, float* into) {
  using V = Values<T, D>;
  constexpr int kVectors = V::kWidth / kLanes;
  f32x16 sums[kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) sums[i] = load<f32x16>(into + i * kLanes);
#pragma GCC unroll 16
  for (int step = 0; step < V::kSteps; ++step) {
    const u32x16 weight = weight_lane(weights + step * V::kDepth, T{});
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i)
      sums[i] = mac<T>(sums[i], load<u32x16>(packed + step * V::kWidth + i * kLanes), weight);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) store(into + i * kLanes, sums[i]);
}

inline void prefetch(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64)
    __builtin_prefetch(static_cast<const char*>(from) + at, 0, 2);
}

template <class T, int D>
void decode_partition(const Attention<T>& step, const DecodeTask& task, Partial<T, D>* partial,
                      float* scores) {
  constexpr int kFull = 64 / sizeof(T), kParts = (D + kFull - 1) / kFull;
  const int64_t group = step.group(), first = task.begin / kBlock;
  const int64_t blocks = (task.end + kBlock - 1) / kBlock - first, padded = blocks * kBlock;
  const T* q =
      step.q + (step.query_start[task.sequence] * step.num_heads + task.kv_head * group) * D;
  for (int64_t block = 0; block < blocks; ++block) {
    const T* keys = step.keys(task.sequence, first + block, task.kv_head);
    const i32x16 position = iota() + static_cast<int32_t>((first + block) * kBlock);
    if (block + 1 < blocks)
      prefetch(step.keys(task.sequence, first + block + 1, task.kv_head), kBlock * D * sizeof(T));
    const i32x16 seen = (position >= static_cast<int32_t>(task.begin)) &
                        (position < static_cast<int32_t>(task.end));
    for (int64_t head = 0; head < group; ++head) {
      u32x16 query[kParts];
      for (int part = 0; part < kParts; ++part)
        query[part] = row_lanes<T, D>(q + head * D, part * kFull);
      const f32x16 score = block_scores<T, D>(query, keys) * step.scale;
      store(scores + head * kPartition + block * kBlock, seen ? score : splat(-INFINITY));
    }
  }
  for (int64_t head = 0; head < group; ++head) {
    std::memset(partial[head].values, 0, sizeof(partial[head].values));
    soften(scores + head * kPartition, padded, partial[head].best, partial[head].sum);
  }
  alignas(64) uint32_t packed[Values<T, D>::kSteps * Values<T, D>::kWidth];
  for (int64_t block = 0; block < blocks; ++block) {
    const T* values =
        step.keys(task.sequence, first + block, task.kv_head) + step.values_after_keys();
    if (block + 1 < blocks)
      prefetch(step.keys(task.sequence, first + block + 1, task.kv_head) + step.values_after_keys(),
               kBlock * D * sizeof(T));
    pack_values<D>(values, task.end - (first + block) * kBlock, packed);
    for (int64_t head = 0; head < group; ++head)
      add_values<T, D>(packed, scores + head * kPartition + block * kBlock, partial[head].values);
  }
}

// Cuts the contexts of all sequences with one query into tasks, partitions of a head side by side.
template <class T>
std::vector<DecodeTask> decode_tasks(const Attention<T>& step, int64_t& num_partials) {
  std::vector<DecodeTask> tasks;
  num_partials = 0;
  for (int64_t sequence = 0; sequence < step.sequences; ++sequence) {
    if (step.queries(sequence) != 1) continue;
    const int64_t context = step.context_len[sequence], start = step.first_seen(context - 1);
    for (int64_t begin = start; begin < context;) {
      const int64_t end = std::min(context, (begin / kPartition + 1) * kPartition);
      for (int64_t head = 0; head < step.num_kv_heads; ++head) {
        tasks.push_back({sequence, head, begin, end, num_partials});
        num_partials += step.group();
      }
      begin = end;
    }
  }
  return tasks;
}

// Merges a head's partitions: tasks of one sequence follow each other, kv heads innermost.
template <class T, int D>
void merge_partials(const Attention<T>& step, const DecodeTask* tasks, int64_t partitions,
                    int64_t kv_head, const Partial<T, D>* partials) {
  using V = Values<T, D>;
  const int64_t row = step.query_start[tasks->sequence];
  for (int64_t head = 0; head < step.group(); ++head) {
    float best = -1e30f, sum = 0;
    float values[V::kWidth] = {};
    for (int64_t part = 0; part < partitions; ++part) {
      const auto& from = partials[tasks[part * step.num_kv_heads + kv_head].partial + head];
      const float top = std::max(best, from.best);
      const float old_scale = std::exp(best - top), scale = std::exp(from.best - top);
      for (int i = 0; i < V::kWidth; ++i) values[i] = values[i] * old_scale + from.values[i] * scale;
      sum = sum * old_scale + from.sum * scale;
      best = top;
    }
    T* out = step.out + (row * step.num_heads + kv_head * step.group() + head) * D;
    for (int lane = 0; lane < V::kWidth; ++lane)
      if (dim_of(lane, T{}) < D) from_float(values[lane] / sum, out[dim_of(lane, T{})]);
  }
}

template <class T, int D>
void decode_attention(const Attention<T>& step) {
  int64_t num_partials;
  const std::vector<DecodeTask> tasks = decode_tasks(step, num_partials);
  if (tasks.empty()) return;
  std::vector<Partial<T, D>> partials(num_partials);
  const int64_t count = tasks.size(), kv_heads = step.num_kv_heads;
#pragma omp parallel num_threads(step.threads)
  {
    std::vector<float> scores(step.group() * kPartition);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < count; ++task)
      decode_partition<T, D>(step, tasks[task], &partials[tasks[task].partial], scores.data());
#pragma omp for schedule(dynamic, 8)
    for (int64_t task = 0; task < count; ++task) {
      if (task >= kv_heads && tasks[task - kv_heads].sequence == tasks[task].sequence) continue;
      int64_t partitions = 1;
      const int64_t head = tasks[task].kv_head, first = task - head;
      while (first + partitions * kv_heads < count &&
             tasks[first + partitions * kv_heads].sequence == tasks[task].sequence)
        ++partitions;
      merge_partials<T, D>(step, &tasks[first], partitions, head, partials.data());
    }
  }
}

}  // namespace baton
