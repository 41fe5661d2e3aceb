/* What the processor and the operating system allow for int8, asked before any function of a quant_*.c file
 * with instruction flags runs. */
#include <stdbool.h>
#include <string.h>

#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/isa.h"
#include "shard/kernels/cpu/quant_tables.h"

void quant_token(const quant_kernels *k, const quant_input *to, uint32_t token, const float *x, uint32_t cols,
                 uint32_t first_group, uint32_t groups) {
    uint32_t whole = cols / QUANT_GROUP, last = first_group + groups;
    size_t at = quant_place(to, token, first_group), stride = to->block_rows;
    uint32_t n = last <= whole ? groups : first_group < whole ? whole - first_group : 0;
    k->quantise(x + (size_t)first_group * QUANT_GROUP, n, to->values + at * QUANT_GROUP, to->scale + at,
                to->bias + at, stride);
    if (last <= whole) return;
    float rest[QUANT_GROUP] = {0};
    memcpy(rest, x + (size_t)whole * QUANT_GROUP, (cols - whole * QUANT_GROUP) * sizeof *rest);
    at = quant_place(to, token, whole);
    k->quantise(rest, 1, to->values + at * QUANT_GROUP, to->scale + at, to->bias + at, stride);
}

void quant_clear_rest(const quant_input *x) {
    uint32_t rest = x->tokens % QUANT_BLOCK;
    if (x->block_rows < QUANT_BLOCK || rest == 0) return;
    for (uint32_t g = 0; g < x->groups; g++) {
        size_t at = quant_place(x, x->tokens, g), n = QUANT_BLOCK - rest;
        memset(x->values + at * QUANT_GROUP, 0, n * QUANT_GROUP);
        memset(x->scale + at, 0, n * sizeof *x->scale);
        memset(x->bias + at, 0, n * sizeof *x->bias);
    }
}

#if defined(__x86_64__) && !defined(GEMMAD_SCALAR_ONLY)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct cpuid_leaf {
    unsigned a, b, c, d;
} cpuid_leaf;

static cpuid_leaf leaf(unsigned number, unsigned sub) {
    cpuid_leaf l = {0};
    if (!__get_cpuid_count(number, sub, &l.a, &l.b, &l.c, &l.d)) return (cpuid_leaf){0};
    return l;
}

const quant_kernels *quant_kernels_avx2(void) {
    return cpu_kernels_avx2() ? &quant_kernels_table_avx2 : NULL;
}

/* VEX-encoded VNNI needs no system support beyond AVX2's. */
const quant_kernels *quant_kernels_avxvnni(void) {
    if (!cpu_kernels_avx2()) return NULL;
    return leaf(7, 1).a & 1u << 4 ? &quant_kernels_table_avxvnni : NULL;
}

const quant_kernels *quant_kernels_avx512(void) {
    if (!cpu_kernels_avx512()) return NULL;
    return leaf(7, 0).c & 1u << 11 ? &quant_kernels_table_avx512 : NULL;
}

/* Tiles have state that Linux saves only for processes that ask for it; the permission is the process's, so
 * every thread started afterwards has it too. */
static bool tiles_allowed(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

const quant_kernels *quant_kernels_amx(void) {
    const unsigned tile = 1u << 24, int8 = 1u << 25;
    if (!quant_kernels_avx512()) return NULL;
    if ((leaf(7, 0).d & (tile | int8)) != (tile | int8)) return NULL;
    return tiles_allowed() ? &quant_kernels_table_amx : NULL;
}

#else

const quant_kernels *quant_kernels_avx2(void) { return NULL; }
const quant_kernels *quant_kernels_avxvnni(void) { return NULL; }
const quant_kernels *quant_kernels_avx512(void) { return NULL; }
const quant_kernels *quant_kernels_amx(void) { return NULL; }

#endif

status quant_kernels_pick(const quant_kernels **out) {
    enum isa cap;
    TRY(isa_cap(&cap));
    *out = &quant_kernels_scalar;
    if (cap >= ISA_AVX2 && quant_kernels_avx2()) *out = quant_kernels_avx2();
    if (cap >= ISA_AVXVNNI && quant_kernels_avxvnni()) *out = quant_kernels_avxvnni();
    if (cap >= ISA_AVX512 && quant_kernels_avx512()) *out = quant_kernels_avx512();
    if (cap >= ISA_AMX && quant_kernels_amx()) *out = quant_kernels_amx();
    return ST_OK;
}
