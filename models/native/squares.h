/* Convolutions at stride 1 with 16 products of channels where the direct way has 36: four places of a result at once, a square.
 *
 * S. Winograd, Arithmetic Complexity of Computations, 1980; for networks Lavin & Gray 2015 (arXiv:1509.09308), there F(2x2, 3x3). A square
 * of 2x2 results is seen in 4x4 places of the padded map. Both, and the kernel, are brought to 16 points, at each of which a convolution, or
 * its gradient, is a product of matrices. Where the four places see the same, their sums are the same to the last bit, as they are directly:
 * pooling chooses the first of equal ones.
 */
#ifndef SQUARES_H
#define SQUARES_H

#include "network.h"
#include "turning.h"

#define POINTS 16
#define SQUARES (8 * ROWS) /* worked on at once: whole tiles, and few enough that all points of them stay in a second cache */

static int squares_across(const Block *b) { return (b->width + 1) / 2; }
static int count_squares(const Block *b) { return (b->height + 1) / 2 * squares_across(b); }

/* How far a point's numbers lie behind those of the one before. By a power of two all points would want the same few places of a cache: a
 * whole step of pooled Conv-4 64 took 7 % longer (AMD EPYC, 2026-11-21). */
static ptrdiff_t point_pitch(ptrdiff_t count) { return count + LINE / (ptrdiff_t)sizeof(REAL); }

static ptrdiff_t map_pitch(int channels) { return point_pitch((ptrdiff_t)SQUARES * channels); }
static ptrdiff_t kernel_pitch(const Block *b) { return point_pitch((ptrdiff_t)b->c_in * b->c_out); }

/* Whether squares are less work: of small maps much of what they cover lies beyond the border, and the kernel is brought to points for few. */
static int suits_squares(const Block *b) {
    const int squares = count_squares(b);
    return b->stride == 1 && b->c_in % LENGTH == 0 && squares >= 4 && 12 * squares <= 4 * b->height * b->width;
}

/* Whether a block of a network does. The first does not: nobody asks for the gradient in the images, nor lays zeros around it. */
static int goes_by_squares(const Layout *l, int b) { return b && suits_squares(&l->blocks[b]); }

/* Memory of one thread: two maps' squares and a kernel at all points, and places of theirs. */
typedef struct {
    REAL *points;
    ptrdiff_t *begins, *ends;
} Room;

static ptrdiff_t points_size(const Block *b) {
    return suits_squares(b) ? POINTS * (map_pitch(b->c_in) + map_pitch(b->c_out) + kernel_pitch(b)) : 0;
}

/* In one direction: four places, three taps or two results `step` apart as four points; and points as two results or three taps. */
INLINE void places_to_points(const vector *v, const int step, vector *to) {
    to[0] = v[0] - v[2 * step], to[step] = v[step] + v[2 * step], to[2 * step] = v[2 * step] - v[step], to[3 * step] = v[step] - v[3 * step];
}

INLINE void taps_to_points(const vector *v, const int step, vector *to) {
    const vector ends = (v[0] + v[2 * step]) * (REAL)0.5, middle = v[step] * (REAL)0.5;
    to[0] = v[0], to[step] = ends + middle, to[2 * step] = ends - middle, to[3 * step] = v[2 * step];
}

INLINE void results_to_points(const vector *v, const int step, vector *to) {
    to[0] = v[0], to[step] = v[0] + v[step], to[2 * step] = v[0] - v[step], to[3 * step] = -v[step];
}

INLINE void points_to_results(const vector *v, const int step, vector *to) {
    to[0] = v[0] + v[step] + v[2 * step], to[step] = v[step] - v[2 * step] - v[3 * step];
}

INLINE void points_to_taps(const vector *v, const int step, vector *to) {
    const vector sum = (v[step] + v[2 * step]) * (REAL)0.5;
    to[0] = v[0] + sum, to[step] = (v[step] - v[2 * step]) * (REAL)0.5, to[2 * step] = sum + v[3 * step];
}

/* The same down the columns and then along the rows of what is 4 wide: `columns` of them, of which `rows` rows are left. */
#define TRANSFORM(change, from, columns, rows, to)                            \
    do {                                                                      \
        vector down[POINTS];                                                  \
        UNROLL for (int i = 0; i < columns; i++) change(from + i, 4, down + i); \
        UNROLL for (int i = 0; i < rows; i++) change(down + 4 * i, 1, to + 4 * i); \
    } while (0)

/* Square `at` of many examples' maps: whose it is, and its first place. */
typedef struct {
    int example, y, x;
} Square;

static Square find_square(const Block *b, int at) {
    const int within = at % count_squares(b);
    return (Square){at / count_squares(b), within / squares_across(b) * 2, within % squares_across(b) * 2};
}

