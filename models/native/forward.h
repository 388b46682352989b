/* The features of a lane's examples, and the trace of how they came about. */
#ifndef FORWARD_H
#define FORWARD_H

#include <math.h>

#include "network.h"
#include "packed.h"
#include "squares.h"
#include "strips.h"

#define EPSILON ((REAL)1e-5)

/* Sums of each channel over a map: of value - centre, or of its square. Row by row, since a long sum rounds more. */
INLINE void sum_rows(const int squares, const int wide, int c, const Block *b, const REAL *map, const REAL *centre, REAL *total) {
    Strip of_map = {0}, middle;
    load_strip(wide, centre + c, middle);
    for (int y = 0; y < b->height; y++) {
        Strip of_row = {0};
        for (int x = 0; x < b->width; x++, map += b->c_out)
            UNROLL for (int v = 0; v < wide; v++) {
                vector off = load(map + c + v * LENGTH) - middle[v];
                if (squares) off *= off;
                of_row[v] += off;
            }
        UNROLL for (int v = 0; v < wide; v++) of_map[v] += of_row[v];
    }
    store_strip(wide, of_map, total + c);
}

/* Mean and one over the deviation of each group of an example's channels, over all its places. */
static void find_statistics(const Block *b, const REAL *sums, REAL *mean, REAL *rstd) {
    REAL total[MAX_CHANNELS], centre[MAX_CHANNELS] = {0};
    BY_STRIP(0, b->c_out, sum_rows, b, sums, centre, total)
    average_groups(b, total, mean);
    spread_groups(b, mean, centre);
    BY_STRIP(1, b->c_out, sum_rows, b, sums, centre, total)
    average_groups(b, total, rstd);
    for (int g = 0; g < b->groups; g++) rstd[g] = 1 / (REAL)sqrt(rstd[g] + EPSILON);
}

/* Normalisation, scale and shift as one: result = sum * slope + level, a number of each a channel. */
static void find_affine(const Block *b, const REAL *mean, const REAL *rstd, const REAL *scale, const REAL *shift, REAL *slope, REAL *level) {
    for (int c = 0; c < b->c_out; c++) slope[c] = scale[c], level[c] = shift[c];
    if (!b->groups) return;
    REAL centre[MAX_CHANNELS], spread[MAX_CHANNELS];
    spread_groups(b, mean, centre);
    spread_groups(b, rstd, spread);
    for (int c = 0; c < b->c_out; c++) slope[c] = scale[c] * spread[c], level[c] = shift[c] - centre[c] * slope[c];
}

/* ReLU of the affine; what is not a number stays so. Of four pooled places the largest, the first of equal ones; `chosen` says which. */
INLINE void activate(const int pools, const int wide, int c, const Block *b, const REAL *sums, const REAL *slope, const REAL *level, Map to,
                     Choice *chosen) {
    const ptrdiff_t row = (ptrdiff_t)b->width * b->c_out;
    Strip factor, summand;
    load_strip(wide, slope + c, factor), load_strip(wide, level + c, summand);
    for (int y = 0; y < out_height(b); y++)
        for (int x = 0; x < out_width(b); x++, chosen += b->c_out) {
            const REAL *corner = sums + (1 + pools) * (y * row + x * b->c_out) + c;
            REAL *out = to.at + y * to.row + x * to.place + c;
            UNROLL for (int v = 0; v < wide; v++, corner += LENGTH) {
                vector best = load(corner) * factor[v] + summand[v];
                choices which = {0};
                UNROLL for (int p = 1; pools && p < 4; p++) {
                    const vector value = load(corner + (p / 2) * row + (p % 2) * b->c_out) * factor[v] + summand[v];
                    const choices better = (value > best) | (value != value);
                    best = (vector)pick(better, (choices)value, (choices)best), which = pick(better, (choices){0} + p, which);
                }
                *(vector *)(out + v * LENGTH) = (vector)(~(best < 0) & (choices)best);
                if (pools) *(choices *)(chosen + c + v * LENGTH) = which;
            }
        }
}

/* Calls `pass(pools, wide, c, ...)` for all strips of a block's channels. */
#define BY_POOLING(block, pass, ...)                          \
    if ((block)->pools)                                       \
        BY_STRIP(1, (block)->c_out, pass, __VA_ARGS__)        \
    else                                                      \
        BY_STRIP(0, (block)->c_out, pass, __VA_ARGS__)

