/* Kernels in eight or twelve bits a number, multiplied with where they lie: what an adapted state holds, and `models/packed_weights.py` explains.
 *
 * A kernel (lines, channels) is a float32 scale for each channel, then its lines: eight bits of each number; and of twelve, behind the upper eight
 * of a line, the lower four, those of the first half of the channels beside those of the second. A number is base + steps * scale, where `base` is
 * the meta-parameters'.
 */
#ifndef PACKED_H
#define PACKED_H

#include "tiles.h"

#define PART_BYTES (24 << 10) /* of a kernel that is unpacked before it is multiplied with: they stay in a core's first cache */

typedef int8_t upper_bits __attribute__((vector_size(VECTOR_BYTES / sizeof(REAL)), aligned(1), may_alias));
typedef uint8_t lower_bits __attribute__((vector_size(VECTOR_BYTES / sizeof(REAL)), aligned(1), may_alias));
typedef int32_t whole_numbers __attribute__((vector_size(VECTOR_BYTES / sizeof(REAL) * 4), may_alias));
typedef float scales __attribute__((vector_size(VECTOR_BYTES / sizeof(REAL) * 4), aligned(1), may_alias));
typedef float unaligned_float __attribute__((aligned(1), may_alias));

/* A vector of bytes that is in a register: GCC would load each byte by itself to widen it. */
#if defined(__x86_64__) && !defined(__clang__)
#define IN_REGISTER(value) __asm__("" : "+v"(value))
#else
#define IN_REGISTER(value)
#endif

/* `at`: its bytes; `base`: what it differs from, NULL where `at` is its numbers. */
typedef struct {
    const void *at;
    const REAL *base;
    int bits;
} Kernel;

static ptrdiff_t line_bytes(int bits, int channels) { return bits == 8 ? channels : channels + (channels + 1) / 2; }
static ptrdiff_t packed_bytes(int bits, ptrdiff_t lines, int channels) {
    return channels * (ptrdiff_t)sizeof(float) + lines * line_bytes(bits, channels);
}

INLINE vector load_scale(const uint8_t *scale, int channel) {
    return __builtin_convertvector(*(const scales *)(scale + sizeof(float) * channel), vector);
}

/* A product is exact: steps and scale have twelve bits each at most. So it is the same number whether or not it is rounded before its sum. */
INLINE vector add_steps(whole_numbers steps, vector scale, const REAL *base) {
    return *(const vector *)base + __builtin_convertvector(steps, vector) * scale;
}

INLINE vector unpack_vector(upper_bits upper, lower_bits lower, vector scale, const REAL *base) {
    IN_REGISTER(upper);
    return add_steps(__builtin_convertvector(upper, whole_numbers) * 16 + __builtin_convertvector(lower, whole_numbers), scale, base);
}

/* Columns [first, first + wide * LENGTH) of `count` lines of eight bits. */
INLINE void unpack_bytes(const int wide, const uint8_t *scale, const uint8_t *line, int channels, int first, int count, const REAL *base, REAL *to) {
    vector each[4];
    UNROLL for (int v = 0; v < wide; v++) each[v] = load_scale(scale, first + v * LENGTH);
    line += first, base += first, to += first;
    for (int i = 0; i < count; i++, line += channels, base += channels, to += channels) {
        __builtin_prefetch(line + (ptrdiff_t)count * channels, 0, 2); /* the next part */
        UNROLL for (int v = 0; v < wide; v++) {
            upper_bits steps = *(const upper_bits *)(line + v * LENGTH);
            IN_REGISTER(steps);
            *(vector *)(to + v * LENGTH) = add_steps(__builtin_convertvector(steps, whole_numbers), each[v], base + v * LENGTH);
        }
    }
}

