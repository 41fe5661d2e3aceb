/* Runs a launch: the threads of one block after another as fibers of the calling thread. Which fiber goes on where several
 * could, and the order of blocks, come from a seed, so that a barrier that is missing shows as a wrong answer. */
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "fiber.h"
#include "sim.h"
#include "wgmma.h"

enum { LANES = 32, WARPS = SIM_THREADS_MAX / LANES, BARRIERS = 16, GROUPS = SIM_THREADS_MAX / 128, SPIN_SECONDS = 300 };

/* A copy to shared memory that is under way. */
typedef struct pending_copy {
    void *to;
    const void *from;
    unsigned group;
    bool valid;
} pending_copy;

typedef struct lane {
    fiber fiber;
    fiber_stack *stack;        /* NULL: has not begun */
    uint3 index;
    uint16_t warp, number;
    uint8_t at;                /* enum sim_meeting, or SIM_MEETINGS + barrier */
    uint32_t mask;
    bool waited;               /* for the kernel before */
    sim_exchange exchange;
    pending_copy *copies;
    unsigned copy_count, copy_max, group, grouped;
} lane;

typedef struct warp {
    uint32_t alive, ready, meeting;    /* lanes that have not returned, could go on, wait for others of the warp */
    uint32_t first_set, first_mask;    /* of `meeting`: those who came first, all to one meeting, and its mask */
    enum sim_meeting first_kind;
    uint32_t held[BARRIERS + GROUPS];  /* lanes that wait at a barrier */
    sim_exchange *exchanges[LANES];
    unsigned turn;                     /* lane that is looked at first, and in which direction from there */
    bool backwards;
    lane lanes[LANES];
} warp;

typedef struct machine {
    warp warps[WARPS];
    uint32_t warps_ready;
    unsigned alive, spinning;
    struct { int expected, arrived; } barriers[BARRIERS + GROUPS]; /* behind those of kernels: warpgroups' products */
    lane *current;
    fiber scheduler;
    fiber_stack *stacks;       /* not in use */
    unsigned stack_count;
    uint64_t random;
    const void *arguments;
    time_t spin_since;
    int atomics_left;
} machine;

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;
__thread sim_exchange *sim_lane_exchange;
__thread const sim_launch *sim_running;
static __thread machine *self;

static pthread_key_t machine_key;
static pthread_once_t machine_once = PTHREAD_ONCE_INIT;

static void machine_close(void *p) {
    machine *m = p;
    for (int i = 0; i < SIM_THREADS_MAX; i++) free(m->warps[i / LANES].lanes[i % LANES].copies);
    while (m->stacks) {
        fiber_stack *s = m->stacks;
        m->stacks = s->next;
        fiber_stack_close(s);
    }
    free(m);
}
static void machine_key_make(void) { pthread_key_create(&machine_key, machine_close); }

static const char *waits_for(const lane *l, char text[32]) {
    if (l->at < SIM_MEETINGS) return sim_meeting_name((enum sim_meeting)l->at);
    if (l->at == SIM_MEETINGS) return "__syncthreads";
    if (l->at >= SIM_MEETINGS + BARRIERS) return "wgmma";
    snprintf(text, 32, "barrier_sync(%d)", l->at - SIM_MEETINGS);
    return text;
}

void sim_die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "cuda_sim: ");
    if (sim_running) fprintf(stderr, "kernel %s, block (%u, %u, %u)", sim_running->name, blockIdx.x, blockIdx.y, blockIdx.z);
    if (sim_running && self && self->current)
        fprintf(stderr, ", warp %u, lane %u", self->current->warp, self->current->number);
    fprintf(stderr, "%s", sim_running ? ": " : "");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    va_end(list);
    abort();
}

/* ---- who goes on ---- */

static inline uint32_t draw(machine *m) {
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return (uint32_t)(m->random >> 32);
}
static void turn(machine *m, warp *w) {
    uint32_t r = draw(m);
    w->turn = r & 31;
    w->backwards = r >> 5 & 1;
}
static inline unsigned first_from(uint32_t set, unsigned from, bool backwards) {
    uint32_t rotated = from ? set >> from | set << (32 - from) : set;
    return (from + (unsigned)(backwards ? 31 - __builtin_clz(rotated) : __builtin_ctz(rotated))) & 31;
}

