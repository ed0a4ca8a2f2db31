#include <cmath>

#include "chunks.h"

namespace pg {
namespace PG_ISA {

// A scalar law of the normalised conductance g, as devices/curves.py encodes it:
//   0, threshold, then for g < threshold and for the rest: a, b, exponential, c1, c2, c3, low, high
//      value = clip((exponential ? exp(a ln g + b) : a ln g + b) + c1 g + c2 g^2 + c3 g^3, low, high)
//   1, n, g_0 .. g_n-1, value_0 .. value_n-1: linear between the points, constant beyond them
struct Branch {
  vf a, b, c1, c2, c3, low, high;
  bool exponential, logarithm;
  explicit Branch(const double* p)
      : a(splat((float)p[0])),
        b(splat((float)p[1])),
        c1(splat((float)p[3])),
        c2(splat((float)p[4])),
        c3(splat((float)p[5])),
        low(splat((float)p[6])),
        high(splat((float)p[7])),
        exponential(p[2] != 0.0),
        logarithm(p[0] != 0.0) {}
  inline vf operator()(vf g, vf ln_g) const {
    vf v = logarithm ? a * ln_g + b : b;
    if (exponential) v = vexp(v);
    v = v + g * (c1 + g * (c2 + g * c3));
    return vclamp(v, low, high);
  }
};

struct Law {
  bool table, two;
  float threshold;
  Branch below, above;
  int64_t n;
  const double* points;
  explicit Law(const double* p)
      : table(p[0] != 0.0),
        two(!table && std::isfinite(p[1])),
        threshold((float)p[1]),
        below(table ? EMPTY : p + 2),
        above(table ? EMPTY : p + 10),
        n((int64_t)p[1]),
        points(p + 2) {}

  inline vf operator()(vf g, vf ln_g) const {
    if (table) return interpolate(g);
    const vf low = below(g, ln_g);
    return two ? (g < splat(threshold) ? low : above(g, ln_g)) : low;
  }

 private:
  static constexpr double EMPTY[8] = {};
  vf interpolate(vf g) const {
    vf out{};
    for (int k = 0; k < W; ++k) {
      const double x = (double)g[k];
      const double *xs = points, *ys = points + n;
      int64_t i = 0, j = n - 1;
      while (j - i > 1) {
        const int64_t m = (i + j) / 2;
        (x < xs[m] ? j : i) = m;
      }
      const double f = n > 1 ? (x - xs[i]) / (xs[j] - xs[i]) : 0.0;
      out[k] = x != x ? g[k] : (float)(f <= 0.0 ? ys[i] : f >= 1.0 ? ys[j] : ys[i] + f * (ys[j] - ys[i]));
    }
    return out;
  }
};

// ln g, where g = 0 counts as the smallest normal float: every law is clipped at far larger g.
static inline vf ln_of(vf g) { return vlog(vmax(splat(1.17549435e-38f), g)) + (g - g); }

void pcm_program(float* conductance, float* nu, const float* target, int64_t n, double g_max,
                 const double* programming_sd, int degree, const double* nu_mean, const double* nu_sd, uint64_t seed,
                 uint64_t offset, int threads) {
  const Philox for_g(seed, offset), for_nu(seed, offset + 1);
  const Law mean(nu_mean), sd(nu_sd);
  const vf inverse = splat((float)(1.0 / g_max)), zero = splat(0.0f);
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Room z, z_nu, room;
    const float* x = padded(target + first, length, room.v);
    normal_chunk(for_g, z.v, first, length);
    normal_chunk(for_nu, z_nu.v, first, length);
    for (int64_t i = 0; i < length; i += W) {
      const vf t = load<vf>(x + i), g = t * inverse, ln_g = ln_of(g);
      vf deviation = splat((float)programming_sd[degree]);
      for (int k = degree - 1; k >= 0; --k) deviation = deviation * g + splat((float)programming_sd[k]);
      store(z.v + i, vmax(zero, t + vmax(zero, deviation) * load<vf>(z.v + i)));
      store(z_nu.v + i, vabs(mean(g, ln_g) + sd(g, ln_g) * load<vf>(z_nu.v + i)));
    }
    std::memcpy(conductance + first, z.v, length * sizeof(float));
    std::memcpy(nu + first, z_nu.v, length * sizeof(float));
  });
}

// The terms that depend only on the age: ln of the drift ratio, and the square root of the noise bandwidth.
static inline void of_age(double age, double t0, double t_read, float& drift, float& bandwidth) {
  drift = (float)std::log((age + t0) / t0);
  bandwidth = (float)std::sqrt(std::log((age + t0 + t_read) / (2.0 * t_read)));
}

void pcm_read(float* out, const float* conductance, const float* nu, const double* age, int64_t n, int per_device,
              double g_max, double t0, double t_read, const double* noise, uint64_t seed, uint64_t offset,
              int threads) {
  const Philox stream(seed, offset);
  static const double none[18] = {};
  const Law q(noise ? noise : none);
  float drift = 0.0f, bandwidth = 0.0f;
  if (!per_device && n > 0) of_age(*age, t0, t_read, drift, bandwidth);
  const vf inverse = splat((float)(1.0 / g_max)), zero = splat(0.0f);
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Room z, g_room, nu_room, l, b;
    const float* gs = padded(conductance + first, length, g_room.v);
    const float* nus = padded(nu + first, length, nu_room.v);
    if (noise) normal_chunk(stream, z.v, first, length);
    if (per_device)
      for (int64_t i = 0; i < length; ++i) of_age(age[first + i], t0, t_read, l.v[i], b.v[i]);
    for (int64_t i = 0; i < length; i += W) {
      const vf programmed = load<vf>(gs + i);
      const vf ln_ratio = per_device ? load<vf>(l.v + i) : splat(drift);
      vf g = programmed * vexp(-load<vf>(nus + i) * ln_ratio);
      if (noise) {
        const vf relative = programmed * inverse;
        const vf sd = q(relative, ln_of(relative)) * (per_device ? load<vf>(b.v + i) : splat(bandwidth));
        g = vmax(zero, g + g * sd * load<vf>(z.v + i));
      }
      store(z.v + i, g);
    }
    std::memcpy(out + first, z.v, length * sizeof(float));
  });
}

}  // namespace PG_ISA
}  // namespace pg
