/* The network: four (or fewer) blocks of 3x3 convolution, normalisation in groups of channels, ReLU, and perhaps 2x2 pooling.
 *
 * Maps lie channels last. Those a convolution reads have the zeros around them that its windows reach; `Layout` says where each map of
 * a lane lies in the lane's trace, which one pass writes and the passes back read.
 */
#ifndef NETWORK_H
#define NETWORK_H

#include <string.h>

#include "tiles.h"

#define MAX_BLOCKS 8
#define MAX_CHANNELS 512

/* A convolution from `c_in` maps of height_in x width_in to `c_out` of height x width; `groups` of 0: no normalisation. */
typedef struct {
    int stride, height_in, width_in, height, width, c_in, c_out, groups, pools;
} Block;

/* Where a lane's n examples lie in its trace, counted in REALs; and how large they and the scratch of a pass back are.
 * input: of each block, padded. sums: the convolution's results. mean, rstd: (n, groups). chosen: of each pooled place the one of four.
 */
typedef struct {
    int n, n_blocks;
    const Block *blocks;
    ptrdiff_t input[MAX_BLOCKS], sums[MAX_BLOCKS], mean[MAX_BLOCKS], rstd[MAX_BLOCKS], chosen[MAX_BLOCKS], out, size;
} Layout;

static int padded_height(const Block *b) { return b->stride * b->height + 3 - b->stride; }
static int padded_width(const Block *b) { return b->stride * b->width + 3 - b->stride; }
static int out_height(const Block *b) { return b->pools ? b->height / 2 : b->height; }
static int out_width(const Block *b) { return b->pools ? b->width / 2 : b->width; }
static ptrdiff_t image_size(const Block *b) { return (ptrdiff_t)b->height_in * b->width_in * b->c_in; }
static ptrdiff_t input_size(const Block *b) { return (ptrdiff_t)padded_height(b) * padded_width(b) * b->c_in; }
static ptrdiff_t sums_size(const Block *b) { return (ptrdiff_t)b->height * b->width * b->c_out; }
static ptrdiff_t out_size(const Block *b) { return (ptrdiff_t)out_height(b) * out_width(b) * b->c_out; }

static const Block *last_block(const Layout *l) { return &l->blocks[l->n_blocks - 1]; }

static ptrdiff_t take(ptrdiff_t *size, ptrdiff_t count) {
    const ptrdiff_t begin = *size;
    *size += (count + 15) / 16 * 16;
    return begin;
}

static Layout lay_out(const Block *blocks, int n_blocks, int n) {
    Layout l = {.n = n, .n_blocks = n_blocks, .blocks = blocks};
    for (int b = 0; b < n_blocks; b++) {
        l.input[b] = take(&l.size, n * input_size(&blocks[b]));
        l.sums[b] = take(&l.size, n * sums_size(&blocks[b]));
        l.mean[b] = take(&l.size, (ptrdiff_t)n * blocks[b].groups);
        l.rstd[b] = take(&l.size, (ptrdiff_t)n * blocks[b].groups);
        l.chosen[b] = take(&l.size, blocks[b].pools ? n * out_size(&blocks[b]) : 0);
    }
    l.out = take(&l.size, n * out_size(&blocks[n_blocks - 1]));
    return l;
}

/* A map of one example somewhere in memory: its first place, and how far rows and places are apart. */
typedef struct {
    REAL *at;
    ptrdiff_t row, place;
} Map;

/* Where what leaves block b of an example lies in a trace: inside the next block's padded input, or at the end. */
static Map out_map(const Layout *l, REAL *trace, int b, int example) {
    const Block *block = &l->blocks[b];
    if (b + 1 == l->n_blocks) return (Map){trace + l->out + example * out_size(block), (ptrdiff_t)out_width(block) * block->c_out, block->c_out};
    const Block *next = &l->blocks[b + 1];
    const ptrdiff_t row = (ptrdiff_t)padded_width(next) * next->c_in;
    return (Map){trace + l->input[b + 1] + example * input_size(next) + row + next->c_in, row, next->c_in};
}

/* Of a pass back that keeps the gradients in the inputs of all blocks but the first: where that in the input of
 * block b lies; for n_blocks how many numbers these are. */
