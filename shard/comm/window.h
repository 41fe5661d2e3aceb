/* Memory that the ranks of one host share: counters, an abort word, and two slots for every rank of the
 * engine.
 *
 * Rounds:  an exchange is a sequence of rounds. In round k a rank writes its slot k & 1, publishes k and
 *          reads slots k & 1 of others once their carriers published k. Publishing k says: "my slot of
 *          round k is written, and I have finished reading every round before k". A slot is therefore free
 *          again for round k once everybody on the host published k - 1: window_begin waits for that, and
 *          nobody has to wait for the readers of his own round. Numbers are compared in serial arithmetic:
 *          at 10,000 rounds a second 32 bits wrap in five days.
 * Memory:  the bytes are the caller's (anonymous shared pages, or an MPI window); the window struct is one
 *          rank's view.
 * Threads: one engine thread per view; window_abort from any thread and any process.
 * Errors:  ST_PEER once the abort word is set, or when the rank waited for has left; ST_TIMEOUT. */
#ifndef SHARD_COMM_WINDOW_H
#define SHARD_COMM_WINDOW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

/* The first round is close to the wrap, so that every run crosses it and not only one that lasted days. */
#define WINDOW_FIRST_ROUND (UINT32_MAX - 15)
enum { WINDOW_SLOT_DEFAULT = 256 << 10, WINDOW_ALIGN = 128 };

/* Two words that one rank writes and others sleep on, on cache lines of their own. */
typedef struct window_counter {
    _Alignas(WINDOW_ALIGN) _Atomic uint32_t value; /* also the futex word */
    _Atomic uint32_t sleepers;                     /* how many are, or are about to be, asleep on value */
    _Atomic uint32_t left;                         /* its rank ended in good order and publishes no more */
} window_counter;

typedef struct window_head {
    _Alignas(WINDOW_ALIGN) _Atomic uint32_t aborted; /* 0, or 1 + the rank that gave up first */
    window_counter wake;                             /* how often rank 0 called comm_wake */
    window_counter published[];                      /* [locals] */
} window_head;

typedef struct window {
    window_head *head;
    char *slots; /* [ranks][2][slot_bytes] */
    size_t slot_bytes;
    uint32_t locals, ranks, local_rank;
    uint64_t spin_ns;
    uint64_t wait_ns; /* time spent in waits that were not already over */
    uint32_t round;
    const char *next, *next_end; /* what to ask memory for while a wait spins */
    /* Called about every WINDOW_SLICE_MS while asleep; it may call window_abort. NULL: nothing to look
     * after. */
    void (*look_after)(void *context);
    void *context;
} window;

enum { WINDOW_SLICE_MS = 50 };
#define WINDOW_ELSEWHERE (UINT32_MAX - 1)

/* Bytes of shared memory for `locals` ranks on this host of `ranks` in all. slot_bytes is rounded up to
 * WINDOW_ALIGN. */
size_t window_bytes(uint32_t locals, uint32_t ranks, size_t *slot_bytes);
/* By one process, on zeroed memory aligned to WINDOW_ALIGN, before anybody attaches. */
void window_format(void *memory, uint32_t locals);
void window_attach(window *w, void *memory, uint32_t local_rank, uint32_t locals, uint32_t ranks,
                   size_t slot_bytes, uint32_t spin_us);

/* The slot of `rank` in the current round. */
static inline char *window_slot(const window *w, uint32_t rank) {
    return w->slots + (2 * (size_t)rank + (w->round & 1)) * w->slot_bytes;
}

/* Enters the next round: waits until this host's slots of it are free. */
STATUS_CHECKED status window_begin(window *w);
void window_publish(window *w);
/* Waits until the host's rank `local` published the current round. */
STATUS_CHECKED status window_wait(window *w, uint32_t local);

void window_wake(window *w);
/* Until wakes exceed `taken`. timeout_ms < 0: for ever. */
STATUS_CHECKED status window_wait_wake(window *w, uint32_t taken, int timeout_ms);

static inline bool window_aborted(const window *w) {
    return atomic_load_explicit(&w->head->aborted, memory_order_relaxed) != 0;
}
status window_abort_status(const window *w); /* ST_PEER with its sentence */
/* `rank` is who gives up, numbered in the engine, or WINDOW_ELSEWHERE when all that is known is that
 * another host did. Only atomics and a system call: fit for a dying process. */
void window_abort(window *w, uint32_t rank);
/* This rank ends in good order; whoever waits for what it never published gets ST_PEER. */
void window_leave(window *w);

#endif
