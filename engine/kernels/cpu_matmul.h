// The register tile under every product: rows of the left side times panels of the right side.
#pragma once

#include "cpu_simd.h"

namespace baton {

#if defined(__AVX512F__)
constexpr int kTileRows = 6, kTilePanels = 4;  // 24 of 32 registers hold sums
#else
constexpr int kTileRows = 2, kTilePanels = 2;
#endif

// A laid-out right-hand side: lane vectors of a step lie `panel` apart, steps lie `step` apart.
struct Panels {
  const uint32_t* at;
  int64_t panel, step;
};

// What is asked of memory while a tile multiplies: two lines a step from `at` on.
struct Ahead {
  const char* at;
  int64_t step_bytes;
  void operator()(int64_t step) const {
    __builtin_prefetch(at + step * step_bytes, 0, 2);
    __builtin_prefetch(at + step * step_bytes + 64, 0, 2);
  }
};
struct Nothing {
  void operator()(int64_t) const {}
};

// sums += a [ROWS][steps lanes] x b; each sum adds its steps in order, whatever the tile's shape.
template <class T, int ROWS, int PANELS, class Fetch = Nothing>
inline void accumulate(f32x16 (&sums)[ROWS][PANELS], const T* a, int64_t a_row, Panels b,
                       int64_t steps, Fetch fetch = {}) {
  int64_t step = 0;
  do {  // steps >= 1: without the test ahead of the loop, the sums never leave their registers
    fetch(step);
    u32x16 right[PANELS];
#pragma GCC unroll 8
    for (int panel = 0; panel < PANELS; ++panel)
      right[panel] = load<u32x16>(b.at + panel * b.panel + step * b.step);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) {
      uint32_t left;
      std::memcpy(&left, a + row * a_row + step * Depth<T>::value, 4);
      const u32x16 lanes = splat_bits(left);
#pragma GCC unroll 8
      for (int panel = 0; panel < PANELS; ++panel)
        sums[row][panel] = mac<T>(sums[row][panel], right[panel], lanes);
    }
  } while (++step < steps);
}

}  // namespace baton
