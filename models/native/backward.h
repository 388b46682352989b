/* From the gradient in a lane's features to that in its parameters. */
#ifndef BACKWARD_H
#define BACKWARD_H

#include "crew.h"
#include "forward.h"

/* What a pass back works in: the gradient in what leaves a block and in its input (n, h, w, c); that in a convolution's result, with
 * zeros around; a kernel turned round, its taps or points; each example's gradient in shift and scale (n, 2, c_out). Each thread's own: points
 * of squares, where any block `goes_by_squares`; places. kept: where the gradients in all inputs stay, or NULL. */
typedef struct {
    REAL *above, *below, *slopes, *turned, *affine, *points, *kept;
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
static int slopes_height(const Block *b) { return b->height + 1 + zeros_before(b); }
static ptrdiff_t slopes_size(const Block *b) { return (ptrdiff_t)slopes_height(b) * slopes_width(b) * b->c_out; }
static ptrdiff_t kernel_size(const Block *b) { return (ptrdiff_t)9 * b->c_in * b->c_out; }
static ptrdiff_t turned_size(const Block *b) { return suits_squares(b) ? POINTS * kernel_pitch(b) : kernel_size(b); }
static ptrdiff_t affine_size(const Block *b) { return 2 * b->c_out; }
static ptrdiff_t places_size(const Block *b) {
    const ptrdiff_t in = (ptrdiff_t)b->height_in * b->width_in, out = (ptrdiff_t)b->height * b->width;
    return in > out ? in : out;
}

/* Room in `at` for a scratch for n examples, less what is each thread's own; returns how much was taken. Without `s` it only counts. */
static ptrdiff_t share_reals(const Layout *l, REAL *at, Scratch *s) {
    ptrdiff_t size = 0;
    const ptrdiff_t above = take(&size, l->n * largest(l, out_size)), below = take(&size, l->n * largest(l, out_size)),
                    slopes = take(&size, l->n * largest(l, slopes_size)), turned = take(&size, largest(l, turned_size)),
                    affine = take(&size, l->n * largest(l, affine_size));
    if (s) *s = (Scratch){.above = at + above, .below = at + below, .slopes = at + slopes, .turned = at + turned, .affine = at + affine};
    return size;
}

static size_t places_bytes(const Layout *l) { return 2 * l->n * largest(l, places_size) * sizeof(ptrdiff_t); }

static void share_places(const Layout *l, void *memory, Scratch *s) {
    s->begins = memory;
    s->ends = s->begins + l->n * largest(l, places_size);
}

static size_t points_bytes(const Layout *l) { return largest(l, points_size) * sizeof(REAL); }

static size_t scratch_bytes(const Layout *l) { return share_reals(l, NULL, NULL) * sizeof(REAL) + points_bytes(l) + places_bytes(l); }

static Map slopes_map(const Block *b, REAL *slopes, int example) {
    const ptrdiff_t row = (ptrdiff_t)slopes_width(b) * b->c_out, before = zeros_before(b);
    return (Map){slopes + example * slopes_size(b) + before * (row + b->c_out), row, b->c_out};
}

/* What comes back to an example's map: the gradient in what left the block, what that was, and of which of four places. */
typedef struct {
    const REAL *gradient;
    Map out;
    const Choice *chosen;
} Arrival;

/* The gradient at one place of the map before the ReLU: none where it let nothing through, or where another of the four places left. */
INLINE vector arrive(const int pools, const Block *b, const Arrival *from, int y, int x, int c) {
    const int row = pools ? y / 2 : y, column = pools ? x / 2 : x;
    const ptrdiff_t at = ((ptrdiff_t)row * out_width(b) + column) * b->c_out + c;
    choices passes = load(from->out.at + row * from->out.row + column * from->out.place + c) > 0;
    if (pools) passes &= *(const choices *)(from->chosen + at) == 2 * (y % 2) + x % 2;
    return (vector)(passes & (choices)load(from->gradient + at));
}

/* Whether a place is in a window that is pooled: of an odd height or width the last is not. */
INLINE int is_covered(const int pools, const Block *b, int y, int x) { return !pools || (y / 2 < b->height / 2 && x / 2 < b->width / 2); }

/* The sums over an example's places of the gradient behind scale and shift, and of its products with the normalised results. */
INLINE void sum_gradient(const int pools, const int wide, int c, const Block *b, const Arrival *from, const REAL *sums, const REAL *centre,
                         const REAL *spread, REAL *flat, REAL *tilt) {
    Strip of_gradient = {0}, of_products = {0}, middle;
    load_strip(wide, centre + c, middle);
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out) {
            if (!is_covered(pools, b, y, x)) continue;
            UNROLL for (int v = 0; v < wide; v++) {
                const vector slope = arrive(pools, b, from, y, x, c + v * LENGTH);
                of_gradient[v] += slope, of_products[v] += slope * (load(sums + c + v * LENGTH) - middle[v]);
            }
        }
    store_strip(wide, of_gradient, flat + c);
    UNROLL for (int v = 0; v < wide; v++) of_products[v] *= load(spread + c + v * LENGTH);
    store_strip(wide, of_products, tilt + c);
}

