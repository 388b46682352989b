/* The features of a lane's examples, and the trace of how they came about. */
#ifndef FORWARD_H
#define FORWARD_H

#include <math.h>

#include "network.h"

#define EPSILON ((REAL)1e-5)

/* Adds a row of the map to the sums of each channel: (value - centre), or its square. Row by row, since a long sum rounds more. */
INLINE void add_row(const Block *b, const REAL *row, const REAL *centre, const int squares, REAL *total) {
    REAL of_row[MAX_CHANNELS] = {0};
    for (int x = 0; x < b->width; x++, row += b->c_out)
        for (int c = 0; c < b->c_out; c++) {
            const REAL off = row[c] - centre[c];
            of_row[c] += squares ? off * off : off;
        }
    for (int c = 0; c < b->c_out; c++) total[c] += of_row[c];
}

/* Mean and one over the deviation of each group of an example's channels, over all its places. */
static void find_statistics(const Block *b, const REAL *sums, REAL *mean, REAL *rstd) {
    const ptrdiff_t row = (ptrdiff_t)b->width * b->c_out;
    REAL total[MAX_CHANNELS] = {0}, square[MAX_CHANNELS] = {0}, centre[MAX_CHANNELS] = {0};
    for (int y = 0; y < b->height; y++) add_row(b, sums + y * row, centre, 0, total);
    average_groups(b, total, mean);
    spread_groups(b, mean, centre);
    for (int y = 0; y < b->height; y++) add_row(b, sums + y * row, centre, 1, square);
    average_groups(b, square, rstd);
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

/* ReLU of the affine; what is not a number stays so. */
static void activate(const Block *b, const REAL *sums, const REAL *slope, const REAL *level, Map to) {
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out) {
            REAL *out = to.at + y * to.row + x * to.place;
            for (int c = 0; c < b->c_out; c++) {
                const REAL value = sums[c] * slope[c] + level[c];
                out[c] = value < 0 ? 0 : value;
            }
        }
}

/* `yes` where all bits of `mask` are set, `no` where none is. */
INLINE choices pick(choices mask, choices yes, choices no) { return (mask & yes) | (~mask & no); }

/* The same of the largest of four places, the first of equal ones; `chosen` says which. */
static void activate_pooled(const Block *b, const REAL *sums, const REAL *slope, const REAL *level, Map to, Choice *chosen) {
    const ptrdiff_t place = b->c_out, row = (ptrdiff_t)b->width * b->c_out;
    for (int y = 0; y < b->height / 2; y++)
        for (int x = 0; x < b->width / 2; x++, chosen += b->c_out) {
            const REAL *corner = sums + 2 * (y * row + x * place);
            REAL *out = to.at + y * to.row + x * to.place;
            for (int c = 0; c < b->c_out; c += LENGTH) {
                const vector factor = *(const vector *)(slope + c), summand = *(const vector *)(level + c);
                vector best = *(const vector *)(corner + c) * factor + summand;
                choices which = {0};
                for (int p = 1; p < 4; p++) {
                    const vector value = *(const vector *)(corner + (p / 2) * row + (p % 2) * place + c) * factor + summand;
                    const choices better = (value > best) | (value != value);
                    best = (vector)pick(better, (choices)value, (choices)best), which = pick(better, (choices){0} + p, which);
                }
                *(vector *)(out + c) = (vector)pick(best < 0, (choices){0}, (choices)best), *(choices *)(chosen + c) = which;
            }
        }
}

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
        if (block->pools)
            activate_pooled(block, sums, slope, level, to, (Choice *)(trace + l->chosen[b]) + e * out_size(block));
        else
            activate(block, sums, slope, level, to);
    }
}

/* Examples of a block that are convolved and normalised before the next ones: as many as half of a usual second cache holds. */
static int choose_portion(const Block *b) {
    const ptrdiff_t fit = ((ptrdiff_t)512 << 10) / (ptrdiff_t)(sums_size(b) * sizeof(REAL));
    return fit < 1 ? 1 : (int)fit;
}

/* Blocks of examples [first, next) of a lane. places: room for two numbers a place of the largest block; ahead: what to fetch meanwhile. */
static void run_blocks(const Layout *l, const REAL *const *params, REAL *trace, int first, int next, ptrdiff_t *places, Ahead *ahead) {
    for (int b = 0; b < l->n_blocks; b++) {
        const Block *block = &l->blocks[b];
        const int many = next - first < choose_portion(block) ? next - first : choose_portion(block);
        ptrdiff_t *ends = places + (ptrdiff_t)many * block->height * block->width;
        Tap taps[3];
        window_places(block, many, places, ends);
        for (int e = first; e < next; e += many) {
            const int now = next - e < many ? next - e : many;
            const int n_taps = window_taps(block, trace + l->input[b] + e * input_size(block), KERNEL(params, b), taps);
            multiply(taps, n_taps, 3 * block->c_in, block->c_out, places, trace + l->sums[b] + e * sums_size(block), ends,
                     now * block->height * block->width, ahead);
            normalise_and_activate(l, params, trace, b, e, e + now);
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
