// Exports the C ABI, and selects once the instruction set that implements it.
#include <cstdlib>
#include <cstring>

#include "api.h"

namespace pg {
#define PG_DECLARE(name, parameters, arguments) void name parameters;
namespace baseline {
PG_FUNCTIONS(PG_DECLARE)
}
#ifdef PG_HAVE_X86_LEVELS
namespace avx2 {
PG_FUNCTIONS(PG_DECLARE)
}
namespace avx512 {
PG_FUNCTIONS(PG_DECLARE)
}
#endif
}  // namespace pg

namespace {
enum Isa { BASELINE, AVX2, AVX512 };
const char* const NAMES[] = {"baseline", "avx2", "avx512"};

bool supported(Isa isa) {
#ifdef PG_HAVE_X86_LEVELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  if (isa == AVX2) return avx2;
  if (isa == AVX512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#endif
  return isa == BASELINE;
}

// The widest set that the processor supports, or the one that PHASEGRAD_ISA names if the processor supports it.
Isa choose() {
  const char* wish = std::getenv("PHASEGRAD_ISA");
  for (int i = AVX512; i > BASELINE; --i)
    if (supported((Isa)i) && (!wish || !*wish || !std::strcmp(wish, NAMES[i]))) return (Isa)i;
  return BASELINE;
}

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}
}  // namespace

#define PG_PUBLIC extern "C" __attribute__((visibility("default")))

PG_PUBLIC const char* pg_isa() { return NAMES[isa()]; }

PG_PUBLIC int pg_interface() { return PG_INTERFACE; }

// Whether products of bytes are faster than those of floats.
PG_PUBLIC int pg_multiplies_bytes() {
#ifdef PG_HAVE_X86_LEVELS
  return isa() == AVX512 && __builtin_cpu_supports("avx512vnni");
#else
  return 0;
#endif
}

#ifdef PG_HAVE_X86_LEVELS
#define PG_EXPORT(name, parameters, arguments) \
  PG_PUBLIC void pg_##name parameters {        \
    switch (isa()) {                           \
      case AVX512:                             \
        return pg::avx512::name arguments;     \
      case AVX2:                               \
        return pg::avx2::name arguments;       \
      default:                                 \
        return pg::baseline::name arguments;   \
    }                                          \
  }
#else
#define PG_EXPORT(name, parameters, arguments) \
  PG_PUBLIC void pg_##name parameters { pg::baseline::name arguments; }
#endif
PG_FUNCTIONS(PG_EXPORT)