/* Says who waits where, once nobody can go on. */
__attribute__((noreturn)) static void deadlock(machine *m) {
    fprintf(stderr, "cuda_sim: kernel %s, block (%u, %u, %u): no thread can go on:\n", sim_running->name, blockIdx.x, blockIdx.y,
            blockIdx.z);
    unsigned threads = sim_running->block.x * sim_running->block.y * sim_running->block.z;
    for (unsigned w = 0; w * LANES < threads; w++) {
        for (unsigned i = 0; i < LANES && w * LANES + i < threads;) {
            const lane *l = &m->warps[w].lanes[i];
            unsigned end = i + 1;
            bool gone = !(m->warps[w].alive >> i & 1);
            for (; end < LANES && w * LANES + end < threads; end++) {
                const lane *o = &m->warps[w].lanes[end];
                bool o_gone = !(m->warps[w].alive >> end & 1);
                if (gone != o_gone || (!gone && (o->at != l->at || o->mask != l->mask))) break;
            }
            char text[32];
            if (gone) fprintf(stderr, "  warp %u, lanes %u to %u: have returned\n", w, i, end - 1);
            else fprintf(stderr, "  warp %u, lanes %u to %u: in %s, mask %08x\n", w, i, end - 1, waits_for(l, text), l->mask);
            i = end;
        }
    }
    abort();
}

static inline lane *pick(machine *m, warp *w) {
    if (!w->ready || (draw(m) & 63) == 0) {
        if (!m->warps_ready) {
            if (m->alive) deadlock(m);
            return NULL;
        }
        w = &m->warps[first_from(m->warps_ready, draw(m) & 31, false)];
    }
    unsigned i = first_from(w->ready, w->turn, w->backwards);
    w->ready &= ~(1u << i);
    if (!w->ready) m->warps_ready &= ~(1u << (w - m->warps));
    return &w->lanes[i];
}

static inline void become(machine *m, lane *l) {
    m->current = l;
    threadIdx = l->index;
    sim_lane_exchange = &l->exchange;
}

static void lane_finish(machine *m, lane *l) {
    warp *w = &m->warps[l->warp];
    char text[32];
    if (!l->waited) sim_die("returns without grid_wait()");
    sim_wgmma_end();
    w->alive &= ~(1u << l->number);
    m->alive--;
    m->spin_since = 0;
    for (uint32_t set = w->meeting; set; set &= set - 1) {
        const lane *o = &w->lanes[__builtin_ctz(set)];
        if (o->mask >> l->number & 1) sim_die("returns while lane %u waits for it in %s", o->number, waits_for(o, text));
    }
}

/* Runs lanes from their beginning, one after the other as long as each returns without having waited: those need no
 * stack of their own. */
static void lane_main(void) {
    fiber_entered();
    machine *m = self;
    for (;;) {
        lane *l = m->current;
        sim_running->call(m->arguments);
        l = m->current;
        lane_finish(m, l);
        fiber_stack *stack = l->stack;
        lane *next = pick(m, &m->warps[l->warp]);
        if (next && !next->stack) {
            next->stack = stack;
            next->fiber = l->fiber;
            l->stack = NULL;
            become(m, next);
            continue;
        }
        l->stack = NULL;
        stack->next = m->stacks;
        m->stacks = stack;
        if (next) become(m, next);
        fiber_switch(&l->fiber, next ? &next->fiber : &m->scheduler, 1);
    }
}

static void lane_begin(machine *m, lane *l) {
    if (m->stacks) {
        l->stack = m->stacks;
        m->stacks = l->stack->next;
    } else {
        l->stack = fiber_stack_open(m->stack_count++);
    }
    fiber_begin(&l->fiber, l->stack, lane_main);
}

/* The current lane waits, or has put itself among those that are ready. */
static void go_on_elsewhere(machine *m, lane *l, warp *prefer) {
    lane *next = pick(m, prefer);
    if (next == l) return;
    if (!next->stack) lane_begin(m, next);
    become(m, next);
    fiber_switch(&l->fiber, &next->fiber, 0);
}

static inline void make_ready(machine *m, warp *w, uint32_t lanes) {
    if (!lanes) return;
    w->ready |= lanes;
    m->warps_ready |= 1u << (w - m->warps);
}

/* ---- meetings ---- */

/* All lanes of the mask wait; in this meeting, or in others that may end before? */
static bool all_agree(const warp *w, enum sim_meeting kind, uint32_t mask) {
    bool all = true;
    for (uint32_t set = mask; set; set &= set - 1) {
        const lane *o = &w->lanes[__builtin_ctz(set)];
        if (o->mask == mask && o->at != kind)
            sim_die("is in %s, and lane %u in %s", sim_meeting_name(kind), o->number, sim_meeting_name((enum sim_meeting)o->at));
        all = all && o->mask == mask;
    }
    return all;
}

