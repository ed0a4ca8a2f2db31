// The pulsed update: trains of pulses on the lines, coincidences, and the steps of the devices.
//
// The definitions are ops/trains.py and ops/pulses.py. W weights of one output go through the samples together. The
// words alone say which pulses a weight receives, so each lane queues the signs of its pulses, and all lanes then work
// through their queues in parallel, each at its own sample: pulses are few, and rarely coincide in all lanes.
#include "chunks.h"

namespace pg {
namespace PG_ISA {

enum Kind { STOCHASTIC, DETERMINISTIC, MEAN_COUNT };
enum Family { LINEAR, EXPONENTIAL, POWER, PIECEWISE, TABLE, HISTORY };

constexpr int LONGEST = 31, SHORT = 4;
constexpr uint32_t SIGN = 0x80000000u, GOLDEN = 0x9E3779B9u;

// Small functions that GCC would not inline into the loop over devices, so that vectors would pass through memory.
#define PG_INLINE inline __attribute__((always_inline))

static inline vu usplat(uint32_t x) { return x - vu{}; }

static inline vu lanes() {
  vu v{};
  for (int i = 0; i < W; ++i) v[i] = i;
  return v;
}

static PG_INLINE vf load_part(const float* p, int64_t count) {
  if (count == W) return load<vf>(p);
  vf v{};
  std::memcpy(&v, p, count * sizeof(float));
  return v;
}

static PG_INLINE void store_part(float* p, vf v, int64_t count) { std::memcpy(p, &v, count * sizeof(float)); }

// Memory that the caller owns, handed out in parts. From address 0 it only adds up their sizes.
struct Arena {
  uintptr_t at;
  template <class T>
  T* take(int64_t count) {
    T* const part = (T*)at;
    at += ((uintptr_t)count * sizeof(T) + 63) / 64 * 64;
    return part;
  }
};

struct Line {   // of one sample: how a value becomes a train
  double a, b;  // firing probability divided by the value's magnitude, on output and on input lines
  int slots;
};

// Without branches, so that several samples are computed together; without pulses the quotients are discarded.
static PG_INLINE Line line(double lr, double dw_min, int length, int bl_management, int update_management, double x,
                           double d) {
  const double k = lr * x * d / dw_min, whole = __builtin_ceil(k);
  const bool on = k > 0.0;
  const double slots = bl_management && whole < length ? whole : length;
  const double even = __builtin_sqrt(lr / (dw_min * slots));
  const double ratio = update_management ? x / (k > length ? d * (length / k) : d) : 1.0;
  const double a = even * __builtin_sqrt(ratio), b = even * __builtin_sqrt(1.0 / ratio);
  return {on ? a : 0.0, on ? b : 0.0, on ? (int)slots : 0};
}

static inline double probability(float v, double amplitude) {
  const double p = __builtin_fabs((double)v) * amplitude;
  return p < 1.0 ? p : 1.0;
}

// n of the slots, evenly spread: any first m of them hold m n / slots, rounded.
static uint32_t evenly(int64_t n, int64_t slots) {
  uint32_t word = 0;
  for (int64_t t = 0; t < slots; ++t)
    if ((2 * (t + 1) * n + slots) / (2 * slots) > (2 * t * n + slots) / (2 * slots)) word |= 1u << t;
  return word;
}

// Random words of the elements first, first + stride, ..., from one of a side's streams.
static inline void random_words(Philox& g, uint64_t stream, uint64_t first, vu out[1][4], uint64_t stride = 1) {
  g.c2 = (stream & 0xffffffffu) - vq{};
  g.c3 = (stream >> 32) - vq{};
  g.words<1>(first, out, stride);
}

// Words of W elements whose slots fire with probability below / 2^31: short trains draw a number for each slot; longer
// ones compare all slots at once, bit by bit from the top.
static inline vu fire(Philox& g, uint64_t offset, uint64_t first, vu below, int slots) {
  const vu full = usplat((1u << slots) - 1), all = usplat(0xffffffffu), zero = usplat(0);
  vu random[1][4];
  if (!any((vi)(below != zero))) return zero;
  if (slots <= SHORT) {
    random_words(g, offset, first, random);
    vu word = zero;
    for (int t = 0; t < slots; ++t) word |= (vu)((random[0][t] >> 1) < below) & usplat(1u << t);
    return word;
  }
  const vu surely = (vu)((vi)below < 0);
  vu word = surely & full, undecided = ~surely & full;
  for (int t = 0; t < LONGEST; t += 4) {
    random_words(g, offset + t / 4, first, random);
    for (int i = 0; i < 4 && t + i < LONGEST; ++i) {
      const vu bit = (vu)((vi)(below << (t + i + 1)) < 0) ? all : zero;
      word |= undecided & ~random[0][i] & bit;
      undecided &= ~(random[0][i] ^ bit);
    }
    if (!any((vi)(undecided != zero))) break;
  }
  return word;
}

// The same for lines of W samples, each with its own number of slots, whose elements are `stride` apart.
static inline vu fire_apart(Philox& g, uint64_t offset, uint64_t first, uint64_t stride, vu below, vu slots) {
  const vu full = (usplat(1) << slots) - usplat(1), all = usplat(0xffffffffu), zero = usplat(0);
  const vi is_short = (vi)(slots <= usplat(SHORT));
  vu random[1][4];
  if (!any((vi)(below != zero))) return zero;
  random_words(g, offset, first, random, stride);
  vu brief = zero;
  for (int t = 0; t < SHORT; ++t) brief |= (vu)((random[0][t] >> 1) < below) & usplat(1u << t);
  const vu surely = (vu)((vi)below < 0);
  vu word = surely & full, undecided = is_short ? zero : ~surely & full;
  for (int t = 0; t < LONGEST && any((vi)(undecided != zero)); t += 4) {
    if (t) random_words(g, offset + t / 4, first, random, stride);
    for (int i = 0; i < 4 && t + i < LONGEST; ++i) {
      const vu bit = (vu)((vi)(below << (t + i + 1)) < 0) ? all : zero;
      word |= undecided & ~random[0][i] & bit;
      undecided &= ~(random[0][i] ^ bit);
    }
  }
  return is_short ? brief & full : word;
}

typedef double vd __attribute__((vector_size(8 * W)));
typedef int64_t vl __attribute__((vector_size(8 * W)));

// floor(2^31 min(|v| amplitude, 1)), in double, as in the definition.
static inline vu threshold(vf v, vd amplitude) {
  const vd p = __builtin_convertvector(vabs(v), vd) * amplitude, one = 1.0 - vd{};
  return __builtin_convertvector(__builtin_convertvector((p < one ? p : one) * 2147483648.0, vl), vu);
}

static inline uint32_t scheduled(float v, const Line& s, bool output, int kind) {
  const double p = probability(v, output ? s.a : s.b);
  if (kind == DETERMINISTIC) {
    const int64_t m = (int64_t)__builtin_floor(s.slots * p + 0.5);
    return output ? evenly(m, s.slots) : (1u << m) - 1;
  }
  const float mean = (float)(output ? p * s.slots : p);
  uint32_t bits;
  std::memcpy(&bits, &mean, sizeof bits);
  return bits;
}

// The words of W lines, the first of which is element `at` of its side.
static inline vu word_of(Philox& g, vf value, const Line& s, uint64_t at, bool output, int kind, uint64_t offset) {
  vu word{};
  if (s.slots && kind == STOCHASTIC)
    word = fire(g, offset, at, threshold(value, (output ? s.a : s.b) - vd{}), s.slots);
  else if (s.slots)
    for (int i = 0; i < W; ++i) word[i] = scheduled(value[i], s, output, kind);
  return word | ((vu)(value < splat(0.0f)) & usplat(SIGN));
}

// The trains of one side, for `lines` values of every sample.
static void side(int32_t* words, const float* v, const Line* samples, int64_t batch, int64_t lines, bool output,
                 int kind, uint64_t seed, uint64_t offset, int threads) {
  const int64_t pieces = chunks_in(lines);
#pragma omp parallel for num_threads(threads_for(batch* lines, threads)) schedule(static)
  for (int64_t piece = 0; piece < batch * pieces; ++piece) {
    const int64_t sample = piece / pieces, from = piece % pieces * CHUNK;
    const int64_t to = from + CHUNK < lines ? from + CHUNK : lines;
    const Line& s = samples[sample];
    Philox g(seed, offset);
    for (int64_t i = from; i < to; i += W) {
      const int64_t at = sample * lines + i, count = to - i < W ? to - i : W;
      const vu word = word_of(g, load_part(v + at, count), s, (uint64_t)at, output, kind, offset);
      std::memcpy(words + at, &word, count * sizeof(int32_t));
    }
  }
}

static double largest(const float* v, int64_t n) {
  float m = 0.0f;
#pragma omp simd reduction(max : m)
  for (int64_t i = 0; i < n; ++i) {
    const float size = __builtin_fabsf(v[i]);
    m = size > m ? size : m;
  }
  return m;
}

// Alternate lanes of two vectors, from the first one or the second one on.
static PG_INLINE vf alternate(vf a, vf b, int first) {
#if defined(__clang__)
  vf v;
  for (int i = 0; i < W; ++i) v[i] = i < W / 2 ? a[2 * i + first] : b[2 * i + first - W];
  return v;
#else
  vi lane;
  for (int i = 0; i < W; ++i) lane[i] = 2 * i + first;
  return __builtin_shuffle(a, b, lane);
#endif
}

// Largest magnitudes of `rows` rows of n values, `stride` apart, of an array that ends at `end`. Rows of a depthwise
// convolution are many and short: looking for one maximum after the other within vectors would take most of an update.
static PG_INLINE vf largest_of_rows(const float* v, int64_t stride, int64_t rows, int64_t n, const float* end) {
  vf most[W];
  if (n == 1) {
    for (int64_t r = 0; r < W; ++r) most[0][r] = r < rows ? v[r * stride] : 0.0f;
    return vabs(most[0]);
  }
  for (int64_t r = 0; r < W; ++r) {
    most[r] = vf{};
    for (int64_t j = 0; r < rows && j < n; j += W) {
      const float* p = v + r * stride + j;
      const vf x = vabs(end - p >= W ? load<vf>(p) : load_part(p, end - p));
      const vi inside = (vi)(lanes() < usplat((uint32_t)(n - j < W ? n - j : W)));
      most[r] = vmax(inside ? x : vf{}, most[r]);
    }
  }
  for (int left = W / 2; left; left /= 2)
    for (int i = 0; i < left; ++i) {
      const vf a = most[2 * i], b = most[2 * i + 1];
      most[i] = vmax(alternate(a, b, 0), alternate(a, b, 1));
    }
  return most[0];
}

struct Rule {  // how values become trains
  double lr, dw_min;
  int length, bl_management, update_management, kind;
  Line line_of(double x, double d) const { return line(lr, dw_min, length, bl_management, update_management, x, d); }
};

static void trains(int32_t* words_x, int32_t* words_d, Line* samples, const float* x, const float* d, int64_t batch,
                   int64_t in, int64_t out, const Rule& rule, uint64_t seed, uint64_t offset, int threads) {
  for (int64_t s = 0; s < batch; ++s) samples[s] = rule.line_of(largest(x + s * in, in), largest(d + s * out, out));
  side(words_x, x, samples, batch, in, false, rule.kind, seed, offset, threads);
  side(words_d, d, samples, batch, out, true, rule.kind, seed, offset + 8, threads);
}

// `scratch` has room for a Line, three words of 8 bytes, for every sample.
void pulse_trains(int32_t* words_x, int32_t* words_d, void* scratch, const float* x, const float* d, int64_t batch,
                  int64_t in, int64_t out, double lr, double dw_min, int length, int bl_management,
                  int update_management, int kind, uint64_t seed, uint64_t offset, int threads) {
  static_assert(sizeof(Line) == 24, "ops/cpu/devices.py counts on it");
  const Rule rule = {lr, dw_min, length, bl_management, update_management, kind};
  trains(words_x, words_d, (Line*)scratch, x, d, batch, in, out, rule, seed, offset, threads);
}

static inline vu mix(vu x) {
  x ^= x >> 16;
  x *= usplat(0x21f0aaadu);
  x ^= x >> 15;
  x *= usplat(0x735a2d97u);
  return x ^ (x >> 15);
}

struct Stream {  // splitmix64 of seed and offset
  uint32_t low, high;
  Stream(uint64_t seed, uint64_t offset) {
    uint64_t z = seed + offset * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    low = (uint32_t)z;
    high = (uint32_t)(z >> 32);
  }
  inline vu keys(uint64_t first) const {
    const vu weight = usplat((uint32_t)first) + lanes();
    const vu upper = usplat((uint32_t)(first >> 32)) + (usplat(1) & (vu)(weight < lanes()));  // with the carry
    return mix(mix(weight + usplat(low)) ^ usplat(high) ^ upper);
  }
};

static inline vf uniform(vu word) { return to_float((vi)(word >> 8)) * splat(0x1p-24f); }

// The state of W devices before the next pulse of each.
struct Lanes {
  vf g, p;             // conductance, history
  vf step, low, high;  // size of the step in the direction of the pulse, bounds
  vf rate;             // see rate_of
  vi down;             // a downward pulse on a device that is pulsed both ways
  vf xi, u;            // the pulse's normal, or its uniform
};

static PG_INLINE vf noisy(vf m, const Lanes& l, float noise) {
  return noise != 0.0f ? m * (splat(1.0f) + splat(noise) * l.xi) : m;
}

static inline vf select(vi mask, float a, float b) { return mask ? splat(a) : splat(b); }

static inline void position(float at, int n, int* left, float* f) {
  at = at > 0.0f ? (at < 1.0f ? at : 1.0f) : 0.0f;
  const float scaled = at * (float)(n - 1);
  *left = (int)scaled < n - 2 ? (int)scaled : n - 2;
  *f = scaled - (float)*left;
}

// A quotient that a family would otherwise compute at every pulse: the decrease of the step per conductance, or the
// inverse of the range.
template <int FAMILY>
static PG_INLINE vf rate_of(vf low, vf high, bool down, const float* c) {
  if constexpr (FAMILY == LINEAR)
    return down ? splat(-c[2]) / (splat(c[3]) - low) : splat(c[1]) / (high - splat(c[3]));
  else
    return splat(1.0f) / (high - low);
}

// Each family returns the change in units of the step, noise included; downward changes count as positive.
template <int FAMILY>
static PG_INLINE vf change(Lanes& l, const float* c) {
  const float noise = c[0];
  const vf one = splat(1.0f), zero = splat(0.0f);
  if constexpr (FAMILY == LINEAR) {
    if (c[1] == 0.0f && c[2] == 0.0f) return noisy(one, l, noise);
    return noisy(vmax(one - l.rate * (l.g - splat(c[3])), zero), l, noise);
  } else if constexpr (FAMILY == EXPONENTIAL) {
    const vf z = splat(2.0f * c[5]) * l.g * l.rate + splat(c[6]);
    const vf e = vexp(l.down ? splat(-c[4]) * z : splat(c[2]) * z);
    return noisy(vmax(one - select(l.down, c[3], c[1]) * e, zero), l, noise);
  } else if constexpr (FAMILY == POWER) {
    const vf left = (l.down ? l.g - l.low : l.high - l.g) * l.rate;
    const vf safe = vmax(left, splat(1.17549435e-38f));
    const vf power = vexp(select(l.down, c[2], c[1]) * vlog(safe));
    return noisy(left > zero ? power : (select(l.down, c[2], c[1]) > zero ? zero : one), l, noise);
  } else if constexpr (FAMILY == PIECEWISE) {
    const int n = (int)c[1];
    const vf at = (l.g - l.low) * l.rate;
    vf m{};
    for (int i = 0; i < W; ++i) {
      int left;
      float f;
      position(at[i], n, &left, &f);
      const float* table = c + 2 + (l.down[i] ? n : 0);
      m[i] = table[left] * (1.0f - f) + table[left + 1] * f;
    }
    return noisy(m, l, noise);
  } else if constexpr (FAMILY == TABLE) {
    const int n_g = (int)c[1], n_q = (int)c[2];
    const vf at = (l.g - l.low) * l.rate, u = l.u;
    vf jump{};
    for (int i = 0; i < W; ++i) {
      int row, column;
      float f, h;
      position(at[i], n_g, &row, &f);
      position(u[i], n_q, &column, &h);
      const float* table = c + 3 + (l.down[i] ? n_g * n_q : 0) + row * n_q + column;
      const float lower = table[0] * (1.0f - h) + table[1] * h, upper = table[n_q] * (1.0f - h) + table[n_q + 1] * h;
      jump[i] = lower * (1.0f - f) + upper * f;
    }
    return jump;
  } else {
    l.p = l.p * splat(c[1]);
    const vf mean = splat(c[2]) * l.g + splat(c[3]) + splat(c[4]) * l.p;
    const vf sd = splat(c[5]) * l.g + splat(c[6]) + splat(c[7]) * l.p;
    return mean + sd * l.xi;
  }
}

// One side of a block of weights: the devices that are pulsed up, or down.
struct Devices {
  vf g, p, step, low, high, rate;
};

// The tracked weight: an offset, then a factor for each plane and for each other plane.
struct Tracked {
  float* weight;  // null if no weight is tracked
  const float* other_planes;
  int64_t other_count;
  const float* factors;
};

struct Update {
  float *g, *history;
  double* pulsed_at;
  double now;
  const float* parameters;
  bool shared;
  int64_t out, in, planes;
  int plane[2];
  const float* coefficients;
  Tracked tracked;
  Stream stream;

