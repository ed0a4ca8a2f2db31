// Noise and conversion of the outputs of tiles, a chunk of values at a time.
#pragma once
#include "chunks.h"

namespace pg {
namespace PG_ISA {

typedef int8_t vb __attribute__((vector_size(W)));

constexpr int64_t UNITS = 5;  // values of a column: scale, unit, gain, codes per unit, unit of a code

struct Adc {  // constant during a call
  float output_noise, read_noise, bound, max_code;
  int mode;  // 0: no converter, 1: mid-tread, 2: mid-rise, 3: counter, 4: end-point
};

// Fill s and u (s times the input range), and the gain if there is one, for values first .. first + length - 1 of
// one tile.
static void fill_units(float* s, float* u, float* k, const float* scale, const float* gain, const float* range,
                       int64_t first, int64_t length, int64_t channels, int64_t inner, bool per_row) {
  int64_t i = 0;
  while (i < length) {
    const int64_t at = first + i, channel = at / inner % channels;
    const float r = range[per_row ? at / (inner * channels) : 0];
    if (inner == 1) {  // consecutive values are channels: run to the end of the row
      const int64_t run = channels - channel < length - i ? channels - channel : length - i;
      for (int64_t j = 0; j < run; ++j) {
        s[i + j] = scale[channel + j];
        u[i + j] = scale[channel + j] * r;
      }
      if (gain) std::memcpy(k + i, gain + channel, run * sizeof(float));
      i += run;
    } else {  // consecutive values share a channel: run to its end
      const int64_t left = inner - at % inner, run = left < length - i ? left : length - i;
      const float sc = scale[channel], un = sc * r;
      for (int64_t j = 0; j < run; ++j) s[i + j] = sc, u[i + j] = un;
      for (int64_t j = 0; gain && j < run; ++j) k[i + j] = gain[channel];
      i += run;
    }
  }
}

// Codes per unit of output, and the output of a code.
static void fill_steps(float* up, float* step, const float* u, int64_t length, const Adc& a) {
  for (int64_t i = 0; i < length; i += W) {
    const vf full = vabs(splat(a.bound) * load<vf>(u + i));  // a range learned below zero counts by its magnitude
    store(up + i, splat(a.max_code) / full);
    store(step + i, full / splat(a.max_code));
  }
}

static inline vf convert(vf y, vf u, vf up, vf step, const Adc& a, vi& code) {
  const vf max_code = splat(a.max_code), zero = splat(0.0f), full = vabs(splat(a.bound) * u);
  vf q = vclamp(y * up, -max_code, max_code);
  if (a.mode == 1)
    q = vround(q);
  else if (a.mode == 2)
    q = vclamp(vfloor(q), -max_code, max_code - splat(1.0f)) + splat(0.5f);
  else if (a.mode == 4)
    q = vclamp(vfloor(q) + splat(0.5f), -max_code, max_code);
  else
    q = with_sign_bits(vmin(vfloor(vabs(q)), max_code - splat(1.0f)), (vi)q & INT32_MIN);
  // A column without weights or inputs has no full scale and is not converted; a NaN range results in NaN.
  const vi passes = ~finite(y) | (vi)(full <= zero);
  code = ((vi)((vi)(y > full) & isplat(1)) | (vi)(y < -full)) & ~passes;
  return passes ? y : q * step + zero * full;
}

static inline vf noise_sd(vf s, vf u, vf v, const Adc& a) {
  const vf sd = splat(a.output_noise) * u;
  return vsqrt(sd * sd + splat(a.read_noise * a.read_noise) * s * v);
}

// One call of the converter: every value of every tile.
struct Conversion {
  Adc a;
  const float *scale, *gain, *range;
  int64_t tiles, outer, channels, inner;
  bool per_row, noisy;
  uint64_t seed, offset;
  float* table;
  int8_t* code;

  // If consecutive values are channels that share an input range, units repeat: lay out a chunk and a period once.
  bool periodic() const { return inner == 1 && !per_row; }
  int64_t period() const { return CHUNK + channels + 64; }
  int64_t values() const { return outer * channels * inner; }

  void fill_table() const {
    if (!periodic()) return;
    const int64_t n = period();
    for (int64_t t = 0; t < tiles; ++t) {
      float* p = table + UNITS * t * n;
      std::memset(p, 0, UNITS * n * sizeof(float));  // whole vectors are read
      fill_units(p, p + n, p + 2 * n, scale + t * channels, gain ? gain + t * channels : nullptr, range, 0,
                 CHUNK + channels, channels, 1, false);
      fill_steps(p + 3 * n, p + 4 * n, p + n, CHUNK + channels, a);
    }
  }

  // Add values first .. first + length - 1 of tile t to `sum`, or overwrite it. `y` and `v`, which may be null, hold
  // these values, readable in whole vectors.
  void add(float* sum, int64_t t, int64_t first, int64_t length, const float* y, const float* v, bool overwrite) const {
    Room s_room, u_room, k_room, up_room, step_room, z;
    const float *s = s_room.v, *u = u_room.v, *k = k_room.v, *up = up_room.v, *step = step_room.v;
    if (periodic()) {
      s = table + UNITS * t * period() + first % channels;
      u = s + period();
      k = u + period();
      up = k + period();
      step = up + period();
    } else {
      fill_units(s_room.v, u_room.v, k_room.v, scale + t * channels, gain ? gain + t * channels : nullptr, range, first,
                 length, channels, inner, per_row);
      fill_steps(up_room.v, step_room.v, u, length, a);
    }
    if (noisy) normal_chunk(Philox(seed, offset + t), z.v, first, length);
    int8_t* ct = code ? code + t * values() + first : nullptr;
    for (int64_t i = 0; i < length; i += W) {
      const vf ui = load<vf>(u + i);
      vf yi = load<vf>(y + i);
      vi ci = {};
      if (v)
        yi = yi + noise_sd(load<vf>(s + i), ui, load<vf>(v + i), a) * load<vf>(z.v + i);
      else if (noisy)
        yi = yi + splat(a.output_noise) * ui * load<vf>(z.v + i);
      if (a.mode) yi = convert(yi, ui, load<vf>(up + i), load<vf>(step + i), a, ci);
      if (gain) yi = yi * load<vf>(k + i);
      store(sum + i, overwrite ? yi : load<vf>(sum + i) + yi);
      if (!ct) continue;
      const vb small = __builtin_convertvector(ci, vb);
      if (length - i < W)
        std::memcpy(ct + i, &small, length - i);
      else
        store(ct + i, small);
    }
  }
};

}  // namespace PG_ISA
}  // namespace pg
