/* Lanes whose head is found in closed form: features, head and what it makes of its support set, in one go. */
#ifndef CLOSED_H
#define CLOSED_H

#include <stdatomic.h>

#include "glance.h"
#include "head.h"
#include "solve.h"

/* What a batch of lanes is solved for. Ridge regression where `is_ridge`, else prototypes; the torch of `models/methods` is the reference.
 *
 * images (lanes, n, c, h, w), targets (lanes, n), mask (lanes, n), class_mask (lanes, max_way): real examples and classes come first
 * body: of all lanes. middle (d): towards which a lane's centre is drawn by the weight of so many classes; sharpness: of the answers
 * features (lanes, n, d), rows (lanes, max_way, d), centres (lanes, d), loss (lanes), accuracy (lanes): what is found
 */
typedef struct {
    const Block *blocks;
    int n_blocks, lanes, n, max_way, is_ridge;
    double middle_weight, penalty, sharpness;
    const REAL *images;
    const long long *targets;
    const unsigned char *mask, *class_mask;
    const REAL *const *body, *middle;
    REAL *features, *rows, *centres, *loss, *accuracy;
} Closed;

/* How it is worked on: a lane's examples in parts, of `per_part` of them, and the head by whoever finishes the last part. */
typedef struct {
    const Closed *closed;
    Layout glimpse;
    int per_part, parts_per_lane;
    atomic_int *finished, *failed;
} Solving;

/* A lane and the room for its head: points (n, d) and logits (n, max_way); in double precision points and goals, each times the root of its
 * example's weight, a system of equations, and what it is solved by. */
typedef struct {
    Task task;
    int index;
    REAL *points, *logits, *zeros;
    double *weighted, *goals, *system, *solved;
} Lane;

static ptrdiff_t system_size(ptrdiff_t n, ptrdiff_t width, ptrdiff_t ways) {
    const ptrdiff_t size = whole_groups(n < width ? n : width);
    return size * (whole_vectors(size) + whole_vectors(ways));
}

