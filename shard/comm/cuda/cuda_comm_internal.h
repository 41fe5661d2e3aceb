/* What the ways of a GPU's comm share (cuda_comm.h).
 * Threads: the engine thread and the comm's watch; what both touch is atomic or guarded by `lock`. */
#ifndef SHARD_COMM_CUDA_CUDA_COMM_INTERNAL_H
#define SHARD_COMM_CUDA_CUDA_COMM_INTERNAL_H

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <semaphore.h>

#include "shard/comm/comm_internal.h"
#include "shard/comm/cuda/cuda_comm.h"
#include "shard/comm/cuda/kernels.h"

enum {
    CUDA_COMM_SMALL_FLOATS = 16384,
    CUDA_COMM_LARGE_BYTES = 32 << 20,
    CUDA_COMM_WATCH_MS = 50,
    CUDA_COMM_SETTINGS_MAX = 4096, /* bytes of NCCL_* settings that ranks compare */
    CUDA_COMM_CONNECT_SECONDS = 120,
    CUDA_COMM_CLOSE_SECONDS = 5
};

/* What ranks tell each other before anything else. No padding that is not zero: it travels as bytes. */
typedef struct rank_card {
    uint32_t status; /* not ST_OK: this rank cannot go on, and `text` says why */
    uint32_t staged, no_peer;
    int32_t nccl, driver, runtime; /* nccl 0: there is none */
    uint64_t small_floats, large_bytes;
    uint64_t pid, drawn; /* of the process; drawn: by chance, since process ids of containers may be equal */
    char bus[16], uuid[16];
    char host[64]; /* the boot's id, or its name */
    char text[256];
} rank_card;

typedef struct nccl_part nccl_part;
typedef struct peer_part peer_part;
typedef struct staged_part staged_part;

typedef struct cuda_state {
    comm c; /* first */
    comm *ranks;
    cudaStream_t stream;
    int device;
    bool test_handles;
    size_t small_floats, large_bytes;
    rank_card *cards;          /* [size] */
    float *scratch;            /* device, [scratch_floats] */
    size_t scratch_floats;
    nccl_part *nccl;
    peer_part *peer;
    staged_part *staged;
    bool short_by_peer;        /* sums of up to small_floats take peer memory */
    char way[64];

    pthread_mutex_t lock;      /* around every call of NCCL's on its communicator, and around `failure` */
    char failure[STATUS_TEXT_MAX];
    _Atomic bool failed;       /* `failure` is there; never unset */
    uint32_t *abort_word;      /* pinned host memory that waiting kernels look at: not 0 ends them */
    const uint32_t *abort_word_device;
    sem_t wake;                /* the watch looks at once */
    pthread_t watch;
    bool watching;
    _Atomic bool closing;
} cuda_state;

static inline cuda_state *state_of(comm *c) { return (cuda_state *)c; }

/* ---- cuda_comm.c ---- */

/* ST_PEER with its sentence once this comm is broken. */
status cuda_state_check(cuda_state *s);
/* Breaks it, once, with the thread's last sentence: the host's comm is aborted, then waiting kernels are ended, those of NCCL by
 * the watch. Not under the lock. Returns ST_PEER with the sentence that holds. */
status cuda_state_break(cuda_state *s);
/* Breaks it where `st` is a failure of this rank's own and others may wait for it on their devices; returns st with its
 * sentence. */
status cuda_state_give_up(cuda_state *s, status st);
/* An error of CUDA as a status with a sentence. */
status cuda_state_cuda(cudaError_t e, const char *what);
#define CUDA_TRY(call)                                                                                       \
    do {                                                                                                     \
        cudaError_t cuda_error_ = (call);                                                                    \
        if (cuda_error_ != cudaSuccess) return cuda_state_cuda(cuda_error_, #call);                          \
    } while (0)
/* Until the stream is idle, or ST_TIMEOUT. */
status cuda_state_settle(cuda_state *s, uint32_t seconds, const char *what);
/* What kernels launched since the last look met. */
status cuda_state_launched(void);
/* Every rank's status; all get the first failure in rank order (their own first). */
status cuda_state_agree(cuda_state *s, status mine);

/* ---- cards.c: who is where, with what ---- */

/* A failure lies in the card. */
void cards_fill(rank_card *card, const cuda_comm_options *o, size_t small_floats, size_t large_bytes);
/* [n] cards in rank order; the same answer on every rank. */
status cards_compare(const rank_card *cards, uint32_t n);
/* The value of a flag of NCCL's in the environment; NULL: it is not there, empty or 0. */
const char *cards_setting_on(const char *name);
/* Settings of NCCL's own that cannot be had together with this; after they were found to be equal. */
status cards_check_settings(void);
bool cards_same_process(const rank_card *a, const rank_card *b);
/* Two ranks on one device. */
status cards_check_devices(const rank_card *cards, uint32_t n);
bool cards_same_device(const rank_card *a, const rank_card *b);
bool cards_one_host(const rank_card *cards, uint32_t n);
/* The NCCL_* variables that must be equal, sorted, "NAME=value\n"; returns their length with the NUL. */
size_t cards_settings(char text[CUDA_COMM_SETTINGS_MAX]);
status cards_compare_settings(const char *first, const char *other, uint32_t rank);

/* ---- nccl.c; in builds without NCCL nccl_none.c, where opening is ST_UNSUPPORTED ---- */

int nccl_part_version(void); /* 0: built without, or not found, with a sentence; -1: it does not say */
status nccl_part_open(cuda_state *s);
/* Waiting kernels end. From the watch; by the engine thread only when what it recorded is destroyed. Not under the lock. */
void nccl_part_abort(cuda_state *s);
void nccl_part_close(cuda_state *s); /* s->nccl itself goes after the watch has ended */
/* ST_PEER with NCCL's text when a connection broke. From the watch. */
status nccl_part_look(cuda_state *s);
status nccl_all_reduce(cuda_state *s, float *x, size_t count);
status nccl_all_gather_v(cuda_state *s, const void *in, const size_t *bytes, void *out);
status nccl_all_to_all_v(cuda_state *s, const void *in, const size_t *send_bytes, void *out, const size_t *recv_bytes);
status nccl_broadcast(cuda_state *s, void *data, size_t bytes, uint32_t root);
status nccl_barrier(cuda_state *s);

/* ---- peer.c ---- */

/* ST_UNSUPPORTED, on all ranks alike, where a GPU cannot reach another's memory. */
status peer_part_open(cuda_state *s);
void peer_part_close(cuda_state *s); /* before the watch ends; waits a little for ranks that may still read */
/* count ≤ small_floats */
status peer_all_reduce(cuda_state *s, float *x, size_t count);

/* ---- measure.c ---- */

/* Whether recorded calls run again as they should, and which way short sums take; the same on every rank. */
status measure_ways(cuda_state *s, bool *ordered, bool *peer);

/* ---- staged.c ---- */

status staged_part_open(cuda_state *s);
void staged_part_close(cuda_state *s);
status staged_all_reduce(cuda_state *s, float *x, size_t count);
status staged_all_gather_v(cuda_state *s, const void *in, const size_t *bytes, void *out);
status staged_all_to_all_v(cuda_state *s, const void *in, const size_t *send_bytes, void *out,
                           const size_t *recv_bytes);
status staged_broadcast(cuda_state *s, void *data, size_t bytes, uint32_t root);
status staged_barrier(cuda_state *s);

#endif
