/* Independent items of work over a few threads that live as long as one call: about 20 us each, and nothing is left behind. */
#ifndef PARALLEL_H
#define PARALLEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define MAX_THREADS 64

/* Does one item; `scratch` is the thread's own. */
typedef void (*Work)(const void *job, int item, void *scratch);

typedef struct {
    Work work;
    const void *job;
    int items;
    char *scratch;
    size_t scratch_bytes;
    atomic_int next, threads;
} Queue;

static void *take_items(void *argument) {
    Queue *queue = argument;
    void *scratch = queue->scratch + atomic_fetch_add(&queue->threads, 1) * queue->scratch_bytes;
    for (int item; (item = atomic_fetch_add(&queue->next, 1)) < queue->items;) queue->work(queue->job, item, scratch);
    return NULL;
}

/* 0, or 1 where there was no memory. Which thread does an item changes nothing in what it makes. */
static int run_parallel(Work work, const void *job, int items, int threads, size_t scratch_bytes) {
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > items) threads = items;
    scratch_bytes = (scratch_bytes + 63) / 64 * 64;
    Queue queue = {.work = work, .job = job, .items = items, .scratch_bytes = scratch_bytes};
    if (items && !(queue.scratch = aligned_alloc(64, threads * scratch_bytes))) return 1;
    pthread_t started[MAX_THREADS];
    int count = 0; /* where the machine starts no more threads, those that run do the work */
    while (count < threads - 1 && !pthread_create(&started[count], NULL, take_items, &queue)) count++;
    if (items) take_items(&queue);
    for (int thread = 0; thread < count; thread++) pthread_join(started[thread], NULL);
    free(queue.scratch);
    return 0;
}

#endif
