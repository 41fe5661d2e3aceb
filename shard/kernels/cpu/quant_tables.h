/* The tables of the vector variants, for quant_pick.c alone: only the function that asked the processor may
 * hand one out. */
#ifndef SHARD_KERNELS_CPU_QUANT_TABLES_H
#define SHARD_KERNELS_CPU_QUANT_TABLES_H

#include "shard/kernels/cpu/quant.h"

extern const quant_kernels quant_kernels_table_avx2;
extern const quant_kernels quant_kernels_table_avxvnni;
extern const quant_kernels quant_kernels_table_avx512;
extern const quant_kernels quant_kernels_table_amx;

#endif
