/* What Python calls: all lanes of a batch, each lane's examples under its own parameters (pointers, which may well be equal).
 *
 * params: for each lane kernel (3, 3, c_in, c_out), scale and shift (c_out) of each block; traces: for each lane
 * `trace_size` numbers. A lane is worked on alone, by one thread, in an order that nothing but its own sizes decides: its numbers are the same
 * to the last bit in every batch. `team` runs `threads` of them. All return 0, or 1 where there was no memory.
 */
#include "answers.h"
#include "closed.h"
#include "descent.h"
#include "describe.h"
#include "parallel.h"
#include "tangent.h"

#define EXPORT __attribute__((visibility("default")))

typedef struct {
    Layout layout;
    const REAL *const *params, *const *direction;
    const REAL *images, *upstream, *upstream_dot;
    REAL *features;
    REAL *const *traces, *const *tangents, *const *kept, *const *gradients;
    int per_item, items_per_lane;
} Job;

static int n_params(const Job *job) { return 3 * job->layout.n_blocks; }

static void run_item(const void *job_, int item, void *scratch) {
    const Job *job = job_;
    const Layout *l = &job->layout;
    const int lane = item / job->items_per_lane, first = item % job->items_per_lane * job->per_item;
    const int next = first + job->per_item < l->n ? first + job->per_item : l->n;
    REAL *trace = job->traces[lane];
    place_images(l, job->images + lane * l->n * image_size(&l->blocks[0]), trace, first, next);
    Scratch own = {.points = scratch};
    share_places(l, (char *)scratch + points_bytes(l), &own);
    const Room room = {own.points, own.begins, own.ends};
    run_blocks(l, job->params + (ptrdiff_t)lane * n_params(job), NULL, trace, first, next, room.begins, NULL, &room);
    read_features(l, trace + l->out, job->features + lane * l->n * out_size(last_block(l)), first, next);
}

/* The same without a trace. */
static Layout glimpse_of(const Layout *whole, int per_item) { return lay_out(whole->blocks, whole->n_blocks, per_item < GLANCE ? per_item : GLANCE); }

static void glance_item(const void *job_, int item, void *scratch) {
    const Job *job = job_;
    const int lane = item / job->items_per_lane, first = item % job->items_per_lane * job->per_item, left = job->layout.n - first;
    const Layout glimpse = glimpse_of(&job->layout, job->per_item);
    const ptrdiff_t begin = (ptrdiff_t)lane * job->layout.n + first;
    catch_glimpse(&glimpse, job->params + (ptrdiff_t)lane * n_params(job), job->images + begin * image_size(&glimpse.blocks[0]),
                  left < job->per_item ? left : job->per_item, job->features + begin * out_size(last_block(&glimpse)), scratch);
}

/* Numbers of one lane's trace of n examples. */
EXPORT long long trace_size(const Block *blocks, int n_blocks, int n) { return lay_out(blocks, n_blocks, n).size; }

/* Numbers of the gradients in maps that one lane keeps of a pass back, for how they change. */
EXPORT long long kept_size(const Block *blocks, int n_blocks, int n) {
    const Layout l = lay_out(blocks, n_blocks, n);
    return kept_place(&l, n_blocks);
}

/* features (lanes, n, d) of images (lanes, n, c, h, w), and the traces, unless these are NULL. A lane's examples are worked on in parts
 * of `per_item`. */
EXPORT int run(const Block *blocks, int n_blocks, int lanes, int n, const REAL *const *params, const REAL *images, REAL *const *traces,
               REAL *features, int per_item, int threads, Team team) {
    const Job job = {.layout = lay_out(blocks, n_blocks, n), .params = params, .images = images, .traces = traces, .features = features,
                     .per_item = per_item, .items_per_lane = (n + per_item - 1) / per_item};
    const Layout glimpse = glimpse_of(&job.layout, per_item);
    if (traces) return run_parallel(run_item, &job, lanes * job.items_per_lane, threads, team, points_bytes(&job.layout) + places_bytes(&job.layout));
    return run_parallel(glance_item, &job, lanes * job.items_per_lane, threads, team, glimpse_bytes(&glimpse));
}

