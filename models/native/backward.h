/* From the gradient in a lane's features to that in its parameters. */
#ifndef BACKWARD_H
#define BACKWARD_H

#include "crew.h"
#include "forward.h"

/* What a pass back works in: the gradient in what leaves a block and in its input (n, h, w, c); that in a convolution's result, with
 * zeros around; a kernel (taps, c_out, c_in); each example's gradient in shift and scale (n, 2, c_out); places. */
typedef struct {
    REAL *above, *below, *slopes, *turned, *affine;
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
static ptrdiff_t affine_size(const Block *b) { return 2 * b->c_out; }
static ptrdiff_t places_size(const Block *b) {
    const ptrdiff_t in = (ptrdiff_t)b->height_in * b->width_in, out = (ptrdiff_t)b->height * b->width;
    return in > out ? in : out;
}

/* Room in `at` for a scratch for n examples, less the places; returns how much was taken. Without `s` it only counts. */
static ptrdiff_t share_reals(const Layout *l, REAL *at, Scratch *s) {
    ptrdiff_t size = 0;
    const ptrdiff_t above = take(&size, l->n * largest(l, out_size)), below = take(&size, l->n * largest(l, out_size)),
                    slopes = take(&size, l->n * largest(l, slopes_size)), turned = take(&size, largest(l, kernel_size)),
                    affine = take(&size, l->n * largest(l, affine_size));
    if (s) *s = (Scratch){.above = at + above, .below = at + below, .slopes = at + slopes, .turned = at + turned, .affine = at + affine};
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

/* The zeros around an example's gradient in a convolution's results. */
static void clear_edges(const Block *b, REAL *slopes) {
    const int before = zeros_before(b);
    const ptrdiff_t row = (ptrdiff_t)slopes_width(b) * b->c_out;
    memset(slopes, 0, before * row * sizeof(REAL));
    for (int y = before; y < before + b->height; y++) {
        memset(slopes + y * row, 0, before * b->c_out * sizeof(REAL));
        memset(slopes + (y + 1) * row - b->c_out, 0, b->c_out * sizeof(REAL));
    }
    memset(slopes + (before + b->height) * row, 0, row * sizeof(REAL));
}

/* Back through activation and normalisation of block b of an example: from s->above to s->slopes, and its gradients in shift and scale. */
static void pull_activation(const Layout *l, const REAL *const *params, REAL *trace, int b, int e, Scratch *s) {
    const Block *block = &l->blocks[b];
    const REAL *scale = SCALE(params, b), *sums = trace + l->sums[b] + e * sums_size(block);
    REAL centre[MAX_CHANNELS], spread[MAX_CHANNELS], flat[MAX_CHANNELS], tilt[MAX_CHANNELS], slope[MAX_CHANNELS];
    REAL *gradient = s->above + e * out_size(block), *affine = s->affine + e * affine_size(block);
    const Choice *chosen = read_chosen(l, trace, b, e);
    clear_edges(block, s->slopes + e * slopes_size(block));
    cut(block, out_map(l, trace, b, e), gradient);
    read_statistics(l, trace, b, e, centre, spread);
    sum_gradient(block, gradient, chosen, sums, centre, spread, flat, tilt);
    memcpy(affine, flat, block->c_out * sizeof(REAL));
    memcpy(affine + block->c_out, tilt, block->c_out * sizeof(REAL));
    for (int c = 0; c < block->c_out; c++) flat[c] *= scale[c], tilt[c] *= scale[c], slope[c] = scale[c] * spread[c];
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

/* `u` by the sum over the examples of their numbers, `pitch` apart from example to example. */
static void sum_examples(const REAL *numbers, ptrdiff_t pitch, int n, int count, Update u) {
    REAL sum[MAX_CHANNELS] = {0};
    for (int e = 0; e < n; e++, numbers += pitch)
        for (int c = 0; c < count; c++) sum[c] += numbers[c];
    for (int c = 0; c < count; c++) u.to[c] = u.from[c] + u.factor * (u.each ? u.each[c] : 1) * sum[c];
}

/* The gradient in the rows [first, next) of part y of a block's kernel: from its padded inputs and `slopes`, the gradient in its results. */
static void pull_rows(const Layout *l, const REAL *inputs, int b, REAL *slopes, int y, int first, int next, Update u) {
    const Block *block = &l->blocks[b];
    const ptrdiff_t row = (ptrdiff_t)padded_width(block) * block->c_in, begin = (ptrdiff_t)y * 3 * block->c_in + first;
    const Map map = slopes_map(block, slopes, 0);
    const Grid windows = {l->n, block->height, block->width, input_size(block), block->stride * row, (ptrdiff_t)block->stride * block->c_in};
    const Grid results = {l->n, block->height, block->width, slopes_size(block), map.row, map.place};
    correlate(&windows, inputs + y * row + first, next - first, &results, map.at, block->c_out, move_update(u, begin * block->c_out));
}

/* Adds to the gradient in a block's kernel. */
static void pull_kernel(const Layout *l, const REAL *inputs, int b, REAL *slopes, REAL *gradient) {
    for (int y = 0; y < 3; y++) pull_rows(l, inputs, b, slopes, y, 0, 3 * l->blocks[b].c_in, (Update){gradient, gradient, 1, NULL});
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

/* Taps [first, next) of (9, c_in, c_out) as (9, c_out, c_in), so that what the way back adds up lies in rows. */
static void turn_kernel(const Block *b, const REAL *kernel, REAL *turned, int first, int next) {
    for (ptrdiff_t tap = first, at = tap * b->c_in * b->c_out; tap < next; tap++, at += (ptrdiff_t)b->c_in * b->c_out)
        for (int i = 0; i < b->c_in; i += LENGTH)
            for (int o = 0; o < b->c_out; o += LENGTH)
                transpose_square(kernel + at + (ptrdiff_t)i * b->c_out + o, b->c_out, turned + at + (ptrdiff_t)o * b->c_in + i, b->c_in);
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

/* The places (stride * y + odd_y, stride * x + odd_x) of the inputs (n, h, w, c) of examples [first, next), and the first of `slopes` that each
 * was seen by. */
static int input_places(const Block *b, int first, int next, int odd_y, int odd_x, ptrdiff_t *begins, ptrdiff_t *ends) {
    int m = 0;
    for (ptrdiff_t e = first; e < next; e++)
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

/* The gradient in the inputs (n, h, w, c_in) of examples [first, next) of a block: the sum over `pairs` of slopes and turned kernels. */
static void pull_convolution(const Layout *l, int b, int first, int next, int pairs, REAL *const *slopes, REAL *const *turned, REAL *below,
                             const Scratch *s) {
    const Block *block = &l->blocks[b];
    for (int odd = 0; odd < block->stride * block->stride; odd++) {
        const int odd_y = odd / block->stride, odd_x = odd % block->stride;
        Tap taps[18];
        int n_taps = 0;
        for (int pair = 0; pair < pairs; pair++) n_taps += input_taps(block, odd_y, odd_x, slopes[pair], turned[pair], taps + n_taps);
        const int count = input_places(block, first, next, odd_y, odd_x, s->begins, s->ends);
        multiply(taps, n_taps, block->c_out, block->c_in, s->begins, below, s->ends, count, NULL);
    }
}

/* Gradients (n, c * h * w) in the features of examples [first, next) as maps (n, h, w, c). */
static void place_gradient(const Layout *l, const REAL *features, REAL *maps, int first, int next) {
    const Block *b = last_block(l);
    const int places = out_height(b) * out_width(b);
    for (int e = first; e < next; e++)
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

static void swap_maps(Scratch *s) {
    REAL *below = s->above;
    s->above = s->below, s->below = below;
}

/* What becomes of a lane's parameters, or of a place for their gradients, by the gradients: from those in its features, `upstream`. Nobody asks
 * about that in the images. updates: in the order of the params; one that leads nowhere (`to` of NULL) is not computed. The lane's crew shares
 * the work out in `parts` of its examples. */
static void pull_blocks(const Layout *l, const REAL *const *params, REAL *trace, const REAL *upstream, const Update *updates, Scratch *s, Member *m,
                        int parts) {
    for (int b = l->n_blocks - 1; b >= 0; b--) {
        const Block *block = &l->blocks[b];
        const int depth = 3 * block->c_in, examples = b ? parts : 0, turns = b ? 3 : 0;
        EACH_ITEM(part, parts + turns, m) {
            const int first = first_of(part, parts, l->n), next = first_of(part + 1, parts, l->n), tap = 3 * (part - parts);
            if (part >= parts) turn_kernel(block, KERNEL(params, b), s->turned, tap, tap + 3);
            if (part < parts && b == l->n_blocks - 1) place_gradient(l, upstream, s->above, first, next);
            for (int e = first; part < parts && e < next; e++) pull_activation(l, params, trace, b, e, s);
        }
        EACH_ITEM(item, examples + 3 * parts + 1, m) {
            const int part = item - examples, y = part / parts, share = part % parts;
            if (item < examples)
                pull_convolution(l, b, first_of(item, parts, l->n), first_of(item + 1, parts, l->n), 1, &s->slopes, &s->turned, s->below, s);
            else if (y < 3 && KERNEL(updates, b).to)
                pull_rows(l, trace + l->input[b], b, s->slopes, y, first_of(share, parts, depth), first_of(share + 1, parts, depth), KERNEL(updates, b));
            else if (y == 3) {
                if (SHIFT(updates, b).to) sum_examples(s->affine, affine_size(block), l->n, block->c_out, SHIFT(updates, b));
                if (SCALE(updates, b).to) sum_examples(s->affine + block->c_out, affine_size(block), l->n, block->c_out, SCALE(updates, b));
            }
        }
        swap_maps(s);
    }
}

#endif
