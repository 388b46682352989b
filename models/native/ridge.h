/* Ridge regression to class membership: on the sphere around a task's centre, or by a Gaussian kernel. */
#ifndef RIDGE_H
#define RIDGE_H

#include "heads.h"

/* Mean squared distance of examples, in mean squared lengths, below which they count as equal. */
#define SMALLEST_SPREAD 1e-6

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

/* The root of what an example weighs: all together as much as there are examples, and each class alike. */
static double root_of_weight(const Task *t, int e) { return sqrt(t->shares[e] * (REAL)t->n / (REAL)t->ways); }

/* Membership around zero: the probabilities stay the same, and an example speaks against the classes that it is not of. */
static double find_goal(const Task *t, int e, int k) { return (k == t->targets[e]) - 1.0 / t->ways; }

/* Points and goals times the roots of their weights. */
static void weigh_points(const Lane *lane, const REAL *features, const REAL *centre) {
    const Task *t = &lane->task;
    const ptrdiff_t width = t->width, pitch = whole_vectors(t->ways);
    memset(lane->weighted + t->n * width, 0, (whole_groups(t->n) - t->n) * width * sizeof(double));
    memset(lane->goals, 0, t->n * pitch * sizeof(double));
    for (int e = 0; e < t->n; e++) {
        const double root = root_of_weight(t, e);
        REAL *point = lane->points + e * width;
        place_on_sphere(features + e * width, centre, width, point);
        for (ptrdiff_t k = 0; k < width; k++) lane->weighted[e * width + k] = root * point[k];
        for (int k = 0; k < t->ways; k++) lane->goals[e * pitch + k] = root * find_goal(t, e, k);
    }
}

/* The system behind whose first columns the goals stand: between examples, or between the numbers of a feature. */
static void pose_on_sphere(const Lane *lane, int by_example, int size, ptrdiff_t behind, ptrdiff_t pitch, double penalty) {
    const Task *t = &lane->task;
    const ptrdiff_t ways = whole_vectors(t->ways);
    const Factors columns = {lane->weighted, 1, t->width};
    double *system = lane->system;
    memset(system, 0, whole_groups(size) * pitch * sizeof(double));
    if (by_example) {
        compare_all(lane->weighted, size, t->width, system, pitch);
        for (int e = 0; e < size; e++) memcpy(system + e * pitch + behind, lane->goals + e * ways, ways * sizeof(double));
    } else {
        combine(columns, size, t->n, lane->weighted, t->width, t->width, 1, system, pitch);
        combine(columns, size, t->n, lane->goals, ways, ways, 0, system + behind, pitch);
    }
    for (int i = 0; i < size; i++) system[i * pitch + i] += penalty;
}

/* The weights (ways, d) on the sphere, by equations between examples where these are fewer; 1 where there are none. */
static int solve_on_sphere(const Lane *lane, double penalty, REAL *rows) {
    const Task *t = &lane->task;
    const ptrdiff_t width = t->width;
    const int by_example = t->n <= width, size = by_example ? t->n : (int)width;
    const ptrdiff_t behind = whole_vectors(whole_groups(size)), pitch = behind + whole_vectors(t->ways);
    const double *found = lane->system + behind, *solved = lane->solved;
    pose_on_sphere(lane, by_example, size, behind, pitch, penalty);
    if (solve_positive(lane->system, size, behind, pitch)) return 1;
    if (by_example) combine((Factors){found, 1, pitch}, t->ways, t->n, lane->weighted, width, width, 0, lane->solved, width);
    for (int k = 0; k < t->ways; k++)
        for (ptrdiff_t d = 0; d < width; d++) rows[k * width + d] = (REAL)(by_example ? solved[k * width + d] : found[d * pitch + k]);
    return 0;
}

/* Squared distances of a lane's examples in the upper half of the system, from products of features seen from the first: seen from anywhere
 * far off they would drown. The shares of all are 1; returns the mean of two different examples that are drawn by them. */
static double find_spread(const Lane *lane, const REAL *features, double *system, ptrdiff_t pitch) {
    const Task *t = &lane->task;
    double sum = 0, same = 0, length = 0, *squares = lane->squares;
    memset(lane->weighted + t->n * t->width, 0, (whole_groups(t->n) - t->n) * t->width * sizeof(double));
    for (int e = 0; e < t->n; e++) {
        const double share = (double)t->shares[e] / t->ways;
        double own = 0;
        for (ptrdiff_t k = 0; k < t->width; k++) lane->weighted[e * t->width + k] = (double)features[e * t->width + k] - features[k];
        for (ptrdiff_t k = 0; k < t->width; k++) own += (double)features[e * t->width + k] * features[e * t->width + k];
        same += share * share, length += share * own;
    }
    compare_all(lane->weighted, t->n, t->width, system, pitch);
    for (int i = 0; i < t->n; i++) squares[i] = system[i * pitch + i];
    for (int i = 0; i < t->n; i++)
        for (int j = i; j < t->n; j++) {
            double *at = &system[i * pitch + j];
            const double off = squares[i] + squares[j] - 2 * *at;
            *at = off < 0 ? 0 : off;
            sum += 2 * *at * t->shares[i] * t->shares[j] / ((double)t->ways * t->ways);
        }
    const double spread = sum / (1 - same), least = SMALLEST_SPREAD * length;
    return spread < least ? least : spread;
}

/* Dual coefficients (n, ways) and logits of ridge regression by a Gaussian kernel, and examples in units of the task's own spread; 1 where
 * there are none. What the head makes of its own examples follows from its equations: goals less the penalty times the coefficients. */
static int solve_gaussian(const Closed *c, const Lane *lane, const REAL *features, REAL *rows, REAL *duals, REAL *unit) {
    const Task *t = &lane->task;
    const ptrdiff_t behind = whole_vectors(whole_groups(t->n)), pitch = behind + whole_vectors(t->ways);
    double *system = lane->system;
    memset(system, 0, whole_groups(t->n) * pitch * sizeof(double));
    const double spread = find_spread(lane, features, system, pitch), squared = c->spread * (spread > 0 ? spread : 1), scale = sqrt(squared);
    for (int i = 0; i < t->n; i++) {
        const double root = root_of_weight(t, i);
        for (int j = i; j < t->n; j++) system[i * pitch + j] = root * exp(-system[i * pitch + j] / squared) * root_of_weight(t, j);
        for (int k = 0; k < t->ways; k++) system[i * pitch + behind + k] = root * find_goal(t, i, k);
        system[i * pitch + i] += c->penalty;
    }
    if (solve_positive(system, t->n, behind, pitch)) return 1;
    for (int i = 0; i < t->n; i++)
        for (int k = 0; k < t->ways; k++) {
            const double solved = system[i * pitch + behind + k], root = root_of_weight(t, i);
            duals[(ptrdiff_t)i * c->max_way + k] = (REAL)(root * solved);
            lane->logits[i * t->ways + k] = (REAL)(c->sharpness * (find_goal(t, i, k) - c->penalty * solved / root));
        }
    for (ptrdiff_t k = 0; k < t->n * t->width; k++) rows[k] = (REAL)(features[k] / scale);
    *unit = (REAL)scale;
    return 0;
}

#endif
