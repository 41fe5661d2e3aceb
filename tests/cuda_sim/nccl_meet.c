#include "nccl_meet.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cuda_sim.h"
#include "sim.h"

/* A send or a receive that waits for the other side. */
typedef struct posted {
    struct posted *next;
    const nccl_call *call;
    bool done;
} posted;

struct nccl_clique {
    nccl_clique *next;
    ncclUniqueId id;
    unsigned references;                   /* communicators; guarded, with the list, by list_lock */
    pthread_mutex_t lock;                  /* guards what follows */
    pthread_cond_t changed;
    int size, joined;                      /* size 0: nobody has come */
    ncclComm_t ranks[NCCL_RANKS_MAX];
    int devices[NCCL_RANKS_MAX];
    bool duplicate, broken;                /* broken: a connection is lost; waits go on until they are aborted */
    bool gone[NCCL_RANKS_MAX];             /* a rank aborted: its own waits end, nobody else's */
    /* The collective that ranks are in: number `collective`, and who has come with what. */
    uint64_t collective;
    int arrived;
    const nccl_call *arrivals[NCCL_RANKS_MAX];
    posted *sends[NCCL_RANKS_MAX][NCCL_RANKS_MAX], *receives[NCCL_RANKS_MAX][NCCL_RANKS_MAX]; /* [from][to] */
};

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static nccl_clique *cliques;
static uint64_t ids;

/* ---- who belongs together ---- */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    nccl_clique *c = memory_alloc(sizeof *c);
    memset(id, 0, sizeof *id);
    pthread_mutex_lock(&list_lock);
    uint64_t number = ++ids;
    memcpy(id->internal, &number, sizeof number);
    memcpy(id->internal + sizeof number, "cuda_sim", 8);
    c->id = *id;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->next = cliques;
    cliques = c;
    pthread_mutex_unlock(&list_lock);
    return ncclSuccess;
}

