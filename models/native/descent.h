/* A lane's whole inner loop: all its steps one after the other, so that its weights, gradients and traces stay in the cache of who works on it. */
#ifndef DESCENT_H
#define DESCENT_H

#include "glance.h"
#include "head.h"

/* What a batch of lanes descends on. Tensors are counted as the body's parameters lie, and behind them the head's weight and bias.
 *
 * images (lanes, n, c, h, w), targets (lanes, n), mask (lanes, n), class_mask (lanes, max_way): real examples and classes come first
 * steps: of each lane. rates (most_steps, tensors): zero where a step does not move a tensor. each (tensors): a factor for each number of a
 * tensor's rate as the tensor lies in memory (of the weight for each feature), or NULL
 * shared: the body as all lanes start from it. own: of each tensor that some step may move its place for all lanes, or NULL
 * weight (lanes, max_way, d), bias (lanes, max_way): where the head starts, zeros for one that starts at_prototypes; it is moved in place
 * features (lanes, n, d): by the shared body. loss, accuracy (lanes, most_steps + 1): what follows a lane's last one is that one
 */
typedef struct {
    const Block *blocks;
    int n_blocks, lanes, n, max_way, most_steps, divides_body, at_prototypes;
    double feature_scale;
    const REAL *images;
    const long long *targets;
    const unsigned char *mask, *class_mask;
    const int *steps;
    const double *rates;
    const REAL *const *each, *const *shared;
    REAL *const *own, *weight, *bias, *features, *loss, *accuracy;
} Descent;

static int n_body(const Descent *d) { return 3 * d->n_blocks; }
static double rate_of(const Descent *d, int step, int tensor) { return d->rates[(ptrdiff_t)step * (n_body(d) + 2) + tensor]; }

static int moves_body(const Descent *d, int step) {
    int moves = 0;
    for (int p = 0; p < n_body(d); p++) moves |= rate_of(d, step, p) != 0;
    return moves;
}

static ptrdiff_t param_size(const Descent *d, int p) { return p % 3 ? d->blocks[p / 3].c_out : kernel_size(&d->blocks[p / 3]); }

/* How a batch is worked on. A thread's memory has a desk for a lane that it owns, a trace for what it only glances at, points of squares and
 * places. The last `shared_lanes` lanes have crews, where there are threads without a lane of their own. */
typedef struct {
    const Descent *descent;
    Crew *crews;
    int keeps_trace, shared_lanes, helpers;
    size_t desk_bytes, glance_bytes, points_bytes, places_bytes;
} Plan;

/* A member's view of a lane on its owner's desk. `now` says where the lane's parameters lie at the moment. */
typedef struct {
    const Descent *descent;
    Layout layout;
    Task task;
    Scratch scratch;
    int lane, parts;
    const REAL *now[3 * MAX_BLOCKS];
    REAL *trace, *features, *upstream, *logits, *glanced;
} Desk;

/* Room in `at` for a lane with its layout; returns how much was taken. Without `desk` it only counts. */
static ptrdiff_t share_desk(const Layout *l, int max_way, int keeps_trace, REAL *at, Desk *desk) {
    ptrdiff_t size = 0;
    const ptrdiff_t width = keeps_trace ? out_size(last_block(l)) : 0, trace = take(&size, keeps_trace ? l->size : 0),
                    features = take(&size, l->n * width), upstream = take(&size, l->n * width), logits = take(&size, (ptrdiff_t)l->n * max_way),
                    shares = take(&size, l->n);
    if (desk) {
        desk->trace = at + trace, desk->features = at + features, desk->upstream = at + upstream, desk->logits = at + logits;
        desk->task.shares = at + shares;
    }
    return size + (keeps_trace ? share_reals(l, desk ? at + size : NULL, desk ? &desk->scratch : NULL) : 0);
}

static Plan plan_descent(const Descent *d, int threads) {
    const Layout whole = lay_out(d->blocks, d->n_blocks, d->n), glance = lay_out(d->blocks, d->n_blocks, GLANCE);
    const int shared = d->lanes % threads;
    Plan plan = {.descent = d, .shared_lanes = shared, .helpers = shared ? threads - shared : 0};
    for (int step = 0; step < d->most_steps; step++) plan.keeps_trace |= moves_body(d, step);
    plan.desk_bytes = share_desk(&whole, d->max_way, plan.keeps_trace, NULL, NULL) * sizeof(REAL);
    plan.glance_bytes = plan.keeps_trace ? 0 : glance.size * sizeof(REAL);
    plan.points_bytes = points_bytes(&whole);
    plan.places_bytes = places_bytes(plan.keeps_trace ? &whole : &glance);
    return plan;
}

