// The weights of cells, read from their devices in one pass: drift, read noise, sum over the devices, scale.
#include "law.h"

namespace pg {
namespace PG_ISA {

// Reads of PCM devices from their state; the terms that depend on a device alone are computed again in each read.
struct FromState {
  const float *g, *nu;
  float drift, bandwidth;
  vf inverse;
  Law q;
  bool noisy;

  inline void terms(const float* gs, const float* nus, vf& mean, vf& sd) const {
    const vf programmed = load<vf>(gs);
    mean = programmed * vexp(-load<vf>(nus) * splat(drift));
    if (!noisy) return;
    const vf relative = programmed * inverse;
    sd = mean * (q(relative, ln_of(relative)) * splat(bandwidth));
  }
};

static const double NO_NOISE[18] = {};

static FromState from_state(const float* g, const float* nu, double age, double g_max, double t0, double t_read,
                            const double* noise) {
  FromState s = {g, nu, 0.0f, 0.0f, splat((float)(1.0 / g_max)), Law(noise ? noise : NO_NOISE), noise != nullptr};
  of_age(age, t0, t_read, s.drift, s.bandwidth);
  return s;
}

// The same terms, kept from an earlier read at this age.
struct Kept {
  const float *g, *nu;  // mean and standard deviation
  bool noisy;

  inline void terms(const float* means, const float* sds, vf& mean, vf& sd) const {
    mean = load<vf>(means);
    if (noisy) sd = load<vf>(sds);
  }
};

// out = scale (sum_p factor_p max(mean_p + sd_p z, 0) + offset); factors: the offset, then one per plane. Without
// scales, products are rounded before they are added, as in weighted_sum; with scales, as torch adds multiples.
template <class Source>
static void read_cells(float* out, const Source& from, int64_t planes, int64_t rows_out, int64_t cols_in,
                       const float* factors, const float* scale, int64_t tile_rows, uint64_t seed, uint64_t offset,
                       int threads) {
  const Philox stream(seed, offset);
  const int64_t n = rows_out * cols_in;
  const vf zero = splat(0.0f);
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Room total, z, room, room_2;
    for (int64_t p = 0; p < planes; ++p) {
      const int64_t at = p * n + first, shift = at % GROUP;  // a plane may start within a group of draws
      const float* a = padded(from.g + at, length, room.v);
      const float* b = from.nu ? padded(from.nu + at, length, room_2.v) : a;
      if (from.noisy) normal_groups(stream, z.v, at / GROUP, groups_for(shift + length));
      const vf factor = splat(factors[1 + p]);
      for (int64_t i = 0; i < length; i += W) {
        vf v, sd;
        from.terms(a + i, b + i, v, sd);
        if (from.noisy) v = vmax(zero, v + sd * load<vf>(z.v + shift + i));
        const vf sum = p ? load<vf>(total.v + i) : zero;
        store(total.v + i, scale && p ? vfma(v, factor, sum) : sum + v * factor);
      }
    }
    if (!scale || factors[0] != 0.0f)
      for (int64_t i = 0; i < length; i += W) store(total.v + i, load<vf>(total.v + i) + splat(factors[0]));
    if (!scale) {
      std::memcpy(out + first, total.v, length * sizeof(float));
      return;
    }
    for_pieces(first, length, cols_in, tile_rows, [&](int64_t i, int64_t run, int64_t row, int64_t tile) {
      const float s = scale[tile * rows_out + row];
      float* to = out + first + i;
      int64_t j = 0;
      for (; j + W <= run; j += W) store(to + j, load<vf>(total.v + i + j) * splat(s));
      for (; j < run; ++j) to[j] = total.v[i + j] * s;
    });
  });
}

void pcm_cells(float* out, const float* g, const float* nu, double age, int64_t planes, int64_t rows_out,
               int64_t cols_in, double g_max, double t0, double t_read, const double* noise, const float* factors,
               const float* scale, int64_t tile_rows, uint64_t seed, uint64_t offset, int threads) {
  read_cells(out, from_state(g, nu, age, g_max, t0, t_read, noise), planes, rows_out, cols_in, factors, scale,
             tile_rows, seed, offset, threads);
}

void noisy_cells(float* out, const float* mean, const float* sd, int64_t planes, int64_t rows_out, int64_t cols_in,
                 const float* factors, const float* scale, int64_t tile_rows, uint64_t seed, uint64_t offset,
                 int threads) {
  read_cells(out, Kept{mean, sd, sd != nullptr}, planes, rows_out, cols_in, factors, scale, tile_rows, seed, offset,
             threads);
}

void pcm_moments(float* mean, float* sd, const float* g, const float* nu, double age, int64_t n, double g_max,
                 double t0, double t_read, const double* noise, int threads) {
  const FromState from = from_state(g, nu, age, g_max, t0, t_read, noise);
  for_chunks(n, threads, [&](int64_t first, int64_t length) {
    Room room, room_2, to, to_2;
    const float *a = padded(g + first, length, room.v), *b = padded(nu + first, length, room_2.v);
    for (int64_t i = 0; i < length; i += W) {
      vf m, s = splat(0.0f);
      from.terms(a + i, b + i, m, s);
      store(to.v + i, m);
      store(to_2.v + i, s);
    }
    std::memcpy(mean + first, to.v, length * sizeof(float));
    std::memcpy(sd + first, to_2.v, length * sizeof(float));
  });
}

}  // namespace PG_ISA
}  // namespace pg