ncclResult_t nccl_clique_join(ncclComm_t comm, const ncclUniqueId *id, int nranks) {
    pthread_mutex_lock(&list_lock);
    nccl_clique *c = cliques;
    while (c && memcmp(&c->id, id, sizeof *id) != 0) c = c->next;
    if (c) c->references++;
    pthread_mutex_unlock(&list_lock);
    if (!c) return ncclInvalidArgument;
    pthread_mutex_lock(&c->lock);
    bool good = (c->size == 0 || c->size == nranks) && !c->ranks[comm->rank];
    if (good) {
        c->size = nranks;
        c->ranks[comm->rank] = comm;
        c->devices[comm->rank] = comm->device;
        for (int i = 0; i < nranks; i++)
            if (i != comm->rank && c->ranks[i] && c->devices[i] == comm->device) c->duplicate = true;
        c->joined++;
        comm->clique = c;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    if (good) return ncclSuccess;
    pthread_mutex_lock(&list_lock);
    c->references--;
    pthread_mutex_unlock(&list_lock);
    return ncclInvalidArgument;
}

void nccl_clique_leave(ncclComm_t comm) {
    nccl_clique *c = comm->clique;
    pthread_mutex_lock(&list_lock);
    bool last = --c->references == 0 && c->joined == c->size;
    for (nccl_clique **at = &cliques; last && *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    pthread_mutex_unlock(&list_lock);
    if (!last) return;
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void nccl_clique_abort(ncclComm_t comm) {
    nccl_clique *c = comm->clique;
    pthread_mutex_lock(&c->lock);
    c->gone[comm->rank] = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void cuda_sim_nccl_break(void) {
    int device = sim_device_current();
    pthread_mutex_lock(&list_lock);
    for (nccl_clique *c = cliques; c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        for (int i = 0; i < c->size; i++) c->broken = c->broken || (c->ranks[i] && c->devices[i] == device);
        pthread_cond_broadcast(&c->changed);
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&list_lock);
}

static ncclResult_t state_of(const nccl_clique *c, int rank) {
    if (c->joined == c->size && c->duplicate) return ncclInvalidUsage;
    if (c->broken || c->gone[rank]) return ncclRemoteError;
    return c->joined < c->size ? ncclInProgress : ncclSuccess;
}
ncclResult_t nccl_clique_state(const struct ncclComm *comm) {
    nccl_clique *c = comm->clique;
    pthread_mutex_lock(&c->lock);
    ncclResult_t r = state_of(c, comm->rank);
    pthread_mutex_unlock(&c->lock);
    return r;
}
ncclResult_t nccl_clique_wait(const struct ncclComm *comm) {
    nccl_clique *c = comm->clique;
    ncclResult_t r;
    pthread_mutex_lock(&c->lock);
    while ((r = state_of(c, comm->rank)) == ncclInProgress) pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return r;
}
int nccl_clique_size(const struct ncclComm *comm) { return comm->clique->size; }

/* ---- sums ---- */

size_t nccl_type_bytes(ncclDataType_t type) {
    static const unsigned char bytes[ncclNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return bytes[type];
}
bool nccl_can_reduce(ncclDataType_t type, ncclRedOp_t op) {
    return (type == ncclFloat32 || type == ncclFloat64 || type == ncclInt32 || type == ncclUint32 || type == ncclUint64) &&
           (op == ncclSum || op == ncclMax || op == ncclMin);
}

#define COMBINE(T)                                                                                           \
    do {                                                                                                     \
        T a, b;                                                                                              \
        memcpy(&a, sum, sizeof a);                                                                           \
        memcpy(&b, x, sizeof b);                                                                             \
        a = op == ncclSum ? a + b : op == ncclMax ? (a < b ? b : a) : (b < a ? b : a);                       \
        memcpy(sum, &a, sizeof a);                                                                           \
    } while (0)
static void combine(ncclDataType_t type, ncclRedOp_t op, void *sum, const void *x) {
    if (type == ncclFloat32) COMBINE(float);
    else if (type == ncclFloat64) COMBINE(double);
    else if (type == ncclInt32) COMBINE(int32_t);
    else if (type == ncclUint32) COMBINE(uint32_t);
    else COMBINE(uint64_t);
}

/* ---- collectives: who comes last does it for all ---- */

static void reduce(const nccl_clique *c, size_t count, char *out) {
    const nccl_call *first = c->arrivals[0];
    size_t bytes = nccl_type_bytes(first->type);
    for (size_t i = 0; i < count; i++) {
        int begin = (int)(i / 32 % (size_t)c->size);
        memcpy(out + i * bytes, (const char *)c->arrivals[begin]->from + i * bytes, bytes);
        for (int k = 1; k < c->size; k++)
            combine(first->type, first->op, out + i * bytes,
                    (const char *)c->arrivals[(begin + k) % c->size]->from + i * bytes);
    }
}

static void collective_do(const nccl_clique *c) {
    const nccl_call *first = c->arrivals[0];
    size_t size = (size_t)c->size, bytes = first->count * nccl_type_bytes(first->type);
    size_t whole = first->kind == NCCL_ALL_GATHER || first->kind == NCCL_REDUCE_SCATTER ? bytes * size : bytes;
    for (size_t i = 1; i < size; i++) {
        const nccl_call *a = c->arrivals[i];
        if (a->kind != first->kind || a->count != first->count || a->type != first->type || a->peer != first->peer ||
            a->op != first->op)
            sim_die("NCCL: rank 0 is in call %d of %zu elements, rank %zu in call %d of %zu", (int)first->kind, first->count, i,
                    (int)a->kind, a->count);
    }
    char *all = memory_alloc(whole); /* from and to may be the same memory */
    switch (first->kind) {
    case NCCL_ALL_GATHER:
        for (size_t i = 0; i < size; i++) memcpy(all + i * bytes, c->arrivals[i]->from, bytes);
        break;
    case NCCL_ALL_REDUCE: reduce(c, first->count, all); break;
    case NCCL_REDUCE_SCATTER: reduce(c, first->count * size, all); break;
    default: memcpy(all, c->arrivals[first->peer]->from, bytes); break;
    }
    for (size_t i = 0; i < size; i++) {
        if (first->kind == NCCL_REDUCE_SCATTER) memcpy(c->arrivals[i]->to, all + i * bytes, bytes);
        else memcpy(c->arrivals[i]->to, all, whole);
    }
    free(all);
}

static void collective_run(nccl_clique *c, ncclComm_t comm, const nccl_call *call) {
    uint64_t number = comm->collectives++;
    const bool *gone = &c->gone[comm->rank];
    while (!*gone && c->collective != number) pthread_cond_wait(&c->changed, &c->lock);
    if (*gone) return;
    c->arrivals[comm->rank] = call;
    if (++c->arrived == c->size) {
        collective_do(c);
        c->arrived = 0;
        c->collective++;
        pthread_cond_broadcast(&c->changed);
    }
    while (!*gone && c->collective == number) pthread_cond_wait(&c->changed, &c->lock);
    if (c->collective != number) return;
    c->arrivals[comm->rank] = NULL;
    c->arrived--;
}

/* ---- between two ---- */

static void post(posted **queue, posted *p) {
    while (*queue) queue = &(*queue)->next;
    *queue = p;
}
static void match(nccl_clique *c, int from, int to) {
    posted **sends = &c->sends[from][to], **receives = &c->receives[from][to];
    while (*sends && *receives) {
        posted *s = *sends, *r = *receives;
        size_t bytes = s->call->count * nccl_type_bytes(s->call->type), room = r->call->count * nccl_type_bytes(r->call->type);
        if (bytes != room) sim_die("NCCL: rank %d sends %zu bytes to rank %d, which receives %zu", from, bytes, to, room);
        memmove(r->call->to, s->call->from, bytes);
        *sends = s->next;
        *receives = r->next;
        s->done = r->done = true;
        pthread_cond_broadcast(&c->changed);
    }
}
static void withdraw(posted **queue, posted *p) {
    while (*queue && *queue != p) queue = &(*queue)->next;
    if (*queue) *queue = p->next;
}

static void poison(const nccl_clique *c, const nccl_call *call) {
    size_t bytes = call->count * nccl_type_bytes(call->type);
    if (call->to) memset(call->to, 0xFF, call->kind == NCCL_ALL_GATHER ? bytes * (size_t)c->size : bytes);
}

void nccl_calls_run(ncclComm_t comm, const nccl_call *calls) {
    nccl_clique *c = comm->clique;
    size_t count = 0, at = 0;
    for (const nccl_call *k = calls; k; k = k->next) count += k->kind <= NCCL_RECV;
    posted *own = memory_alloc_array(count, sizeof *own);
    int me = comm->rank;
    pthread_mutex_lock(&c->lock);
    for (const nccl_call *k = calls; k && !c->gone[me]; k = k->next) {
        if (k->kind > NCCL_RECV) continue;
        posted *p = &own[at++];
        p->call = k;
        if (k->kind == NCCL_SEND) post(&c->sends[me][k->peer], p), match(c, me, k->peer);
        else post(&c->receives[k->peer][me], p), match(c, k->peer, me);
    }
    for (const nccl_call *k = calls; k; k = k->next)
        if (k->kind > NCCL_RECV) collective_run(c, comm, k);
    for (size_t i = 0; i < at; i++) {
        posted *p = &own[i];
        while (!p->done && !c->gone[me]) pthread_cond_wait(&c->changed, &c->lock);
        if (p->done) continue;
        if (p->call->kind == NCCL_SEND) withdraw(&c->sends[me][p->call->peer], p);
        else withdraw(&c->receives[p->call->peer][me], p);
    }
    if (c->gone[me])
        for (const nccl_call *k = calls; k; k = k->next) poison(c, k);
    pthread_mutex_unlock(&c->lock);
    free(own);
}