  PG_INLINE int64_t at(int which, int64_t weight) const { return plane[which] * out * in + weight; }

  PG_INLINE vf parameter(int kind, int64_t device, int64_t count) const {
    return shared ? splat(parameters[kind]) : load_part(parameters + kind * planes * out * in + device, count);
  }

  template <int FAMILY>
  PG_INLINE Devices devices(int which, bool down, int64_t weight, int64_t count) const {
    const int64_t i = at(which, weight);
    Devices d = {load_part(g + i, count),
                 history ? load_part(history + i, count) : vf{},
                 parameter(down ? 1 : 0, i, count),
                 parameter(2, i, count),
                 parameter(3, i, count),
                 vf{}};
    d.rate = rate_of<FAMILY>(d.low, d.high, down, coefficients);
    if (down) d.step = -d.step;
    return d;
  }

  PG_INLINE void keep(int which, const Devices& d, vi pulsed, int64_t weight, int64_t count) const {
    const int64_t i = at(which, weight);
    store_part(g + i, d.g, count);
    if (history) store_part(history + i, d.p, count);
    for (int64_t j = 0; pulsed_at && j < count; ++j)
      if (pulsed[j]) pulsed_at[i + j] = now;
  }

  PG_INLINE void refresh(int64_t first, int64_t count) const {
    if (!tracked.weight) return;
    const float* factor = tracked.factors + 1;
    vf w = load_part(g + first, count) * splat(*factor);
    for (int64_t p = 1; p < planes; ++p) w = w + load_part(g + p * out * in + first, count) * splat(factor[p]);
    for (int64_t p = 0; p < tracked.other_count; ++p)
      w = w + load_part(tracked.other_planes + p * out * in + first, count) * splat(factor[planes + p]);
    store_part(tracked.weight + first, w + splat(tracked.factors[0]), count);
  }
};

static inline vu population(vu x) {
#if defined(__AVX512VPOPCNTDQ__)
  return (vu)_mm512_popcnt_epi32((__m512i)x);
#else
  x = x - ((x >> 1) & 0x55555555u);
  x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
  return (x * usplat(0x01010101u)) >> 24;
#endif
}

// W weights of one output, and their queued pulses.
template <int FAMILY, bool PAIR>
struct Block {
  const Update& u;
  int64_t weight, count;
  Devices up, down;
  vi touched[2] = {};
  vu key, done{}, queue{}, waiting{};