/* Room in `at`, or how many bytes it takes. */
static size_t share_lane(const Closed *c, ptrdiff_t width, char *at, Lane *lane) {
    ptrdiff_t reals = 0, doubles = 0;
    const ptrdiff_t points = take(&reals, c->n * width), logits = take(&reals, (ptrdiff_t)c->n * c->max_way), shares = take(&reals, c->n),
                    zeros = take(&reals, c->max_way), weighted = take(&doubles, whole_groups(c->n) * width),
                    goals = take(&doubles, c->n * whole_vectors(c->max_way)), system = take(&doubles, system_size(c->n, width, c->max_way)),
                    solved = take(&doubles, c->max_way * width);
    if (lane) {
        REAL *real = (REAL *)at;
        double *wider = (double *)(real + reals);
        lane->points = real + points, lane->logits = real + logits, lane->task.shares = real + shares, lane->zeros = real + zeros;
        lane->weighted = wider + weighted, lane->goals = wider + goals, lane->system = wider + system, lane->solved = wider + solved;
    }
    return reals * sizeof(REAL) + (c->is_ridge ? doubles * sizeof(double) : 0);
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

static void average_classes(const Task *t, const REAL *features, REAL *rows) {
    for (int e = 0; e < t->n; e++)
        combine_rows(&t->shares[e], 1, features + e * t->width, 1, t->width, 1, NULL, rows + t->targets[e] * t->width);
}

/* The mean of the class means, drawn towards the middle of all tasks. */
static void find_centre(const Closed *c, const Task *t, const REAL *features, REAL *centre) {
    const REAL weight = (REAL)c->middle_weight, whole = (REAL)t->ways + weight;
    memset(centre, 0, t->width * sizeof(REAL));
    combine_rows(t->shares, 1, features, t->n, t->width, 1, NULL, centre);
    for (ptrdiff_t k = 0; k < t->width; k++) centre[k] = (centre[k] + weight * c->middle[k]) / whole;
}

/* A feature seen from the centre, brought to length one. */
static void place_on_sphere(const REAL *feature, const REAL *centre, ptrdiff_t width, REAL *point) {
    const REAL least = (REAL)1e-12;
    for (ptrdiff_t k = 0; k < width; k++) point[k] = feature[k] - centre[k];
    const REAL length = (REAL)sqrt(multiply_rows(point, point, width)), divisor = length < least ? least : length;
    for (ptrdiff_t k = 0; k < width; k++) point[k] /= divisor;
}

/* Points and goals times the root of what an example weighs: all together as much as there are examples, and each class alike. */
static void weigh_points(const Lane *lane, const REAL *features, const REAL *centre) {
    const Task *t = &lane->task;
    const ptrdiff_t width = t->width, pitch = whole_vectors(t->ways);
    memset(lane->weighted + t->n * width, 0, (whole_groups(t->n) - t->n) * width * sizeof(double));
    memset(lane->goals, 0, t->n * pitch * sizeof(double));
    for (int e = 0; e < t->n; e++) {
        const double root = sqrt(t->shares[e] * (REAL)t->n / (REAL)t->ways);
        REAL *point = lane->points + e * width;
        place_on_sphere(features + e * width, centre, width, point);
        for (ptrdiff_t k = 0; k < width; k++) lane->weighted[e * width + k] = root * point[k];
        for (int k = 0; k < t->ways; k++) lane->goals[e * pitch + k] = root * ((k == t->targets[e]) - 1.0 / t->ways);
    }
}

/* The system behind whose first columns the goals stand: between examples, or between the numbers of a feature. */
static void pose_ridge(const Lane *lane, int by_example, int size, ptrdiff_t behind, ptrdiff_t pitch, double penalty) {
    const Task *t = &lane->task;
    const ptrdiff_t ways = whole_vectors(t->ways);
    const Factors columns = {lane->weighted, 1, t->width};
    double *system = lane->system;
    memset(system, 0, whole_groups(size) * pitch * sizeof(double));
    if (by_example) {
        compare_all(lane->weighted, size, t->width, system, pitch);
        for (int e = 0; e < size; e++) memcpy(system + e * pitch + behind, lane->goals + e * ways, ways * sizeof(double));
    } else {
        combine(columns, size, t->n, lane->weighted, t->width, t->width, system, pitch);
        combine(columns, size, t->n, lane->goals, ways, ways, system + behind, pitch);
    }
    for (int i = 0; i < size; i++) system[i * pitch + i] += penalty;
}

/* The weights (ways, d), by equations between examples where these are fewer; 1 where there are none. */
static int solve_ridge(const Lane *lane, double penalty, REAL *rows) {
    const Task *t = &lane->task;
    const ptrdiff_t width = t->width;
    const int by_example = t->n <= width, size = by_example ? t->n : (int)width;
    const ptrdiff_t behind = whole_vectors(whole_groups(size)), pitch = behind + whole_vectors(t->ways);
    const double *found = lane->system + behind, *solved = lane->solved;
    pose_ridge(lane, by_example, size, behind, pitch, penalty);
    if (solve_positive(lane->system, size, behind, pitch)) return 1;
    if (by_example) combine((Factors){found, 1, pitch}, t->ways, t->n, lane->weighted, width, width, lane->solved, width);
    for (int k = 0; k < t->ways; k++)
        for (ptrdiff_t d = 0; d < width; d++) rows[k * width + d] = (REAL)(by_example ? solved[k * width + d] : found[d * pitch + k]);
    return 0;
}

/* A lane's head from its features, and how well that does on its own examples. Returns 1 where no head was found. */
static int find_head(const Closed *c, Lane *lane) {
    Task *t = &lane->task;
    const ptrdiff_t index = lane->index, of_lane = index * c->n * t->width, of_head = index * c->max_way * t->width;
    const REAL *features = c->features + of_lane;
    REAL *rows = c->rows + of_head, *centre = c->is_ridge ? c->centres + index * t->width : NULL;
    weigh_examples(t, lane->logits);
    memset(rows, 0, c->max_way * t->width * sizeof(REAL));
    if (c->is_ridge) {
        find_centre(c, t, features, centre);
        weigh_points(lane, features, centre);
        if (solve_ridge(lane, c->penalty, rows)) return 1;
        t->scale = (REAL)c->sharpness;
        memset(lane->zeros, 0, t->ways * sizeof(REAL));
        find_logits(t, lane->points, rows, lane->zeros, lane->logits);
    } else {
        average_classes(t, features, rows);
        find_distances(t, features, rows, lane->logits);
    }
    judge(t, lane->logits, c->loss + index, c->accuracy + index);
    return 0;
}

/* Features of a part of a lane's examples, zeros in place of padding. */
static void see_part(const Solving *s, int lane, int first, void *memory) {
    const Closed *c = s->closed;
    const ptrdiff_t width = out_size(last_block(&s->glimpse)), begin = (ptrdiff_t)lane * c->n + first;
    const int all = s->per_part < c->n - first ? s->per_part : c->n - first, real = count_real(c->mask + begin, all);
    catch_glimpse(&s->glimpse, c->body, c->images + begin * image_size(&c->blocks[0]), real, c->features + begin * width, memory);
    memset(c->features + (begin + real) * width, 0, (all - real) * width * sizeof(REAL));
}

static void close_item(const void *solving, int item, void *memory) {
    const Solving *s = solving;
    const int lane = item / s->parts_per_lane;
    see_part(s, lane, item % s->parts_per_lane * s->per_part, memory);
    if (atomic_fetch_add(&s->finished[lane], 1) + 1 < s->parts_per_lane) return;
    Lane whole = open_lane(s->closed, out_size(last_block(&s->glimpse)), lane, memory);
    if (find_head(s->closed, &whole)) atomic_store(s->failed, 1);
}

static size_t closing_bytes(const Solving *s) {
    const size_t seeing = glimpse_bytes(&s->glimpse), solving = share_lane(s->closed, out_size(last_block(&s->glimpse)), NULL, NULL);
    return seeing > solving ? seeing : solving;
}

/* Whether each lane is what `Closed` says. */
static int are_closed(const Closed *c) {
    for (ptrdiff_t lane = 0; lane < c->lanes; lane++)
        if (!is_sound_lane(c->targets + lane * c->n, c->mask + lane * c->n, c->n, c->class_mask + lane * c->max_way, c->max_way)) return 0;
    return 1;
}

#endif