void sim_meet(enum sim_meeting kind, uint32_t mask) {
    machine *m = self;
    if (!sim_running) sim_die("%s outside a kernel", sim_meeting_name(kind));
    lane *l = m->current;
    warp *w = &m->warps[l->warp];
    uint32_t mine = 1u << l->number;
    if (!(mask & mine)) sim_die("%s with mask %08x, which does not have the lane itself", sim_meeting_name(kind), mask);
    if (mask & ~w->alive)
        sim_die("%s with mask %08x, whose lanes %08x have returned or never were", sim_meeting_name(kind), mask, mask & ~w->alive);
    l->at = (uint8_t)kind;
    l->mask = mask;
    if (!w->first_set) w->first_kind = kind, w->first_mask = mask;
    if (w->first_kind == kind && w->first_mask == mask) w->first_set |= mine;
    w->meeting |= mine;
    if (w->first_set == mask || ((w->meeting & mask) == mask && all_agree(w, kind, mask))) {
        sim_warp_exchange(kind, mask, w->exchanges);
        w->meeting &= ~mask;
        w->first_set &= ~mask;
        turn(m, w);
        make_ready(m, w, mask & ~mine);
        return;
    }
    go_on_elsewhere(m, l, w);
}

void sim_barrier(int id, int threads) {
    machine *m = self;
    if (!sim_running) sim_die("a barrier outside a kernel");
    lane *l = m->current;
    int all = (int)(blockDim.x * blockDim.y * blockDim.z), expected = threads ? threads : all;
    if (threads && (threads % LANES != 0 || threads > all)) sim_die("barrier_sync(%d, %d) in a block of %d", id, threads, all);
    if (m->barriers[id].arrived && m->barriers[id].expected != expected)
        sim_die("barrier %d: %d threads, and before %d", id, expected, m->barriers[id].expected);
    m->barriers[id].expected = expected;
    l->at = (uint8_t)(SIM_MEETINGS + id);
    l->mask = 0;
    m->warps[l->warp].held[id] |= 1u << l->number;
    if (++m->barriers[id].arrived < expected) {
        go_on_elsewhere(m, l, &m->warps[l->warp]);
        return;
    }
    m->barriers[id].arrived = 0;
    if (id < BARRIERS) sim_wgmma_barrier();
    for (unsigned i = 0; i * LANES < (unsigned)all; i++) {
        warp *w = &m->warps[i];
        uint32_t here = w->held[id];
        w->held[id] = 0;
        if (id && here && here != 0xFFFFFFFFu) sim_die("barrier %d: of warp %u only lanes %08x came", id, i, here);
        turn(m, w);
        make_ready(m, w, here);
    }
    /* Who came last need not go on first. */
    go_on_elsewhere(m, l, &m->warps[draw(m) % (unsigned)((all + LANES - 1) / LANES)]);
}

void sim_barrier_of_group(int group, int threads) { sim_barrier(BARRIERS + group, threads); }

void sim_spin(void) {
    machine *m = self;
    if (!sim_running) return;
    lane *l = m->current;
    warp *w = &m->warps[l->warp];
    bool alone = !m->warps_ready;
    make_ready(m, w, 1u << l->number);
    turn(m, w);
    if (alone || (m->spinning++ & 31) == 0) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        if (!m->spin_since) m->spin_since = now.tv_sec;
        if (now.tv_sec - m->spin_since > SPIN_SECONDS)
            sim_die("has waited %d s for a flag (blocks of one launch run one after another, and cannot wait for later ones)",
                    SPIN_SECONDS);
        sched_yield();
    }
    go_on_elsewhere(m, l, &m->warps[first_from(m->warps_ready, draw(m) & 31, false)]);
}

void sim_atomic(void) {
    if (!sim_running || --self->atomics_left > 0) return;
    self->atomics_left = 1 + (int)(draw(self) & 15);
    sim_spin();
}

void sim_grid_wait(void) {
    if (sim_running) self->current->waited = true;
}

/* ---- copies that are under way ---- */

