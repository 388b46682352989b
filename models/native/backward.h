/* From the gradient in a lane's features to that in its parameters. */
#ifndef BACKWARD_H
#define BACKWARD_H

#include "forward.h"

/* What a pass back works in: the gradient in what leaves a block and in its input (n, h, w, c); that in a convolution's result, with
 * zeros around; a kernel (taps, c_out, c_in); places. */
typedef struct {
    REAL *above, *below, *slopes, *turned;
    ptrdiff_t *begins, *ends;
} Scratch;

static ptrdiff_t largest(const Layout *l, ptrdiff_t (*size)(const Block *)) {
    ptrdiff_t most = 0;
    for (int b = 0; b < l->n_blocks; b++)
        if (size(&l->blocks[b]) > most) most = size(&l->blocks[b]);
    return most;
}

/* Zeros before and behind the gradient in a convolution's result, as far as the way back to its input reaches. */
static int zeros_before(const Block *b) { return b->stride == 1; }
static int slopes_width(const Block *b) { return b->width + 1 + zeros_before(b); }
static ptrdiff_t slopes_size(const Block *b) { return (ptrdiff_t)(b->height + 1 + zeros_before(b)) * slopes_width(b) * b->c_out; }
static ptrdiff_t kernel_size(const Block *b) { return (ptrdiff_t)9 * b->c_in * b->c_out; }
static ptrdiff_t places_size(const Block *b) {
    const ptrdiff_t in = (ptrdiff_t)b->height_in * b->width_in, out = (ptrdiff_t)b->height * b->width;
    return in > out ? in : out;
}

/* Room in `at` for a scratch for n examples, less the places; returns how much was taken. Without `s` it only counts. */
static ptrdiff_t share_reals(const Layout *l, REAL *at, Scratch *s) {
    ptrdiff_t size = 0;
    const ptrdiff_t above = take(&size, l->n * largest(l, out_size)), below = take(&size, l->n * largest(l, out_size)),
                    slopes = take(&size, l->n * largest(l, slopes_size)), turned = take(&size, largest(l, kernel_size));
    if (s) *s = (Scratch){.above = at + above, .below = at + below, .slopes = at + slopes, .turned = at + turned};
    return size;
}

static size_t places_bytes(const Layout *l) { return 2 * l->n * largest(l, places_size) * sizeof(ptrdiff_t); }

static void share_places(const Layout *l, void *memory, Scratch *s) {
    s->begins = memory;
    s->ends = s->begins + l->n * largest(l, places_size);
}

static size_t scratch_bytes(const Layout *l) { return share_reals(l, NULL, NULL) * sizeof(REAL) + places_bytes(l); }

static Map slopes_map(const Block *b, REAL *slopes, int example) {
    const ptrdiff_t row = (ptrdiff_t)slopes_width(b) * b->c_out, before = zeros_before(b);
    return (Map){slopes + example * slopes_size(b) + before * (row + b->c_out), row, b->c_out};
}

/* The gradient before the ReLU, from that behind it; in place. */
static void cut(const Block *b, Map out, REAL *slope) {
    for (int y = 0; y < out_height(b); y++)
        for (int x = 0; x < out_width(b); x++, slope += b->c_out) {
            const REAL *value = out.at + y * out.row + x * out.place;
            for (int c = 0; c < b->c_out; c++) slope[c] = value[c] > 0 ? slope[c] : 0;
        }
}

/* What each of an example's places adds: `gradient` where it left the block, nothing elsewhere. With pooling one of four did. */
INLINE REAL arriving(const Block *b, const REAL *gradient, const Choice *chosen, int y, int x, int c) {
    if (!b->pools) return gradient[((ptrdiff_t)y * b->width + x) * b->c_out + c];
    const ptrdiff_t at = ((ptrdiff_t)(y / 2) * (b->width / 2) + x / 2) * b->c_out + c;
    return chosen[at] == 2 * (y % 2) + x % 2 ? gradient[at] : 0;
}

static int is_covered(const Block *b, int y, int x) { return !b->pools || (y / 2 < b->height / 2 && x / 2 < b->width / 2); }

/* The sums over an example's places of the gradient behind scale and shift, and of its products with the normalised results. */
static void sum_gradient(const Block *b, const REAL *gradient, const Choice *chosen, const REAL *sums, const REAL *centre, const REAL *spread,
                         REAL *flat, REAL *tilt) {
    memset(flat, 0, b->c_out * sizeof(REAL));
    memset(tilt, 0, b->c_out * sizeof(REAL));
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out) {
            if (!is_covered(b, y, x)) continue;
            for (int c = 0; c < b->c_out; c++) {
                const REAL slope = arriving(b, gradient, chosen, y, x, c);
                flat[c] += slope, tilt[c] += slope * (sums[c] - centre[c]) * spread[c];
            }
        }
}

