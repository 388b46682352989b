/* How a pass and its pass back change when the parameters move: what a gradient of a gradient is made of (Pearlmutter 1994).
 *
 * Names: what ends in `_dot` is the change of what is named before it. With mean m, one over the deviation r and the normalised results
 * z = (x - m) r of a group, z_dot = r (x_dot - mean(x_dot) - z q) and r_dot = -r r q, where q = mean(z x_dot).
 */
#ifndef TANGENT_H
#define TANGENT_H

#include "backward.h"

typedef REAL Channels[MAX_CHANNELS];

/* Sums of each channel as the mean over its group, a number a channel; zeros without normalisation. */
static void share_in_group(const Block *b, REAL *sums) {
    Channels of_group;
    if (!b->groups) {
        memset(sums, 0, b->c_out * sizeof(REAL));
        return;
    }
    average_groups(b, sums, of_group);
    spread_groups(b, of_group, sums);
}

/* mean(x_dot) and mean(z x_dot) of an example, a number a channel. */
static void find_drift(const Block *b, const REAL *sums, const REAL *sums_dot, const REAL *centre, const REAL *spread, REAL *mean_dot, REAL *q) {
    memset(mean_dot, 0, b->c_out * sizeof(REAL));
    memset(q, 0, b->c_out * sizeof(REAL));
    for (int p = 0; p < b->height * b->width; p++, sums += b->c_out, sums_dot += b->c_out)
        for (int c = 0; c < b->c_out; c++) mean_dot[c] += sums_dot[c], q[c] += (sums[c] - centre[c]) * spread[c] * sums_dot[c];
    share_in_group(b, mean_dot);
    share_in_group(b, q);
}

/* The change of what leaves a block at one place: of_sums * x + of_dot * x_dot + level where the ReLU let it through. */
static void activate_tangent(const Block *b, const REAL *sums, const REAL *sums_dot, const REAL *of_sums, const REAL *of_dot, const REAL *level,
                             const Choice *chosen, Map out, Map to) {
    for (int y = 0; y < out_height(b); y++)
        for (int x = 0; x < out_width(b); x++)
            for (int c = 0; c < b->c_out; c++) {
                ptrdiff_t at = ((ptrdiff_t)y * b->width + x) * b->c_out + c;
                if (b->pools) {
                    const Choice which = chosen[((ptrdiff_t)y * out_width(b) + x) * b->c_out + c];
                    at = ((ptrdiff_t)(2 * y + which / 2) * b->width + 2 * x + which % 2) * b->c_out + c;
                }
                const REAL change = of_sums[c] * sums[at] + of_dot[c] * sums_dot[at] + level[c];
                to.at[y * to.row + x * to.place + c] = out.at[y * out.row + x * out.place + c] > 0 ? change : 0;
            }
}

static void push_activation(const Layout *l, const REAL *const *params, const REAL *const *direction, REAL *trace, REAL *tangents, int b, int e) {
    const Block *block = &l->blocks[b];
    const REAL *scale = SCALE(params, b), *scale_dot = SCALE(direction, b), *shift_dot = SHIFT(direction, b);
    const REAL *sums = trace + l->sums[b] + e * sums_size(block), *sums_dot = tangents + l->sums[b] + e * sums_size(block);
    Channels centre, spread, mean_dot, q, of_sums, of_dot, level;
    read_statistics(l, trace, b, e, centre, spread);
    find_drift(block, sums, sums_dot, centre, spread, mean_dot, q);
    for (int c = 0; c < block->c_out; c++) {
        of_dot[c] = scale[c] * spread[c];
        of_sums[c] = scale_dot[c] * spread[c] - of_dot[c] * spread[c] * q[c];
        level[c] = shift_dot[c] - of_dot[c] * mean_dot[c] - of_sums[c] * centre[c];
    }
    if (b + 1 < l->n_blocks) clear_border(&l->blocks[b + 1], tangents + l->input[b + 1] + e * input_size(&l->blocks[b + 1]));
    activate_tangent(block, sums, sums_dot, of_sums, of_dot, level, read_chosen(l, trace, b, e), out_map(l, trace, b, e), out_map(l, tangents, b, e));
}

