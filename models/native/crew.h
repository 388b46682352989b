/* Threads that work on one lane together, as many as happen to come.
 *
 * The lane's work comes in phases of a few items each, which may be done in any order. Every member walks through all phases, does the items
 * that it draws a ticket for, and begins none before all items of earlier phases are done. Nobody waits for a member that has drawn nothing:
 * one that comes late, or never, holds nobody up, and a member that is alone waits for nobody.
 */
#ifndef CREW_H
#define CREW_H

#include <sched.h>
#include <stdatomic.h>

/* On a cache line of its own: crews of other lanes write to theirs. `desk` is where the lane's work lies, once somebody has begun it. */
typedef struct {
    _Alignas(64) atomic_int tickets;
    atomic_int done;
    _Atomic(void *) desk;
} Crew;

/* One thread's place in the lane's work: the ticket it holds, and the tickets of the phase that it is in. */
typedef struct {
    Crew *crew;
    int ticket, begin, end;
} Member;

#if defined(__x86_64__) || defined(__i386__)
#define BREATHE() __builtin_ia32_pause()
#else
#define BREATHE() ((void)0)
#endif

/* Rounds of waiting before the core is offered to others: more threads than cores would else wait for each other's time slices. */
#define PATIENCE 4096

static Member join_crew(Crew *crew) { return (Member){.crew = crew, .ticket = atomic_fetch_add(&crew->tickets, 1)}; }

static void begin_phase(Member *m, int items) {
    m->begin = m->end;
    m->end += items;
}

/* Returns when so many items are done. */
static void await_items(const Member *m, int count) {
    for (int round = 0; atomic_load_explicit(&m->crew->done, memory_order_acquire) < count; round++)
        if (round < PATIENCE)
            BREATHE();
        else
            sched_yield();
}

/* The next item of this phase that is this member's to do, when all before the phase is done; -1 where there is none. */
static int take_item(Member *m) {
    if (m->ticket >= m->end) return -1;
    await_items(m, m->begin);
    return m->ticket - m->begin;
}

/* Returns when nothing is left that anybody does for the lane. */
static void leave_crew(const Member *m) { await_items(m, m->end); }

static void finish_item(Member *m) {
    atomic_fetch_add_explicit(&m->crew->done, 1, memory_order_release);
    m->ticket = atomic_fetch_add_explicit(&m->crew->tickets, 1, memory_order_relaxed);
}

/* A phase of `items`, of which this member does its own. */
#define EACH_ITEM(item, items, m) \
    begin_phase(m, items);        \
    for (int item; (item = take_item(m)) >= 0; finish_item(m))

/* The first of `count` things that part `part` of `parts` has; parts are of nearly equal size. */
static int first_of(int part, int parts, int count) { return (int)((long)count * part / parts); }

#endif
