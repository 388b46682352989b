/* Positive definite systems in double precision, as small as a support set has examples or a feature has numbers.
 *
 * Rows lie `pitch` apart, in whole vectors of doubles. Every sum is taken in an order that nothing but its own length decides.
 */
#ifndef SOLVE_H
#define SOLVE_H

#include "tiles.h"

typedef double wide __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(double)), may_alias));

#define WIDE ((int)(VECTOR_BYTES / sizeof(double)))
#define PAIR 2 /* rows and groups of columns that a tile has: what it loads once it multiplies as often */
#define GROUP 4

static ptrdiff_t whole_vectors(ptrdiff_t count) { return (count + WIDE - 1) / WIDE * WIDE; }
static ptrdiff_t whole_groups(ptrdiff_t count) { return (count + GROUP - 1) / GROUP * GROUP; }

static double add_up(wide sums) {
    double sum = 0;
    for (int i = 0; i < WIDE; i++) sum += sums[i];
    return sum;
}

/* Numbers (i, j) of rows @ rows', for the rows [i, i + PAIR) and [j, j + GROUP). */
static void compare_rows(const double *rows, ptrdiff_t depth, int i, int j, double *gram, ptrdiff_t pitch) {
    wide sums[PAIR][GROUP] = {0};
    for (ptrdiff_t k = 0; k < depth; k += WIDE) {
        wide right[GROUP];
        UNROLL for (int c = 0; c < GROUP; c++) right[c] = *(const wide *)(rows + (j + c) * depth + k);
        UNROLL for (int r = 0; r < PAIR; r++) UNROLL for (int c = 0; c < GROUP; c++) sums[r][c] += *(const wide *)(rows + (i + r) * depth + k) * right[c];
    }
    for (int r = 0; r < PAIR; r++)
        for (int c = 0; c < GROUP; c++) gram[(i + r) * pitch + j + c] = add_up(sums[r][c]);
}

/* The upper half of the products of n rows with each other; there are `whole_groups(n)` of them, the last ones zeros, and as much room. */
static void compare_all(const double *rows, int n, ptrdiff_t depth, double *gram, ptrdiff_t pitch) {
    for (int i = 0; i < n; i += PAIR)
        for (int j = i / GROUP * GROUP; j < n; j += GROUP) compare_rows(rows, depth, i, j, gram, pitch);
}

/* left: its number (row, step) lies at row * along + step * down. */
typedef struct {
    const double *at;
    ptrdiff_t along, down;
} Factors;

INLINE void combine_tile(const int rows, const int many, Factors left, int steps, const double *right, ptrdiff_t right_pitch, double *to, ptrdiff_t pitch) {
    wide sums[PAIR][GROUP] = {0};
    for (int s = 0; s < steps; s++, left.at += left.down, right += right_pitch)
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < many; v++)
            sums[r][v] += left.at[r * left.along] * *(const wide *)(right + v * WIDE);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < many; v++) *(wide *)(to + r * pitch + v * WIDE) = sums[r][v];
}

INLINE void combine_rows_of(const int rows, Factors left, int steps, const double *right, ptrdiff_t right_pitch, ptrdiff_t columns, double *to, ptrdiff_t pitch) {
    ptrdiff_t c = 0;
    for (; c + GROUP * WIDE <= columns; c += GROUP * WIDE) combine_tile(rows, GROUP, left, steps, right + c, right_pitch, to + c, pitch);
    for (; c < columns; c += WIDE) combine_tile(rows, 1, left, steps, right + c, right_pitch, to + c, pitch);
}

/* to (rows, columns) = left (rows, steps) @ right (steps, columns); columns in whole vectors. upper: of a square only from the diagonal on. */
static void combine(Factors left, int rows, int steps, const double *right, ptrdiff_t right_pitch, ptrdiff_t columns, int upper, double *to,
                    ptrdiff_t pitch) {
    for (int r = 0; r < rows; r += PAIR, left.at += PAIR * left.along, to += PAIR * pitch) {
        const ptrdiff_t first = upper ? r / WIDE * WIDE : 0;
        if (r + PAIR <= rows) combine_rows_of(PAIR, left, steps, right + first, right_pitch, columns - first, to + first, pitch);
        else combine_rows_of(1, left, steps, right + first, right_pitch, columns - first, to + first, pitch);
    }
}

/* row -= factor * other, over [first, end) in whole vectors. */
static void take_off(double *row, double factor, const double *other, ptrdiff_t first, ptrdiff_t end) {
    for (ptrdiff_t c = first / WIDE * WIDE; c < end; c += WIDE) *(wide *)(row + c) -= factor * *(const wide *)(other + c);
}

/* Solves for what stands behind column `behind` of a matrix whose first `size` columns are positive definite; of these the upper half is read
 * and written over. Cholesky's way: the roots of the pivots go to what is left of and below them. Returns 1 where it is not positive definite. */
static int solve_positive(double *matrix, int size, ptrdiff_t behind, ptrdiff_t pitch) {
    for (int i = 0; i < size; i++) {
        double *row = matrix + i * pitch;
        if (!(row[i] > 0)) return 1; /* also where it is not a number */
        const double over = 1 / sqrt(row[i]);
        for (ptrdiff_t c = i / WIDE * WIDE; c < pitch; c += WIDE) *(wide *)(row + c) *= over;
        for (int j = i + 1; j < size; j++) take_off(matrix + j * pitch, row[j], row, j, pitch);
    }
    for (int i = size - 1; i >= 0; i--) {
        double *row = matrix + i * pitch;
        for (int j = i + 1; j < size; j++) take_off(row, row[j], matrix + j * pitch, behind, pitch);
        const double over = 1 / row[i];
        for (ptrdiff_t c = behind; c < pitch; c += WIDE) *(wide *)(row + c) *= over;
    }
    return 0;
}

#endif