/* Columns [first, first + wide * LENGTH) of both halves of `count` lines: numbers whose lower bits share their bytes. */
INLINE void unpack_columns(const int wide, const uint8_t *scale, const uint8_t *line, int channels, int first, int count, const REAL *base, REAL *to) {
    const int half = (channels + 1) / 2;
    const ptrdiff_t bytes = line_bytes(12, channels), ahead = count * bytes;
    vector left[2], right[2];
    UNROLL for (int v = 0; v < wide; v++) {
        left[v] = load_scale(scale, first + v * LENGTH);
        right[v] = load_scale(scale, half + first + v * LENGTH);
    }
    for (int i = 0; i < count; i++, line += bytes, base += channels, to += channels) {
        __builtin_prefetch(line + ahead, 0, 2), __builtin_prefetch(line + ahead + LINE, 0, 2); /* the next part */
        UNROLL for (int v = 0; v < wide; v++) {
            const int at = first + v * LENGTH, other = half + at;
            const lower_bits both = *(const lower_bits *)(line + channels + at);
            *(vector *)(to + at) = unpack_vector(*(const upper_bits *)(line + at), both & 15, left[v], base + at);
            *(vector *)(to + other) = unpack_vector(*(const upper_bits *)(line + other), both >> 4, right[v], base + other);
        }
    }
}

/* What is left of a line from column `i` of each half on. */
static void unpack_rest(const uint8_t *scale, const uint8_t *line, int channels, int i, const REAL *base, REAL *to) {
    const unaligned_float *scale_of = (const unaligned_float *)scale;
    for (const int half = (channels + 1) / 2; i < half; i++) {
        const uint8_t both = line[channels + i];
        to[i] = base[i] + (REAL)((int8_t)line[i] * 16 + (both & 15)) * (REAL)scale_of[i];
        if (half + i < channels) to[half + i] = base[half + i] + (REAL)((int8_t)line[half + i] * 16 + (both >> 4)) * (REAL)scale_of[half + i];
    }
}

/* `count` lines of eight bits, of which `line` is the first. */
static void unpack_short_lines(const uint8_t *scale, const uint8_t *line, int channels, int count, const REAL *base, REAL *to) {
    const int whole = channels / LENGTH;
    const unaligned_float *scale_of = (const unaligned_float *)scale;
    int v = 0;
    for (; v + 4 <= whole; v += 4) unpack_bytes(4, scale, line, channels, v * LENGTH, count, base, to);
    for (; v < whole; v++) unpack_bytes(1, scale, line, channels, v * LENGTH, count, base, to);
    for (int i = 0; whole * LENGTH < channels && i < count; i++, line += channels, base += channels, to += channels)
        for (int c = whole * LENGTH; c < channels; c++) to[c] = base[c] + (REAL)(int8_t)line[c] * (REAL)scale_of[c];
}

/* The same of twelve bits. */
static void unpack_long_lines(const uint8_t *scale, const uint8_t *line, int channels, int count, const REAL *base, REAL *to) {
    const int whole = channels / 2 / LENGTH;
    int v = 0;
    for (; v + 2 <= whole; v += 2) unpack_columns(2, scale, line, channels, v * LENGTH, count, base, to);
    for (; v < whole; v++) unpack_columns(1, scale, line, channels, v * LENGTH, count, base, to);
    for (int i = 0; whole * LENGTH < (channels + 1) / 2 && i < count; i++, line += line_bytes(12, channels), base += channels, to += channels)
        unpack_rest(scale, line, channels, whole * LENGTH, base, to);
}

/* Lines [first, first + count) of a kernel, of which `channels` are the columns, as numbers. */
static void unpack_lines(const Kernel *kernel, int channels, ptrdiff_t first, int count, REAL *to) {
    const uint8_t *scale = kernel->at, *line = scale + packed_bytes(kernel->bits, first, channels);
    (kernel->bits == 8 ? unpack_short_lines : unpack_long_lines)(scale, line, channels, count, kernel->base + first * channels, to);
}

/* `multiply` by a packed kernel, part after part. `taps` have its base for a kernel. */
static void multiply_packed(const Tap *taps, int n_taps, int depth, int channels, const Kernel *kernel, const ptrdiff_t *begins, REAL *to,
                            const ptrdiff_t *ends, int count, Ahead *ahead) {
    REAL part[PART_BYTES / sizeof(REAL)] __attribute__((aligned(64)));
    const int most = PART_BYTES / (channels * (int)sizeof(REAL));
    for (int t = 0; t < n_taps; t++)
        for (int k = 0, now; k < depth; k += now) {
            const REAL *from = taps[t].kernel + (ptrdiff_t)k * channels;
            now = depth - k < most ? depth - k : most;
            unpack_lines(kernel, channels, (from - kernel->base) / channels, now, part);
            const Tap tap = {taps[t].from + k, part};
            multiply_further(&tap, 1, now, channels, begins, to, ends, count, ahead, t + k > 0);
        }
}

#endif
