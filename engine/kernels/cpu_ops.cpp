// The C interface of the CPU operators. Pointers are to contiguous memory, but for the cache, whose
// strides are given; `wide` says float, else bfloat16; `threads` is how many threads of the caller's OpenMP runtime may work.
#include "cpu_decode.h"
#include "cpu_elementwise.h"
#include "cpu_linear.h"
#include "cpu_prefill.h"

using baton::Attention;
using baton::bf16;
using baton::Heads;

namespace {

// Calls work with the head dimension as a constant; -1 where the kernels have no such dimension.
template <class T, class F>
int64_t with_head_dim(int64_t head_dim, F work) {
  switch (head_dim) {
    case 16: return work(std::integral_constant<int, 16>{});
    case 32: return work(std::integral_constant<int, 32>{});
    case 64: return work(std::integral_constant<int, 64>{});
    case 96: return work(std::integral_constant<int, 96>{});
    case 128: return work(std::integral_constant<int, 128>{});
    case 256: return work(std::integral_constant<int, 256>{});
    default: return -1;
  }
}

template <class T>
int64_t attend(const Attention<T>& step, void* workspace) {
  return with_head_dim<T>(step.head_dim, [&](auto dim) -> int64_t {
    baton::decode_attention<T, decltype(dim)::value>(step);
    if (workspace)
      baton::prefill_attention<T, decltype(dim)::value>(step, static_cast<uint32_t*>(workspace));
    return 0;
  });
}

template <class T>
int64_t workspace_bytes(const Attention<T>& step) {
  return with_head_dim<T>(step.head_dim, [&](auto dim) -> int64_t {
    return baton::prefill_workspace_bytes<T, decltype(dim)::value>(step);
  });
}

}  // namespace

extern "C" {

void baton_rms_norm(int wide, const void* x, void* residual, const void* weight, void* out,
                    int64_t rows, int64_t size, float eps, int threads) {
  if (wide)
    baton::rms_norm((const float*)x, (float*)residual, (const float*)weight, (float*)out, rows,
                    size, eps, threads);
  else
    baton::rms_norm((const bf16*)x, (bf16*)residual, (const bf16*)weight, (bf16*)out, rows, size,
                    eps, threads);
}

void baton_silu_mul(int wide, const void* gate_up, void* out, int64_t rows, int64_t size,
                    int threads) {
  if (wide)
    baton::silu_mul((const float*)gate_up, (float*)out, rows, size, threads);
  else
    baton::silu_mul((const bf16*)gate_up, (bf16*)out, rows, size, threads);
}

void baton_store_kv(int wide, const void* qkv, const void* q_norm, const void* k_norm,
                    const float* rope, const int64_t* positions, const int64_t* slots,
                    void* layer_kv, void* q, int64_t tokens, int64_t num_heads,
                    int64_t num_kv_heads, int64_t head_dim, int64_t block_size,
                    int64_t block_stride, int64_t part_stride, float eps, int threads) {
  const Heads heads{num_heads, num_kv_heads, head_dim, block_size, block_stride, part_stride, eps};
  if (wide)
    baton::store_kv((const float*)qkv, (const float*)q_norm, (const float*)k_norm, rope, positions,
                    slots, (float*)layer_kv, (float*)q, tokens, heads, threads);
  else
    baton::store_kv((const bf16*)qkv, (const bf16*)q_norm, (const bf16*)k_norm, rope, positions,
                    slots, (bf16*)layer_kv, (bf16*)q, tokens, heads, threads);
}

// With `workspace_only` the answer is the bytes of workspace that the call needs (0: none), else 0;
// -1 for a head dimension that the kernels lack.
int64_t baton_attention(int wide, const void* q, const void* layer_kv, const int32_t* tables,
                        const int32_t* query_start, const int32_t* context_len, void* out,
                        int64_t sequences, int64_t table_width, int64_t num_heads,
                        int64_t num_kv_heads, int64_t head_dim, int64_t block_stride,
                        int64_t part_stride, int64_t window, int threads, void* workspace,
                        int workspace_only) {
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(head_dim));
  if (wide) {
    const Attention<float> step{(const float*)q, (const float*)layer_kv, tables, query_start,
                                context_len, (float*)out, sequences, table_width, num_heads,
                                num_kv_heads, head_dim, block_stride, part_stride, window, scale,
                             threads};
    return workspace_only ? workspace_bytes(step) : attend(step, workspace);
  }
  const Attention<bf16> step{(const bf16*)q, (const bf16*)layer_kv, tables, query_start,
                             context_len, (bf16*)out, sequences, table_width, num_heads,
                             num_kv_heads, head_dim, block_stride, part_stride, window, scale,
                             threads};
  return workspace_only ? workspace_bytes(step) : attend(step, workspace);
}

// `packed` holds the outputs, rounded up to a multiple of 64, times `in` bfloat16.
void baton_pack_weight(const void* weight, void* packed, int64_t out, int64_t in, int threads) {
  baton::pack_weight((const bf16*)weight, (uint32_t*)packed, out, in, threads);
}

void baton_project(const void* x, const void* packed, const float* bias, void* y, int wide,
                   int64_t rows, int64_t out, int64_t in, int threads) {
  baton::project(
      {(const bf16*)x, (const uint32_t*)packed, bias, y, wide != 0, rows, out, in, threads});
}

// Reads memory and does nothing with it: what `baton bench` holds a decode step against.
int64_t baton_read(const void* from, int64_t bytes, int threads) {
  constexpr int64_t kRun = 1 << 20;
  const char* at = static_cast<const char*>(from);
  uint32_t all = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : all) schedule(static)
  for (int64_t run = 0; run < bytes / kRun; ++run) {
    baton::u32x16 sums[4] = {};
    for (int64_t line = 0; line < kRun; line += 256)
      for (int i = 0; i < 4; ++i)
        sums[i] += baton::load<baton::u32x16>(at + run * kRun + line + i * 64);
    all += (sums[0] + sums[1] + sums[2] + sums[3])[0];
  }
  return all;
}

}  // extern "C"