static int least(int a, int b) { return a < b ? a : b; }

/* Channels [c, until) of what squares [first, next) are seen in, of padded maps (n, height + 2, width + 2, channels), at all points. */
static void bring_places(const Block *b, const REAL *maps, int channels, int c, int until, int first, int next, REAL *points) {
    const ptrdiff_t row = (ptrdiff_t)(b->width + 2) * channels, pitch = map_pitch(until - c);
    for (int at = first; at < next; at++, points += until - c) {
        const Square q = find_square(b, at);
        const REAL *places[POINTS];
        for (int p = 0; p < POINTS; p++) { /* of an odd map the last squares would look beyond the zeros; what they see there is of no result */
            const int y = least(q.y + p / 4, b->height + 1), x = least(q.x + p % 4, b->width + 1);
            places[p] = maps + ((ptrdiff_t)q.example * (b->height + 2) + y) * row + (ptrdiff_t)x * channels + c;
        }
        for (int k = 0; k < until - c; k += LENGTH) {
            vector seen[POINTS], found[POINTS];
            UNROLL for (int p = 0; p < POINTS; p++) seen[p] = *(const vector *)(places[p] + k);
            TRANSFORM(places_to_points, seen, 4, 4, found);
            UNROLL for (int p = 0; p < POINTS; p++) *(vector *)(points + p * pitch + k) = found[p];
        }
    }
}

/* Squares [first, next) of the gradient in results, which has zeros around it, at all points. */
static void bring_results(const Block *b, const REAL *slopes, int first, int next, REAL *points) {
    const ptrdiff_t row = (ptrdiff_t)(b->width + 2) * b->c_out, pitch = map_pitch(b->c_out);
    for (int at = first; at < next; at++, points += b->c_out) {
        const Square q = find_square(b, at);
        const REAL *place = slopes + ((ptrdiff_t)q.example * (b->height + 2) + q.y + 1) * row + (ptrdiff_t)(q.x + 1) * b->c_out;
        for (int k = 0; k < b->c_out; k += LENGTH, place += LENGTH) {
            vector given[8], found[POINTS];
            UNROLL for (int p = 0; p < 4; p++) given[p / 2 * 4 + p % 2] = *(const vector *)(place + p / 2 * row + p % 2 * b->c_out);
            TRANSFORM(results_to_points, given, 2, 4, found);
            UNROLL for (int p = 0; p < POINTS; p++) *(vector *)(points + p * pitch + k) = found[p];
        }
    }
}

/* Squares [first, next) of results, from all points into maps (n, height, width, channels). */
static void settle_results(const Block *b, const REAL *points, int first, int next, REAL *maps, int channels) {
    const ptrdiff_t row = (ptrdiff_t)b->width * channels, pitch = map_pitch(channels);
    for (int at = first; at < next; at++, points += channels) {
        const Square q = find_square(b, at);
        REAL *place = maps + ((ptrdiff_t)q.example * b->height + q.y) * row + (ptrdiff_t)q.x * channels;
        for (int k = 0; k < channels; k += LENGTH, place += LENGTH) {
            vector given[POINTS], found[8];
            UNROLL for (int p = 0; p < POINTS; p++) given[p] = *(const vector *)(points + p * pitch + k);
            TRANSFORM(points_to_results, given, 4, 2, found);
            UNROLL for (int p = 0; p < 4; p++)
                if (q.y + p / 2 < b->height && q.x + p % 2 < b->width) *(vector *)(place + p / 2 * row + p % 2 * channels) = found[p / 2 * 4 + p % 2];
        }
    }
}

/* A vector of each tap of a kernel at all points. */
INLINE void bring_taps(const Block *b, const REAL *kernel, vector found[POINTS]) {
    vector taps[12];
    UNROLL for (int t = 0; t < 9; t++) taps[t / 3 * 4 + t % 3] = *(const vector *)(kernel + (ptrdiff_t)t * b->c_in * b->c_out);
    TRANSFORM(taps_to_points, taps, 3, 4, found);
}

/* Where in a thread's memory a kernel lies at all points. */
static REAL *kernel_points(const Block *b, const Room *room) { return room->points + POINTS * (map_pitch(b->c_in) + map_pitch(b->c_out)); }

/* What `convolve_squares` needs of a kernel: all points of it (POINTS, c_in, c_out). */
static void bring_kernel(const Block *b, const REAL *kernel, REAL *points) {
    for (ptrdiff_t k = 0; k < (ptrdiff_t)b->c_in * b->c_out; k += LENGTH) {
        vector found[POINTS];
        bring_taps(b, kernel + k, found);
        UNROLL for (int p = 0; p < POINTS; p++) *(vector *)(points + p * kernel_pitch(b) + k) = found[p];
    }
}