static size_t descent_bytes(const Plan *plan) { return plan->desk_bytes + plan->glance_bytes + plan->points_bytes + plan->places_bytes; }

/* The lane on the desk in `owners` memory, for a member with memory of its own. */
static void open_desk(const Plan *plan, int lane, int parts, char *owners, char *memory, Desk *desk) {
    const Descent *d = plan->descent;
    const Layout l = lay_out(d->blocks, d->n_blocks, count_real(d->mask + (ptrdiff_t)lane * d->n, d->n));
    const Layout glance = lay_out(d->blocks, d->n_blocks, GLANCE);
    *desk = (Desk){.descent = d, .layout = l, .lane = lane, .parts = parts, .glanced = (REAL *)(memory + plan->desk_bytes)};
    desk->task = (Task){.n = l.n, .ways = count_real(d->class_mask + (ptrdiff_t)lane * d->max_way, d->max_way), .width = out_size(last_block(&l)),
                        .scale = (REAL)d->feature_scale, .targets = d->targets + (ptrdiff_t)lane * d->n};
    for (int p = 0; p < n_body(d); p++) desk->now[p] = d->shared[p];
    share_desk(&l, d->max_way, plan->keeps_trace, (REAL *)owners, desk);
    memory += plan->desk_bytes + plan->glance_bytes;
    desk->scratch.points = (REAL *)memory;
    share_places(plan->keeps_trace ? &l : &glance, memory + plan->points_bytes, &desk->scratch);
}

/* Features of the lane's examples [first, next) by parameters that may move: the trace of them is kept. */
static void look(const Desk *desk, int is_first, int first, int next, REAL *features) {
    const Descent *d = desk->descent;
    const Layout *l = &desk->layout;
    if (is_first) place_images(l, d->images + (ptrdiff_t)desk->lane * d->n * image_size(&d->blocks[0]), desk->trace, first, next);
    const Room room = {desk->scratch.points, desk->scratch.begins, desk->scratch.ends};
    run_blocks(l, desk->now, NULL, desk->trace, first, next, desk->scratch.begins, NULL, &room);
    read_features(l, desk->trace + l->out, features, first, next);
}

/* The same where nobody will ask how they came about: the trace is the member's own, and soon written over. */
static void glance(const Desk *desk, int first, int next, REAL *features) {
    const Descent *d = desk->descent;
    const Layout part = lay_out(d->blocks, d->n_blocks, GLANCE);
    const REAL *images = d->images + ((ptrdiff_t)desk->lane * d->n + first) * image_size(&d->blocks[0]);
    catch_glimpse(&part, desk->now, images, next - first, features + first * desk->task.width, desk->glanced);
}

/* The features that the lane begins with. */
static void take_first_look(const Plan *plan, const Desk *desk, REAL *features, Member *m) {
    const int n = desk->task.n, parts = desk->parts;
    if (plan->keeps_trace) {
        EACH_ITEM(part, parts, m) look(desk, 1, first_of(part, parts, n), first_of(part + 1, parts, n), features);
        return;
    }
    EACH_ITEM(part, parts, m) glance(desk, first_of(part, parts, n), first_of(part + 1, parts, n), features);
}

/* Loss and accuracy before step `step`, and unless that is the end the head's move, and the gradient in the features if the body wants it. */
static void take_head_step(const Desk *desk, int step, const REAL *features) {
    const Descent *d = desk->descent;
    const Task *t = &desk->task;
    const ptrdiff_t lane = desk->lane, at = lane * (d->most_steps + 1) + step, weight_at = n_body(d), bias_at = n_body(d) + 1;
    REAL *weight = d->weight + lane * d->max_way * t->width, *bias = d->bias + lane * d->max_way;
    if (!step) weigh_examples(t, desk->logits);
    if (!step && d->at_prototypes) start_at_prototypes(t, features, weight, bias);
    find_logits(t, features, weight, bias, desk->logits);
    judge(t, desk->logits, d->loss + at, d->accuracy + at);
    if (step == d->steps[lane]) return;
    const REAL weight_rate = (REAL)rate_of(d, step, weight_at), bias_rate = (REAL)rate_of(d, step, bias_at);
    if (moves_body(d, step)) pull_features(t, desk->logits, weight, d->divides_body ? t->ways : 1, desk->upstream);
    if (weight_rate != 0) move_weight(t, desk->logits, features, weight_rate, d->each[weight_at], weight);
    if (bias_rate != 0) move_bias(t, desk->logits, bias_rate, bias);
}