/* The gradient in a convolution's result: slope * gradient - flat - tilt * result, one number of each a channel. */
INLINE void pull_normalised(const int pools, const int wide, int c, const Block *b, const Arrival *from, const REAL *sums, const REAL *slope,
                            const REAL *flat, const REAL *tilt, Map to) {
    Strip factor, level, lean;
    load_strip(wide, slope + c, factor), load_strip(wide, flat + c, level), load_strip(wide, tilt + c, lean);
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out) {
            Strip result;
            UNROLL for (int v = 0; v < wide; v++) result[v] = -level[v] - lean[v] * load(sums + c + v * LENGTH);
            if (is_covered(pools, b, y, x))
                UNROLL for (int v = 0; v < wide; v++) result[v] += factor[v] * arrive(pools, b, from, y, x, c + v * LENGTH);
            store_strip(wide, result, to.at + y * to.row + x * to.place + c);
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

static Arrival find_arrival(const Layout *l, const REAL *gradient, REAL *trace, int b, int e) {
    const ptrdiff_t begin = e * out_size(&l->blocks[b]);
    return (Arrival){gradient + begin, out_map(l, trace, b, e), (const Choice *)(trace + l->chosen[b]) + begin};
}

/* Sums of each channel as the mean over its group, a number a channel; zeros without normalisation. */
static void share_in_group(const Block *b, REAL *sums) {
    REAL of_group[MAX_CHANNELS];
    if (b->groups)
        average_groups(b, sums, of_group), spread_groups(b, of_group, sums);
    else
        memset(sums, 0, b->c_out * sizeof(REAL));
}

/* Where the gradient in an example's results lies, with zeros around it where the way back to the inputs reads them. */
static Map frame_slopes(const Block *b, int is_first, REAL *slopes, int e) {
    if (!is_first)
        clear_frame(slopes + e * slopes_size(b), b->height, b->width, slopes_height(b), slopes_width(b), zeros_before(b), b->c_out);
    return slopes_map(b, slopes, e);
}

/* Back through activation and normalisation of block b of an example: from s->above to s->slopes, and its gradients in shift and scale. */
static void pull_activation(const Layout *l, const REAL *const *params, REAL *trace, int b, int e, const Scratch *s) {
    const Block *block = &l->blocks[b];
    const REAL *scale = SCALE(params, b), *sums = trace + l->sums[b] + e * sums_size(block);
    REAL centre[MAX_CHANNELS], spread[MAX_CHANNELS], flat[MAX_CHANNELS], tilt[MAX_CHANNELS], slope[MAX_CHANNELS];
    REAL *affine = s->affine + e * affine_size(block);
    const Arrival from = find_arrival(l, s->above, trace, b, e);
    const Map to = frame_slopes(block, !b, s->slopes, e);
    read_statistics(l, trace, b, e, centre, spread);
    BY_POOLING(block, sum_gradient, block, &from, sums, centre, spread, flat, tilt)
    memcpy(affine, flat, block->c_out * sizeof(REAL));
    memcpy(affine + block->c_out, tilt, block->c_out * sizeof(REAL));
    for (int c = 0; c < block->c_out; c++) flat[c] *= scale[c], tilt[c] *= scale[c], slope[c] = scale[c] * spread[c];
    share_in_group(block, flat), share_in_group(block, tilt);
    for (int c = 0; c < block->c_out; c++) {
        tilt[c] *= spread[c] * spread[c];
        flat[c] = flat[c] * spread[c] - tilt[c] * centre[c];
    }
    BY_POOLING(block, pull_normalised, block, &from, sums, slope, flat, tilt, to)
}

/* `u` by the sum over the examples of their numbers, `pitch` apart from example to example. */
static void sum_examples(const REAL *numbers, ptrdiff_t pitch, int n, int count, Update u) {
    REAL sum[MAX_CHANNELS] = {0};
    for (int e = 0; e < n; e++, numbers += pitch)
        for (int c = 0; c < count; c++) sum[c] += numbers[c];
    for (int c = 0; c < count; c++) u.to[c] = (u.from ? u.from[c] : 0) + u.factor * (u.each ? u.each[c] : 1) * sum[c];
}

/* The places of n examples' windows, and of their results in `slopes`. */
static void slope_places(const Block *b, int n, ptrdiff_t *windows, ptrdiff_t *slopes) {
    const ptrdiff_t row = (ptrdiff_t)padded_width(b) * b->c_in, slope_row = (ptrdiff_t)slopes_width(b) * b->c_out;
    for (ptrdiff_t e = 0, m = 0; e < n; e++)
        for (int y = 0; y < b->height; y++)
            for (int x = 0; x < b->width; x++, m++) {
                windows[m] = e * input_size(b) + b->stride * (y * row + (ptrdiff_t)x * b->c_in);
                slopes[m] = e * slopes_size(b) + y * slope_row + (ptrdiff_t)x * b->c_out;
            }
}

/* Places whose slopes are summed up before the next ones: as many as stay in a first cache while all rows of a kernel pass over them. */
static int choose_run(const Block *b, int count) {
    const int fit = (20 << 10) / (b->c_out * (int)sizeof(REAL)), runs = count > fit ? (count + fit - 1) / fit : 1;
    return (count + runs - 1) / runs;
}

/* `u` by the gradient in the rows [first, next) of each part of a block's kernel: from its padded inputs and `slopes`, the gradient in its
 * results. */
static void pull_rows(const Layout *l, const REAL *inputs, int b, REAL *slopes, int first, int next, Update u, const Scratch *s) {
    const Block *block = &l->blocks[b];
    const ptrdiff_t row = (ptrdiff_t)padded_width(block) * block->c_in, depth = 3 * block->c_in;
    const int count = l->n * block->height * block->width, run = choose_run(block, count);
    const REAL *right = slopes_map(block, slopes, 0).at;
    slope_places(block, l->n, s->begins, s->ends);
    int at = 0;
    do { /* once at least: where there are no examples the gradient is zero */
        const Places places = {count - at < run ? count - at : run, s->begins + at, s->ends + at};
        for (int y = 0; y < 3; y++)
            correlate(&places, inputs + y * row + first, next - first, right, block->c_out, move_update(u, (y * depth + first) * block->c_out));
        u.from = u.to, at += run;
    } while (at < count);
}

/* The gradient in a block's kernel, or what is added to it. */
static void pull_kernel(const Layout *l, const REAL *inputs, int b, REAL *slopes, REAL *gradient, int adds, const Scratch *s) {
    pull_rows(l, inputs, b, slopes, 0, 3 * l->blocks[b].c_in, (Update){adds ? gradient : NULL, gradient, 1, NULL}, s);
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

static void swap_maps(Scratch *s) {
    REAL *below = s->above;
    s->above = s->below, s->below = below;
}

#define TURNS 3

/* A part of TURNS of a block's kernel as the way back wants it: of its taps, or by squares of its rows. */
static void turn_part(const Layout *l, int b, const REAL *kernel, REAL *turned, int part) {
    const Block *block = &l->blocks[b];
    const int vectors = block->c_in / LENGTH;
    if (goes_by_squares(l, b))
        turn_squares(block, kernel, turned, first_of(part, TURNS, vectors) * LENGTH, first_of(part + 1, TURNS, vectors) * LENGTH);
    else
        turn_kernel(block, kernel, turned, first_of(part, TURNS, 9), first_of(part + 1, TURNS, 9));
}

/* The gradient in the inputs of examples [first, next) of a block. */
static void pull_inputs(const Layout *l, int b, int first, int next, const Scratch *s) {
    const Block *block = &l->blocks[b];
    const Room room = {s->points, s->begins, s->ends};
    if (goes_by_squares(l, b))
        convolve_squares(block, s->slopes, block->c_out, s->turned, first * count_squares(block), next * count_squares(block), s->below, block->c_in,
                         &room);
    else
        pull_convolution(l, b, first, next, 1, &s->slopes, &s->turned, s->below, s);
}

/* `u` by a part of `parts` of the gradient in a block's kernel. */
static void pull_part(const Layout *l, const REAL *inputs, int b, int part, int parts, Update u, const Scratch *s) {
    const Block *block = &l->blocks[b];
    const int squares = goes_by_squares(l, b), rows = squares ? block->c_in : 3 * block->c_in;
    const int first = first_of(part, parts, rows), next = first_of(part + 1, parts, rows);
    const Room room = {s->points, s->begins, s->ends};
    if (squares)
        correlate_squares(block, inputs, s->slopes, l->n, first, next, u, &room);
    else
        pull_rows(l, inputs, b, s->slopes, first, next, u, s);
}

/* What becomes of a lane's parameters, or of a place for their gradients, by the gradients: from those in its features, `upstream`. Nobody asks
 * about that in the images. updates: in the order of the params; one that leads nowhere (`to` of NULL) is not computed. The lane's crew shares
 * the work out in `parts` of its examples. */
static void pull_blocks(const Layout *l, const REAL *const *params, REAL *trace, const REAL *upstream, const Update *updates, Scratch *s, Member *m,
                        int parts) {
    for (int b = l->n_blocks - 1; b >= 0; b--) {
        const Block *block = &l->blocks[b];
        const int examples = b ? parts : 0, turns = b ? TURNS : 0;
        if (b && s->kept) s->below = s->kept + kept_place(l, b);
        EACH_ITEM(part, parts + turns, m) {
            const int first = first_of(part, parts, l->n), next = first_of(part + 1, parts, l->n);
            if (part >= parts) turn_part(l, b, KERNEL(params, b), s->turned, part - parts);
            if (part < parts && b == l->n_blocks - 1) place_gradient(l, upstream, s->above, first, next);
            for (int e = first; part < parts && e < next; e++) pull_activation(l, params, trace, b, e, s);
        }
        EACH_ITEM(item, examples + parts + 1, m) {
            const int share = item - examples;
            if (item < examples)
                pull_inputs(l, b, first_of(item, parts, l->n), first_of(item + 1, parts, l->n), s);
            else if (share < parts && KERNEL(updates, b).to)
                pull_part(l, trace + l->input[b], b, share, parts, KERNEL(updates, b), s);
            else if (share == parts) {
                if (SHIFT(updates, b).to) sum_examples(s->affine, affine_size(block), l->n, block->c_out, SHIFT(updates, b));
                if (SCALE(updates, b).to) sum_examples(s->affine + block->c_out, affine_size(block), l->n, block->c_out, SCALE(updates, b));
            }
        }
        swap_maps(s);
    }
}

#endif
