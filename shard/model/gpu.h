/* What a rank needs of a GPU, as functions, so that everything above links without CUDA: a build that has it hands in
 * gpu_cuda (shard/gpu), tests hand in the same over a simulated device.
 *
 * Threads: engine thread. */
#ifndef SHARD_MODEL_GPU_H
#define SHARD_MODEL_GPU_H

#include "shard/comm/comm.h"
#include "shard/kernels/cuda/cuda.h"
#include "shard/kernels/device_load.h"
#include "shard/model/layout.h"

/* The device of one rank. */
typedef struct gpu_place {
    uint32_t device;        /* as CUDA_VISIBLE_DEVICES numbers them */
    uint64_t free_bytes;    /* of its memory, divided by the ranks that share it */
    bool shared;            /* with other ranks: only where GEMMAD_GPU_SHARE is set */
} gpu_place;

/* How many GPUs a process sees, and which is the first. */
typedef struct gpu_sight {
    uint32_t visible;
    uint8_t first[16];      /* its id, of a MIG instance its own; zeros: not known */
} gpu_sight;

typedef struct gpu_comm_options {
    comm *ranks;            /* stays the caller's, and open longer */
    const gpu_place *place;
} gpu_comm_options;

typedef struct gpu_provider {
    /* GPUs that can be used; 0: none. */
    uint32_t (*count)(void);
    /* Without an entry for what is not there. Takes nothing of the device. */
    gpu_sight (*look)(void);
    /* The NUMA node of the index-th rank's device; -1: not known. Takes nothing of the device. */
    int (*node)(uint32_t index);
    /* The index-th of `ranks` ranks on this machine gets the device of its number. ST_LAYOUT where there are more. */
    status (*choose)(uint32_t index, uint32_t ranks, gpu_place *out);
    status (*open)(backend **out, const cuda_backend_options *options);
    uint64_t (*bytes)(const cuda_backend_options *options);
    const device_load_ops *(*load)(void);
    /* Exchanges of the back end's memory, in its order. Collective. */
    status (*open_comm)(comm **out, backend *b, const gpu_comm_options *options);
    /* Read-only passes over memory of the back end: the best of several ways. */
    status (*read_bandwidth)(backend *b, const void *memory, uint64_t bytes, double *gb_per_s, char kernel[24]);
} gpu_provider;

/* Whether the launcher shows this rank one GPU that no other rank sees, as Slurm does with --gpus-per-task: then it is the first
 * of one rank for choose. Collective; gpu NULL: this rank does not look for any. */
STATUS_CHECKED status gpu_is_own(comm *ranks, const gpu_provider *gpu, bool *out);

typedef enum device_choice { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA } device_choice;
/* "auto", "cpu" or "cuda". */
device_choice device_choice_of(const char *word);
/* Whether to compute on a GPU: as asked, and where nothing is asked if there is one that can be used. gpu NULL: this build
 * has none, and a GPU that is asked for is ST_UNSUPPORTED. */
STATUS_CHECKED status gpu_wanted(const gpu_provider *gpu, device_choice choice, bool *out);

/* Sizes of the back end of one rank. */
typedef struct gpu_sizes {
    uint32_t rows_max, slots, context, logit_rows;
    bool batch_invariant, no_recording;
} gpu_sizes;
void gpu_options_make(cuda_backend_options *out, const model_config *config, const layout *split,
                      const gpu_sizes *sizes);

#endif