/* The gradient in a convolution's result: slope * gradient - flat - tilt * normalised, one number of each a channel. */
static void pull_normalised(const Block *b, const REAL *gradient, const Choice *chosen, const REAL *sums, const REAL *slope, const REAL *flat,
                            const REAL *tilt, Map to) {
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out) {
            REAL *result = to.at + y * to.row + x * to.place;
            const int covered = is_covered(b, y, x);
            for (int c = 0; c < b->c_out; c++) {
                const REAL here = covered ? slope[c] * arriving(b, gradient, chosen, y, x, c) : 0;
                result[c] = here - flat[c] - tilt[c] * sums[c];
            }
        }
}

/* An example's mean and one over the deviation, a number of each a channel: 0 and 1 without normalisation. */
static void read_statistics(const Layout *l, const REAL *trace, int b, int e, REAL *centre, REAL *spread) {
    const Block *block = &l->blocks[b];
    for (int c = 0; c < block->c_out; c++) centre[c] = 0, spread[c] = 1;
    if (!block->groups) return;
    spread_groups(block, trace + l->mean[b] + (ptrdiff_t)e * block->groups, centre);
    spread_groups(block, trace + l->rstd[b] + (ptrdiff_t)e * block->groups, spread);
}

static const Choice *read_chosen(const Layout *l, const REAL *trace, int b, int e) {
    return (const Choice *)(trace + l->chosen[b]) + e * out_size(&l->blocks[b]);
}

/* Back through activation and normalisation of block b: from s->above to s->slopes; adds to the gradients in scale and shift. */
static void pull_activation(const Layout *l, const REAL *const *params, REAL *trace, int b, REAL *const *gradients, Scratch *s) {
    const Block *block = &l->blocks[b];
    const REAL *scale = SCALE(params, b);
    REAL centre[MAX_CHANNELS], spread[MAX_CHANNELS], flat[MAX_CHANNELS], tilt[MAX_CHANNELS], slope[MAX_CHANNELS];
    memset(s->slopes, 0, l->n * slopes_size(block) * sizeof(REAL));
    for (int e = 0; e < l->n; e++) {
        REAL *gradient = s->above + e * out_size(block);
        const REAL *sums = trace + l->sums[b] + e * sums_size(block);
        const Choice *chosen = read_chosen(l, trace, b, e);
        cut(block, out_map(l, trace, b, e), gradient);
        read_statistics(l, trace, b, e, centre, spread);
        sum_gradient(block, gradient, chosen, sums, centre, spread, flat, tilt);
        for (int c = 0; c < block->c_out; c++) {
            SCALE(gradients, b)[c] += tilt[c], SHIFT(gradients, b)[c] += flat[c];
            flat[c] *= scale[c], tilt[c] *= scale[c], slope[c] = scale[c] * spread[c];
        }
        if (block->groups) {
            REAL of_group[MAX_CHANNELS];
            average_groups(block, flat, of_group), spread_groups(block, of_group, flat);
            average_groups(block, tilt, of_group), spread_groups(block, of_group, tilt);
            for (int c = 0; c < block->c_out; c++) {
                tilt[c] *= spread[c] * spread[c];
                flat[c] = flat[c] * spread[c] - tilt[c] * centre[c];
            }
        } else
            memset(flat, 0, sizeof flat), memset(tilt, 0, sizeof tilt);
        pull_normalised(block, gradient, chosen, sums, slope, flat, tilt, slopes_map(block, s->slopes, e));
    }
}

/* Adds to the gradient in a block's kernel: from its padded inputs and `slopes`, the gradient in its results. */
static void pull_kernel(const Layout *l, const REAL *inputs, int b, REAL *slopes, REAL *gradient) {
    const Block *block = &l->blocks[b];
    const ptrdiff_t row = (ptrdiff_t)padded_width(block) * block->c_in;
    const Map map = slopes_map(block, slopes, 0);
    const Grid windows = {l->n, block->height, block->width, input_size(block), block->stride * row, (ptrdiff_t)block->stride * block->c_in};
    const Grid results = {l->n, block->height, block->width, slopes_size(block), map.row, map.place};
    for (int y = 0; y < 3; y++)
        correlate(&windows, inputs + y * row, 3 * block->c_in, &results, map.at, block->c_out, gradient + (ptrdiff_t)y * 3 * block->c_in * block->c_out);
}

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

/* (9, c_in, c_out) as (9, c_out, c_in), so that what the way back adds up lies in rows. */
static void turn_kernel(const Block *b, const REAL *kernel, REAL *turned) {
    for (int tap = 0; tap < 9; tap++, kernel += (ptrdiff_t)b->c_in * b->c_out, turned += (ptrdiff_t)b->c_in * b->c_out)
        for (int i = 0; i < b->c_in; i += LENGTH)
            for (int o = 0; o < b->c_out; o += LENGTH)
                transpose_square(kernel + (ptrdiff_t)i * b->c_out + o, b->c_out, turned + (ptrdiff_t)o * b->c_in + i, b->c_in);
}

