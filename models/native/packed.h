/* Kernels in twelve bits a number, multiplied with where they lie: what an adapted state holds, and `models/packed_weights.py` explains.
 *
 * A kernel (lines, channels) is a float32 scale for each channel, then its lines: the upper eight bits of each number, and the lower four, those
 * of the first half of the channels beside those of the second. A number is base + steps * scale, where `base` is the meta-parameters'.
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

static ptrdiff_t line_bytes(int channels) { return channels + (channels + 1) / 2; }
static ptrdiff_t packed_bytes(ptrdiff_t lines, int channels) { return channels * (ptrdiff_t)sizeof(float) + lines * line_bytes(channels); }

/* A product is exact: steps and scale have twelve bits each. So it is the same number whether or not it is rounded before its sum. */
INLINE vector unpack_vector(upper_bits upper, lower_bits lower, vector scale, const REAL *base) {
    IN_REGISTER(upper);
    const whole_numbers steps = __builtin_convertvector(upper, whole_numbers) * 16 + __builtin_convertvector(lower, whole_numbers);
    return *(const vector *)base + __builtin_convertvector(steps, vector) * scale;
}

/* Columns [first, first + wide * LENGTH) of both halves of `count` lines: numbers whose lower bits share their bytes. */
INLINE void unpack_columns(const int wide, const uint8_t *scale, const uint8_t *line, int channels, int first, int count, const REAL *base, REAL *to) {
    const int half = (channels + 1) / 2;
    const ptrdiff_t bytes = line_bytes(channels), ahead = count * bytes;
    vector left[2], right[2];
    UNROLL for (int v = 0; v < wide; v++) {
        const uint8_t *from = scale + sizeof(float) * (first + v * LENGTH);
        left[v] = __builtin_convertvector(*(const scales *)from, vector);
        right[v] = __builtin_convertvector(*(const scales *)(from + sizeof(float) * half), vector);
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

/* Lines [first, first + count) of a kernel; `base` and `to` begin with the first of them. */
static void unpack_lines(const void *kernel, int channels, ptrdiff_t first, int count, const REAL *base, REAL *to) {
    const uint8_t *line = (const uint8_t *)kernel + packed_bytes(first, channels);
    const int whole = channels / 2 / LENGTH;
    int v = 0;
    for (; v + 2 <= whole; v += 2) unpack_columns(2, kernel, line, channels, v * LENGTH, count, base, to);
    for (; v < whole; v++) unpack_columns(1, kernel, line, channels, v * LENGTH, count, base, to);
    for (int i = 0; whole * LENGTH < (channels + 1) / 2 && i < count; i++)
        unpack_rest(kernel, line + i * line_bytes(channels), channels, whole * LENGTH, base + (ptrdiff_t)i * channels, to + (ptrdiff_t)i * channels);
}

/* `multiply` by a packed kernel, part after part. `taps` have the base for a kernel, which begins at `base`. */
static void multiply_packed(const Tap *taps, int n_taps, int depth, int channels, const void *kernel, const REAL *base, const ptrdiff_t *begins,
                            REAL *to, const ptrdiff_t *ends, int count, Ahead *ahead) {
    REAL part[PART_BYTES / sizeof(REAL)] __attribute__((aligned(64)));
    const int most = PART_BYTES / (channels * (int)sizeof(REAL));
    for (int t = 0; t < n_taps; t++)
        for (int k = 0, now; k < depth; k += now) {
            const REAL *from = taps[t].kernel + (ptrdiff_t)k * channels;
            now = depth - k < most ? depth - k : most;
            unpack_lines(kernel, channels, (from - base) / channels, now, from, part);
            const Tap tap = {taps[t].from + k, part};
            multiply_further(&tap, 1, now, channels, begins, to, ends, count, ahead, t + k > 0);
        }
}

#endif