static void normalise_and_activate(const Layout *l, const REAL *const *params, REAL *trace, int b, int first, int next) {
    const Block *block = &l->blocks[b];
    REAL slope[MAX_CHANNELS], level[MAX_CHANNELS];
    for (int e = first; e < next; e++) {
        const REAL *sums = trace + l->sums[b] + e * sums_size(block);
        REAL *mean = trace + l->mean[b] + (ptrdiff_t)e * block->groups, *rstd = trace + l->rstd[b] + (ptrdiff_t)e * block->groups;
        if (block->groups) find_statistics(block, sums, mean, rstd);
        find_affine(block, mean, rstd, SCALE(params, b), SHIFT(params, b), slope, level);
        if (b + 1 < l->n_blocks) clear_border(&l->blocks[b + 1], trace + l->input[b + 1] + e * input_size(&l->blocks[b + 1]));
        const Map to = out_map(l, trace, b, e);
        Choice *chosen = (Choice *)(trace + l->chosen[b]) + e * out_size(block);
        BY_POOLING(block, activate, block, sums, slope, level, to, chosen)
    }
}

/* Examples of a block that are convolved and normalised before the next ones: as many as half of a usual second cache holds. */
static int choose_portion(const Block *b) {
    const ptrdiff_t fit = ((ptrdiff_t)512 << 10) / (ptrdiff_t)(sums_size(b) * sizeof(REAL));
    return fit < 1 ? 1 : (int)fit;
}

/* The sums of examples [first, next) of a block: by squares where the caller has room for these. */
static void convolve(const Layout *l, const Kernel *kernel, REAL *trace, int b, int first, int next, const ptrdiff_t *begins,
                     const ptrdiff_t *ends, Ahead *ahead, const Room *room) {
    const Block *block = &l->blocks[b];
    const int squares = count_squares(block), count = (next - first) * block->height * block->width;
    REAL *input = trace + l->input[b], *sums = trace + l->sums[b];
    if (room && goes_by_squares(l, b)) {
        convolve_squares(block, input, block->c_in, kernel_points(block, room), first * squares, next * squares, sums, block->c_out, room);
        return;
    }
    Tap taps[3];
    const int n_taps = window_taps(block, input + first * input_size(block), kernel->base ? kernel->base : kernel->at, taps);
    sums += first * sums_size(block);
    if (kernel->base) multiply_packed(taps, n_taps, 3 * block->c_in, block->c_out, kernel, begins, sums, ends, count, ahead);
    else multiply(taps, n_taps, 3 * block->c_in, block->c_out, begins, sums, ends, count, ahead);
}

/* What packed kernels of a lane differ from, NULL for each that is not packed; and how many bits their numbers have. */
typedef struct {
    const REAL *const *bases;
    int bits;
} Packing;

/* Blocks of examples [first, next) of a lane. packing: NULL where no kernel is packed; places: room for two numbers a place of the largest block;
 * ahead: what to fetch meanwhile; room: that for squares, or NULL for the direct way. */
static void run_blocks(const Layout *l, const REAL *const *params, const Packing *packing, REAL *trace, int first, int next, ptrdiff_t *places,
                       Ahead *ahead, const Room *room) {
    for (int b = 0; b < l->n_blocks; b++) {
        const Block *block = &l->blocks[b];
        const Kernel kernel = {KERNEL(params, b), packing ? packing->bases[b] : NULL, packing ? packing->bits : 0};
        const int many = next - first < choose_portion(block) ? next - first : choose_portion(block);
        ptrdiff_t *ends = places + (ptrdiff_t)many * block->height * block->width;
        if (room && goes_by_squares(l, b))
            bring_kernel(block, KERNEL(params, b), kernel_points(block, room));
        else
            window_places(block, many, places, ends);
        for (int e = first; e < next; e += many) {
            const int until = next - e < many ? next : e + many;
            convolve(l, &kernel, trace, b, e, until, places, ends, ahead, room);
            normalise_and_activate(l, params, trace, b, e, until);
        }
    }
}

/* What left the last block, as features (n, c * h * w): channels first, as everybody flattens maps. */
static void read_features(const Layout *l, const REAL *out, REAL *features, int first, int next) {
    const Block *b = last_block(l);
    const int places = out_height(b) * out_width(b);
    for (int e = first; e < next; e++)
        for (int p = 0; p < places; p++)
            for (int c = 0; c < b->c_out; c++)
                features[e * out_size(b) + (ptrdiff_t)c * places + p] = out[e * out_size(b) + (ptrdiff_t)p * b->c_out + c];
}

#endif
