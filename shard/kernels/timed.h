/* A back end around a back end: forwards every operator and adds up its time, calls and bytes of weights. For
 * measurements only; what is computed is the same.
 *
 * Memory:  timed_open takes the inner back end over, which close() closes too.
 * Threads: engine thread.
 * Numbers: a matrix counts once a call whatever the number of rows, and an expert once a call if a row chose it: what a
 *          decode step streams from memory. */
#ifndef SHARD_KERNELS_TIMED_H
#define SHARD_KERNELS_TIMED_H

#include "shard/kernels/ops.h"

enum { TIMED_NAMES_MAX = 32, TIMED_NAME_BYTES = 24 };

typedef struct timed_operator {
    char name[TIMED_NAME_BYTES];
    uint64_t ns, calls;
} timed_operator;

typedef struct timed_totals {
    timed_operator op[TIMED_NAMES_MAX]; /* in the order of first use; names of the same backend keep their places */
    uint32_t op_count;
    uint64_t weight_bytes;
    uint64_t expert_calls;    /* of the router: one a layer and step */
    uint64_t experts_hit;     /* distinct experts of any rank, added up over those calls */
    uint64_t expert_rows;     /* rows that experts of this rank computed */
} timed_totals;

/* The outer back end, in *out. */
void timed_open(backend **out, backend *inner);
/* Calls of linear whose first matrix is this one are counted under this name instead of "linear". The pointer counts. */
void timed_name(backend *timed, const weight *w, const char *name);
/* From here on a device that works beside the host is waited for after each operator, whose time is then its own and that
 * of the wait, and nothing is recorded or replayed. Without it only calls are counted there. */
void timed_wait(backend *timed, bool waits);
/* Totals since the last call, and zero from here on. */
void timed_take(backend *timed, timed_totals *out);

#endif
