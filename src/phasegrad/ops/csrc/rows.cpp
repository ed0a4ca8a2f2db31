// Reads that serve one row of inputs: the mean and variance of the weights, and the mean and variance of their product.
#include "adc.h"
#include "dac.h"

namespace pg {
namespace PG_ISA {

// Mean and variance of max(u + z, 0). The normal distribution is Abramowitz and Stegun 7.1.26, to 7.5e-8; from u = 6 on
// nothing is clipped.
static inline void rectified(vf u, vf& mean, vf& variance) {
  const vf one = splat(1.0f), zero = splat(0.0f), x = vabs(u) * splat(0.70710678f);
  const vf t = one / (one + splat(0.3275911f) * x), e = vexp(zero - x * x);
  vf p = splat(1.061405429f) * t + splat(-1.453152027f);
  p = p * t + splat(1.421413741f);
  p = p * t + splat(-0.284496736f);
  p = p * t + splat(0.254829592f);
  const vf tail = splat(0.5f) * (p * t * e);  // above |u|
  const vf below = u > zero ? one - tail : tail, density = splat(0.39894228f) * e;
  const vf clipped = u * below + density;
  const vi whole = (vi)(u > splat(6.0f));
  const vf left = (u * u + one) * below + u * density - clipped * clipped;
  mean = whole ? u : clipped;
  variance = whole ? one : vmax(zero, left);
}

// Of cells whose devices read max(mean_p + sd_p z, 0): the mean of the weight, and its variance over the scale of the
// column (with `scale`, a weight is scale (sum_p factor_p read_p + offset); otherwise sum_p factor_p read_p + offset).
void rectified_cells(float* weight, float* variance, const float* mean, const float* sd, int64_t planes,
                     int64_t rows_out, int64_t cols_in, const float* factors, const float* scale, int64_t tile_rows,
                     int threads) {
  const int64_t n = rows_out * cols_in;
  const vf zero = splat(0.0f);
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Room total, spread, room, room_2;
    for (int64_t p = 0; p < planes; ++p) {
      const float* m = padded(mean + p * n + first, length, room.v);
      const float* s = padded(sd + p * n + first, length, room_2.v);
      const vf f = splat(factors[1 + p]);
      for (int64_t i = 0; i < length; i += W) {
        const vf drifted = load<vf>(m + i), deviation = load<vf>(s + i);
        const vi noisy = (vi)(deviation > zero);
        vf a, b;
        rectified(noisy ? drifted / (noisy ? deviation : splat(1.0f)) : zero, a, b);
        a = noisy ? a * deviation : vmax(zero, drifted);
        const vf step = f * deviation;
        b = noisy ? b * (step * step) : zero;
        store(total.v + i, (p ? load<vf>(total.v + i) : zero) + a * f);
        store(spread.v + i, (p ? load<vf>(spread.v + i) : zero) + b);
      }
    }
    for_pieces(first, length, cols_in, tile_rows, [&](int64_t i, int64_t run, int64_t row, int64_t tile) {
      const float s = scale ? scale[tile * rows_out + row] : 1.0f;
      for (int64_t j = i; j < i + run; ++j) {
        weight[first + j] = (total.v[j] + factors[0]) * s;
        variance[first + j] = spread.v[j] * s;
      }
    });
  });
}

constexpr int SUMS = 64;  // partial sums of a dot product, the same for every instruction set

struct alignas(64) Sums {
  float v[SUMS];
};

static inline float total(const Sums& s) {
  float t[SUMS];
  std::memcpy(t, s.v, sizeof t);
  for (int n = SUMS / 2; n; n /= 2)
    for (int i = 0; i < n; ++i) t[i] += t[i + n];
  return t[0];
}

// Variances of the weights, from value `at` on.
struct Floats {
  const float* v;
  inline vf load_at(int64_t at) const { return load<vf>(v + at); }
  inline float operator[](int64_t at) const { return v[at]; }
};

