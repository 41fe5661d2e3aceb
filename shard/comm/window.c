#include "shard/comm/window.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/invariant.h"

/* Not FUTEX_PRIVATE: the waiters are other processes. */
static void futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static bool reached(uint32_t value, uint32_t target) { return value - target < 0x80000000u; }

static size_t head_bytes(uint32_t locals) { return sizeof(window_head) + locals * sizeof(window_counter); }

size_t window_bytes(uint32_t locals, uint32_t ranks, size_t *slot_bytes) {
    if (*slot_bytes == 0) *slot_bytes = WINDOW_SLOT_DEFAULT;
    *slot_bytes = (*slot_bytes + WINDOW_ALIGN - 1) / WINDOW_ALIGN * WINDOW_ALIGN;
    return head_bytes(locals) + 2 * (size_t)ranks * *slot_bytes;
}

void window_format(void *memory, uint32_t locals) {
    INVARIANT((uintptr_t)memory % WINDOW_ALIGN == 0);
    window_head *h = memory;
    atomic_init(&h->aborted, 0);
    atomic_init(&h->wake.value, WINDOW_FIRST_ROUND);
    atomic_init(&h->wake.sleepers, 0);
    atomic_init(&h->wake.left, 0);
    for (uint32_t i = 0; i < locals; i++) {
        atomic_init(&h->published[i].value, WINDOW_FIRST_ROUND);
        atomic_init(&h->published[i].sleepers, 0);
        atomic_init(&h->published[i].left, 0);
    }
}

void window_attach(window *w, void *memory, uint32_t local_rank, uint32_t locals, uint32_t ranks,
                   size_t slot_bytes, uint32_t spin_us) {
    INVARIANT((uintptr_t)memory % WINDOW_ALIGN == 0 && slot_bytes % WINDOW_ALIGN == 0 && local_rank < locals);
    *w = (window){.head = memory,
                  .slots = (char *)memory + head_bytes(locals),
                  .slot_bytes = slot_bytes,
                  .locals = locals,
                  .ranks = ranks,
                  .local_rank = local_rank,
                  .spin_ns = (uint64_t)spin_us * 1000,
                  .round = WINDOW_FIRST_ROUND};
}

status window_abort_status(const window *w) {
    uint32_t who = atomic_load_explicit(&w->head->aborted, memory_order_relaxed);
    if (who - 1 == WINDOW_ELSEWHERE) return fail(ST_PEER, "a rank on another host failed or gave up");
    return fail(ST_PEER, "rank %u failed or gave up", who - 1);
}

/* True once the wait is over, with its status in *st. */
static bool wait_over(const window *w, window_counter *c, uint32_t target, status *st) {
    *st = ST_OK;
    if (reached(atomic_load_explicit(&c->value, memory_order_acquire), target)) return true;
    if (window_aborted(w)) {
        *st = window_abort_status(w);
        return true;
    }
    if (!atomic_load_explicit(&c->left, memory_order_acquire)) return false;
    /* It may have published and left between the two loads above. */
    if (!reached(atomic_load_explicit(&c->value, memory_order_acquire), target))
        *st = fail(ST_PEER, "rank %td of this host left before the exchange",
                   c == &w->head->wake ? 0 : c - w->head->published);
    return true;
}

static status wait_asleep(window *w, window_counter *c, uint32_t target, uint64_t until_ns) {
    for (;;) {
        status st;
        if (wait_over(w, c, target, &st)) return st;
        uint64_t now = clock_now_ns(), slice = (uint64_t)WINDOW_SLICE_MS * 1000000;
        if (now >= until_ns) return ST_TIMEOUT;
        if (until_ns - now < slice) slice = until_ns - now;
        /* Sequentially consistent with the publisher, which stores value and then looks at sleepers:
         * either it sees us here, or we see its value below. An abort that slips between is seen after one
         * slice. */
        atomic_fetch_add(&c->sleepers, 1);
        uint32_t seen = atomic_load(&c->value);
        if (!reached(seen, target) && !window_aborted(w)) futex_wait(&c->value, seen, slice);
        atomic_fetch_sub(&c->sleepers, 1);
        if (w->look_after && !reached(atomic_load(&c->value), target)) w->look_after(w->context);
    }
}

static status wait_until(window *w, window_counter *c, uint32_t target, uint64_t until_ns) {
    if (reached(atomic_load_explicit(&c->value, memory_order_acquire), target)) return ST_OK;
    uint64_t start = clock_now_ns(), spin_end = start + w->spin_ns;
    if (spin_end > until_ns) spin_end = until_ns;
    status st = ST_OK;
    bool over = false;
    /* Soon with a yield between looks: the rank waited for may be runnable on this very core, and would
     * otherwise not run before the spin ends (measured with two ranks that the kernel had put together:
     * 1000 us instead of 3). */
    for (int turns = 0; !over && clock_now_ns() < spin_end; turns++) {
        for (int i = 0; i < 32 && !over; i++) {
            over = wait_over(w, c, target, &st);
            if (over) break;
            for (int line = 0; line < 4 && w->next < w->next_end; line++, w->next += 64)
                __builtin_prefetch(w->next, 0, 2);
            cpu_relax();
        }
        if (!over && turns >= 4) sched_yield();
    }
    if (!over) st = wait_asleep(w, c, target, until_ns);
    w->wait_ns += clock_now_ns() - start;
    return st;
}

static void counter_set(window_counter *c, uint32_t value) {
    atomic_store(&c->value, value);
    if (atomic_load(&c->sleepers) != 0) futex_wake_all(&c->value);
}

status window_begin(window *w) {
    if (window_aborted(w)) return window_abort_status(w);
    for (uint32_t i = 0; i < w->locals; i++)
        if (i != w->local_rank) TRY(wait_until(w, &w->head->published[i], w->round, UINT64_MAX));
    w->round++;
    return ST_OK;
}

void window_publish(window *w) { counter_set(&w->head->published[w->local_rank], w->round); }

status window_wait(window *w, uint32_t local) {
    return wait_until(w, &w->head->published[local], w->round, UINT64_MAX);
}

void window_wake(window *w) { counter_set(&w->head->wake, atomic_load(&w->head->wake.value) + 1); }

status window_wait_wake(window *w, uint32_t taken, int timeout_ms) {
    uint64_t until = timeout_ms < 0 ? UINT64_MAX : clock_now_ns() + (uint64_t)timeout_ms * 1000000;
    uint64_t wait_ns = w->wait_ns;
    status st = wait_until(w, &w->head->wake, WINDOW_FIRST_ROUND + taken + 1, until);
    w->wait_ns = wait_ns; /* idling is no cost of an exchange */
    return st;
}

void window_abort(window *w, uint32_t rank) {
    uint32_t none = 0;
    atomic_compare_exchange_strong(&w->head->aborted, &none, rank + 1);
    futex_wake_all(&w->head->wake.value);
    for (uint32_t i = 0; i < w->locals; i++) futex_wake_all(&w->head->published[i].value);
}

void window_leave(window *w) {
    atomic_store(&w->head->published[w->local_rank].left, 1);
    futex_wake_all(&w->head->published[w->local_rank].value);
    if (w->local_rank == 0) {
        atomic_store(&w->head->wake.left, 1);
        futex_wake_all(&w->head->wake.value);
    }
}
