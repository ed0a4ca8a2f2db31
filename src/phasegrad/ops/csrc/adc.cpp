#include "adc.h"

namespace pg {
namespace PG_ISA {

// `table` has room for 5 x tiles x (CHUNK + channels + 64) values if values are channels and rows share an input range.
void adc(float* out, int8_t* code, float* table, const float* const* y, const float* const* v, const float* scale,
         const float* gain, const float* range, int64_t tiles, int64_t outer, int64_t channels, int64_t inner,
         int per_row, int accumulate, double output_noise, double read_noise, float bound, int mode, double max_code,
         uint64_t seed, uint64_t offset, int threads) {
  const Adc a = {(float)output_noise, (float)read_noise, bound, (float)max_code, mode};
  const bool noisy = output_noise > 0.0 || v;
  const Conversion c = {a,     scale,        gain,  range, tiles,  outer, channels,
                        inner, per_row != 0, noisy, seed,  offset, table, code};
  if (c.values() == 0) return;  // an empty batch may have no input range either
  c.fill_table();
  for_chunks(c.values(), threads, [&](int64_t first, int64_t length) {
    Room sum, y_room, v_room;
    if (accumulate) std::memcpy(sum.v, out + first, length * sizeof(float));
    for (int64_t t = 0; t < tiles; ++t) {
      const float* yt = padded(y[t] + first, length, y_room.v);
      const float* vt = v ? padded(v[t] + first, length, v_room.v) : nullptr;
      c.add(sum.v, t, first, length, yt, vt, !t && !accumulate);
    }
    std::memcpy(out + first, sum.v, length * sizeof(float));
  });
}

void adc_backward(float* out, const float* grad, const int8_t* code, int64_t n, int threads) {
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    const float* g = grad + first;
    const int8_t* c = code + first;
    float* o = out + first;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) o[i] = c[i] == 0 ? g[i] : 0.0f;
  });
}

}  // namespace PG_ISA
}  // namespace pg
