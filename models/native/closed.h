/* Lanes whose head is found in closed form: features, head and what it makes of its support set, in one go. */
#ifndef CLOSED_H
#define CLOSED_H

#include <stdatomic.h>

#include "ridge.h"

/* How it is worked on: a lane's examples in parts, of `per_part` of them, and the head by whoever finishes the last part. */
typedef struct {
    const Closed *closed;
    Layout glimpse;
    int per_part, parts_per_lane;
    atomic_int *finished, *failed;
} Solving;

static int find_prototypes(const Closed *c, Lane *lane, const REAL *features) {
    REAL *rows = c->rows + (ptrdiff_t)lane->index * c->max_way * lane->task.width;
    memset(rows, 0, c->max_way * lane->task.width * sizeof(REAL));
    average_classes(&lane->task, features, rows);
    find_distances(&lane->task, features, rows, lane->logits);
    return 0;
}

static int find_on_sphere(const Closed *c, Lane *lane, const REAL *features) {
    Task *t = &lane->task;
    REAL *rows = c->rows + (ptrdiff_t)lane->index * c->max_way * t->width, *centre = c->frame + lane->index * t->width;
    memset(rows, 0, c->max_way * t->width * sizeof(REAL));
    find_centre(c, t, features, centre);
    weigh_points(lane, features, centre);
    if (solve_on_sphere(lane, c->penalty, rows)) return 1;
    t->scale = (REAL)c->sharpness;
    memset(lane->zeros, 0, t->ways * sizeof(REAL));
    find_logits(t, lane->points, rows, lane->zeros, lane->logits);
    return 0;
}

static int find_gaussian(const Closed *c, Lane *lane, const REAL *features) {
    const ptrdiff_t first = (ptrdiff_t)lane->index * c->n;
    REAL *rows = c->rows + first * lane->task.width, *duals = c->duals + first * c->max_way;
    memset(rows, 0, c->n * lane->task.width * sizeof(REAL));
    memset(duals, 0, (ptrdiff_t)c->n * c->max_way * sizeof(REAL));
    return solve_gaussian(c, lane, features, rows, duals, c->frame + lane->index);
}

/* A lane's head from its features, and how well that does on its own examples. Returns 1 where no head was found. */
static int find_head(const Closed *c, Lane *lane) {
    static int (*const ways[])(const Closed *, Lane *, const REAL *) = {find_prototypes, find_on_sphere, find_gaussian};
    weigh_examples(&lane->task, lane->logits);
    if (ways[c->head](c, lane, c->features + (ptrdiff_t)lane->index * c->n * lane->task.width)) return 1;
    judge(&lane->task, lane->logits, c->loss + lane->index, c->accuracy + lane->index);
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
