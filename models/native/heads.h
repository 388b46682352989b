/* A lane whose head is found in closed form, and the simplest such head: prototypes. */
#ifndef HEADS_H
#define HEADS_H

#include "glance.h"
#include "head.h"
#include "solve.h"

enum { PROTOTYPES, SPHERE, GAUSSIAN };

/* What a batch of lanes is solved for; the torch of `models/methods` is the reference.
 *
 * images (lanes, n, c, h, w), targets (lanes, n), mask (lanes, n), class_mask (lanes, max_way): real examples and classes come first
 * body: of all lanes. head: prototypes, or ridge regression on the sphere, or by a Gaussian kernel. sharpness: of its answers
 * middle (d): on the sphere, towards which a lane's centre is drawn by the weight of so many classes. spread: share of a Gaussian's unit
 * features (lanes, n, d), loss (lanes), accuracy (lanes), and of the head rows (lanes, max_way, d) and, on the sphere, frame (lanes, d);
 * or for a Gaussian rows (lanes, n, d), its examples, frame (lanes), its unit, and duals (lanes, n, max_way)
 */
typedef struct {
    const Block *blocks;
    int n_blocks, lanes, n, max_way, head;
    double middle_weight, spread, penalty, sharpness;
    const REAL *images;
    const long long *targets;
    const unsigned char *mask, *class_mask;
    const REAL *const *body, *middle;
    REAL *features, *rows, *frame, *duals, *loss, *accuracy;
} Closed;

/* A lane and the room for its head: points (n, d) and logits (n, max_way); in double precision points and goals, each times the root of its
 * example's weight, a system of equations, what it is solved by, and squared lengths. */
typedef struct {
    Task task;
    int index;
    REAL *points, *logits, *zeros;
    double *weighted, *goals, *system, *solved, *squares;
} Lane;

static ptrdiff_t system_size(const Closed *c, ptrdiff_t width) {
    const ptrdiff_t size = whole_groups(c->n < width || c->head == GAUSSIAN ? c->n : width);
    return size * (whole_vectors(size) + whole_vectors(c->max_way));
}

/* Room in `at`, or how many bytes it takes. */
static size_t share_lane(const Closed *c, ptrdiff_t width, char *at, Lane *lane) {
    ptrdiff_t reals = 0, doubles = 0;
    const ptrdiff_t points = take(&reals, c->n * width), logits = take(&reals, (ptrdiff_t)c->n * c->max_way), shares = take(&reals, c->n),
                    zeros = take(&reals, c->max_way), weighted = take(&doubles, whole_groups(c->n) * width),
                    goals = take(&doubles, c->n * whole_vectors(c->max_way)), system = take(&doubles, system_size(c, width)),
                    solved = take(&doubles, c->max_way * width), squares = take(&doubles, c->n);
    if (lane) {
        REAL *real = (REAL *)at;
        double *wider = (double *)(real + reals);
        lane->points = real + points, lane->logits = real + logits, lane->task.shares = real + shares, lane->zeros = real + zeros;
        lane->weighted = wider + weighted, lane->goals = wider + goals, lane->system = wider + system, lane->solved = wider + solved;
        lane->squares = wider + squares;
    }
    return reals * sizeof(REAL) + (c->head ? doubles * sizeof(double) : 0);
}

static Lane open_lane(const Closed *c, ptrdiff_t width, int index, char *memory) {
    const ptrdiff_t of_lane = (ptrdiff_t)index * c->n;
    Lane lane = {.index = index};
    lane.task = (Task){.n = count_real(c->mask + of_lane, c->n), .ways = count_real(c->class_mask + (ptrdiff_t)index * c->max_way, c->max_way),
                       .width = width, .scale = 1, .targets = c->targets + of_lane};
    share_lane(c, width, memory, &lane);
    return lane;
}

/* Minus the squared distance of each example to each row: of differences, not of squares, which would lose digits where it is small. */
static void find_distances(const Task *t, const REAL *features, const REAL *rows, REAL *logits) {
    for (int e = 0; e < t->n; e++)
        for (int k = 0; k < t->ways; k++) {
            vector sum = {0};
            for (ptrdiff_t at = 0; at < t->width; at += LENGTH) {
                const vector off = *(const vector *)(features + e * t->width + at) - *(const vector *)(rows + k * t->width + at);
                sum += off * off;
            }
            REAL total = 0;
            for (int i = 0; i < LENGTH; i++) total += sum[i];
            logits[e * t->ways + k] = -total;
        }
}

/* The means of the classes, from zeros. */
static void average_classes(const Task *t, const REAL *features, REAL *rows) {
    for (int e = 0; e < t->n; e++)
        combine_rows(&t->shares[e], 1, features + e * t->width, 1, t->width, 1, NULL, rows + t->targets[e] * t->width);
}

#endif
