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
#define UNROLL _Pragma("GCC unroll 16")
/* Steps of a sum that are written out behind each other. One by one, a compiler moves results from register to register in each of them:
 * convolutions of 64 channels at 160 in place of 168 GFLOP/s, with AVX2 at 98 in place of 105 (one thread of an Intel Xeon, 2026-11-21). */
#define STEPS 4
#define STEPS_OF_PLACES 2

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

typedef struct {
    const char *from;
    ptrdiff_t bytes;
} Memory;

/* Memory that will be read soon, and then: fetched while products are made. */
typedef struct {
    Memory now, then;
} Ahead;

#define LINE 64
/* Lines that are fetched in STEPS steps of a sum. More at once than a core keeps on their way, and the products wait. */
#define LINES_AHEAD 2

/* The next `lines` lines of it; NULL where nothing is left. */
static const char *take_ahead(Ahead *ahead, ptrdiff_t lines) {
    if (!ahead) return NULL;
    if (ahead->now.bytes <= 0) ahead->now = ahead->then, ahead->then.bytes = 0;
    if (ahead->now.bytes <= 0) return NULL;
    const char *from = ahead->now.from;
    ahead->now.from += lines * LINE, ahead->now.bytes -= lines * LINE;
    return from;
}

typedef vector Sums[ROWS][WIDTH];

INLINE void clear_sums(const int rows, const int width, Sums sums) {
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < width; v++) sums[r][v] = (vector){0};
}

INLINE void load_sums(const int rows, const int width, Sums sums, const REAL *from, const ptrdiff_t *places) {
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < width; v++) sums[r][v] = *(const vector *)(from + places[r] + v * LENGTH);
}

/* sums[r][:] += at[r][step] * right[:width * LENGTH] */
INLINE void add_products(const int rows, const int width, Sums sums, const REAL *const at[ROWS], ptrdiff_t step, const REAL *right) {
    vector factor[WIDTH];
    UNROLL for (int v = 0; v < width; v++) factor[v] = *(const vector *)(right + v * LENGTH);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < width; v++) sums[r][v] += at[r][step] * factor[v];
}

/* results[r][:width * LENGTH] = sum over taps of (1 x depth) @ (depth x width * LENGTH); a kernel's rows are `pitch` apart. further: added to
 * what is there, one product after the other, as if they had been summed at once. */
INLINE void multiply_tile(const int rows, const int width, const Tap *taps, int n_taps, int depth, ptrdiff_t pitch, ptrdiff_t column,
                          const ptrdiff_t *begins, REAL *to, const ptrdiff_t *ends, const char *ahead, int further) {
    Sums sums;
    if (further) load_sums(rows, width, sums, to + column, ends);
    else clear_sums(rows, width, sums);
    for (int t = 0; t < n_taps; t++) {
        const REAL *row[ROWS], *kernel = taps[t].kernel + column;
        UNROLL for (int r = 0; r < rows; r++) row[r] = taps[t].from + begins[r];
        int k = 0;
        for (; k + STEPS <= depth; k += STEPS) {
            if (ahead) {
                UNROLL for (int i = 0; i < LINES_AHEAD; i++, ahead += LINE) __builtin_prefetch(ahead, 0, 2);
            }
            UNROLL for (int i = 0; i < STEPS; i++, kernel += pitch) add_products(rows, width, sums, row, k + i, kernel);
        }
        for (; k < depth; k++, kernel += pitch) add_products(rows, width, sums, row, k, kernel);
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < width; v++)
        *(vector *)(to + ends[r] + column + v * LENGTH) = sums[r][v];
}

/* The same places of two maps, as far behind `left` and `right` as `lefts` and `rights` say. */
typedef struct {
    int count;
    const ptrdiff_t *lefts, *rights;
} Places;

/* What becomes of a sum: to = from + factor * sum, or, with a factor for each number, from + factor * each * sum. `from` of NULL is zeros. */
typedef struct {
    const REAL *from;
    REAL *to, factor;
    const REAL *each;
} Update;

INLINE Update move_update(Update u, ptrdiff_t by) {
    return (Update){u.from ? u.from + by : NULL, u.to + by, u.factor, u.each ? u.each + by : NULL};
}

/* Row r of `u` from the sum over the places of left[place][r] * right[place][:]; its rows are `pitch` apart. */
INLINE void correlate_tile(const int rows, const int width, const Places *places, const REAL *left, const REAL *right, Update u, ptrdiff_t pitch) {
    Sums sums;
    clear_sums(rows, width, sums);
    const REAL *row[ROWS];
    UNROLL for (int r = 0; r < rows; r++) row[r] = left + r;
    int m = 0;
    for (; m + STEPS_OF_PLACES <= places->count; m += STEPS_OF_PLACES)
        UNROLL for (int i = 0; i < STEPS_OF_PLACES; i++) add_products(rows, width, sums, row, places->lefts[m + i], right + places->rights[m + i]);
    for (; m < places->count; m++) add_products(rows, width, sums, row, places->lefts[m], right + places->rights[m]);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < width; v++) {
        const ptrdiff_t at = r * pitch + v * LENGTH;
        const vector zero = {0}, from = u.from ? *(const vector *)(u.from + at) : zero;
        const vector factor = u.each ? u.factor * *(const vector *)(u.each + at) : zero + u.factor;
        *(vector *)(u.to + at) = from + factor * sums[r][v]; /* one rounding in tiles of all heights, or the bits differ */
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

/* Every row of `count`, `channels` results each: where it begins behind the taps' `from`, and ends up in `to`, `further` what is there already. */
static void multiply_further(const Tap *taps, int n_taps, int depth, int channels, const ptrdiff_t *begins, REAL *to, const ptrdiff_t *ends,
                             int count, Ahead *ahead, int further) {
    const int tiles = (count + ROWS - 1) / ROWS; /* of nearly equal height: a last one of a single row would wait for memory */
    for (int left = channels / LENGTH, wide; left > 0; left -= wide) {
        wide = choose_width(left);
        const ptrdiff_t column = channels - left * LENGTH;
        for (int tile = 0, first = 0; tile < tiles; tile++) {
            const int next = (int)((long)count * (tile + 1) / tiles);
            const char *lines = take_ahead(ahead, (ptrdiff_t)n_taps * (depth / STEPS * LINES_AHEAD));
            BY_ROWS(next - first, wide, multiply_tile, taps, n_taps, depth, channels, column, begins + first, to, ends + first, lines,
                    further)
            first = next;
        }
    }
}

static void multiply(const Tap *taps, int n_taps, int depth, int channels, const ptrdiff_t *begins, REAL *to, const ptrdiff_t *ends, int count,
                     Ahead *ahead) {
    multiply_further(taps, n_taps, depth, channels, begins, to, ends, count, ahead, 0);
}

/* `u` (depth, channels) from the sum over places of left[place][:depth] (outer) right[place][:channels]. */
static void correlate(const Places *places, const REAL *left, int depth, const REAL *right, int channels, Update u) {
    const int tiles = (depth + ROWS - 1) / ROWS;
    for (int tile = 0, first = 0; tile < tiles; tile++) {
        const int next = (int)((long)depth * (tile + 1) / tiles);
        for (int remaining = channels / LENGTH, wide; remaining > 0; remaining -= wide) {
            wide = choose_width(remaining);
            const ptrdiff_t column = channels - remaining * LENGTH;
            BY_ROWS(next - first, wide, correlate_tile, places, left + first, right + column,
                    move_update(u, first * (ptrdiff_t)channels + column), channels)
        }
        first = next;
    }
}

#endif
