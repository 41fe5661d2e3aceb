#include "shard/link/watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"

/* An engine arms and disarms around every exchange, thousands of times a second, so that costs no lock: the
 * watcher sleeps until the deadline it saw last and only then looks whether it was moved. It is woken early
 * only when a new deadline comes before the time it sleeps to. */
struct watchdog {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;                    /* guarded by lock */
    _Atomic uint64_t deadline_ns; /* 0: disarmed */
    _Atomic uint64_t wake_ns;     /* when the watcher looks next; UINT64_MAX: when signalled */
    _Atomic uint64_t armed_ms;
    const char *_Atomic what;
};

static void bite(watchdog *w) {
    log_error("watchdog: %s did not end within %llu ms; this rank ends with status %d", atomic_load(&w->what),
              (unsigned long long)atomic_load(&w->armed_ms), EXIT_WATCHDOG);
    _exit(EXIT_WATCHDOG);
}

static void *watch(void *argument) {
    watchdog *w = argument;
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        uint64_t deadline = atomic_load(&w->deadline_ns);
        if (deadline && clock_now_ns() >= deadline) bite(w);
        atomic_store(&w->wake_ns, deadline ? deadline : UINT64_MAX);
        /* Looked at again after wake_ns is known: whoever armed in between saw the old wake_ns. */
        if (atomic_load(&w->deadline_ns) != deadline) continue;
        if (!deadline) {
            pthread_cond_wait(&w->changed, &w->lock);
        } else {
            struct timespec until = {(time_t)(deadline / 1000000000), (long)(deadline % 1000000000)};
            pthread_cond_timedwait(&w->changed, &w->lock, &until);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

status watchdog_open(watchdog **out) {
    watchdog *w = memory_alloc(sizeof *w);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&w->lock, NULL);
    atomic_store(&w->what, "nothing");
    atomic_store(&w->wake_ns, UINT64_MAX);
    int error = pthread_create(&w->thread, NULL, watch, w);
    if (error) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->lock);
        free(w);
        errno = error;
        return fail_errno(ST_IO, "the watchdog's thread");
    }
    *out = w;
    return ST_OK;
}

void watchdog_close(watchdog *w) {
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void watchdog_arm(watchdog *w, const char *what, uint64_t deadline_ms) {
    INVARIANT(deadline_ms < UINT64_C(1) << 40);
    uint64_t deadline = clock_now_ns() + deadline_ms * 1000000;
    atomic_store(&w->what, what);
    atomic_store(&w->armed_ms, deadline_ms);
    atomic_store(&w->deadline_ns, deadline);
    if (deadline >= atomic_load(&w->wake_ns)) return;
    pthread_mutex_lock(&w->lock); /* the watcher either waits or has not yet looked at deadline_ns again */
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void watchdog_disarm(watchdog *w) { atomic_store(&w->deadline_ns, 0); }

status watchdog_follow_parent(void) {
    pid_t parent = getppid();
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return fail_errno(ST_IO, "prctl(PR_SET_PDEATHSIG)");
    if (getppid() != parent) return fail(ST_UNAVAILABLE, "the launcher ended before this rank had begun");
    return ST_OK;
}