  PG_INLINE Block(const Update& update, int64_t first, int64_t lanes) : u(update), weight(first), count(lanes) {
    up = u.devices<FAMILY>(0, false, first, lanes);
    down = PAIR ? u.devices<FAMILY>(1, false, first, lanes) : u.devices<FAMILY>(0, true, first, lanes);
    key = u.stream.keys((uint64_t)first);
  }

  PG_INLINE void enqueue(vu pulses, vi downward) {
    if (any((vi)(waiting + pulses > usplat(32)))) drain();
    const vu signs = ((usplat(1) << pulses) - usplat(1)) & (vu)downward;
    queue |= signs << waiting;
    waiting += pulses;
    touched[0] |= (vi)(pulses > usplat(0)) & ~downward;
    touched[1] |= (vi)(pulses > usplat(0)) & downward;
  }

  // Two pulses of a device share a pair of random words. Devices with an odd pulse count receive one pulse here.
  PG_INLINE void drain() {
    for (;;) {
      const vi active = (vi)(waiting > usplat(0)), odd = (vi)((done & usplat(1)) > usplat(0));
      if (!any(active)) return;
      const vu even = done & ~usplat(1), draw = key + even * usplat(GOLDEN);
      const vu a = mix(draw), b = mix(draw + usplat(GOLDEN));
      vf first[2] = {}, second[2] = {};  // normal, uniform
      if constexpr (FAMILY == TABLE) {
        first[1] = uniform(a), second[1] = uniform(b);
      } else if (FAMILY == HISTORY || u.coefficients[0] != 0.0f) {
        box_muller<1>(&a, &b, &first[0], &second[0]);
      }
      step(active, odd ? second[0] : first[0], odd ? second[1] : first[1]);
      const vi again = (vi)(waiting > usplat(0)) & ~odd;
      if (any(again)) step(again, second[0], second[1]);
    }
  }

