/* A class head on a lane's features: what it makes of its support set, and the gradient of a linear one in closed form. */
#ifndef HEAD_H
#define HEAD_H

#include <math.h>
#include <string.h>

#include "tiles.h"

#ifdef REAL_IS_DOUBLE
#define EXP exp
#define LOG log
#else
#define EXP expf
#define LOG logf
#endif

/* A lane's task: n features (n, width) of `ways` classes, which the head reads times `scale`. shares: what each example weighs, one over its
 * class's count, so that no class outweighs another. */
typedef struct {
    int n, ways;
    ptrdiff_t width;
    REAL scale;
    const long long *targets;
    REAL *shares;
} Task;

static int count_real(const unsigned char *mask, int most) {
    int count = 0;
    while (count < most && mask[count]) count++;
    return count;
}

/* Whether a lane's real examples and classes come first, and each example's class is one of them. */
static int is_sound_lane(const long long *targets, const unsigned char *mask, int most, const unsigned char *class_mask, int max_way) {
    const int n = count_real(mask, most), ways = count_real(class_mask, max_way);
    for (int e = 0; e < most; e++)
        if (e < n ? targets[e] < 0 || targets[e] >= ways : mask[e]) return 0;
    for (int k = ways; k < max_way; k++)
        if (class_mask[k]) return 0;
    return n > 0;
}

/* The inner product of two rows of whole vectors; two sums, since one would wait for itself. */
static REAL multiply_rows(const REAL *a, const REAL *b, ptrdiff_t width) {
    vector even = {0}, odd = {0};
    ptrdiff_t at = 0;
    for (; at + 2 * LENGTH <= width; at += 2 * LENGTH) {
        even += *(const vector *)(a + at) * *(const vector *)(b + at);
        odd += *(const vector *)(a + at + LENGTH) * *(const vector *)(b + at + LENGTH);
    }
    if (at < width) even += *(const vector *)(a + at) * *(const vector *)(b + at);
    even += odd;
    REAL sum = 0;
    for (int i = 0; i < LENGTH; i++) sum += even[i];
    return sum;
}

/* row += factor * each * the sum over `count` of factors[i * pitch] * rows[i]; the rows lie one after another. */
static void combine_rows(const REAL *factors, ptrdiff_t pitch, const REAL *rows, int count, ptrdiff_t width, REAL factor, const REAL *each, REAL *row) {
    for (ptrdiff_t at = 0; at < width; at += LENGTH) {
        vector sum = {0}, gain = {0};
        for (int i = 0; i < count; i++) sum += factors[i * pitch] * *(const vector *)(rows + i * width + at);
        gain = each ? factor * *(const vector *)(each + at) : gain + factor;
        *(vector *)(row + at) += gain * sum;
    }
}

/* counts: room for a number of each class. */
static void weigh_examples(const Task *t, REAL *counts) {
    memset(counts, 0, t->ways * sizeof(REAL));
    for (int e = 0; e < t->n; e++) counts[t->targets[e]] += 1;
    for (int e = 0; e < t->n; e++) t->shares[e] = 1 / counts[t->targets[e]];
}

/* The layer that ranks by squared distance to the class means c, from zeros: weight 2c and bias -|c|^2. */
static void start_at_prototypes(const Task *t, const REAL *features, REAL *weight, REAL *bias) {
    for (int e = 0; e < t->n; e++)
        combine_rows(&t->shares[e], 1, features + e * t->width, 1, t->width, 2 * t->scale, NULL, weight + t->targets[e] * t->width);
    for (int k = 0; k < t->ways; k++) bias[k] = -multiply_rows(weight + k * t->width, weight + k * t->width, t->width) / 4;
}

static void find_logits(const Task *t, const REAL *features, const REAL *weight, const REAL *bias, REAL *logits) {
    for (int e = 0; e < t->n; e++)
        for (int k = 0; k < t->ways; k++)
            logits[e * t->ways + k] = t->scale * multiply_rows(features + e * t->width, weight + k * t->width, t->width) + bias[k];
}

/* The first of the largest; what is not a number is larger than all. */
static int find_largest(const REAL *row, int count) {
    int best = 0;
    for (int k = 1; k < count && row[best] == row[best]; k++)
        if (!(row[k] <= row[best])) best = k;
    return best;
}

/* The mean loss of the classes and the share of the examples that are answered right; logits become the gradient in them, of the sum of the classes. */
static void judge(const Task *t, REAL *logits, REAL *loss, REAL *accuracy) {
    REAL sum = 0;
    int hits = 0;
    for (int e = 0; e < t->n; e++, logits += t->ways) {
        const int target = (int)t->targets[e], best = find_largest(logits, t->ways);
        const REAL largest = logits[best], aim = logits[target] - largest;
        REAL total = 0;
        for (int k = 0; k < t->ways; k++) total += logits[k] = EXP(logits[k] - largest);
        sum += t->shares[e] * (LOG(total) - aim);
        hits += best == target;
        for (int k = 0; k < t->ways; k++) logits[k] = t->shares[e] * (logits[k] / total - (k == target));
    }
    *loss = sum / t->ways, *accuracy = (REAL)((float)hits / (float)t->n);
}

/* The gradient in the features, over `divisor`, from that in the logits. */
static void pull_features(const Task *t, const REAL *slopes, const REAL *weight, REAL divisor, REAL *gradient) {
    memset(gradient, 0, t->n * t->width * sizeof(REAL));
    for (int e = 0; e < t->n; e++) combine_rows(slopes + e * t->ways, 1, weight, t->ways, t->width, t->scale / divisor, NULL, gradient + e * t->width);
}

/* Moves the head against its gradient. rate: of a step; each: of a feature, or NULL. */
static void move_weight(const Task *t, const REAL *slopes, const REAL *features, REAL rate, const REAL *each, REAL *weight) {
    for (int k = 0; k < t->ways; k++) combine_rows(slopes + k, t->ways, features, t->n, t->width, -rate * t->scale, each, weight + k * t->width);
}

static void move_bias(const Task *t, const REAL *slopes, REAL rate, REAL *bias) {
    for (int k = 0; k < t->ways; k++) {
        REAL sum = 0;
        for (int e = 0; e < t->n; e++) sum += slopes[e * t->ways + k];
        bias[k] -= rate * sum;
    }
}

#endif
