#include "shard/kernels/cpu/cpu_kernels.h"

const cpu_kernels *cpu_kernels_avx2(void) { return NULL; }
const cpu_kernels *cpu_kernels_avx512(void) { return NULL; }