  PG_INLINE void step(vi active, vf xi, vf uniform) {
    const vi downward = (vi)((queue & usplat(1)) > usplat(0));
    const vu one = usplat(1) & (vu)active;
    queue >>= one;
    waiting -= one;
    done += one;
    Lanes l;
    const Devices& other = PAIR ? down : up;
    l.g = PAIR ? (downward ? other.g : up.g) : up.g;
    l.p = PAIR ? (downward ? other.p : up.p) : up.p;
    l.low = PAIR ? (downward ? other.low : up.low) : up.low;
    l.high = PAIR ? (downward ? other.high : up.high) : up.high;
    l.step = downward ? down.step : up.step;
    l.rate = downward ? down.rate : up.rate;
    l.down = PAIR ? vi{} : downward;
    l.xi = xi;
    l.u = uniform;
    const vf moved = vclamp(l.g + l.step * change<FAMILY>(l, u.coefficients), l.low, l.high);
    const vi first = PAIR ? active & ~downward : active;
    up.g = first ? moved : up.g;
    up.p = first ? l.p : up.p;
    if (!PAIR) return;
    const vi second = active & downward;
    down.g = second ? moved : down.g;
    down.p = second ? l.p : down.p;
  }

  PG_INLINE void finish() {
    drain();
    u.keep(0, up, PAIR ? touched[0] : touched[0] | touched[1], weight, count);
    if (PAIR) u.keep(1, down, touched[1], weight, count);
    u.refresh(weight, count);
  }
};

// The number of coincidences of two words.
template <bool MEAN>
static inline vu coincidences(vu x, vu d, vu key, int64_t sample) {
  if constexpr (!MEAN) {
    return population(x & d & ~usplat(SIGN));
  } else {
    const vf mean = vabs((vf)x * (vf)d);
    const vu word = mix(mix(key ^ usplat(0x5BD1E995u)) + usplat((uint32_t)sample * GOLDEN));
    const vf n = vfloor(vmin(mean + uniform(word), splat((float)LONGEST)));
    return (vu) __builtin_convertvector(finite(mean) ? n : splat(0.0f), vi);
  }
}

// The trains of a batch in the order of the update: inputs in blocks of W lines over all samples, outputs as lines over
// all samples, and for each block and line a bitmap of the samples in which it fires at all, which are few.
struct Batch {
  int64_t most, samples, across, words;
  uint32_t *blocks, *lines;
  uint64_t *block_fires, *line_fires;
  int32_t* numbers = nullptr;  // of the samples among those of a block of trains; null for 0, 1, 2, ...

