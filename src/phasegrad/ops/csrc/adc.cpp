#include "chunks.h"

namespace pg {
namespace PG_ISA {

typedef int8_t vb __attribute__((vector_size(W)));

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

static inline vf convert(vf y, vf u, const Adc& a, vi& code) {
  const vf max_code = splat(a.max_code), zero = splat(0.0f);
  const vf full = vabs(splat(a.bound) * u);  // a range learned below zero counts by its magnitude
  vf q = vclamp(y * (max_code / full), -max_code, max_code);
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
  return passes ? y : q * (full / max_code) + zero * full;
}

static inline vf noise_sd(vf s, vf u, vf v, const Adc& a) {
  const vf sd = splat(a.output_noise) * u;
  return vsqrt(sd * sd + splat(a.read_noise * a.read_noise) * s * v);
}

// Integers first .. first + length - 1 of a tile's variances, times the units of their row and channel.
static void fill_variances(float* out, const float* counts, const float* row_unit, const float* column_unit,
                           int64_t first, int64_t length, int64_t channels) {
  int64_t i = 0;
  while (i < length) {
    const int64_t row = (first + i) / channels, channel = (first + i) % channels;
    const int64_t run = channels - channel < length - i ? channels - channel : length - i;
    const float unit = row_unit[row];
#pragma omp simd
    for (int64_t j = 0; j < run; ++j) {
      int32_t count;
      std::memcpy(&count, counts + i + j, sizeof count);
      out[i + j] = (float)count * (unit * column_unit[channel + j]);
    }
    i += run;
  }
  std::memset(out + length, 0, W * sizeof(float));
}

// `table` has room for 3 x tiles x (CHUNK + channels + 64) values if values are channels and rows share an input range.
void adc(float* out, int8_t* code, float* table, const float* const* y, const float* const* v, const float* row_unit,
         const float* column_unit, const float* scale, const float* gain, const float* range, int64_t tiles,
         int64_t outer, int64_t channels, int64_t inner, int per_row, int accumulate, double output_noise,
         double read_noise, float bound, int mode, double max_code, uint64_t seed, uint64_t offset, int threads) {
  const int64_t n = outer * channels * inner;
  if (n == 0) return;  // an empty batch may have no input range either
  const Adc a = {(float)output_noise, (float)read_noise, bound, (float)max_code, mode};
  const bool noisy = output_noise > 0.0 || v;
  // If consecutive values are channels that share an input range, units repeat: lay out a chunk and a period once.
  const bool periodic = inner == 1 && !per_row;
  const int64_t period = CHUNK + channels + 64;
  for (int64_t t = 0; periodic && t < tiles; ++t) {
    float* p = table + 3 * t * period;
    std::memset(p, 0, 3 * period * sizeof(float));  // whole vectors are read
    fill_units(p, p + period, p + 2 * period, scale + t * channels, gain ? gain + t * channels : nullptr, range, 0,
               CHUNK + channels, channels, 1, false);
  }
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Room sum, s_room, u_room, k_room, z, y_room, v_room;
    if (accumulate) std::memcpy(sum.v, out + first, length * sizeof(float));
    for (int64_t t = 0; t < tiles; ++t) {
      const float* yt = padded(y[t] + first, length, y_room.v);
      const float* vt = v ? v_room.v : nullptr;
      if (v && row_unit)
        fill_variances(v_room.v, v[t] + first, row_unit + t * outer, column_unit + t * channels, first, length,
                       channels);
      else if (v)
        vt = padded(v[t] + first, length, v_room.v);
      const float *s = s_room.v, *u = u_room.v, *k = k_room.v;
      if (periodic) {
        s = table + 3 * t * period + first % channels;
        u = s + period;
        k = u + period;
      } else {
        fill_units(s_room.v, u_room.v, k_room.v, scale + t * channels, gain ? gain + t * channels : nullptr, range,
                   first, length, channels, inner, per_row);
      }
      if (noisy) normal_chunk(Philox(seed, offset + t), z.v, first, length);
      int8_t* ct = code ? code + t * n + first : nullptr;
      for (int64_t i = 0; i < length; i += W) {
        const vf ui = load<vf>(u + i);
        vf yi = load<vf>(yt + i);
        vi ci = {};
        if (vt)
          yi = yi + noise_sd(load<vf>(s + i), ui, load<vf>(vt + i), a) * load<vf>(z.v + i);
        else if (noisy)
          yi = yi + splat(a.output_noise) * ui * load<vf>(z.v + i);
        if (mode) yi = convert(yi, ui, a, ci);
        if (gain) yi = yi * load<vf>(k + i);
        store(sum.v + i, t || accumulate ? load<vf>(sum.v + i) + yi : yi);
        if (!ct) continue;
        const vb small = __builtin_convertvector(ci, vb);
        std::memcpy(ct + i, &small, length - i < W ? length - i : W);
      }
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
