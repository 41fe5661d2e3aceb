/* Ranks that are threads, and what happens when their streams meet in a call. */
#ifndef TESTS_CUDA_SIM_NCCL_MEET_H
#define TESTS_CUDA_SIM_NCCL_MEET_H

#include <stdbool.h>
#include <stdint.h>
#include "nccl.h"

enum { NCCL_RANKS_MAX = 16 };
typedef enum nccl_kind {
    NCCL_SEND,
    NCCL_RECV,
    NCCL_ALL_GATHER,
    NCCL_ALL_REDUCE,
    NCCL_REDUCE_SCATTER,
    NCCL_BROADCAST
} nccl_kind;

typedef struct nccl_call {
    struct nccl_call *next;
    nccl_kind kind;
    const void *from;
    void *to;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    int peer;                     /* or root */
    ncclComm_t comm;
    cudaStream_t stream;
} nccl_call;

typedef struct nccl_clique nccl_clique;
struct ncclComm {
    int references;               /* atomic: the owner's, and those of work under way or in graphs */
    int rank, device;
    bool blocking, finalizing;
    int unasked;                  /* atomic: something was begun, and nobody has asked whether it is done */
    int pending;                  /* atomic: work in streams that has not run */
    int recorded;                 /* atomic: work in graphs, which holds abort and destruction up until those are gone */
    nccl_clique *clique;
    uint64_t collectives;         /* run so far; of the stream's thread */
    struct ncclComm *next_opening;
};

ncclResult_t nccl_clique_join(ncclComm_t comm, const ncclUniqueId *id, int nranks);
void nccl_clique_leave(ncclComm_t comm);
void nccl_clique_abort(ncclComm_t comm);
int nccl_clique_size(const struct ncclComm *comm);
/* ncclInProgress until all have joined; afterwards an error, if there is one. */
ncclResult_t nccl_clique_state(const struct ncclComm *comm);
ncclResult_t nccl_clique_wait(const struct ncclComm *comm);
/* Returns when all of the calls are done, or the rank has aborted: then what they would write is NaN. */
void nccl_calls_run(ncclComm_t comm, const nccl_call *calls);

size_t nccl_type_bytes(ncclDataType_t type);
bool nccl_can_reduce(ncclDataType_t type, ncclRedOp_t op);

#endif