  Batch(Arena& arena, int64_t most, int64_t in, int64_t out)
      : most(most), samples(most), across((in + W - 1) / W), words((most + 63) / 64) {
    blocks = arena.take<uint32_t>(across * W * most);
    lines = arena.take<uint32_t>(out * most);
    block_fires = arena.take<uint64_t>(across * words);
    line_fires = arena.take<uint64_t>(out * words);
  }

  void fill(const int32_t* words_x, const int32_t* words_d, int64_t batch, int64_t in, int64_t out) {
    samples = batch;
    clear(out);
    for (int64_t s = 0; s < batch; ++s) {
      for (int64_t j = 0; j < across; ++j) {
        vu word{};
        std::memcpy(&word, words_x + s * in + j * W, (in - j * W < W ? in - j * W : W) * sizeof(uint32_t));
        put_block(j, s, word);
      }
      for (int64_t o = 0; o < out; ++o) put_line(o, s, (uint32_t)words_d[s * out + o]);
    }
  }

  void clear(int64_t out) {
    words = (samples + 63) / 64;
    std::memset(block_fires, 0, across * words * sizeof(uint64_t));
    std::memset(line_fires, 0, out * words * sizeof(uint64_t));
  }

  inline void put_block(int64_t j, int64_t s, vu word) {
    store(blocks + (j * samples + s) * W, word);
    block_fires[j * words + s / 64] |= (uint64_t)any((vi)((word & ~usplat(SIGN)) != usplat(0))) << (s % 64);
  }

  inline void put_line(int64_t o, int64_t s, uint32_t word) {
    lines[o * samples + s] = word;
    line_fires[o * words + s / 64] |= (uint64_t)((word & ~SIGN) != 0) << (s % 64);
  }

  inline int64_t number(int64_t s) const { return numbers ? numbers[s] : s; }
};

// Iterates over the samples in which both a block and a line fire.
struct Meetings {
  const uint64_t *x, *d;
  int64_t words, word = 0;
  uint64_t left;

