/* Small matrix products that keep their result in registers: what convolutions of many lanes are made of.
 *
 * The vectors are the compiler's own (GCC and Clang), VECTOR_BYTES wide, so one text serves AVX-512, AVX2 and NEON. A tile is up to
 * ROWS rows by up to WIDTH vectors of results: with WIDTH of these it uses the machine's registers up, and of every number it loads it
 * makes as many products as it can. Every result is summed in the same order whatever tile it is in, so it is the same to the last bit.
 */
#ifndef TILES_H
#define TILES_H

#include <stddef.h>
#include <stdint.h>

#ifndef REAL
#define REAL float
#endif
#ifndef VECTOR_BYTES
#define VECTOR_BYTES 16
#endif

#define ROWS 6
#define LENGTH ((int)(VECTOR_BYTES / sizeof(REAL)))
#if VECTOR_BYTES == 32 /* AVX2 has 16 registers: 6 x 2 results, two factors and one more; the others have 32 */
#define WIDTH 2
#else
#define WIDTH 4
#endif
#define INLINE static inline __attribute__((always_inline))

#ifdef REAL_IS_DOUBLE
typedef int64_t Choice;
#else
typedef int32_t Choice; /* as wide as REAL, so that one comparison serves a vector */
#endif
typedef Choice choices __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(Choice)), may_alias));
typedef REAL vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* The numbers of two vectors that `places` names, those of the second counted after those of the first. */
#ifdef __clang__
#define SHUFFLE(a, b, places) shuffle_slowly(a, b, places)
INLINE vector shuffle_slowly(vector a, vector b, choices places) {
    vector both;
    for (int i = 0; i < LENGTH; i++) both[i] = places[i] < LENGTH ? a[places[i]] : b[places[i] - LENGTH];
    return both;
}
#else
#define SHUFFLE(a, b, places) __builtin_shuffle(a, b, places)
#endif

/* One summand of a convolution: the `depth` numbers at `from` and where a row begins, by the rows of `kernel`, one for each. */
typedef struct {
    const REAL *from, *kernel;
} Tap;

/* Memory that will be read soon, piece after piece: fetched while products are made, a line of it for each step of a sum. */
typedef struct {
    const char *const *pieces;
    const ptrdiff_t *sizes;
    int count, piece;
    ptrdiff_t at;
} Ahead;

#define LINE 64

/* The next `lines` lines of it; `otherwise`, which is there already, where nothing is left. */
static const char *take_ahead(Ahead *ahead, ptrdiff_t lines, const void *otherwise) {
    if (!ahead || ahead->piece == ahead->count) return otherwise;
    const char *from = ahead->pieces[ahead->piece] + ahead->at;
    ahead->at += lines * LINE;
    if (ahead->at >= ahead->sizes[ahead->piece]) ahead->piece++, ahead->at = 0;
    return from;
}

/* results[r][:width * LENGTH] = sum over taps of (1 x depth) @ (depth x width * LENGTH); a kernel's rows are `pitch` apart. */
INLINE void multiply_tile(const int rows, const int width, const Tap *taps, int n_taps, int depth, ptrdiff_t pitch, ptrdiff_t column,
                          const ptrdiff_t *begins, REAL *to, const ptrdiff_t *ends, const char *ahead) {
    vector sum[ROWS][WIDTH];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < width; v++) sum[r][v] = (vector){0};
    for (int t = 0; t < n_taps; t++) {
        const REAL *row[ROWS], *kernel = taps[t].kernel + column;
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) row[r] = taps[t].from + begins[r];
        for (int k = 0; k < depth; k++, kernel += pitch, ahead += LINE) {
            __builtin_prefetch(ahead, 0, 2);
            vector factor[WIDTH];
#pragma GCC unroll 8
            for (int v = 0; v < width; v++) factor[v] = *(const vector *)(kernel + v * LENGTH);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
                for (int v = 0; v < width; v++) sum[r][v] += row[r][k] * factor[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < width; v++) *(vector *)(to + ends[r] + column + v * LENGTH) = sum[r][v];
}

/* Where a grid of positions lies in memory: n examples of height x width places, and how far these are apart. */
typedef struct {
    int n, height, width;
    ptrdiff_t example, row, place;
} Grid;

/* What becomes of a sum: to = from + factor * sum, or, with a factor for each number, from + factor * each * sum. */
typedef struct {
    const REAL *from;
    REAL *to, factor;
    const REAL *each;
} Update;

