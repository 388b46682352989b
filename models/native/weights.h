/* Fixed point: what numbers are counted in, and weights in 8 or 12 bits a number (packed.h), measured and packed. */
#ifndef WEIGHTS_H
#define WEIGHTS_H

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "packed.h"

#define INFINITE 0x7f800000 /* the bits of infinity: those of numbers are below, those of NaN above, the sign left out */
#define WITHOUT_SIGN 0x7fffffff

typedef int32_t float_bits __attribute__((may_alias));

/* A weight to pack: `lines` (n_lines, channels), which differ from `base`; the largest difference of each channel, which is found first; and how many
 * bits a number gets. */
typedef struct {
    const float *lines, *base;
    int64_t n_lines, channels;
    float *largest;
    int64_t bits;
    uint8_t *packed;
} Weight;

/* The bits of the largest number, its sign left out: they are ordered as the numbers are. */
static int32_t find_largest(const float *row, int64_t length) {
    int32_t largest = 0;
    for (int64_t i = 0; i < length; i++) {
        const int32_t bits = ((const float_bits *)row)[i] & WITHOUT_SIGN;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* What numbers are counted in, so that the largest is the largest integer of so many bits; NaN, always the same one, where any number is. */
static float find_step(const int bits, int32_t largest) {
    float found;
    memcpy(&found, &largest, sizeof found);
    found = largest > INFINITE ? NAN : found / (float)((1 << (bits - 1)) - 1);
    return found < FLT_MIN ? FLT_MIN : found;
}

static int32_t count_steps(float number, float step) {
    const float steps = number / step;
    return steps == steps ? (int32_t)rintf(steps) : 0;
}

/* A scale of twelve bits, no smaller: see packed.h. */
static float shorten(float scale) {
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0xfff) & ~0xfffu;
    memcpy(&scale, &bits, sizeof bits);
    return scale;
}

/* The largest difference of each channel, its sign left out; NaN where any is. */
static void measure_one(const Weight *w) {
    const float *lines = w->lines, *base = w->base;
    float_bits *most = (float_bits *)w->largest;
    memset(most, 0, w->channels * sizeof *most);
    for (int64_t line = 0; line < w->n_lines; line++, lines += w->channels, base += w->channels)
        for (int64_t c = 0; c < w->channels; c++) {
            const float moved = lines[c] - base[c];
            int32_t bits;
            memcpy(&bits, &moved, sizeof bits);
            bits &= WITHOUT_SIGN;
            most[c] = bits > most[c] ? bits : most[c];
        }
}

/* One line of `whole` numbers. */
static void write_line(const int bits, const int32_t *whole, int64_t channels, uint8_t *line) {
    const int64_t half = (channels + 1) / 2;
    for (int64_t c = 0; c < channels; c++) line[c] = (uint8_t)(bits == 8 ? whole[c] : whole[c] >> 4);
    if (bits == 8) return;
    uint8_t *pairs = line + channels;
    for (int64_t c = 0; c < half; c++) pairs[c] = whole[c] & 15;
    for (int64_t c = half; c < channels; c++) pairs[c - half] |= (uint8_t)(whole[c] << 4);
}

/* `packed` from a weight whose largest differences are there. 0, or -1 without memory. */
static int pack_one(const Weight *w) {
    const int64_t channels = w->channels;
    const int bits = (int)w->bits;
    int32_t *whole = malloc(channels * (sizeof(int32_t) + sizeof(float)));
    float *scales = (float *)(whole + channels);
    if (!whole) return -1;
    for (int64_t c = 0; c < channels; c++) scales[c] = shorten(find_step(bits, ((const float_bits *)w->largest)[c]));
    memcpy(w->packed, scales, channels * sizeof *scales);
    uint8_t *line = w->packed + channels * sizeof *scales;
    for (int64_t i = 0; i < w->n_lines; i++, line += line_bytes(bits, (int)channels)) {
        const float *from = w->lines + i * channels, *base = w->base + i * channels;
        for (int64_t c = 0; c < channels; c++) whole[c] = count_steps(from[c] - base[c], scales[c]);
        write_line(bits, whole, channels, line);
    }
    free(whole);
    return 0;
}

#endif
