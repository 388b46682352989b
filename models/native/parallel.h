/* Independent items of work over a few threads. */
#ifndef PARALLEL_H
#define PARALLEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define MAX_THREADS 64

/* Does one item; `scratch` is the thread's own. */
typedef void (*Work)(const void *job, int item, void *scratch);

/* Calls work(data) on several threads at once, as OpenMP's GOMP_parallel does. */
typedef void (*Team)(void (*work)(void *), void *data, unsigned threads, unsigned flags);

typedef struct {
    Work work;
    const void *job;
    int items;
    char *scratch;
    size_t scratch_bytes;
    atomic_int next, threads;
} Queue;

static void take_items(void *argument) {
    Queue *queue = argument;
    void *scratch = queue->scratch + atomic_fetch_add(&queue->threads, 1) * queue->scratch_bytes;
    for (int item; (item = atomic_fetch_add(&queue->next, 1)) < queue->items;) queue->work(queue->job, item, scratch);
}

static void *take_items_alone(void *argument) {
    take_items(argument);
    return NULL;
}

/* Threads that live as long as one call: about 20 us each. Where the machine starts no more of them, those that run do the work. */
static void start_threads(Queue *queue, int threads) {
    pthread_t started[MAX_THREADS];
    int count = 0;
    while (count < threads - 1 && !pthread_create(&started[count], NULL, take_items_alone, queue)) count++;
    take_items(queue);
    for (int thread = 0; thread < count; thread++) pthread_join(started[thread], NULL);
}

/* 0, or 1 where there was no memory. Which thread does an item changes nothing in what it makes.
 * team: torch's own threads, which wait for work spinning and would be in the way of others; NULL where they are not known. */
static int run_parallel(Work work, const void *job, int items, int threads, Team team, size_t scratch_bytes) {
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > items) threads = items;
    if (threads < 1) return 0;
    scratch_bytes = (scratch_bytes + 63) / 64 * 64;
    Queue queue = {.work = work, .job = job, .items = items, .scratch_bytes = scratch_bytes};
    if (!(queue.scratch = aligned_alloc(64, threads * scratch_bytes))) return 1;
    if (threads == 1)
        take_items(&queue);
    else if (team)
        team(take_items, &queue, threads, 0);
    else
        start_threads(&queue, threads);
    free(queue.scratch);
    return 0;
}

#endif
