/* Numbers in fixed point, read and written where they lie: what `models/packing.py` and `models/packed_weights.py` do with torch, to the last bit.
 *
 * A group is blocks of rows in 20 bits, packed as one: `scales`, then `upper` (int16), then `pairs` of lower four bits, those of the first half
 * of all numbers beside those of the second. A weight is lines in 8 or 12 bits, see packed.h.
 *
 * Compiled with -ffp-contract=off: a product that is not rounded before its sum would be another number than torch's.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "packed.h"

#define EXPORT __attribute__((visibility("default")))
#define TILE 32
#define INFINITE 0x7f800000 /* the bits of infinity: those of numbers are below, those of NaN above, the sign left out */
#define WITHOUT_SIGN 0x7fffffff

typedef int16_t unaligned_int16 __attribute__((aligned(1), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t float_bits __attribute__((may_alias));

/* Float32 rows in memory: a row's numbers are counted along three axes, the last one fastest. Strides are in numbers. */
typedef struct {
    float *numbers;
    int64_t n_rows, row, size[3], stride[3];
} Block;

/* A weight to pack: `lines` (n_lines, channels), which differ from `base`; the largest difference of each channel, which is found first; and how many
 * bits a number gets. */
typedef struct {
    const float *lines, *base;
    int64_t n_lines, channels;
    float *largest;
    int64_t bits;
    uint8_t *packed;
} Weight;

/* Blocks to pack as one, of which the first `n_base` numbers differ from `base`. */
typedef struct {
    const Block *blocks;
    int64_t n_blocks;
    const float *base;
    int64_t n_base;
    uint8_t *packed;
} Group;

/* Bytes that are as they were written: so many, behind the beginnings of what was written and of what is made. */
typedef struct {
    int64_t from, to, bytes;
} Copy;

/* So many numbers from a place on. */
typedef struct {
    int64_t begin, count;
} Run;

/* Where the parts of a group begin. */
typedef struct {
    int64_t n_numbers, half;
    uint8_t *scales, *upper, *pairs;
} Parts;

static int64_t columns(const Block *b) { return b->size[0] * b->size[1] * b->size[2]; }

static Parts find_parts(const Block *blocks, int n_blocks, uint8_t *packed) {
    int64_t n_rows = 0, n_numbers = 0;
    for (int i = 0; i < n_blocks; i++) n_rows += blocks[i].n_rows, n_numbers += blocks[i].n_rows * columns(&blocks[i]);
    uint8_t *upper = packed + 4 * n_rows;
    return (Parts){n_numbers, (n_numbers + 1) / 2, packed, upper, upper + 2 * n_numbers};
}

/* Memory for TILE rows of any block, and a row of integers behind them. */
static float *make_tile(const Block *blocks, int n_blocks) {
    int64_t most = 1;
    for (int i = 0; i < n_blocks; i++) most = columns(&blocks[i]) > most ? columns(&blocks[i]) : most;
    return malloc((TILE + 1) * most * sizeof(float));
}

/* `count` rows of a block from `first` on, between memory and the tile, where each is whole. */
INLINE void move_rows(const Block *b, int64_t first, int count, float *tile, const int outward) {
    const int64_t length = columns(b);
    int64_t column = 0;
    for (int64_t i = 0; i < b->size[0]; i++)
        for (int64_t j = 0; j < b->size[1]; j++)
            for (int64_t k = 0; k < b->size[2]; k++, column++) {
                float *from = b->numbers + first * b->row + i * b->stride[0] + j * b->stride[1] + k * b->stride[2];
                for (int r = 0; r < count; r++)
                    if (outward) from[r * b->row] = tile[r * length + column];
                    else tile[r * length + column] = from[r * b->row];
            }
}

static int is_whole(const Block *b) {
    return b->stride[2] == 1 && b->stride[1] == b->size[2] && b->stride[0] == b->size[1] * b->size[2];
}

static void read_rows(const Block *b, int64_t first, int count, float *tile) {
    if (is_whole(b))
        for (int r = 0; r < count; r++) memcpy(tile + r * columns(b), b->numbers + (first + r) * b->row, columns(b) * sizeof(float));
    else move_rows(b, first, count, tile, 0);
}

static void write_rows(const Block *b, int64_t first, int count, float *tile) {
    if (is_whole(b))
        for (int r = 0; r < count; r++) memcpy(b->numbers + (first + r) * b->row, tile + r * columns(b), columns(b) * sizeof(float));
    else move_rows(b, first, count, tile, 1);
}

/* How many numbers of a row that begins at `begin` have one of `n_base` to differ from. */
static int64_t count_moved(int64_t begin, int64_t length, int64_t n_base) {
    const int64_t left = n_base - begin;
    return left < 0 ? 0 : left < length ? left : length;
}

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

static void pack_row(const float *row, int64_t begin, int64_t length, int32_t *whole, uint8_t *scale, const Parts *to) {
    const float step = find_step(20, find_largest(row, length));
    memcpy(scale, &step, sizeof step);
    for (int64_t i = 0; i < length; i++) whole[i] = count_steps(row[i], step);
    for (int64_t i = 0; i < length; i++) ((unaligned_int16 *)to->upper)[begin + i] = (int16_t)(whole[i] >> 4);
    const int64_t until = count_moved(begin, length, to->half);
    for (int64_t i = 0; i < until; i++) to->pairs[begin + i] = whole[i] & 15;
    for (int64_t i = until; i < length; i++) to->pairs[begin + i - to->half] |= (uint8_t)(whole[i] << 4);
}

static void unpack_row(const Parts *from, int64_t begin, int64_t length, int32_t *whole, const uint8_t *scale, float *row) {
    const int64_t until = count_moved(begin, length, from->half);
    for (int64_t i = 0; i < until; i++) whole[i] = from->pairs[begin + i] & 15;
    for (int64_t i = until; i < length; i++) whole[i] = from->pairs[begin + i - from->half] >> 4;
    float step;
    memcpy(&step, scale, sizeof step);
    for (int64_t i = 0; i < length; i++) row[i] = (float)(((const unaligned_int16 *)from->upper)[begin + i] * 16 + whole[i]) * step;
}

/* `packed` from the blocks, of which the first `n_base` numbers are told as their difference from `base`. 0, or -1 without memory. */
EXPORT int pack(const Block *blocks, int n_blocks, const float *base, int64_t n_base, uint8_t *packed) {
    const Parts to = find_parts(blocks, n_blocks, packed);
    uint8_t *scale = to.scales;
    float *tile = make_tile(blocks, n_blocks);
    int64_t begin = 0;
    if (!tile) return -1;
    for (const Block *b = blocks; b < blocks + n_blocks; b++)
        for (int64_t first = 0, length = columns(b); first < b->n_rows; first += TILE) {
            const int count = b->n_rows - first < TILE ? (int)(b->n_rows - first) : TILE;
            read_rows(b, first, count, tile);
            for (int r = 0; r < count; r++, begin += length, scale += 4) {
                float *row = tile + r * length;
                for (int64_t i = 0, moved = count_moved(begin, length, n_base); i < moved; i++) row[i] -= base[begin + i];
                pack_row(row, begin, length, (int32_t *)(tile + TILE * length), scale, &to);
            }
        }
    free(tile);
    return 0;
}

/* The blocks from `packed`. 1 where every number is finite, 0 where one is not, -1 without memory. */
EXPORT int unpack(const Block *blocks, int n_blocks, const float *base, int64_t n_base, uint8_t *packed) {
    const Parts from = find_parts(blocks, n_blocks, packed);
    const uint8_t *scale = from.scales;
    float *tile = make_tile(blocks, n_blocks);
    int64_t begin = 0;
    int finite = 1;
    if (!tile) return -1;
    for (const Block *b = blocks; b < blocks + n_blocks; b++)
        for (int64_t first = 0, length = columns(b); first < b->n_rows; first += TILE) {
            const int count = b->n_rows - first < TILE ? (int)(b->n_rows - first) : TILE;
            for (int r = 0; r < count; r++, begin += length, scale += 4) {
                float *row = tile + r * length;
                unpack_row(&from, begin, length, (int32_t *)(tile + TILE * length), scale, row);
                for (int64_t i = 0, moved = count_moved(begin, length, n_base); i < moved; i++) row[i] += base[begin + i];
            }
            finite &= find_largest(tile, count * length) < INFINITE;
            write_rows(b, first, count, tile);
        }
    free(tile);
    return finite;
}

/* A scale of twelve bits, no smaller: see packed.h. */
static float shorten(float scale) {
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0xfff) & ~0xfffu;
    memcpy(&scale, &bits, sizeof bits);
    return scale;
}

/* The largest difference of each channel of `lines` (n_lines, channels), its sign left out; NaN where any is. */
EXPORT int measure_weight(const float *lines, const float *base, int64_t n_lines, int64_t channels, float *largest) {
    float_bits *most = (float_bits *)largest;
    memset(largest, 0, channels * sizeof *largest);
    for (int64_t line = 0; line < n_lines; line++, lines += channels, base += channels)
        for (int64_t c = 0; c < channels; c++) {
            const float moved = lines[c] - base[c];
            int32_t bits;
            memcpy(&bits, &moved, sizeof bits);
            bits &= WITHOUT_SIGN;
            most[c] = bits > most[c] ? bits : most[c];
        }
    return 0;
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

/* `packed` from `lines` (n_lines, channels), which differ from `base` by `largest` at most. 0, or -1 without memory. */
EXPORT int pack_weight(const float *lines, const float *base, int64_t n_lines, int64_t channels, float *largest, int bits, uint8_t *packed) {
    return pack_one(&(Weight){lines, base, n_lines, channels, largest, bits, packed});
}

/* `lines` (n_lines, channels) from `packed`. */
EXPORT int unpack_weight(const uint8_t *packed, const float *base, int64_t n_lines, int64_t channels, int bits, float *lines) {
    unpack_lines(&(Kernel){packed, base, bits}, (int)channels, 0, (int)n_lines, lines);
    return 0;
}

/* The largest differences of all of them. */
EXPORT int measure_all(const Weight *weights, int n_weights) {
    for (const Weight *w = weights; w < weights + n_weights; w++) measure_weight(w->lines, w->base, w->n_lines, w->channels, w->largest);
    return 0;
}

/* All of them, of many states. 0, or -1 without memory. */
EXPORT int pack_all(const Weight *weights, int n_weights, const Group *groups, int n_groups) {
    int failed = 0;
    for (const Weight *w = weights; w < weights + n_weights; w++) failed |= pack_one(w);
    for (const Group *g = groups; g < groups + n_groups; g++) failed |= pack(g->blocks, (int)g->n_blocks, g->base, g->n_base, g->packed);
    return failed;
}

/* A state's `to` from its bytes, as far as these need no unpacking: `copies`, and bytes that are one (`ones`). 0 where a scale is among `scales` (in
 * `from`) with which a number could be infinite, or which is none; else 1. */
EXPORT int bring_back(const uint8_t *from, uint8_t *to, const Copy *copies, int n_copies, const Run *ones, int n_ones, const Run *scales,
                      int n_scales) {
    int finite = 1;
    for (int i = 0; i < n_copies; i++) memcpy(to + copies[i].to, from + copies[i].from, copies[i].bytes);
    for (int i = 0; i < n_ones; i++) memset(to + ones[i].begin, 1, ones[i].count);
    for (int i = 0; i < n_scales; i++)
        for (int64_t c = 0; c < scales[i].count; c++)
            finite &= fabsf(((const unaligned_float *)(from + scales[i].begin))[c]) <= FLT_MAX / 4096;
    return finite;
}
