#include "base/progress.h"

#include "base/clock.h"
#include "base/log.h"

static const uint64_t INTERVAL_NS = (uint64_t)PROGRESS_SECONDS * 1000000000;

void progress_begin(progress *p, const char *what, uint64_t total) {
    p->what = what;
    p->total = total;
    p->begin_ns = clock_now_ns();
    atomic_store(&p->done, 0);
    atomic_store(&p->next_ns, p->begin_ns + INTERVAL_NS);
}

double progress_rate(uint64_t bytes, uint64_t ns) { return ns ? (double)bytes / (double)ns : 0; }

void progress_add(progress *p, uint64_t bytes) {
    if (!p->what) return;
    uint64_t done = atomic_fetch_add(&p->done, bytes) + bytes, now = clock_now_ns();
    uint_fast64_t due = atomic_load(&p->next_ns);
    /* Whoever moves the time of the next line says this one. */
    if (now < due || !atomic_compare_exchange_strong(&p->next_ns, &due, now + INTERVAL_NS)) return;
    log_info("%s: %.2f of %.2f GiB, %.2f GB/s", p->what, (double)done / 0x1p30, (double)p->total / 0x1p30,
             progress_rate(done, now - p->begin_ns));
}