void sim_copy_async(void *shared, const void *global, bool valid) {
    lane *l = self->current;
    if ((uintptr_t)shared % 16 != 0) sim_die("cp_async_16 to %p, which is not 16-byte aligned", shared);
    if (valid && (uintptr_t)global % 16 != 0) sim_die("cp_async_16 from %p, which is not 16-byte aligned", global);
    if (!sim_is_shared(shared, 16)) sim_die("cp_async_16 to %p, which is not in shared memory", shared);
    if (l->copy_count == l->copy_max) {
        l->copy_max = l->copy_max ? 2 * l->copy_max : 16;
        l->copies = memory_grow(l->copies, l->copy_max * sizeof *l->copies);
    }
    memset(shared, 0xFF, 16);
    l->copies[l->copy_count++] = (pending_copy){shared, global, l->group, valid};
}
void sim_copy_commit(void) { self->current->group++; }
void sim_copy_wait(int left) {
    lane *l = self->current;
    unsigned kept = 0;
    for (unsigned i = 0; i < l->copy_count; i++) {
        const pending_copy *c = &l->copies[i];
        if (c->group + (unsigned)left >= l->group) l->copies[kept++] = *c;
        else if (c->valid) memcpy(c->to, c->from, 16);
        else memset(c->to, 0, 16);
    }
    if (kept < l->copy_count) sim_wgmma_copied();
    l->copy_count = kept;
}

/* ---- blocks ---- */

static void block_run(machine *m, const sim_launch *launch) {
    unsigned threads = launch->block.x * launch->block.y * launch->block.z;
    sim_shared_poison(launch->shared_bytes);
    sim_wgmma_begin(threads);
    memset(m->barriers, 0, sizeof m->barriers);
    m->alive = threads;
    m->warps_ready = 0;
    m->spin_since = 0;
    m->atomics_left = 1;
    for (unsigned w = 0; w * LANES < threads; w++) {
        unsigned count = threads - w * LANES < LANES ? threads - w * LANES : LANES;
        m->warps[w].alive = m->warps[w].ready = count == LANES ? 0xFFFFFFFFu : (1u << count) - 1;
        m->warps[w].meeting = m->warps[w].first_set = 0;
        memset(m->warps[w].held, 0, sizeof m->warps[w].held);
        m->warps_ready |= 1u << w;
        turn(m, &m->warps[w]);
        for (unsigned i = 0; i < count; i++) {
            lane *l = &m->warps[w].lanes[i];
            unsigned n = w * LANES + i;
            l->index = (uint3){n % launch->block.x, n / launch->block.x % launch->block.y,
                               n / launch->block.x / launch->block.y};
            l->warp = (uint16_t)w;
            l->number = (uint16_t)i;
            l->stack = NULL;
            l->waited = false;
            l->at = SIM_SYNC;
            l->mask = 0;
            l->copy_count = l->group = 0;
            memset(&l->exchange, 0xFF, sizeof l->exchange);
        }
    }
    lane *first = pick(m, &m->warps[0]);
    lane_begin(m, first);
    become(m, first);
    fiber_switch(&m->scheduler, &first->fiber, 0);
    m->current = NULL;
}

static uint64_t greatest_divisor(uint64_t a, uint64_t b) { return b ? greatest_divisor(b, a % b) : a; }

void sim_run(const sim_launch *launch, const void *arguments, uint64_t seed) {
    pthread_once(&machine_once, machine_key_make);
    if (!self) {
        self = memory_alloc(sizeof *self);
        for (int i = 0; i < SIM_THREADS_MAX; i++)
            self->warps[i / LANES].exchanges[i % LANES] = &self->warps[i / LANES].lanes[i % LANES].exchange;
        pthread_setspecific(machine_key, self);
    }
    machine *m = self;
    m->arguments = arguments;
    m->random = (seed + 1) * 0x9E3779B97F4A7C15u | 1;
    for (int i = 0; i < 4; i++) draw(m);
    sim_running = launch;
    blockDim = (uint3){launch->block.x, launch->block.y, launch->block.z};
    gridDim = (uint3){launch->grid.x, launch->grid.y, launch->grid.z};
    /* Blocks in an order that no kernel may count on. */
    uint64_t blocks = (uint64_t)launch->grid.x * launch->grid.y * launch->grid.z, step = draw(m) % blocks, at = draw(m) % blocks;
    while (greatest_divisor(step, blocks) != 1) step++;
    /* Of launches that meet block by block each device runs the same block at a time. */
    if (launch->together) step = 1, at = 0;
    for (uint64_t i = 0; i < blocks; i++, at = (at + step) % blocks) {
        blockIdx = (uint3){(unsigned)(at % launch->grid.x), (unsigned)(at / launch->grid.x % launch->grid.y),
                           (unsigned)(at / launch->grid.x / launch->grid.y)};
        block_run(m, launch);
    }
    sim_running = NULL;
}
