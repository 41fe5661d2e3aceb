#include "shard/kernels/placement.h"

#include <sched.h>
#include <stdlib.h>
#ifdef GEMMAD_WITH_NUMA
#include <numa.h>
#endif

#include "base/memory.h"

enum { CPUS_MAX = 8192 };

/* glibc's cpu_set_t ends at 1024 CPUs; the *_S macros take a row of them. */
typedef struct cpu_set {
    cpu_set_t parts[CPUS_MAX / CPU_SETSIZE];
} cpu_set;

typedef struct place {
    uint32_t cpu;
    int node; /* 0 where nobody says */
} place;

static int by_node(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->node != y->node) return x->node < y->node ? -1 : 1;
    return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

static int node_of(uint32_t cpu) {
#ifdef GEMMAD_WITH_NUMA
    int node = numa_available() < 0 ? 0 : numa_node_of_cpu((int)cpu);
    return node < 0 ? 0 : node;
#else
    (void)cpu;
    return 0;
#endif
}

/* Returns how many; places[CPUS_MAX]. */
static uint32_t allowed(place *places) {
    cpu_set set;
    uint32_t n = 0;
    if (sched_getaffinity(0, sizeof set, set.parts) != 0) return 0;
    for (uint32_t cpu = 0; cpu < CPUS_MAX; cpu++)
        if (CPU_ISSET_S(cpu, sizeof set, set.parts)) places[n++] = (place){cpu, node_of(cpu)};
    qsort(places, n, sizeof *places, by_node);
    return n;
}

uint32_t placement_cpus(void) {
    cpu_set set;
    if (sched_getaffinity(0, sizeof set, set.parts) != 0) return 1;
    return (uint32_t)CPU_COUNT_S(sizeof set, set.parts);
}

/* The index-th of `parts` equal parts of places[n]. */
static status bind_part(placement *out, const place *places, uint32_t n, uint32_t index, uint32_t parts,
                        uint32_t threads) {
    uint32_t share = parts ? n / parts : 0;
    /* A launcher may have given each rank CPUs of its own already; those of one rank cannot be told from all
     * of a host, so fewer than the ranks' threads are left as they are. */
    if (share < threads) return ST_OK;
    cpu_set own;
    CPU_ZERO_S(sizeof own, own.parts);
    const place *mine = places + (size_t)index * share;
    for (uint32_t i = 0; i < share; i++) CPU_SET_S(mine[i].cpu, sizeof own, own.parts);
    if (sched_setaffinity(0, sizeof own, own.parts) != 0)
        return fail_errno(ST_IO, "bind rank %u of %u on this host to %u CPUs from CPU %u", index, parts, share,
                          mine[0].cpu);
    out->bound = true;
    out->cpus = share;
    out->first_node = (uint32_t)mine[0].node;
    out->nodes = (uint32_t)(mine[share - 1].node - mine[0].node) + 1;
    return ST_OK;
}

status placement_bind(placement *out, uint32_t local_rank, uint32_t local_ranks, uint32_t threads) {
    *out = (placement){0};
    place *places = memory_alloc_array(CPUS_MAX, sizeof *places);
    out->cpus = allowed(places);
    status st = bind_part(out, places, out->cpus, local_rank, local_ranks, threads);
    free(places);
    return st;
}

status placement_bind_near(placement *out, int node, uint32_t index, uint32_t ranks, uint32_t threads) {
    *out = (placement){0};
    place *places = memory_alloc_array(CPUS_MAX, sizeof *places);
    uint32_t first = 0, n;
    out->cpus = allowed(places);
    while (first < out->cpus && places[first].node < node) first++;
    for (n = first; n < out->cpus && places[n].node == node;) n++;
    status st = node < 0 ? ST_OK : bind_part(out, places + first, n - first, index, ranks, threads);
    free(places);
    return st;
}
