/* A stream from inside: stream.c, event.c and graph.c. */
#ifndef TESTS_CUDA_SIM_STREAM_H
#define TESTS_CUDA_SIM_STREAM_H

#include <pthread.h>
#include "sim.h"

typedef struct stream_item {
    struct stream_item *next;
    sim_work *work;
} stream_item;

struct CUstream_st {
    struct CUstream_st *next;          /* of the list of all */
    int device;
    unsigned flags;
    pthread_mutex_t lock;              /* guards what follows */
    pthread_cond_t wake, finished;
    stream_item *first, *last;
    uint64_t issued, done, wanted;     /* items: enqueued, run, to be run without delay */
    pthread_t thread;
    bool started, closing;
    uint64_t legacy_ticket;            /* of the legacy stream, that this one waits for already */
    sim_capture *capture;              /* it takes part in; the capturing threads' */
    bool unjoined;                     /* in the capture: no event of the last thing here has been waited for */
    uint64_t captured;                 /* changes with everything captured here */
};

/* Item number `ticket` of a stream and all before it. */
void sim_ticket_wait(cudaStream_t s, uint64_t ticket);
bool sim_ticket_done(cudaStream_t s, uint64_t ticket);  /* and lets it begin */
uint64_t sim_ticket_last(cudaStream_t s);
/* What s gets next runs after that. */
void sim_stream_await(cudaStream_t s, cudaStream_t other, uint64_t ticket);

#endif
