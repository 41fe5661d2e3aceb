/* The way of weights into a device's memory: many threads fill buffers that the device can read by itself, and each buffer
 * is on its way while the next one is filled. A back end that has such a way offers these functions (kernels/cuda/cuda.h).
 *
 * Memory:  open takes two buffers a thread, close releases them. Sent bytes may be used by the back end's operators once
 *          finish has returned ST_OK.
 * Threads: stage and send on any thread, each number on one thread at a time; open, finish and close on the engine thread
 *          while no other is inside.
 * Errors:  ST_NO_MEMORY or ST_INTERNAL with the device's own word for it. stage always gives a buffer: what went wrong
 *          while it waited for one is what the next send, or finish, returns. */
#ifndef SHARD_KERNELS_DEVICE_LOAD_H
#define SHARD_KERNELS_DEVICE_LOAD_H

#include "shard/kernels/ops.h"

typedef struct device_loader device_loader;

typedef struct device_load_ops {
    /* For threads 0 … threads - 1, with buffers of stage_bytes. Everything that b was asked to do so far is done first. */
    status (*open)(device_loader **out, backend *b, uint32_t threads, size_t stage_bytes);
    /* The thread's next buffer, 64-byte aligned, with anything in it. Waits until what was sent from it has gone. */
    void *(*stage)(device_loader *l, uint32_t thread);
    /* Copies the first `bytes` of the buffer that stage gave last. Returns at once. */
    status (*send)(device_loader *l, uint32_t thread, void *device_to, size_t bytes);
    /* Waits for all that was sent. */
    status (*finish)(device_loader *l);
    void (*close)(device_loader *l); /* NULL is fine; waits as finish does */
} device_load_ops;

#endif