/* In one direction: the windows that saw place `at` of a padded input, as how far behind the first of `slopes` each lies and its tap. */
static int find_windows(const Block *b, int parity, int shifts[3], int taps[3]) {
    if (b->stride == 1) { /* the first of `slopes` is the zero before, so the window a place ends in comes first */
        for (int t = 0; t < 3; t++) shifts[t] = t, taps[t] = 2 - t;
        return 3;
    }
    if (!parity) return shifts[0] = 0, taps[0] = 1, 1; /* an even place lies in the middle of one window, an odd one between two */
    return shifts[0] = 0, taps[0] = 2, shifts[1] = 1, taps[1] = 0, 2;
}

/* The places (stride * y + odd_y, stride * x + odd_x) of a block's inputs (n, h, w, c), and the first of `slopes` that each was seen by. */
static int input_places(const Block *b, int n, int odd_y, int odd_x, ptrdiff_t *begins, ptrdiff_t *ends) {
    int m = 0;
    for (ptrdiff_t e = 0; e < n; e++)
        for (int y = odd_y; y < b->height_in; y += b->stride)
            for (int x = odd_x; x < b->width_in; x += b->stride, m++) {
                begins[m] = e * slopes_size(b) + ((ptrdiff_t)(y / b->stride) * slopes_width(b) + x / b->stride) * b->c_out;
                ends[m] = ((e * b->height_in + y) * b->width_in + x) * b->c_in;
            }
    return m;
}

/* The summands of the gradient in the inputs of one parity: of `slopes` each, by the kernel as `turn_kernel` has it. */
static int input_taps(const Block *b, int odd_y, int odd_x, const REAL *slopes, const REAL *turned, Tap *taps) {
    int down[3], right[3], rows[3], columns[3], count = 0;
    const int n_down = find_windows(b, odd_y, down, rows), n_right = find_windows(b, odd_x, right, columns);
    for (int y = 0; y < n_down; y++)
        for (int x = 0; x < n_right; x++)
            taps[count++] = (Tap){slopes + ((ptrdiff_t)down[y] * slopes_width(b) + right[x]) * b->c_out,
                                  turned + (ptrdiff_t)(3 * rows[y] + columns[x]) * b->c_out * b->c_in};
    return count;
}

/* The gradient in a block's inputs (n, h, w, c_in): the sum over `pairs` of slopes and turned kernels. */
static void pull_convolution(const Layout *l, int b, int pairs, REAL *const *slopes, REAL *const *turned, REAL *below, const Scratch *s) {
    const Block *block = &l->blocks[b];
    for (int odd = 0; odd < block->stride * block->stride; odd++) {
        const int odd_y = odd / block->stride, odd_x = odd % block->stride;
        Tap taps[18];
        int n_taps = 0;
        for (int pair = 0; pair < pairs; pair++) n_taps += input_taps(block, odd_y, odd_x, slopes[pair], turned[pair], taps + n_taps);
        const int count = input_places(block, l->n, odd_y, odd_x, s->begins, s->ends);
        multiply(taps, n_taps, block->c_out, block->c_in, s->begins, below, s->ends, count, NULL);
    }
}

/* Gradients (n, c * h * w) in features as maps (n, h, w, c). */
static void place_gradient(const Layout *l, const REAL *features, REAL *maps) {
    const Block *b = last_block(l);
    const int places = out_height(b) * out_width(b);
    for (int e = 0; e < l->n; e++)
        for (int p = 0; p < places; p++)
            for (int c = 0; c < b->c_out; c++)
                maps[e * out_size(b) + (ptrdiff_t)p * b->c_out + c] = features[e * out_size(b) + (ptrdiff_t)c * places + p];
}

static void clear_gradients(const Layout *l, REAL *const *gradients) {
    for (int b = 0; b < l->n_blocks; b++) {
        memset(KERNEL(gradients, b), 0, kernel_size(&l->blocks[b]) * sizeof(REAL));
        memset(SCALE(gradients, b), 0, l->blocks[b].c_out * sizeof(REAL));
        memset(SHIFT(gradients, b), 0, l->blocks[b].c_out * sizeof(REAL));
    }
}

/* A lane's gradients, from those in its features. Nobody asks about that in the images. */
static void pull_blocks(const Layout *l, const REAL *const *params, REAL *trace, const REAL *upstream, REAL *const *gradients, Scratch *s) {
    clear_gradients(l, gradients);
    place_gradient(l, upstream, s->above);
    for (int b = l->n_blocks - 1; b >= 0; b--) {
        pull_activation(l, params, trace, b, gradients, s);
        pull_kernel(l, trace + l->input[b], b, s->slopes, KERNEL(gradients, b));
        if (!b) return;
        turn_kernel(&l->blocks[b], KERNEL(params, b), s->turned);
        pull_convolution(l, b, 1, &s->slopes, &s->turned, s->below, s);
        REAL *below = s->above;
        s->above = s->below, s->below = below;
    }
}

#endif
