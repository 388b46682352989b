/* Numbers in fixed point, read and written where they lie: what `models/packing.py` and `models/packed_weights.py` do with torch, to the last bit.
 *
 * A group is blocks of rows in 20 bits, packed as one: `scales`, then `upper` (int16), then `pairs` of lower four bits, those of the first half
 * of all numbers beside those of the second. A weight is lines in 8 or 12 bits, see packed.h.
 *
 * Compiled with -ffp-contract=off: a product that is not rounded before its sum would be another number than torch's.
 */
#include "weights.h"

#define EXPORT __attribute__((visibility("default")))
#define TILE 32

typedef int16_t unaligned_int16 __attribute__((aligned(1), may_alias));

/* Float32 rows in memory: a row's numbers are counted along three axes, the last one fastest. Strides are in numbers. */
typedef struct {
    float *numbers;
    int64_t n_rows, row, size[3], stride[3];
} Block;

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

/* What becomes of a state's bytes: `copies`; bytes that are one; and numbers in 20 bits from `fine` on, whose blocks are told as behind the
 * beginning of what is made. scales: those of packed weights, in what was written. */
typedef struct {
    const Copy *copies;
    int64_t n_copies;
    const Run *ones;
    int64_t n_ones;
    const Run *scales;
    int64_t n_scales;
    const Block *blocks;
    int64_t n_blocks;
    const float *base;
    int64_t n_base, fine;
} Moves;

/* Where the parts of a group begin. */
typedef struct {
    int64_t n_numbers, half;
    uint8_t *scales, *upper, *pairs;
} Parts;

static int64_t columns(const Block *b) { return b->size[0] * b->size[1] * b->size[2]; }

static Parts find_parts(const Block *blocks, int n_blocks, const uint8_t *from) {
    int64_t n_rows = 0, n_numbers = 0;
    for (int i = 0; i < n_blocks; i++) n_rows += blocks[i].n_rows, n_numbers += blocks[i].n_rows * columns(&blocks[i]);
    uint8_t *packed = (uint8_t *)from, *upper = packed + 4 * n_rows;
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

/* The blocks, told as behind `memory`, from `packed`. 1 where every number is finite, 0 where one is not, -1 without memory. */
EXPORT int unpack(const Block *blocks, int n_blocks, const float *base, int64_t n_base, const uint8_t *packed, uint8_t *memory) {
    const Parts from = find_parts(blocks, n_blocks, packed);
    const uint8_t *scale = from.scales;
    float *tile = make_tile(blocks, n_blocks);
    int64_t begin = 0;
    int finite = 1;
    if (!tile) return -1;
    for (const Block *b = blocks; b < blocks + n_blocks; b++) {
        Block placed = *b;
        placed.numbers = (float *)(memory + (intptr_t)b->numbers);
        for (int64_t first = 0, length = columns(b); first < b->n_rows; first += TILE) {
            const int count = b->n_rows - first < TILE ? (int)(b->n_rows - first) : TILE;
            for (int r = 0; r < count; r++, begin += length, scale += 4) {
                float *row = tile + r * length;
                unpack_row(&from, begin, length, (int32_t *)(tile + TILE * length), scale, row);
                for (int64_t i = 0, moved = count_moved(begin, length, n_base); i < moved; i++) row[i] += base[begin + i];
            }
            finite &= find_largest(tile, count * length) < INFINITE;
            write_rows(&placed, first, count, tile);
        }
    }
    free(tile);
    return finite;
}

/* The largest difference of each channel of `lines` (n_lines, channels), its sign left out; NaN where any is. */
EXPORT int measure_weight(const float *lines, const float *base, int64_t n_lines, int64_t channels, float *largest) {
    measure_one(&(Weight){lines, base, n_lines, channels, largest});
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
    for (const Weight *w = weights; w < weights + n_weights; w++) measure_one(w);
    return 0;
}

/* All of them, of many states. 0, or -1 without memory. */
EXPORT int pack_all(const Weight *weights, int n_weights, const Group *groups, int n_groups) {
    int failed = 0;
    for (const Weight *w = weights; w < weights + n_weights; w++) failed |= pack_one(w);
    for (const Group *g = groups; g < groups + n_groups; g++) failed |= pack(g->blocks, (int)g->n_blocks, g->base, g->n_base, g->packed);
    return failed;
}

/* A state's `to` from its bytes. 1, or 0 where a number is not finite, or a scale is among `scales` with which one could be infinite, or which is
 * none; -1 without memory. */
EXPORT int bring_back(const uint8_t *from, uint8_t *to, const Moves *m) {
    int finite = 1;
    for (const Copy *each = m->copies; each < m->copies + m->n_copies; each++) memcpy(to + each->to, from + each->from, each->bytes);
    for (const Run *each = m->ones; each < m->ones + m->n_ones; each++) memset(to + each->begin, 1, each->count);
    for (const Run *each = m->scales; each < m->scales + m->n_scales; each++)
        for (int64_t c = 0; c < each->count; c++)
            finite &= fabsf(((const unaligned_float *)(from + each->begin))[c]) <= FLT_MAX / 4096;
    const int unpacked = unpack(m->blocks, (int)m->n_blocks, m->base, m->n_base, from + m->fine, to);
    return unpacked < 0 ? unpacked : unpacked & finite;
}