/* Every lane's features, head in closed form and support loss, a lane's examples in parts of `per_part`. Returns 2 where a lane is not what
 * `Closed` says, and 3 where one has no head. */
EXPORT int solve(const Closed *closed, int per_part, int threads, Team team) {
    if (!are_closed(closed)) return 2;
    atomic_int *finished = calloc(closed->lanes + 1, sizeof(atomic_int)); /* and behind them whether one failed */
    if (!finished) return 1;
    const Solving solving = {.closed = closed, .glimpse = lay_out(closed->blocks, closed->n_blocks, per_part < GLANCE ? per_part : GLANCE),
                             .per_part = per_part, .parts_per_lane = (closed->n + per_part - 1) / per_part, .finished = finished,
                             .failed = finished + closed->lanes};
    int failed = run_parallel(close_item, &solving, closed->lanes * solving.parts_per_lane, threads, team, closing_bytes(&solving));
    if (!failed && atomic_load(solving.failed)) failed = 3;
    free(finished);
    return failed;
}

/* What each lane's head answers to its queries, at most `per_part` of which are worked on at once, in up to `parts` parts a lane. values: of
 * each query as many as the head has rows; unknown: of each query one, where the reading has it. */
EXPORT int answer(const Block *blocks, int n_blocks, int lanes, int per_part, const Reading *reading, const REAL *const *rows,
                  const Asked *asked, REAL *values, REAL *unknown, int parts, int threads, Team team) {
    const Questions q = {.part = lay_out(blocks, n_blocks, per_part), .reading = reading, .rows = rows, .asked = asked, .values = values,
                         .unknown = unknown, .parts_per_lane = parts, .lanes = lanes, .threads = threads};
    const ptrdiff_t reals = q.part.size + per_part * out_size(last_block(&q.part));
    return run_parallel(answer_item, &q, lanes * parts, threads, team, reals * sizeof(REAL) + places_bytes(&q.part));
}

static void pull_item(const void *job_, int lane, void *memory) {
    const Job *job = job_;
    const Layout *l = &job->layout;
    REAL *const *gradients = job->gradients + (ptrdiff_t)lane * n_params(job);
    Scratch scratch;
    Update updates[3 * MAX_BLOCKS];
    Crew alone = {0};
    Member me = join_crew(&alone);
    scratch.points = (REAL *)memory + share_reals(l, memory, &scratch);
    scratch.kept = job->kept ? job->kept[lane] : NULL;
    share_places(l, (char *)scratch.points + points_bytes(l), &scratch);
    for (int p = 0; p < n_params(job); p++) updates[p] = (Update){NULL, gradients[p], 1, NULL};
    pull_blocks(l, job->params + (ptrdiff_t)lane * n_params(job), job->traces[lane], job->upstream + lane * l->n * out_size(last_block(l)), updates,
                &scratch, &me, 1);
}

/* The gradients in each lane's parameters from those in its features, `upstream` (lanes, n, d). kept: for each lane `kept_size` numbers of
 * them, or NULL. */
EXPORT int pull(const Block *blocks, int n_blocks, int lanes, int n, const REAL *const *params, REAL *const *traces, const REAL *upstream,
                REAL *const *kept, REAL *const *gradients, int threads, Team team) {
    const Job job = {.layout = lay_out(blocks, n_blocks, n), .params = params, .traces = traces, .upstream = upstream, .kept = kept,
                     .gradients = gradients};
    return run_parallel(pull_item, &job, lanes, threads, team, scratch_bytes(&job.layout));
}

