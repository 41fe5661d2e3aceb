/* NCCL, loaded when the first ranks with a GPU each meet: a machine without GPUs needs none, and maps none.
 *
 * Threads: any. */
#ifndef SHARD_COMM_CUDA_NCCL_LIBRARY_H
#define SHARD_COMM_CUDA_NCCL_LIBRARY_H

#include <nccl.h>
#include <stdbool.h>

#include "base/status.h"

/* Every function that is called; one that is not in here does not link. */
#define NCCL_FUNCTIONS(X)                                                                                    \
    X(GetVersion)                                                                                            \
    X(GetUniqueId)                                                                                           \
    X(GetErrorString)                                                                                        \
    X(GetLastError)                                                                                          \
    X(CommInitRankConfig)                                                                                    \
    X(CommFinalize)                                                                                          \
    X(CommDestroy)                                                                                           \
    X(CommAbort)                                                                                             \
    X(CommGetAsyncError)                                                                                     \
    X(GroupStart)                                                                                            \
    X(GroupEnd)                                                                                              \
    X(Send)                                                                                                  \
    X(Recv)                                                                                                  \
    X(AllGather)                                                                                             \
    X(Broadcast)

/* ncclX is nccl.X; their types are the header's. */
typedef struct nccl_functions {
#define NCCL_FUNCTION(name) __typeof__(&nccl##name) name;
    NCCL_FUNCTIONS(NCCL_FUNCTION)
#undef NCCL_FUNCTION
} nccl_functions;

/* To be called once nccl_library_open has given ST_OK. */
extern nccl_functions nccl;

/* Loads it, once; the same answer each time. ST_NOT_FOUND, ST_UNSUPPORTED (a function is missing, or it is another major
 * version): with a sentence. */
STATUS_CHECKED status nccl_library_open(void);

#ifdef GEMMAD_CUDA_SIM
/* Tests: the next openings find none, or find it again. */
void nccl_library_pretend_missing(bool missing);
#endif

#endif
