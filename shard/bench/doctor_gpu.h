/* What doctor measures on GPUs.
 *
 * Threads: engine thread; collective.
 * Errors:  those of the back end; ST_MISMATCH where only some ranks have a GPU. */
#ifndef SHARD_BENCH_DOCTOR_GPU_H
#define SHARD_BENCH_DOCTOR_GPU_H

#include "shard/bench/doctor.h"

/* GPUs that can be used, as a child process sees them: CUDA does not survive a fork, and ranks may be forked later. gpu NULL: 0. */
uint32_t doctor_count_gpus(const gpu_provider *gpu);
/* Reading, multiplying and sums into f, which has the number of ranks. read_bytes as bandwidth_measure_gpu. */
STATUS_CHECKED status doctor_measure_gpu(doctor_findings *f, comm *ranks, const gpu_provider *gpu,
                                         uint64_t read_bytes);

/* ---- measuring; every rank does the same ---- */

/* The slowest rank's figure is everybody's. */
STATUS_CHECKED status doctor_slowest(comm *ranks, double mine, double *out);

/* Rows and columns of a matrix, and how many tokens it is multiplied with. */
typedef struct doctor_product {
    uint32_t rows, cols, tokens;
} doctor_product;
/* 10^9 multiplications and additions a second, of all ranks; seconds: of one product, the slowest rank's median. */
STATUS_CHECKED status doctor_multiply(comm *ranks, backend *b, weight_type type, const doctor_product *size,
                                      double *gmac_per_s, double *seconds);
/* Microseconds of an all-reduce of doctor_sum_floats[i]; calls: made before x, in the back end's memory, is waited for. */
STATUS_CHECKED status doctor_sum(comm *ranks, comm *sums, backend *b, float *x, uint32_t i, uint32_t calls, double *us);
extern const uint32_t doctor_sum_floats[DOCTOR_SUMS];
extern const weight_type doctor_type[DOCTOR_TYPES];

#endif
