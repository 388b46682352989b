/* Passes over maps that keep what they need of each channel in registers: so many vectors of channels at a time are a strip. */
#ifndef STRIPS_H
#define STRIPS_H

#include "tiles.h"

#define STRIP 4

typedef vector Strip[STRIP];

INLINE vector load(const REAL *from) { return *(const vector *)from; }

INLINE void load_strip(const int wide, const REAL *from, Strip to) {
    UNROLL for (int v = 0; v < wide; v++) to[v] = load(from + v * LENGTH);
}

INLINE void store_strip(const int wide, const Strip from, REAL *to) {
    UNROLL for (int v = 0; v < wide; v++) *(vector *)(to + v * LENGTH) = from[v];
}

/* `yes` where all bits of `mask` are set, `no` where none is. */
INLINE choices pick(choices mask, choices yes, choices no) { return (mask & yes) | (~mask & no); }

/* Calls `pass(option, wide, c, ...)` for all strips of so many channels, c being the first of a strip; option and width are known to the compiler. */
#define BY_STRIP(option, channels, pass, ...)                                             \
    for (int strip_left = (channels) / LENGTH, strip_wide; strip_left > 0; strip_left -= strip_wide) { \
        const int strip_first = (channels) - strip_left * LENGTH;                         \
        strip_wide = strip_left >= STRIP ? STRIP : strip_left >= 2 ? 2 : 1;               \
        switch (strip_wide) {                                                             \
        case 1: pass(option, 1, strip_first, __VA_ARGS__); break;                         \
        case 2: pass(option, 2, strip_first, __VA_ARGS__); break;                         \
        default: pass(option, STRIP, strip_first, __VA_ARGS__);                           \
        }                                                                                 \
    }

#endif
