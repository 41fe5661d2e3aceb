/* What the processor and the operating system allow, asked before any function of a *_avx2.c or *_avx512.c
 * file runs: a table is handed out only here. __builtin_cpu_supports reads CPUID and XGETBV, so a system that
 * does not save the wide registers counts as one that lacks them. */
#include <stdbool.h>

#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/tables.h"

#if defined(__x86_64__) && !defined(GEMMAD_SCALAR_ONLY)

#include <cpuid.h>

/* clang 14's __builtin_cpu_supports does not know F16C. It needs no system support beyond AVX's. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

const cpu_kernels *cpu_kernels_avx2(void) {
    __builtin_cpu_init();
    bool have = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    return have ? &cpu_kernels_table_avx2 : NULL;
}

const cpu_kernels *cpu_kernels_avx512(void) {
    if (!cpu_kernels_avx2()) return NULL;
    bool have = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return have ? &cpu_kernels_table_avx512 : NULL;
}

#else

const cpu_kernels *cpu_kernels_avx2(void) { return NULL; }
const cpu_kernels *cpu_kernels_avx512(void) { return NULL; }

#endif
