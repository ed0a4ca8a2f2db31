// Conversion of inputs.
#pragma once
#include "chunks.h"

namespace pg {
namespace PG_ISA {

// Clip to +-range and round to one of 2 max_code + 1 levels; values that are not finite pass through.
static inline vf on_level(vf x, vf up, vf step, vf max_code) {
  vf q = vround(vclamp(x * up, -max_code, max_code)) * step;
  return finite(x) ? q : x;
}

static inline void dac_row(float* out, const float* x, int64_t n, float range, float max_code) {
  // A range that was learned below zero counts by its magnitude: the two signs cancel. A range whose inverse
  // overflows still maps zero to zero.
  const float most = 3.4e38f, inverse = range == 0.0f ? 0.0f : max_code / range;
  const vf up = splat(inverse > most ? most : (inverse < -most ? -most : inverse));
  const vf step = splat(range / max_code), bound = splat(max_code);
  int64_t i = 0;
  for (; i + W <= n; i += W) store(out + i, on_level(load<vf>(x + i), up, step, bound));
  if (i < n) {
    float room[W] = {};
    std::memcpy(room, x + i, (n - i) * sizeof(float));
    store(room, on_level(load<vf>(room), up, step, bound));
    std::memcpy(out + i, room, (n - i) * sizeof(float));
  }
}

}  // namespace PG_ISA
}  // namespace pg