  Meetings(const uint64_t* block, const uint64_t* line, int64_t count) : x(block), d(line), words(count) {
    left = x[0] & d[0];
  }
  inline int64_t next() {  // -1: none is left
    while (!left) {
      if (++word >= words) return -1;
      left = x[word] & d[word];
    }
    const int64_t sample = word * 64 + __builtin_ctzll(left);
    left &= left - 1;
    return sample;
  }
};

// The weights of output o, whose trains are on a line of the batch, in blocks first to last.
template <int FAMILY, bool PAIR, bool MEAN>
static inline void update_row(const Update& u, const Batch& batch, int64_t line, int64_t o, int64_t first,
                              int64_t last) {
  const uint32_t* d = batch.lines + line * batch.samples;
  for (int64_t j = first; j < last; ++j) {
    const uint32_t* x = batch.blocks + j * batch.samples * W;
    const int64_t count = u.in - j * W < W ? u.in - j * W : W;
    Meetings meetings(batch.block_fires + j * batch.words, batch.line_fires + line * batch.words, batch.words);
    const auto pulsed = [&](int64_t s) {
      return MEAN || any((vi)((load<vu>(x + s * W) & usplat(d[s] & ~SIGN)) != usplat(0)));
    };
    int64_t s = meetings.next();
    while (s >= 0 && !pulsed(s)) s = meetings.next();
    if (s < 0) continue;  // before the devices are loaded
    Block<FAMILY, PAIR> block(u, o * u.in + j * W, count);
    for (; s >= 0; s = meetings.next()) {
      if (!pulsed(s)) continue;
      const vu xs = load<vu>(x + s * W), ds = usplat(d[s]);
      block.enqueue(coincidences<MEAN>(xs, ds, block.key, batch.number(s)), (vi)((vi)(xs ^ ds) >= 0));
    }
    block.finish();
  }
}

// Strips of inputs whose trains fit the second-level cache, row by row within a strip: the devices, which need several
// values each and much more memory, are then loaded in sequences that the processor prefetches.
template <int FAMILY, bool PAIR, bool MEAN>
static void update_rows(const Update& u, const Batch& batch, int threads) {
  constexpr int64_t ROWS = 16, STRIP = 1 << 16;
  const int64_t chunks = (u.out + ROWS - 1) / ROWS;
  const int64_t strip = STRIP / W / batch.samples > 1 ? STRIP / W / batch.samples : 1;
#pragma omp parallel for num_threads(threads_for(u.out* u.in* batch.samples, threads)) schedule(static)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t end = (chunk + 1) * ROWS < u.out ? (chunk + 1) * ROWS : u.out;
    for (int64_t first = 0; first < batch.across; first += strip) {
      const int64_t last = first + strip < batch.across ? first + strip : batch.across;
      for (int64_t o = chunk * ROWS; o < end; ++o) update_row<FAMILY, PAIR, MEAN>(u, batch, o, o, first, last);
    }
  }
}

// Samples of groups: sample i drives the outputs of group i modulo `groups` alone, and has gradients of these.
struct Grouped {
  const float *x, *d;
  int64_t batch, groups;
  Rule rule;
  uint64_t seed, offset;
  char* scratch;  // a part for each thread
  int64_t part;
};

constexpr int64_t SAMPLES_PER_BLOCK = 1024, STREAMS = 16;  // as in ops/pulses.py

static int64_t in_block(int64_t batch) { return batch < SAMPLES_PER_BLOCK ? batch : SAMPLES_PER_BLOCK; }

// The samples of one group in a block of trains, and how their values become trains.
struct Lines {
  double *largest_x, *largest_d, *a, *b;
  int32_t *slots, *fires;
  int64_t count;

  Lines(Arena& arena, int64_t most) : count(0) {
    largest_x = arena.take<double>(most + W);
    largest_d = arena.take<double>(most + W);
    a = arena.take<double>(most + W);
    b = arena.take<double>(most + W);
    slots = arena.take<int32_t>(most + W);
    fires = arena.take<int32_t>(most + W);
  }

  void compute(const Rule& rule) {
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) {
      const Line l = rule.line_of(largest_x[k], largest_d[k]);
      a[k] = l.a, b[k] = l.b, slots[k] = l.slots;
    }
    for (int64_t k = count; k < count + W; ++k) a[k] = 0.0, slots[k] = 0;
  }

  Line at(int64_t k) const { return {a[k], b[k], slots[k]}; }
};

// Trains of one output in samples k, k + 1, ... of the group.
static PG_INLINE vu output_words(Philox& g, const Lines& lines, int64_t k, vf value, uint64_t element, uint64_t stride,
                                 int kind, uint64_t offset) {
  vu word{};
  if (kind == STOCHASTIC) {
    vd amplitude;
    std::memcpy(&amplitude, lines.a + k, sizeof amplitude);
    const vu below = threshold(value, amplitude);
    word = fire_apart(g, offset, element, stride, below, load<vu>((const uint32_t*)lines.slots + k));
  } else {
    for (int i = 0; i < W && k + i < lines.count; ++i)
      if (lines.slots[k + i]) word[i] = scheduled(value[i], lines.at(k + i), true, kind);
  }
  return word | ((vu)(value < splat(0.0f)) & usplat(SIGN));
}