static ptrdiff_t kept_place(const Layout *l, int b) {
    ptrdiff_t place = 0;
    for (int before = 1; before < b; before++) place += l->n * out_size(&l->blocks[before - 1]);
    return place;
}

/* The three rows of the windows over padded `input`: each is one run of memory, and so is its part of the kernel (9 * c_in, c_out). */
static int window_taps(const Block *b, const REAL *input, const REAL *kernel, Tap taps[3]) {
    const ptrdiff_t row = (ptrdiff_t)padded_width(b) * b->c_in, part = (ptrdiff_t)3 * b->c_in * b->c_out;
    for (int y = 0; y < 3; y++) taps[y] = (Tap){input + y * row, kernel + y * part};
    return 3;
}

/* The places of n examples' windows, one after the other, and of their results. */
static void window_places(const Block *b, int n, ptrdiff_t *begins, ptrdiff_t *ends) {
    const ptrdiff_t row = (ptrdiff_t)padded_width(b) * b->c_in;
    for (ptrdiff_t e = 0, m = 0; e < n; e++)
        for (int y = 0; y < b->height; y++)
            for (int x = 0; x < b->width; x++, m++) {
                begins[m] = e * input_size(b) + b->stride * (y * row + (ptrdiff_t)x * b->c_in);
                ends[m] = m * b->c_out;
            }
}

/* Zeros around a map of height x width in memory for one of padded_height x padded_width: `before` places of them before it, the rest behind. */
static void clear_frame(REAL *map, int height, int width, int padded_height, int padded_width, int before, int channels) {
    const ptrdiff_t row = (ptrdiff_t)padded_width * channels, behind = padded_width - before - width;
    memset(map, 0, before * row * sizeof(REAL));
    for (int y = before; y < before + height; y++) {
        memset(map + y * row, 0, before * channels * sizeof(REAL));
        memset(map + y * row + (ptrdiff_t)(before + width) * channels, 0, behind * channels * sizeof(REAL));
    }
    memset(map + (before + height) * row, 0, (padded_height - before - height) * row * sizeof(REAL));
}

/* The zeros around an example's padded input. */
static void clear_border(const Block *b, REAL *input) {
    clear_frame(input, b->height_in, b->width_in, padded_height(b), padded_width(b), 1, b->c_in);
}

/* Images (n, c, h, w), channels first, into the first block's padded inputs. */
static void place_images(const Layout *l, const REAL *images, REAL *trace, int first, int next) {
    const Block *b = &l->blocks[0];
    const ptrdiff_t row = (ptrdiff_t)padded_width(b) * b->c_in;
    for (int e = first; e < next; e++) {
        REAL *input = trace + l->input[0] + e * input_size(b);
        clear_border(b, input);
        const REAL *image = images + e * image_size(b);
        for (int c = 0; c < b->c_in; c++)
            for (int y = 0; y < b->height_in; y++, image += b->width_in) {
                REAL *to = input + (y + 1) * row + b->c_in + c;
                if (b->c_in == 1)
                    memcpy(to, image, b->width_in * sizeof(REAL));
                else
                    for (int x = 0; x < b->width_in; x++) to[(ptrdiff_t)x * b->c_in] = image[x];
            }
    }
}

/* One number a group, as one a channel. */
static void spread_groups(const Block *b, const REAL *of_group, REAL *of_channel) {
    const int size = b->c_out / b->groups;
    for (int g = 0; g < b->groups; g++, of_channel += size)
        for (int c = 0; c < size; c++) of_channel[c] = of_group[g];
}

/* Sums of each channel over the places of an example, to the mean of each group of channels. */
static void average_groups(const Block *b, const REAL *sums, REAL *means) {
    const int size = b->c_out / b->groups;
    for (int g = 0; g < b->groups; g++) {
        REAL sum = 0;
        for (int c = 0; c < size; c++) sum += sums[g * size + c];
        means[g] = sum / ((REAL)size * b->height * b->width);
    }
}

/* The three parameters of a block, as they lie in a lane's row of pointers: kernel, scale, shift. */
#define KERNEL(params, b) ((params)[3 * (b)])
#define SCALE(params, b) ((params)[3 * (b) + 1])
#define SHIFT(params, b) ((params)[3 * (b) + 2])

#endif
