/* Tasks as vectors: the mean and the standard deviation of each number of a lane's features over its real examples. */
#ifndef DESCRIBE_H
#define DESCRIBE_H

#include <math.h>

#include "tiles.h"

/* Adds to `sums` what lies between an example's features and `centre`, squared where there is one. */
static void add_example(const REAL *features, const REAL *centre, ptrdiff_t width, REAL *sums) {
    for (ptrdiff_t k = 0; k < width; k++) {
        const REAL off = centre ? features[k] - centre[k] : features[k];
        sums[k] += centre ? off * off : off;
    }
}

/* sums (width) over the real ones of n examples, times `factor`. */
static void average_examples(const REAL *features, const unsigned char *mask, int n, ptrdiff_t width, const REAL *centre, REAL factor, REAL *sums) {
    for (ptrdiff_t k = 0; k < width; k++) sums[k] = 0;
    for (int e = 0; e < n; e++)
        if (mask[e]) add_example(features + e * width, centre, width, sums);
    for (ptrdiff_t k = 0; k < width; k++) sums[k] *= factor;
}

/* A lane's centre and spread, each number over the root of how many a feature has. */
static void describe_lane(const REAL *features, const unsigned char *mask, int n, ptrdiff_t width, REAL *centre, REAL *spread) {
    int count = 0;
    for (int e = 0; e < n; e++) count += mask[e];
    const REAL share = 1 / (REAL)count, root = (REAL)sqrt((double)width);
    average_examples(features, mask, n, width, NULL, share, centre);
    average_examples(features, mask, n, width, centre, share, spread);
    for (ptrdiff_t k = 0; k < width; k++) centre[k] /= root, spread[k] = (REAL)sqrt(spread[k]) / root;
}

#endif
