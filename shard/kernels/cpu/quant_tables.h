/* The tables of the vector variants, for quant_pick.c alone: only the function that asked the processor may
 * hand one out. */
#ifndef SHARD_KERNELS_CPU_QUANT_TABLES_H
#define SHARD_KERNELS_CPU_QUANT_TABLES_H

#include "shard/kernels/cpu/quant.h"

/* How far ahead of where it works a product asks for weights: `strips` strips are read side by side, and the
 * next so many follow them, if there are that many rows. Sets too long for that run ahead in their own strips. */
static inline size_t quant_ahead(uint32_t strips, uint32_t rows, size_t strip_bytes) {
    enum { SET_BYTES_MAX = 256 << 10, AHEAD = 2048 };
    if (strips * strip_bytes > SET_BYTES_MAX) return AHEAD;
    return rows > strips * QUANT_ROWS ? strips * strip_bytes : 0;
}

extern const quant_kernels quant_kernels_table_avx2;
extern const quant_kernels quant_kernels_table_avxvnni;
extern const quant_kernels quant_kernels_table_avx512;
extern const quant_kernels quant_kernels_table_amx;

#endif
