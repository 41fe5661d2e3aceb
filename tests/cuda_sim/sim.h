/* Inside of the simulator: what its files share. */
#ifndef TESTS_CUDA_SIM_SIM_H
#define TESTS_CUDA_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "cuda_runtime_api.h"
#include "cuda_sim.h"
#include "rendezvous.h"

enum { SIM_SHARED_BYTES_MAX = 227 << 10, SIM_THREADS_MAX = 1024, SIM_DEVICES_MAX = 16 };

/* ---- block.c: one launch, block after block, on the calling thread ---- */
void sim_run(const sim_launch *launch, const void *arguments, uint64_t seed);
/* The kernel that runs on this thread. */
extern __thread const sim_launch *sim_running;

/* ---- warp.c: what lanes that met get ---- */
void sim_warp_exchange(enum sim_meeting kind, uint32_t mask, sim_exchange *const lanes[32]);
const char *sim_meeting_name(enum sim_meeting kind);
/* Of the lower 16 bits. */
static inline float sim_bf16_float(uint32_t bits) {
    uint32_t u = bits << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* ---- shared.c: the shared memory of the block that runs on this thread ---- */
/* NaN into all of it, so that what is read before it is written shows. */
void sim_shared_poison(size_t dynamic_bytes);
bool sim_is_shared(const void *p, size_t bytes);

/* ---- device.c ---- */
unsigned long long sim_setting(const char *name, unsigned long long otherwise);
int sim_device_count(void);
int sim_device_current(void);
/* Keeps an error for cudaGetLastError, and returns it. */
cudaError_t sim_error(cudaError_t e);
/* What the device has failed with, for good; cudaSuccess: works. */
cudaError_t sim_device_failed(int device);
/* Where the host waits for the device: an error that was asked for comes here. */
cudaError_t sim_synchronised(int device);

/* ---- memory.c ---- */
typedef enum sim_place { SIM_PAGEABLE, SIM_PINNED, SIM_DEVICE, SIM_NOWHERE } sim_place;
/* Where `bytes` from p on lie. SIM_NOWHERE: partly outside of an allocation. */
sim_place sim_memory_place(const void *p, size_t bytes, int *device);
/* Around what the device does: this thread may touch device memory. */
void sim_memory_enter(void);
void sim_memory_leave(void);

/* ---- stream.c ---- */
/* Something to do in stream order, perhaps more than once (a graph). The first field of what it needs. */
typedef struct sim_work sim_work;
struct sim_work {
    void (*run)(sim_work *w);
    void (*close)(sim_work *w);   /* frees it */
    unsigned references;          /* atomic */
};
void sim_work_release(sim_work *w);
void sim_work_free(sim_work *w); /* a close, where free is all */
/* Takes over a reference. In a capture: it becomes a node. */
cudaError_t sim_enqueue(cudaStream_t stream, sim_work *w);
/* Of the NULL stream that of the current device; NULL, with the error kept, if it cannot be used from here. */
cudaStream_t sim_stream_of(cudaStream_t stream, cudaError_t *e);
/* Waits for what has been enqueued so far: of all streams of a device, or only of those that wait for NULL. */
void sim_device_wait(int device, bool all);

/* ---- graph.c ---- */
typedef struct sim_capture sim_capture;
/* For calls that a capture forbids: an error, and a capture of this thread (or a global one) is invalid from here on. */
cudaError_t sim_capture_forbids(void);
/* Returns e, or that the capture was invalid already. */
cudaError_t sim_capture_invalidate(sim_capture *c, cudaError_t e);
/* Takes over a reference. */
cudaError_t sim_capture_append(sim_capture *c, cudaStream_t s, sim_work *w);
/* From 1; NULL: that capture has ended. */
uint64_t sim_capture_number(const sim_capture *c);
sim_capture *sim_capture_find(uint64_t number);
/* The stream takes part from here on. */
void sim_capture_fork(sim_capture *c, cudaStream_t s);

#endif
