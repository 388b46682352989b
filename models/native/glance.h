/* Features whose trace nobody will ask for: of few examples at a time, so that their maps stay in a cache. */
#ifndef GLANCE_H
#define GLANCE_H

#include "backward.h"

/* Examples that are looked at at once where nobody needs the trace: enough for whole tiles, and few enough to stay in a cache. */
#define GLANCE 8

/* Memory of one thread: the trace of `part`, points of squares, and places. */
static size_t glimpse_bytes(const Layout *part) { return part->size * sizeof(REAL) + points_bytes(part) + places_bytes(part); }

/* Features (count, d) of images, as many at a time as `part` is laid out for. */
static void catch_glimpse(const Layout *part, const REAL *const *params, const REAL *images, int count, REAL *features, void *memory) {
    REAL *trace = memory, *points = trace + part->size;
    Scratch scratch;
    share_places(part, (char *)points + points_bytes(part), &scratch);
    const Room room = {points, scratch.begins, scratch.ends};
    for (int e = 0; e < count; e += part->n) {
        const int many = count - e < part->n ? count - e : part->n;
        place_images(part, images + e * image_size(&part->blocks[0]), trace, 0, many);
        run_blocks(part, params, NULL, trace, 0, many, room.begins, NULL, &room);
        read_features(part, trace + part->out, features + e * out_size(last_block(part)), 0, many);
    }
}

#endif