struct Brains {  // bfloat16, the high half of a float
  const uint16_t* v;
  typedef uint16_t vh __attribute__((vector_size(2 * W)));
  inline vf load_at(int64_t at) const { return (vf)(__builtin_convertvector(load<vh>(v + at), vu) << 16); }
  inline float operator[](int64_t at) const {
    const uint32_t bits = (uint32_t)v[at] << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
};

struct Sizes {  // those of a read noise of the weights' size
  const float* v;
  inline vf load_at(int64_t at) const { return vabs(load<vf>(v + at)); }
  inline float operator[](int64_t at) const { return __builtin_fabsf(v[at]); }
};

// y[t, o] = sum_i mean[o, i] x[i] and v[t, o] = sum_i variance[o, i] x[i]^2 over the inputs of each row tile.
template <class Variance>
static void multiply_row(float* y, float* v, const float* x, const float* mean, Variance variance, int64_t out,
                         int64_t in, int64_t tile_rows, int threads) {
  const int64_t tiles = (in + tile_rows - 1) / tile_rows;
#pragma omp parallel for num_threads(threads_for(out* in, threads)) schedule(static)
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = t * tile_rows, n = in - first < tile_rows ? in - first : tile_rows, at = o * in + first;
      const float* u = x + first;
      vf a[SUMS / W] = {}, b[SUMS / W] = {};
      int64_t i = 0;
      for (; i + SUMS <= n; i += SUMS)
        for (int k = 0; k < SUMS / W; ++k) {
          const vf w = load<vf>(u + i + k * W);
          a[k] = a[k] + load<vf>(mean + at + i + k * W) * w;
          b[k] = b[k] + variance.load_at(at + i + k * W) * (w * w);
        }
      Sums sum_y, sum_v;
      for (int k = 0; k < SUMS / W; ++k) store(sum_y.v + k * W, a[k]), store(sum_v.v + k * W, b[k]);
      for (int k = 0; i < n; ++i, ++k) {
        sum_y.v[k] += mean[at + i] * u[i];
        sum_v.v[k] += variance[at + i] * (u[i] * u[i]);
      }
      y[t * out + o] = total(sum_y);
      v[t * out + o] = total(sum_v);
    }
  }
}

// `variance` holds floats, bfloat16 if `brains`, or is null for those of a read noise of the weights' size.
void row_products(float* y, float* v, const float* x, const float* mean, const void* variance, int brains, int64_t out,
                  int64_t in, int64_t tile_rows, int threads) {
  if (!variance)
    multiply_row(y, v, x, mean, Sizes{mean}, out, in, tile_rows, threads);
  else if (brains)
    multiply_row(y, v, x, mean, Brains{(const uint16_t*)variance}, out, in, tile_rows, threads);
  else
    multiply_row(y, v, x, mean, Floats{(const float*)variance}, out, in, tile_rows, threads);
}

// The same with its converters: the sum `result` of the outputs of all row tiles. `room` has memory for the inputs, and
// twice the outputs of every tile.
void row_linear(float* result, float* room, const float* x, const float* mean, const void* variance, int brains,
                const float* scale, const float* gain, const float* range, int64_t out, int64_t in, int64_t tile_rows,
                double dac_max_code, double output_noise, double read_noise, float bound, int mode, double max_code,
                uint64_t seed, uint64_t offset, int threads) {
  const int64_t tiles = (in + tile_rows - 1) / tile_rows;
  float *y = room + in, *v = y + tiles * out;
  if (dac_max_code > 0.0) dac_row(room, x, in, *range, (float)dac_max_code);
  row_products(y, v, dac_max_code > 0.0 ? room : x, mean, variance, brains, out, in, tile_rows, threads);
  const Adc a = {(float)output_noise, (float)read_noise, bound, (float)max_code, mode};
  const Conversion c = {a, scale, gain, range, tiles, 1, out, 1, true, true, seed, offset, nullptr, nullptr};
  for_chunks(out, threads, [&](int64_t first, int64_t length) {
    Room sum, y_room, v_room;
    for (int64_t t = 0; t < tiles; ++t) {
      const float* yt = padded(y + t * out + first, length, y_room.v);
      c.add(sum.v, t, first, length, yt, padded(v + t * out + first, length, v_room.v), !t);
    }
    std::memcpy(result + first, sum.v, length * sizeof(float));
  });
}

}  // namespace PG_ISA
}  // namespace pg
