/* Who starts next: classes of priority, fair between the clients of a class, first come, first served inside a client. */
#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sched/sched_internal.h"

/* A drawn token takes a step of its own, a row of a prompt shares one with many. */
enum { IDLE_CLIENTS_MAX = 256, TOKEN_SERVICE = 4 };

/* ---- lists ---- */

/* Keeps the order of arrival; those who come last are put in without looking at the others. */
static void list_insert(sequence_list *l, sequence *q) {
    sequence *after = l->last;
    while (after && after->order > q->order) after = after->previous;
    q->previous = after;
    q->next = after ? after->next : l->first;
    if (q->next) q->next->previous = q;
    else l->last = q;
    if (after) after->next = q;
    else l->first = q;
    q->queue = l;
}

static void list_remove(sequence *q) {
    sequence_list *l = q->queue;
    if (q->next) q->next->previous = q->previous;
    else l->last = q->previous;
    if (q->previous) q->previous->next = q->next;
    else l->first = q->next;
    q->next = q->previous = NULL;
    q->queue = NULL;
}

/* ---- classes, clients, groups ---- */

static sched_class *class_of(sched *s, int32_t priority) {
    sched_class **at = &s->classes;
    while (*at && (*at)->priority > priority) at = &(*at)->next;
    if (*at && (*at)->priority == priority) return *at;
    sched_class *c = memory_alloc(sizeof *c);
    c->priority = priority;
    c->next = *at;
    return *at = c;
}

static bool active(const sched_client *c) { return c->waiting_count > 0 || c->running > 0; }

/* The least that an active client was served; `none` without one. */
static uint64_t least_service(const sched_class *class, uint64_t none) {
    uint64_t least = UINT64_MAX;
    for (const sched_client *c = class->clients; c; c = c->next)
        if (active(c) && c->service < least) least = c->service;
    return least == UINT64_MAX ? none : least;
}

/* Who has nothing here is remembered only while others have still to catch up with him. */
static void forget_idle(sched_class *class, uint64_t floor) {
    uint32_t kept = 0;
    for (sched_client **at = &class->clients; *at;) {
        sched_client *c = *at;
        if (active(c) || (c->service > floor && kept++ < IDLE_CLIENTS_MAX)) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        free(c);
    }
}

/* A client that comes, or comes back, has no claim on what it did not ask for before. */
static sched_client *client_of(sched_class *class, uint64_t id) {
    sched_client *c = class->clients;
    while (c && c->id != id) c = c->next;
    if (c && active(c)) return c;
    uint64_t floor = least_service(class, 0);
    if (!c) {
        forget_idle(class, floor);
        c = memory_alloc(sizeof *c);
        c->id = id;
        c->class = class;
        c->next = class->clients;
        class->clients = c;
    }
    if (c->service < floor) c->service = floor;
    return c;
}

static void class_free(sched *s, sched_class *class) {
    sched_class **at = &s->classes;
    while (*at != class) at = &(*at)->next;
    *at = class->next;
    while (class->clients) {
        sched_client *c = class->clients;
        class->clients = c->next;
        free(c);
    }
    free(class);
}

static sched_group *group_of(sched *s, uint64_t id) {
    if (id == 0) return NULL;
    sched_group *g = s->groups;
    while (g && g->id != id) g = g->next;
    if (g) return g;
    g = memory_alloc(sizeof *g);
    g->id = id;
    g->next = s->groups;
    return s->groups = g;
}

static void group_free(sched *s, sched_group *g) {
    sched_group **at = &s->groups;
    while (*at != g) at = &(*at)->next;
    *at = g->next;
    free(g);
}

void queue_join(sched *s, sequence *q) {
    sched_class *class = class_of(s, q->r.priority);
    class->members++;
    q->client = client_of(class, q->r.client);
    q->group = group_of(s, q->r.group);
    if (q->group) q->group->members++;
}

void queue_leave(sched *s, sequence *q) {
    INVARIANT(!q->queue);
    if (q->group && q->group->reader == q) q->group->reader = NULL;
    if (q->group && --q->group->members == 0) group_free(s, q->group);
    sched_class *class = q->client->class;
    if (--class->members == 0) class_free(s, class);
}

/* ---- waiting ---- */

static void wait_in(sched *s, sequence *q, sequence_list *l) {
    list_insert(l, q);
    q->client->waiting_count++;
    s->waiting_count++;
}

void queue_wait(sched *s, sequence *q) { wait_in(s, q, &q->client->waiting); }

void queue_return(sched *s, sequence *q) {
    if (q->group && q->group->reader == q) q->group->reader = NULL;
    wait_in(s, q, &q->client->class->preempted);
}

void queue_take_out(sched *s, sequence *q) {
    if (!q->queue) return;
    list_remove(q);
    q->client->waiting_count--;
    s->waiting_count--;
}

void queue_started(sequence *q, uint32_t rows) {
    if (!q->started) q->client->service += rows;
    if (q->group && !q->group->computed) q->group->reader = q;
}

void queue_served(sequence *q) { q->client->service += TOKEN_SERVICE; }

void queue_prompt_computed(sequence *q) {
    if (!q->group) return;
    q->group->computed = true;
    q->group->reader = NULL;
}

/* ---- order ---- */

static bool may_start(const sched *s, const sequence *q) {
    if (q->paused || (s->sole && s->sole != q)) return false;
    return !q->group || q->group->computed || !q->group->reader;
}

static sequence *first_of(const sched *s, const sequence_list *l) {
    sequence *q = l->first;
    while (q && !may_start(s, q)) q = q->next;
    return q;
}

static bool sooner(const sequence *a, const sequence *b) {
    const sched_client *x = a->client, *y = b->client;
    if (x->service != y->service) return x->service < y->service;
    if (x->running != y->running) return x->running < y->running;
    return a->order < b->order;
}

sequence *queue_next(const sched *s) {
    if (s->waiting_count == 0) return NULL;
    for (sched_class *class = s->classes; class; class = class->next) {
        sequence *best = first_of(s, &class->preempted);
        if (best) return best;
        for (sched_client *c = class->clients; c; c = c->next) {
            sequence *q = first_of(s, &c->waiting);
            if (q && (!best || sooner(q, best))) best = q;
        }
        if (best) return best;
    }
    return NULL;
}

bool queue_before(const sequence *a, const sequence *b) {
    if (a->paused != b->paused) return b->paused;
    if (a->r.priority != b->r.priority) return a->r.priority > b->r.priority;
    return a->order < b->order;
}
