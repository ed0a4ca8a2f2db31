#include <cmath>

#include "chunks.h"

namespace pg {
namespace PG_ISA {

constexpr int LANES = 16;  // accumulators are sixteen wide on every instruction set: the same bits everywhere

struct alignas(64) RowStatistics {
  float largest[LANES], sum[LANES], squares[LANES];
  int32_t nonzero[LANES];
};

static void accumulate(RowStatistics& r, const float* w, int64_t n) {
  vf m[LANES / W], s[LANES / W], q[LANES / W];
  vi c[LANES / W];
  for (int k = 0; k < LANES / W; ++k) {
    m[k] = load<vf>(r.largest + k * W);
    s[k] = load<vf>(r.sum + k * W);
    q[k] = load<vf>(r.squares + k * W);
    c[k] = load<vi>(r.nonzero + k * W);
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
      c[k] = c[k] - (x != splat(0.0f));  // a mask that is set is -1
    }
  }
  for (int k = 0; k < LANES / W; ++k) {
    store(r.largest + k * W, m[k]);
    store(r.sum + k * W, s[k]);
    store(r.squares + k * W, q[k]);
    store(r.nonzero + k * W, c[k]);
  }
}

static double total(const float* lanes) {
  double s = 0.0;
  for (int j = 0; j < LANES; ++j) s += (double)lanes[j];
  return s;
}

static int64_t total(const int32_t* lanes) {
  int64_t s = 0;
  for (int j = 0; j < LANES; ++j) s += lanes[j];
  return s;
}

static float largest(const RowStatistics& r) {
  float m = 0.0f;
  for (int j = 0; j < LANES; ++j) m = r.largest[j] > m ? r.largest[j] : m;
  const double s = total(r.sum);
  return s - s == 0.0 ? m : (float)(s - s);  // the maximum ignores NaN; the sum does not
}

// Root mean square about zero, which is the centre of the clipping range and of most layers' weights. Weights of
// exactly 0 do not count: they are pruned, and would lower the bound until it clips most of the others.
static double clip_at(double squares, double nonzero, double sigmas) {
  return sigmas * std::sqrt(squares / (nonzero > 0.0 ? nonzero : 1.0));
}

// `squares_of` has room for two sums of every row.
void weight_scale(float* scale, float* clip, double* squares_of, const float* w, int64_t rows_out, int64_t cols_in,
                  int64_t tile_rows, int64_t tile_columns, int per_column, double clip_sigma, int clip_per_channel,
                  int threads) {
  const int64_t tiles = (cols_in + tile_rows - 1) / tile_rows;
  double* nonzero_of = squares_of + rows_out;
#pragma omp parallel for num_threads(threads_for(rows_out* cols_in, threads)) schedule(static)
  for (int64_t o = 0; o < rows_out; ++o) {
    squares_of[o] = 0.0;
    nonzero_of[o] = 0.0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t at = t * tile_rows, length = cols_in - at < tile_rows ? cols_in - at : tile_rows;
      RowStatistics r = {};
      accumulate(r, w + o * cols_in + at, length);
      scale[t * rows_out + o] = largest(r);
      squares_of[o] += total(r.squares);
      nonzero_of[o] += (double)total(r.nonzero);
    }
  }
  double squares = 0.0;
  double nonzero = 0.0;
  for (int64_t o = 0; o < rows_out; ++o) {
    squares += squares_of[o];
    nonzero += nonzero_of[o];
  }
  const double layer = clip_at(squares, nonzero, clip_sigma);
  for (int64_t o = 0; o < rows_out; ++o)
    clip[o] = !(clip_sigma > 0.0) ? INFINITY
              : clip_per_channel  ? (float)clip_at(squares_of[o], nonzero_of[o], clip_sigma)
                                  : (float)layer;
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

// The standard deviation of weights: parabolas, each from its own weight on, all shared by the weights of one run.
struct Parabola {
  float from, constant, linear, quadratic;
};

constexpr int PIECES = 64;

struct Noise {
  float clip, drop_connect;
  int pieces;
  bool by_sign;
  Parabola parabolas[PIECES];
};

template <bool ONE>
static inline vf deviation(vf v, const Noise& p) {
  const vf m = p.by_sign ? v : vabs(v);
  const Parabola& first = p.parabolas[0];
  vf constant = splat(first.constant), linear = splat(first.linear), quadratic = splat(first.quadratic);
  for (int k = 1; !ONE && k < p.pieces; ++k) {
    const Parabola& c = p.parabolas[k];
    const vi beyond = m >= splat(c.from);
    constant = beyond ? splat(c.constant) : constant;
    linear = beyond ? splat(c.linear) : linear;
    quadratic = beyond ? splat(c.quadratic) : quadratic;
  }
  return vmax(constant + m * (linear + quadratic * m), splat(0.0f));
}

template <bool ONE>
static inline vf perturbed(vf x, const Noise& p, const float* z, const float* gate) {
  vf v = clamp(x, splat(p.clip));
  if (z) v = v + deviation<ONE>(v, p) * load<vf>(z);
  return gate ? (load<vf>(gate) < splat(p.drop_connect) ? splat(0.0f) : v) : v;
}

// One run. `z` are normals, `gate` uniforms, readable for a vector beyond the run; null if not needed.
template <bool NOISY, bool DROPS, bool ONE>
static void perturb(float* out, const float* x, int64_t n, const Noise& p, const float* z, const float* gate) {
  int64_t j = 0;
  for (; j + W <= n; j += W)
    store(out + j, perturbed<ONE>(load<vf>(x + j), p, NOISY ? z + j : nullptr, DROPS ? gate + j : nullptr));
  if (j == n) return;
  float tail[W] = {};
  std::memcpy(tail, x + j, (n - j) * sizeof(float));
  store(tail, perturbed<ONE>(load<vf>(tail), p, NOISY ? z + j : nullptr, DROPS ? gate + j : nullptr));
  std::memcpy(out + j, tail, (n - j) * sizeof(float));
}

// `noise`: whether it depends on the sign; where each piece but the first starts; three coefficients of each piece.
static inline Noise noise_of(const double* noise, int pieces, float clip, float scale, float level, double drop) {
  Noise p;  // the parabolas beyond the last piece stay unset: it is made once for every run
  p.clip = clip, p.drop_connect = (float)drop, p.pieces = pieces, p.by_sign = noise[0] != 0.0;
  const double* c = noise + pieces;
  for (int k = 0; k < pieces; ++k, c += 3)
    p.parabolas[k] = {k ? (float)noise[k] * scale : 0.0f, level * (float)c[0] * scale, level * (float)c[1],
                      scale > 0.0f ? level * (float)c[2] / scale : 0.0f};
  return p;
}

void noisy_weights(float* out, const float* w, const float* scale, const float* clip, int64_t rows_out, int64_t cols_in,
                   int64_t tile_rows, float level, const double* noise, int pieces, double drop_connect, uint64_t seed,
                   uint64_t offset, int threads) {
  const Philox g(seed, offset), g_drop(seed, offset + 1);
  bool noisy = false;
  for (int k = pieces; k < 4 * pieces; ++k) noisy = noisy || (level != 0.0f && noise[k] != 0.0);
  const bool drops = drop_connect > 0.0, one = pieces == 1;
  const auto run_of = !noisy  ? (drops ? perturb<false, true, true> : perturb<false, false, true>)
                      : drops ? (one ? perturb<true, true, true> : perturb<true, true, false>)
                              : (one ? perturb<true, false, true> : perturb<true, false, false>);
  for_chunks(rows_out * cols_in, threads, [&](int64_t first, int64_t length) {
    Room z, gate;
    if (noisy) normal_chunk(g, z.v, first, length);
    if (drops) uniform_groups(g_drop, gate.v, first / GROUP, groups_for(length));
    for_pieces(first, length, cols_in, tile_rows, [&](int64_t i, int64_t run, int64_t row, int64_t tile) {
      const Noise p = noise_of(noise, pieces, clip[row], scale[tile * rows_out + row], level, drop_connect);
      run_of(out + first + i, w + first + i, run, p, z.v + i, gate.v + i);
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
