/* What the back ends share: one comm is a window (the ranks of this host) and, with several hosts, a
 * `remote` that fills the slots of ranks elsewhere. Every collective is written once, over rounds
 * (collective.c), so that back ends differ in how bytes travel and in nothing else.
 * Threads: as comm.h. */
#ifndef SHARD_COMM_COMM_INTERNAL_H
#define SHARD_COMM_COMM_INTERNAL_H

#include "shard/comm/comm.h"
#include "shard/comm/window.h"

/* All-to-all cuts a slot into one cell a rank: a head of 16 bytes, and at least as much data. */
enum { COMM_CELL_BYTES_MIN = 32 };

typedef struct comm_span {
    size_t at, bytes; /* inside a slot */
} comm_span;

/* What is read of whose slot in one round. */
typedef struct comm_round {
    /* gather: span is the same for every `to`, and one copy serves all ranks of a host.
     * Otherwise each rank reads a part of its own. */
    bool gather;
    comm_span (*span)(const void *context, uint32_t from, uint32_t to);
    const void *context;
} comm_round;

typedef struct comm_back_end {
    /* Sends this rank's slot of the round to other hosts, receives what this rank carries. NULL: one host. */
    status (*move)(comm *c, const comm_round *round);
    /* Wakes the ranks of other hosts. NULL: one host. */
    status (*wake)(comm *c);
    /* A rank elsewhere waits for rank 0's wake. NULL: rank 0 is on this host. */
    status (*wait)(comm *c, int timeout_ms);
    void (*abort)(comm *c); /* after the abort word is set; NULL: the word is enough */
    void (*close)(comm *c); /* NULL: the memory is somebody else's */
    /* Where buffers are a device's and nothing goes through a window: all five, or none. Arguments and results as the
     * calls of comm.h, which count calls and bytes before they come here. */
    status (*all_reduce)(comm *c, float *x, size_t count);
    status (*all_gather_v)(comm *c, const void *in, const size_t *bytes, void *out);
    status (*all_to_all_v)(comm *c, const void *in, const size_t *send_bytes, void *out, const size_t *recv_bytes);
    status (*broadcast)(comm *c, void *data, size_t bytes, uint32_t root);
    status (*barrier)(comm *c);
} comm_back_end;

struct comm {
    uint32_t rank, size;
    comm_node where;
    comm_stats stats;
    window *window; /* NULL: self */
    const comm_back_end *back;
    void *state; /* the back end's */
    /* [size]: the local rank that publishes a rank's slot in a gather round: the rank itself, or who
     * receives it. */
    const uint32_t *carrier;
    const bool *is_local; /* [size] */
    const float **parts;  /* [size] scratch for sums */
    size_t *same; /* [size] scratch of all_gather, where the back end has an all_gather_v of its own */
    bool is_ordered; /* the back end's calls are put on a stream and not waited for */
    uint32_t wakes_taken;
    _Atomic bool self_aborted; /* comm_abort was called here, where there is no window to say so */
};

/* For a thread that watches on behalf of an engine thread that waits elsewhere: looks whether a rank is gone, as waits do,
 * and gives ST_PEER with its sentence once any rank gave up. Any thread. */
status comm_look_after(comm *c);

/* out[i] = parts[0][i] + parts[1][i] + … + parts[n - 1][i], added in that order. out overlaps no part. n
 * >= 1 */
void comm_sum_in_order(float *restrict out, const float *const *parts, uint32_t n, size_t count);

#endif