/* Fills in `tangents`, which lies as a trace does: the change of every map along `direction`. */
static void push_forward(const Layout *l, const REAL *const *params, const REAL *const *direction, REAL *trace, REAL *tangents, Scratch *s) {
    for (int b = 0; b < l->n_blocks; b++) {
        const Block *block = &l->blocks[b];
        Tap taps[6];
        int n_taps = window_taps(block, trace + l->input[b], KERNEL(direction, b), taps);
        if (b) n_taps += window_taps(block, tangents + l->input[b], KERNEL(params, b), taps + n_taps); /* images do not move */
        window_places(block, l->n, s->begins, s->ends);
        multiply(taps, n_taps, 3 * block->c_in, block->c_out, s->begins, tangents + l->sums[b], s->ends, l->n * block->height * block->width, NULL);
        for (int e = 0; e < l->n; e++) push_activation(l, params, direction, trace, tangents, b, e);
    }
}

/* What `pull_normalised` is to a gradient, for its change: gradients * (of_gradient, of_change), results * (of_sums, of_dot), level. */
typedef struct {
    Channels of_gradient, of_change, of_sums, of_dot, level;
} Slope;

static void pull_tangent(const Block *b, const REAL *gradient, const REAL *change, const Choice *chosen, const REAL *sums, const REAL *sums_dot,
                         const Slope *k, Map to) {
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out, sums_dot += b->c_out) {
            REAL *result = to.at + y * to.row + x * to.place;
            const int covered = is_covered(b, y, x);
            for (int c = 0; c < b->c_out; c++) {
                const REAL here = covered ? k->of_gradient[c] * arriving(b, gradient, chosen, y, x, c) + k->of_change[c] * arriving(b, change, chosen, y, x, c) : 0;
                result[c] = here + k->of_sums[c] * sums[c] + k->of_dot[c] * sums_dot[c] + k->level[c];
            }
        }
}

/* The change of `sum_gradient`'s sums. */
static void sum_tangent(const Block *b, const REAL *gradient, const REAL *change, const Choice *chosen, const REAL *sums, const REAL *sums_dot,
                        const REAL *centre, const REAL *spread, const REAL *mean_dot, const REAL *q, REAL *flat_dot, REAL *tilt_dot) {
    memset(flat_dot, 0, b->c_out * sizeof(REAL));
    memset(tilt_dot, 0, b->c_out * sizeof(REAL));
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out, sums_dot += b->c_out) {
            if (!is_covered(b, y, x)) continue;
            for (int c = 0; c < b->c_out; c++) {
                const REAL slope = arriving(b, gradient, chosen, y, x, c), slope_dot = arriving(b, change, chosen, y, x, c);
                const REAL z = (sums[c] - centre[c]) * spread[c], z_dot = spread[c] * (sums_dot[c] - mean_dot[c] - z * q[c]);
                flat_dot[c] += slope_dot, tilt_dot[c] += slope_dot * z + slope * z_dot;
            }
        }
}