// The trains of one group's samples in a block of trains, with the words that they have among those of all groups.
// Samples that cannot pulse are left out, mostly before the words of their inputs are drawn.
static void group_trains(Batch& batch, Lines& lines, const Grouped& s, int64_t first, int64_t some, int64_t group,
                         int64_t in, int64_t out, uint64_t offset) {
  const int64_t per = out / s.groups, most = batch.most, start = (group + s.groups - first % s.groups) % s.groups;
  lines.count = start < some ? (some - start + s.groups - 1) / s.groups : 0;
  batch.samples = most;
  batch.clear(per);
  const float *x = s.x + (first + start) * in, *d = s.d + (first + start) * per;
  const float *end_x = s.x + s.batch * in, *end_d = s.d + s.batch * per;
  vf any_d{};
  for (int64_t k = 0; k < lines.count; k += W) {
    const int64_t rows = lines.count - k < W ? lines.count - k : W;
    const vf most = largest_of_rows(d + k * s.groups * per, s.groups * per, rows, per, end_d);
    store(lines.largest_d + k, __builtin_convertvector(most, vd));
    store(lines.largest_x + k,
          __builtin_convertvector(largest_of_rows(x + k * s.groups * in, s.groups * in, rows, in, end_x), vd));
    any_d = vmax(any_d, most);
  }
  if (!any((vi)(any_d > vf{}))) return;
  lines.compute(s.rule);
  Philox g(s.seed, offset);
  for (int64_t k = 0; k < lines.count; k += W) {
    vu fires{};
    for (int64_t o = 0; o < per; ++o) {
      vf value{};
      for (int64_t i = 0; i < W && k + i < lines.count; ++i) value[i] = d[(k + i) * s.groups * per + o];
      const uint64_t element = (uint64_t)((start + k * s.groups) * out + group * per + o);
      const vu word = output_words(g, lines, k, value, element, (uint64_t)(s.groups * out), s.rule.kind, offset + 8);
      fires |= word & ~usplat(SIGN);
      const int64_t count = lines.count - k < W ? lines.count - k : W;
      std::memcpy(batch.lines + o * most + k, &word, count * sizeof(uint32_t));
    }
    store((uint32_t*)lines.fires + k, fires);
  }
  int64_t kept = 0;
  for (int64_t k = 0; k < lines.count; ++k) {
    if (!lines.fires[k]) continue;
    const int64_t i = start + k * s.groups;
    bool fires = false;
    for (int64_t j = 0; j < batch.across; ++j) {
      const int64_t count = in - j * W < W ? in - j * W : W;
      const vf value = load_part(x + k * s.groups * in + j * W, count);
      const vu word = word_of(g, value, lines.at(k), (uint64_t)(i * in + j * W), false, s.rule.kind, offset);
      fires |= any((vi)((word & ~usplat(SIGN)) != usplat(0)));
      batch.put_block(j, kept, word);
    }
    if (!fires) continue;
    for (int64_t o = 0; o < per; ++o) batch.put_line(o, kept, batch.lines[o * most + k]);
    batch.numbers[kept++] = (int32_t)i;
  }
}

// Threads share the groups, and go through the samples in the same order, so that what they read fits the cache.
template <int FAMILY, bool PAIR, bool MEAN>
static void update_groups(const Update& whole, const Grouped& s, int threads) {
  const int64_t per = whole.out / s.groups, most = (in_block(s.batch) + s.groups - 1) / s.groups;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int t = 0; t < threads; ++t) {
    Arena arena = {(uintptr_t)(s.scratch + t * s.part)};
    Batch batch(arena, most, whole.in, per);
    batch.numbers = arena.take<int32_t>(most);
    Lines lines(arena, most);
    Update u = whole;
    uint64_t offset = s.offset;
    for (int64_t first = 0; first < s.batch; first += SAMPLES_PER_BLOCK, offset += STREAMS + 1) {
      const int64_t some = s.batch - first < SAMPLES_PER_BLOCK ? s.batch - first : SAMPLES_PER_BLOCK;
      u.stream = Stream(s.seed, offset + STREAMS);
      for (int64_t group = s.groups * t / threads; group < s.groups * (t + 1) / threads; ++group) {
        group_trains(batch, lines, s, first, some, group, u.in, u.out, offset);
        for (int64_t o = 0; o < per; ++o) update_row<FAMILY, PAIR, MEAN>(u, batch, o, group * per + o, 0, batch.across);
      }
    }
  }
}

// Each weight receives a given number of pulses.
template <int FAMILY, bool PAIR>
static void count_rows(const Update& u, const int32_t* counts, int threads) {
#pragma omp parallel for num_threads(threads_for(u.out* u.in, threads)) schedule(static)
  for (int64_t o = 0; o < u.out; ++o)
    for (int64_t j = 0; j < u.in; j += W) {
      const int64_t weight = o * u.in + j, count = u.in - j < W ? u.in - j : W;
      vi n{};
      std::memcpy(&n, counts + weight, count * sizeof(int32_t));
      const vi downward = (vi)(n < 0);
      vu left = (vu)((n ^ downward) - downward);
      if (!any((vi)(left != usplat(0)))) continue;
      Block<FAMILY, PAIR> block(u, weight, count);
      while (any((vi)(left != usplat(0)))) {
        const vu now = left < usplat(LONGEST) ? left : usplat(LONGEST);
        block.enqueue(now, downward);
        left -= now;
      }
      block.finish();
    }
}

// The source of pulses: trains on the lines of a batch, samples of groups, or a number for each weight.
struct Sent {
  const Batch* batch;
  const Grouped* grouped;
  bool mean;
  const int32_t* counts;
};

template <int FAMILY, bool PAIR, bool MEAN>
static void update_from(const Update& u, const Sent& sent, int threads) {
  if (sent.grouped) return update_groups<FAMILY, PAIR, MEAN>(u, *sent.grouped, threads);
  update_rows<FAMILY, PAIR, MEAN>(u, *sent.batch, threads);
}

