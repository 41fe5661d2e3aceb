/* What doctor measures on GPUs.
 *
 * Threads: engine thread; collective.
 * Errors:  those of the back end. */
#ifndef SHARD_BENCH_DOCTOR_GPU_H
#define SHARD_BENCH_DOCTOR_GPU_H

#include "shard/bench/doctor.h"

/* GPUs that can be used, as a child process sees them: CUDA does not survive a fork, and ranks may be forked later. gpu NULL: 0. */
uint32_t doctor_count_gpus(const gpu_provider *gpu);
/* Reading, multiplying and sums into f, which has the number of ranks. read_bytes as bandwidth_measure_gpu. */
STATUS_CHECKED status doctor_measure_gpu(doctor_findings *f, comm *ranks, const gpu_provider *gpu,
                                         uint64_t read_bytes);

#endif
