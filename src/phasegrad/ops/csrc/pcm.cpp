#include "law.h"

namespace pg {
namespace PG_ISA {

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
    const bool whole = length % W == 0;
    float *to = whole ? conductance + first : z.v, *to_nu = whole ? nu + first : z_nu.v;
    for (int64_t i = 0; i < length; i += W) {
      const vf t = load<vf>(x + i), g = t * inverse, ln_g = ln_of(g);
      vf deviation = splat((float)programming_sd[degree]);
      for (int k = degree - 1; k >= 0; --k) deviation = deviation * g + splat((float)programming_sd[k]);
      store(to + i, vmax(zero, t + vmax(zero, deviation) * load<vf>(z.v + i)));
      store(to_nu + i, vabs(mean(g, ln_g) + sd(g, ln_g) * load<vf>(z_nu.v + i)));
    }
    if (whole) return;
    std::memcpy(conductance + first, z.v, length * sizeof(float));
    std::memcpy(nu + first, z_nu.v, length * sizeof(float));
  });
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