INLINE Update move_update(Update u, ptrdiff_t by) { return (Update){u.from + by, u.to + by, u.factor, u.each ? u.each + by : NULL}; }

/* Row r of `u` from the sum over the places of both grids of left[place][r] * right[place][:]; its rows are `pitch` apart. */
INLINE void correlate_tile(const int rows, const int width, const Grid *grid, const REAL *left, const Grid *other, const REAL *right, Update u,
                           ptrdiff_t pitch) {
    vector sum[ROWS][WIDTH];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < width; v++) sum[r][v] = (vector){0};
    for (int e = 0; e < grid->n; e++)
        for (int y = 0; y < grid->height; y++) {
            const REAL *a = left + e * grid->example + y * grid->row, *b = right + e * other->example + y * other->row;
            for (int x = 0; x < grid->width; x++, a += grid->place, b += other->place) {
                vector factor[WIDTH];
#pragma GCC unroll 8
                for (int v = 0; v < width; v++) factor[v] = *(const vector *)(b + v * LENGTH);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
                    for (int v = 0; v < width; v++) sum[r][v] += a[r] * factor[v];
            }
        }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < width; v++) {
            const ptrdiff_t at = r * pitch + v * LENGTH;
            const vector all = {0}, factor = u.each ? u.factor * *(const vector *)(u.each + at) : all + u.factor;
            *(vector *)(u.to + at) = *(const vector *)(u.from + at) + factor * sum[r][v]; /* one rounding in tiles of all heights, or the bits differ */
        }
}

/* Calls `tile(rows, width, ...)` with both numbers known to the compiler. */
#define BY_WIDTH(rows, wide, tile, ...)                    \
    switch (wide) {                                        \
    case 1: tile(rows, 1, __VA_ARGS__); break;             \
    case 2: tile(rows, 2, __VA_ARGS__); break;             \
    default: tile(rows, WIDTH, __VA_ARGS__);               \
    }
#define BY_ROWS(rows, wide, tile, ...)                     \
    switch (rows) {                                        \
    case 1: BY_WIDTH(1, wide, tile, __VA_ARGS__) break;    \
    case 2: BY_WIDTH(2, wide, tile, __VA_ARGS__) break;    \
    case 3: BY_WIDTH(3, wide, tile, __VA_ARGS__) break;    \
    case 4: BY_WIDTH(4, wide, tile, __VA_ARGS__) break;    \
    case 5: BY_WIDTH(5, wide, tile, __VA_ARGS__) break;    \
    default: BY_WIDTH(6, wide, tile, __VA_ARGS__)          \
    }

/* The widest tile for what is left of a row of `left` vectors. */
INLINE int choose_width(int left) { return left >= WIDTH ? WIDTH : left >= 2 ? 2 : 1; }

/* Every row of `count`, `channels` results each: where it begins behind the taps' `from`, and ends up in `to`. */
static void multiply(const Tap *taps, int n_taps, int depth, int channels, const ptrdiff_t *begins, REAL *to, const ptrdiff_t *ends, int count,
                     Ahead *ahead) {
    const int tiles = (count + ROWS - 1) / ROWS; /* of nearly equal height: a last one of a single row would wait for memory */
    for (int left = channels / LENGTH, wide; left > 0; left -= wide) {
        wide = choose_width(left);
        const ptrdiff_t column = channels - left * LENGTH;
        for (int tile = 0, first = 0; tile < tiles; tile++) {
            const int next = (int)((long)count * (tile + 1) / tiles);
            const char *lines = take_ahead(ahead, (ptrdiff_t)n_taps * depth, taps->kernel);
            BY_ROWS(next - first, wide, multiply_tile, taps, n_taps, depth, channels, column, begins + first, to, ends + first, lines)
            first = next;
        }
    }
}

/* `u` (depth, channels) from the sum over places of left[place][:depth] (outer) right[place][:channels]. */
static void correlate(const Grid *grid, const REAL *left, int depth, const Grid *other, const REAL *right, int channels, Update u) {
    const int tiles = (depth + ROWS - 1) / ROWS;
    for (int tile = 0, first = 0; tile < tiles; tile++) {
        const int next = (int)((long)depth * (tile + 1) / tiles);
        for (int remaining = channels / LENGTH, wide; remaining > 0; remaining -= wide) {
            wide = choose_width(remaining);
            const ptrdiff_t column = channels - remaining * LENGTH;
            BY_ROWS(next - first, wide, correlate_tile, grid, left + first, other, right + column,
                    move_update(u, first * (ptrdiff_t)channels + column), channels)
        }
        first = next;
    }
}

#endif
