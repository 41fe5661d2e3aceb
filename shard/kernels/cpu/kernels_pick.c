#include <stdlib.h>
#include <string.h>

#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/isa.h"

static const char *const isa_words[ISA_COUNT] = {"scalar", "avx2", "avxvnni", "avx512", "amx"};

status isa_cap(enum isa *out) {
    *out = ISA_AMX;
    const char *word = getenv("GEMMAD_ISA");
    if (!word) return ST_OK;
    for (int i = 0; i < ISA_COUNT; i++) {
        if (strcmp(word, isa_words[i])) continue;
        *out = (enum isa)i;
        return ST_OK;
    }
    return fail(ST_INVALID, "GEMMAD_ISA is \"%.32s\", allowed are scalar, avx2, avxvnni, avx512, amx", word);
}

status cpu_kernels_pick(const cpu_kernels **out) {
    enum isa cap;
    TRY(isa_cap(&cap));
    *out = &cpu_kernels_scalar;
    if (cap >= ISA_AVX2 && cpu_kernels_avx2()) *out = cpu_kernels_avx2();
    if (cap >= ISA_AVX512 && cpu_kernels_avx512()) *out = cpu_kernels_avx512();
    return ST_OK;
}
