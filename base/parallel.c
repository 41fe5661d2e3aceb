#include "base/parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

typedef struct work {
    status (*body)(void *context, uint32_t item, uint32_t thread);
    void *context;
    uint32_t count;
    atomic_uint next, threads; /* items, and threads, that have begun */
    atomic_bool stop;
    pthread_mutex_t lock;
    status st;                      /* of the first failure; guarded by lock */
    char sentence[STATUS_TEXT_MAX]; /* guarded by lock */
} work;

static void *run_items(void *context) {
    work *w = context;
    uint32_t thread = atomic_fetch_add(&w->threads, 1);
    for (;;) {
        uint32_t i = atomic_fetch_add(&w->next, 1);
        if (i >= w->count || atomic_load(&w->stop)) return NULL;
        status st = w->body(w->context, i, thread);
        if (st == ST_OK) continue;
        /* The sentence belongs to this thread: a copy crosses to the one that answers. */
        pthread_mutex_lock(&w->lock);
        if (w->st == ST_OK) {
            w->st = st;
            snprintf(w->sentence, sizeof w->sentence, "%s", status_text());
        }
        pthread_mutex_unlock(&w->lock);
        atomic_store(&w->stop, true);
    }
}

uint32_t parallel_threads(uint32_t threads) {
    if (threads == 0) return 1;
    return threads < PARALLEL_THREADS_MAX ? threads : PARALLEL_THREADS_MAX;
}

status parallel_run_numbered(uint32_t threads, uint32_t count,
                             status (*body)(void *context, uint32_t item, uint32_t thread), void *context) {
    work w = {.body = body, .context = context, .count = count, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t ids[PARALLEL_THREADS_MAX];
    uint32_t started = 0;
    threads = parallel_threads(threads);
    while (started + 1 < threads && started + 1 < count) {
        if (pthread_create(&ids[started], NULL, run_items, &w) != 0) break;
        started++;
    }
    run_items(&w);
    for (uint32_t i = 0; i < started; i++) pthread_join(ids[i], NULL);
    pthread_mutex_destroy(&w.lock);
    return w.st == ST_OK ? ST_OK : fail(w.st, "%s", w.sentence);
}

typedef struct plain {
    status (*body)(void *context, uint32_t item);
    void *context;
} plain;

static status run_plain(void *context, uint32_t item, uint32_t thread) {
    const plain *p = context;
    (void)thread;
    return p->body(p->context, item);
}

status parallel_run(uint32_t threads, uint32_t count, status (*body)(void *context, uint32_t item),
                    void *context) {
    plain p = {body, context};
    return parallel_run_numbered(threads, count, run_plain, &p);
}
