/* Answers of a batch of lanes: the features of each lane's queries, what the lane's head makes of them, and how sure that is.
 *
 * Queries are read where they lie, as many as the lane has. Whatever a batch holds besides, an answer is computed in the same order: its
 * bits are the same. The torch of `models/confidence.py` is the reference.
 */
#ifndef ANSWERS_H
#define ANSWERS_H

#include <float.h>

#include "backward.h"

#define N_CUES 4
#define BEGINNING (24 << 10)

/* How every lane's features are read. nearest: by the squared distance to each row of the head, else by the product with it.
 * on_sphere: when they were brought to length one; chooses: by what share of the probability each row has. */
typedef struct {
    double nearest, on_sphere, scale, sharpness, chooses, temperature, power, scores_unknown, cue[N_CUES], bias;
} Reading;

/* A lane's queries (count, c, h, w), and where its answers begin: among all queries of the batch, and among all numbers of all answers. */
typedef struct {
    const REAL *queries;
    int64_t count, first_query, first_value;
} Asked;

/* rows: for each lane the addresses of its network's parameters, of the centre of its features (d), if these have one, and of the rows (n, d)
 * and offsets (n) of its head; n; its state's memory and how many bytes it has; how many bits a number of its packed kernels has; and for each
 * block what its kernel differs from, where that is packed, else NULL. */
typedef struct {
    Layout part;
    const Reading *reading;
    const REAL *const *rows;
    const Asked *asked;
    REAL *values, *unknown;
    int parts_per_lane, lanes, threads;
} Questions;

static const REAL *const *row_of(const Questions *q, int lane) { return q->rows + (ptrdiff_t)lane * (4 * q->part.n_blocks + 7); }
static const REAL *const *head_of(const Questions *q, const REAL *const *row) { return row + 3 * q->part.n_blocks; }
static Packing packing_of(const Questions *q, const REAL *const *row) {
    return (Packing){head_of(q, row) + 7, (int)(intptr_t)head_of(q, row)[6]};
}

/* The product of two rows, or the squared distance between them. */
INLINE REAL compare(const REAL *a, const REAL *b, ptrdiff_t depth, const int nearest) {
    vector sum = {0};
    for (ptrdiff_t k = 0; k < depth; k += LENGTH) {
        const vector left = *(const vector *)(a + k), right = *(const vector *)(b + k), off = left - right;
        sum += nearest ? off * off : left * right;
    }
    REAL total = 0;
    for (int i = 0; i < LENGTH; i++) total += sum[i];
    return total;
}

/* A query's features around `centre`, if there is one. */
static void place_features(const Reading *how, REAL *features, const REAL *centre, ptrdiff_t depth) {
    for (ptrdiff_t k = 0; centre && k < depth; k++) features[k] -= centre[k];
    if (!how->on_sphere) return;
    const REAL length = (REAL)sqrt(compare(features, features, depth, 0)), least = (REAL)1e-12;
    for (ptrdiff_t k = 0; k < depth; k++) features[k] /= length < least ? least : length;
}

/* What the head of n rows makes of one query's features: n values, or logits. */
static void read_head(const Reading *how, const REAL *features, ptrdiff_t depth, const REAL *rows, const REAL *offsets, int n, REAL *values) {
    const REAL scale = (REAL)how->scale, sharpness = (REAL)how->sharpness;
    for (int i = 0; i < n; i++) {
        const REAL found = compare(features, rows + i * depth, depth, how->nearest != 0), value = how->nearest ? -found : found * scale;
        values[i] = (offsets ? value + offsets[i] : value) * sharpness;
    }
}

/* The largest logit and the second, which is the least of all numbers where there is none. */
static void find_best(const REAL *logits, int n, double *largest, double *second) {
    *largest = *second = -DBL_MAX;
    for (int i = 0; i < n; i++) {
        const double logit = logits[i];
        if (logit > *largest) *second = *largest, *largest = logit;
        else if (logit > *second) *second = logit;
    }
}

/* How likely it is that a query is of no class, read off its logits. */
static double score_unknown(const Reading *how, const REAL *logits, int n) {
    double largest, second, mass = 0, sum = how->bias;
    find_best(logits, n, &largest, &second);
    for (int i = 0; i < n; i++) mass += exp(logits[i] - largest);
    const double lead = largest - second > 1e4 ? 1e4 : largest - second;
    const double cues[N_CUES] = {largest, lead, log(mass), log(n)};
    for (int i = 0; i < N_CUES; i++) sum += how->cue[i] * cues[i];
    return 1 / (1 + exp(-sum));
}

