/* The leader's sign of life. It comes from a thread of its own, so that it goes on while a long step
 * computes; that steps go on shows in the step count, and a step that hangs is the watchdog's. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "shard/link/internal.h"
#include "shard/link/wire.h"

static uint64_t own_cpu_ms(void) {
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) != 0) return 0;
    uint64_t seconds = (uint64_t)u.ru_utime.tv_sec + (uint64_t)u.ru_stime.tv_sec;
    return seconds * 1000 + ((uint64_t)u.ru_utime.tv_usec + (uint64_t)u.ru_stime.tv_usec) / 1000;
}

/* utime and stime of /proc/PID/stat; the fields are counted from the last ')', since a name may hold
 * anything. */
static bool process_cpu_ms(uint32_t pid, uint64_t *ms) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = 0;
    const char *after = strrchr(text, ')');
    unsigned long long user, system;
    if (!after ||
        sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
        return false;
    *ms = (user + system) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
    return true;
}

static void fill_cpu_times(link_rank_info *rank, uint32_t count) {
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    for (uint32_t i = 0; i < count; i++) {
        if (rank[i].pid == (uint32_t)getpid()) rank[i].cpu_ms = own_cpu_ms();
        else if (rank[i].pid != 0 && !strcmp(rank[i].host, host))
            (void)process_cpu_ms(rank[i].pid, &rank[i].cpu_ms);
    }
}

/* A copy of the ranks, so that /proc is not read with the lock held. NULL: gemmad does not know us yet. */
static link_rank_info *copy_ranks(link_connection *l, uint32_t *count) {
    pthread_mutex_lock(&l->lock);
    if (!l->proven) {
        pthread_mutex_unlock(&l->lock);
        return NULL;
    }
    *count = l->rank_count;
    link_rank_info *copy = memory_alloc_array(*count + 1, sizeof *copy);
    if (*count) memcpy(copy, l->rank, *count * sizeof *copy);
    pthread_mutex_unlock(&l->lock);
    return copy;
}

static void fill_counters(Gemmad__Engine__Heartbeat *m, const link_progress *p) {
    m->has_prefix_query_tokens = m->has_prefix_hit_tokens = m->has_preemptions = m->has_step_us = true;
    m->has_cached_pages = m->has_imbalance = m->has_paused = m->has_spilled_bytes = true;
    m->prefix_query_tokens = atomic_load(&p->prefix_query_tokens);
    m->prefix_hit_tokens = atomic_load(&p->prefix_hit_tokens);
    m->preemptions = atomic_load(&p->preemptions);
    m->step_us = atomic_load(&p->step_us);
    m->cached_pages = atomic_load(&p->cached_pages);
    m->imbalance = atomic_load(&p->imbalance);
    m->paused = atomic_load(&p->paused);
    m->spilled_bytes = atomic_load(&p->spilled_bytes);
    m->has_step_ns = m->has_weight_bytes = m->has_collective_ns = true;
    m->step_ns = atomic_load(&p->step_ns);
    m->weight_bytes = atomic_load(&p->weight_bytes);
    m->collective_ns = atomic_load(&p->collective_ns);
}

status link_beat(link_connection *l) {
    if (link_backlog_bytes(l) > LINK_FRAME_BYTES) return link_flush(l);
    uint32_t count;
    link_rank_info *info = copy_ranks(l, &count);
    if (!info) return ST_OK;
    fill_cpu_times(info, count);
    Gemmad__Engine__RankInfo *rank = memory_alloc_array(count + 1, sizeof *rank);
    Gemmad__Engine__RankInfo **list = memory_alloc_array(count + 1, sizeof *list);
    link_rank_pack(info, count, rank, list);
    const link_progress *p = l->progress;
    Gemmad__Engine__Heartbeat m = GEMMAD__ENGINE__HEARTBEAT__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    m.has_steps = m.has_running = m.has_waiting = m.has_kv_pages_used = m.has_kv_pages_total = true;
    m.has_prompt_tokens = m.has_generated_tokens = m.has_in_step = true;
    m.steps = atomic_load(&p->steps);
    m.running = atomic_load(&p->running);
    m.waiting = atomic_load(&p->waiting);
    m.kv_pages_used = atomic_load(&p->kv_pages_used);
    m.kv_pages_total = atomic_load(&p->kv_pages_total);
    m.prompt_tokens = atomic_load(&p->prompt_tokens);
    m.generated_tokens = atomic_load(&p->generated_tokens);
    m.in_step = atomic_load(&p->in_step);
    fill_counters(&m, p);
    uint64_t collective_steps[LIMIT_COLLECTIVE_BUCKETS];
    for (int i = 0; i < LIMIT_COLLECTIVE_BUCKETS; i++) collective_steps[i] = atomic_load(&p->collective_steps[i]);
    m.n_collective_steps = LIMIT_COLLECTIVE_BUCKETS;
    m.collective_steps = collective_steps;
    m.n_ranks = count;
    m.ranks = list;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_HEARTBEAT;
    f.heartbeat = &m;
    status st = link_queue(l, &f);
    free(list);
    free(rank);
    free(info);
    return st;
}

static void *beat(void *argument) {
    link_connection *l = argument;
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        pthread_mutex_unlock(&l->lock);
        /* A broken link is the engine thread's to see, in its next link_poll; ST_BUSY means that gemmad is
         * slow. */
        status st = link_beat(l);
        (void)st;
        pthread_mutex_lock(&l->lock);
        at.tv_sec += LINK_HEARTBEAT_MS / 1000;
        while (!l->stop && pthread_cond_timedwait(&l->stopped, &l->lock, &at) != ETIMEDOUT) continue;
        /* After a stopped process or a suspended machine, no burst of the beats that were missed. */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec > at.tv_sec) at = now;
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

void link_set_ranks(link_connection *l, const link_rank_info *ranks, uint32_t rank_count) {
    link_rank_info *copy = memory_alloc_array(rank_count + 1, sizeof *copy);
    if (rank_count) memcpy(copy, ranks, rank_count * sizeof *copy);
    pthread_mutex_lock(&l->lock);
    link_rank_info *old = l->rank;
    l->rank = copy;
    l->rank_count = rank_count;
    pthread_mutex_unlock(&l->lock);
    free(old);
}

status link_start_heartbeat(link_connection *l, const link_progress *progress, const link_rank_info *ranks,
                            uint32_t rank_count) {
    link_set_ranks(l, ranks, rank_count);
    l->progress = progress;
    int error = pthread_create(&l->thread, NULL, beat, l);
    if (error) {
        errno = error;
        return fail_errno(ST_IO, "the heartbeat's thread");
    }
    l->beating = true;
    return ST_OK;
}
