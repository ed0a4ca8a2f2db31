// The C ABI: every function takes raw pointers, sizes, a seed, and the number of threads.
//
// One line per function: name, parameters, arguments. Each kernel file defines its functions in
// pg::<instruction set>; dispatch.cpp exports pg_<name> and calls the set that the processor supports.
#pragma once
#include <cstdint>

// Counts up with every change of a function's parameters or of what it does. ops/native.py has the same number, and
// refuses a library with another.
#define PG_INTERFACE 4

#define PG_FUNCTIONS(X)                                                                                                \
  X(normal, (float* out, int64_t n, uint64_t seed, uint64_t offset, int threads), (out, n, seed, offset, threads))     \
  X(uniform, (float* out, int64_t n, uint64_t seed, uint64_t offset, int threads), (out, n, seed, offset, threads))    \
  X(dac,                                                                                                               \
    (float* out, const float* x, const float* range, int64_t outer, int64_t inner, int per_row, double max_code,       \
     int threads),                                                                                                     \
    (out, x, range, outer, inner, per_row, max_code, threads))                                                         \
  X(dac_backward,                                                                                                      \
    (float* grad_x, double* grad_range, double* partial, const float* grad, const float* x, float range, int64_t n,    \
     double decay, double keep, int threads),                                                                          \
    (grad_x, grad_range, partial, grad, x, range, n, decay, keep, threads))                                            \
  X(adc,                                                                                                               \
    (float* out, int8_t* code, float* table, const float* const* y, const float* const* v, const float* scale,         \
     const float* gain, const float* range, int64_t tiles, int64_t outer, int64_t channels, int64_t inner,             \
     int per_row, int accumulate, double output_noise, double read_noise, float bound, int mode, double max_code,      \
     uint64_t seed, uint64_t offset, int threads),                                                                     \
    (out, code, table, y, v, scale, gain, range, tiles, outer, channels, inner, per_row, accumulate, output_noise,     \
     read_noise, bound, mode, max_code, seed, offset, threads))                                                        \
  X(byte_inputs,                                                                                                       \
    (uint8_t* levels, uint8_t* squares, float* square_unit, int32_t* refused, uint8_t* room, const float* x,           \
     const float* range, int64_t rows, int64_t length, int64_t tile, int per_row, int converts, float max_code,        \
     int digits, int threads),                                                                                         \
    (levels, squares, square_unit, refused, room, x, range, rows, length, tile, per_row, converts, max_code, digits,   \
     threads))                                                                                                         \
  X(byte_weights,                                                                                                      \
    (int8_t* out, int8_t* sizes, int32_t* start, float* unit, float* size_unit, int32_t* refused, int8_t* room,        \
     const float* w, const float* most_of, int64_t columns, int64_t length, int64_t tile, int digits, int threads),    \
    (out, sizes, start, unit, size_unit, refused, room, w, most_of, columns, length, tile, digits, threads))           \
  X(byte_product,                                                                                                      \
    (float* out, int8_t* code, float* room, float* table, const float* products, const uint8_t* x,                     \
     const uint8_t* squares, const int8_t* w, const int8_t* sizes, const int32_t* start, const float* unit,            \
     const float* size_unit, const float* square_unit, const float* scale, const float* gain, const float* range,      \
     int64_t rows, int64_t columns, int64_t length, int64_t tile, int64_t first_tile, int64_t last_tile, int per_row,  \
     float levels, int digits, double output_noise, double read_noise, float bound, int mode, double max_code,         \
     uint64_t seed, uint64_t offset, int threads),                                                                     \
    (out, code, room, table, products, x, squares, w, sizes, start, unit, size_unit, square_unit, scale, gain, range,  \
     rows, columns, length, tile, first_tile, last_tile, per_row, levels, digits, output_noise, read_noise, bound,     \
     mode, max_code, seed, offset, threads))                                                                           \
  X(adc_backward, (float* out, const float* grad, const int8_t* code, int64_t n, int threads),                         \
    (out, grad, code, n, threads))                                                                                     \
  X(weight_scale,                                                                                                      \
    (float* scale, float* clip, double* squares_of, const float* w, int64_t rows_out, int64_t cols_in,                 \
     int64_t tile_rows, int64_t tile_columns, int per_column, double clip_sigma, int clip_per_channel, int threads),   \
    (scale, clip, squares_of, w, rows_out, cols_in, tile_rows, tile_columns, per_column, clip_sigma, clip_per_channel, \
     threads))                                                                                                         \
  X(noisy_weights,                                                                                                     \
    (float* out, const float* w, const float* scale, const float* clip, int64_t rows_out, int64_t cols_in,             \
     int64_t tile_rows, float level, const double* noise, int pieces, double drop_connect, uint64_t seed,              \
     uint64_t offset, int threads),                                                                                    \
    (out, w, scale, clip, rows_out, cols_in, tile_rows, level, noise, pieces, drop_connect, seed, offset, threads))    \
  X(noisy_weights_backward,                                                                                            \
    (float* grad, const float* w, const float* clip, int64_t rows_out, int64_t cols_in, int threads),                  \
    (grad, w, clip, rows_out, cols_in, threads))                                                                       \
  X(pcm_program,                                                                                                       \
    (float* conductance, float* nu, const float* target, int64_t n, double g_max, const double* programming_sd,        \
     int degree, const double* nu_mean, const double* nu_sd, uint64_t seed, uint64_t offset, int threads),             \
    (conductance, nu, target, n, g_max, programming_sd, degree, nu_mean, nu_sd, seed, offset, threads))                \
  X(pcm_read,                                                                                                          \
    (float* out, const float* conductance, const float* nu, const double* age, int64_t n, int per_device,              \
     double g_max, double t0, double t_read, const double* noise, uint64_t seed, uint64_t offset, int threads),        \
    (out, conductance, nu, age, n, per_device, g_max, t0, t_read, noise, seed, offset, threads))                       \
  X(pcm_cells,                                                                                                         \
    (float* out, const float* g, const float* nu, double age, int64_t planes, int64_t rows_out, int64_t cols_in,       \
     double g_max, double t0, double t_read, const double* noise, const float* factors, const float* scale,            \
     int64_t tile_rows, uint64_t seed, uint64_t offset, int threads),                                                  \
    (out, g, nu, age, planes, rows_out, cols_in, g_max, t0, t_read, noise, factors, scale, tile_rows, seed, offset,    \
     threads))                                                                                                         \
  X(noisy_cells,                                                                                                       \
    (float* out, const float* mean, const float* sd, int64_t planes, int64_t rows_out, int64_t cols_in,                \
     const float* factors, const float* scale, int64_t tile_rows, uint64_t seed, uint64_t offset, int threads),        \
    (out, mean, sd, planes, rows_out, cols_in, factors, scale, tile_rows, seed, offset, threads))                      \
  X(pcm_moments,                                                                                                       \
    (float* mean, float* sd, const float* g, const float* nu, double age, int64_t n, double g_max, double t0,          \
     double t_read, const double* noise, int threads),                                                                 \
    (mean, sd, g, nu, age, n, g_max, t0, t_read, noise, threads))                                                      \
  X(row_products,                                                                                                      \
    (float* y, float* v, const float* x, const float* mean, const void* variance, int brains, int64_t out, int64_t in, \
     int64_t tile_rows, int threads),                                                                                  \
    (y, v, x, mean, variance, brains, out, in, tile_rows, threads))                                                    \
  X(row_linear,                                                                                                        \
    (float* result, float* room, const float* x, const float* mean, const void* variance, int brains,                  \
     const float* scale, const float* gain, const float* range, int64_t out, int64_t in, int64_t tile_rows,            \
     double dac_max_code, double output_noise, double read_noise, float bound, int mode, double max_code,              \
     uint64_t seed, uint64_t offset, int threads),                                                                     \
    (result, room, x, mean, variance, brains, scale, gain, range, out, in, tile_rows, dac_max_code, output_noise,      \
     read_noise, bound, mode, max_code, seed, offset, threads))                                                        \
  X(rectified_cells,                                                                                                   \
    (float* weight, float* variance, const float* mean, const float* sd, int64_t planes, int64_t rows_out,             \
     int64_t cols_in, const float* factors, const float* scale, int64_t tile_rows, int threads),                       \
    (weight, variance, mean, sd, planes, rows_out, cols_in, factors, scale, tile_rows, threads))                       \
  X(pulse_trains,                                                                                                      \
    (int32_t* words_x, int32_t* words_d, void* scratch, const float* x, const float* d, int64_t batch, int64_t in,     \
     int64_t out, double lr, double dw_min, int length, int bl_management, int update_management, int kind,            \
     uint64_t seed, uint64_t offset, int threads),                                                                     \
    (words_x, words_d, scratch, x, d, batch, in, out, lr, dw_min, length, bl_management, update_management, kind,      \
     seed, offset, threads))                                                                                           \
  X(finite, (int32_t* result, const float** v, const int64_t* n, int64_t count, int threads),                          \
    (result, v, n, count, threads))                                                                                    \
  X(fingerprint,                                                                                                       \
    (uint64_t* result, const void* const* data, const int64_t* bytes, int64_t count, int64_t part, int threads),       \
    (result, data, bytes, count, part, threads))                                                                       \
  X(pulse_scratch, (int64_t* bytes, int64_t batch, int64_t out, int64_t in, int64_t groups, int threads),              \
    (bytes, batch, out, in, groups, threads))                                                                          \
  X(pulsed_update,                                                                                                     \
    (float* g, float* history, double* pulsed_at, const float* parameters, const float* x, const float* d,             \
     int32_t* refused, void* scratch, int64_t batch, int64_t out, int64_t in, int64_t groups, double lr,               \
     double dw_min, int length, int bl_management, int update_management, int kind, int64_t planes, int shared,        \
     double now, int up_plane, int down_plane, int family, const float* coefficients, float* weight,                   \
     const float* other_planes, int64_t other_count, const float* factors, uint64_t seed, uint64_t offset,             \
     int threads),                                                                                                     \
    (g, history, pulsed_at, parameters, x, d, refused, scratch, batch, out, in, groups, lr, dw_min, length,            \
     bl_management, update_management, kind, planes, shared, now, up_plane, down_plane, family, coefficients, weight,  \
     other_planes, other_count, factors, seed, offset, threads))                                                       \
  X(pulse_counts,                                                                                                      \
    (float* g, float* history, double* pulsed_at, const float* parameters, const int32_t* counts, int64_t out,         \
     int64_t in, int64_t planes, int shared, double now, int up_plane, int down_plane, int family,                     \
     const float* coefficients, float* weight, const float* other_planes, int64_t other_count, const float* factors,   \
     uint64_t seed, uint64_t offset, int threads),                                                                     \
    (g, history, pulsed_at, parameters, counts, out, in, planes, shared, now, up_plane, down_plane, family,            \
     coefficients, weight, other_planes, other_count, factors, seed, offset, threads))                                 \
  X(weighted_sum,                                                                                                      \
    (float* out, const float* g, int64_t planes, const float* other_planes, int64_t other_count, int64_t n,            \
     const float* factors, const float* sd, uint64_t seed, uint64_t offset, int threads),                              \
    (out, g, planes, other_planes, other_count, n, factors, sd, seed, offset, threads))                                \
  X(leak,                                                                                                              \
    (float* g, int64_t planes, int64_t n, float level, float lost, float* weight, const float* other_planes,           \
     int64_t other_count, const float* factors, int threads),                                                          \
    (g, planes, n, level, lost, weight, other_planes, other_count, factors, threads))
