#include <cmath>

#include "chunks.h"

namespace pg {
namespace PG_ISA {

constexpr int LANES = 16;  // accumulators are sixteen wide on every instruction set: the same bits everywhere

struct alignas(64) RowStatistics {
  float largest[LANES], sum[LANES], squares[LANES];
};

static void accumulate(RowStatistics& r, const float* w, int64_t n) {
  vf m[LANES / W], s[LANES / W], q[LANES / W];
  for (int k = 0; k < LANES / W; ++k) {
    m[k] = load<vf>(r.largest + k * W);
    s[k] = load<vf>(r.sum + k * W);
    q[k] = load<vf>(r.squares + k * W);
  }
  float tail[LANES];
  for (int64_t i = 0; i < n; i += LANES) {
    const float* p = w + i;
    if (n - i < LANES) {
      std::memset(tail, 0, sizeof tail);
      std::memcpy(tail, p, (n - i) * sizeof(float));
      p = tail;
    }
    for (int k = 0; k < LANES / W; ++k) {
      const vf x = load<vf>(p + k * W);
      m[k] = vmax(vabs(x), m[k]);
      s[k] = s[k] + x;
      q[k] = q[k] + x * x;
    }
  }
  for (int k = 0; k < LANES / W; ++k) {
    store(r.largest + k * W, m[k]);
    store(r.sum + k * W, s[k]);
    store(r.squares + k * W, q[k]);
  }
}

static double total(const float* lanes) {
  double s = 0.0;
  for (int j = 0; j < LANES; ++j) s += (double)lanes[j];
  return s;
}

static float largest(const RowStatistics& r) {
  float m = 0.0f;
  for (int j = 0; j < LANES; ++j) m = r.largest[j] > m ? r.largest[j] : m;
  const double s = total(r.sum);
  return s - s == 0.0 ? m : (float)(s - s);  // the maximum ignores NaN; the sum does not
}

// Root mean square about zero, which is the centre of the clipping range and of most layers' weights.
static double clip_at(double squares, double n, double sigmas) { return sigmas * std::sqrt(squares / n); }

void weight_scale(float* scale, float* clip, const float* w, int64_t rows_out, int64_t cols_in, int64_t tile_rows,
                  int64_t tile_columns, int per_column, double clip_sigma, int clip_per_channel, int threads) {
  const int64_t tiles = (cols_in + tile_rows - 1) / tile_rows;
  double* squares_of = new double[rows_out];
#pragma omp parallel for num_threads(threads_for(rows_out* cols_in, threads)) schedule(static)
  for (int64_t o = 0; o < rows_out; ++o) {
    squares_of[o] = 0.0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t at = t * tile_rows, length = cols_in - at < tile_rows ? cols_in - at : tile_rows;
      RowStatistics r = {};
      accumulate(r, w + o * cols_in + at, length);
      scale[t * rows_out + o] = largest(r);
      squares_of[o] += total(r.squares);
    }
  }
  double squares = 0.0;
  for (int64_t o = 0; o < rows_out; ++o) squares += squares_of[o];
  const double layer = clip_at(squares, (double)(rows_out * cols_in), clip_sigma);
  for (int64_t o = 0; o < rows_out; ++o)
    clip[o] = !(clip_sigma > 0.0) ? INFINITY
              : clip_per_channel  ? (float)clip_at(squares_of[o], (double)cols_in, clip_sigma)
                                  : (float)layer;
  delete[] squares_of;
  for (int64_t t = 0; t < tiles; ++t) {
    float* s = scale + t * rows_out;
    for (int64_t o = 0; o < rows_out; ++o) s[o] = clip[o] < s[o] || clip[o] != clip[o] ? clip[o] : s[o];
    if (per_column) continue;
    for (int64_t a = 0; a < rows_out; a += tile_columns) {
      const int64_t b = a + tile_columns < rows_out ? a + tile_columns : rows_out;
      float m = 0.0f;
      for (int64_t o = a; o < b; ++o) m = s[o] > m || s[o] != s[o] ? s[o] : m;
      for (int64_t o = a; o < b; ++o) s[o] = m;
    }
  }
}

static inline vf clamp(vf x, vf bound) { return finite(x) ? vclamp(x, -bound, bound) : x; }

struct Noise {  // shared by the weights of one piece
  float clip, constant, linear, quadratic, drop_connect;
};

static inline vf perturbed(vf x, const Noise& p, const float* z, const float* gate) {
  const vf zero = splat(0.0f);
  vf v = clamp(x, splat(p.clip));
  if (z) {
    const vf m = vabs(v);
    v = v + vmax(splat(p.constant) + m * (splat(p.linear) + splat(p.quadratic) * m), zero) * load<vf>(z);
  }
  return gate ? (load<vf>(gate) < splat(p.drop_connect) ? zero : v) : v;
}

// One piece. `z` are normals, `gate` uniforms, readable for a vector beyond the piece; null if not needed.
template <bool NOISY, bool DROPS>
static void perturb(float* out, const float* x, int64_t n, const Noise& p, const float* z, const float* gate) {
  int64_t j = 0;
  for (; j + W <= n; j += W)
    store(out + j, perturbed(load<vf>(x + j), p, NOISY ? z + j : nullptr, DROPS ? gate + j : nullptr));
  if (j == n) return;
  float tail[W] = {};
  std::memcpy(tail, x + j, (n - j) * sizeof(float));
  store(tail, perturbed(load<vf>(tail), p, NOISY ? z + j : nullptr, DROPS ? gate + j : nullptr));
  std::memcpy(out + j, tail, (n - j) * sizeof(float));
}

void noisy_weights(float* out, const float* w, const float* scale, const float* clip, int64_t rows_out, int64_t cols_in,
                   int64_t tile_rows, float level, double c0, double c1, double c2, double drop_connect, uint64_t seed,
                   uint64_t offset, int threads) {
  const Philox g(seed, offset), g_drop(seed, offset + 1);
  const bool noisy = level != 0.0f && (c0 != 0.0 || c1 != 0.0 || c2 != 0.0), drops = drop_connect > 0.0;
  const auto piece = noisy ? (drops ? perturb<true, true> : perturb<true, false>)
                           : (drops ? perturb<false, true> : perturb<false, false>);
  for_chunks(rows_out * cols_in, threads, [&](int64_t first, int64_t length) {
    Room z, gate;
    if (noisy) normal_chunk(g, z.v, first, length);
    if (drops) uniform_groups(g_drop, gate.v, first / GROUP, groups_for(length));
    for_pieces(first, length, cols_in, tile_rows, [&](int64_t i, int64_t run, int64_t row, int64_t tile) {
      const float s = scale[tile * rows_out + row];
      const Noise p = {clip[row], level * (float)c0 * s, level * (float)c1, s > 0.0f ? level * (float)c2 / s : 0.0f,
                       (float)drop_connect};
      piece(out + first + i, w + first + i, run, p, z.v + i, gate.v + i);
    });
  });
}

static inline vi outward(vf x, vf grad, float clip) {
  const vf zero = splat(0.0f);
  return ((vi)(x > splat(clip)) & (vi)(grad < zero)) | ((vi)(x < splat(-clip)) & (vi)(grad > zero));
}

// The gradient passes, except where it would push a clipped weight further out. In place: where no weight is
// clipped, only weights are read, a third of the traffic of a copy.
void noisy_weights_backward(float* grad, const float* w, const float* clip, int64_t rows_out, int64_t cols_in,
                            int threads) {
#pragma omp parallel for num_threads(threads_for(rows_out* cols_in, threads)) schedule(static)
  for (int64_t o = 0; o < rows_out; ++o) {
    const float c = clip[o];
    const float* x = w + o * cols_in;
    float* g = grad + o * cols_in;
    int64_t i = 0;
    for (; i + W <= cols_in; i += W) {
      const vf xi = load<vf>(x + i);
      if (!any((vi)(vabs(xi) > splat(c)))) continue;
      const vf gi = load<vf>(g + i);
      store(g + i, outward(xi, gi, c) ? splat(0.0f) : gi);
    }
    for (; i < cols_in; ++i)
      if ((x[i] > c && g[i] < 0.0f) || (x[i] < -c && g[i] > 0.0f)) g[i] = 0.0f;
  }
}

}  // namespace PG_ISA
}  // namespace pg