/* The body's part of a step: every tensor that moves goes from where it lies to the lane's own place. */
static void take_body_step(Desk *desk, int step, Member *m) {
    const Descent *d = desk->descent;
    Update updates[3 * MAX_BLOCKS] = {0};
    for (int p = 0; p < n_body(d); p++)
        if (rate_of(d, step, p) != 0)
            updates[p] = (Update){desk->now[p], d->own[p] + desk->lane * param_size(d, p), (REAL)-rate_of(d, step, p), d->each[p]};
    pull_blocks(&desk->layout, desk->now, desk->trace, desk->upstream, updates, &desk->scratch, m, desk->parts);
    for (int p = 0; p < n_body(d); p++)
        if (updates[p].to) desk->now[p] = updates[p].to;
}

/* What is left when a lane has taken its steps: tensors that none of them moved, the features of no example, the rest of the curve. */
static void finish_lane(const Desk *desk) {
    const Descent *d = desk->descent;
    const ptrdiff_t lane = desk->lane, width = desk->task.width, end = lane * (d->most_steps + 1) + d->steps[lane];
    for (int p = 0; p < n_body(d); p++)
        if (d->own[p] && desk->now[p] == d->shared[p]) memcpy(d->own[p] + lane * param_size(d, p), d->shared[p], param_size(d, p) * sizeof(REAL));
    memset(d->features + (lane * d->n + desk->task.n) * width, 0, (d->n - desk->task.n) * width * sizeof(REAL));
    for (int after = 1; after <= d->most_steps - d->steps[lane]; after++)
        d->loss[end + after] = d->loss[end], d->accuracy[end + after] = d->accuracy[end];
}

/* All steps of a lane, together with whoever else is in its crew. */
static void descend_lane(const Plan *plan, Desk *desk, Member *m) {
    const Descent *d = desk->descent;
    const int n = desk->task.n, parts = desk->parts, steps = d->steps[desk->lane];
    REAL *features = d->features + (ptrdiff_t)desk->lane * d->n * desk->task.width;
    take_first_look(plan, desk, features, m);
    for (int step = 0; step <= steps; step++) {
        if (step && moves_body(d, step - 1)) {
            features = desk->features;
            EACH_ITEM(part, parts, m) look(desk, 0, first_of(part, parts, n), first_of(part + 1, parts, n), features);
        }
        EACH_ITEM(whole, 1, m) take_head_step(desk, step, features);
        if (step < steps && moves_body(d, step)) take_body_step(desk, step, m);
    }
    EACH_ITEM(whole, 1, m) finish_lane(desk);
}

/* Items are the lanes, and behind them what threads do that have none: they join the crew of one of the last lanes. */
static void descend_item(const void *plan_, int item, void *memory) {
    const Plan *plan = plan_;
    const int lanes = plan->descent->lanes, alone = lanes - plan->shared_lanes, helper = item - lanes;
    const int lane = helper < 0 ? item : alone + helper % plan->shared_lanes, place = lane - alone;
    const int parts = place < 0 ? 1 : 1 + plan->helpers / plan->shared_lanes + (place < plan->helpers % plan->shared_lanes);
    Crew *crew = &plan->crews[lane];
    Desk desk;
    if (helper < 0) atomic_store(&crew->desk, memory);
    while (!atomic_load(&crew->desk)) sched_yield();
    open_desk(plan, lane, parts, atomic_load(&crew->desk), memory, &desk);
    Member me = join_crew(crew);
    descend_lane(plan, &desk, &me);
    leave_crew(&me); /* the desk of who owns the lane must not be cleared under the others */
}

/* Whether each lane is what `Descent` says. */
static int is_sound(const Descent *d) {
    for (ptrdiff_t lane = 0; lane < d->lanes; lane++) {
        const unsigned char *mask = d->mask + lane * d->n, *class_mask = d->class_mask + lane * d->max_way;
        if (!is_sound_lane(d->targets + lane * d->n, mask, d->n, class_mask, d->max_way)) return 0;
        if (d->steps[lane] < 0 || d->steps[lane] > d->most_steps) return 0;
    }
    return 1;
}

#endif