template <int FAMILY>
static void update_family(const Update& u, const Sent& sent, int threads) {
  const bool pair = u.plane[0] != u.plane[1];
  if (sent.counts) return (pair ? count_rows<FAMILY, true> : count_rows<FAMILY, false>)(u, sent.counts, threads);
  const auto f = pair ? (sent.mean ? update_from<FAMILY, true, true> : update_from<FAMILY, true, false>)
                      : (sent.mean ? update_from<FAMILY, false, true> : update_from<FAMILY, false, false>);
  f(u, sent, threads);
}

static void send(const Update& u, int family, const Sent& sent, int threads) {
  switch (family) {
    case LINEAR:
      return update_family<LINEAR>(u, sent, threads);
    case EXPONENTIAL:
      return update_family<EXPONENTIAL>(u, sent, threads);
    case POWER:
      return update_family<POWER>(u, sent, threads);
    case PIECEWISE:
      return update_family<PIECEWISE>(u, sent, threads);
    case TABLE:
      return update_family<TABLE>(u, sent, threads);
    default:
      return update_family<HISTORY>(u, sent, threads);
  }
}

static bool all_finite(const float* v, int64_t n) {
  float sum = 0.0f;  // 0 times a number is 0
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += v[i] * 0.0f;
  return sum == 0.0f;
}

// Whether all values of several arrays are finite.
void finite(int32_t* result, const float** v, const int64_t* n, int64_t count, int) {
  *result = 1;
  for (int64_t i = 0; i < count && *result; ++i) *result = all_finite(v[i], n[i]);
}

// What an update without groups needs while it runs.
struct Dense {
  Line* samples;
  int32_t *words_x, *words_d;
  Batch batch;
  Dense(Arena& arena, int64_t most, int64_t in, int64_t out)
      : samples(arena.take<Line>(most)),
        words_x(arena.take<int32_t>(most * in)),
        words_d(arena.take<int32_t>(most * out)),
        batch(arena, most, in, out) {}
};

static int64_t part_of_a_thread(int64_t batch, int64_t out, int64_t in, int64_t groups) {
  const int64_t most = (in_block(batch) + groups - 1) / groups;
  Arena arena = {0};
  Batch(arena, most, in, out / groups);
  arena.take<int32_t>(most);
  Lines(arena, most);
  return (int64_t)arena.at;
}

// The bytes that pulsed_update needs, with the same number of threads.
void pulse_scratch(int64_t* bytes, int64_t batch, int64_t out, int64_t in, int64_t groups, int threads) {
  if (groups > 1) {
    *bytes = threads * part_of_a_thread(batch, out, in, groups);
    return;
  }
  Arena arena = {0};
  Dense(arena, in_block(batch), in, out);
  *bytes = (int64_t)arena.at;
}

void pulsed_update(float* g, float* history, double* pulsed_at, const float* parameters, const float* x, const float* d,
                   int32_t* refused, void* scratch, int64_t batch, int64_t out, int64_t in, int64_t groups, double lr,
                   double dw_min, int length, int bl_management, int update_management, int kind, int64_t planes,
                   int shared, double now, int up_plane, int down_plane, int family, const float* coefficients,
                   float* weight, const float* other_planes, int64_t other_count, const float* factors, uint64_t seed,
                   uint64_t offset, int threads) {
  *refused = !all_finite(x, batch * in) || !all_finite(d, batch * (out / groups));
  if (*refused) return;
  const Rule rule = {lr, dw_min, length, bl_management, update_management, kind};
  Update u = {g,
              history,
              pulsed_at,
              now,
              parameters,
              shared != 0,
              out,
              in,
              planes,
              {up_plane, down_plane},
              coefficients,
              {weight, other_planes, other_count, factors},
              Stream(seed, offset)};
  if (groups > 1) {
    const Grouped grouped = {
        x, d, batch, groups, rule, seed, offset, (char*)scratch, part_of_a_thread(batch, out, in, groups)};
    return send(u, family, {nullptr, &grouped, kind == MEAN_COUNT, nullptr}, threads);
  }
  Arena arena = {(uintptr_t)scratch};
  Dense room(arena, in_block(batch), in, out);
  for (int64_t s = 0; s < batch; s += SAMPLES_PER_BLOCK, offset += STREAMS + 1) {
    const int64_t some = batch - s < SAMPLES_PER_BLOCK ? batch - s : SAMPLES_PER_BLOCK;
    trains(room.words_x, room.words_d, room.samples, x + s * in, d + s * out, some, in, out, rule, seed, offset,
           threads);
    room.batch.fill(room.words_x, room.words_d, some, in, out);
    u.stream = Stream(seed, offset + STREAMS);
    send(u, family, {&room.batch, nullptr, kind == MEAN_COUNT, nullptr}, threads);
  }
}

void pulse_counts(float* g, float* history, double* pulsed_at, const float* parameters, const int32_t* counts,
                  int64_t out, int64_t in, int64_t planes, int shared, double now, int up_plane, int down_plane,
                  int family, const float* coefficients, float* weight, const float* other_planes, int64_t other_count,
                  const float* factors, uint64_t seed, uint64_t offset, int threads) {
  const Update u = {g,
                    history,
                    pulsed_at,
                    now,
                    parameters,
                    shared != 0,
                    out,
                    in,
                    planes,
                    {up_plane, down_plane},
                    coefficients,
                    {weight, other_planes, other_count, factors},
                    Stream(seed, offset)};
  send(u, family, {nullptr, nullptr, false, counts}, threads);
}

}  // namespace PG_ISA
}  // namespace pg
