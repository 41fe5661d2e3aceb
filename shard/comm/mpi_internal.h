/* The back end `mpi` in two files: mpi.c starts, opens and closes; mpi_move.c carries slots between hosts.
 * Threads: the engine thread (MPI_THREAD_FUNNELED), except abort, which never calls MPI. */
#ifndef SHARD_COMM_MPI_INTERNAL_H
#define SHARD_COMM_MPI_INTERNAL_H

#include <mpi.h>

#include "shard/comm/comm_internal.h"
#include "shard/comm/wake_net.h"

typedef struct mpi_state mpi_state;
struct mpi_state {
    comm c;
    window w;
    MPI_Comm world, node;
    MPI_Win win;      /* MPI_WIN_NULL when this rank is alone on its host */
    void *own_memory; /* the window then */
    size_t own_bytes;
    uint32_t *node_of, *local_of; /* [size] */
    uint32_t *node_size,
        *node_rank;        /* [nodes]; node_rank: the rank there that this rank sends gather slots to */
    uint32_t *carrier;     /* [size] */
    bool *is_local;        /* [size] */
    MPI_Request *requests; /* [2 · size] */
    uint64_t spin_ns, looked_ns;
    atomic_flag looking; /* two threads may look after the connections, one at a time */
    wake_hub *hub;   /* rank 0 */
    wake_link *link; /* the others */
    mpi_state *next; /* all that were opened: their MPI objects are released together in comm_mpi_stop */
};

/* A sentence for MPI's code. */
status mpi_fail(int code, const char *what);
#define MPI_TRY(call)                                                                                        \
    do {                                                                                                     \
        int mpi_code_ = (call);                                                                              \
        if (mpi_code_ != MPI_SUCCESS) return mpi_fail(mpi_code_, #call);                                     \
    } while (0)

status mpi_move(comm *c, const comm_round *round);
/* Sets the abort word when a connection to another rank ended without a goodbye. */
void mpi_look_after(void *state);

#endif
