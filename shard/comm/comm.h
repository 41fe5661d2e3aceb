/* Exchanges between the ranks of one engine. Back ends: `self` (one rank), `fork` (processes, or threads under TSan, on
 * anonymous shared memory, without MPI), `mpi` (shares fork's code inside a node through an MPI shared-memory window;
 * between nodes, messages). Ranks with a GPU have a second comm for what lies in its memory (cuda/cuda_comm.h): there
 * `x`, `in`, `out` and `data` are device pointers and calls are put on a stream; counts stay host memory, read at once.
 *
 * Sums:    partials are exchanged and added in rank order, starting from rank 0's values, so that every rank holds the
 *          same bits at every size and on every back end. MPI_Allreduce and MPI_Reduce are never used: their order
 *          depends on the message's size.
 * Memory:  callers own all buffers; a comm owns its windows, taken at open.
 * Threads: all calls from the engine thread, except comm_abort, from any.
 * Calls:   collective: every rank makes the same calls in the same order with the same counts (or the counts said to be
 *          known everywhere).
 * Errors:  ST_PEER once any rank aborted or left: nothing hangs in shared memory, because waits look at the abort word.
 *          A rank stuck inside MPI is ended by its watchdog (shard/link/watchdog.h). */
#ifndef SHARD_COMM_COMM_H
#define SHARD_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

typedef struct comm comm;

typedef struct comm_stats {
    uint64_t calls, bytes, wait_ns;
    uint64_t ns; /* inside the calls, waiting included */
} comm_stats;

typedef struct comm_node {
    uint32_t node;        /* number of this rank's host, 0-based in rank order of first appearance */
    uint32_t nodes;
    uint32_t local_rank, local_ranks;
} comm_node;

uint32_t comm_rank(const comm *c);
uint32_t comm_size(const comm *c);
comm_node comm_where(const comm *c);
comm_stats comm_statistics(const comm *c);

/* Calls are put on a device's stream without waiting for it, and may be recorded in a CUDA graph and replayed. */
bool comm_is_ordered(const comm *c);

/* x[count], in place: the sum over ranks. */
STATUS_CHECKED status comm_all_reduce(comm *c, float *x, size_t count);
/* out[size · bytes]: every rank's `in`, in rank order. in may be its own place in out. */
STATUS_CHECKED status comm_all_gather(comm *c, const void *in, size_t bytes, void *out);
/* As above with bytes[size] per rank, known everywhere (0 allowed); out is the concatenation. */
STATUS_CHECKED status comm_all_gather_v(comm *c, const void *in, const size_t *bytes, void *out);
/* in: blocks for rank 0, 1, … of send_bytes[size]; out: blocks from rank 0, 1, … of recv_bytes[size]. */
STATUS_CHECKED status comm_all_to_all_v(comm *c, const void *in, const size_t *send_bytes, void *out,
                                        const size_t *recv_bytes);
STATUS_CHECKED status comm_broadcast(comm *c, void *data, size_t bytes, uint32_t root);
/* Returns once all ranks have called it; of a comm that is ordered: what is put on the stream after it runs once all
 * ranks' streams have come to it. */
STATUS_CHECKED status comm_barrier(comm *c);

/* Rank 0 announces that a broadcast follows; the others sleep in comm_wait (a futex inside a node, a byte on a TCP
 * connection between nodes), never inside MPI. One wake lets each other rank through one wait. comm_wait: ST_OK when
 * woken, ST_TIMEOUT, ST_PEER. timeout_ms < 0: for ever. */
STATUS_CHECKED status comm_wake(comm *c);
STATUS_CHECKED status comm_wait(comm *c, int timeout_ms);

/* What this rank reads next: while the next exchange waits for others, memory is asked for it, from the front. A hint. */
void comm_while_waiting(comm *c, const void *next, size_t bytes);
/* Every rank's next or current call returns ST_PEER. Safe from any thread and, for shared memory, from a rank that is
 * about to die. */
void comm_abort(comm *c);
void comm_close(comm *c);  /* NULL is fine; does not wait for others */

/* ---- back ends ---- */
STATUS_CHECKED status comm_self_open(comm **out);

typedef struct comm_fork_options {
    uint32_t ranks;
    bool threads;          /* ranks are threads of this process (TSan cannot follow shared memory across processes) */
    uint32_t spin_us;      /* how long waits spin before they sleep; 0 with more ranks than CPUs */
    size_t slot_bytes;     /* per rank and direction; larger exchanges go in pieces. 0: a default */
} comm_fork_options;
/* Runs body(c, context) as every rank and waits for all; returns the first failure in rank order, and aborts the others
 * when one fails or dies (its exit is named). In process mode rank 0 is the calling process. */
typedef status comm_body(comm *c, void *context);
STATUS_CHECKED status comm_fork_run(const comm_fork_options *options, comm_body *body, void *context);

/* MPI_Init_thread has been called by comm_mpi_start; comm_mpi_stop finalizes. Only in builds with MPI. */
typedef struct comm_mpi_options {
    uint32_t spin_us;
    size_t slot_bytes;
    uint32_t ranks_per_node_max; /* tests: splits one host's ranks into several "nodes" that exchange messages; 0: off */
    const uint8_t *secret;       /* [secret_bytes] proves a wake connection to be ours */
    size_t secret_bytes;
} comm_mpi_options;
STATUS_CHECKED status comm_mpi_start(int *argc, char ***argv);
STATUS_CHECKED status comm_mpi_open(comm **out, const comm_mpi_options *options);
void comm_mpi_stop(void);

#endif
