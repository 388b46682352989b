/* How a pass and its pass back change when the parameters move: what a gradient of a gradient is made of (Pearlmutter 1994).
 *
 * Names: what ends in `_dot` is the change of what is named before it. With mean m, one over the deviation r and the normalised results
 * z = (x - m) r of a group, z_dot = r (x_dot - mean(x_dot) - z q) and r_dot = -r r q, where q = mean(z x_dot).
 */
#ifndef TANGENT_H
#define TANGENT_H

#include "backward.h"

typedef REAL Channels[MAX_CHANNELS];

/* Sums over an example's places of x_dot and of z x_dot. */
INLINE void sum_drift(const int no_option, const int wide, int c, const Block *b, const REAL *sums, const REAL *sums_dot, const REAL *centre,
                      const REAL *spread, REAL *total, REAL *products) {
    Strip of_dot = {0}, of_products = {0}, middle;
    load_strip(wide, centre + c, middle);
    for (int p = 0; p < b->height * b->width; p++, sums += b->c_out, sums_dot += b->c_out)
        UNROLL for (int v = 0; v < wide; v++) {
            const vector dot = load(sums_dot + c + v * LENGTH);
            of_dot[v] += dot, of_products[v] += (load(sums + c + v * LENGTH) - middle[v]) * dot;
        }
    store_strip(wide, of_dot, total + c);
    UNROLL for (int v = 0; v < wide; v++) of_products[v] *= load(spread + c + v * LENGTH);
    store_strip(wide, of_products, products + c);
}

/* mean(x_dot) and mean(z x_dot) of an example, a number a channel. */
static void find_drift(const Block *b, const REAL *sums, const REAL *sums_dot, const REAL *centre, const REAL *spread, REAL *mean_dot, REAL *q) {
    BY_STRIP(0, b->c_out, sum_drift, b, sums, sums_dot, centre, spread, mean_dot, q)
    share_in_group(b, mean_dot);
    share_in_group(b, q);
}

/* The change of what leaves a block at one place: of_sums * x + of_dot * x_dot + level where the ReLU let it through. */
INLINE void activate_tangent(const int pools, const int wide, int c, const Block *b, const REAL *sums, const REAL *sums_dot, const REAL *of_sums,
                             const REAL *of_dot, const REAL *level, const Choice *chosen, Map out, Map to) {
    const ptrdiff_t row = (ptrdiff_t)b->width * b->c_out;
    Strip factor, factor_dot, summand;
    load_strip(wide, of_sums + c, factor), load_strip(wide, of_dot + c, factor_dot), load_strip(wide, level + c, summand);
    for (int y = 0; y < out_height(b); y++)
        for (int x = 0; x < out_width(b); x++, chosen += b->c_out)
            UNROLL for (int v = 0; v < wide; v++) {
                const int at = c + v * LENGTH;
                const ptrdiff_t corner = (1 + pools) * (y * row + x * b->c_out) + at;
                choices place = (choices)load(sums + corner), place_dot = (choices)load(sums_dot + corner);
                UNROLL for (int p = 1; pools && p < 4; p++) {
                    const choices here = *(const choices *)(chosen + at) == p;
                    const ptrdiff_t other = corner + (p / 2) * row + (p % 2) * b->c_out;
                    place = pick(here, (choices)load(sums + other), place);
                    place_dot = pick(here, (choices)load(sums_dot + other), place_dot);
                }
                const choices passes = load(out.at + y * out.row + x * out.place + at) > 0;
                const vector change = factor[v] * (vector)place + factor_dot[v] * (vector)place_dot + summand[v];
                *(vector *)(to.at + y * to.row + x * to.place + at) = (vector)(passes & (choices)change);
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
    const Arrival from = find_arrival(l, NULL, trace, b, e);
    BY_POOLING(block, activate_tangent, block, sums, sums_dot, of_sums, of_dot, level, from.chosen, from.out, out_map(l, tangents, b, e))
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

INLINE void pull_tangent(const int pools, const int wide, int c, const Block *b, const Arrival *from, const Arrival *moving, const REAL *sums,
                         const REAL *sums_dot, const Slope *k, Map to) {
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out, sums_dot += b->c_out) {
            const int covered = is_covered(pools, b, y, x);
            UNROLL for (int v = 0; v < wide; v++) {
                const int at = c + v * LENGTH;
                vector result = load(k->level + at) + load(k->of_sums + at) * load(sums + at) + load(k->of_dot + at) * load(sums_dot + at);
                if (covered)
                    result += load(k->of_gradient + at) * arrive(pools, b, from, y, x, at) +
                              load(k->of_change + at) * arrive(pools, b, moving, y, x, at);
                *(vector *)(to.at + y * to.row + x * to.place + at) = result;
            }
        }
}

/* The change of `sum_gradient`'s sums. */
INLINE void sum_tangent(const int pools, const int wide, int c, const Block *b, const Arrival *from, const Arrival *moving, const REAL *sums,
                        const REAL *sums_dot, const REAL *centre, const REAL *spread, const REAL *mean_dot, const REAL *q, REAL *flat_dot,
                        REAL *tilt_dot) {
    Strip of_change = {0}, of_products = {0}, middle, middle_dot, narrowing;
    load_strip(wide, centre + c, middle), load_strip(wide, mean_dot + c, middle_dot);
    UNROLL for (int v = 0; v < wide; v++) narrowing[v] = load(spread + c + v * LENGTH) * load(q + c + v * LENGTH);
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++, sums += b->c_out, sums_dot += b->c_out) {
            if (!is_covered(pools, b, y, x)) continue;
            UNROLL for (int v = 0; v < wide; v++) {
                const int at = c + v * LENGTH;
                const vector slope = arrive(pools, b, from, y, x, at), slope_dot = arrive(pools, b, moving, y, x, at);
                const vector off = load(sums + at) - middle[v], off_dot = load(sums_dot + at) - middle_dot[v] - off * narrowing[v];
                of_change[v] += slope_dot, of_products[v] += slope_dot * off + slope * off_dot; /* z and z_dot, less a factor of r */
            }
        }
    store_strip(wide, of_change, flat_dot + c);
    UNROLL for (int v = 0; v < wide; v++) of_products[v] *= load(spread + c + v * LENGTH);
    store_strip(wide, of_products, tilt_dot + c);
}

