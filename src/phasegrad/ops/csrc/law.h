// Scalar laws of PCM devices, and the terms of drift and noise that depend only on the age.
#pragma once
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

// The terms that depend only on the age: ln of the drift ratio, and the square root of the noise bandwidth.
static inline void of_age(double age, double t0, double t_read, float& drift, float& bandwidth) {
  drift = (float)std::log((age + t0) / t0);
  bandwidth = (float)std::sqrt(std::log((age + t0 + t_read) / (2.0 * t_read)));
}

}  // namespace PG_ISA
}  // namespace pg