static void push_item(const void *job_, int lane, void *memory) {
    const Job *job = job_;
    const Layout *l = &job->layout;
    const ptrdiff_t row = (ptrdiff_t)lane * n_params(job);
    Scratch scratch;
    share_places(l, memory, &scratch);
    push_forward(l, job->params + row, job->direction + row, job->traces[lane], job->tangents[lane], &scratch);
    read_features(l, job->tangents[lane] + l->out, job->features + lane * l->n * out_size(last_block(l)), 0, l->n);
}

/* How the features change when each lane's parameters move along `direction` (laid out as params): features (lanes, n, d) is the change of those,
 * tangents that of the traces, where they lie as these do. */
EXPORT int push(const Block *blocks, int n_blocks, int lanes, int n, const REAL *const *params, const REAL *const *direction, REAL *const *traces,
                REAL *const *tangents, REAL *features, int threads, Team team) {
    const Job job = {.layout = lay_out(blocks, n_blocks, n), .params = params, .direction = direction, .traces = traces, .tangents = tangents,
                     .features = features};
    return run_parallel(push_item, &job, lanes, threads, team, places_bytes(&job.layout));
}

static void push_back_item(const void *job_, int lane, void *memory) {
    const Job *job = job_;
    const Layout *l = &job->layout;
    const ptrdiff_t of_lane = lane * l->n * out_size(last_block(l)), row = (ptrdiff_t)lane * n_params(job);
    Scratch scratch, moving;
    REAL *rest = memory;
    rest += share_reals(l, rest, &scratch);
    rest += share_reals(l, rest, &moving);
    share_places(l, rest, &scratch);
    scratch.kept = job->kept[lane];
    push_backward(l, job->params + row, job->direction + row, job->traces[lane], job->tangents[lane], job->upstream + of_lane,
                  job->upstream_dot ? job->upstream_dot + of_lane : NULL, job->gradients + row, &scratch, &moving);
}

/* And how what `pull` found for `upstream`, of which it kept the gradients in the maps, changes meanwhile: `gradients` is the change of that,
 * upstream_dot (lanes, n, d) the upstream's own, or NULL where it is held. */
EXPORT int push_back(const Block *blocks, int n_blocks, int lanes, int n, const REAL *const *params, const REAL *const *direction,
                     REAL *const *traces, REAL *const *tangents, REAL *const *kept, const REAL *upstream, const REAL *upstream_dot,
                     REAL *const *gradients, int threads, Team team) {
    const Job job = {.layout = lay_out(blocks, n_blocks, n), .params = params, .direction = direction, .traces = traces, .tangents = tangents,
                     .kept = kept, .upstream = upstream, .upstream_dot = upstream_dot, .gradients = gradients};
    const size_t reals = 2 * share_reals(&job.layout, NULL, NULL);
    return run_parallel(push_back_item, &job, lanes, threads, team, reals * sizeof(REAL) + places_bytes(&job.layout));
}

/* Every lane's whole inner loop. Returns 2 where a lane is not what `Descent` says. */
EXPORT int descend(const Descent *descent, int threads, Team team) {
    if (!is_sound(descent)) return 2;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    Plan plan = plan_descent(descent, threads);
    const size_t crews_bytes = descent->lanes * sizeof(Crew);
    if (!(plan.crews = aligned_alloc(64, crews_bytes + !crews_bytes * 64))) return 1;
    memset(plan.crews, 0, crews_bytes);
    const int failed = run_parallel(descend_item, &plan, descent->lanes + plan.helpers, threads, team, descent_bytes(&plan));
    free(plan.crews);
    return failed;
}

/* described (lanes, 2 * width) of features (lanes, n, width), by the thread that calls. */
EXPORT int describe(const REAL *features, const unsigned char *mask, int lanes, int n, int width, REAL *described) {
    for (ptrdiff_t lane = 0; lane < lanes; lane++)
        describe_lane(features + lane * n * width, mask + lane * n, n, width, described + 2 * lane * width, described + (2 * lane + 1) * width);
    return 0;
}
