/* The GPUs that this process sees (CUDA_VISIBLE_DEVICES and MIG instances are the driver's to apply), and what the
 * runtime's errors mean.
 *
 * Threads: any.
 * Errors:  cuda_device_look: ST_NOT_FOUND (no driver, no device, no such number), ST_UNSUPPORTED (too old). */
#ifndef SHARD_KERNELS_CUDA_DEVICES_H
#define SHARD_KERNELS_CUDA_DEVICES_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_CAPABILITY_LEAST = 80 };

typedef struct cuda_device {
    char name[64];
    char bus_id[32];      /* "0000:1b:00.0" */
    uint8_t uuid[16];     /* of the GPU or its MIG instance */
    int capability;       /* 90: 9.0 */
    uint32_t multiprocessors;
    size_t shared_bytes_max;
    int numa_node;        /* -1: not known */
} cuda_device;

/* How many there are; 0 also where no driver is. */
uint32_t cuda_device_count(void);
STATUS_CHECKED status cuda_device_look(uint32_t number, cuda_device *out);
/* Makes the device current and asks what of its memory is free. */
STATUS_CHECKED status cuda_device_free_bytes(uint32_t number, uint64_t *out);

status cuda_status_of(cudaError_t e);
/* "uncorrectable error of its memory (ECC)": for people. */
const char *cuda_cause_of(cudaError_t e);

#ifdef __cplusplus
}
#endif
#endif
