#include "dac.h"

namespace pg {
namespace PG_ISA {

void dac(float* out, const float* x, const float* range, int64_t outer, int64_t inner, int per_row, double max_code,
         int threads) {
  if (!per_row) {
    for_chunks(outer * inner, threads, [&](int64_t first, int64_t length) {
      dac_row(out + first, x + first, length, *range, (float)max_code);
    });
    return;
  }
#pragma omp parallel for num_threads(threads_for(outer* inner, threads)) schedule(static)
  for (int64_t b = 0; b < outer; ++b) dac_row(out + b * inner, x + b * inner, inner, range[b], (float)max_code);
}

// Sums run over chunks in order, each in sixteen lanes, so that the result depends on neither the thread count nor the
// vector width.
struct alignas(64) Sums {
  float clipped[16], inside[16];
};

// Lanes 0 .. n - 1 (n at most 16). A NaN is neither inside nor outside the range, and makes the sum NaN.
static inline void backward_lanes(float* gx, Sums& s, const float* grad, const float* x, float range, int n) {
#pragma omp simd
  for (int j = 0; j < n; ++j) {
    const float side = x[j] > range ? grad[j] : (x[j] < -range ? -grad[j] : 0.0f * x[j]);
    const bool in = __builtin_fabsf(x[j]) <= range;
    gx[j] = in ? grad[j] : 0.0f;
    s.inside[j] += in ? 1.0f : 0.0f;
    s.clipped[j] += in ? 0.0f : side;
  }
}

// `partial` has room for two sums of every chunk.
void dac_backward(float* grad_x, double* grad_range, double* partial, const float* grad, const float* x, float range,
                  int64_t n, double decay, double keep, int threads) {
  const int64_t count = chunks_in(n);
  const float size = __builtin_fabsf(range);
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Sums s = {};
    for (int64_t i = first; i < first + length; i += 16) {
      const int64_t left = first + length - i;
      if (left >= 16)
        backward_lanes(grad_x + i, s, grad + i, x + i, size, 16);
      else
        backward_lanes(grad_x + i, s, grad + i, x + i, size, (int)left);
    }
    double clipped = 0.0, inside = 0.0;
    for (int j = 0; j < 16; ++j) clipped += s.clipped[j], inside += s.inside[j];
    partial[2 * (first / CHUNK)] = clipped;
    partial[2 * (first / CHUNK) + 1] = inside;
  });
  double clipped = 0.0, inside = 0.0;
  for (int64_t c = 0; c < count; ++c) clipped += partial[2 * c], inside += partial[2 * c + 1];
  const bool settled = n > 0 && inside >= keep * (double)n;
  *grad_range = (range < 0.0f ? -clipped : clipped) + (settled ? decay * (double)range : 0.0);
}

}  // namespace PG_ISA
}  // namespace pg