/* Logits to probabilities. */
static void choose(const Reading *how, REAL *logits, int n) {
    const double softness = how->temperature * pow(n, how->power);
    double largest, second, mass = 0;
    find_best(logits, n, &largest, &second);
    for (int i = 0; i < n; i++) mass += exp((logits[i] - largest) / softness);
    for (int i = 0; i < n; i++) logits[i] = (REAL)(exp((logits[i] - largest) / softness) / mass);
}

/* A lane's state: of thousands of tasks it comes from memory, not from a cache. */
static Memory state_of(const Questions *q, int lane) {
    const REAL *const *memory = head_of(q, row_of(q, lane)) + 4;
    return (Memory){(const char *)memory[0], (intptr_t)memory[1]};
}

/* So many bytes of it, or all. */
static Memory begin_of(Memory state, ptrdiff_t bytes) { return (Memory){state.from, state.bytes < bytes ? state.bytes : bytes}; }

/* What a thread fetches of a state before it comes to its lane: of a Conv-4 of 64 filters all but the last two kernels. The whole of it beside
 * what this lane reads, and a second cache of a megabyte no longer holds the kernels that all states differ from: a query of 2,000 tasks then takes
 * 4.3 us more than one of five, so 2.6 (32 lanes, one thread, AMD EPYC, 2026-11-21). */
static Memory near_part(Memory state) { return begin_of(state, state.bytes * 3 / 8 / LINE * LINE); }

/* Where nobody looked ahead: the beginning, with all small tensors. */
static Memory fetch_beginning(Memory state) {
    const Memory beginning = begin_of(state, BEGINNING);
    for (ptrdiff_t at = 0; at < beginning.bytes; at += LINE) __builtin_prefetch(state.from + at, 0, 2);
    return beginning;
}

/* The rest of this lane's state, then what comes first of the one that this thread will probably see next. */
static Ahead look_ahead(const Questions *q, int item) {
    const int lane = item / q->parts_per_lane, next = (item + q->threads) / q->parts_per_lane;
    const int is_first = item < q->threads, is_seen = !is_first && (item - q->threads) / q->parts_per_lane == lane;
    const Memory state = state_of(q, lane), here = is_seen ? state : is_first ? fetch_beginning(state) : near_part(state);
    return (Ahead){{here.from + here.bytes, state.bytes - here.bytes},
                   next < q->lanes && next != lane ? near_part(state_of(q, next)) : (Memory){0}};
}

/* The answer to one query by the head of its lane: its features become values, and perhaps what is unknown. */
static void answer_query(const Reading *how, const REAL *const *head, REAL *features, ptrdiff_t depth, REAL *values, REAL *unknown) {
    const int n = (int)(intptr_t)head[3];
    place_features(how, features, head[0], depth);
    read_head(how, features, depth, head[1], head[2], n, values);
    if (how->scores_unknown) *unknown = (REAL)score_unknown(how, values, n);
    if (how->chooses) choose(how, values, n);
}

/* A part of one lane's queries. `scratch`: their trace, their features, and places. */
static void answer_item(const void *job, int item, void *scratch) {
    const Questions *q = job;
    const int lane = item / q->parts_per_lane, first = item % q->parts_per_lane * q->part.n;
    const Asked *asked = &q->asked[lane];
    const int count = asked->count - first < q->part.n ? (int)asked->count - first : q->part.n;
    if (count <= 0) return;
    const REAL *const *row = row_of(q, lane), *const *head = head_of(q, row);
    const ptrdiff_t depth = out_size(last_block(&q->part)), n = (intptr_t)head[3];
    REAL *trace = scratch, *features = trace + q->part.size;
    const Packing packing = packing_of(q, row);
    Ahead ahead = look_ahead(q, item);
    place_images(&q->part, asked->queries + first * image_size(&q->part.blocks[0]), trace, 0, count);
    run_blocks(&q->part, row, &packing, trace, 0, count, (ptrdiff_t *)(features + q->part.n * depth), &ahead, NULL);
    read_features(&q->part, trace + q->part.out, features, 0, count);
    for (int e = 0; e < count; e++)
        answer_query(q->reading, head, features + e * depth, depth, q->values + asked->first_value + (first + e) * n,
                     q->unknown + asked->first_query + first + e);
}

#endif
