/* The tables of the vector variants, for kernels_detect.c alone: only the function that asked the processor
 * may hand one out. */
#ifndef SHARD_KERNELS_CPU_TABLES_H
#define SHARD_KERNELS_CPU_TABLES_H

#include "shard/kernels/cpu/cpu_kernels.h"

extern const cpu_kernels cpu_kernels_table_avx2;
extern const cpu_kernels cpu_kernels_table_avx512;

#endif
