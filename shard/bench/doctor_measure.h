/* What doctor measures on CPUs, and the parts of it that GPUs are measured with too (doctor_gpu.h).
 *
 * Threads: engine thread; collective: every rank does the same.
 * Errors:  those of the back end. */
#ifndef SHARD_BENCH_DOCTOR_MEASURE_H
#define SHARD_BENCH_DOCTOR_MEASURE_H

#include "shard/bench/doctor.h"

/* Reading, multiplying, handing out and sums into f, which has the numbers of ranks and threads. read_bytes as bandwidth_measure. */
STATUS_CHECKED status doctor_measure_cpu(doctor_findings *f, comm *ranks, uint64_t read_bytes);

/* Rows and columns of a matrix, and how many tokens it is multiplied with. */
typedef struct doctor_product {
    uint32_t rows, cols, tokens;
} doctor_product;
/* 10^9 multiplications and additions a second, of all ranks; seconds: of one product, the slowest rank's median. */
STATUS_CHECKED status doctor_multiply(comm *ranks, backend *b, weight_type type, const doctor_product *size,
                                      double *gmac_per_s, double *seconds);
/* Microseconds of an all-reduce of doctor_sum_floats[i]; calls: made before x, in the back end's memory, is waited for. */
STATUS_CHECKED status doctor_sum(comm *ranks, comm *sums, backend *b, float *x, uint32_t i, uint32_t calls, double *us);

extern const weight_type doctor_type[DOCTOR_TYPES];
extern const uint32_t doctor_sum_floats[DOCTOR_SUMS];

#endif
