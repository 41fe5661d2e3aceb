#include "shard/bench/over_ranks.h"

#include <stdlib.h>

#include "base/memory.h"

static status gather(comm *ranks, double mine, double **all) {
    *all = memory_alloc_array(comm_size(ranks), sizeof **all);
    return comm_all_gather(ranks, &mine, sizeof mine, *all);
}

status over_ranks_most(comm *ranks, double mine, double *out) {
    double *all;
    status st = gather(ranks, mine, &all);
    *out = 0;
    for (uint32_t i = 0; i < comm_size(ranks); i++)
        if (all[i] > *out) *out = all[i];
    free(all);
    return st;
}

status over_ranks_sum(comm *ranks, double mine, double *out) {
    double *all;
    status st = gather(ranks, mine, &all);
    *out = 0;
    for (uint32_t i = 0; i < comm_size(ranks); i++) *out += all[i];
    free(all);
    return st;
}

status over_ranks_sum_bytes(comm *ranks, uint64_t mine, uint64_t *out) {
    uint64_t *all = memory_alloc_array(comm_size(ranks), sizeof *all);
    status st = comm_all_gather(ranks, &mine, sizeof mine, all);
    *out = 0;
    for (uint32_t i = 0; i < comm_size(ranks); i++) *out += all[i];
    free(all);
    return st;
}
