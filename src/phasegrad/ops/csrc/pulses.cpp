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

static PG_INLINE vf load_part(const float* p, int64_t count) {
  if (count == W) return load<vf>(p);
  vf v{};
  std::memcpy(&v, p, count * sizeof(float));
  return v;
}

static PG_INLINE void store_part(float* p, vf v, int64_t count) { std::memcpy(p, &v, count * sizeof(float)); }

struct Line {   // of one sample: how a value becomes a train
  double a, b;  // firing probability divided by the value's magnitude, on output and on input lines
  int slots;
};

static Line line(double lr, double dw_min, int length, int bl_management, int update_management, double x, double d) {
  const double k = lr * x * d / dw_min;
  if (!(k > 0.0)) return {0.0, 0.0, 0};
  double slots = length;
  if (bl_management && __builtin_ceil(k) < slots) slots = __builtin_ceil(k);
  double a = __builtin_sqrt(lr / (dw_min * slots)), b = a;
  if (update_management) {
    const double ratio = x / (k > length ? d * (length / k) : d);
    a *= __builtin_sqrt(ratio);
    b *= __builtin_sqrt(1.0 / ratio);
  }
  return {a, b, (int)slots};
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

// Random words of W elements, from one of a side's streams.
static inline void random_words(Philox& g, uint64_t stream, uint64_t first, vu out[1][4]) {
  g.c2 = (stream & 0xffffffffu) - vq{};
  g.c3 = (stream >> 32) - vq{};
  g.words<1>(first, out);
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

typedef double vd __attribute__((vector_size(8 * W)));
typedef int64_t vl __attribute__((vector_size(8 * W)));

// floor(2^31 min(|v| amplitude, 1)), in double, as in the definition.
static inline vu threshold(vf v, double amplitude) {
  const vd p = __builtin_convertvector(vabs(v), vd) * (amplitude - vd{}), one = 1.0 - vd{};
  return __builtin_convertvector(__builtin_convertvector((p < one ? p : one) * 2147483648.0, vl), vu);
}

static inline vu scheduled(vf v, const Line& s, double amplitude, bool output, int kind) {
  vu word{};
  for (int i = 0; i < W; ++i) {
    const double p = probability(v[i], amplitude);
    if (kind == DETERMINISTIC) {
      const int64_t m = (int64_t)__builtin_floor(s.slots * p + 0.5);
      word[i] = output ? evenly(m, s.slots) : (1u << m) - 1;
    } else {
      const float mean = (float)(output ? p * s.slots : p);
      uint32_t bits;
      std::memcpy(&bits, &mean, sizeof bits);
      word[i] = bits;
    }
  }
  return word;
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
    const double amplitude = output ? s.a : s.b;
    Philox g(seed, offset);
    for (int64_t i = from; i < to; i += W) {
      const int64_t at = sample * lines + i, count = to - i < W ? to - i : W;
      const vf value = load_part(v + at, count);
      vu word{};
      if (s.slots)
        word = kind == STOCHASTIC ? fire(g, offset, (uint64_t)at, threshold(value, amplitude), s.slots)
                                  : scheduled(value, s, amplitude, output, kind);
      word |= (vu)(value < splat(0.0f)) & usplat(SIGN);
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

void pulse_trains(int32_t* words_x, int32_t* words_d, const float* x, const float* d, int64_t batch, int64_t in,
                  int64_t out, double lr, double dw_min, int length, int bl_management, int update_management, int kind,
                  uint64_t seed, uint64_t offset, int threads) {
  Line* samples = new Line[batch + 1];
  for (int64_t s = 0; s < batch; ++s)
    samples[s] =
        line(lr, dw_min, length, bl_management, update_management, largest(x + s * in, in), largest(d + s * out, out));
  side(words_x, x, samples, batch, in, false, kind, seed, offset, threads);
  side(words_d, d, samples, batch, out, true, kind, seed, offset + 8, threads);
  delete[] samples;
}

static inline vu mix(vu x) {
  x ^= x >> 16;
  x *= usplat(0x21f0aaadu);
  x ^= x >> 15;
  x *= usplat(0x735a2d97u);
  return x ^ (x >> 15);
}

static inline vu lanes() {
  vu v{};
  for (int i = 0; i < W; ++i) v[i] = i;
  return v;
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
  int64_t samples, across, words;
  uint32_t *blocks, *lines;
  uint64_t *block_fires, *line_fires;

  Batch(const int32_t* words_x, const int32_t* words_d, int64_t batch, int64_t in, int64_t out)
      : samples(batch), across((in + W - 1) / W), words((batch + 63) / 64) {
    blocks = new uint32_t[across * W * batch + 1]();
    lines = new uint32_t[out * batch + 1];
    block_fires = new uint64_t[across * words + 1]();
    line_fires = new uint64_t[out * words + 1]();
    for (int64_t s = 0; s < batch; ++s) {
      for (int64_t j = 0; j < across; ++j) {
        uint32_t* block = blocks + (j * batch + s) * W;
        std::memcpy(block, words_x + s * in + j * W, (in - j * W < W ? in - j * W : W) * sizeof(uint32_t));
        const bool fires = any((vi)((load<vu>(block) & ~usplat(SIGN)) != usplat(0)));
        block_fires[j * words + s / 64] |= (uint64_t)fires << (s % 64);
      }
      for (int64_t o = 0; o < out; ++o) {
        const uint32_t word = (uint32_t)words_d[s * out + o];
        lines[o * batch + s] = word;
        line_fires[o * words + s / 64] |= (uint64_t)((word & ~SIGN) != 0) << (s % 64);
      }
    }
  }
  ~Batch() {
    delete[] blocks;
    delete[] lines;
    delete[] block_fires;
    delete[] line_fires;
  }
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

// One output's weights in blocks first to last.
template <int FAMILY, bool PAIR, bool MEAN>
static inline void update_row(const Update& u, const Batch& batch, int64_t o, int64_t first, int64_t last) {
  const uint32_t* d = batch.lines + o * batch.samples;
  for (int64_t j = first; j < last; ++j) {
    const uint32_t* x = batch.blocks + j * batch.samples * W;
    const int64_t count = u.in - j * W < W ? u.in - j * W : W;
    Meetings meetings(batch.block_fires + j * batch.words, batch.line_fires + o * batch.words, batch.words);
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
      block.enqueue(coincidences<MEAN>(xs, ds, block.key, s), (vi)((vi)(xs ^ ds) >= 0));
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
      for (int64_t o = chunk * ROWS; o < end; ++o) update_row<FAMILY, PAIR, MEAN>(u, batch, o, first, last);
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

// The source of pulses: trains on the lines of a batch, or a number for each weight.
struct Sent {
  const Batch* batch;
  bool mean;
  const int32_t* counts;
};

template <int FAMILY>
static void update_family(const Update& u, const Sent& sent, int threads) {
  const bool pair = u.plane[0] != u.plane[1];
  if (sent.counts) return (pair ? count_rows<FAMILY, true> : count_rows<FAMILY, false>)(u, sent.counts, threads);
  const auto f = pair ? (sent.mean ? update_rows<FAMILY, true, true> : update_rows<FAMILY, true, false>)
                      : (sent.mean ? update_rows<FAMILY, false, true> : update_rows<FAMILY, false, false>);
  f(u, *sent.batch, threads);
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

constexpr int64_t SAMPLES_PER_BLOCK = 1024, STREAMS = 16;  // as in ops/pulses.py

void pulsed_update(float* g, float* history, double* pulsed_at, const float* parameters, const float* x, const float* d,
                   int32_t* refused, int64_t batch, int64_t out, int64_t in, double lr, double dw_min, int length,
                   int bl_management, int update_management, int kind, int64_t planes, int shared, double now,
                   int up_plane, int down_plane, int family, const float* coefficients, float* weight,
                   const float* other_planes, int64_t other_count, const float* factors, uint64_t seed, uint64_t offset,
                   int threads) {
  *refused = !all_finite(x, batch * in) || !all_finite(d, batch * out);
  if (*refused) return;
  const int64_t most = batch < SAMPLES_PER_BLOCK ? batch : SAMPLES_PER_BLOCK;
  int32_t *words_x = new int32_t[most * in + W], *words_d = new int32_t[most * out + W];
  for (int64_t s = 0; s < batch; s += SAMPLES_PER_BLOCK, offset += STREAMS + 1) {
    const int64_t some = batch - s < SAMPLES_PER_BLOCK ? batch - s : SAMPLES_PER_BLOCK;
    pulse_trains(words_x, words_d, x + s * in, d + s * out, some, in, out, lr, dw_min, length, bl_management,
                 update_management, kind, seed, offset, threads);
    const Batch trains(words_x, words_d, some, in, out);
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
                      Stream(seed, offset + STREAMS)};
    send(u, family, {&trains, kind == MEAN_COUNT, nullptr}, threads);
  }
  delete[] words_x;
  delete[] words_d;
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
  send(u, family, {nullptr, false, counts}, threads);
}

}  // namespace PG_ISA
}  // namespace pg