/* `u` by the gradient in rows [first, next) of each tap, from all points. */
static void settle_taps(const Block *b, const REAL *points, int first, int next, Update u) {
    const ptrdiff_t count = (ptrdiff_t)(next - first) * b->c_out, pitch = point_pitch(count);
    for (ptrdiff_t k = 0; k < count; k += LENGTH) {
        vector given[POINTS], found[12];
        UNROLL for (int p = 0; p < POINTS; p++) given[p] = *(const vector *)(points + p * pitch + k);
        TRANSFORM(points_to_taps, given, 4, 3, found);
        UNROLL for (int t = 0; t < 9; t++) {
            const ptrdiff_t at = ((ptrdiff_t)t * b->c_in + first) * b->c_out + k;
            const vector zero = {0}, from = u.from ? *(const vector *)(u.from + at) : zero;
            const vector factor = u.each ? u.factor * *(const vector *)(u.each + at) : zero + u.factor;
            *(vector *)(u.to + at) = from + factor * found[t / 3 * 4 + t % 3];
        }
    }
}

/* The same for the way back: rows [first, next) of each tap at all points, turned round (POINTS, c_out, c_in) and mirrored, which
 * exchanges first and last points. */
static void turn_squares(const Block *b, const REAL *kernel, REAL *turned, int first, int next) {
    REAL corner[POINTS][LENGTH * LENGTH];
    for (int i = first; i < next; i += LENGTH)
        for (int o = 0; o < b->c_out; o += LENGTH) {
            for (int r = 0; r < LENGTH; r++) {
                vector found[POINTS];
                bring_taps(b, kernel + (ptrdiff_t)(i + r) * b->c_out + o, found);
                UNROLL for (int p = 0; p < POINTS; p++) *(vector *)(corner[p] + r * LENGTH) = found[p];
            }
            for (int p = 0; p < POINTS; p++) {
                const int y = p / 4, x = p % 4, mirrored = (y % 3 ? y : 3 - y) * 4 + (x % 3 ? x : 3 - x);
                transpose_square(corner[p], LENGTH, turned + mirrored * kernel_pitch(b) + (ptrdiff_t)o * b->c_in + i, b->c_in);
            }
        }
}

/* Squares [first, next) of the convolution of padded maps (n, height + 2, width + 2, depth) by a kernel at all points (POINTS, depth, channels)
 * into maps (n, height, width, channels). */
static void convolve_squares(const Block *b, const REAL *maps, int depth, const REAL *kernel, int first, int next, REAL *to, int channels,
                             const Room *room) {
    REAL *results = room->points + POINTS * map_pitch(depth);
    for (int at = first, until; at < next; at = until) {
        until = least(at + SQUARES, next);
        for (int i = 0; i < until - at; i++) room->begins[i] = (ptrdiff_t)i * depth, room->ends[i] = (ptrdiff_t)i * channels;
        bring_places(b, maps, depth, 0, depth, at, until, room->points);
        for (int p = 0; p < POINTS; p++) {
            const Tap tap = {room->points + p * map_pitch(depth), kernel + p * kernel_pitch(b)};
            multiply(&tap, 1, depth, channels, room->begins, results + p * map_pitch(channels), room->ends, until - at, NULL);
        }
        settle_results(b, results, at, until, to, channels);
    }
}

/* `u` by the gradient in rows [first, next) of each tap of a kernel, from n examples' padded inputs and `slopes`, the gradient in their results
 * with zeros around. */
static void correlate_squares(const Block *b, const REAL *inputs, const REAL *slopes, int n, int first, int next, Update u, const Room *room) {
    const int c = first / LENGTH * LENGTH, end = (next + LENGTH - 1) / LENGTH * LENGTH, rows = next - first, count = n * count_squares(b);
    const ptrdiff_t size = (ptrdiff_t)rows * b->c_out;
    REAL *results = room->points + POINTS * map_pitch(b->c_in), *found = kernel_points(b, room);
    int at = 0;
    do { /* once at least: where there are no examples the gradient is zero */
        const int until = least(at + SQUARES, count);
        const Places places = {until - at, room->begins, room->ends};
        for (int i = 0; i < until - at; i++) room->begins[i] = (ptrdiff_t)i * (end - c), room->ends[i] = (ptrdiff_t)i * b->c_out;
        bring_places(b, inputs, b->c_in, c, end, at, until, room->points);
        bring_results(b, slopes, at, until, results);
        for (int p = 0; p < POINTS; p++) {
            REAL *sum = found + p * point_pitch(size);
            correlate(&places, room->points + p * map_pitch(end - c) + first - c, rows, results + p * map_pitch(b->c_out), b->c_out,
                      (Update){at ? sum : NULL, sum, 1, NULL});
        }
        at += SQUARES;
    } while (at < count);
    settle_taps(b, found, first, next, u);
}

#endif
