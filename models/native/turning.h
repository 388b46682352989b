/* Kernels turned round, so that what the way back adds up lies in rows. */
#ifndef TURNING_H
#define TURNING_H

#include "network.h"

/* A square of vectors, rows `pitch` apart, with rows and columns exchanged: each round shuffles the first half like cards into the second. */
INLINE void transpose_square(const REAL *from, ptrdiff_t pitch, REAL *to, ptrdiff_t to_pitch) {
    vector rows[LENGTH], shuffled[LENGTH];
    choices low, high;
#pragma GCC unroll 16
    for (int i = 0; i < LENGTH; i++) low[i] = i / 2 + i % 2 * LENGTH, high[i] = low[i] + LENGTH / 2;
#pragma GCC unroll 16
    for (int i = 0; i < LENGTH; i++) rows[i] = *(const vector *)(from + i * pitch);
#pragma GCC unroll 4
    for (int round = 1; round < LENGTH; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LENGTH / 2; i++) {
            shuffled[2 * i] = SHUFFLE(rows[i], rows[i + LENGTH / 2], low);
            shuffled[2 * i + 1] = SHUFFLE(rows[i], rows[i + LENGTH / 2], high);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LENGTH; i++) rows[i] = shuffled[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LENGTH; i++) *(vector *)(to + i * to_pitch) = rows[i];
}

/* Taps [first, next) of (9, c_in, c_out) as (9, c_out, c_in). */
static void turn_kernel(const Block *b, const REAL *kernel, REAL *turned, int first, int next) {
    for (ptrdiff_t tap = first, at = tap * b->c_in * b->c_out; tap < next; tap++, at += (ptrdiff_t)b->c_in * b->c_out)
        for (int i = 0; i < b->c_in; i += LENGTH)
            for (int o = 0; o < b->c_out; o += LENGTH)
                transpose_square(kernel + at + (ptrdiff_t)i * b->c_out + o, b->c_out, turned + at + (ptrdiff_t)o * b->c_in + i, b->c_in);
}

#endif