/* Of an example: the gradient in the convolution's results and its change; adds the change of the gradients in scale and shift. */
static void push_pull_activation(const Layout *l, const REAL *const *params, const REAL *const *direction, REAL *trace, const REAL *tangents, int b,
                                 int e, REAL *const *gradients, Scratch *s, Scratch *moving) {
    const Block *block = &l->blocks[b];
    const REAL *scale = SCALE(params, b), *scale_dot = SCALE(direction, b);
    const REAL *sums = trace + l->sums[b] + e * sums_size(block), *sums_dot = tangents + l->sums[b] + e * sums_size(block);
    REAL *gradient = s->above + e * out_size(block), *change = moving->above + e * out_size(block);
    const Choice *chosen = read_chosen(l, trace, b, e);
    Channels centre, spread, mean_dot, q, flat, tilt, flat_dot, tilt_dot, slope;
    Slope k;
    cut(block, out_map(l, trace, b, e), gradient);
    cut(block, out_map(l, trace, b, e), change);
    read_statistics(l, trace, b, e, centre, spread);
    find_drift(block, sums, sums_dot, centre, spread, mean_dot, q);
    sum_gradient(block, gradient, chosen, sums, centre, spread, flat, tilt);
    sum_tangent(block, gradient, change, chosen, sums, sums_dot, centre, spread, mean_dot, q, flat_dot, tilt_dot);
    for (int c = 0; c < block->c_out; c++) {
        SCALE(gradients, b)[c] += tilt_dot[c], SHIFT(gradients, b)[c] += flat_dot[c];
        flat_dot[c] = scale[c] * flat_dot[c] + scale_dot[c] * flat[c], tilt_dot[c] = scale[c] * tilt_dot[c] + scale_dot[c] * tilt[c];
        flat[c] *= scale[c], tilt[c] *= scale[c];
    }
    share_in_group(block, flat), share_in_group(block, tilt), share_in_group(block, flat_dot), share_in_group(block, tilt_dot);
    for (int c = 0; c < block->c_out; c++) {
        const REAL r = spread[c], pitch = r * r * tilt[c]; /* pull_normalised: slope * gradient - (r flat - pitch m) - pitch * x */
        slope[c] = scale[c] * r;
        k.of_change[c] = slope[c];
        k.of_gradient[c] = scale_dot[c] * r - r * q[c] * slope[c];
        k.of_dot[c] = -pitch;
        k.of_sums[c] = 2 * r * q[c] * pitch - r * r * tilt_dot[c];
        k.level[c] = pitch * mean_dot[c] + r * r * q[c] * flat[c] - r * flat_dot[c] - centre[c] * k.of_sums[c];
        tilt[c] = pitch, flat[c] = flat[c] * r - pitch * centre[c];
    }
    pull_normalised(block, gradient, chosen, sums, slope, flat, tilt, slopes_map(block, s->slopes, e));
    pull_tangent(block, gradient, change, chosen, sums, sums_dot, &k, slopes_map(block, moving->slopes, e));
}

/* The change of the gradients that `pull_blocks` finds for `upstream`, which does not move itself. */
static void push_backward(const Layout *l, const REAL *const *params, const REAL *const *direction, REAL *trace, REAL *tangents,
                          const REAL *upstream, REAL *const *gradients, Scratch *s, Scratch *moving) {
    clear_gradients(l, gradients);
    place_gradient(l, upstream, s->above, 0, l->n);
    memset(moving->above, 0, l->n * out_size(last_block(l)) * sizeof(REAL));
    for (int b = l->n_blocks - 1; b >= 0; b--) {
        const Block *block = &l->blocks[b];
        memset(s->slopes, 0, l->n * slopes_size(block) * sizeof(REAL));
        memset(moving->slopes, 0, l->n * slopes_size(block) * sizeof(REAL));
        for (int e = 0; e < l->n; e++) push_pull_activation(l, params, direction, trace, tangents, b, e, gradients, s, moving);
        pull_kernel(l, trace + l->input[b], b, moving->slopes, KERNEL(gradients, b));
        if (!b) return;
        pull_kernel(l, tangents + l->input[b], b, s->slopes, KERNEL(gradients, b));
        turn_kernel(block, KERNEL(params, b), s->turned, 0, 9);
        turn_kernel(block, KERNEL(direction, b), moving->turned, 0, 9);
        pull_convolution(l, b, 0, l->n, 1, &s->slopes, &s->turned, s->below, s);
        pull_convolution(l, b, 0, l->n, 2, (REAL *[]){moving->slopes, s->slopes}, (REAL *[]){s->turned, moving->turned}, moving->below, s);
        swap_maps(s);
        swap_maps(moving);
    }
}

#endif
