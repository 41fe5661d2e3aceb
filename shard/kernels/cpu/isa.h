/* GEMMAD_ISA: the most that kernels may use of the processor. */
#ifndef SHARD_KERNELS_CPU_ISA_H
#define SHARD_KERNELS_CPU_ISA_H

#include "base/status.h"

enum isa { ISA_SCALAR, ISA_AVX2, ISA_AVXVNNI, ISA_AVX512, ISA_AMX, ISA_COUNT };

/* ISA_AMX when the variable is absent; ST_INVALID with the words when it is another. */
STATUS_CHECKED status isa_cap(enum isa *out);

#endif