/* Of an example: the gradient in the convolution's results and its change; adds the change of the gradients in scale and shift. */
static void push_pull_activation(const Layout *l, const REAL *const *params, const REAL *const *direction, REAL *trace, const REAL *tangents, int b,
                                 int e, REAL *const *gradients, Scratch *s, Scratch *moving) {
    const Block *block = &l->blocks[b];
    const REAL *scale = SCALE(params, b), *scale_dot = SCALE(direction, b);
    const REAL *sums = trace + l->sums[b] + e * sums_size(block), *sums_dot = tangents + l->sums[b] + e * sums_size(block);
    const Arrival from = find_arrival(l, s->above, trace, b, e), changing = find_arrival(l, moving->above, trace, b, e);
    const Map to = frame_slopes(block, !b, s->slopes, e), to_dot = frame_slopes(block, !b, moving->slopes, e);
    Channels centre, spread, mean_dot, q, flat, tilt, flat_dot, tilt_dot, slope;
    Slope k;
    read_statistics(l, trace, b, e, centre, spread);
    find_drift(block, sums, sums_dot, centre, spread, mean_dot, q);
    BY_POOLING(block, sum_gradient, block, &from, sums, centre, spread, flat, tilt)
    BY_POOLING(block, sum_tangent, block, &from, &changing, sums, sums_dot, centre, spread, mean_dot, q, flat_dot, tilt_dot)
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
    BY_POOLING(block, pull_normalised, block, &from, sums, slope, flat, tilt, to)
    BY_POOLING(block, pull_tangent, block, &from, &changing, sums, sums_dot, &k, to_dot)
}

/* Of scales and shifts, which are summed up example by example; kernels' are written whole. */
static void clear_affine(const Layout *l, REAL *const *gradients) {
    for (int b = 0; b < l->n_blocks; b++) {
        memset(SCALE(gradients, b), 0, l->blocks[b].c_out * sizeof(REAL));
        memset(SHIFT(gradients, b), 0, l->blocks[b].c_out * sizeof(REAL));
    }
}

/* The change of the gradients that `pull_blocks` found for `upstream`, which moves itself by `upstream_dot`, or not where that is NULL.
 * s->kept: what it kept. */
static void push_backward(const Layout *l, const REAL *const *params, const REAL *const *direction, REAL *trace, REAL *tangents,
                          const REAL *upstream, const REAL *upstream_dot, REAL *const *gradients, Scratch *s, Scratch *moving) {
    clear_affine(l, gradients);
    place_gradient(l, upstream, s->above, 0, l->n);
    if (upstream_dot) place_gradient(l, upstream_dot, moving->above, 0, l->n);
    else memset(moving->above, 0, l->n * out_size(last_block(l)) * sizeof(REAL));
    for (int b = l->n_blocks - 1; b >= 0; b--) {
        const Block *block = &l->blocks[b];
        for (int e = 0; e < l->n; e++) push_pull_activation(l, params, direction, trace, tangents, b, e, gradients, s, moving);
        pull_kernel(l, trace + l->input[b], b, moving->slopes, KERNEL(gradients, b), 0, s);
        if (!b) return;
        pull_kernel(l, tangents + l->input[b], b, s->slopes, KERNEL(gradients, b), 1, s);
        turn_kernel(block, KERNEL(params, b), s->turned, 0, 9);
        turn_kernel(block, KERNEL(direction, b), moving->turned, 0, 9);
        pull_convolution(l, b, 0, l->n, 2, (REAL *[]){moving->slopes, s->slopes}, (REAL *[]){s->turned, moving->turned}, moving->below, s);
        s->above = s->kept + kept_place(l, b);
        swap_maps(moving);
    }
}

#endif
